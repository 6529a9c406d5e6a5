//! Reading a segmentation as a label map.

use super::super::dataset::private_of;
use super::super::find::Source;
use super::super::instance::{self, Frame, Pixels};
use super::super::series::{cross, dot, scaled};
use super::super::{MOST_FILES, colour};
use super::{FIRST_POSITION, LABEL, SLICES, bits};
use crate::io::nifti::{Datatype, Endian, Format, Reader};
use crate::io::{Declared, Error, Limits, Result, flip_xy, labels};
use crate::volume::LabelTable;
use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use std::collections::BTreeMap;
use std::io::Cursor;

/// Largest deviation of a frame from its slice, as a share of the step.
const PLACE_TOLERANCE: f64 = 0.05;

/// Segments by number: the label that each becomes.
struct Segments {
    labels: BTreeMap<u16, u16>,
    table: LabelTable,
}

/// Slices in which the frames lie.
struct Planes {
    /// LPS+ mm.
    first_mm: [f64; 3],
    normal: [f64; 3],
    step_mm: f64,
    count: usize,
}

/// Opens the segmentation in `source`; `name` is what errors call it.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`] for fractional, compressed and overlapping segments,
/// [`Error::OverLimit`], [`Error::Environment`].
///
/// Cost: the file three times and the label map once in memory.
pub(in crate::dicom) fn open(
    source: &Source,
    name: &str,
    warnings: Vec<String>,
    limits: &Limits,
) -> Result<Reader> {
    let object = instance::parse(source, limits, true)?;
    let file = source.name.as_str();
    let pixels = instance::pixels(&object, file)?
        .ok_or_else(|| Error::malformed(file, "has no Rows and Columns"))?;
    check_kind(&object, &pixels, file)?;
    let frames = instance::frames(&object, file)?;
    let (orientation, spacing) = shared(&frames, file)?;
    let segments = segments(&object, file)?;
    let planes = planes(&object, &frames, orientation, file)?;
    let voxels = voxels(&object, &pixels, &frames, &segments, &planes, limits, file)?;
    let wide = voxels.iter().any(|&label| label > 255);
    let bytes: Vec<u8> = if wide {
        voxels
            .iter()
            .flat_map(|label| label.to_le_bytes())
            .collect()
    } else {
        voxels.iter().map(|&label| label as u8).collect()
    };
    drop(voxels);
    let [row, column] = orientation;
    let [between_rows, between_columns] = spacing;
    let declared = Declared {
        format: Format::Dicom,
        endian: Endian::Little,
        datatype: if wide { Datatype::U16 } else { Datatype::U8 },
        sizes: vec![
            u64::from(pixels.columns),
            u64::from(pixels.rows),
            planes.count as u64,
        ],
        steps_mm: [
            scaled(row, between_columns),
            scaled(column, between_rows),
            scaled(planes.normal, planes.step_mm),
        ]
        .map(flip_xy)
        .to_vec(),
        spacing_mm: None,
        origin_mm: flip_xy(planes.first_mm),
        vox_offset: 0,
        warnings,
    };
    let extensions = labels::with_table(&[], &segments.table);
    declared.reader_of(Cursor::new(bytes), extensions, name, limits)
}

fn check_kind(object: &InMemDicomObject, pixels: &Pixels, file: &str) -> Result<()> {
    let kind = instance::text(object, tags::SEGMENTATION_TYPE).unwrap_or_default();
    let is_known = match kind.as_str() {
        "BINARY" => pixels.bits_allocated == 1,
        "LABELMAP" => [8, 16].contains(&pixels.bits_allocated),
        _ => false,
    };
    if is_known && pixels.samples == 1 {
        return Ok(());
    }
    Err(Error::unsupported(
        file,
        format!(
            "is a segmentation of type {kind:?} with {} bits per pixel, expected BINARY with 1, or LABELMAP with 8 or 16",
            pixels.bits_allocated
        ),
    ))
}

