//! Pictures of the worst cases: finds and reads their files, one case at a time.

use super::Args;
use crate::context::Context;
use crate::outcome::{Usage, one_line};
use anyhow::Context as _;
use medseg::evaluate::align::{align, resample};
use medseg::io::{batch, display_name};
use medseg::report::picture::Window;
use medseg::report::picture::overlay::Case;
use medseg::report::source::Model;
use medseg::report::worst::{Chosen, Pictures, Shown};
use medseg::volume::{LabelTable, Volume};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Slices to each side of the worst one.
const AROUND: usize = 3;

/// Chosen cases with pictures where files were given, and how many of them have none although they should.
pub fn make(
    args: &Args,
    cx: &Context,
    models: &[Model],
    chosen: Vec<Chosen>,
) -> anyhow::Result<(Vec<Shown>, usize)> {
    let mut shown: Vec<Shown> = chosen
        .into_iter()
        .map(|chosen| Shown {
            chosen,
            pictures: Err("no images were given (--predictions, --references)".to_owned()),
        })
        .collect();
    let Some(folders) = Folders::of(args, models.len())? else {
        return Ok((shown, 0));
    };
    // Files of a case are read once for all its labels.
    let mut by_case: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, entry) in shown.iter().enumerate() {
        by_case
            .entry((entry.chosen.model, entry.chosen.case))
            .or_default()
            .push(index);
    }
    let mut missing = 0;
    for ((model, case), indices) in by_case {
        let files = folders.read(cx, &models[model], model, case);
        for index in indices {
            let entry = &mut shown[index];
            let pictures = match &files {
                Ok(files) => files.draw(&models[model], &entry.chosen, args.window),
                Err(error) => Err(anyhow::anyhow!("{}", one_line(error))),
            };
            entry.pictures = pictures.map_err(|error| {
                missing += 1;
                let name = &models[model].results.cases[case].case;
                let text = one_line(&error);
                cx.warn(&text, &format!("no picture of {name}: {text}"));
                text
            });
        }
    }
    Ok((shown, missing))
}

/// Where the files are.
struct Folders<'a> {
    images: Option<Files>,
    predictions: &'a [PathBuf],
    references: &'a Path,
}

/// Image files by case, or the one file for all cases.
enum Files {
    One(PathBuf),
    ByCase(BTreeMap<OsString, PathBuf>, String),
}

impl<'a> Folders<'a> {
    fn of(args: &'a Args, models: usize) -> anyhow::Result<Option<Self>> {
        let Some(references) = &args.references else {
            return Ok(None);
        };
        if args.predictions.len() != models {
            return Err(Usage(format!(
                "--predictions names {} folders for {models} results files",
                args.predictions.len()
            ))
            .into());
        }
        let folders = args.predictions.iter().chain([references]);
        for path in folders.chain(args.images.as_ref()) {
            std::fs::metadata(path).with_context(|| format!("reading {}", display_name(path)))?;
        }
        let images = args.images.as_deref().map(Files::find).transpose()?;
        Ok(Some(Self {
            images,
            predictions: &args.predictions,
            references,
        }))
    }

    fn read(
        &self,
        cx: &Context,
        model: &Model,
        index: usize,
        case: usize,
    ) -> anyhow::Result<Volumes> {
        let results = &model.results;
        let case = &results.cases[case];
        let label_map = |path: &Path| -> anyhow::Result<Volume<u16>> {
            let (map, _) = cx.open(path)?.into_label_map(LabelTable::default())?;
            Ok(map.volume)
        };
        let settings = &results.settings;
        let mut reference = label_map(&file_in(self.references, &case.reference))?;
        renumber(&mut reference, &settings.mapped_reference);
        let mut prediction = label_map(&file_in(&self.predictions[index], &case.prediction))?;
        renumber(&mut prediction, &settings.mapped);
        let tolerance_mm = settings.grid_tolerance_mm;
        let prediction = if case.resampled {
            resample(&prediction, reference.grid())?
        } else {
            align(prediction, reference.grid(), tolerance_mm)?
        };
        let image = match &self.images {
            None => None,
            Some(files) => {
                let (mut channels, _) = cx.open(files.of(&case.case)?)?.into_f32()?;
                anyhow::ensure!(!channels.is_empty(), "the image of {} is empty", case.case);
                Some(align(
                    channels.swap_remove(0),
                    reference.grid(),
                    tolerance_mm,
                )?)
            }
        };
        Ok(Volumes {
            image,
            prediction,
            reference,
        })
    }
}

