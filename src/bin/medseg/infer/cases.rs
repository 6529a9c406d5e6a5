//! The cases of a run, whatever segments them: every device takes the next one when it is free.

use super::Args;
use super::plan::{self, Plan, Step};
use crate::arithmetic::{Choice, warn_of_left_out};
use crate::cases::{Cases, Clock, spread};
use crate::context::Context;
use crate::memory::{Room, Share};
use crate::outcome::{Outcome, one_line};
use medseg::io::batch::Job;
use medseg::io::display_name;
use medseg::nnunet::predict_error::PredictError;
use medseg::provenance::{CaseRecord, InputFile, RunReport, Status};
use medseg::tasks::run::RunError;
use medseg::volume::{GridMismatch, Volume};
use serde_json::{Map, Value};
use std::ops::ControlFlow;

/// Distance between corresponding voxels of two channels above which a warning is due.
const CHANNEL_TOLERANCE_MM: f64 = 1e-3;

/// A device, and what segments a case there.
pub struct Worker<T> {
    /// For people and reports: `cuda:0 (NVIDIA H200)`.
    pub device: String,
    /// What segments.
    pub tools: T,
    /// Why the processor did its last case.
    problem: Option<String>,
}

impl<T> Worker<T> {
    fn new(device: String, tools: T) -> Self {
        Self {
            device,
            tools,
            problem: None,
        }
    }

    /// That it gets no further cases, and why unless an error has said so.
    fn farewell(&self) -> String {
        let device = &self.device;
        let reason = self.problem.as_ref().map(|problem| {
            let rest = problem.strip_prefix(&format!("{device}: "));
            format!(": {}", rest.unwrap_or(problem))
        });
        let reason = reason.unwrap_or_default();
        format!("{device}: gets no further cases, others do them{reason}")
    }
}

/// A worker for each of the devices of `choice` that can be used; `made` is what segments there, `problem` why the
/// processor has to do what a GPU was to do. Warns of GPUs that are left out.
///
/// # Errors
/// Why one that was asked for, or not even one, can be used.
pub fn workers<T>(
    choice: &Choice,
    made: Vec<anyhow::Result<T>>,
    problem: impl Fn(&T) -> Option<&str>,
    cx: &Context,
) -> anyhow::Result<Vec<Worker<T>>> {
    let made = choice.devices().into_iter().zip(made);
    let (workers, left_out) = usable(made, choice.any_will_do, problem)?;
    for problem in left_out {
        warn_of_left_out(&problem, cx);
    }
    Ok(workers)
}

/// The workers that can be used, at least one, and what is wrong with the others.
fn usable<T>(
    made: impl Iterator<Item = (String, anyhow::Result<T>)>,
    any_will_do: bool,
    problem: impl Fn(&T) -> Option<&str>,
) -> anyhow::Result<(Vec<Worker<T>>, Vec<String>)> {
    let (mut usable, mut helped, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (device, made) in made {
        match made.map_err(|error| of_device(error, &device)) {
            Ok(tools) if problem(&tools).is_some() => helped.push(Worker::new(device, tools)),
            Ok(tools) => usable.push(Worker::new(device, tools)),
            Err(error) if any_will_do => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    // The processor helps where there is no other way.
    if usable.is_empty() && !helped.is_empty() {
        usable.push(helped.remove(0));
    }
    if usable.is_empty() && !errors.is_empty() {
        return Err(errors.remove(0));
    }
    let problems = helped.iter().filter_map(|worker| problem(&worker.tools));
    let problems = problems.map(str::to_owned);
    let problems = problems.chain(errors.iter().map(one_line)).collect();
    Ok((usable, problems))
}

/// Whether a GPU failed, which then may fail at the next case too.
fn is_of_gpu(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let predict = cause.downcast_ref::<PredictError>();
        let task = cause.downcast_ref::<RunError>();
        predict.is_some_and(PredictError::is_of_gpu) || task.is_some_and(RunError::is_of_gpu)
    })
}

/// The error with the name of the GPU, where it is that one's.
fn of_device(error: anyhow::Error, device: &str) -> anyhow::Error {
    if is_of_gpu(&error) && !one_line(&error).contains(device) {
        error.context(device.to_owned())
    } else {
        error
    }
}

/// A case that is to be done.
pub struct Turn<'a> {
    /// Its files.
    pub job: &'a Job,
    /// The memory that it shares with cases on other devices.
    pub room: &'a Room,
    /// Number of the case, from 1, and how many there are.
    position: [usize; 2],
    /// Where it is done, if others are done elsewhere meanwhile: `cuda:0`.
    device: Option<&'a str>,
    cx: &'a Context,
}

