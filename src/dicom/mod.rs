//! DICOM series as volumes.
//!
//! [`open`] takes a folder (with subfolders), a zip archive or one file, groups its images by
//! series, sorts their frames by position and hands out the same [`Reader`] that every other format
//! has, so that commands need not know where voxels come from. Slices are decoded while they are
//! read, a few at a time, in parallel.
//!
//! **What is exact.** The affine is position and directions of the first slice with the mean step
//! along the normal; stored values become real ones by slope and intercept of their own slice;
//! only the bits of `BitsStored` count. **What is refused** with the slices named: missing, doubled,
//! tilted or uneven slices, mixed directions, sizes or spacings, colour, several series.
//!
//! Sources: DICOM PS3.3 (C.7.6.2 image plane, C.7.6.16 functional groups, C.11.1 rescale), PS3.5
//! (encoding). Parsing and decompression are dicom-object's and dicom-pixeldata's 0.10.1, behind the
//! length checks of `guard`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod codec;
mod codes;
mod colour;
mod content;
mod dataset;
mod facts;
mod find;
mod frames;
mod guard;
mod instance;
mod irregular;
mod labels;
mod reference;
mod rle;
mod segmentation;
mod segments;
mod series;
mod structures;

pub use facts::facts;
pub use find::is_study;
pub use labels::{LabelObject, save_labels};
pub use reference::Reference;

use crate::io::nifti::Reader;
use crate::io::{Error, Limits, Result, display_name};
use dicom_dictionary_std::uids;
use find::Source;
use frames::{Job, Slices};
use instance::Instance;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Most files of one study.
pub(crate) const MOST_FILES: usize = 20_000;
/// Files that are no DICOM and are named in a warning.
const MOST_NAMED: usize = 3;
/// The directory of a DICOM disc: no image, and no file that went astray.
const DIRECTORY: &str = "1.2.840.10008.1.3.10";

/// What a series is, for people who have to choose one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// SeriesInstanceUID.
    pub uid: String,
    /// Modality, for example `CT`.
    pub modality: String,
    /// SeriesNumber and SeriesDescription.
    pub description: String,
    /// Number of frames.
    pub frames: usize,
}

/// A study as found: its series and what was left out.
struct Study {
    series: BTreeMap<String, Vec<Instance>>,
    warnings: Vec<String>,
}

/// The one series that is to be read.
struct Chosen {
    name: String,
    instances: Vec<Instance>,
    warnings: Vec<String>,
}

/// Opens the one image series in `path`, or the one that `choice` names: a SeriesInstanceUID or its end, or a
/// regular expression for the whole UID or a part of the description. A segmentation is opened as a label map where there is no image series
/// or where it is chosen.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Unsupported`] naming the file or the slices; [`Error::Parameter`]
/// listing the series when there are several and none or no single one is chosen;
/// [`Error::OverLimit`], [`Error::Environment`].
///
/// Cost: every header is read before the first voxel; memory is one file per thread.
pub fn open(path: &Path, choice: Option<&str>, limits: &Limits) -> Result<Reader> {
    let reading = Reading {
        series: choice,
        resample_irregular: false,
    };
    open_as(path, reading, limits)
}

/// How a study is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// The series to read, where there are several, see [`open`].
    pub series: Option<&'a str>,
    /// Interpolate tilted and uneven slices into an even volume instead of refusing them.
    pub resample_irregular: bool,
}

/// [`open`] with all choices.
///
/// # Errors
/// Those of [`open`].
///
/// Cost of a stack that is resampled: its voxels three times in memory, as `f32`.
pub fn open_as(path: &Path, reading: Reading, limits: &Limits) -> Result<Reader> {
    let Chosen {
        name,
        instances,
        warnings,
    } = chosen(path, reading.series, limits)?;
    if instances.iter().any(Instance::is_segmentation) {
        let [only] = instances.as_slice() else {
            return Err(Error::unsupported(
                &name,
                format!(
                    "the series holds {} segmentations, name the file of one",
                    instances.len()
                ),
            ));
        };
        return segmentation::open(&only.source, &name, warnings, limits);
    }
    let stack = match series::stack(&instances, &name) {
        Err(refusal) if reading.resample_irregular => {
            return irregular::open(&instances, &name, warnings, refusal, limits);
        }
        stack => stack?,
    };
    let jobs = jobs(&stack.slices, &instances);
    let declared = stack.declared(&jobs, warnings);
    let slices = Slices::new(jobs, stack.pixels, declared.datatype, *limits);
    declared.reader_of(slices, Vec::new(), &name, limits)
}

/// What decodes each slice.
fn jobs(slices: &[series::Slice], instances: &[Instance]) -> Vec<Job> {
    let job = |slice: &series::Slice| {
        let instance = instances.get(slice.instance)?;
        Some(Job {
            source: instance.source.clone(),
            frame: instance.frames.get(slice.frame)?.clone(),
            is_encapsulated: is_encapsulated(&instance.transfer_syntax),
        })
    };
    slices.iter().filter_map(job).collect()
}

