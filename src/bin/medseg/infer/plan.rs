//! Which case goes where, decided before any work starts.

use super::Args;
use super::cascade::FirstStage;
use crate::context::{Context, print_text};
use crate::outcome::Usage;
use medseg::io::batch::{self, Job};
use medseg::io::{Overwrite, atomic, display_name};
use medseg::nnunet::model::Model;
use medseg::nnunet::predict::{CasePlan, Predictor};
use medseg::provenance::{CaseRecord, Status};
use std::path::{Path, PathBuf};

/// What happens to a case.
pub enum Step {
    /// It is segmented.
    Run(Job),
    /// Its output exists and is left alone.
    Skip(Job),
}

/// All cases of a run.
pub struct Plan {
    /// In the order of the inputs.
    pub steps: Vec<Step>,
    folder: Option<PathBuf>,
}

impl Plan {
    /// Finds the cases and their outputs, and checks that every output may be written.
    ///
    /// # Errors
    /// A missing input or channel, two cases with one output, an output that exists.
    pub fn new(inputs: &[PathBuf], args: &Args, model: &Model) -> anyhow::Result<Self> {
        let channels = model.dataset.channel_names.len();
        let cases = batch::find_cases(inputs, Some(channels))?;
        let jobs = cases.jobs(&args.output, args.format.ending())?;
        let is_folder = jobs.iter().any(|job| job.output != args.output);
        // A folder that is still to be made holds nothing that could be replaced.
        let is_new_folder = is_folder && !args.output.exists();
        if !is_folder {
            args.format.check_name(&args.output)?;
        }
        if args.probabilities && args.output == Path::new("-") {
            return Err(
                Usage("--probabilities needs a file or folder as output".to_owned()).into(),
            );
        }
        let overwrite = if args.existing.skip_existing {
            Overwrite::Skip
        } else {
            args.existing.overwrite()
        };
        let mut steps = Vec::with_capacity(jobs.len());
        for job in jobs {
            let is_skipped = !is_new_folder
                && atomic::check_output(&job.output, overwrite)? == atomic::Plan::Skip;
            steps.push(if is_skipped {
                Step::Skip(job)
            } else {
                Step::Run(job)
            });
        }
        if let Some(path) = &args.report.report {
            atomic::check_output(path, Overwrite::Force)?;
        }
        if let Some(path) = &args.statistics {
            atomic::check_output(path, args.existing.overwrite())?;
        }
        Ok(Self {
            steps,
            folder: is_folder.then(|| args.output.clone()),
        })
    }

    /// Makes the output folder of a batch.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_folder(&self) -> anyhow::Result<()> {
        if let Some(folder) = &self.folder {
            atomic::create_folder(folder)?;
        }
        Ok(())
    }

    /// Prints case, output and memory of every case on stdout.
    ///
    /// # Errors
    /// When an input's header cannot be read or stdout cannot be written.
    pub fn print(
        &self,
        predictor: &Predictor,
        first_stage: &FirstStage,
        cx: &Context,
    ) -> anyhow::Result<()> {
        let mut text = String::new();
        for step in &self.steps {
            let line = match step {
                Step::Skip(job) => format!("{}: skip, exists", shown_output(job)),
                Step::Run(job) => {
                    let plan = case_plan(job, predictor, first_stage, cx)?;
                    format!(
                        "{} -> {}: {}",
                        shown_inputs(job),
                        shown_output(job),
                        shown_memory(&plan, cx.limits.memory_bytes)
                    )
                }
            };
            text.push_str(&line);
            text.push('\n');
        }
        print_text(&text)
    }
}

/// What a case takes and what the limit costs, in one line.
pub fn shown_memory(plan: &CasePlan, limit_bytes: u64) -> String {
    let mut text = format!(
        "needs {:.2} GiB of {:.2} GiB",
        gib(plan.memory.peak),
        gib(limit_bytes)
    );
    if let Some(price) = plan.price() {
        text.push_str(", ");
        text.push_str(&price);
    }
    text
}

/// How a case will be predicted, from the header of its first file: the stage that takes more memory.
fn case_plan(
    job: &Job,
    predictor: &Predictor,
    first_stage: &FirstStage,
    cx: &Context,
) -> anyhow::Result<CasePlan> {
    let first = job.case.channels.first().cloned().unwrap_or_default();
    if first == Path::new("-") {
        return Err(Usage(
            "--dry-run needs files: standard input can be read only once".to_owned(),
        )
        .into());
    }
    let grid = cx.open(&first)?.header().grid;
    first_stage.larger(predictor.case_plan(&grid)?, &grid)
}

/// The files of a case for people.
pub fn shown_inputs(job: &Job) -> String {
    let names: Vec<String> = job
        .case
        .channels
        .iter()
        .map(|path| display_name(path))
        .collect();
    names.join(",")
}

/// The output of a case for people.
pub fn shown_output(job: &Job) -> String {
    if job.output == Path::new("-") {
        "standard output".to_owned()
    } else {
        display_name(&job.output)
    }
}

/// A record without inputs and phases, for cases that were not run to their end.
pub fn record(job: &Job, status: Status, error: Option<String>) -> CaseRecord {
    CaseRecord {
        case: job.case.id.to_string_lossy().into_owned(),
        status,
        inputs: Vec::new(),
        outputs: Vec::new(),
        phases: Vec::new(),
        error,
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}
