//! The cases of a run, whatever is done with them: one after the other, or spread over workers.
//!
//! A failed case of several is told and the rest go on; the run report has an entry for every case, also when the
//! only one failed.

use crate::context::Context;
use crate::flags::RunOutput;
use crate::outcome::{Outcome, one_line};
use medseg::io::atomic::Plan;
use medseg::provenance::{CaseRecord, Phase, RunReport, Status};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Stack of a worker's thread, in bytes: what the first thread usually has.
const STACK: usize = 8 << 20;

/// Does `work` on every item with its position: the next item goes to the first of `workers` that is free. Results
/// come in the order of the items. The first worker, or the only one, works on this thread.
///
/// A worker whose work ends with `Break` gets no further item as long as another is at work; `leaves` hears of it.
pub fn spread<W: Send, I: Sync, T: Send>(
    workers: &mut [W],
    items: &[I],
    work: impl Fn(&mut W, usize, &I) -> ControlFlow<T, T> + Sync,
    leaves: impl Fn(&W) + Sync,
) -> Vec<T> {
    let (next, left) = (AtomicUsize::new(0), AtomicUsize::new(workers.len()));
    let is_not_last = || {
        let one_less = |count: usize| (count > 1).then(|| count - 1);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    };
    let run = |worker: &mut W| {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return done;
            };
            match work(worker, index, item) {
                ControlFlow::Continue(result) => done.push((index, result)),
                ControlFlow::Break(result) => {
                    done.push((index, result));
                    if is_not_last() {
                        leaves(worker);
                        return done;
                    }
                }
            }
        }
    };
    let Some((first, others)) = workers.split_first_mut() else {
        return Vec::new();
    };
    let mut done = std::thread::scope(|scope| {
        let run = &run;
        let start = |worker| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let started = thread.spawn_scoped(scope, move || run(worker));
            if started.is_err() {
                // The others do its work.
                left.fetch_sub(1, Ordering::Relaxed);
            }
            started.ok()
        };
        let threads: Vec<_> = others.iter_mut().filter_map(start).collect();
        let mut done = run(first);
        for thread in threads {
            match thread.join() {
                Ok(others) => done.extend(others),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// How a case ended.
pub struct Ended {
    record: CaseRecord,
    /// Of the only case, which is still to be told.
    error: Option<anyhow::Error>,
}

impl Ended {
    /// Adds a field to the report of the case.
    pub fn with(mut self, field: &str, value: impl Into<serde_json::Value>) -> Self {
        self.record.fields.insert(field.to_owned(), value.into());
        self
    }
}

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

    /// Leaves a case alone because `shown`, its output, exists.
    pub fn skip(&mut self, case: &str, shown: &str) {
        let ended = self.skipped(case, shown);
        self.add(ended);
    }

    /// Does a case.
    pub fn run(&mut self, case: &str, work: impl FnOnce() -> anyhow::Result<CaseRecord>) {
        let ended = self.ended(case, work());
        self.add(ended);
    }

    /// Tells that a case is left alone; for [`add`](Self::add).
    pub fn skipped(&self, case: &str, shown: &str) -> Ended {
        self.cx.say(&format!("{shown}: exists, skipped"));
        Ended {
            record: CaseRecord::new(case, Status::Skipped),
            error: None,
        }
    }

    /// Tells of a case that failed; for [`add`](Self::add).
    pub fn ended(&self, case: &str, result: anyhow::Result<CaseRecord>) -> Ended {
        let error = match result {
            Ok(record) => {
                return Ended {
                    record,
                    error: None,
                };
            }
            Err(error) => error,
        };
        let mut record = CaseRecord::new(case, Status::Failed);
        record.error = Some(one_line(&error));
        if self.total > 1 {
            self.cx.say(&format!("error: {}", one_line(&error)));
        }
        Ended {
            record,
            error: (self.total == 1).then_some(error),
        }
    }

    /// Enters a case, in the order of the inputs.
    pub fn add(&mut self, ended: Ended) {
        self.report.cases.push(ended.record);
        self.error = ended.error;
    }

    /// Whether the only case failed: there is nothing to write about it but the report.
    pub fn is_lost(&self) -> bool {
        self.error.is_some()
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
        self.told_of(None, cx)
    }

    /// The same under the name of the `case`, where others tell of theirs at the same time.
    pub fn told_of(self, case: Option<&str>, cx: &Context) -> Vec<Phase> {
        let case = case.map(|case| format!("{case}:"));
        let phases = self.phases.iter();
        let phases = phases.map(|phase| format!("  {}: {:.2} s", phase.name, phase.seconds));
        let lines: Vec<String> = case.into_iter().chain(phases).collect();
        cx.detail(&lines.join("\n"));
        self.phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow::{Break, Continue};
    use std::sync::{Barrier, Mutex};

    /// What `spread` returns, and the workers that left.
    fn run(
        workers: usize,
        items: usize,
        work: impl Fn(usize, usize) -> ControlFlow<usize, usize> + Sync,
    ) -> (Vec<usize>, Vec<usize>) {
        let mut workers: Vec<usize> = (0..workers).collect();
        let items: Vec<usize> = (0..items).map(|item| 10 * item).collect();
        let left = Mutex::new(Vec::new());
        let results = spread(
            &mut workers,
            &items,
            |worker, index, item| {
                assert_eq!(10 * index, *item);
                work(*worker, index)
            },
            |worker| left.lock().unwrap().push(*worker),
        );
        (results, left.into_inner().unwrap())
    }

    #[test]
    fn items_are_done_once_and_reported_in_order() {
        for (workers, items) in [(1, 5), (3, 100), (5, 2), (2, 0)] {
            let (results, left) = run(workers, items, |_, index| Continue(index));
            assert_eq!(results, (0..items).collect::<Vec<_>>());
            assert!(left.is_empty());
        }
    }

    #[test]
    fn workers_work_at_the_same_time() {
        // Nobody gets on before all have an item.
        let all = Barrier::new(4);
        let (mut workers, _) = run(4, 4, |worker, _| {
            all.wait();
            Continue(worker)
        });
        workers.sort_unstable();
        assert_eq!(workers, [0, 1, 2, 3]);
    }

    #[test]
    fn a_long_item_does_not_hold_up_the_rest() {
        let others = Barrier::new(2);
        let done = AtomicUsize::new(0);
        let (results, _) = run(2, 6, |worker, index| {
            if index == 0 {
                others.wait();
            } else if done.fetch_add(1, Ordering::SeqCst) == 4 {
                // The last of the five others, which one worker did.
                others.wait();
            }
            Continue(worker)
        });
        let busy = results[0];
        assert!(
            results[1..].iter().all(|&worker| worker != busy),
            "{results:?}"
        );
    }

    #[test]
    fn a_broken_worker_leaves_its_items_to_the_others_but_the_last_stays() {
        let all = Barrier::new(3);
        let (results, left) = run(3, 30, |worker, index| {
            if index < 3 {
                all.wait();
            }
            if worker == 1 {
                Break(worker)
            } else {
                Continue(worker)
            }
        });
        assert_eq!(left, [1]);
        assert_eq!(results.iter().filter(|&&worker| worker == 1).count(), 1);
        // All of them are broken: one goes on.
        for workers in 1..4 {
            let (results, left) = run(workers, 20, |_, index| Break(index));
            assert_eq!(results, (0..20).collect::<Vec<_>>());
            assert!(left.len() < workers);
        }
    }
}
