//! Scoring all pairs: several cases at a time, as many as fit the memory limit.
//!
//! Every worker has its own thread pool, so that a worker that waits for part of its case never picks up a second one: at most
//! two volumes per worker are in memory.

use super::Args;
use super::items::{Item, Items, shown};
use crate::context::Context;
use crate::outcome::one_line;
use anyhow::Context as _;
use medseg::evaluate::align::align;
use medseg::evaluate::case::{CaseScores, Options, score_case};
use medseg::evaluate::results::{Failure, FailureKind, Settings};
use medseg::evaluate::targets::Mapping;
use medseg::io::nifti;
use medseg::volume::{LabelTable, Volume};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is the same for all cases.
pub struct Job<'a> {
    pub args: &'a Args,
    pub cx: &'a Context,
    pub options: &'a Options,
    pub mappings: &'a Mappings,
    pub settings: &'a Settings,
}

/// Other numbers for labels, on each side.
pub struct Mappings {
    pub prediction: Mapping,
    pub reference: Mapping,
}

/// Scored and failed cases, in any order.
type Scored = (Vec<CaseScores>, Vec<Failure>);

impl Job<'_> {
    /// Scores every pair; failures are recorded.
    pub fn run(&self, items: &Items) -> anyhow::Result<Scored> {
        let known = if self.args.resume {
            self.read_journal()?
        } else {
            BTreeMap::new()
        };
        let journal = self.open_journal(items.0.len(), &known)?;
        let (workers, threads_each) = self.plan(items);
        let next = AtomicUsize::new(0);
        let done: Mutex<Scored> = Mutex::new((Vec::new(), Vec::new()));
        let pools = (0..workers)
            .map(|_| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads_each)
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()
            .context("starting the worker threads")?;
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| {
                    while let Some(item) = items.0.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = pool.install(|| self.score_item(item, &known));
                        self.keep(result, &done, journal.as_ref());
                    }
                });
            }
        });
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many cases at a time, and threads for each.
    fn plan(&self, items: &Items) -> (usize, usize) {
        let pairs: Vec<&Path> = items
            .0
            .iter()
            .filter_map(|item| Some(item.files.as_ref().ok()?.1.as_path()))
            .collect();
        let mut workers = self.cx.threads.min(pairs.len()).max(1);
        // A header read is cheap beside a case, and cases of one set are alike: look at the first few.
        let needs = pairs
            .iter()
            .take(64)
            .filter_map(|path| nifti::read_header(path).ok());
        let most = needs
            .map(|(header, _)| bytes_needed(header.voxel_count()))
            .max()
            .unwrap_or(1);
        let fitting = self.cx.limits.memory_bytes / most.max(1);
        workers = workers
            .min(usize::try_from(fitting).unwrap_or(usize::MAX))
            .max(1);
        (workers, (self.cx.threads / workers).max(1))
    }

    fn score_item(&self, item: &Item, known: &Known) -> Result<(CaseScores, Stamp), Failure> {
        let (prediction, reference) = item.files.as_ref().map_err(Clone::clone)?;
        let stamp = Stamp::of(prediction, reference);
        if let Some(scores) = known.get(&item.case).filter(|(seen, _)| *seen == stamp) {
            return Ok((scores.1.clone(), stamp));
        }
        let failed = |kind: FailureKind, reason: String| Failure {
            case: item.case.clone(),
            kind,
            reason,
        };
        let unreadable = |error: anyhow::Error| failed(FailureKind::Unreadable, one_line(&error));
        let limit = |path: &Path| self.check_memory(path);
        limit(reference).map_err(|error| failed(FailureKind::Memory, one_line(&error)))?;
        let mut reference_map = self.read(reference).map_err(unreadable)?;
        self.mappings.reference.apply(reference_map.as_slice_mut());
        let mut prediction_map = self.read(prediction).map_err(unreadable)?;
        self.mappings
            .prediction
            .apply(prediction_map.as_slice_mut());
        let aligned = align(
            prediction_map,
            reference_map.grid(),
            self.settings.grid_tolerance_mm,
        )
        .map_err(|error| failed(FailureKind::Geometry, error.to_string()))?;
        let mut scores = score_case(&item.case, &aligned, &reference_map, self.options)
            .map_err(|error| failed(FailureKind::Geometry, error.to_string()))?;
        scores.prediction = shown(prediction);
        scores.reference = shown(reference);
        Ok((scores, stamp))
    }

    fn check_memory(&self, path: &Path) -> anyhow::Result<()> {
        // A header that cannot be read is reported by the reader.
        if let Ok((header, _)) = nifti::read_header(path) {
            self.cx
                .limits
                .check(&shown(path), bytes_needed(header.voxel_count()))?;
        }
        Ok(())
    }

    /// Reads a label map; errors name the file without its folder, so that results do not depend on where it lies.
    fn read(&self, path: &Path) -> anyhow::Result<Volume<u16>> {
        let name = shown(path);
        let (map, header) = nifti::read_label_map(path, LabelTable::default(), &self.cx.limits)
            .map_err(|error| {
                let folder = path.parent().map(|folder| format!("{}/", folder.display()));
                let text = error.to_string();
                anyhow::anyhow!(folder.map_or(text.clone(), |folder| text.replace(&folder, "")))
            })?;
        for warning in &header.warnings {
            self.cx.warn("header", &format!("{name}: {warning}"));
        }
        Ok(map.volume)
    }

    fn keep(
        &self,
        result: Result<(CaseScores, Stamp), Failure>,
        done: &Mutex<Scored>,
        journal: Option<&Mutex<File>>,
    ) {
        match &result {
            Ok((scores, stamp)) => {
                if let Some(journal) = journal {
                    self.note(journal, scores, *stamp);
                }
            }
            Err(failure) => self
                .cx
                .say(&format!("{}: {}", failure.case, failure.reason)),
        }
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((scores, _)) => done.0.push(scores),
            Err(failure) => done.1.push(failure),
        }
    }
}

