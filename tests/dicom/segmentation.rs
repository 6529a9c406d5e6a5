//! Segmentations: what is written comes back, states whose it is, and says what it means.

use crate::builder::{LIMITS, PATIENT, even, folder, read, save};
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, open_file};
use medseg::dicom::{self, LabelObject, Reference};
use medseg::geometry::orientation::{Orientation, Turn};
use medseg::io::Overwrite;
use medseg::io::labels;
use medseg::io::nifti::Reader;
use medseg::volume::{LabelMap, LabelTable};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A map on the grid of a series of 6 slices: labels 3 and 9 of the `abdomen` scheme, the first and the
/// last slice empty.
pub fn painted(series: &Path) -> LabelMap {
    let grid = *read(series).unwrap().grid();
    let mut data = ndarray::Array3::zeros(grid.shape);
    data[[1, 0, 0]] = 9;
    data[[2, 3, 4]] = 9;
    data[[2, 1, 1]] = 3;
    data[[4, 2, 3]] = 3;
    LabelMap::new(data, grid, LabelTable::default()).unwrap()
}

fn write(map: &LabelMap, series: &Path, name: &str) -> (tempfile::TempDir, PathBuf) {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join(name);
    let reference = Reference::open(series, None, &LIMITS).unwrap();
    dicom::save_labels(
        &path,
        LabelObject::Segmentation,
        map,
        &LabelTable::abdomen(),
        &reference,
        Overwrite::Refuse,
    )
    .unwrap();
    (out, path)
}

fn map_of(path: &Path) -> (LabelMap, LabelTable) {
    let reader = dicom::open(path, None, &LIMITS).unwrap();
    let table = labels::table_in_extensions(reader.extensions()).unwrap_or_default();
    let (map, _) = reader.into_label_map(LabelTable::default()).unwrap();
    (map, table)
}

fn items(object: &InMemDicomObject, tag: dicom_core::Tag) -> &[InMemDicomObject] {
    object.element(tag).unwrap().items().unwrap()
}

#[test]
fn a_label_map_comes_back_whole_with_its_names() {
    let series = folder(&even(6));
    let map = painted(series.path());
    let (_out, path) = write(&map, series.path(), "a.dcm");
    let (found, table) = map_of(&path);
    assert_eq!(found.volume.data(), map.volume.data());
    found.grid().check_matches(map.grid(), 1e-9).unwrap();
    let expected = LabelTable::abdomen();
    for label in [3, 9] {
        assert_eq!(table.get(label), expected.get(label));
    }
    assert_eq!(table.len(), 2);
}

