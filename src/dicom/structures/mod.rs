//! DICOM structure sets (RTSTRUCT, PS3.3 A.19): the labels of a map as closed planar contours.
//!
//! Contours run along the edges of pixels (see `outlines`), in the plane of their slice, so that the
//! volume they enclose is that of the mask. Every label that occurs is a region of interest; a map of
//! background only has the regions that were looked for, without contours. Identifiers come from the
//! content: the same result is the same file.
//!
//! The file is implicit little-endian: in the explicit encoding one contour could not have more than
//! some 2,000 points.

mod outlines;

use super::content::Content;
use super::dataset::{decimal, empty, file_bytes, item, name, one, sequence, text};
use super::reference::{Plane, Reference};
use super::segments::Segment;
use crate::io::Result;
use crate::volume::LabelMap;
use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use outlines::{Corner, Slice};
use rayon::prelude::*;

/// Detached Study Management, by which structure sets refer to a study (retired, still required by readers).
const STUDY_CLASS: &str = "1.2.840.10008.3.1.2.3.1";
/// Decimals of contour points, in millimetres: a tenth of a micrometre.
const POINT_SCALE: f64 = 1e4;

/// Contours of one label, each with its slice.
type Contours = Vec<(usize, Vec<Corner>)>;

/// The file of a label map on the grid of `reference`: a region of interest for every segment.
///
/// # Errors
/// Those of encoding, which name `shown`.
pub(super) fn encode(
    turned: &LabelMap,
    segments: &[Segment],
    reference: &Reference,
    shown: &str,
) -> Result<Vec<u8>> {
    let contours: Vec<Contours> = segments
        .iter()
        .map(|segment| contours(turned, segment.label))
        .collect();
    let content = content(reference, segments, &contours);
    let mut elements = reference.subject();
    elements.extend(maker(reference, &content));
    elements.extend([
        frame_of_reference(reference),
        sequence(
            tags::STRUCTURE_SET_ROI_SEQUENCE,
            segments
                .iter()
                .map(|segment| region(segment, reference))
                .collect(),
        ),
        sequence(
            tags::ROI_CONTOUR_SEQUENCE,
            segments
                .iter()
                .zip(&contours)
                .map(|(segment, contours)| drawn(segment, contours, reference))
                .collect(),
        ),
        sequence(
            tags::RTROI_OBSERVATIONS_SEQUENCE,
            segments.iter().map(observation).collect(),
        ),
    ]);
    file_bytes(item(elements), uids::IMPLICIT_VR_LITTLE_ENDIAN, shown)
}

fn contours(map: &LabelMap, label: u16) -> Contours {
    let [_, rows, columns] = map.grid().shape;
    let slices: Vec<Contours> = map
        .volume
        .as_slice()
        .par_chunks((rows * columns).max(1))
        .enumerate()
        .map(|(plane, labels)| {
            let slice = Slice { labels, columns };
            let outlines = slice.outlines(label).into_iter();
            outlines.map(|outline| (plane, outline)).collect()
        })
        .collect();
    slices.concat()
}

fn content(reference: &Reference, segments: &[Segment], contours: &[Contours]) -> Content {
    let mut content = Content::new().with(reference.series.as_bytes());
    for (segment, contours) in segments.iter().zip(contours) {
        content = content.with(segment.name.as_bytes()).with(&segment.rgb);
        for (plane, outline) in contours {
            let corners = outline.iter().flatten().flat_map(|c| c.to_le_bytes());
            content = content
                .with(&(*plane as u64).to_le_bytes())
                .with(&corners.collect::<Vec<u8>>());
        }
    }
    content
}

fn maker(reference: &Reference, content: &Content) -> Vec<InMemElement> {
    let version = env!("CARGO_PKG_VERSION");
    vec![
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        text(tags::SOP_CLASS_UID, VR::UI, uids::RT_STRUCTURE_SET_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, &content.uid("structures")),
        text(
            tags::SERIES_INSTANCE_UID,
            VR::UI,
            &content.uid("structures series"),
        ),
        text(tags::MODALITY, VR::CS, "RTSTRUCT"),
        text(tags::MANUFACTURER, VR::LO, "medseg"),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "medseg"),
        text(tags::SOFTWARE_VERSIONS, VR::LO, version),
        text(tags::SERIES_DESCRIPTION, VR::LO, "medseg structures"),
        text(tags::SERIES_NUMBER, VR::IS, "1001"),
        text(tags::INSTANCE_NUMBER, VR::IS, "1"),
        empty(tags::OPERATORS_NAME, VR::PN),
        text(tags::STRUCTURE_SET_LABEL, VR::SH, "medseg"),
        text(tags::STRUCTURE_SET_DATE, VR::DA, &reference.date),
        text(tags::STRUCTURE_SET_TIME, VR::TM, &reference.time),
        text(tags::APPROVAL_STATUS, VR::CS, "UNAPPROVED"),
    ]
}