/// Directions and pixel spacing, which every frame must share.
fn shared(frames: &[Frame], file: &str) -> Result<([[f64; 3]; 2], [f64; 2])> {
    let first = frames.first();
    let stated = first.and_then(|frame| Some((frame.orientation?, frame.pixel_spacing_mm?)));
    let Some(([a, b, c, d, e, f], spacing)) = stated else {
        return Err(Error::malformed(
            file,
            "has no ImageOrientationPatient or no PixelSpacing: only segmentations of images with a place in the patient are read",
        ));
    };
    let same = |frame: &Frame| {
        frame.orientation == Some([a, b, c, d, e, f]) && frame.pixel_spacing_mm == Some(spacing)
    };
    if !frames.iter().all(same) {
        return Err(Error::unsupported(
            file,
            "has frames of different directions or spacing, expected one grid",
        ));
    }
    let unit = |vector: [f64; 3]| {
        let length = dot(vector, vector).sqrt();
        ((length - 1.0).abs() < 1e-2).then(|| scaled(vector, 1.0 / length))
    };
    match (unit([a, b, c]), unit([d, e, f])) {
        (Some(row), Some(column)) if dot(row, column).abs() < 1e-3 => Ok(([row, column], spacing)),
        _ => Err(Error::malformed(
            file,
            "ImageOrientationPatient is not two unit vectors at a right angle",
        )),
    }
}

fn segments(object: &InMemDicomObject, file: &str) -> Result<Segments> {
    let items = object
        .element_opt(tags::SEGMENT_SEQUENCE)
        .ok()
        .flatten()
        .and_then(|element| element.items())
        .unwrap_or_default();
    let mut labels = BTreeMap::new();
    let mut table = LabelTable::default();
    for item in items {
        let number = instance::whole(item, tags::SEGMENT_NUMBER)
            .ok_or_else(|| Error::malformed(file, "has a segment without SegmentNumber"))?;
        let own = private_of(item, LABEL).and_then(|element| element.to_int::<u16>().ok());
        let label = own.unwrap_or(number);
        // Segment 0 is the background of a label map segmentation.
        if label == 0 {
            continue;
        }
        if labels.insert(number, label).is_some() || table.get(label).is_some() {
            return Err(Error::malformed(
                file,
                format!("describes segment {number} twice"),
            ));
        }
        let given = instance::text(item, tags::SEGMENT_LABEL).unwrap_or_default();
        let lab = item.element_opt(tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE);
        let lab = lab.ok().flatten().and_then(|e| e.to_multi_int().ok());
        let rgb = lab.and_then(|lab: Vec<u16>| <[u16; 3]>::try_from(lab).ok());
        table.insert_named(label, &given, rgb.map(colour::from_cielab));
    }
    Ok(Segments { labels, table })
}

/// The even stack of slices that holds every frame.
fn planes(
    object: &InMemDicomObject,
    frames: &[Frame],
    [row, column]: [[f64; 3]; 2],
    file: &str,
) -> Result<Planes> {
    let normal = cross(row, column);
    let mut places = Vec::with_capacity(frames.len());
    for (number, frame) in frames.iter().enumerate() {
        let position = frame.position_mm.ok_or_else(|| {
            Error::malformed(
                file,
                format!("frame {} has no ImagePositionPatient", number + 1),
            )
        })?;
        places.push((dot(position, normal), position));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let steps: Vec<f64> = places
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] => Some(b.0 - a.0),
            _ => None,
        })
        .collect();
    let stated = stated_step(object, file)?;
    let smallest = steps.iter().copied().filter(|step| *step > 1e-3);
    let step_mm = stated
        .or(smallest.min_by(f64::total_cmp))
        .or(thickness(object, file)?)
        .unwrap_or(1.0);
    let Some(&(lowest, first_mm)) = places.first() else {
        return Err(Error::malformed(file, "has no frames"));
    };
    let highest = places.last().map_or(lowest, |last| last.0);
    let mut planes = Planes {
        first_mm,
        normal,
        step_mm,
        count: slices_between(highest - lowest, step_mm, file)?,
    };
    if let Some((first_mm, count)) = extent(object) {
        let below = (lowest - dot(first_mm, normal)) / step_mm;
        let fits = below > -PLACE_TOLERANCE
            && below + planes.count as f64 <= count as f64 + PLACE_TOLERANCE;
        if fits && count <= MOST_FILES {
            planes.first_mm = first_mm;
            planes.count = count;
        }
    }
    for (number, frame) in frames.iter().enumerate() {
        planes.index(frame).ok_or_else(|| {
            Error::unsupported(
                file,
                format!(
                    "frame {} at {:?} lies between slices {step_mm} mm apart, expected frames of one stack",
                    number + 1,
                    frame.position_mm.unwrap_or_default()
                ),
            )
        })?;
    }
    Ok(planes)
}

