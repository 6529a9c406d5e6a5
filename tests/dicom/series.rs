//! Image series: what is read, what is refused, and that damage costs neither a panic nor memory.

use crate::builder::{LIMITS, Slice, even, folder, read, save};
use medseg::dicom;
use medseg::io::nifti::{Reader, Voxels};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
fn files_with_commas_between_read_as_their_folder() {
    let folder = folder(&even(6));
    let listed = |numbers: &[usize]| {
        let files = numbers
            .iter()
            .map(|number| folder.path().join(format!("IM{number:04}")));
        let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
        PathBuf::from(files.join(","))
    };
    let path = listed(&[2, 0, 3, 5, 4, 1]);
    let cases = medseg::io::batch::find_cases(std::slice::from_ref(&path), Some(1)).unwrap();
    assert_eq!(cases.cases[0].channels, std::slice::from_ref(&path));
    assert!(!cases.is_batch && dicom::is_study(&path));
    let expected = read(folder.path()).unwrap();
    let found = read(&path).unwrap();
    assert_eq!(found.voxels, expected.voxels);
    assert_eq!(found.grid(), expected.grid());
    let gap = read(&listed(&[0, 1, 2, 4])).unwrap_err().to_string();
    assert!(gap.contains("missing slice"), "{gap}");
    let lost = listed(&[0, 1, 9]);
    let error = medseg::io::batch::find_cases(&[lost], Some(1)).unwrap_err();
    assert!(error.to_string().contains("IM0009: there is no such file"));
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
    // The same by a regular expression, which must fit the whole UID.
    let by_pattern = dicom::open(folder.path(), Some(r".*\.2\.7+"), &LIMITS).unwrap();
    assert_eq!(
        by_pattern.into_image().unwrap().voxels,
        chosen.into_image().unwrap().voxels
    );
    assert!(dicom::open(folder.path(), Some(r"7+"), &LIMITS).is_err());
    let broken = dicom::open(folder.path(), Some("(7"), &LIMITS)
        .err()
        .unwrap();
    assert!(broken.to_string().contains("(7"), "{broken}");
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

fn resampled(path: &Path) -> medseg::io::Result<medseg::io::nifti::NiftiImage> {
    let reading = dicom::Reading {
        series: None,
        resample_irregular: true,
    };
    dicom::open_as(path, reading, &LIMITS).and_then(Reader::into_image)
}

#[test]
fn uneven_and_tilted_stacks_are_interpolated_when_asked() {
    let mut uneven = even(5);
    uneven[2].position[2] += 0.5;
    let folder = folder(&uneven);
    let refused = read(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("--resample-irregular"), "{refused}");
    let image = resampled(folder.path()).unwrap();
    assert_eq!(image.grid().shape, [5, 4, 5]);
    assert_eq!(image.grid().spacing_mm, [2.5, 0.8, 0.7]);
    let warnings = &image.header.warnings;
    assert!(
        warnings.iter().any(|w| w.contains("resampled")),
        "{warnings:?}"
    );
    let volume = &image.to_f32().unwrap()[0];
    // Values rise by 100 with every whole millimetre of the position: 0, 200, 500, 700 and 1000 at the slices.
    let at = |z: usize| volume.data()[[z, 0, 0]] - (1000.0 - 1024.0);
    assert_eq!([0, 1, 3, 4].map(at), [0.0, 200.0, 700.0, 1000.0]);
    // 5.0 mm lies between the slices at 2.5 (200) and 5.5 mm (500).
    assert!((at(2) - 450.0).abs() < 1e-3, "{}", at(2));

    let mut tilted = even(4);
    for (index, slice) in tilted.iter_mut().enumerate() {
        slice.position[1] += 0.8 * index as f64;
    }
    let folder = crate::builder::folder(&tilted);
    assert!(read(folder.path()).is_err());
    let image = resampled(folder.path()).unwrap();
    // A row more for every slice's shift of one pixel.
    assert_eq!(image.grid().shape, [4, 7, 5]);
    let volume = &image.to_f32().unwrap()[0];
    assert_eq!(volume.data()[[0, 0, 0]], 1000.0 - 1024.0);
    assert_eq!(volume.data()[[3, 3, 0]], 1000.0 - 1024.0 + 700.0);
    assert_eq!(
        volume.data()[[3, 0, 0]],
        1000.0 - 1024.0,
        "no slice reaches there"
    );
}

#[test]
fn missing_slices_stay_missing() {
    let mut gap = even(6);
    gap.remove(2);
    let message = resampled(folder(&gap).path()).unwrap_err().to_string();
    assert!(message.contains("missing slice"), "{message}");
    let same = resampled(folder(&even(3)).path()).unwrap();
    assert!(
        matches!(same.voxels, Voxels::I16(_)),
        "an even stack is read as it is"
    );
}

#[test]
fn facts_are_in_the_words_and_units_of_bids() {
    let folder = folder(&even(3));
    let facts = dicom::facts(folder.path(), None, &LIMITS).unwrap();
    assert_eq!(facts["Modality"], "CT");
    assert_eq!(facts["SeriesDescription"], "abdomen");
    assert_eq!(facts["ConversionSoftware"], "medseg");
    let text = serde_json::to_string(&facts).unwrap();
    assert!(!text.contains(crate::builder::PATIENT), "{text}");
}

#[test]
fn an_archive_that_expands_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.zip");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("IM0000", zip::write::SimpleFileOptions::default())
        .unwrap();
    let piece: Vec<u8> = (0..1 << 20).map(|index| (index % 251) as u8).collect();
    for _ in 0..80 {
        zip.write_all(&piece).unwrap();
    }
    let bytes = zip.finish().unwrap().into_inner();
    assert!(bytes.len() < 2 << 20);
    save(&path, &bytes);
    let limits = medseg::io::Limits {
        memory_bytes: 32 << 20,
    };
    let error = dicom::open(&path, None, &limits).err().unwrap();
    assert!(
        matches!(error, medseg::io::Error::OverLimit { .. }),
        "{error}"
    );
}
