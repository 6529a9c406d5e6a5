//! The cases of a run one after the other, whatever segments them.

use super::Args;
use super::plan::{self, Plan, Step};
use crate::cases::Cases;
use crate::context::Context;
use crate::outcome::Outcome;
use medseg::io::batch::Job;
use medseg::io::display_name;
use medseg::provenance::{CaseRecord, InputFile, Memory, RunReport};
use medseg::volume::{GridMismatch, Volume};
use serde_json::{Map, Value};

/// Distance between corresponding voxels of two channels above which a warning is due.
const CHANNEL_TOLERANCE_MM: f64 = 1e-3;

/// What the cases of a run add to.
pub struct State {
    /// Number of the case, from 1, and how many there are.
    pub position: [usize; 2],
    /// Measurements by case.
    pub statistics: Map<String, Value>,
    /// Of the run report.
    pub memory: Memory,
}

/// Runs `segment` on every case of the plan that is to be done.
///
/// # Errors
/// That of the only case; outputs that cannot be written.
pub fn run(
    args: &Args,
    plan: &Plan,
    report: RunReport,
    cx: &Context,
    mut segment: impl FnMut(&Job, &mut State) -> anyhow::Result<CaseRecord>,
) -> anyhow::Result<Outcome> {
    plan.create_folder()?;
    let mut cases = Cases::new(cx, &args.run, plan.steps.len());
    let mut state = State {
        position: cases.position(),
        statistics: Map::new(),
        memory: report.memory,
    };
    cases.report = report;
    for step in &plan.steps {
        state.position = cases.position();
        let (Step::Skip(job) | Step::Run(job)) = step;
        let id = job.case.id.to_string_lossy();
        match step {
            Step::Skip(_) => {
                warn_of_missing(plan, job, cx);
                cases.skip(&id, &plan::shown_output(job));
            }
            Step::Run(_) => cases.run(&id, || segment(job, &mut state)),
        }
    }
    cases.report.memory = state.memory;
    if let Some(path) = args.statistics.as_ref().filter(|_| !cases.is_lost()) {
        let mut text = serde_json::to_vec_pretty(&Value::Object(state.statistics))?;
        text.push(b'\n');
        medseg::io::atomic::write(path, args.existing.overwrite(), &text)?;
    }
    cases.finish()
}

/// A label map from a run without `--uncertainty` or `--probabilities` has no such files beside it.
fn warn_of_missing(plan: &Plan, job: &Job, cx: &Context) {
    for companion in plan.companions() {
        let path = companion.path(&job.output);
        if !path.exists() {
            let (flag, path) = (companion.flag(), display_name(&path));
            let text = format!(
                "{path} is missing beside a label map that is skipped: {flag} needs --force to make it"
            );
            cx.warn(flag, &text);
        }
    }
}

/// The files of a case with their checksums.
///
/// # Errors
/// When a file cannot be read again.
pub fn checksums(job: &Job) -> anyhow::Result<Vec<InputFile>> {
    let files = job.case.channels.iter();
    Ok(files
        .map(|path| InputFile::named(path, true))
        .collect::<Result<_, _>>()?)
}

/// The file of a channel, for people.
pub fn channel_name(job: &Job, index: usize) -> String {
    match job.case.channels.get(index) {
        Some(path) => display_name(path),
        None => format!("channel {index}"),
    }
}

/// Refuses channels of different places in the patient and tells of those that lie on another grid than the first.
///
/// # Errors
/// Channels that do not overlap.
pub fn check_positions(job: &Job, channels: &[Volume<f32>]) -> anyhow::Result<Vec<String>> {
    let mut elsewhere = Vec::new();
    let Some((first, others)) = channels.split_first() else {
        return Ok(elsewhere);
    };
    for (index, other) in others.iter().enumerate() {
        let (name, name_of_first) = (channel_name(job, index + 1), channel_name(job, 0));
        anyhow::ensure!(
            other.grid().overlaps(first.grid()),
            "{name_of_first} and {name} do not overlap: expected channels of one patient in one position"
        );
        let mismatch = other
            .grid()
            .check_matches(first.grid(), CHANNEL_TOLERANCE_MM);
        if let Err(mismatch @ GridMismatch::Position { .. }) = mismatch {
            elsewhere.push(format!("{name} against {name_of_first}: {mismatch}"));
        }
    }
    Ok(elsewhere)
}
