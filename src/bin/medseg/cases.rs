//! The cases of a run one after the other, whatever is done with them.
//!
//! A failed case of several is told and the rest go on; the run report has an entry for every case, also when the
//! only one failed.

use crate::context::Context;
use crate::flags::RunOutput;
use crate::outcome::{Outcome, one_line};
use medseg::io::atomic::Plan;
use medseg::provenance::{CaseRecord, Phase, RunReport, Status};
use std::time::Instant;

/// A run in progress.
pub struct Cases<'a> {
    cx: &'a Context,
    output: &'a RunOutput,
    total: usize,
    /// What the run report is going to say; model, settings and memory are the command's to fill in.
    pub report: RunReport,
    /// Of a run with a single case.
    error: Option<anyhow::Error>,
}

impl<'a> Cases<'a> {
    /// A run of `total` cases.
    pub fn new(cx: &'a Context, output: &'a RunOutput, total: usize) -> Self {
        Self {
            cx,
            output,
            total,
            report: cx.run_report(),
            error: None,
        }
    }

    /// Number of the next case, from 1, and how many there are.
    pub fn position(&self) -> [usize; 2] {
        [self.report.cases.len() + 1, self.total]
    }

    /// Leaves a case alone because `shown`, its output, exists.
    pub fn skip(&mut self, case: &str, shown: &str) {
        self.cx.say(&format!("{shown}: exists, skipped"));
        self.add(CaseRecord::new(case, Status::Skipped));
    }

    /// Does a case.
    pub fn run(&mut self, case: &str, work: impl FnOnce() -> anyhow::Result<CaseRecord>) {
        let record = match work() {
            Ok(record) => record,
            Err(error) => {
                let mut record = CaseRecord::new(case, Status::Failed);
                record.error = Some(one_line(&error));
                if self.total == 1 {
                    self.error = Some(error);
                } else {
                    self.cx.say(&format!("error: {}", one_line(&error)));
                }
                record
            }
        };
        self.add(record);
    }

    /// Whether the only case failed: there is nothing to write about it but the report.
    pub fn is_lost(&self) -> bool {
        self.error.is_some()
    }

    fn add(&mut self, record: CaseRecord) {
        self.report.cases.push(record);
    }

    /// Names the failed cases once more and writes the run report.
    ///
    /// # Errors
    /// That of the only case; when the report cannot be written.
    pub fn finish(self) -> anyhow::Result<Outcome> {
        let failures = self.report.cases.iter().filter_map(|case| {
            let error = case.error.as_deref()?;
            Some(format!("  {}: {error}", case.case))
        });
        let failures: Vec<String> = failures.collect();
        let written = self.cx.report_run(self.report, self.output);
        if let Some(error) = self.error {
            return Err(error);
        }
        written?;
        if failures.is_empty() {
            return Ok(Outcome::Done);
        }
        self.cx.say(&format!(
            "{} of {} cases failed:\n{}",
            failures.len(),
            self.total,
            failures.join("\n")
        ));
        Ok(Outcome::SomeFailed)
    }
}

/// What `--dry-run` says of an output.
pub fn planned(plan: Plan, shown: &str) -> String {
    match plan {
        Plan::Skip => format!("{shown}: exists, would be skipped"),
        Plan::Write => format!("{shown}: would be written"),
    }
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

    /// Tells every phase with `-v` and hands them over for the report.
    pub fn told(self, cx: &Context) -> Vec<Phase> {
        for phase in &self.phases {
            cx.detail(&format!("  {}: {:.2} s", phase.name, phase.seconds));
        }
        self.phases
    }
}
