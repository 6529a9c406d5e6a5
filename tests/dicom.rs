//! DICOM series: what is read, what is refused, and that damage costs neither a panic nor memory.

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use medseg::dicom;
use medseg::io::Limits;
use medseg::io::nifti::{NiftiImage, Reader, Voxels};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMITS: Limits = Limits {
    memory_bytes: 1 << 30,
};

/// Attributes of one 5 x 4 CT slice.
#[derive(Clone)]
struct Slice {
    position: [f64; 3],
    orientation: [f64; 6],
    series: &'static str,
    slope: f64,
    rows: u16,
    samples: u16,
}

impl Slice {
    fn at(z: f64) -> Self {
        Self {
            position: [-10.0, 20.0, z],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            series: "1.2.3",
            slope: 1.0,
            rows: 4,
            samples: 1,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let text =
            |tag: Tag, vr: VR, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
        let number =
            |tag: Tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
        let list = |values: &[f64]| {
            values
                .iter()
                .map(f64::to_string)
                .collect::<Vec<_>>()
                .join("\\")
        };
        let instance = format!("1.2.3.4.{}", (self.position[2] * 1000.0) as i64 + 100_000);
        let pixels: Vec<u16> = (0..self.rows * 5 * self.samples)
            .map(|index| 1000 + index + self.position[2].abs() as u16 * 100)
            .collect();
        let object = InMemDicomObject::from_element_iter([
            text(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE),
            text(tags::SOP_INSTANCE_UID, VR::UI, &instance),
            text(tags::MODALITY, VR::CS, "CT"),
            text(tags::SERIES_DESCRIPTION, VR::LO, "abdomen"),
            text(tags::SERIES_INSTANCE_UID, VR::UI, self.series),
            text(tags::IMAGE_POSITION_PATIENT, VR::DS, &list(&self.position)),
            text(
                tags::IMAGE_ORIENTATION_PATIENT,
                VR::DS,
                &list(&self.orientation),
            ),
            text(tags::PIXEL_SPACING, VR::DS, "0.8\\0.7"),
            text(tags::RESCALE_SLOPE, VR::DS, &self.slope.to_string()),
            text(tags::RESCALE_INTERCEPT, VR::DS, "-1024"),
            text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
            number(tags::SAMPLES_PER_PIXEL, self.samples),
            number(tags::ROWS, self.rows),
            number(tags::COLUMNS, 5),
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

fn even(count: usize) -> Vec<Slice> {
    (0..count).map(|z| Slice::at(2.5 * z as f64)).collect()
}

fn save(path: &Path, bytes: &[u8]) {
    medseg::io::atomic::write(path, medseg::io::Overwrite::Force, bytes).unwrap();
}

/// A folder whose names run against the positions.
fn folder(slices: &[Slice]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, slice) in slices.iter().rev().enumerate() {
        save(
            &folder.path().join(format!("IM{number:04}")),
            &slice.bytes(),
        );
    }
    folder
}

fn read(path: &Path) -> medseg::io::Result<NiftiImage> {
    dicom::open(path, None, &LIMITS).and_then(Reader::into_image)
}

#[test]
fn slices_are_sorted_by_position_and_rescaled() {
    let folder = folder(&even(5));
    assert!(dicom::is_study(folder.path()));
    let image = read(folder.path()).unwrap();
    assert_eq!(image.grid().shape, [5, 4, 5]);
    // PixelSpacing is the distance between rows first.
    assert_eq!(image.grid().spacing_mm, [2.5, 0.8, 0.7]);
    assert_eq!(image.grid().affine.origin_mm, [10.0, -20.0, 0.0]);
    assert_eq!(image.grid().affine.linear[0], [-0.7, 0.0, 0.0]);
    let Voxels::I16(values) = &image.voxels else {
        panic!("{:?}", image.voxels.datatype())
    };
    assert_eq!(values[..2], [1000 - 1024, 1001 - 1024]);
    assert_eq!(values[2 * 20], 1000 + 500 - 1024);
}

#[test]
fn a_zip_reads_as_its_folder() {
    let folder = folder(&even(4));
    let path = folder.path().join("study.zip");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for number in 0..4 {
        zip.start_file(
            format!("../../IM{number:04}"),
            zip::write::SimpleFileOptions::default(),
        )
        .unwrap();
        zip.write_all(&std::fs::read(folder.path().join(format!("IM{number:04}"))).unwrap())
            .unwrap();
    }
    let expected = read(folder.path()).unwrap();
    save(&path, &zip.finish().unwrap().into_inner());
    let found = read(&path).unwrap();
    assert_eq!(found.voxels, expected.voxels);
    assert_eq!(found.grid(), expected.grid());
    assert!(!folder.path().join("../../IM0000").exists());
}

#[test]
fn stacks_that_are_none_are_refused_by_name() {
    let changed = |change: &dyn Fn(&mut Vec<Slice>)| {
        let mut slices = even(6);
        change(&mut slices);
        let folder = folder(&slices);
        read(folder.path()).unwrap_err().to_string()
    };
    for (word, message) in [
        ("1 missing slice between", changed(&|s| drop(s.drain(3..4)))),
        ("2 missing slices", changed(&|s| drop(s.drain(2..4)))),
        ("duplicate position", changed(&|s| s[3].position[2] = 5.001)),
        ("uneven slices", changed(&|s| s[5].position[2] += 1.0)),
        ("uneven slices", changed(&|s| s[3].position[0] += 0.5)),
        (
            "mixed orientation",
            changed(&|s| s[5].orientation = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]),
        ),
        ("5 x 5 pixels", changed(&|s| s[2].rows = 5)),
        (
            "colour",
            changed(&|s| s.iter_mut().for_each(|slice| slice.samples = 3)),
        ),
        (
            "right angle",
            changed(&|s| s.iter_mut().for_each(|slice| slice.orientation = [0.0; 6])),
        ),
        (
            "tilted gantry",
            changed(&|s| {
                s.iter_mut()
                    .for_each(|slice| slice.position[1] += 0.3 * slice.position[2]);
            }),
        ),
        ("RescaleSlope", changed(&|s| s[1].slope = 0.0)),
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn a_slope_of_its_own_belongs_to_its_slice() {
    let mut slices = even(3);
    slices[1].slope = 0.5;
    let folder = folder(&slices);
    let image = read(folder.path()).unwrap();
    let Voxels::F32(values) = &image.voxels else {
        panic!("{:?}", image.voxels.datatype())
    };
    assert_eq!(values[0], 1000.0 - 1024.0);
    assert_eq!(values[20], 1200.0 * 0.5 - 1024.0);
}

#[test]
fn of_several_series_one_is_chosen() {
    let mut slices = even(3);
    slices.extend(even(2).into_iter().map(|slice| Slice {
        series: "1.2.77",
        position: [0.0, 0.0, slice.position[2] + 500.0],
        ..slice
    }));
    let folder = folder(&slices);
    let message = read(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("2 series") && message.contains("1.2.77"),
        "{message}"
    );
    let chosen = dicom::open(folder.path(), Some("1.2.77"), &LIMITS).unwrap();
    assert_eq!(chosen.header().grid.shape[0], 2);
    assert_eq!(dicom::list(folder.path(), &LIMITS).unwrap().len(), 2);
    assert!(dicom::open(folder.path(), Some("9.9"), &LIMITS).is_err());
}

#[test]
fn strangers_in_the_folder_are_named() {
    let folder = folder(&even(3));
    save(&folder.path().join("IM9999"), b"not an image");
    let image = read(folder.path()).unwrap();
    assert!(image.header.warnings.iter().any(|w| w.contains("IM9999")));
    let empty = tempfile::tempdir().unwrap();
    assert!(!dicom::is_study(empty.path()));
    assert!(read(empty.path()).is_err());
}

/// F2 and F3: damaged and cut files are errors, fast, whatever length they declare.
#[test]
fn mutants_neither_panic_nor_hang() {
    let sound = Slice::at(0.0).bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutant.dcm");
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let write = |bytes: &[u8]| {
        std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap()
            .write_all(bytes)
            .unwrap();
    };
    let (mut accepted, rounds) = (0, 3_000);
    for round in 0..rounds {
        let mut bytes = sound.clone();
        for _ in 0..=random(3) {
            let at = 132 + random(bytes.len() - 140);
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at..at + 4].copy_from_slice(&[0xff; 4]),
                2 => bytes[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]),
                _ => bytes.truncate(at),
            }
            if bytes.len() < 150 {
                break;
            }
        }
        write(&bytes);
        let started = Instant::now();
        let outcome = read(&path);
        assert!(
            started.elapsed() < Duration::from_millis(500),
            "round {round}"
        );
        if let Err(error) = &outcome {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        accepted += usize::from(outcome.is_ok());
    }
    assert!(
        (rounds / 50..rounds * 9 / 10).contains(&accepted),
        "{accepted}"
    );
    for length in (0..sound.len()).step_by(37) {
        write(&sound[..length]);
        assert!(read(&path).is_err(), "cut at {length}");
    }
}

fn sha256(values: &[i16]) -> String {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn shared() -> Option<PathBuf> {
    let shared = std::env::var_os("MEDSEG_SHARED");
    if shared.is_none() {
        eprintln!("MEDSEG_SHARED is not set: the real series are not compared");
    }
    shared.map(|shared| PathBuf::from(shared).join("data/dicom"))
}

/// The same slices in every transfer syntax give the same voxels.
#[test]
fn every_transfer_syntax_gives_the_same_voxels() {
    let Some(shared) = shared() else { return };
    let text = std::fs::read_to_string(shared.join("derived/ct_crop_EXPECTED.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (name, about) in expected["folders"].as_object().unwrap() {
        let outcome = read(&shared.join("derived").join(name));
        if about["slices"] == 4 {
            assert!(outcome.unwrap_err().to_string().contains("missing slice"));
            continue;
        }
        if name == "ct_crop_jpegls" && cfg!(not(feature = "jpegls")) {
            let message = outcome.unwrap_err().to_string();
            assert!(
                message.contains("1.2.840.10008.1.2.4.80") && message.contains("jpegls"),
                "{message}"
            );
            continue;
        }
        let image = outcome.unwrap();
        let Voxels::I16(values) = &image.voxels else {
            panic!("{name}: {:?}", image.voxels.datatype())
        };
        assert_eq!(sha256(values), expected["sha256_hu_int16"], "{name}");
        for probe in expected["probes"].as_array().unwrap() {
            let [x, y, z] = ["x", "y", "z"].map(|axis| probe[axis].as_u64().unwrap() as usize);
            assert_eq!(
                i64::from(values[(z * 256 + y) * 256 + x]),
                probe["hu"],
                "{name}"
            );
        }
        let first: Vec<f64> =
            serde_json::from_value(expected["first_position_lps"].clone()).unwrap();
        assert_eq!(
            image.grid().affine.origin_mm,
            [-first[0], -first[1], first[2]]
        );
    }
}

/// Voxels and places as SimpleITK 2.5 (GDCM) reads them: `testdata/dicom/make.py`.
#[test]
fn real_series_read_as_in_simpleitk() {
    let Some(shared) = shared() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dicom/shared.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        let image = read(&shared.join(name));
        if let Some(word) = expected["refused"].as_str() {
            let message = image.unwrap_err().to_string();
            assert!(message.contains(word), "{name}: {message}");
            continue;
        }
        let image = image.unwrap();
        let volume = &image.to_f32().unwrap()[0];
        let grid = image.grid();
        let close = |a: f64, b: &Value| (a - b.as_f64().unwrap()).abs() < 1e-4;
        for axis in 0..3 {
            assert_eq!(
                grid.shape[2 - axis] as u64,
                expected["size_xyz"][axis],
                "{name}"
            );
            let flip = if axis < 2 { -1.0 } else { 1.0 };
            // A single slice has the thickness that its header states; GDCM says 1 for MR.
            let is_alone = axis == 2 && grid.shape[0] == 1;
            assert!(
                is_alone || close(grid.spacing_mm[2 - axis], &expected["spacing_mm_xyz"][axis]),
                "{name}"
            );
            assert!(
                close(
                    flip * grid.affine.origin_mm[axis],
                    &expected["origin_lps_mm"][axis]
                ),
                "{name}"
            );
            for column in 0..3 {
                let direction =
                    flip * grid.affine.linear[axis][column] / grid.spacing_mm[2 - column];
                assert!(
                    close(direction, &expected["direction_lps"][3 * axis + column]),
                    "{name}"
                );
            }
        }
        let bytes: Vec<u8> = volume
            .as_slice()
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let hash: String = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hash, expected["sha256_f32"], "{name}");
    }
}
