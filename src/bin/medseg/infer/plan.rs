//! Which case goes where, decided before any work starts.

use super::Args;
use super::companion::Companion;
use crate::context::{Context, print_text};
use crate::flags::Existing;
use crate::outcome::Usage;
use medseg::io::batch::{self, Job};
use medseg::io::{atomic, display_name};
use medseg::nnunet::predict::CasePlan;
use medseg::volume::Grid;
use std::path::{Path, PathBuf};

/// What happens to a case.
pub enum Step {
    /// It is segmented.
    Run(Job),
    /// Its output exists and is left alone.
    Skip(Job),
}

/// What is written for a case.
pub enum Files {
    /// A label map, and files beside it.
    Map {
        /// Of label maps in a folder.
        ending: String,
        companions: Vec<Companion>,
    },
    /// A folder of files called so.
    Classes(Vec<String>),
}

/// All cases of a run.
pub struct Plan {
    /// In the order of the inputs.
    pub steps: Vec<Step>,
    files: Files,
    folder: Option<PathBuf>,
}

impl Plan {
    /// Finds the cases of `channels` files and their outputs, and checks that every output may be written.
    ///
    /// # Errors
    /// A missing input or channel, two cases with one output, an output that exists.
    pub fn new(
        inputs: &[PathBuf],
        args: &Args,
        channels: usize,
        files: Files,
    ) -> anyhow::Result<Self> {
        let cases = batch::find_cases(inputs, Some(channels))?;
        let jobs = match &files {
            Files::Map { ending, .. } => cases.jobs(&args.output, ending)?,
            Files::Classes(_) => class_folders(cases, &args.output)?,
        };
        let is_folder = jobs.iter().any(|job| job.output != args.output);
        // A folder that is still to be made holds nothing that could be replaced.
        let is_new_folder = is_folder && !args.output.exists();
        if let Files::Map { companions, .. } = &files {
            if !is_folder {
                args.format.check_name(&args.output)?;
            }
            if let (Some(first), true) = (companions.first(), args.output == Path::new("-")) {
                let text = format!("{} needs a file or folder as output", first.flag());
                return Err(Usage(text).into());
            }
        }
        let mut steps = Vec::with_capacity(jobs.len());
        for job in jobs {
            let is_skipped = !is_new_folder && is_done(&job.output, &files, args.existing)?;
            steps.push(if is_skipped {
                Step::Skip(job)
            } else {
                Step::Run(job)
            });
        }
        args.run.check(&args.output)?;
        if let Some(path) = &args.statistics {
            atomic::check_output(path, args.existing.overwrite())?;
        }
        Ok(Self {
            steps,
            files,
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

    /// The files beside a label map, or none where classes are written.
    pub fn companions(&self) -> &[Companion] {
        match &self.files {
            Files::Map { companions, .. } => companions,
            Files::Classes(_) => &[],
        }
    }

    /// How many cases are to be done.
    pub fn to_run(&self) -> usize {
        let steps = self.steps.iter();
        steps.filter(|step| matches!(step, Step::Run(_))).count()
    }

    /// Prints `text`, then case, output and memory of every case on stdout; `case_plan` says how an image of a grid
    /// is going to be predicted, and within which limit.
    ///
    /// # Errors
    /// When an input's header cannot be read or stdout cannot be written.
    pub fn print(
        &self,
        mut text: String,
        cx: &Context,
        mut case_plan: impl FnMut(&Grid) -> anyhow::Result<(CasePlan, u64)>,
    ) -> anyhow::Result<()> {
        for step in &self.steps {
            let line = match step {
                Step::Skip(job) => format!("{}: skip, exists", shown_output(job)),
                Step::Run(job) => {
                    let (plan, limit) = case_plan(&case_grid(job, cx)?)?;
                    let beside = self.companions().iter();
                    let beside = beside.map(|it| display_name(&it.path(&job.output)));
                    let outputs: Vec<String> =
                        [shown_output(job)].into_iter().chain(beside).collect();
                    format!(
                        "{} -> {}: {}",
                        shown_inputs(job),
                        outputs.join(","),
                        shown_memory(&plan, limit)
                    )
                }
            };
            text.push_str(&line);
            text.push('\n');
        }
        print_text(&text)
    }
}

/// Outputs of cases that are folders of classes: the output itself for one case, a folder in it for each of several.
fn class_folders(cases: batch::Cases, output: &Path) -> anyhow::Result<Vec<Job>> {
    if output == Path::new("-") || output.is_file() {
        let shown = display_name(output);
        let text = format!("--per-class writes a file per class: expected a folder, not {shown}");
        return Err(Usage(text).into());
    }
    if cases.is_batch {
        return Ok(cases.jobs(&output.join(""), "")?);
    }
    let jobs = cases.cases.into_iter().map(|case| Job {
        case,
        output: output.to_owned(),
    });
    Ok(jobs.collect())
}

/// Whether all files of a case are there and may stay.
///
/// # Errors
/// A file that is there and may not be replaced.
fn is_done(output: &Path, files: &Files, existing: Existing) -> anyhow::Result<bool> {
    let classes = match files {
        Files::Classes(classes) => classes,
        Files::Map { companions, .. } => {
            let is_done = existing.plan(output)? == atomic::Plan::Skip;
            for companion in companions.iter().filter(|_| !is_done) {
                atomic::check_output(&companion.path(output), existing.overwrite_companions())?;
            }
            return Ok(is_done);
        }
    };
    if !output.exists() {
        return Ok(false);
    }
    let mut all = true;
    for class in classes {
        all &= existing.plan(&output.join(class))? == atomic::Plan::Skip;
    }
    Ok(all)
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

/// The grid of a case, from the header of its first file.
fn case_grid(job: &Job, cx: &Context) -> anyhow::Result<Grid> {
    let first = job.input();
    if first == Path::new("-") {
        return Err(Usage(
            "--dry-run needs files: standard input can be read only once".to_owned(),
        )
        .into());
    }
    Ok(cx.open(first)?.header().grid)
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

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}