#[test]
fn frames_are_those_with_voxels_and_refer_to_their_slices() {
    let series = folder(&even(6));
    let (_out, path) = write(&painted(series.path()), series.path(), "a.dcm");
    let object = open_file(&path).unwrap();
    let frames = items(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    let described: Vec<(Vec<u32>, f64, String)> = frames
        .iter()
        .map(|frame| {
            let content = &items(frame, tags::FRAME_CONTENT_SEQUENCE)[0];
            let index = content.element(tags::DIMENSION_INDEX_VALUES).unwrap();
            let plane = &items(frame, tags::PLANE_POSITION_SEQUENCE)[0];
            let position = plane.element(tags::IMAGE_POSITION_PATIENT).unwrap();
            let derived = &items(frame, tags::DERIVATION_IMAGE_SEQUENCE)[0];
            let image = &items(derived, tags::SOURCE_IMAGE_SEQUENCE)[0];
            let instance = image.element(tags::REFERENCED_SOP_INSTANCE_UID).unwrap();
            (
                index.to_multi_int().unwrap(),
                position.to_multi_float64().unwrap()[2],
                instance.to_str().unwrap().trim_end_matches('\0').to_owned(),
            )
        })
        .collect();
    let instance = |z: f64| format!("1.2.3.4.{}", (z * 1000.0) as i64 + 10_000_000);
    // Segments 1 (label 3) and 2 (label 9); slices 1, 2 and 4 are the first, second and third with frames.
    let expected = [
        (vec![1, 2], 5.0),
        (vec![1, 3], 10.0),
        (vec![2, 1], 2.5),
        (vec![2, 2], 5.0),
    ];
    let expected = expected.map(|(index, z)| (index, z, instance(z)));
    assert_eq!(described, expected);
    let name = object.element(tags::PATIENT_NAME).unwrap();
    assert_eq!(name.to_str().unwrap(), PATIENT);
    let segment = &items(&object, tags::SEGMENT_SEQUENCE)[0];
    let kind = &items(segment, tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE)[0];
    let code = kind.element(tags::CODE_VALUE).unwrap();
    assert_eq!(code.to_str().unwrap().trim(), "108369006");
}

#[test]
fn the_same_content_is_the_same_file_and_another_is_another() {
    let series = folder(&even(6));
    let mut map = painted(series.path());
    let bytes = |map: &LabelMap| {
        let (_out, path) = write(map, series.path(), "a.dcm");
        std::fs::read(path).unwrap()
    };
    let first = bytes(&map);
    assert_eq!(first, bytes(&map));
    // Axes turned to RAS+: the same voxels, written the same.
    let turn = Turn::between(
        Orientation::of(&map.grid().affine).unwrap(),
        Orientation::RAS,
    );
    assert!(!turn.is_identity());
    let turned = LabelMap {
        volume: turn.volume(&map.volume),
        table: LabelTable::default(),
    };
    assert_eq!(first, bytes(&turned));
    map.volume.data_mut()[[3, 0, 0]] = 3;
    let other = bytes(&map);
    let uid = |bytes: &[u8]| {
        let object = dicom_object::from_reader(&bytes[128..]).unwrap();
        object
            .element(tags::SOP_INSTANCE_UID)
            .unwrap()
            .to_str()
            .unwrap()
            .into_owned()
    };
    assert_ne!(uid(&first), uid(&other));
}

#[test]
fn an_empty_map_is_one_empty_frame_with_what_was_looked_for() {
    let series = folder(&even(6));
    let mut map = painted(series.path());
    map.volume.data_mut().fill(0);
    let (_out, path) = write(&map, series.path(), "a.dcm");
    let (found, table) = map_of(&path);
    assert_eq!(found.volume.data(), map.volume.data());
    assert_eq!(table.len(), 12);
    let object = open_file(&path).unwrap();
    assert_eq!(
        items(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).len(),
        1
    );
}

#[test]
fn a_segmentation_beside_its_images_is_left_out_unless_chosen() {
    let series = folder(&even(6));
    let map = painted(series.path());
    let (_out, path) = write(&map, series.path(), "a.dcm");
    save(
        &series.path().join("result.dcm"),
        &std::fs::read(&path).unwrap(),
    );
    let image = read(series.path()).unwrap();
    assert!(
        image
            .header
            .warnings
            .iter()
            .any(|w| w.contains("segmentation")),
        "{:?}",
        image.header.warnings
    );
    let chosen = dicom::open(series.path(), Some("medseg segmentation"), &LIMITS);
    let (found, _) = chosen
        .and_then(|reader| reader.into_label_map(LabelTable::default()))
        .unwrap();
    assert_eq!(found.volume.data(), map.volume.data());
    let refused = Reference::open(&path, None, &LIMITS).unwrap_err();
    assert!(
        refused.to_string().contains("is a segmentation"),
        "{refused}"
    );
}

#[test]
fn a_map_on_another_grid_is_refused() {
    let (series, other) = (folder(&even(6)), folder(&even(5)));
    let reference = Reference::open(other.path(), None, &LIMITS).unwrap();
    let out = tempfile::tempdir().unwrap();
    let saved = dicom::save_labels(
        &out.path().join("a.dcm"),
        LabelObject::Segmentation,
        &painted(series.path()),
        &LabelTable::default(),
        &reference,
        Overwrite::Refuse,
    );
    let message = saved.unwrap_err().to_string();
    assert!(message.contains("not on the grid"), "{message}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn damaged_segmentations_are_errors() {
    let series = folder(&even(6));
    let (_out, path) = write(&painted(series.path()), series.path(), "a.dcm");
    let sound = std::fs::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutant");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..400 {
        let mut bytes = sound.clone();
        for _ in 0..=random(4) {
            let at = 132 + random(bytes.len() - 132);
            bytes[at] = random(256) as u8;
        }
        // Without the syncing of our own writer, which would take longer than the reading.
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write_all(&bytes).unwrap();
        drop(file);
        // Whatever comes back has to be a label map or an error, never a panic or a huge allocation.
        let _ = dicom::open(&path, None, &LIMITS)
            .and_then(|reader| reader.into_label_map(LabelTable::default()));
    }
}

fn shared() -> Option<PathBuf> {
    let shared = std::env::var_os("MEDSEG_SHARED");
    if shared.is_none() {
        eprintln!("MEDSEG_SHARED is not set: the real segmentations are not compared");
    }
    shared.map(PathBuf::from)
}

/// Segmentations that dcmqi and highdicom wrote, against the masks they were written from.
#[test]
fn real_segmentations_read_to_their_masks() {
    let Some(shared) = shared() else { return };
    let data = shared.join("data/dicom");
    let (found, table) = map_of(&data.join("dcmqi_23x38x3/seg/label.seg"));
    let mask = Reader::open(&data.join("dcmqi_23x38x3/nrrd/label.nrrd"), &LIMITS)
        .and_then(|reader| reader.into_label_map(LabelTable::default()))
        .unwrap()
        .0;
    assert_eq!(found.volume.data(), mask.volume.data());
    found.grid().check_matches(mask.grid(), 1e-4).unwrap();
    assert_eq!(table.name_of(1), "Liver");
    let (found, _) = map_of(&data.join("dcmqi_ct3slice_seg/liver.dcm"));
    let image = read(&data.join("dcmqi_ct3slice")).unwrap();
    found.grid().check_matches(image.grid(), 1e-2).unwrap();
    assert_eq!(found.counts()[1], (1, 107_098)); // as segimage2itkimage of dcmqi 1.5.7
    let overlap = dicom::open(
        &data.join("highdicom/seg_image_ct_binary_overlap.dcm"),
        None,
        &LIMITS,
    );
    let message = overlap.err().unwrap().to_string();
    assert!(message.contains("share voxels"), "{message}");
    // highdicom leaves empty slices out, so its frames reach from the first to the last with a label.
    let study = shared.join("reference/dicom_seg/dicom_study");
    let (found, _) = map_of(&study.join("seg_reference_highdicom.dcm"));
    assert_eq!(found.grid().shape, [7, 48, 56]);
    assert_eq!(found.counts()[1..], [(1, 193), (2, 1320), (3, 543)]);
}
