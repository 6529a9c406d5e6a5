//! A CT series on a given grid, for commands that need one.

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use medseg::volume::Grid;

/// The bytes of one file per slice. The grid must have right-handed axes.
pub fn slices(grid: &Grid) -> Vec<Vec<u8>> {
    let [count, rows, columns] = grid.shape;
    let [_, between_rows, between_columns] = grid.spacing_mm;
    let lps = |[x, y, z]: [f64; 3]| [-x, -y, z];
    let unit = |axis: [f64; 3]| {
        let step = lps(grid.affine.apply_vector(axis));
        let length = step.iter().map(|v| v * v).sum::<f64>().sqrt();
        step.map(|value| value / length)
    };
    let orientation = [unit([1.0, 0.0, 0.0]), unit([0.0, 1.0, 0.0])].concat();
    (0..count)
        .map(|z| {
            let position = lps(grid.affine.apply([0.0, 0.0, z as f64]));
            file(
                z,
                rows,
                columns,
                &position,
                &orientation,
                [between_rows, between_columns],
            )
        })
        .collect()
}

fn file(
    number: usize,
    rows: usize,
    columns: usize,
    position: &[f64],
    orientation: &[f64],
    spacing: [f64; 2],
) -> Vec<u8> {
    let text =
        |tag: Tag, vr: VR, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let list = |tag: Tag, values: &[f64]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.6}")).collect();
        text(tag, VR::DS, &values.join("\\"))
    };
    let short = |tag: Tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let pixels = vec![0_u16; rows * columns];
    let object = InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
        text(
            tags::SOP_INSTANCE_UID,
            VR::UI,
            &format!("1.2.3.{}", number + 1),
        ),
        text(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.4"),
        text(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.5"),
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.6"),
        text(tags::MODALITY, VR::CS, "CT"),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        list(tags::IMAGE_POSITION_PATIENT, position),
        list(tags::IMAGE_ORIENTATION_PATIENT, orientation),
        list(tags::PIXEL_SPACING, &spacing),
        text(tags::RESCALE_SLOPE, VR::DS, "1"),
        text(tags::RESCALE_INTERCEPT, VR::DS, "-1024"),
        short(tags::SAMPLES_PER_PIXEL, 1),
        short(tags::ROWS, rows as u16),
        short(tags::COLUMNS, columns as u16),
        short(tags::BITS_ALLOCATED, 16),
        short(tags::BITS_STORED, 12),
        short(tags::HIGH_BIT, 11),
        short(tags::PIXEL_REPRESENTATION, 0),
        DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())),
    ]);
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let mut bytes = Vec::new();
    object
        .with_meta(meta)
        .unwrap()
        .write_all(&mut bytes)
        .unwrap();
    bytes
}
