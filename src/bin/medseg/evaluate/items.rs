//! What there is to score: pairs of files, and what has no partner.

use super::Args;
use crate::context::{Context, print_text};
use crate::outcome::{Outcome, Usage};
use medseg::evaluate::pairing::{Pairing, pair};
use medseg::evaluate::results::{Failure, FailureKind};
use medseg::io::batch::{Case, case_name, find_cases};
use medseg::io::display_name;
use std::path::{Path, PathBuf};

/// One case by name.
pub struct Item {
    pub case: String,
    /// Prediction and reference, or why there is no pair.
    pub files: Result<(PathBuf, PathBuf), Failure>,
}

/// The cases of this run, by name.
pub struct Items {
    pub list: Vec<Item>,
    /// The first pair of all shards, which can have a label table: prediction and reference.
    pub first_pair: Option<(PathBuf, PathBuf)>,
}

impl Items {
    /// Finds and pairs the files of the command line; only the cases of the shard, where there is one.
    pub fn find(args: &Args) -> anyhow::Result<Self> {
        let (Some(predictions), Some(references)) = (&args.predictions, &args.references) else {
            return Err(Usage("both --predictions and --references are needed".to_owned()).into());
        };
        let mut items = match (predictions.is_dir(), references.is_dir()) {
            (true, true) => paired(pair(files_of(predictions)?, files_of(references)?)),
            (false, false) => {
                let case = case_name(references).to_string_lossy().into_owned();
                let files = Ok((predictions.clone(), references.clone()));
                vec![Item { case, files }]
            }
            (is_folder, _) => {
                let (folder, file) = if is_folder {
                    (predictions, references)
                } else {
                    (references, predictions)
                };
                return Err(Usage(format!(
                    "{} is a folder and {} is not: name two files or two folders",
                    display_name(folder),
                    display_name(file)
                ))
                .into());
            }
        };
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
    pub fn list(&self, args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
        let mut text = String::new();
        let mut broken = 0;
        for item in &self.list {
            text += &match &item.files {
                Ok((prediction, reference)) => format!(
                    "{}: {} with {}\n",
                    item.case,
                    display_name(prediction),
                    display_name(reference)
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

fn files_of(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let found = find_cases(&[folder.to_owned()], None)?;
    let file = |case: Case| {
        Some((
            case.id.to_string_lossy().into_owned(),
            case.channels.into_iter().next()?,
        ))
    };
    Ok(found.cases.into_iter().filter_map(file).collect())
}

fn paired(pairing: Pairing<PathBuf>) -> Vec<Item> {
    let failed = |case: String, kind: FailureKind, reason: String| Item {
        case: case.clone(),
        files: Err(Failure { case, kind, reason }),
    };
    let mut items: Vec<Item> = pairing
        .pairs
        .into_iter()
        .map(|(case, prediction, reference)| Item {
            case,
            files: Ok((prediction, reference)),
        })
        .collect();
    items.extend(pairing.without_prediction.into_iter().map(|(case, file)| {
        let reason = format!("{}: there is no prediction of this name", shown(&file));
        failed(case, FailureKind::MissingPrediction, reason)
    }));
    items.extend(pairing.without_reference.into_iter().map(|(case, file)| {
        let reason = format!("{}: there is no reference of this name", shown(&file));
        failed(case, FailureKind::MissingReference, reason)
    }));
    items.extend(pairing.ambiguous.into_iter().map(|(case, files)| {
        let names: Vec<String> = files.iter().map(|file| shown(file)).collect();
        let reason = format!("several files of one name: {}", names.join(", "));
        failed(case, FailureKind::Ambiguous, reason)
    }));
    items
}

/// The file name alone: results say the same wherever the folders are.
pub fn shown(file: &Path) -> String {
    display_name(Path::new(file.file_name().unwrap_or_default()))
}
