//! `dataset.json`: what goes into a model and what the numbers that come out mean.
//!
//! A dataset has either classes that exclude each other (one label number each, softmax) or regions that may
//! overlap (each a set of label numbers, sigmoid); any label of more than one number makes it the latter.
//!
//! Source: nnunetv2 2.8.1 `utilities/label_handling/label_handling.py`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::model::Error;
use super::model::json::{self, Field};
use crate::volume::{Label, LabelTable};
use serde::Serialize;

/// File endings of volumes. The ending says what the model was trained on; the voxels are the same in each.
const ENDINGS: [&str; 9] = [
    ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff",
];

/// A parsed dataset file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Names of the image channels in order; at least one.
    pub channel_names: Vec<String>,
    /// The network's outputs.
    pub classes: Classes,
    /// Every label number but 0 and the ignore label, ascending.
    pub foreground: Vec<u16>,
    /// The number that marks voxels without annotation in the training data; never predicted.
    pub ignore: Option<u16>,
    /// Ending of the dataset's image files, for example `.nii.gz`.
    pub file_ending: String,
}

/// What the network's output channels stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// One channel per class; channel, position and label number are the same. Names in that order, background
    /// first. The largest logit wins.
    Exclusive(Vec<String>),
    /// One channel per region, in file order. Where a region's probability exceeds 0.5 its number is written;
    /// later regions overwrite earlier ones.
    Regions(Vec<Region>),
}

/// A region: a union of labels with an output channel of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// The label numbers it consists of.
    pub labels: Vec<u16>,
    /// The number written to the label map (`regions_class_order`).
    pub written_as: u16,
}

impl DatasetInfo {
    /// Parses a dataset file; `file` is its name for messages.
    ///
    /// # Errors
    /// [`Error`] naming the file, the key, what was found and what was expected.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, Error> {
        let top = json::parse(bytes, file)?;
        let field = |key| Field::of(&top, "", key, file);
        let ending = field("file_ending");
        let file_ending = ending.text()?.to_owned();
        if !ENDINGS.contains(&file_ending.as_str()) {
            return Err(ending.unsupported(&ENDINGS.join(", ")));
        }
        let channels = match field("channel_names").present() {
            Some(channels) => channels,
            None => match field("modality").present() {
                Some(modality) => modality,
                None => field("channel_names"),
            },
        };
        let labels = parse_labels(&field("labels"))?;
        let mut foreground: Vec<u16> = labels
            .entries
            .iter()
            .flat_map(|entry| entry.numbers.iter().copied())
            .filter(|&number| number != 0)
            .collect();
        foreground.sort_unstable();
        foreground.dedup();
        let highest = foreground.last().copied().unwrap_or(0);
        if labels
            .ignore
            .is_some_and(|ignore| Some(ignore) != highest.checked_add(1))
        {
            return Err(field("labels")
                .get("ignore")
                .wrong("the number after the highest label"));
        }
        let classes = if labels.entries.iter().any(|entry| entry.numbers.len() > 1) {
            Classes::Regions(regions(&labels, &field("regions_class_order"))?)
        } else {
            Classes::Exclusive(exclusive(&labels, &foreground, &field("labels"))?)
        };
        let channel_names = channel_names(&channels)?;
        // Whole numbers from 0 on: a CT kept so is shifted by something the model folder does not say.
        let ct = channel_names
            .iter()
            .position(|name| name.eq_ignore_ascii_case("ct"));
        if let (Some(channel), ".png") = (ct, file_ending.as_str()) {
            return Err(ending.wrong(&format!(
                "a format that holds Hounsfield units, for channel {channel} is CT"
            )));
        }
        Ok(Self {
            channel_names,
            classes,
            foreground,
            ignore: labels.ignore,
            file_ending,
        })
    }

    /// Number of the network's output channels.
    pub fn heads(&self) -> usize {
        match &self.classes {
            Classes::Exclusive(names) => names.len(),
            Classes::Regions(regions) => regions.len(),
        }
    }

    /// Number of the network's input channels: the image's, and one per foreground label when the label map of
    /// a previous stage is an input.
    pub fn input_channels(&self, with_previous_stage: bool) -> usize {
        let labels = if with_previous_stage {
            self.foreground.len()
        } else {
            0
        };
        self.channel_names.len() + labels
    }

    /// Names and default colours of the numbers that can occur in a label map, background included.
    pub fn label_table(&self) -> LabelTable {
        let label = |number: u16, name: &str| {
            let name = name.to_owned();
            let rgb = LabelTable::default_rgb(number);
            (number, Label { name, rgb })
        };
        let mut table = LabelTable::default();
        match &self.classes {
            Classes::Exclusive(names) => {
                for (number, name) in (0_u16..).zip(names) {
                    let (number, label) = label(number, name);
                    table.insert(number, label);
                }
            }
            Classes::Regions(regions) => {
                for region in regions {
                    let (number, label) = label(region.written_as, &region.name);
                    table.insert(number, label);
                }
                let (number, label) = label(0, "background");
                table.insert(number, label);
            }
        }
        table
    }
}

