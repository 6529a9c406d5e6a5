//! Progress for people: a bar on a terminal, a plain line now and then elsewhere, nothing with `--quiet`.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use medseg::progress::Progress;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seconds between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Hidden,
    /// A bar that redraws itself.
    Bar,
    /// `case: phase 12/80` every few seconds.
    Lines,
}

impl Style {
    /// What fits this run: nothing when quiet, a bar on a terminal, lines otherwise.
    pub fn choose(quiet: bool) -> Self {
        if quiet || std::env::var_os("MEDSEG_NO_PROGRESS").is_some() {
            Self::Hidden
        } else if std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }
}

/// What is shown on stderr: whole lines, and the bars of the cases in progress below them.
pub struct Screen {
    style: Style,
    bars: MultiProgress,
}

impl Screen {
    /// Shows progress in `style`.
    pub fn new(style: Style) -> Self {
        let target = match style {
            Style::Bar => ProgressDrawTarget::stderr(),
            Style::Hidden | Style::Lines => ProgressDrawTarget::hidden(),
        };
        Self {
            style,
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Writes a line, or several that belong together. When stderr is closed there is nobody to tell, which is no reason to fail.
    pub fn line(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    /// Progress named after a case.
    pub fn progress(&self, case: &str) -> CaseProgress {
        let bar = match self.style {
            Style::Bar => self.bars.add(ProgressBar::no_length()),
            Style::Hidden | Style::Lines => ProgressBar::hidden(),
        };
        CaseProgress {
            case: case.to_owned(),
            style: self.style,
            bar,
            bars: self.bars.clone(),
            done: AtomicU64::new(0),
            lines: Mutex::new(Lines {
                phase: String::new(),
                total: 0,
                last: Instant::now(),
            }),
        }
    }
}

/// The progress of one case.
pub struct CaseProgress {
    case: String,
    style: Style,
    bar: ProgressBar,
    bars: MultiProgress,
    done: AtomicU64,
    lines: Mutex<Lines>,
}

struct Lines {
    phase: String,
    total: u64,
    last: Instant,
}

impl Progress for CaseProgress {
    fn begin(&self, name: &str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        if let Ok(mut lines) = self.lines.lock() {
            name.clone_into(&mut lines.phase);
            lines.total = total;
        }
        if self.style == Style::Bar {
            let template = if total == 0 {
                "{prefix} {msg} {spinner}"
            } else {
                "{prefix} {msg} {bar:30} {pos}/{len} {eta}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_prefix(self.case.clone());
            self.bar.set_message(name.to_owned());
            self.bar.set_length(total);
            self.bar.set_position(0);
            self.bar.reset_eta();
        }
    }

    fn advance(&self, steps: u64) {
        let done = self.done.fetch_add(steps, Ordering::Relaxed) + steps;
        match self.style {
            Style::Hidden => {}
            Style::Bar => self.bar.set_position(done),
            Style::Lines => {
                if let Ok(mut lines) = self.lines.try_lock()
                    && lines.last.elapsed() >= LINE_EVERY
                {
                    lines.last = Instant::now();
                    // A closed stderr is no reason to fail.
                    let _ = writeln!(
                        std::io::stderr(),
                        "{}: {} {done}/{}",
                        self.case,
                        lines.phase,
                        lines.total
                    );
                }
            }
        }
    }
}

impl Drop for CaseProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.bars.remove(&self.bar);
    }
}
