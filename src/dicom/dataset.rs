//! Pieces of data sets that we write: elements by type, coded concepts, numbers as DICOM text.

use crate::io::{Error, Result};
use dicom_core::value::{DataSetSequence, PrimitiveValue};
use dicom_core::{DataElement, Length, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::mem::InMemElement;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// Longest text of a DS value (PS3.5 table 6.2-1).
const MOST_DS_BYTES: usize = 16;
/// Longest text of an LO value, in characters.
const MOST_LO_CHARACTERS: usize = 64;
/// Group of our private elements, and who reserves it.
const PRIVATE_GROUP: u16 = 0x0071;
const PRIVATE_CREATOR: &str = "MEDSEG 1";
/// First element of the private block (0071,10xx).
const PRIVATE_BLOCK: u16 = 0x10;
/// Implementation class: the UUID of the name `medseg`, fixed once.
const IMPLEMENTATION_UID: &str = "2.25.145231822103476906142313527946238712105";

pub(super) fn text(tag: Tag, vr: VR, value: &str) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

/// Text of at most 64 characters without what ends or splits a value.
pub(super) fn name(tag: Tag, value: &str) -> InMemElement {
    let kept = value
        .chars()
        .map(|c| match c {
            '\\' => '/',
            c if c.is_control() => ' ',
            c => c,
        })
        .take(MOST_LO_CHARACTERS);
    text(tag, VR::LO, kept.collect::<String>().trim())
}

pub(super) fn short(tag: Tag, value: u16) -> InMemElement {
    DataElement::new(tag, VR::US, PrimitiveValue::from(value))
}

pub(super) fn empty(tag: Tag, vr: VR) -> InMemElement {
    DataElement::new(tag, vr, PrimitiveValue::Empty)
}

/// Numbers as DS text.
pub(super) fn decimals(tag: Tag, values: &[f64]) -> InMemElement {
    let values: Vec<String> = values.iter().map(|&value| decimal(value)).collect();
    text(tag, VR::DS, &values.join("\\"))
}

pub(super) fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> InMemElement {
    DataElement::new(tag, VR::SQ, DataSetSequence::new(items, Length::UNDEFINED))
}

pub(super) fn item(elements: impl IntoIterator<Item = InMemElement>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

/// A sequence of one item.
pub(super) fn one(tag: Tag, elements: impl IntoIterator<Item = InMemElement>) -> InMemElement {
    sequence(tag, vec![item(elements)])
}

/// A sequence of one coded concept (PS3.3 8.8): value, scheme and meaning.
pub(super) fn coded(tag: Tag, [value, scheme, meaning]: [&str; 3]) -> InMemElement {
    let elements = [
        text(tags::CODE_VALUE, VR::SH, value),
        text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, scheme),
        name(tags::CODE_MEANING, meaning),
    ];
    one(tag, elements)
}

/// Number `element` of our private block, with the element that reserves the block.
pub(super) fn private(element: u8, vr: VR, value: PrimitiveValue) -> [InMemElement; 2] {
    let tag = Tag(PRIVATE_GROUP, PRIVATE_BLOCK << 8 | u16::from(element));
    [
        text(Tag(PRIVATE_GROUP, PRIVATE_BLOCK), VR::LO, PRIVATE_CREATOR),
        DataElement::new(tag, vr, value),
    ]
}

/// Number `element` of our private block, where a data set has it.
pub(super) fn private_of(object: &InMemDicomObject, element: u8) -> Option<&InMemElement> {
    object
        .private_element(PRIVATE_GROUP, PRIVATE_CREATOR, element)
        .ok()
}

/// A number as DS text: the shortest form that reads back to the same value, or the closest one of
/// at most 16 bytes where that is longer.
pub(super) fn decimal(value: f64) -> String {
    let value = if value == 0.0 { 0.0 } else { value }; // no -0
    let plain = value.to_string();
    if plain.len() <= MOST_DS_BYTES {
        return plain;
    }
    let mut fixed = (0..=14).rev().map(|digits| format!("{value:.digits$}"));
    let mut scientific = (0..=14).rev().map(|digits| format!("{value:.digits$e}"));
    let fits = |text: &String| text.len() <= MOST_DS_BYTES;
    let distance = |text: &String| {
        let read = text.parse().unwrap_or(f64::INFINITY);
        (value - read).abs()
    };
    let candidates = [fixed.find(fits), scientific.find(fits)];
    candidates
        .into_iter()
        .flatten()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or_else(|| "0".to_owned())
}

/// The bytes of a file: preamble, file meta group, data set.
pub(super) fn file_bytes(
    object: InMemDicomObject,
    transfer_syntax: &str,
    shown: &str,
) -> Result<Vec<u8>> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::Parameter(format!("{shown}: cannot be encoded as DICOM: {error}"))
    };
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(transfer_syntax)
        .implementation_class_uid(IMPLEMENTATION_UID)
        .implementation_version_name("MEDSEG");
    let file = object.with_meta(meta).map_err(|error| wrong(&error))?;
    let mut bytes = Vec::new();
    file.write_all(&mut bytes).map_err(|error| wrong(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_fit_and_come_back() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (-125.0, "-125"),
            (103.019997, "103.019997"),
            (1.0 / 3.0, "0.33333333333333"),
            (-1e-17, "-1e-17"),
            (-0.000_012_345_678_9, "-0.0000123456789"),
            (1.234_567_890_123_4e-9, "1.23456789012e-9"),
            (123_456_789.123_456_78, "123456789.123457"),
        ] {
            let found = decimal(value);
            assert!(found.len() <= MOST_DS_BYTES, "{found}");
            assert_eq!(
                found.parse::<f64>().unwrap(),
                expected.parse::<f64>().unwrap()
            );
        }
    }

    #[test]
    fn names_lose_what_would_split_them() {
        let long = "x".repeat(70);
        for (given, expected) in [("a\\b\nc", "a/b c"), (long.as_str(), &long[..64])] {
            let element = name(tags::SEGMENT_LABEL, given);
            assert_eq!(element.to_str().unwrap(), expected);
        }
    }
}
