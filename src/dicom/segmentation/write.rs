//! Writing a label map as a binary segmentation.

use super::super::content::Content;
use super::super::dataset::{
    coded, decimals, empty, file_bytes, item, name, one, private, sequence, short, text,
};
use super::super::reference::{Plane, Reference};
use super::super::segments::Segment;
use super::super::{codes, colour};
use super::{FIRST_POSITION, LABEL, SLICES, bits};
use crate::io::{Error, Result};
use crate::volume::LabelMap;
use dicom_core::value::PrimitiveValue;
use dicom_core::{DataElement, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use rayon::prelude::*;

/// A frame to write: position of its segment in the list, and its slice.
#[derive(Debug, Clone, Copy)]
struct FrameOf {
    segment: usize,
    plane: usize,
    /// Rank of the slice among those that have frames, from 0.
    rank: usize,
}

/// The file of a label map on the grid of `reference`: a frame for every segment and slice it occurs in.
///
/// # Errors
/// [`Error::Parameter`] naming `shown` for frames beyond 4 GiB.
pub(in crate::dicom) fn encode(
    turned: &LabelMap,
    segments: &[Segment],
    reference: &Reference,
    shown: &str,
) -> Result<Vec<u8>> {
    let frames = frames(turned, segments);
    let [_, rows, columns] = turned.grid().shape;
    let pixels = packed(turned, segments, &frames);
    if u32::try_from(pixels.len()).is_err() {
        return Err(Error::Parameter(format!(
            "{shown}: {} frames take more than the 4 GiB that DICOM allows",
            frames.len()
        )));
    }
    let content = content(reference, segments, &frames, &pixels);
    let (instance, dimensions) = (content.uid("instance"), content.uid("dimensions"));
    let mut elements = reference.subject();
    elements.extend(maker(reference, &content, &instance));
    elements.extend(source(reference));
    elements.extend([
        one(
            tags::DIMENSION_ORGANIZATION_SEQUENCE,
            [text(tags::DIMENSION_ORGANIZATION_UID, VR::UI, &dimensions)],
        ),
        sequence(
            tags::DIMENSION_INDEX_SEQUENCE,
            vec![
                dimension(
                    &dimensions,
                    tags::REFERENCED_SEGMENT_NUMBER,
                    tags::SEGMENT_IDENTIFICATION_SEQUENCE,
                    "ReferencedSegmentNumber",
                ),
                dimension(
                    &dimensions,
                    tags::IMAGE_POSITION_PATIENT,
                    tags::PLANE_POSITION_SEQUENCE,
                    "ImagePositionPatient",
                ),
            ],
        ),
        text(tags::NUMBER_OF_FRAMES, VR::IS, &frames.len().to_string()),
        // Every image has at most 65535 rows and columns: the series said so in 16 bits.
        short(tags::ROWS, rows as u16),
        short(tags::COLUMNS, columns as u16),
        sequence(
            tags::SEGMENT_SEQUENCE,
            segments.iter().map(segment_item).collect(),
        ),
        sequence(
            tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
            vec![shared(reference)],
        ),
        sequence(
            tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
            frames
                .iter()
                .filter_map(|frame| per_frame(frame, reference))
                .collect(),
        ),
        DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels)),
    ]);
    elements.extend(extent(reference));
    file_bytes(item(elements), uids::EXPLICIT_VR_LITTLE_ENDIAN, shown)
}

/// Segment by segment, slices in order. A map of background only has one frame, which is empty.
fn frames(map: &LabelMap, segments: &[Segment]) -> Vec<FrameOf> {
    let [slices, rows, columns] = map.grid().shape;
    let occurring: Vec<Vec<bool>> = map
        .volume
        .as_slice()
        .par_chunks((rows * columns).max(1))
        .map(|slice| {
            let mut found = vec![false; usize::from(u16::MAX) + 1];
            for &label in slice {
                if let Some(cell) = found.get_mut(usize::from(label)) {
                    *cell = true;
                }
            }
            let has = |segment: &Segment| found.get(usize::from(segment.label)) == Some(&true);
            segments.iter().map(has).collect()
        })
        .collect();
    let mut frames = Vec::new();
    for segment in 0..segments.len() {
        let mut rank = 0;
        for (plane, occurring) in occurring.iter().enumerate().take(slices) {
            if occurring.get(segment) == Some(&true) {
                frames.push(FrameOf {
                    segment,
                    plane,
                    rank,
                });
            }
            rank += usize::from(occurring.contains(&true));
        }
    }
    if frames.is_empty() {
        frames.push(FrameOf {
            segment: 0,
            plane: 0,
            rank: 0,
        });
    }
    frames
}