/// Channel names in the order of their numbers.
fn channel_names(field: &Field<'_>) -> Result<Vec<String>, Error> {
    let names = field.object()?;
    if names.is_empty() {
        return Err(field.wrong("at least one channel"));
    }
    (0..names.len())
        .map(|channel| {
            let name = field.get(&channel.to_string());
            Ok(name.text()?.to_owned())
        })
        .collect()
}

struct Entry {
    name: String,
    numbers: Vec<u16>,
}

struct Labels {
    /// In file order, without the ignore label.
    entries: Vec<Entry>,
    ignore: Option<u16>,
}

fn parse_labels(field: &Field<'_>) -> Result<Labels, Error> {
    let number = |field: &Field<'_>| -> Result<u16, Error> {
        let whole = field.whole(0, usize::from(u16::MAX))?;
        u16::try_from(whole).map_err(|_| field.wrong("a label number"))
    };
    let mut labels = Labels {
        entries: Vec::new(),
        ignore: None,
    };
    for name in field.object()?.keys() {
        let value = field.get(name);
        if name == "ignore" {
            labels.ignore = Some(number(&value)?);
            continue;
        }
        if name.trim().is_empty() {
            return Err(value.wrong("a label with a name"));
        }
        let numbers = if value.is_list() {
            let mut numbers = value
                .list()?
                .iter()
                .map(number)
                .collect::<Result<Vec<_>, _>>()?;
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        } else {
            vec![number(&value)?]
        };
        if numbers.is_empty() || (name == "background" && (value.is_list() || numbers != [0])) {
            let expected = if name == "background" {
                "0"
            } else {
                "at least one label number"
            };
            return Err(value.wrong(expected));
        }
        labels.entries.push(Entry {
            name: name.clone(),
            numbers,
        });
    }
    if field.get("background").present().is_none() {
        return Err(field.get("background").wrong("the label number 0"));
    }
    Ok(labels)
}

/// Class names by number; numbers must be 0, 1, 2 … because the network's channels are.
fn exclusive(labels: &Labels, foreground: &[u16], field: &Field<'_>) -> Result<Vec<String>, Error> {
    if foreground.is_empty() {
        return Err(field.wrong("at least one label besides background"));
    }
    let consecutive = (1_u16..)
        .zip(foreground)
        .all(|(expected, &found)| expected == found);
    if !consecutive {
        let numbers: Vec<String> = foreground.iter().map(u16::to_string).collect();
        let found = format!("0, {}", numbers.join(", "));
        return Err(field.wrong_because("label numbers without gaps", found));
    }
    let mut names = vec!["background".to_owned()];
    for number in foreground {
        let entry = labels
            .entries
            .iter()
            .find(|entry| entry.numbers.contains(number));
        names.extend(entry.map(|entry| entry.name.clone()));
    }
    Ok(names)
}

fn regions(labels: &Labels, order: &Field<'_>) -> Result<Vec<Region>, Error> {
    // Regions that are nothing but background have no channel.
    let entries = labels.entries.iter().filter(|entry| entry.numbers != [0]);
    let entries: Vec<&Entry> = entries.collect();
    let expected = format!("{} label numbers, one for each region", entries.len());
    let numbers = order
        .wholes(0, usize::from(u16::MAX))
        .map_err(|_| order.wrong(&expected))?;
    if numbers.len() != entries.len() {
        return Err(order.wrong(&expected));
    }
    let region = |(entry, number): (&Entry, usize)| {
        Ok(Region {
            name: entry.name.clone(),
            labels: entry.numbers.clone(),
            written_as: u16::try_from(number).map_err(|_| order.wrong(&expected))?,
        })
    };
    entries.into_iter().zip(numbers).map(region).collect()
}

