//! What one DICOM file says about its frames.

use super::find::Source;
use super::guard::{self, Encoding};
use crate::io::{Error, Limits, Result};
use dicom_core::Tag;
use dicom_dictionary_std::{tags, uids};
use dicom_object::{
    DefaultDicomObject, FileMetaTable, FileMetaTableBuilder, InMemDicomObject, OpenFileOptions,
};
use std::io::{Cursor, Read};

type Dataset = InMemDicomObject;

/// The file meta group is explicit little-endian whatever follows it (PS3.10 chapter 7).
const META: Encoding = Encoding {
    explicit: true,
    big_endian: false,
};

/// Segmentations whose pixels are segment numbers (PS3.3 A.51, since 2024).
pub(super) const LABEL_MAP_SEGMENTATION: &str = "1.2.840.10008.5.1.4.1.1.66.7";

/// Where one frame lies and how its stored values become real ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// Number within its file, from 0.
    pub index: u32,
    /// Centre of the first voxel, LPS+ mm.
    pub position_mm: Option<[f64; 3]>,
    /// Direction along a row, then down a column, LPS+.
    pub orientation: Option<[f64; 6]>,
    /// Distance between rows, then between columns.
    pub pixel_spacing_mm: Option<[f64; 2]>,
    pub slope: f64,
    pub intercept: f64,
}

/// Size and type of the stored pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pixels {
    pub rows: u16,
    pub columns: u16,
    pub samples: u16,
    pub bits_allocated: u16,
    pub bits_stored: u16,
    pub high_bit: u16,
    pub signed: bool,
}

/// One file.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub source: Source,
    pub sop_class: String,
    pub sop_instance: String,
    pub series: String,
    pub series_number: String,
    pub description: String,
    pub modality: String,
    pub transfer_syntax: String,
    pub is_monochrome1: bool,
    pub slice_thickness_mm: Option<f64>,
    /// `None` for objects without pixels.
    pub pixels: Option<Pixels>,
    pub frames: Vec<Frame>,
}

/// A parsed file. The pixel data are in it only where asked for.
pub(super) fn parse(
    source: &Source,
    limits: &Limits,
    with_pixels: bool,
) -> Result<DefaultDicomObject> {
    let bytes = source.read(limits)?;
    let file = source.name.as_str();
    if bytes.is_empty() {
        return Err(Error::malformed(file, "the file is empty"));
    }
    limits.check(file, bytes.len() as u64 * 3)?;
    let wrong = |error: &dyn std::fmt::Display| {
        Error::malformed(
            file,
            format!("damaged DICOM: {}", one_line(&error.to_string())),
        )
    };
    let until = |options: OpenFileOptions| {
        if with_pixels {
            options
        } else {
            options.read_until(tags::PIXEL_DATA)
        }
    };
    if bytes.get(128..132) == Some(b"DICM") {
        let (meta, data_set) = split_meta(&bytes, file)?;
        guard::check(meta, META, file)?;
        let from_magic = || Cursor::new(bytes.get(128..).unwrap_or_default());
        let meta = dicom_object::FileMetaTable::from_reader(from_magic());
        let meta = meta.map_err(|error| wrong(&error))?;
        let syntax = meta.transfer_syntax.trim_end_matches('\0');
        check_data_set(data_set, syntax, file)?;
        return until(OpenFileOptions::new())
            .from_reader(from_magic())
            .map_err(|error| wrong(&error));
    }
    // Old archives hold bare data sets, implicit little-endian, which begin with group 8.
    if !bytes.starts_with(&[8, 0]) {
        return Err(Error::malformed(
            file,
            "not a DICOM file: no DICM after 128 bytes",
        ));
    }
    let encoding = Encoding {
        explicit: bytes
            .get(4..6)
            .is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase)),
        big_endian: false,
    };
    guard::check(&bytes, encoding, file)?;
    let uid = if encoding.explicit {
        uids::EXPLICIT_VR_LITTLE_ENDIAN
    } else {
        uids::IMPLICIT_VR_LITTLE_ENDIAN
    };
    let syntax = dicom_encoding::transfer_syntax::TransferSyntaxIndex::get(
        &dicom_transfer_syntax_registry::TransferSyntaxRegistry,
        uid,
    )
    .ok_or_else(|| Error::unsupported(file, "implicit little-endian is not available"))?;
    let data_set = InMemDicomObject::read_dataset_with_ts(Cursor::new(&bytes), syntax)
        .map_err(|error| wrong(&error))?;
    data_set
        .with_meta(FileMetaTableBuilder::new().transfer_syntax(uid))
        .map_err(|error| wrong(&error))
}

