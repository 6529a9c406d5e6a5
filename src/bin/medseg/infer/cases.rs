//! The cases of a run one after the other, whatever segments them.

use super::Args;
use super::plan::{self, Plan, Step};
use crate::context::Context;
use crate::outcome::{Outcome, one_line};
use medseg::io::batch::Job;
use medseg::io::display_name;
use medseg::provenance::{CaseRecord, InputFile, Memory, Phase, RunReport, Status};
use medseg::volume::{GridMismatch, Volume};
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Instant;

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

/// Runs `segment` on every case of the plan that is to be done. A failed case of several is reported and the rest
/// go on.
///
/// # Errors
/// That of the only case; outputs that cannot be written.
pub fn run(
    args: &Args,
    plan: &Plan,
    mut report: RunReport,
    cx: &Context,
    mut segment: impl FnMut(&Job, &mut State) -> anyhow::Result<CaseRecord>,
) -> anyhow::Result<Outcome> {
    plan.create_folder()?;
    let total = plan.steps.len();
    let mut state = State {
        position: [0, total],
        statistics: Map::new(),
        memory: report.memory,
    };
    for (index, step) in plan.steps.iter().enumerate() {
        state.position[0] = index + 1;
        let record = match step {
            Step::Skip(job) => {
                cx.say(&format!("{}: exists, skipped", plan::shown_output(job)));
                plan::record(job, Status::Skipped, None)
            }
            Step::Run(job) => match segment(job, &mut state) {
                Ok(record) => record,
                Err(error) if total == 1 => return Err(error),
                Err(error) => {
                    let text = one_line(&error);
                    cx.say(&format!("error: {text}"));
                    plan::record(job, Status::Failed, Some(text))
                }
            },
        };
        report.cases.push(record);
    }
    report.memory = state.memory;
    if let Some(path) = &args.statistics {
        let mut text = serde_json::to_vec_pretty(&Value::Object(state.statistics))?;
        text.push(b'\n');
        medseg::io::atomic::write(path, args.existing.overwrite(), &text)?;
    }
    let failed = failures(&report.cases, cx);
    cx.write_run_report(report, args.report.report.as_deref())?;
    Ok(if failed {
        Outcome::SomeFailed
    } else {
        Outcome::Done
    })
}

/// Names the failed cases once more at the end of a batch.
fn failures(cases: &[CaseRecord], cx: &Context) -> bool {
    let failed: Vec<&CaseRecord> = cases
        .iter()
        .filter(|case| case.status == Status::Failed)
        .collect();
    if failed.is_empty() {
        return false;
    }
    cx.say(&format!(
        "{} of {} cases failed:",
        failed.len(),
        cases.len()
    ));
    for case in failed {
        cx.say(&format!(
            "  {}: {}",
            case.case,
            case.error.as_deref().unwrap_or("unknown")
        ));
    }
    true
}

/// The files of a case with their checksums.
///
/// # Errors
/// When a file cannot be read again.
pub fn checksums(job: &Job) -> anyhow::Result<Vec<InputFile>> {
    let files = job.case.channels.iter();
    files
        .map(|path| {
            if path == Path::new("-") {
                return Ok(InputFile::standard_input());
            }
            Ok(InputFile::of(path)?)
        })
        .collect()
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

/// Seconds per phase.
pub struct Clock {
    started: Instant,
    last: Instant,
    /// In order.
    pub phases: Vec<Phase>,
}

impl Clock {
    /// Starts now.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            phases: Vec::new(),
        }
    }

    /// Ends the phase that has been running since the last call.
    pub fn phase(&mut self, name: &str) {
        let now = Instant::now();
        self.phases.push(Phase {
            name: name.to_owned(),
            seconds: (now - self.last).as_secs_f64(),
        });
        self.last = now;
    }

    /// Since the start.
    pub fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
