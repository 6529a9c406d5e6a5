//! Labels of one map written into another.

use super::definition::LabelMapping;
use crate::volume::LabelTable;
use ndarray::{Array3, ArrayView3, Zip};

/// Which label of the result each label of a model becomes; 0 for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation(Vec<u16>);

/// A mapping that names a label which the model does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A name that the model does not know.
    #[error("the model has no label {name}: it has {known}")]
    UnknownName {
        /// The name in the task.
        name: String,
        /// What the model calls its labels.
        known: String,
    },
    /// No label of the model has a name of the task.
    #[error("none of the model's labels ({known}) is called as a label of the task: map them")]
    NothingInCommon {
        /// What the model calls its labels.
        known: String,
    },
}

impl Translation {
    /// The translation of a model with the labels `of` into those of the task, `into`.
    ///
    /// # Errors
    /// [`MappingError`] when names do not agree.
    pub fn new(
        mapping: &LabelMapping,
        of: &LabelTable,
        into: &LabelTable,
    ) -> Result<Self, MappingError> {
        let known = || {
            let names = of.iter().filter(|(number, _)| *number != 0);
            names
                .map(|(_, label)| label.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let pairs: Vec<(u16, u16)> = match mapping {
            LabelMapping::Numbers => into.iter().map(|(number, _)| (number, number)).collect(),
            LabelMapping::ByNumber(map) => map.iter().map(|(from, to)| (*from, *to)).collect(),
            LabelMapping::Names => {
                let pairs: Vec<(u16, u16)> = of
                    .iter()
                    .filter(|(number, _)| *number != 0)
                    .filter_map(|(number, label)| Some((number, into.number_of(&label.name)?)))
                    .collect();
                if pairs.is_empty() {
                    return Err(MappingError::NothingInCommon { known: known() });
                }
                pairs
            }
            LabelMapping::ByName(map) => map
                .iter()
                .map(|(name, to)| {
                    let number = of.number_of(name);
                    number
                        .map(|from| (from, *to))
                        .ok_or_else(|| MappingError::UnknownName {
                            name: name.clone(),
                            known: known(),
                        })
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self::of_pairs(pairs))
    }

    /// From pairs of a label and what it becomes.
    pub fn of_pairs(pairs: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut table = Vec::new();
        for (from, to) in pairs {
            let from = usize::from(from);
            if from != 0 {
                if table.len() <= from {
                    table.resize(from + 1, 0);
                }
                table[from] = to;
            }
        }
        Self(table)
    }

    /// What `label` becomes.
    pub fn apply(&self, label: u16) -> u16 {
        self.0.get(usize::from(label)).copied().unwrap_or(0)
    }
}

/// Which of two labels keeps a voxel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks(Vec<u16>);

impl Ranks {
    /// Labels of `priority` stand above all others, the first highest.
    pub fn new(priority: &[u16]) -> Self {
        let mut ranks = Vec::new();
        for (position, &label) in priority.iter().rev().enumerate() {
            let label = usize::from(label);
            if ranks.len() <= label {
                ranks.resize(label + 1, 0);
            }
            ranks[label] = position as u16 + 1;
        }
        Self(ranks)
    }

    fn of(&self, label: u16) -> u16 {
        self.0.get(usize::from(label)).copied().unwrap_or(0)
    }
}

/// The labels of several maps of one shape, merged as they come. The first one's array is used on: only one map is held besides that
/// which is being made.
pub struct Merged {
    shape: [usize; 3],
    ranks: Ranks,
    labels: Option<Array3<u16>>,
}

impl Merged {
    /// Of maps `[z, y, x]` of `shape`, before the first.
    pub fn new(shape: [usize; 3], ranks: Ranks) -> Self {
        Self {
            shape,
            ranks,
            labels: None,
        }
    }

    /// Merges the next map, see [`merge`].
    pub fn add(&mut self, mut found: Array3<u16>, translation: &Translation) {
        match &mut self.labels {
            Some(labels) => merge(labels, found.view(), translation, &self.ranks),
            None => {
                found.mapv_inplace(|label| translation.apply(label));
                self.labels = Some(found);
            }
        }
    }

    /// Voxels that are held.
    pub fn voxels(&self) -> usize {
        self.labels.as_ref().map_or(0, Array3::len)
    }

    /// The result; background where no map came.
    pub fn finish(self) -> Array3<u16> {
        self.labels.unwrap_or_else(|| Array3::zeros(self.shape))
    }
}

/// Writes the translated labels of `found` into `merged`, both `[z, y, x]` of one shape. Background never
/// overwrites; another label does, unless the one that is there has a higher rank. One pass.
pub fn merge(
    merged: &mut Array3<u16>,
    found: ArrayView3<'_, u16>,
    translation: &Translation,
    ranks: &Ranks,
) {
    Zip::from(merged).and(found).for_each(|voxel, &label| {
        let label = translation.apply(label);
        if label != 0 && ranks.of(label) >= ranks.of(*voxel) {
            *voxel = label;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Label;
    use ndarray::array;
    use std::collections::BTreeMap;

    fn table(names: &[&str]) -> LabelTable {
        let mut table = LabelTable::default();
        for (name, number) in names.iter().zip(1..) {
            let name = (*name).to_owned();
            table.insert(number, Label { name, rgb: [0; 3] });
        }
        table
    }

    #[test]
    fn merging_as_maps_come_equals_merging_into_background() {
        let maps = [
            array![[[1, 2, 0, 4]]],
            array![[[2, 0, 3, 1]]],
            array![[[4, 4, 0, 2]]],
        ];
        let translations = [[(1, 5), (2, 6)], [(2, 1), (3, 5)], [(4, 2), (2, 7)]];
        let ranks = Ranks::new(&[5, 1]);
        let mut whole = Array3::zeros([1, 1, 4]);
        let mut merged = Merged::new([1, 1, 4], ranks.clone());
        assert_eq!(merged.voxels(), 0);
        for (map, pairs) in maps.iter().zip(translations) {
            let translation = Translation::of_pairs(pairs);
            merge(&mut whole, map.view(), &translation, &ranks);
            merged.add(map.clone(), &translation);
        }
        assert_eq!(merged.voxels(), 4);
        assert_eq!(merged.finish(), whole);
        assert_eq!(whole, array![[[5, 2, 5, 7]]]);
        let none = Merged::new([1, 2, 3], ranks);
        assert_eq!(none.finish(), Array3::<u16>::zeros([1, 2, 3]));
    }

    #[test]
    fn later_labels_win_unless_outranked() {
        let mut merged = array![[[1, 1, 0, 2, 3]]];
        let same = Translation::of_pairs([(1, 1), (2, 2), (3, 3)]);
        merge(
            &mut merged,
            array![[[2, 0, 3, 1, 9]]].view(),
            &same,
            &Ranks::new(&[]),
        );
        assert_eq!(merged, array![[[2, 1, 3, 1, 3]]]);
        // 3 above 1 above the rest.
        let mut merged = array![[[3, 1, 2, 1]]];
        merge(
            &mut merged,
            array![[[1, 3, 1, 2]]].view(),
            &same,
            &Ranks::new(&[3, 1]),
        );
        assert_eq!(merged, array![[[3, 3, 1, 1]]]);
    }

    #[test]
    fn names_agree_or_the_error_lists_them() {
        let (model, task) = (table(&["vein", "aorta"]), table(&["artery", "vein"]));
        let by_name = Translation::new(&LabelMapping::Names, &model, &task).unwrap();
        assert_eq!([0, 1, 2, 9].map(|label| by_name.apply(label)), [0, 2, 0, 0]);
        let mapping = |name: &str| LabelMapping::ByName(BTreeMap::from([(name.to_owned(), 1)]));
        let mapped = Translation::new(&mapping("aorta"), &model, &task).unwrap();
        assert_eq!([1, 2].map(|label| mapped.apply(label)), [0, 1]);
        let error = Translation::new(&mapping("ivc"), &model, &task).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model has no label ivc: it has vein, aorta"
        );
        let other = table(&["tumor"]);
        let error = Translation::new(&LabelMapping::Names, &model, &other).unwrap_err();
        assert!(error.to_string().contains("vein, aorta"), "{error}");
    }
}
