//! Scoring all pairs: several cases at a time, as many as fit the memory limit.
//!
//! Every worker has its own thread pool, so that a worker that waits for part of its case never picks up a second one: at most
//! two volumes per worker are in memory.

use super::Args;
use super::items::{Item, Items, shown};
use super::journal::{Known, Stamp};
use super::memory::Budget;
use crate::context::Context;
use crate::outcome::one_line;
use anyhow::Context as _;
use medseg::evaluate::align::align;
use medseg::evaluate::case::{CaseScores, Options, bytes_needed, score_case};
use medseg::evaluate::results::{Failure, FailureKind, Settings};
use medseg::evaluate::targets::Mapping;
use medseg::io::nifti::Reader;
use medseg::volume::{LabelTable, Volume};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
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
        let journal = self.open_journal(items.list.len(), &known)?;
        // At least one worker; a case of its own may use the threads that have none.
        let workers = self.cx.threads.min(items.list.len()).max(1);
        let threads_each = self.cx.threads / workers;
        let budget = Budget::new(self.cx.limits.memory_bytes);
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
                    let mut buffers = Buffers::default();
                    while let Some(item) = items.list.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let work = || self.score_item(item, &known, &budget, &mut buffers);
                        let result = pool.install(work);
                        self.keep(result, &done, journal.as_ref());
                    }
                });
            }
        });
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn score_item(
        &self,
        item: &Item,
        known: &Known,
        budget: &Budget,
        buffers: &mut Buffers,
    ) -> Result<(CaseScores, Stamp), Failure> {
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
        let misaligned = |error: String| failed(FailureKind::Geometry, error);
        let open = |path: &Path| self.open(path).map_err(unreadable);
        let (reference_file, prediction_file) = (open(reference)?, open(prediction)?);
        let voxels = [&reference_file, &prediction_file].map(|file| file.header().voxel_count());
        let needed = bytes_needed(voxels, self.options, rayon::current_num_threads());
        self.cx
            .limits
            .check(&shown(reference), needed)
            .map_err(|error| failed(FailureKind::Memory, error.to_string()))?;
        let _share = budget.share(needed, || *buffers = Buffers::default());
        let read = |file: Reader, path: &Path, buffer: &mut Vec<u16>| {
            self.read(file, path, std::mem::take(buffer))
                .map_err(unreadable)
        };
        let mut reference_map = read(reference_file, reference, &mut buffers.reference)?;
        self.mappings.reference.apply(reference_map.as_slice_mut());
        let mut prediction_map = read(prediction_file, prediction, &mut buffers.prediction)?;
        self.mappings
            .prediction
            .apply(prediction_map.as_slice_mut());
        let aligned = align(
            prediction_map,
            reference_map.grid(),
            self.settings.grid_tolerance_mm,
        )
        .map_err(|error| misaligned(error.to_string()))?;
        let scores = score_case(&item.case, &aligned, &reference_map, self.options);
        buffers.prediction = memory_of(aligned);
        buffers.reference = memory_of(reference_map);
        let mut scores = scores.map_err(|error| misaligned(error.to_string()))?;
        scores.prediction = shown(prediction);
        scores.reference = shown(reference);
        Ok((scores, stamp))
    }

    /// Opens a label map; errors name the file without its folder, so that results do not depend on where it lies.
    fn open(&self, path: &Path) -> anyhow::Result<Reader> {
        Reader::open(path, &self.cx.limits).map_err(|error| without_folder(&error, path))
    }

    /// Reads a label map into the memory of `buffer`; errors as [`Self::open`].
    fn read(&self, file: Reader, path: &Path, buffer: Vec<u16>) -> anyhow::Result<Volume<u16>> {
        let (map, header) = file
            .into_label_map_reusing(LabelTable::default(), buffer)
            .map_err(|error| without_folder(&error, path))?;
        for warning in &header.warnings {
            self.cx
                .warn("header", &format!("{}: {warning}", shown(path)));
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

/// The memory of one worker's volumes, used again for its next case.
#[derive(Default)]
struct Buffers {
    prediction: Vec<u16>,
    reference: Vec<u16>,
}

/// The memory of a volume that is no longer needed.
fn memory_of(volume: Volume<u16>) -> Vec<u16> {
    volume.into_parts().0.into_raw_vec_and_offset().0
}

fn without_folder(error: &medseg::io::Error, path: &Path) -> anyhow::Error {
    let text = error.to_string();
    let folder = path.parent().map(|folder| format!("{}/", folder.display()));
    anyhow::anyhow!(match folder {
        Some(folder) if folder != "/" => text.replace(&folder, ""),
        _ => text,
    })
}