fn slices_between(length_mm: f64, step_mm: f64, file: &str) -> Result<usize> {
    let count = (length_mm / step_mm).round() + 1.0;
    if count >= 1.0 && count <= MOST_FILES as f64 {
        return Ok(count as usize);
    }
    Err(Error::malformed(
        file,
        format!(
            "frames {step_mm} mm apart over {length_mm} mm, expected at most {MOST_FILES} slices"
        ),
    ))
}

impl Planes {
    /// The slice of a frame; `None` where it lies beside the stack.
    fn index(&self, frame: &Frame) -> Option<usize> {
        let position = frame.position_mm?;
        let moved = [0, 1, 2].map(|axis: usize| {
            let at = |vector: &[f64; 3]| vector.get(axis).copied().unwrap_or(0.0);
            at(&position) - at(&self.first_mm)
        });
        let along = dot(moved, self.normal);
        let index = (along / self.step_mm).round();
        let place = scaled(self.normal, index * self.step_mm);
        let off: f64 = moved.iter().zip(place).map(|(a, b)| (a - b).powi(2)).sum();
        let is_near = off.sqrt() <= PLACE_TOLERANCE * self.step_mm;
        (is_near && index >= 0.0 && index < self.count as f64).then_some(index as usize)
    }
}

/// A length of the shared pixel measures, or of those of the first frame.
fn measure(object: &InMemDicomObject, tag: dicom_core::Tag, file: &str) -> Result<Option<f64>> {
    let groups = [
        tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
        tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    ];
    for group in groups {
        let measures = instance::item(object, group)
            .and_then(|groups| instance::item(groups, tags::PIXEL_MEASURES_SEQUENCE));
        if let Some(measures) = measures {
            let values = instance::numbers(measures, tag, file)?;
            let value = values.and_then(|values| values.first().copied());
            return Ok(value.filter(|length| *length > 1e-6));
        }
    }
    Ok(None)
}

fn stated_step(object: &InMemDicomObject, file: &str) -> Result<Option<f64>> {
    measure(object, tags::SPACING_BETWEEN_SLICES, file)
}

fn thickness(object: &InMemDicomObject, file: &str) -> Result<Option<f64>> {
    measure(object, tags::SLICE_THICKNESS, file)
}

/// First position and number of slices of the whole series, in files of ours.
fn extent(object: &InMemDicomObject) -> Option<([f64; 3], usize)> {
    let first = private_of(object, FIRST_POSITION)?
        .to_multi_float64()
        .ok()?;
    let first: [f64; 3] = first.try_into().ok()?;
    let count = private_of(object, SLICES)?.to_int::<u32>().ok()?;
    (first.iter().all(|value| value.is_finite()) && count > 0).then_some((first, count as usize))
}