/// Lines of a parser's message joined, so that ours stays one.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The file meta group without the element of its length, and the data set behind it.
fn split_meta<'a>(bytes: &'a [u8], file: &str) -> Result<(&'a [u8], &'a [u8])> {
    // (0002,0000) UL: the length of the group that follows it.
    let head = bytes.get(132..144).unwrap_or_default();
    let length = match head {
        [2, 0, 0, 0, b'U', b'L', 4, 0, a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => {
            return Err(Error::malformed(
                file,
                "the file meta group has no length, expected element (0002,0000)",
            ));
        }
    };
    let rest = bytes.get(144..).unwrap_or_default();
    rest.split_at_checked(length).ok_or_else(|| {
        Error::malformed(
            file,
            format!("truncated: the file meta group declares {length} bytes"),
        )
    })
}

fn check_data_set(data_set: &[u8], syntax: &str, file: &str) -> Result<()> {
    let encoding = Encoding {
        explicit: syntax != uids::IMPLICIT_VR_LITTLE_ENDIAN,
        big_endian: syntax == "1.2.840.10008.1.2.2",
    };
    if syntax != uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        return guard::check(data_set, encoding, file);
    }
    // What is inflated must stay in proportion to the file: pixels rarely shrink 8 times.
    let most = (data_set.len() as u64 * 8).max(64 << 20);
    let mut inflated = Vec::new();
    flate2::read::DeflateDecoder::new(data_set)
        .take(most + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| Error::malformed(file, format!("damaged deflated data set: {error}")))?;
    if inflated.len() as u64 > most {
        return Err(Error::malformed(
            file,
            format!("the deflated data set expands to more than {most} bytes"),
        ));
    }
    guard::check(&inflated, encoding, file)
}

impl Instance {
    /// Whether the pixels are labels and not an image.
    pub fn is_segmentation(&self) -> bool {
        [uids::SEGMENTATION_STORAGE, LABEL_MAP_SEGMENTATION].contains(&self.sop_class.as_str())
    }

