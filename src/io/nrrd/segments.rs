//! The segments of a `.seg.nrrd` as a label table.

use super::super::labels;
use super::super::nifti::Extension;
use super::fields::Fields;
use crate::volume::LabelTable;

/// Most segments that are looked for: label numbers end at 65535.
const MOST_SEGMENTS: usize = 65536;

/// The table as the header extension in which volumes carry it; nothing where no segment is described.
pub(super) fn extensions(fields: &Fields) -> Vec<Extension> {
    let mut table = LabelTable::default();
    for index in 0..MOST_SEGMENTS {
        let value = |key: &str| fields.pairs.get(&format!("Segment{index}_{key}"));
        let Some(number) = value("LabelValue") else {
            break;
        };
        let Some(number) = number.trim().parse().ok().filter(|&n: &u16| n > 0) else {
            continue;
        };
        // Slicer allows two segments of one name; a table does not.
        let name = value("Name").map_or("", |name| name);
        table.insert_named(number, name, value("Color").and_then(|text| colour(text)));
    }
    labels::with_table(&[], &table)
}

/// `0.5 1 0` to bytes.
fn colour(text: &str) -> Option<[u8; 3]> {
    let parts: Vec<u8> = text
        .split_whitespace()
        .filter_map(|word| word.parse::<f64>().ok())
        .filter(|value| (0.0..=1.0).contains(value))
        .map(|value| (value * 255.0).round() as u8)
        .collect();
    parts.try_into().ok()
}