/// The series that [`open`] would read.
fn chosen(path: &Path, choice: Option<&str>, limits: &Limits) -> Result<Chosen> {
    let name = display_name(path);
    let mut study = study(path, &name, limits)?;
    let has_images = study
        .series
        .values()
        .flatten()
        .any(|i| !i.is_segmentation());
    if choice.is_none() && has_images {
        study.leave_segmentations();
    }
    let uid = choose(&study.listed(), choice, &name)?;
    Ok(Chosen {
        name,
        instances: study.series.remove(&uid).unwrap_or_default(),
        warnings: study.warnings,
    })
}

/// The image series in `path`, in order of their UIDs.
///
/// # Errors
/// As [`open`], except for those of a single series.
pub fn list(path: &Path, limits: &Limits) -> Result<Vec<Series>> {
    Ok(study(path, &display_name(path), limits)?.listed())
}

impl Study {
    /// Segmentations beside images are results, not another choice of images.
    fn leave_segmentations(&mut self) {
        let before = self.series.len();
        self.series
            .retain(|_, instances| !instances.iter().any(Instance::is_segmentation));
        let left = before - self.series.len();
        if left > 0 {
            self.warnings.push(format!(
                "{left} segmentations beside the images were left out; --series reads one"
            ));
        }
    }

    fn listed(&self) -> Vec<Series> {
        let describe = |(uid, instances): (&String, &Vec<Instance>)| {
            let first = instances.first()?;
            Some(Series {
                uid: uid.clone(),
                modality: first.modality.clone(),
                description: format!("{} {}", first.series_number, first.description)
                    .trim()
                    .to_owned(),
                frames: instances.iter().map(|instance| instance.frames.len()).sum(),
            })
        };
        self.series.iter().filter_map(describe).collect()
    }
}

/// Whether pixel data come in fragments under a transfer syntax (PS3.5 annex A).
fn is_encapsulated(syntax: &str) -> bool {
    ![
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        "1.2.840.10008.1.2.2", // explicit big-endian, retired
    ]
    .contains(&syntax)
}

/// Reads every header below `path`.
fn study(path: &Path, name: &str, limits: &Limits) -> Result<Study> {
    let sources = find::sources(path)?;
    let is_single = sources.len() == 1;
    let read: Vec<(Source, Result<Instance>)> = sources
        .into_par_iter()
        .map(|source| (source.clone(), Instance::read(source, limits)))
        .collect();
    let mut series: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    let (mut strangers, mut others) = (Vec::new(), 0);
    for (source, outcome) in read {
        match outcome {
            Ok(instance) if instance.pixels.is_some() && !instance.frames.is_empty() => {
                series
                    .entry(instance.series.clone())
                    .or_default()
                    .push(instance);
            }
            Ok(instance) if is_single => {
                return Err(Error::unsupported(
                    &source.name,
                    format!(
                        "is a {} object, expected an image series",
                        instance.modality
                    ),
                ));
            }
            Ok(instance) => others += usize::from(instance.sop_class != DIRECTORY),
            Err(Error::Malformed { problem, .. })
                if problem.starts_with("not a DICOM file") && !is_single =>
            {
                strangers.push(source.name);
            }
            Err(error) => return Err(error),
        }
    }
    if series.is_empty() {
        return Err(Error::malformed(name, "holds no DICOM images"));
    }
    let mut warnings = Vec::new();
    if !strangers.is_empty() {
        let named: Vec<String> = strangers.iter().take(MOST_NAMED).cloned().collect();
        warnings.push(format!(
            "{} files are not DICOM and were left out: {}{}",
            strangers.len(),
            named.join(", "),
            if strangers.len() > MOST_NAMED {
                ", …"
            } else {
                ""
            }
        ));
    }
    if others > 0 {
        warnings.push(format!(
            "{others} objects without image planes were left out"
        ));
    }
    Ok(Study { series, warnings })
}

fn choose(listed: &[Series], choice: Option<&str>, name: &str) -> Result<String> {
    let pattern = |text: &str, whole: bool| {
        let expression = match whole {
            true => format!("^(?:{text})$"),
            false => text.to_owned(),
        };
        regex_lite::Regex::new(&expression)
            .map_err(|error| Error::Parameter(format!("series {text:?}: {error}")))
    };
    let patterns = match choice {
        None => None,
        Some(text) => Some((text, pattern(text, true)?, pattern(text, false)?)),
    };
    let fits = |series: &&Series| match &patterns {
        None => true,
        Some((text, whole, part)) => {
            series.uid.ends_with(text)
                || whole.is_match(&series.uid)
                || series.description.contains(text)
                || part.is_match(&series.description)
        }
    };
    let found: Vec<&Series> = listed.iter().filter(fits).collect();
    if let [only] = found.as_slice() {
        return Ok(only.uid.clone());
    }
    let lines: Vec<String> = listed
        .iter()
        .map(|series| {
            format!(
                "{} ({} {}, {} frames)",
                series.uid, series.modality, series.description, series.frames
            )
        })
        .collect();
    let problem = match (choice, found.is_empty()) {
        (None, _) => format!("holds {} series, choose one with --series", listed.len()),
        (Some(text), true) => format!("no series fits {text:?}"),
        (Some(text), false) => format!("{} series fit {text:?}", found.len()),
    };
    Err(Error::Parameter(format!(
        "{name}: {problem}: {}",
        lines.join("; ")
    )))
}