    /// Reads the attributes of a file.
    pub fn read(source: Source, limits: &Limits) -> Result<Self> {
        let object = parse(&source, limits, false)?;
        let file = source.name.clone();
        let text = |tag| text(&object, tag).unwrap_or_default();
        let pixels = pixels(&object, &file)?;
        let frames = match pixels {
            Some(_) => frames(&object, &file)?,
            None => Vec::new(),
        };
        Ok(Self {
            // Anonymisers empty these two and forget that the file meta group repeats them.
            sop_class: identifier(&object, tags::SOP_CLASS_UID, |meta| {
                &meta.media_storage_sop_class_uid
            }),
            sop_instance: identifier(&object, tags::SOP_INSTANCE_UID, |meta| {
                &meta.media_storage_sop_instance_uid
            }),
            series: text(tags::SERIES_INSTANCE_UID),
            series_number: text(tags::SERIES_NUMBER),
            description: text(tags::SERIES_DESCRIPTION),
            modality: text(tags::MODALITY),
            transfer_syntax: object
                .meta()
                .transfer_syntax
                .trim_end_matches('\0')
                .to_owned(),
            is_monochrome1: text(tags::PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1",
            slice_thickness_mm: numbers(&object, tags::SPACING_BETWEEN_SLICES, &file)?
                .or(numbers(&object, tags::SLICE_THICKNESS, &file)?)
                .and_then(|values| values.first().copied())
                .filter(|length| *length > 0.0),
            source,
            pixels,
            frames,
        })
    }
}

/// An identifier of the data set, else that of the file meta group.
fn identifier(
    object: &DefaultDicomObject,
    tag: Tag,
    of_meta: impl Fn(&FileMetaTable) -> &String,
) -> String {
    let meta = || {
        of_meta(object.meta())
            .trim_end_matches(['\0', ' '])
            .to_owned()
    };
    text(object, tag).unwrap_or_else(meta)
}

/// The first value of an element as text, without padding; `None` where absent or empty.
pub(super) fn text(object: &Dataset, tag: Tag) -> Option<String> {
    let element = object.element_opt(tag).ok().flatten()?;
    let text = element.to_str().ok()?;
    let text = text.trim_matches(['\0', ' ']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// Finite numbers of an element; `None` where absent or empty.
pub(super) fn numbers(object: &Dataset, tag: Tag, file: &str) -> Result<Option<Vec<f64>>> {
    let Some(element) = object.element_opt(tag).ok().flatten() else {
        return Ok(None);
    };
    if element.value().multiplicity() == 0 {
        return Ok(None);
    }
    match element.to_multi_float64() {
        Ok(values) if values.iter().all(|value| value.is_finite()) => Ok(Some(values)),
        _ => Err(Error::malformed(
            file,
            format!(
                "element ({:04X},{:04X}) is {:?}, expected numbers",
                tag.0,
                tag.1,
                element.to_str().unwrap_or_default()
            ),
        )),
    }
}

/// Exactly `N` numbers.
pub(super) fn vector<const N: usize>(
    object: &Dataset,
    tag: Tag,
    file: &str,
) -> Result<Option<[f64; N]>> {
    let Some(values) = numbers(object, tag, file)? else {
        return Ok(None);
    };
    let found = values.len();
    values.try_into().map(Some).map_err(|_| {
        Error::malformed(
            file,
            format!(
                "element ({:04X},{:04X}) has {found} values, expected {N}",
                tag.0, tag.1
            ),
        )
    })
}

pub(super) fn whole(object: &Dataset, tag: Tag) -> Option<u16> {
    object.element_opt(tag).ok().flatten()?.to_int::<u16>().ok()
}

pub(super) fn pixels(object: &Dataset, file: &str) -> Result<Option<Pixels>> {
    let (Some(rows), Some(columns)) = (whole(object, tags::ROWS), whole(object, tags::COLUMNS))
    else {
        return Ok(None);
    };
    if rows == 0 || columns == 0 {
        return Err(Error::malformed(
            file,
            format!("has {columns} x {rows} pixels, expected at least 1 x 1"),
        ));
    }
    let bits_allocated = whole(object, tags::BITS_ALLOCATED).unwrap_or(16);
    let bits_stored = whole(object, tags::BITS_STORED).unwrap_or(bits_allocated);
    let high_bit = whole(object, tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
    let is_sound = bits_stored >= 1
        && bits_stored <= bits_allocated
        && high_bit < bits_allocated
        && high_bit + 1 >= bits_stored;
    if !is_sound {
        return Err(Error::malformed(
            file,
            format!("{bits_stored} bits up to bit {high_bit} of {bits_allocated} make no pixel"),
        ));
    }
    Ok(Some(Pixels {
        rows,
        columns,
        samples: whole(object, tags::SAMPLES_PER_PIXEL).unwrap_or(1),
        bits_allocated,
        bits_stored,
        high_bit,
        signed: whole(object, tags::PIXEL_REPRESENTATION) == Some(1),
    }))
}

/// The first item of a sequence.
pub(super) fn item(object: &Dataset, tag: Tag) -> Option<&Dataset> {
    object.element_opt(tag).ok().flatten()?.items()?.first()
}

/// Frames of a classic file (one) or of an enhanced one (functional groups, PS3.3 C.7.6.16).
pub(super) fn frames(object: &Dataset, file: &str) -> Result<Vec<Frame>> {
    let count = text(object, tags::NUMBER_OF_FRAMES).unwrap_or_else(|| "1".to_owned());
    let count: u32 = count.parse().ok().filter(|&n| n >= 1).ok_or_else(|| {
        Error::malformed(
            file,
            format!("NumberOfFrames is {count:?}, expected at least 1"),
        )
    })?;
    let per_frame = object
        .element_opt(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .ok()
        .flatten()
        .and_then(|element| element.items())
        .unwrap_or_default();
    if !per_frame.is_empty() && per_frame.len() != count as usize {
        return Err(Error::malformed(
            file,
            format!("declares {count} frames and describes {}", per_frame.len()),
        ));
    }
    if per_frame.is_empty() {
        let frame = frame(0, &[object], &[object], &[object], &[object], file)?;
        // Only the first of several frames without functional groups has a place.
        return Ok((0..count.min(1 << 20))
            .map(|index| Frame {
                index,
                position_mm: frame.position_mm.filter(|_| index == 0),
                ..frame.clone()
            })
            .collect());
    }
    let shared = item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    per_frame
        .iter()
        .enumerate()
        .map(|(index, groups)| {
            let find = |tag| -> Vec<&Dataset> {
                let own = item(groups, tag);
                own.or_else(|| shared.and_then(|shared| item(shared, tag)))
                    .into_iter()
                    .collect()
            };
            frame(
                index as u32,
                &find(tags::PLANE_POSITION_SEQUENCE),
                &find(tags::PLANE_ORIENTATION_SEQUENCE),
                &find(tags::PIXEL_MEASURES_SEQUENCE),
                &find(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE),
                file,
            )
        })
        .collect()
}

/// A frame from the data sets that hold each group of its attributes (none or one).
fn frame(
    index: u32,
    position: &[&Dataset],
    orientation: &[&Dataset],
    measures: &[&Dataset],
    values: &[&Dataset],
    file: &str,
) -> Result<Frame> {
    fn of<const N: usize>(groups: &[&Dataset], tag: Tag, file: &str) -> Result<Option<[f64; N]>> {
        groups
            .first()
            .map_or(Ok(None), |group| vector(group, tag, file))
    }
    let slope = of::<1>(values, tags::RESCALE_SLOPE, file)?;
    let intercept = of::<1>(values, tags::RESCALE_INTERCEPT, file)?;
    let slope = slope.map_or(1.0, |[slope]| slope);
    if slope == 0.0 {
        return Err(Error::malformed(
            file,
            "RescaleSlope is 0: every value would be the same",
        ));
    }
    Ok(Frame {
        index,
        position_mm: of(position, tags::IMAGE_POSITION_PATIENT, file)?,
        orientation: of(orientation, tags::IMAGE_ORIENTATION_PATIENT, file)?,
        pixel_spacing_mm: of(measures, tags::PIXEL_SPACING, file)?,
        slope,
        intercept: intercept.map_or(0.0, |[intercept]| intercept),
    })
}