/// The classes for a report: number and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassDescription {
    /// Number in the label map.
    pub number: u16,
    /// Name.
    pub name: String,
}

impl DatasetInfo {
    /// The numbers and names of [`DatasetInfo::label_table`], background first.
    pub fn describe_classes(&self) -> Vec<ClassDescription> {
        self.label_table()
            .iter()
            .map(|(number, label)| ClassDescription {
                number,
                name: label.name.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(labels: &str, more: &str) -> Result<DatasetInfo, Error> {
        let json = format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {labels}, "file_ending": ".nii.gz"{more}}}"#
        );
        DatasetInfo::parse(json.as_bytes(), "dataset.json")
    }

    fn message(labels: &str, more: &str) -> String {
        parse(labels, more).unwrap_err().to_string()
    }

    #[test]
    fn exclusive_classes_by_number() {
        let info = parse(
            r#"{"background": 0, "tumour": 2, "kidney": [1], "ignore": 3}"#,
            "",
        )
        .unwrap();
        let names = ["background", "kidney", "tumour"].map(str::to_owned);
        assert_eq!(info.classes, Classes::Exclusive(names.to_vec()));
        assert_eq!((info.heads(), info.ignore), (3, Some(3)));
        assert_eq!(info.foreground, [1, 2]);
        assert_eq!(
            (info.input_channels(false), info.input_channels(true)),
            (1, 3)
        );
        assert_eq!(info.label_table().name_of(2), "tumour");
    }

    #[test]
    fn regions_in_file_order() {
        let info = parse(
            r#"{"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}"#,
            r#", "regions_class_order": [1, 2, 3]"#,
        )
        .unwrap();
        let Classes::Regions(regions) = &info.classes else {
            panic!("regions expected");
        };
        assert_eq!(regions[1].name, "core");
        assert_eq!(
            (&regions[1].labels[..], regions[1].written_as),
            (&[2, 3][..], 2)
        );
        assert_eq!(info.heads(), 3);
        assert_eq!(info.label_table().len(), 4);
    }

    #[test]
    fn wrong_labels_name_the_key() {
        let gap = message(r#"{"background": 0, "a": 1, "b": 5}"#, "");
        assert!(
            gap.starts_with(
                "dataset.json: labels: expected label numbers without gaps, found 0, 1, 5"
            ),
            "{gap}"
        );
        let none = message(r#"{"a": 1}"#, "");
        assert!(
            none.contains("labels.background: expected the label number 0"),
            "{none}"
        );
        assert!(message(r#"{"background": 1}"#, "").contains("labels.background: expected 0"));
        assert!(message(r#"{"background": 0}"#, "").contains("besides background"));
        assert!(message(r#"{"background": 0, "a": -1}"#, "").contains("labels.a"));
        assert!(message(r#"{"background": 0, "a": []}"#, "").contains("labels.a"));
        assert!(message(r#"{"background": 0, "a": 1, "ignore": 7}"#, "").contains("labels.ignore"));
        assert!(message(r#"["a", "b"]"#, "").contains("labels: expected an object"));
        let order = message(r#"{"background": 0, "whole": [1, 2], "core": 2}"#, "");
        assert!(
            order.contains("regions_class_order: expected 2 label numbers"),
            "{order}"
        );
    }

    #[test]
    fn pictures_hold_no_hounsfield_units() {
        let parse = |channel: &str, ending: &str| {
            let json = format!(
                r#"{{"channel_names": {{"0": "{channel}"}}, "labels": {{"background": 0, "a": 1}}, "file_ending": "{ending}"}}"#
            );
            DatasetInfo::parse(json.as_bytes(), "dataset.json")
        };
        let error = parse("CT", ".png").unwrap_err().to_string();
        assert!(
            error.contains("file_ending") && error.contains("Hounsfield"),
            "{error}"
        );
        assert!(parse("R", ".png").is_ok() && parse("CT", ".tif").is_ok());
    }

    #[test]
    fn the_old_name_of_channels() {
        let json = br#"{"modality": {"1": "FLAIR", "0": "T1"}, "labels": {"background": 0, "a": 1},
            "file_ending": ".nii.gz"}"#;
        let info = DatasetInfo::parse(json, "dataset.json").unwrap();
        assert_eq!(info.channel_names, ["T1", "FLAIR"]);
    }
}
