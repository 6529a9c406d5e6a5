//! What every command gets besides its own flags: limits, threads, and a voice.

use crate::flags::{Global, RunOutput};
use crate::terminal::{CaseProgress, Screen, Style};
use anyhow::Context as _;
use medseg::dicom;
use medseg::io::Limits;
use medseg::io::nifti::Reader;
use medseg::provenance::RunReport;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// The surroundings of one run.
pub struct Context {
    /// Memory budget.
    pub limits: Limits,
    /// Worker threads of the pool.
    pub threads: usize,
    /// Which DICOM series of an input to read.
    series: Option<String>,
    /// Whether tilted and uneven DICOM series are interpolated.
    resample_irregular: bool,
    quiet: bool,
    verbose: bool,
    screen: Screen,
    started: Instant,
    /// Each kind of warning with its first text and how often it came.
    warnings: Mutex<BTreeMap<String, (String, usize)>>,
}

impl Context {
    /// Reads the limits and starts the thread pool.
    ///
    /// # Errors
    /// When the memory limit cannot be understood or the pool cannot start.
    pub fn new(flags: &Global) -> anyhow::Result<Self> {
        let limits = match &flags.memory_limit {
            Some(text) => Limits::parse(text).context("--memory-limit")?,
            None => Limits::detect(),
        };
        rayon::ThreadPoolBuilder::new()
            .num_threads(flags.threads)
            .build_global()
            .context("starting the worker threads")?;
        Ok(Self {
            limits,
            threads: rayon::current_num_threads(),
            series: flags.series.clone(),
            resample_irregular: flags.resample_irregular,
            quiet: flags.quiet,
            verbose: flags.verbose,
            screen: Screen::new(Style::choose(flags.quiet)),
            started: Instant::now(),
            warnings: Mutex::new(BTreeMap::new()),
        })
    }

    /// Opens a volume of any format: a file, `-`, or a DICOM series in a folder, zip archive or file.
    ///
    /// # Errors
    /// Those of the format's reader.
    pub fn open(&self, path: &Path) -> medseg::io::Result<Reader> {
        if path != Path::new("-") && dicom::is_study(path) {
            let reading = dicom::Reading {
                series: self.series.as_deref(),
                resample_irregular: self.resample_irregular,
            };
            return dicom::open_as(path, reading, &self.limits);
        }
        Reader::open(path, &self.limits)
    }

    /// Reads the headers of the DICOM series that outputs refer to.
    ///
    /// # Errors
    /// Those of [`dicom::Reference::open`].
    pub fn open_reference(&self, path: &Path) -> medseg::io::Result<dicom::Reference> {
        let reference = dicom::Reference::open(path, self.series.as_deref(), &self.limits)?;
        for warning in reference.warnings() {
            self.warn("reference", warning);
        }
        Ok(reference)
    }

    /// How a DICOM series was acquired.
    ///
    /// # Errors
    /// Those of [`dicom::facts`].
    pub fn facts(
        &self,
        path: &Path,
    ) -> medseg::io::Result<serde_json::Map<String, serde_json::Value>> {
        dicom::facts(path, self.series.as_deref(), &self.limits)
    }

    /// Tells a person what was done, on stderr; nothing with `--quiet`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.screen.line(text);
        }
    }

    /// Tells a person a detail, on stderr, with `-v`.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.screen.line(text);
        }
    }

    /// Warns once per kind; further ones are counted and told by [`Self::finish_warnings`].
    pub fn warn(&self, kind: &str, text: &str) {
        let mut warnings = match self.warnings.lock() {
            Ok(warnings) => warnings,
            Err(poisoned) => poisoned.into_inner(),
        };
        let entry = warnings
            .entry(kind.to_owned())
            .or_insert_with(|| (text.to_owned(), 0));
        entry.1 += 1;
        if entry.1 == 1 {
            self.say(&format!("warning: {text}"));
        }
    }

    /// Warns of a GPU that the processor had to stand in for.
    pub fn warn_of_gpu(&self, problem: Option<&str>) {
        if let Some(problem) = problem {
            self.warn("gpu", &format!("{problem}: the processor goes on"));
        }
    }

    /// Tells how often each warning was repeated, and returns all of them for the run report.
    pub fn finish_warnings(&self) -> Vec<String> {
        let warnings = match self.warnings.lock() {
            Ok(warnings) => warnings,
            Err(poisoned) => poisoned.into_inner(),
        };
        warnings
            .values()
            .map(|(text, count)| {
                if *count > 1 {
                    self.say(&format!("warning: {} more like: {text}", count - 1));
                    format!("{text} ({count} times)")
                } else {
                    text.clone()
                }
            })
            .collect()
    }

    /// The progress display of one case.
    pub fn progress(&self, case: &str) -> CaseProgress {
        self.screen.progress(case)
    }

    /// An empty run report of this run.
    pub fn run_report(&self) -> RunReport {
        let command_line = std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        RunReport::new(
            command_line,
            self.threads,
            self.limits.memory_bytes,
            self.started,
        )
    }

    /// Completes the report with wall time, peak memory and warnings, and writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_run_report(&self, report: RunReport, path: Option<&Path>) -> anyhow::Result<()> {
        self.finish(report, path, false)
    }

    /// The same, also printed where `output` asks for it.
    ///
    /// # Errors
    /// When the file or standard output cannot be written.
    pub fn report_run(&self, report: RunReport, output: &RunOutput) -> anyhow::Result<()> {
        self.finish(report, output.report.report.as_deref(), output.json)
    }

    fn finish(
        &self,
        mut report: RunReport,
        path: Option<&Path>,
        is_printed: bool,
    ) -> anyhow::Result<()> {
        report.warnings = self.finish_warnings();
        report.wall_s = self.started.elapsed().as_secs_f64();
        report.memory.peak_rss_bytes = medseg::io::limits::peak_resident_bytes();
        if let Some(path) = path {
            let mut text = serde_json::to_vec_pretty(&report).context("run report")?;
            text.push(b'\n');
            medseg::io::atomic::write(path, medseg::io::Overwrite::Force, &text)?;
        }
        if is_printed {
            print_json(&report)?;
        }
        Ok(())
    }
}

/// Prints one JSON document on stdout.
///
/// # Errors
/// When stdout cannot be written; a closed pipe ends the program quietly.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("writing JSON")?;
    text.push('\n');
    print_text(&text)
}

/// Prints text on stdout.
///
/// # Errors
/// When stdout cannot be written; a closed pipe ends the program quietly.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .context("writing to standard output")?;
    stdout.flush().context("writing to standard output")
}