/// Gives labels the numbers that they were scored with.
fn renumber(map: &mut Volume<u16>, pairs: &[(u16, u16)]) {
    if pairs.is_empty() {
        return;
    }
    for label in map.as_slice_mut() {
        let renumbered = pairs.iter().find(|(from, _)| from == label);
        *label = renumbered.map_or(*label, |(_, to)| *to);
    }
}

/// The file itself, or the file of that name in a folder.
fn file_in(place: &Path, name: &str) -> PathBuf {
    if place.is_dir() {
        // Names from a results file never lead out of the folder.
        place.join(Path::new(name).file_name().unwrap_or_default())
    } else {
        place.to_owned()
    }
}

impl Files {
    fn find(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Ok(Self::One(path.to_owned()));
        }
        let shown = display_name(path);
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(path).with_context(|| format!("reading {shown}"))? {
            let file = entry.with_context(|| format!("reading {shown}"))?.path();
            files.insert(batch::case_name(&file), file);
        }
        Ok(Self::ByCase(files, shown))
    }

    /// `case_0000` (a first channel) before `case`.
    fn of(&self, case: &str) -> anyhow::Result<&Path> {
        match self {
            Self::One(file) => Ok(file),
            Self::ByCase(files, folder) => {
                let names = [format!("{case}_0000"), case.to_owned()];
                let found = names.iter().find_map(|name| files.get(OsStr::new(name)));
                let file = found.with_context(|| {
                    format!("{folder} has no image {case}_0000 or {case} (.nii.gz, .nii)")
                })?;
                Ok(file)
            }
        }
    }
}

/// The voxels of a case.
pub struct Volumes {
    pub image: Option<Volume<f32>>,
    pub prediction: Volume<u16>,
    pub reference: Volume<u16>,
}

impl Volumes {
    /// Pictures of the slices around the worst one of a chosen case.
    pub fn draw(
        &self,
        model: &Model,
        chosen: &Chosen,
        window: Option<Window>,
    ) -> anyhow::Result<Pictures> {
        let numbers = &model.results.cases[chosen.case].labels[chosen.label].numbers;
        let slices = self.reference.grid().shape[0];
        let worst = chosen.slice.unwrap_or_else(|| self.most_wrong(numbers));
        let first = worst.saturating_sub(AROUND);
        let z: Vec<usize> = (first..(worst + AROUND + 1).min(slices.max(worst + 1))).collect();
        let automatic = || {
            let image = self.image.as_ref();
            Window::automatic(image.map_or(&[][..], Volume::as_slice))
        };
        let case = Case {
            image: self.image.as_ref(),
            prediction: &self.prediction,
            reference: &self.reference,
        };
        let pictures = case.draw(numbers, &z, window.unwrap_or_else(automatic))?;
        Ok(Pictures {
            first: worst - first,
            slices: z.into_iter().zip(pictures).collect(),
        })
    }

    /// The slice with the most wrong voxels, for results without slices.
    fn most_wrong(&self, numbers: &[u16]) -> usize {
        let pairs = self
            .prediction
            .data()
            .outer_iter()
            .zip(self.reference.data().outer_iter());
        let wrong = pairs.map(|(prediction, reference)| {
            let voxels = prediction.iter().zip(reference.iter());
            voxels
                .filter(|(a, b)| numbers.contains(a) != numbers.contains(b))
                .count()
        });
        let worst = wrong
            .enumerate()
            .max_by_key(|&(z, count)| (count, std::cmp::Reverse(z)));
        worst.map_or(0, |(z, _)| z)
    }
}
