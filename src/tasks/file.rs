//! Task files: TOML to [`Task`].
//!
//! ```toml
//! description = "kidney and tumor from two phases"
//! channels = ["A", "P"]                    # input images; the result is on the grid of the first
//! labels = { kidney = 1, tumor = 3 }       # or a list (1, 2, ...), or the name of a label scheme
//! priority = ["tumor"]                     # these win voxels over other labels
//!
//! [[models]]
//! model = "Dataset123_Kidney"              # number or name of the dataset, or a path
//! labels = { renal_mass = "tumor" }        # the model's name or number = the task's name
//!
//! [[steps]]
//! step = "remove-small"
//! labels = ["tumor"]
//! volume_mm3 = 10
//! ```
//!
//! docs/tasks.md describes every key. Unknown keys are errors.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::definition::{
    Crop, Included, Input, LabelMapping, ModelRef, ModelUse, Step, Task, Work,
};
use crate::volume::{Label, LabelTable};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A task file that cannot be used: what is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct FileError {
    /// Name of the file as shown to people.
    pub file: String,
    /// What was found and what was expected.
    pub problem: String,
}

/// Where a task file finds what it names.
pub struct Sources<'a> {
    /// Label schemes by name.
    pub scheme: &'a dyn Fn(&str) -> Option<LabelTable>,
    /// Other tasks by name.
    pub task: &'a dyn Fn(&str) -> Result<Option<Task>, FileError>,
}

/// A task as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: String,
    channels: Vec<String>,
    labels: RawLabels,
    #[serde(default)]
    priority: Vec<String>,
    #[serde(default)]
    canonical: bool,
    spacing_mm: Option<[f64; 3]>,
    #[serde(default = "half")]
    step: f64,
    #[serde(default = "yes")]
    mirroring: bool,
    crop: Option<RawCrop>,
    subset_crop: Option<String>,
    #[serde(default)]
    models: Vec<RawModel>,
    #[serde(default)]
    tasks: Vec<RawTask>,
    #[serde(default)]
    steps: Vec<RawStep>,
}