/// A case that was done.
pub struct Done {
    pub record: CaseRecord,
    /// Measurements, where asked for.
    pub statistics: Option<Value>,
    /// Why the processor did what a GPU was to do, where it did.
    pub gpu_problem: Option<String>,
}

impl<'a> Turn<'a> {
    /// Name of the case.
    pub fn id(&self) -> String {
        self.job.case.id.to_string_lossy().into_owned()
    }

    /// Memory for the case, from the time that others leave enough until it is dropped.
    pub fn share(&self, bytes: u64) -> Share<'a> {
        let waits = || {
            let text = format!("{}: waits for memory that other cases use", self.id());
            self.cx.detail(&text);
        };
        self.room.share(bytes, waits)
    }

    /// Tells that the case was written, and begins its record: files, checksums where `with_checksums`, and phases.
    ///
    /// # Errors
    /// When an input cannot be read again.
    pub fn written(
        &self,
        outputs: Vec<String>,
        mut clock: Clock,
        with_checksums: bool,
    ) -> anyhow::Result<CaseRecord> {
        let [number, total] = self.position;
        let (shown, seconds) = (plan::shown_output(self.job), clock.total());
        let place = self.device.map(|device| format!(", {device}"));
        self.cx.say(&format!(
            "[{number}/{total}] wrote {shown} ({seconds:.1} s{})",
            place.unwrap_or_default()
        ));
        let id = self.id();
        let mut record = CaseRecord::new(id.as_str(), Status::Done);
        record.outputs = outputs;
        if with_checksums {
            record.inputs = checksums(self.job)?;
            clock.phase("checksums");
        }
        record.phases = clock.told_of(self.device.map(|_| id.as_str()), self.cx);
        Ok(record)
    }
}