fn packed(map: &LabelMap, segments: &[Segment], frames: &[FrameOf]) -> Vec<u8> {
    let [_, rows, columns] = map.grid().shape;
    let pixels = rows * columns;
    let voxels = map.volume.as_slice();
    let packed: Vec<Vec<u8>> = frames
        .par_iter()
        .map(|frame| {
            let slice = voxels.get(frame.plane * pixels..(frame.plane + 1) * pixels);
            let label = segments.get(frame.segment).map_or(0, |s| s.label);
            bits::pack(slice.unwrap_or_default(), label)
        })
        .collect();
    bits::join(&packed, pixels)
}

/// What makes this object another one: its series, what its segments mean, and where they are.
fn content(
    reference: &Reference,
    segments: &[Segment],
    frames: &[FrameOf],
    pixels: &[u8],
) -> Content {
    let mut content = Content::new().with(reference.series.as_bytes());
    for plane in &reference.planes {
        content = content.with(plane.sop_instance.as_bytes());
    }
    for segment in segments {
        content = content
            .with(&segment.label.to_le_bytes())
            .with(segment.name.as_bytes())
            .with(&segment.rgb);
    }
    for frame in frames {
        content = content
            .with(&frame.segment.to_le_bytes())
            .with(&frame.plane.to_le_bytes());
    }
    content.with(pixels)
}

/// Equipment, series and image attributes that are the same in every segmentation of ours.
fn maker(reference: &Reference, content: &Content, instance: &str) -> Vec<InMemElement> {
    let version = env!("CARGO_PKG_VERSION");
    vec![
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY"),
        text(tags::SOP_CLASS_UID, VR::UI, uids::SEGMENTATION_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, instance),
        text(tags::SERIES_INSTANCE_UID, VR::UI, &content.uid("series")),
        text(tags::SERIES_DATE, VR::DA, &reference.date),
        text(tags::SERIES_TIME, VR::TM, &reference.time),
        text(tags::CONTENT_DATE, VR::DA, &reference.date),
        text(tags::CONTENT_TIME, VR::TM, &reference.time),
        text(tags::MODALITY, VR::CS, "SEG"),
        text(tags::MANUFACTURER, VR::LO, "medseg"),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "medseg"),
        text(tags::DEVICE_SERIAL_NUMBER, VR::LO, version),
        text(tags::SOFTWARE_VERSIONS, VR::LO, version),
        text(tags::SERIES_DESCRIPTION, VR::LO, "medseg segmentation"),
        text(tags::SERIES_NUMBER, VR::IS, "1000"),
        text(tags::INSTANCE_NUMBER, VR::IS, "1"),
        short(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        short(tags::BITS_ALLOCATED, 1),
        short(tags::BITS_STORED, 1),
        short(tags::HIGH_BIT, 0),
        short(tags::PIXEL_REPRESENTATION, 0),
        text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00"),
        text(tags::SEGMENTATION_TYPE, VR::CS, "BINARY"),
        text(tags::SEGMENTS_OVERLAP, VR::CS, "NO"),
        text(tags::CONTENT_LABEL, VR::CS, "SEGMENTATION"),
        empty(tags::CONTENT_DESCRIPTION, VR::LO),
        text(tags::CONTENT_CREATOR_NAME, VR::PN, "medseg^"),
    ]
}

/// The series and every instance of it.
fn source(reference: &Reference) -> [InMemElement; 1] {
    let mut instances: Vec<InMemDicomObject> = Vec::new();
    let mut last = "";
    for plane in &reference.planes {
        if plane.sop_instance != last {
            instances.push(item(reference_to(plane)));
        }
        last = &plane.sop_instance;
    }
    [one(
        tags::REFERENCED_SERIES_SEQUENCE,
        [
            sequence(tags::REFERENCED_INSTANCE_SEQUENCE, instances),
            text(tags::SERIES_INSTANCE_UID, VR::UI, &reference.series),
        ],
    )]
}

fn reference_to(plane: &Plane) -> [InMemElement; 2] {
    [
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, &plane.sop_class),
        text(
            tags::REFERENCED_SOP_INSTANCE_UID,
            VR::UI,
            &plane.sop_instance,
        ),
    ]
}

