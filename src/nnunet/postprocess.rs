//! The postprocessing that cross-validation chose: nnU-Net's `postprocessing.json` or its twin `postprocessing.pkl`.
//!
//! The only function nnU-Net 2.8.1 writes there is `remove_all_but_largest_component_from_segmentation`: of the
//! union of some labels only the largest connected component stays (26 neighbours; of several equally large ones
//! all), and what is removed becomes background. nnU-Net predicts without it and applies it afterwards,
//! in the order of the file (`nnUNetv2_apply_postprocessing`).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::model::Error;
use super::model::json::{self, Field};
use crate::nn::weights::pickle::{Item, Limits, Pickle};
use crate::topology::components::{Connectivity, TooManyRuns, label_components};
use ndarray::{ArrayViewMut3, Zip};
use serde_json::{Map, Value};

/// The one function there is.
const FUNCTION: &str = "remove_all_but_largest_component_from_segmentation";

/// The first byte of a pickle of protocol 2 or later.
const PICKLE: u8 = 0x80;

/// What to do with a label map, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postprocessing {
    steps: Vec<KeepLargest>,
}

/// Of the union of `labels` only the largest component stays.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeepLargest {
    labels: Vec<u16>,
    background: u16,
}

impl Postprocessing {
    /// Parses a `postprocessing.json` or a `postprocessing.pkl`, told apart by their first byte; `file` is the name for
    /// messages. Nothing in a pickle is executed.
    ///
    /// # Errors
    /// [`Error`] naming the key: another function, labels that are no label numbers; a pickle that is cut or holds
    /// something else.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, Error> {
        let top = match bytes.first() {
            Some(&PICKLE) => unpickled(bytes, file)?,
            _ => json::parse(bytes, file)?,
        };
        let functions = Field::of(&top, "", "postprocessing_fns", file);
        let arguments = Field::of(&top, "", "postprocessing_kwargs", file);
        let (names, all) = (functions.list()?, arguments.list()?);
        if names.len() != all.len() {
            return Err(arguments.wrong(&format!("{} entries, one per function", names.len())));
        }
        let steps = names.iter().zip(all).map(|(name, arguments)| {
            if name.text()? != FUNCTION {
                return Err(name.unsupported(FUNCTION));
            }
            let mut labels = Vec::new();
            // A region is a list of labels; in a union it counts as its labels do.
            collect(&arguments.get("labels_or_regions"), &mut labels)?;
            let background = match arguments.get("background_label").present() {
                Some(field) => label(&field)?,
                None => 0,
            };
            Ok(KeepLargest { labels, background })
        });
        Ok(Self {
            steps: steps.collect::<Result<_, _>>()?,
        })
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether cross-validation found nothing that helps.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Applies all steps to `labels` (`[z, y, x]`). A label map without the labels stays as it is. Time and
    /// memory per step: as [`label_components`], and 2 bytes per voxel.
    ///
    /// # Errors
    /// [`TooManyRuns`] for label maps with more than 2^32 stretches of voxels.
    pub fn apply(&self, mut labels: ArrayViewMut3<'_, u16>) -> Result<(), TooManyRuns> {
        for step in &self.steps {
            let mask = labels.map(|label| step.labels.contains(label));
            let components = label_components(mask.view(), Connectivity::TwentySix)?;
            let sizes = components.list().iter().map(|component| component.voxels);
            let Some(largest) = sizes.max() else {
                continue;
            };
            let kept = components.mask(|_, component| component.voxels == largest);
            Zip::from(&mut labels)
                .and(&mask)
                .and(&kept)
                .for_each(|label, &concerned, &kept| {
                    if concerned && !kept {
                        *label = step.background;
                    }
                });
        }
        Ok(())
    }
}

/// The keys of `postprocessing.json` with what the pickle holds: a list of functions and one of their arguments.
fn unpickled(bytes: &[u8], file: &str) -> Result<Map<String, Value>, Error> {
    let malformed = |problem: String| Error::Malformed {
        file: file.to_owned(),
        problem,
    };
    let pickle = Pickle::parse(bytes.to_vec(), Limits::for_file(bytes.len() as u64))
        .map_err(|error| malformed(error.to_string()))?;
    let [functions, arguments] = pickle
        .root()
        .tuple()
        .ok_or_else(|| malformed("the pickle is no pair of functions and arguments".to_owned()))?;
    let wrong = |what: &str| malformed(format!("the pickle holds {what}"));
    Ok(Map::from_iter([
        (
            "postprocessing_fns".to_owned(),
            value(functions).ok_or_else(|| wrong("something else than functions"))?,
        ),
        (
            "postprocessing_kwargs".to_owned(),
            value(arguments).ok_or_else(|| wrong("arguments of unknown kinds"))?,
        ),
    ]))
}

