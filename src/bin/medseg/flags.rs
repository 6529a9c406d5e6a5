//! Flags that several commands share, so that a flag means the same everywhere.

use crate::outcome::Usage;
use clap::Args;
use medseg::io::atomic::{self, Plan};
use medseg::io::batch::Job;
use medseg::io::{Overwrite, display_name};
use std::path::{Path, PathBuf};

/// Flags that every command takes.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "General options")]
pub struct Global {
    /// Worker threads; 0 uses every core [default: 0]
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "MEDSEG_THREADS",
        default_value_t = 0,
        hide_default_value = true,
        hide_env_values = true
    )]
    pub threads: usize,
    /// Most memory to use, for example 8GiB [default: 80 % of what the machine or container has]
    #[arg(
        long,
        global = true,
        value_name = "SIZE",
        env = "MEDSEG_MEMORY_LIMIT",
        hide_env_values = true
    )]
    pub memory_limit: Option<String>,
    /// DICOM series to read where an input holds several: a UID or its end, or a regular expression
    /// for the UID or a part of the description
    #[arg(long, global = true, value_name = "UID")]
    pub series: Option<String>,
    /// Interpolate DICOM series with a tilted gantry or uneven slices into an even volume (float32, linear)
    #[arg(long, global = true)]
    pub resample_irregular: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more: each phase with its time
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// What happens to an output that exists already.
#[derive(Args, Debug, Clone, Copy)]
pub struct Existing {
    /// Replace outputs that exist
    #[arg(long, conflicts_with = "skip_existing")]
    pub force: bool,
    /// Leave cases alone whose output exists: resumes an interrupted run
    #[arg(long)]
    pub skip_existing: bool,
}

impl Existing {
    /// The rule for the atomic writer. Cases to skip are left out before work starts, so writing itself
    /// only ever replaces or refuses.
    pub fn overwrite(self) -> Overwrite {
        if self.force {
            Overwrite::Force
        } else {
            Overwrite::Refuse
        }
    }

    /// The rule for files beside the one whose presence says that a case is complete: with
    /// `--skip-existing` an interrupted run may have left some.
    pub fn overwrite_companions(self) -> Overwrite {
        if self.skip_existing {
            Overwrite::Force
        } else {
            self.overwrite()
        }
    }

    /// [`plan`](Self::plan) of an output that is a folder: `last` is the file that is written last.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_in(self, folder: &Path, last: &str) -> medseg::io::Result<Plan> {
        if folder.exists() {
            self.plan(&folder.join(last))
        } else {
            Ok(Plan::Write)
        }
    }

    /// [`plan`](Self::plan) of every job; `output` is a file, or a folder that may still have to be made.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_jobs(self, jobs: &[Job], output: &Path) -> medseg::io::Result<Vec<Plan>> {
        let plan = |job: &Job| {
            // A folder that is still to be made holds nothing that could be replaced.
            if job.output != output && !output.exists() {
                return Ok(Plan::Write);
            }
            self.plan(&job.output)
        };
        jobs.iter().map(plan).collect()
    }

    /// Whether an output is to be written, or is there already and to be left alone.
    ///
    /// # Errors
    /// When it exists and neither flag is given, or cannot be written.
    pub fn plan(self, output: &Path) -> medseg::io::Result<Plan> {
        let overwrite = if self.skip_existing {
            Overwrite::Skip
        } else {
            self.overwrite()
        };
        atomic::check_output(output, overwrite)
    }
}

/// The run report.
#[derive(Args, Debug, Clone)]
pub struct Report {
    /// Write the run report: what was found, versions, inputs with SHA-256, timings, peak memory (JSON)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// The run report, in a file and on standard output.
#[derive(Args, Debug, Clone)]
pub struct RunOutput {
    #[command(flatten)]
    pub report: Report,
    /// Print the run report on standard output
    #[arg(long)]
    pub json: bool,
}

impl RunOutput {
    /// Whether anybody reads the report.
    pub fn is_wanted(&self) -> bool {
        self.json || self.report.report.is_some()
    }

    /// Refuses a report that has no place, before work starts.
    ///
    /// # Errors
    /// [`Usage`] when standard output is taken by `output`; when the report file cannot be written.
    pub fn check(&self, output: &Path) -> anyhow::Result<()> {
        if self.json && output == Path::new("-") {
            let text = "--json and -o - both write to standard output: use --report FILE";
            return Err(Usage(text.to_owned()).into());
        }
        if let Some(path) = &self.report.report {
            atomic::check_output(path, Overwrite::Force)?;
        }
        Ok(())
    }
}

/// Checks that a volume goes to `-` or to a name whose ending says what it is.
///
/// # Errors
/// [`Usage`] naming the output.
pub fn check_volume_name(output: &Path) -> Result<(), Usage> {
    let name = output.as_os_str().as_encoded_bytes().to_ascii_lowercase();
    let endings = [".nii", ".nii.gz", ".nrrd", ".mha"];
    if name == b"-" || endings.iter().any(|end| name.ends_with(end.as_bytes())) {
        return Ok(());
    }
    let shown = display_name(output);
    Err(Usage(format!(
        "output {shown}: expected a name ending in .nii, .nii.gz, .nrrd or .mha, or -"
    )))
}