/// The images that the contours lie on.
fn frame_of_reference(reference: &Reference) -> InMemElement {
    let images = reference
        .planes
        .iter()
        .map(|plane| item(image(plane)))
        .collect();
    let series = one(
        tags::RT_REFERENCED_SERIES_SEQUENCE,
        [
            text(tags::SERIES_INSTANCE_UID, VR::UI, &reference.series),
            sequence(tags::CONTOUR_IMAGE_SEQUENCE, images),
        ],
    );
    let study = one(
        tags::RT_REFERENCED_STUDY_SEQUENCE,
        [
            text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, STUDY_CLASS),
            text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, &reference.study),
            series,
        ],
    );
    let frame = text(
        tags::FRAME_OF_REFERENCE_UID,
        VR::UI,
        &reference.frame_of_reference,
    );
    one(tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, [frame, study])
}

fn image(plane: &Plane) -> Vec<InMemElement> {
    let mut elements = vec![
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, &plane.sop_class),
        text(
            tags::REFERENCED_SOP_INSTANCE_UID,
            VR::UI,
            &plane.sop_instance,
        ),
    ];
    if let Some(frame) = plane.frame {
        elements.push(text(
            tags::REFERENCED_FRAME_NUMBER,
            VR::IS,
            &frame.to_string(),
        ));
    }
    elements
}

fn number(tag: dicom_core::Tag, value: impl ToString) -> InMemElement {
    text(tag, VR::IS, &value.to_string())
}

fn region(segment: &Segment, reference: &Reference) -> InMemDicomObject {
    item([
        number(tags::ROI_NUMBER, segment.number),
        text(
            tags::REFERENCED_FRAME_OF_REFERENCE_UID,
            VR::UI,
            &reference.frame_of_reference,
        ),
        name(tags::ROI_NAME, &segment.name),
        text(tags::ROI_GENERATION_ALGORITHM, VR::CS, "AUTOMATIC"),
    ])
}

fn drawn(segment: &Segment, contours: &Contours, reference: &Reference) -> InMemDicomObject {
    let [red, green, blue] = segment.rgb;
    let mut elements = vec![
        text(
            tags::ROI_DISPLAY_COLOR,
            VR::IS,
            &format!("{red}\\{green}\\{blue}"),
        ),
        number(tags::REFERENCED_ROI_NUMBER, segment.number),
    ];
    let contours: Vec<InMemDicomObject> = contours
        .par_iter()
        .filter_map(|(plane, outline)| {
            let plane = reference.planes.get(*plane)?;
            Some(item([
                one(tags::CONTOUR_IMAGE_SEQUENCE, image(plane)),
                text(tags::CONTOUR_GEOMETRIC_TYPE, VR::CS, "CLOSED_PLANAR"),
                number(tags::NUMBER_OF_CONTOUR_POINTS, outline.len()),
                text(
                    tags::CONTOUR_DATA,
                    VR::DS,
                    &points(outline, plane, reference),
                ),
            ]))
        })
        .collect();
    if !contours.is_empty() {
        elements.push(sequence(tags::CONTOUR_SEQUENCE, contours));
    }
    item(elements)
}

/// Corners as LPS+ millimetres. Corner (0, 0) is half a voxel before the centre of the first voxel.
fn points(outline: &[Corner], plane: &Plane, reference: &Reference) -> String {
    let [a, b, c, d, e, f] = reference.orientation;
    let [between_rows, between_columns, _] = reference.spacing_mm;
    let [x, y, z] = plane.position_mm;
    let axes = [(x, a, d), (y, b, e), (z, c, f)];
    let values = outline.iter().flat_map(|&[column, row]| {
        let right = (f64::from(column) - 0.5) * between_columns;
        let down = (f64::from(row) - 0.5) * between_rows;
        axes.map(|(origin, along_row, along_column)| {
            let place = origin + along_row * right + along_column * down;
            decimal((place * POINT_SCALE).round() / POINT_SCALE)
        })
    });
    values.collect::<Vec<String>>().join("\\")
}

fn observation(segment: &Segment) -> InMemDicomObject {
    item([
        number(tags::OBSERVATION_NUMBER, segment.number),
        number(tags::REFERENCED_ROI_NUMBER, segment.number),
        empty(tags::RTROI_INTERPRETED_TYPE, VR::CS),
        empty(tags::ROI_INTERPRETER, VR::PN),
    ])
}
