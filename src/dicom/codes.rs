//! SNOMED CT codes of anatomical names, for segments.
//!
//! `codes.tsv` holds the structures of the built-in schemes without their side: codes are those of
//! DICOM PS3.16 (CID 7150 to 7166) and of TotalSegmentator 2.18 (`totalsegmentator_snomed_mapping.csv`,
//! Apache-2.0). A name that is not in it is coded as *Tissue*: the segment keeps its name.

/// Value, scheme and meaning of a coded concept.
type Code = [&'static str; 3];

const TABLE: &str = include_str!("codes.tsv");

const ANATOMICAL_STRUCTURE: Code = ["123037004", "SCT", "Anatomical Structure"];
const ALTERED_STRUCTURE: Code = ["49755003", "SCT", "Morphologically Altered Structure"];
const TISSUE: Code = ["85756007", "SCT", "Tissue"];
const LEFT: Code = ["7771000", "SCT", "Left"];
const RIGHT: Code = ["24028007", "SCT", "Right"];

/// What a segment is: category, type, and the side of the body where its name says one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Property {
    pub category: Code,
    pub kind: Code,
    pub side: Option<Code>,
}

/// The codes of a label name: `kidney_left`, `Left kidney` and `KIDNEY-LEFT` are the same.
pub(super) fn property(name: &str) -> Property {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower
        .split(['_', ' ', '-'])
        .filter(|word| !word.is_empty())
        .collect();
    let side = match (words.contains(&"left"), words.contains(&"right")) {
        (true, false) => Some(LEFT),
        (false, true) => Some(RIGHT),
        _ => None,
    };
    let words: Vec<&str> = words
        .into_iter()
        .filter(|word| !["left", "right"].contains(word))
        .collect();
    let base = words.join("_");
    let found = TABLE.lines().skip(1).find_map(|line| {
        let mut cells = line.split('\t');
        (cells.next() == Some(base.as_str())).then_some(())?;
        let category = match cells.next()? {
            "altered" => ALTERED_STRUCTURE,
            "tissue" => TISSUE,
            _ => ANATOMICAL_STRUCTURE,
        };
        Some((category, [cells.next()?, "SCT", cells.next()?]))
    });
    let (category, kind) = found.unwrap_or((TISSUE, TISSUE));
    Property {
        category,
        kind,
        side,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::labels;
    use crate::volume::LabelTable;

    #[test]
    fn every_name_of_the_built_in_schemes_has_a_code() {
        for scheme in ["abdomen", "brats", "totalseg"] {
            let table: LabelTable = labels::scheme(scheme).unwrap();
            for (_, label) in table.iter().filter(|(number, _)| *number > 0) {
                let found = property(&label.name);
                assert_ne!(found.kind, TISSUE, "{}", label.name);
                assert_eq!(
                    found.side.is_some(),
                    label.name.contains("left") || label.name.contains("right"),
                    "{}",
                    label.name
                );
            }
        }
    }

    #[test]
    fn spelling_does_not_matter_and_strangers_are_tissue() {
        let kidney = property("kidney_left");
        assert_eq!(kidney.kind, ["64033007", "SCT", "Kidney"]);
        assert_eq!(kidney.side, Some(LEFT));
        assert_eq!(property("Left Kidney"), kidney);
        assert_eq!(property("tumor").category, ALTERED_STRUCTURE);
        let stranger = property("right thing");
        assert_eq!((stranger.kind, stranger.side), (TISSUE, Some(RIGHT)));
    }

    #[test]
    fn the_table_is_sorted_and_every_code_is_a_number() {
        let rows: Vec<Vec<&str>> = TABLE
            .lines()
            .skip(1)
            .map(|line| line.split('\t').collect())
            .collect();
        assert!(rows.is_sorted());
        for row in rows {
            assert_eq!(row.len(), 4, "{row:?}");
            assert!(row[2].bytes().all(|byte| byte.is_ascii_digit()), "{row:?}");
            assert!(row[3].len() <= 64);
        }
    }
}