fn dimension(organization: &str, pointer: Tag, group: Tag, label: &str) -> InMemDicomObject {
    let address =
        |tag, value| DataElement::new(tag, VR::AT, PrimitiveValue::Tags(vec![value].into()));
    item([
        text(tags::DIMENSION_ORGANIZATION_UID, VR::UI, organization),
        address(tags::DIMENSION_INDEX_POINTER, pointer),
        address(tags::FUNCTIONAL_GROUP_POINTER, group),
        text(tags::DIMENSION_DESCRIPTION_LABEL, VR::LO, label),
    ])
}

fn segment_item(segment: &Segment) -> InMemDicomObject {
    let property = codes::property(&segment.name);
    let mut kind = item([]);
    let [value, scheme, meaning] = property.kind;
    for element in [
        text(tags::CODE_VALUE, VR::SH, value),
        text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, scheme),
        name(tags::CODE_MEANING, meaning),
    ] {
        kind.put(element);
    }
    if let Some(side) = property.side {
        kind.put(coded(
            tags::SEGMENTED_PROPERTY_TYPE_MODIFIER_CODE_SEQUENCE,
            side,
        ));
    }
    let mut elements = vec![
        short(tags::SEGMENT_NUMBER, segment.number),
        name(tags::SEGMENT_LABEL, &segment.name),
        text(tags::SEGMENT_ALGORITHM_TYPE, VR::CS, "AUTOMATIC"),
        text(tags::SEGMENT_ALGORITHM_NAME, VR::LO, "medseg"),
        coded(
            tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE,
            property.category,
        ),
        sequence(tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE, vec![kind]),
        DataElement::new(
            tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE,
            VR::US,
            PrimitiveValue::U16(colour::to_cielab(segment.rgb).to_vec().into()),
        ),
    ];
    elements.extend(private(LABEL, VR::US, PrimitiveValue::from(segment.label)));
    item(elements)
}

/// What all frames share: directions and voxel size.
fn shared(reference: &Reference) -> InMemDicomObject {
    let [rows, columns, slices] = reference.spacing_mm;
    item([
        one(
            tags::PLANE_ORIENTATION_SEQUENCE,
            [decimals(
                tags::IMAGE_ORIENTATION_PATIENT,
                &reference.orientation,
            )],
        ),
        one(
            tags::PIXEL_MEASURES_SEQUENCE,
            [
                decimals(tags::SLICE_THICKNESS, &[slices]),
                decimals(tags::SPACING_BETWEEN_SLICES, &[slices]),
                decimals(tags::PIXEL_SPACING, &[rows, columns]),
            ],
        ),
    ])
}

fn per_frame(frame: &FrameOf, reference: &Reference) -> Option<InMemDicomObject> {
    let plane = reference.planes.get(frame.plane)?;
    let mut image = item(reference_to(plane));
    if let Some(number) = plane.frame {
        image.put(text(
            tags::REFERENCED_FRAME_NUMBER,
            VR::IS,
            &number.to_string(),
        ));
    }
    image.put(text(tags::SPATIAL_LOCATIONS_PRESERVED, VR::CS, "YES"));
    image.put(coded(
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        [
            "121322",
            "DCM",
            "Source image for image processing operation",
        ],
    ));
    let indices = vec![frame.segment as u32 + 1, frame.rank as u32 + 1];
    Some(item([
        one(
            tags::DERIVATION_IMAGE_SEQUENCE,
            [
                sequence(tags::SOURCE_IMAGE_SEQUENCE, vec![image]),
                coded(
                    tags::DERIVATION_CODE_SEQUENCE,
                    ["113076", "DCM", "Segmentation"],
                ),
            ],
        ),
        one(
            tags::FRAME_CONTENT_SEQUENCE,
            [DataElement::new(
                tags::DIMENSION_INDEX_VALUES,
                VR::UL,
                PrimitiveValue::U32(indices.into()),
            )],
        ),
        one(
            tags::PLANE_POSITION_SEQUENCE,
            [decimals(tags::IMAGE_POSITION_PATIENT, &plane.position_mm)],
        ),
        one(
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            [short(
                tags::REFERENCED_SEGMENT_NUMBER,
                frame.segment as u16 + 1,
            )],
        ),
    ]))
}

/// The slices that have no frame, so that the label map comes back whole.
fn extent(reference: &Reference) -> Vec<InMemElement> {
    let first = reference.planes.first().map(|plane| plane.position_mm);
    let first = first.unwrap_or_default().to_vec();
    let slices = PrimitiveValue::from(reference.planes.len() as u32);
    let mut elements = private(FIRST_POSITION, VR::FD, PrimitiveValue::F64(first.into())).to_vec();
    elements.extend(private(SLICES, VR::UL, slices));
    elements
}