/// Runs `segment` on every case of the plan that is to be done: each worker takes the next when it is free.
///
/// A worker whose GPU failed, or needed the help of the processor, gets no further case while there is another.
///
/// # Errors
/// That of the only case; outputs that cannot be written.
pub fn run<T: Send>(
    args: &Args,
    plan: &Plan,
    report: RunReport,
    cx: &Context,
    workers: &mut [Worker<T>],
    segment: impl Fn(&mut T, &Turn<'_>) -> anyhow::Result<Done> + Sync,
) -> anyhow::Result<Outcome> {
    plan.create_folder()?;
    let total = plan.steps.len();
    let mut cases = Cases::new(cx, &args.run, total);
    cases.report = report;
    let room = Room::new(cx.limits.memory_bytes, workers.len());
    let are_several = workers.len() > 1;
    let work = |worker: &mut Worker<T>, index: usize, step: &Step| {
        let (Step::Skip(job) | Step::Run(job)) = step;
        let id = job.case.id.to_string_lossy();
        if matches!(step, Step::Skip(_)) {
            warn_of_missing(plan, job, cx);
            let ended = cases.skipped(&id, &plan::shown_output(job));
            return ControlFlow::Continue((ended, None));
        }
        let device = &worker.device;
        let turn = Turn {
            job,
            room: &room,
            position: [index + 1, total],
            device: are_several.then(|| device.split(' ').next().unwrap_or_default()),
            cx,
        };
        let (result, statistics, problem, goes_on) = match segment(&mut worker.tools, &turn) {
            Ok(done) => {
                let goes_on = done.gpu_problem.is_none();
                (Ok(done.record), done.statistics, done.gpu_problem, goes_on)
            }
            Err(error) => {
                let goes_on = !is_of_gpu(&error);
                (Err(of_device(error, device)), None, None, goes_on)
            }
        };
        let mut ended = cases.ended(&id, result).with("device", device.as_str());
        if let Some(problem) = &problem {
            ended = ended.with("gpu_problem", problem.as_str());
        }
        worker.problem = problem;
        match goes_on {
            true => ControlFlow::Continue((ended, statistics)),
            false => ControlFlow::Break((ended, statistics)),
        }
    };
    let leaves = |worker: &Worker<T>| {
        let text = worker.farewell();
        cx.warn(&text, &text);
    };
    let ended = spread(workers, &plan.steps, work, leaves);
    let mut statistics = Map::new();
    for (step, (ended, measured)) in plan.steps.iter().zip(ended) {
        cases.add(ended);
        if let (Step::Run(job), Some(measured)) = (step, measured) {
            statistics.insert(job.case.id.to_string_lossy().into_owned(), measured);
        }
    }
    cases.report.memory.predicted_peak_bytes = room.largest_peak();
    if let Some(path) = args.statistics.as_ref().filter(|_| !cases.is_lost()) {
        let mut text = serde_json::to_vec_pretty(&Value::Object(statistics))?;
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
fn checksums(job: &Job) -> anyhow::Result<Vec<InputFile>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use medseg::nn;

    type Made = (&'static str, Result<Option<&'static str>, &'static str>);

    /// Devices that are used, or the error, and the problems of those left out.
    fn outcome(made: &[Made], any_will_do: bool) -> Result<(Vec<String>, Vec<String>), String> {
        let made = made.iter().map(|(device, made)| {
            let made = made.map_err(|text| anyhow::anyhow!(text));
            ((*device).to_owned(), made)
        });
        let found = usable(made, any_will_do, |problem: &Option<&str>| *problem);
        let (workers, problems) = found.map_err(|error| error.to_string())?;
        let devices = workers.into_iter().map(|worker| worker.device);
        Ok((devices.collect(), problems))
    }

    #[test]
    fn gpus_that_cannot_be_used_are_left_out_where_there_are_others() {
        let strings = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let some = |used: &[&str], problems: &[&str]| Ok((strings(used), strings(problems)));
        let good: Made = ("cuda:0", Ok(None));
        let short: Made = ("cuda:1", Ok(Some("short")));
        let short_too: Made = ("cuda:2", Ok(Some("short too")));
        let wrong: Made = ("cuda:3", Err("wrong"));
        let wrong_too: Made = ("cuda:4", Err("wrong too"));
        for any_will_do in [false, true] {
            let outcome = |made: &[Made]| outcome(made, any_will_do);
            assert_eq!(outcome(&[good]), some(&["cuda:0"], &[]));
            assert_eq!(outcome(&[short, good]), some(&["cuda:0"], &["short"]));
            assert_eq!(
                outcome(&[short, short_too]),
                some(&["cuda:1"], &["short too"])
            );
            assert_eq!(outcome(&[wrong]), Err("wrong".to_owned()));
        }
        let mixed = [wrong, good, short, wrong_too];
        assert_eq!(outcome(&mixed, false), Err("wrong".to_owned()));
        let left_out = ["short", "wrong", "wrong too"];
        assert_eq!(outcome(&mixed, true), some(&["cuda:0"], &left_out));
        assert_eq!(outcome(&[wrong, wrong_too], true), Err("wrong".to_owned()));
        assert_eq!(
            outcome(&[wrong, short], true),
            some(&["cuda:1"], &["wrong"])
        );
    }

    #[test]
    fn errors_of_a_gpu_name_it_once() {
        let gpu = |text: &str| nn::cuda::Error::Refused(text.to_owned());
        let predict = |text: &str| PredictError::from(nn::Error::from(gpu(text)));
        let in_task = RunError::Predict {
            model: "liver".to_owned(),
            source: Box::new(predict("broken")),
        };
        let loading = RunError::Load(Box::new(predict("broken")));
        let named = |error: anyhow::Error| one_line(&of_device(error, "cuda:1 (X)"));
        let plain = anyhow::Error::from(predict("broken")).context("a.nii");
        assert_eq!(named(plain), "cuda:1 (X): a.nii: broken");
        assert_eq!(named(in_task.into()), "cuda:1 (X): model liver: broken");
        assert_eq!(
            named(anyhow::Error::from(loading).context("a.nii")),
            "cuda:1 (X): a.nii: broken"
        );
        assert_eq!(
            named(predict("cuda:1 (X) is wrong").into()),
            "cuda:1 (X) is wrong"
        );
        assert_eq!(named(PredictError::Interrupted.into()), "interrupted");
    }
}
