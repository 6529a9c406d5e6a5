//! The labels of a map as segments of a DICOM object, numbered from 1 without gaps.

use crate::volume::{LabelMap, LabelTable};

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// SegmentNumber or ROINumber.
    pub number: u16,
    /// Its number in the label map.
    pub label: u16,
    pub name: String,
    pub rgb: [u8; 3],
}

/// The labels that occur, in ascending order. A map of background only has every label of its table,
/// or one unnamed label where it has no table: what was looked for and not found.
pub(super) fn segments(map: &LabelMap, table: &LabelTable) -> Vec<Segment> {
    let mut labels: Vec<u16> = map
        .counts()
        .into_iter()
        .map(|(label, _)| label)
        .filter(|&label| label > 0)
        .collect();
    if labels.is_empty() {
        labels = table.iter().map(|(label, _)| label).collect();
        labels.retain(|&label| label > 0);
    }
    if labels.is_empty() {
        labels.push(1);
    }
    (1..=u16::MAX)
        .zip(labels)
        .map(|(number, label)| Segment {
            number,
            label,
            name: table.name_of(label),
            rgb: table
                .get(label)
                .map_or_else(|| LabelTable::default_rgb(label), |entry| entry.rgb),
        })
        .collect()
}
