//! What there is to score: pairs of files, and what has no partner.

use super::Args;
use super::segmenter::Segmenter;
use crate::context::{Context, print_text};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use medseg::evaluate::pairing::{Pairing, pair};
use medseg::evaluate::results::{Failure, FailureKind};
use medseg::io::batch::{Case, case_name, find_cases};
use medseg::io::display_name;
use medseg::io::pair_list::{ListedPair, parse_list};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a prediction comes from.
#[derive(Clone)]
pub enum Source {
    /// A label map.
    File(PathBuf),
    /// Images, one per channel, that `--model` segments.
    Images(Vec<PathBuf>),
}

impl Source {
    /// Its files.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::File(path) => std::slice::from_ref(path),
            Self::Images(paths) => paths,
        }
    }

    fn first(&self) -> PathBuf {
        self.files().first().cloned().unwrap_or_default()
    }
}

/// The files of a case.
#[derive(Clone)]
pub struct Files {
    pub prediction: Source,
    pub reference: PathBuf,
    /// The image whose intensities are measured.
    pub image: Option<PathBuf>,
}

impl Files {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let image = self.image.iter();
        let files = self.prediction.files().iter().chain([&self.reference]);
        files.chain(image).map(PathBuf::as_path)
    }
}

/// One case by name.
pub struct Item {
    pub case: String,
    /// Its files, or why there is no pair.
    pub files: Result<Files, Failure>,
}

impl Item {
    fn failed(case: String, kind: FailureKind, reason: String) -> Self {
        let failure = Failure {
            case: case.clone(),
            kind,
            reason,
        };
        Self {
            case,
            files: Err(failure),
        }
    }
}

/// The cases of this run, by name.
pub struct Items {
    pub list: Vec<Item>,
    /// The first pair of all shards, which can have a label table.
    pub first_pair: Option<Files>,
}

impl Items {
    /// Finds and pairs the files of the command line; only the cases of the shard, where there is one.
    pub fn find(args: &Args, model: Option<&Segmenter>) -> anyhow::Result<Self> {
        let mut items = match (&args.list, &args.references) {
            (Some(list), _) => listed(list, model)?,
            (None, Some(references)) => {
                let made = model.and(args.image.as_ref());
                let Some(predictions) = made.or(args.predictions.as_ref()) else {
                    return Err(Usage("--predictions are needed, or --model".to_owned()).into());
                };
                named(predictions, references, model)?
            }
            (None, None) => return Err(Usage("--references are needed".to_owned()).into()),
        };
        if let (Some(image), None) = (&args.image, &args.list) {
            add_images(&mut items, image, model)?;
        }
        items.sort_by(|a, b| a.case.cmp(&b.case));
        let first_pair = items.iter().find_map(|item| item.files.clone().ok());
        if let Some([index, count]) = args.shard()? {
            let mut number = 0;
            items.retain(|_| {
                number += 1;
                (number - 1) % count == index - 1
            });
        }
        Ok(Self {
            list: items,
            first_pair,
        })
    }

    /// `--dry-run`: says which files belong together.
    pub fn print(&self, args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
        let mut text = String::new();
        let mut broken = 0;
        for item in &self.list {
            text += &match &item.files {
                Ok(files) => format!(
                    "{}: {} with {}\n",
                    item.case,
                    display_name(&files.prediction.first()),
                    display_name(&files.reference)
                ),
                Err(failure) => {
                    broken += usize::from(!args.tolerates(failure.kind));
                    format!("{}: {}\n", item.case, failure.reason)
                }
            };
        }
        print_text(&text)?;
        cx.say(&format!(
            "{} cases, {broken} cannot be scored",
            self.list.len()
        ));
        Ok(if broken > 0 {
            Outcome::SomeFailed
        } else {
            Outcome::Done
        })
    }
}

/// Two files, or two folders paired by name.
fn named(
    predictions: &Path,
    references: &Path,
    model: Option<&Segmenter>,
) -> anyhow::Result<Vec<Item>> {
    match (predictions.is_dir(), references.is_dir()) {
        (true, true) => Ok(paired(pair(
            sources_of(predictions, model)?,
            sources_of(references, None)?,
        ))),
        (false, false) => {
            let (_, prediction) = sources_of(predictions, model)?
                .into_iter()
                .next()
                .with_context(|| format!("{}: is no image", display_name(predictions)))?;
            Ok(vec![Item {
                case: case_name(references).to_string_lossy().into_owned(),
                files: Ok(Files {
                    prediction,
                    reference: references.to_owned(),
                    image: None,
                }),
            }])
        }
        (is_folder, _) => {
            let (folder, file) = if is_folder {
                (predictions, references)
            } else {
                (references, predictions)
            };
            Err(Usage(format!(
                "{} is a folder and {} is not: name two files or two folders",
                display_name(folder),
                display_name(file)
            ))
            .into())
        }
    }
}