/// Lists, dictionaries, whole numbers, text, `None`, and imported functions by name; `None` for anything else.
fn value(item: Item<'_>) -> Option<Value> {
    if let Some((_, name)) = item.global() {
        return Some(Value::from(name));
    }
    if let Some(elements) = item.elements() {
        return elements.map(value).collect();
    }
    if let Some(entries) = item.entries() {
        let entries = entries.map(|(key, item)| Some((key.as_str()?.to_owned(), value(item)?)));
        return entries.collect();
    }
    if item.is_none() {
        return Some(Value::Null);
    }
    let text = item.as_str().map(Value::from);
    text.or_else(|| item.as_i64().map(Value::from))
}

/// All label numbers in a number or in lists of them.
fn collect(field: &Field<'_>, labels: &mut Vec<u16>) -> Result<(), Error> {
    if field.is_list() {
        for element in field.list()? {
            collect(&element, labels)?;
        }
    } else {
        labels.push(label(field)?);
    }
    Ok(())
}

fn label(field: &Field<'_>) -> Result<u16, Error> {
    let number = field.whole(0, usize::from(u16::MAX))?;
    u16::try_from(number).map_err(|_| field.wrong("a label number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn parse(fns: &str, kwargs: &str) -> Result<Postprocessing, Error> {
        let text = format!(r#"{{"postprocessing_fns": {fns}, "postprocessing_kwargs": {kwargs}}}"#);
        Postprocessing::parse(text.as_bytes(), "postprocessing.json")
    }

    fn keep(kwargs: &str) -> Postprocessing {
        parse(&format!(r#"["{FUNCTION}"]"#), &format!("[{kwargs}]")).unwrap()
    }

    #[test]
    fn labels_count_together_and_ties_stay() {
        let map = array![[
            [1, 2, 0, 2, 0],
            [0, 0, 0, 0, 0],
            [1, 0, 3, 0, 1],
            [0, 0, 3, 0, 0]
        ]];
        let mut both = map.clone();
        keep(r#"{"labels_or_regions": [1, [2]]}"#)
            .apply(both.view_mut())
            .unwrap();
        let expected = array![[
            [1, 2, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 3, 0, 0],
            [0, 0, 3, 0, 0]
        ]];
        assert_eq!(both, expected);
        // Three single voxels of label 1 are equally large; of label 7 there are none.
        for unchanged in ["1", "7"] {
            let mut ties = map.clone();
            keep(&format!(r#"{{"labels_or_regions": {unchanged}}}"#))
                .apply(ties.view_mut())
                .unwrap();
            assert_eq!(ties, map);
        }
    }

    /// `pickle.dumps(([f, f], [{'labels_or_regions': [1, (2, 3)]}, {'labels_or_regions': 4, 'background_label': 0}]), 2)`
    /// with `f` the function of nnU-Net 2.8.1.
    const PICKLED: &[u8] = include_bytes!("../../testdata/postprocessing/postprocessing.pkl");

    #[test]
    fn the_pickled_twin_says_the_same() {
        let pickled = Postprocessing::parse(PICKLED, "postprocessing.pkl").unwrap();
        let text = r#"[{"labels_or_regions": [1, [2, 3]]}, {"labels_or_regions": 4, "background_label": 0}]"#;
        assert_eq!(
            pickled,
            parse(&format!(r#"["{FUNCTION}", "{FUNCTION}"]"#), text).unwrap()
        );
        for end in 0..PICKLED.len() {
            assert!(Postprocessing::parse(&PICKLED[..end], "cut.pkl").is_err());
        }
    }

    #[test]
    fn corners_connect() {
        let mut map = array![[[1, 0], [0, 1]], [[0, 0], [0, 0]]];
        let before = map.clone();
        keep(r#"{"labels_or_regions": 1}"#)
            .apply(map.view_mut())
            .unwrap();
        assert_eq!(map, before);
    }

    #[test]
    fn wrong_files_name_the_key() {
        let message = |fns, kwargs| parse(fns, kwargs).unwrap_err().to_string();
        assert!(message(r#"["shake"]"#, "[{}]").contains("postprocessing_fns[0]"));
        assert!(message("[]", "[{}]").contains("0 entries"));
        let text = message(
            &format!(r#"["{FUNCTION}"]"#),
            r#"[{"labels_or_regions": "a"}]"#,
        );
        assert!(
            text.contains("postprocessing_kwargs[0].labels_or_regions"),
            "{text}"
        );
        assert!(parse("[]", "[]").unwrap().is_empty());
    }
}
