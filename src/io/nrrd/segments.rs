//! The segments of a `.seg.nrrd` as a label table.

use super::super::labels;
use super::super::nifti::Extension;
use super::fields::Fields;
use crate::volume::{Label, LabelTable};

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
        let given = value("Name").map_or("", |name| name.trim());
        let mut name: String = given.chars().filter(|c| !c.is_control()).collect();
        // Slicer allows two segments of one name; a table does not.
        if name.is_empty() || table.number_of(&name).is_some() {
            name = format!("{name}_{number}")
                .trim_start_matches('_')
                .to_owned();
        }
        let rgb = value("Color")
            .and_then(|text| colour(text))
            .unwrap_or_else(|| LabelTable::default_rgb(number));
        table.insert(number, Label { name, rgb });
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