/// The cases of a file or folder by name; with a model, each with the files of all its channels.
fn sources_of(path: &Path, model: Option<&Segmenter>) -> anyhow::Result<Vec<(String, Source)>> {
    if model.is_none() && !path.is_dir() {
        // Also a name that does not exist: the reader says so.
        let name = case_name(path).to_string_lossy().into_owned();
        return Ok(vec![(name, Source::File(path.to_owned()))]);
    }
    let found = find_cases(&[path.to_owned()], model.map(Segmenter::channels))?;
    let source = |case: Case| {
        let name = case.id.to_string_lossy().into_owned();
        let source = match model {
            Some(_) => Source::Images(case.channels),
            None => Source::File(case.channels.into_iter().next()?),
        };
        Some((name, source))
    };
    Ok(found.cases.into_iter().filter_map(source).collect())
}

fn paired(pairing: Pairing<Source>) -> Vec<Item> {
    let name = |source: &Source| shown(&source.first());
    let mut items: Vec<Item> = pairing
        .pairs
        .into_iter()
        .map(|(case, prediction, reference)| Item {
            case,
            files: Ok(Files {
                prediction,
                reference: reference.first(),
                image: None,
            }),
        })
        .collect();
    items.extend(pairing.without_prediction.into_iter().map(|(case, file)| {
        let reason = format!("{}: there is no prediction of this name", name(&file));
        Item::failed(case, FailureKind::MissingPrediction, reason)
    }));
    items.extend(pairing.without_reference.into_iter().map(|(case, file)| {
        let reason = format!("{}: there is no reference of this name", name(&file));
        Item::failed(case, FailureKind::MissingReference, reason)
    }));
    items.extend(pairing.ambiguous.into_iter().map(|(case, files)| {
        let names: Vec<String> = files.iter().map(name).collect();
        let reason = format!("several files of one name: {}", names.join(", "));
        Item::failed(case, FailureKind::Ambiguous, reason)
    }));
    items
}

/// The pairs of `--list`.
fn listed(list: &Path, model: Option<&Segmenter>) -> anyhow::Result<Vec<Item>> {
    let text =
        std::fs::read_to_string(list).with_context(|| format!("reading {}", display_name(list)))?;
    let pairs = parse_list(&text).with_context(|| display_name(list))?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut by_case: BTreeMap<String, Vec<ListedPair>> = BTreeMap::new();
    for pair in pairs {
        let of_file = || {
            case_name(Path::new(&pair.reference))
                .to_string_lossy()
                .into_owned()
        };
        let case = pair.case.clone().unwrap_or_else(of_file);
        by_case.entry(case).or_default().push(pair);
    }
    let item = |(case, mut pairs): (String, Vec<ListedPair>)| {
        if pairs.len() > 1 {
            let reason = format!("{case}: is listed {} times", pairs.len());
            return Ok(Item::failed(case, FailureKind::Ambiguous, reason));
        }
        let Some(pair) = pairs.pop() else {
            return Ok(Item::failed(case, FailureKind::Ambiguous, String::new()));
        };
        let image = pair.image.as_ref().map(|image| folder.join(image));
        let prediction = match (model, &image) {
            (Some(_), Some(image)) => {
                let found = sources_of(image, model)?.into_iter().next();
                found
                    .map(|(_, source)| source)
                    .context("a case without images")?
            }
            (Some(_), None) => anyhow::bail!("{case}: the list names no image for the model"),
            (None, _) if pair.prediction.is_empty() => {
                anyhow::bail!("{case}: the list names no prediction")
            }
            (None, _) => Source::File(folder.join(&pair.prediction)),
        };
        Ok(Item {
            case,
            files: Ok(Files {
                prediction,
                reference: folder.join(&pair.reference),
                image,
            }),
        })
    };
    by_case
        .into_iter()
        .map(item)
        .collect::<anyhow::Result<_>>()
        .with_context(|| display_name(list))
}

/// `--image`: gives every case its image, by name; nnU-Net's number of the first channel may follow.
fn add_images(items: &mut [Item], images: &Path, model: Option<&Segmenter>) -> anyhow::Result<()> {
    let by_name: BTreeMap<String, Source> = match model {
        None if images.is_dir() => sources_of(images, None)?.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    for item in items {
        let Ok(files) = &mut item.files else {
            continue;
        };
        let first_channel = format!("{}_0000", item.case);
        let found = match &files.prediction {
            Source::Images(channels) => channels.first().cloned(),
            Source::File(_) if !images.is_dir() => Some(images.to_owned()),
            Source::File(_) => by_name
                .get(&item.case)
                .or_else(|| by_name.get(&first_channel))
                .map(Source::first),
        };
        if found.is_some() {
            files.image = found;
        } else {
            let reason = format!("{}: there is no image of this name", item.case);
            *item = Item::failed(item.case.clone(), FailureKind::Unreadable, reason);
        }
    }
    Ok(())
}

/// The file name alone: results say the same wherever the folders are.
pub fn shown(file: &Path) -> String {
    display_name(Path::new(file.file_name().unwrap_or_default()))
}
