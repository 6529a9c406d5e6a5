//! Small CT series made on the spot, for the tests of series and of commands.

// Neither uses all of it.
#![allow(dead_code)]

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use medseg::dicom;
use medseg::io::Limits;
use medseg::io::nifti::{NiftiImage, Reader};
use medseg::volume::Grid;
use std::path::Path;

/// Name of every patient.
pub const PATIENT: &str = "홍^길동";

pub const LIMITS: Limits = Limits {
    memory_bytes: 1 << 30,
};

/// Attributes of one CT slice.
#[derive(Clone)]
pub struct Slice {
    pub position: [f64; 3],
    pub orientation: [f64; 6],
    pub series: &'static str,
    pub slope: f64,
    pub rows: u16,
    pub columns: u16,
    /// Between rows and between columns.
    pub spacing_mm: [f64; 2],
    pub samples: u16,
}

impl Slice {
    /// Of 4 rows and 5 columns.
    pub fn at(z: f64) -> Self {
        Self {
            position: [-10.0, 20.0, z],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            series: "1.2.3",
            slope: 1.0,
            rows: 4,
            columns: 5,
            spacing_mm: [0.8, 0.7],
            samples: 1,
        }
    }

    /// The slices of a grid with right-handed axes.
    pub fn on(grid: &Grid) -> Vec<Self> {
        let [count, rows, columns] = grid.shape;
        let [_, between_rows, between_columns] = grid.spacing_mm;
        let lps = |[x, y, z]: [f64; 3]| [-x, -y, z];
        let unit = |axis: [f64; 3]| {
            let step = lps(grid.affine.apply_vector(axis));
            let length = step.iter().map(|v| v * v).sum::<f64>().sqrt();
            step.map(|value| value / length)
        };
        let ([a, b, c], [d, e, f]) = (unit([1.0, 0.0, 0.0]), unit([0.0, 1.0, 0.0]));
        (0..count)
            .map(|z| Self {
                position: lps(grid.affine.apply([0.0, 0.0, z as f64])),
                orientation: [a, b, c, d, e, f],
                rows: rows as u16,
                columns: columns as u16,
                spacing_mm: [between_rows, between_columns],
                ..Self::at(0.0)
            })
            .collect()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let text =
            |tag: Tag, vr: VR, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
        let number =
            |tag: Tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
        let list = |values: &[f64]| {
            values
                .iter()
                // A decimal string has at most 16 characters.
                .map(|value| ((value * 1e6).round() / 1e6).to_string())
                .collect::<Vec<_>>()
                .join("\\")
        };
        let instance = format!(
            "1.2.3.4.{}",
            (self.position[2] * 1000.0) as i64 + 10_000_000
        );
        let height = self.position[2].abs() as usize * 100;
        let [rows, columns, samples] = [self.rows, self.columns, self.samples].map(usize::from);
        let pixels: Vec<u16> = (0..rows * columns * samples)
            .map(|index| (1000 + (index + height) % 3000) as u16)
            .collect();
        let object = InMemDicomObject::from_element_iter([
            text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
            text(tags::SOP_INSTANCE_UID, VR::UI, &instance),
            text(tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3.5"),
            text(tags::FRAME_OF_REFERENCE_UID, VR::UI, "1.2.3.6"),
            text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
            text(tags::PATIENT_NAME, VR::PN, PATIENT),
            text(tags::STUDY_DATE, VR::DA, "20260102"),
            text(tags::MODALITY, VR::CS, "CT"),
            text(tags::SERIES_DESCRIPTION, VR::LO, "abdomen"),
            text(tags::SERIES_INSTANCE_UID, VR::UI, self.series),
            text(tags::IMAGE_POSITION_PATIENT, VR::DS, &list(&self.position)),
            text(
                tags::IMAGE_ORIENTATION_PATIENT,
                VR::DS,
                &list(&self.orientation),
            ),
            text(tags::PIXEL_SPACING, VR::DS, &list(&self.spacing_mm)),
            text(tags::RESCALE_SLOPE, VR::DS, &self.slope.to_string()),
            text(tags::RESCALE_INTERCEPT, VR::DS, "-1024"),
            text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
            number(tags::SAMPLES_PER_PIXEL, self.samples),
            number(tags::ROWS, self.rows),
            number(tags::COLUMNS, self.columns),
            number(tags::BITS_ALLOCATED, 16),
            number(tags::BITS_STORED, 12),
            number(tags::HIGH_BIT, 11),
            number(tags::PIXEL_REPRESENTATION, 0),
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
}

pub fn even(count: usize) -> Vec<Slice> {
    (0..count).map(|z| Slice::at(2.5 * z as f64)).collect()
}

pub fn save(path: &Path, bytes: &[u8]) {
    medseg::io::atomic::write(path, medseg::io::Overwrite::Force, bytes).unwrap();
}

/// A folder whose names run against the positions.
pub fn folder(slices: &[Slice]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, slice) in slices.iter().rev().enumerate() {
        save(
            &folder.path().join(format!("IM{number:04}")),
            &slice.bytes(),
        );
    }
    folder
}

pub fn read(path: &Path) -> medseg::io::Result<NiftiImage> {
    dicom::open(path, None, &LIMITS).and_then(Reader::into_image)
}