fn half() -> f64 {
    0.5
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum RawLabels {
    Scheme(String),
    List(Vec<String>),
    Numbers(BTreeMap<String, u16>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCrop {
    task: String,
    labels: Vec<String>,
    #[serde(default)]
    margin_mm: [f64; 3],
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Dataset {
    Number(u32),
    Name(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    model: Dataset,
    trainer: Option<String>,
    plans: Option<String>,
    configuration: Option<String>,
    folds: Option<Vec<u32>>,
    channels: Option<Vec<String>>,
    labels: Option<RawMapping>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum RawMapping {
    Word(String),
    List(Vec<String>),
    Names(BTreeMap<String, String>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    task: String,
    channels: Option<Vec<String>>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, tag = "step", rename_all = "kebab-case")]
enum RawStep {
    Discard {
        labels: Vec<String>,
    },
    KeepLargest {
        labels: Vec<String>,
    },
    RemoveSmall {
        labels: Vec<String>,
        volume_mm3: f64,
    },
    VesselConnect {
        labels: Vec<String>,
        #[serde(default = "gap")]
        max_gap_mm: f64,
    },
}

fn gap() -> f64 {
    20.0
}

/// Reads one task; `name` is used where the file gives none, `file` is how messages call it.
///
/// # Errors
/// [`FileError`] with the line or the key.
pub fn parse(text: &str, name: &str, file: &str, sources: &Sources<'_>) -> Result<Task, FileError> {
    let raw: Raw = from_toml(text, file)?;
    check(raw, name, file, sources)
}

/// Reads a file with several tasks by name.
pub(super) fn parse_many(text: &str, file: &str) -> Result<BTreeMap<String, Raw>, FileError> {
    from_toml(text, file)
}

fn from_toml<T: serde::de::DeserializeOwned>(text: &str, file: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start));
        let line = line.map_or(1, |before| before.matches('\n').count() + 1);
        FileError {
            file: file.to_owned(),
            problem: format!("line {line}: {}", error.message().replace('\n', " ")),
        }
    })
}

/// Turns names into numbers and refuses what does not fit together.
pub(super) fn check(
    raw: Raw,
    name: &str,
    file: &str,
    sources: &Sources<'_>,
) -> Result<Task, FileError> {
    let name = raw.name.clone().unwrap_or_else(|| name.to_owned());
    let check = Check {
        file,
        sources,
        labels: table(&raw.labels, sources).map_err(|problem| FileError {
            file: file.to_owned(),
            problem: format!("{name}: labels: {problem}"),
        })?,
        name,
        channels: &raw.channels,
    };
    let work = check.work(&raw)?;
    let numbers = |labels: &[String], key: &str| check.numbers(labels, key);
    let steps = raw.steps.iter().map(|step| {
        Ok(match step {
            RawStep::Discard { labels } => Step::Discard {
                labels: numbers(labels, "discard")?,
            },
            RawStep::KeepLargest { labels } => Step::KeepLargest {
                labels: numbers(labels, "keep-largest")?,
            },
            RawStep::RemoveSmall { labels, volume_mm3 } => Step::RemoveSmall {
                labels: numbers(labels, "remove-small")?,
                volume_mm3: check.positive(*volume_mm3, "volume_mm3")?,
            },
            RawStep::VesselConnect { labels, max_gap_mm } => Step::VesselConnect {
                labels: numbers(labels, "vessel-connect")?,
                max_gap_mm: check.positive(*max_gap_mm, "max_gap_mm")?,
            },
        })
    });
    let steps = steps.collect::<Result<_, FileError>>()?;
    let priority = numbers(&raw.priority, "priority")?;
    Ok(Task {
        description: raw.description,
        channels: raw.channels.clone(),
        priority,
        work,
        steps,
        kept: None,
        labels: check.labels,
        name: check.name,
    })
}

/// A label table with background.
fn table(raw: &RawLabels, sources: &Sources<'_>) -> Result<LabelTable, String> {
    let mut table = LabelTable::default();
    let mut insert = |number: u16, name: &str| {
        table.insert(
            number,
            Label {
                name: name.to_owned(),
                rgb: LabelTable::default_rgb(number),
            },
        );
    };
    insert(0, "background");
    match raw {
        RawLabels::Scheme(name) => {
            return (sources.scheme)(name)
                .ok_or_else(|| format!("there is no label scheme {name}"));
        }
        RawLabels::List(names) => {
            for (name, number) in names.iter().zip(1..=u16::MAX) {
                insert(number, name);
            }
        }
        RawLabels::Numbers(numbers) => {
            let mut taken = BTreeMap::new();
            for (name, &number) in numbers {
                if number == 0 {
                    return Err(format!("{name} is 0, which is background"));
                }
                if let Some(other) = taken.insert(number, name) {
                    return Err(format!("{other} and {name} are both {number}"));
                }
                insert(number, name);
            }
        }
    }
    Ok(table)
}

/// What a check needs.
struct Check<'a> {
    file: &'a str,
    name: String,
    sources: &'a Sources<'a>,
    labels: LabelTable,
    channels: &'a [String],
}

impl Check<'_> {
    fn wrong<T>(&self, problem: &str) -> Result<T, FileError> {
        Err(FileError {
            file: self.file.to_owned(),
            problem: format!("{}: {problem}", self.name),
        })
    }

    fn number(&self, label: &str, key: &str) -> Result<u16, FileError> {
        match self.labels.number_of(label) {
            Some(number) => Ok(number),
            None => self.wrong(&format!("{key}: the task has no label {label}")),
        }
    }

    fn numbers(&self, labels: &[String], key: &str) -> Result<Vec<u16>, FileError> {
        labels.iter().map(|label| self.number(label, key)).collect()
    }

    fn positive(&self, value: f64, key: &str) -> Result<f64, FileError> {
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            self.wrong(&format!("{key} is {value}, expected a number above 0"))
        }
    }

    /// Positions of channels; without a list the first `default` ones.
    fn channels(
        &self,
        names: Option<&[String]>,
        default: usize,
        key: &str,
    ) -> Result<Vec<usize>, FileError> {
        let Some(names) = names else {
            return Ok((0..default).collect());
        };
        let positions = names.iter().map(|name| {
            match self.channels.iter().position(|channel| channel == name) {
                Some(position) => Ok(position),
                None => self.wrong(&format!(
                    "{key}: there is no channel {name} among {}",
                    self.channels.join(", ")
                )),
            }
        });
        positions.collect()
    }

    fn task(&self, name: &str) -> Result<Task, FileError> {
        match (self.sources.task)(name)? {
            Some(task) => Ok(task),
            None => self.wrong(&format!(
                "there is no task {name}: medseg info --tasks lists them"
            )),
        }
    }

    fn work(&self, raw: &Raw) -> Result<Work, FileError> {
        if self.channels.is_empty() {
            return self.wrong("channels: expected at least one name");
        }
        for (position, channel) in self.channels.iter().enumerate() {
            if self
                .channels
                .iter()
                .skip(position + 1)
                .any(|other| other == channel)
            {
                return self.wrong(&format!("channels: {channel} comes twice"));
            }
        }
        match (raw.models.is_empty(), raw.tasks.is_empty()) {
            (true, true) => self.wrong("expected [[models]] or [[tasks]]"),
            (false, false) => {
                self.wrong("has models and tasks: make the models a task of their own")
            }
            (false, true) => self.models(raw),
            (true, false) => self.tasks(raw),
        }
    }

    fn models(&self, raw: &Raw) -> Result<Work, FileError> {
        if !(raw.step > 0.0 && raw.step <= 1.0) {
            return self.wrong(&format!(
                "step is {}, expected a fraction above 0 and at most 1",
                raw.step
            ));
        }
        let spacing_mm = match raw.spacing_mm {
            Some([x, y, z]) => {
                for mm in [x, y, z] {
                    self.positive(mm, "spacing_mm")?;
                }
                Some([z, y, x])
            }
            None => None,
        };
        let crop = raw.crop.as_ref().map(|crop| self.crop(crop)).transpose()?;
        let models = raw.models.iter().map(|model| {
            Ok(ModelUse {
                model: ModelRef {
                    dataset: match &model.model {
                        Dataset::Number(number) => number.to_string(),
                        Dataset::Name(name) => name.clone(),
                    },
                    trainer: model.trainer.clone(),
                    plans: model.plans.clone(),
                    configuration: model.configuration.clone(),
                    folds: model.folds.clone(),
                    step_permille: (raw.step * 1000.0).round() as u32,
                    mirroring: raw.mirroring,
                },
                channels: self.channels(
                    model.channels.as_deref(),
                    self.channels.len(),
                    "models.channels",
                )?,
                labels: self.mapping(model.labels.as_ref())?,
            })
        });
        Ok(Work::Models {
            input: Input {
                canonical: raw.canonical || spacing_mm.is_some(),
                spacing_mm,
                crop: crop.map(Box::new),
            },
            models: models.collect::<Result<_, FileError>>()?,
            subset_crop: raw.subset_crop.clone(),
        })
    }

    fn crop(&self, crop: &RawCrop) -> Result<Crop, FileError> {
        let task = self.task(&crop.task)?;
        if task.channels.len() > 1 {
            return self.wrong(&format!(
                "crop: {} takes {} channels, expected a task of one",
                crop.task,
                task.channels.len()
            ));
        }
        let [x, y, z] = crop.margin_mm;
        if !crop.margin_mm.iter().all(|mm| mm.is_finite() && *mm >= 0.0) {
            return self.wrong("crop: margin_mm: expected three numbers of at least 0");
        }
        let labels = crop
            .labels
            .iter()
            .map(|label| match task.labels.number_of(label) {
                Some(number) => Ok(number),
                None => self.wrong(&format!("crop: {} has no label {label}", crop.task)),
            });
        Ok(Crop {
            labels: labels.collect::<Result<_, FileError>>()?,
            margin_mm: [z, y, x],
            task,
        })
    }

    fn mapping(&self, raw: Option<&RawMapping>) -> Result<LabelMapping, FileError> {
        let key = "models.labels";
        Ok(match raw {
            None => LabelMapping::Names,
            Some(RawMapping::Word(word)) if word == "numbers" => LabelMapping::Numbers,
            Some(RawMapping::Word(word)) => {
                return self.wrong(&format!(
                    "{key}: found {word}, expected \"numbers\", a list or a table"
                ));
            }
            Some(RawMapping::List(names)) => LabelMapping::ByNumber(
                (1..=u16::MAX)
                    .zip(names)
                    .map(|(number, name)| Ok((number, self.number(name, key)?)))
                    .collect::<Result<_, FileError>>()?,
            ),
            Some(RawMapping::Names(names)) => {
                let numbered: Option<BTreeMap<u16, &String>> = names
                    .iter()
                    .map(|(from, to)| Some((from.parse().ok()?, to)))
                    .collect();
                match numbered {
                    Some(numbered) => LabelMapping::ByNumber(
                        numbered
                            .into_iter()
                            .map(|(from, to)| Ok((from, self.number(to, key)?)))
                            .collect::<Result<_, FileError>>()?,
                    ),
                    None => LabelMapping::ByName(
                        names
                            .iter()
                            .map(|(from, to)| Ok((from.clone(), self.number(to, key)?)))
                            .collect::<Result<_, FileError>>()?,
                    ),
                }
            }
        })
    }

    fn tasks(&self, raw: &Raw) -> Result<Work, FileError> {
        if raw.spacing_mm.is_some() || raw.crop.is_some() || raw.canonical {
            return self.wrong("spacing_mm, canonical and crop belong to a task with models");
        }
        let tasks = raw.tasks.iter().map(|included| {
            let task = self.task(&included.task)?;
            let channels = self.channels(
                included.channels.as_deref(),
                task.channels.len(),
                "tasks.channels",
            )?;
            if channels.len() != task.channels.len()
                || channels
                    .iter()
                    .any(|&channel| channel >= self.channels.len())
            {
                return self.wrong(&format!(
                    "{}: takes the channels {}; name one of {} for each",
                    included.task,
                    task.channels.join(", "),
                    self.channels.join(", ")
                ));
            }
            // The result lies on the first channel's grid, and so must every part of it.
            if channels.first() != Some(&0) {
                return self.wrong(&format!(
                    "{}: its first channel must be {}, whose grid the result has",
                    included.task,
                    self.channels.first().map_or("", String::as_str)
                ));
            }
            let mut labels = BTreeMap::new();
            for (pattern, to) in &included.labels {
                let to = self.number(to, "tasks.labels")?;
                let before = labels.len();
                for (number, label) in task.labels.iter() {
                    if number != 0 && matches(pattern, &label.name) {
                        labels.insert(number, to);
                    }
                }
                if labels.len() == before {
                    return self.wrong(&format!("{} has no label {pattern}", included.task));
                }
            }
            let wanted: Vec<u16> = labels.keys().copied().collect();
            Ok(Included {
                task: task.restricted(&wanted),
                channels,
                labels,
            })
        });
        Ok(Work::Tasks(tasks.collect::<Result<_, FileError>>()?))
    }
}

/// Whether `name` fits `pattern`, in which one `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
