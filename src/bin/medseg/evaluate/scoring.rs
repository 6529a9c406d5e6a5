//! Scoring all pairs: several cases at a time, as many as fit the memory limit.
//!
//! Every worker has its own thread pool, so that a worker that waits for part of its case never picks up a second one: at most
//! two volumes per worker are in memory.

use super::Args;
use super::items::{Item, Items, Source, shown};
use super::journal::{Known, Stamp};
use super::segmenter::Segmenter;
use crate::context::Context;
use crate::memory::Budget;
use crate::outcome::one_line;
use anyhow::Context as _;
use medseg::evaluate::align::{Misaligned, align, resample};
use medseg::evaluate::case::{CaseScores, Options, bytes_needed, score_case};
use medseg::evaluate::intensity::add_intensities;
use medseg::evaluate::results::{Failure, FailureKind, Settings};
use medseg::evaluate::targets::Mapping;
use medseg::io::nifti::Reader;
use medseg::volume::{Grid, LabelTable, Volume};
use std::collections::BTreeMap;
use std::fs::File;
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
    pub model: Option<&'a Segmenter>,
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
        // At least one worker; a case of its own may use the threads that have none. A model needs all of them.
        let most = if self.model.is_some() {
            1
        } else {
            self.cx.threads
        };
        let workers = most.min(items.list.len()).max(1);
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
        let files = item.files.as_ref().map_err(Clone::clone)?;
        let stamp = Stamp::of(files);
        if let Some((_, scores)) = known.get(&item.case).filter(|(seen, _)| *seen == stamp) {
            return Ok((scores.clone(), stamp));
        }
        let failed = |kind: FailureKind, reason: String| Failure {
            case: item.case.clone(),
            kind,
            reason,
        };
        let unreadable = |error: anyhow::Error| failed(FailureKind::Unreadable, one_line(&error));
        let misaligned = |error: String| failed(FailureKind::Geometry, error);
        // All of them at once, so that a list is mended in one go.
        let missing: Vec<String> = files
            .all()
            .filter(|file| *file != Path::new("-") && !file.exists())
            .map(shown)
            .collect();
        if !missing.is_empty() {
            let reason = format!("cannot read {}: No such file", missing.join(", "));
            return Err(failed(FailureKind::Unreadable, reason));
        }
        let reference_file = self.open(&files.reference).map_err(unreadable)?;
        let prediction_file = match &files.prediction {
            Source::File(path) => Some(self.open(path).map_err(unreadable)?),
            Source::Images(_) => None,
        };
        let voxels = |file: &Reader| file.header().voxel_count();
        let of_reference = voxels(&reference_file);
        let of_prediction = prediction_file.as_ref().map_or(of_reference, voxels);
        let threads = rayon::current_num_threads();
        let needed = bytes_needed([of_prediction, of_reference], self.options, threads)
            .saturating_add(files.image.as_ref().map_or(0, |_| 8 * of_reference))
            .saturating_add(if self.args.resample {
                2 * of_reference
            } else {
                0
            });
        self.cx
            .limits
            .check(&shown(&files.reference), needed)
            .map_err(|error| failed(FailureKind::Memory, error.to_string()))?;
        let _share = budget.share(needed, || *buffers = Buffers::default());
        let read = |file: Reader, path: &Path, buffer: &mut Vec<u16>| {
            self.read(file, path, std::mem::take(buffer))
                .map_err(unreadable)
        };
        let mut prediction = match (prediction_file, &files.prediction) {
            (Some(file), Source::File(path)) => read(file, path, &mut buffers.prediction)?,
            (_, source) => self
                .segment(source.files(), &item.case)
                .map_err(unreadable)?,
        };
        self.mappings.prediction.apply(prediction.as_slice_mut());
        let mut reference = read(reference_file, &files.reference, &mut buffers.reference)?;
        self.mappings.reference.apply(reference.as_slice_mut());
        let (prediction, resampled) = self
            .bring_together(prediction, reference.grid())
            .map_err(|error| misaligned(error.to_string()))?;
        let scores = score_case(&item.case, &prediction, &reference, self.options);
        let mut scores = scores.map_err(|error| misaligned(error.to_string()))?;
        scores.resampled = resampled;
        if let Some(path) = &files.image {
            let image = self.image(path, reference.grid());
            let image = image.map_err(|error| misaligned(one_line(&error)))?;
            let maps = [&prediction, &reference];
            let ignored = self.options.ignore_label;
            add_intensities(&mut scores, &image, maps, self.settings.window, ignored);
            scores.image = shown(path);
        }
        buffers.prediction = memory_of(prediction);
        buffers.reference = memory_of(reference);
        scores.prediction = match &files.prediction {
            Source::File(path) => shown(path),
            Source::Images(_) => String::new(),
        };
        scores.reference = shown(&files.reference);
        Ok((scores, stamp))
    }

    /// The prediction on the grid of its reference, and whether it was resampled.
    fn bring_together(
        &self,
        prediction: Volume<u16>,
        reference: &Grid,
    ) -> Result<(Volume<u16>, bool), Misaligned> {
        let tolerance_mm = self.settings.grid_tolerance_mm;
        let same = prediction.grid().check_matches(reference, tolerance_mm);
        if same.is_ok() || !self.args.resample {
            return Ok((align(prediction, reference, tolerance_mm)?, false));
        }
        match align(prediction.clone(), reference, tolerance_mm) {
            Ok(aligned) => Ok((aligned, false)),
            Err(_) => Ok((resample(&prediction, reference)?, true)),
        }
    }

    /// Segments a case with the model, and keeps the label map where that was asked for.
    fn segment(&self, files: &[PathBuf], case: &str) -> anyhow::Result<Volume<u16>> {
        let model = self
            .model
            .context("a case without prediction and without model")?;
        let made = model.segment(files, case, self.cx)?;
        if let Some(folder) = &self.args.save_predictions {
            made.save(folder, case, self.args)?;
        }
        Ok(made.map.volume)
    }

    /// Reads an image, first channel, onto the grid of the reference.
    fn image(&self, path: &Path, reference: &Grid) -> anyhow::Result<Volume<f32>> {
        let (volumes, _) = self
            .cx
            .open(path)
            .and_then(Reader::into_f32)
            .map_err(|error| without_folder(&error, path))?;
        let image = volumes.into_iter().next().context("no volume")?;
        align(image, reference, self.settings.grid_tolerance_mm).map_err(|error| {
            let text = error.to_string().replace("the prediction", "the image");
            anyhow::anyhow!("{}: {text}", shown(path))
        })
    }

    /// Opens a label map; errors name the file without its folder, so that results do not depend on where it lies.
    fn open(&self, path: &Path) -> anyhow::Result<Reader> {
        self.cx
            .open(path)
            .map_err(|error| without_folder(&error, path))
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
                    self.note(journal, scores, stamp);
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