/// The label of every voxel.
fn voxels(
    object: &InMemDicomObject,
    pixels: &Pixels,
    frames: &[Frame],
    segments: &Segments,
    planes: &Planes,
    limits: &Limits,
    file: &str,
) -> Result<Vec<u16>> {
    let per_frame = usize::from(pixels.rows) * usize::from(pixels.columns);
    let count = per_frame.saturating_mul(planes.count);
    limits.check(file, (count as u64).saturating_mul(3))?;
    let stored = stored(object, pixels, frames.len() * per_frame, file)?;
    let groups = object
        .element_opt(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
        .ok()
        .flatten()
        .and_then(|element| element.items())
        .unwrap_or_default();
    let shared = instance::item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    let mut voxels = vec![0_u16; count];
    for (number, frame) in frames.iter().enumerate() {
        let plane = planes.index(frame).unwrap_or(0);
        let slice = voxels.get_mut(plane * per_frame..(plane + 1) * per_frame);
        let slice = slice.unwrap_or_default();
        let from = number * per_frame;
        if pixels.bits_allocated != 1 {
            label_map_frame(slice, &stored, pixels, from, segments, file)?;
            continue;
        }
        let identified = [groups.get(number), shared]
            .into_iter()
            .flatten()
            .find_map(|groups| instance::item(groups, tags::SEGMENT_IDENTIFICATION_SEQUENCE))
            .and_then(|item| instance::whole(item, tags::REFERENCED_SEGMENT_NUMBER));
        let label = identified.and_then(|segment| segments.labels.get(&segment));
        let label = *label.ok_or_else(|| {
            Error::malformed(
                file,
                format!(
                    "frame {} belongs to no segment that is described",
                    number + 1
                ),
            )
        })?;
        for (pixel, voxel) in slice.iter_mut().enumerate() {
            if !bits::is_set(&stored, from + pixel) {
                continue;
            }
            if *voxel != 0 && *voxel != label {
                return Err(Error::unsupported(
                    file,
                    format!(
                        "segments {} and {} share voxels, a label map holds one label per voxel",
                        segments.table.name_of(*voxel),
                        segments.table.name_of(label)
                    ),
                ));
            }
            *voxel = label;
        }
    }
    Ok(voxels)
}

/// A frame whose pixels are segment numbers.
fn label_map_frame(
    slice: &mut [u16],
    stored: &[u8],
    pixels: &Pixels,
    from: usize,
    segments: &Segments,
    file: &str,
) -> Result<()> {
    let width = usize::from(pixels.bits_allocated / 8);
    let values = stored.get(from * width..).unwrap_or_default();
    for (voxel, bytes) in slice.iter_mut().zip(values.chunks_exact(width)) {
        let number = match bytes {
            [low, high] => u16::from_le_bytes([*low, *high]),
            [only] => u16::from(*only),
            _ => 0,
        };
        if number == 0 {
            continue;
        }
        *voxel = *segments.labels.get(&number).ok_or_else(|| {
            Error::malformed(
                file,
                format!("holds segment {number}, which is not described"),
            )
        })?;
    }
    Ok(())
}

/// The stored pixels of all frames.
fn stored(object: &InMemDicomObject, pixels: &Pixels, count: usize, file: &str) -> Result<Vec<u8>> {
    let element = object
        .element_opt(tags::PIXEL_DATA)
        .ok()
        .flatten()
        .ok_or_else(|| Error::malformed(file, "has no PixelData"))?;
    let Value::Primitive(value) = element.value() else {
        return Err(Error::unsupported(
            file,
            "is a compressed segmentation, expected an uncompressed one (`gdcmconv --raw` makes it)",
        ));
    };
    let bytes = value.to_bytes().into_owned();
    let needed = (count as u64 * u64::from(pixels.bits_allocated)).div_ceil(8);
    if (bytes.len() as u64) < needed {
        return Err(Error::malformed(
            file,
            format!(
                "truncated: has {} bytes of pixels, expected {needed}",
                bytes.len()
            ),
        ));
    }
    Ok(bytes)
}