/// Two volumes of labels, a turned copy of one, and the bit masks of one label.
fn bytes_needed(voxels: u64) -> u64 {
    voxels.saturating_mul(2 * 3).saturating_add(voxels)
}

/// Sizes and times of change of a pair, by which a resumed run knows that nothing was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp([u128; 4]);

impl Stamp {
    fn of(prediction: &Path, reference: &Path) -> Self {
        let of = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            let changed = data
                .modified()
                .ok()?
                .duration_since(std::time::UNIX_EPOCH)
                .ok()?;
            Some([u128::from(data.len()), changed.as_nanos()])
        };
        let [a, b] = [prediction, reference].map(|path| of(path).unwrap_or_default());
        Self([a[0], a[1], b[0], b[1]])
    }
}

/// Scores of an interrupted run.
type Known = BTreeMap<String, (Stamp, CaseScores)>;

/// The journal: one line of settings, then one line per scored case. A cut last line is no harm.
impl Job<'_> {
    fn journal_path(&self) -> PathBuf {
        let mut name = self.args.output.clone().into_os_string();
        name.push(".partial");
        name.into()
    }

    /// The line that says what the scores depend on.
    fn head(&self) -> anyhow::Result<String> {
        let options = format!("{:?}", self.options);
        Ok(serde_json::to_string(&(
            env!("CARGO_PKG_VERSION"),
            self.settings,
            options,
        ))?)
    }

    fn open_journal(&self, cases: usize, known: &Known) -> anyhow::Result<Option<Mutex<File>>> {
        if cases < 2 || self.args.output == Path::new("-") {
            return Ok(None);
        }
        let path = self.journal_path();
        let created = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path);
        let mut file = created.with_context(|| format!("creating {}", path.display()))?;
        // Written anew also when resuming: the last line of an interrupted run may be cut.
        let mut text = self.head()?;
        text.push('\n');
        for (stamp, scores) in known.values() {
            text += &serde_json::to_string(&(stamp, scores))?;
            text.push('\n');
        }
        file.write_all(text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Some(Mutex::new(file)))
    }

    fn note(&self, journal: &Mutex<File>, scores: &CaseScores, stamp: Stamp) {
        let Ok(mut line) = serde_json::to_string(&(stamp, scores)) else {
            return;
        };
        line.push('\n');
        let mut file = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.cx
                .warn("journal", &format!("this run cannot be resumed: {error}"));
        }
    }

    fn read_journal(&self) -> anyhow::Result<Known> {
        let path = self.journal_path();
        let Ok(file) = File::open(&path) else {
            return Ok(Known::new());
        };
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose().ok().flatten().unwrap_or_default();
        anyhow::ensure!(
            head == self.head()?,
            "{} was made with other settings: delete it or leave --resume out",
            path.display()
        );
        let cases = lines.map_while(Result::ok).filter_map(|line| {
            let (stamp, scores): (Stamp, CaseScores) = serde_json::from_str(&line).ok()?;
            Some((scores.case.clone(), (stamp, scores)))
        });
        Ok(cases.collect())
    }

    /// Removes the journal of a finished run.
    pub fn forget(output: &Path) {
        let mut name = output.to_owned().into_os_string();
        name.push(".partial");
        // It may not exist; if it cannot be removed, it is only in the way of nobody.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}
