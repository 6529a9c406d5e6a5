//! Structure sets: filled by a rasteriser of the tests' own, contours give the mask back.

use crate::builder::{LIMITS, even, folder};
use crate::segmentation::painted;
use dicom_dictionary_std::tags;
use dicom_object::{InMemDicomObject, open_file};
use medseg::dicom::{self, LabelObject, Reference};
use medseg::io::Overwrite;
use medseg::volume::{Grid, LabelMap, LabelTable};
use ndarray::Array3;
use std::path::Path;

fn items(object: &InMemDicomObject, tag: dicom_core::Tag) -> &[InMemDicomObject] {
    let element = object.element_opt(tag).unwrap();
    element
        .and_then(|element| element.items())
        .unwrap_or_default()
}

/// The voxels whose centres lie within the contours of each region, by the even-odd rule.
fn filled(object: &InMemDicomObject, grid: &Grid) -> Vec<Array3<bool>> {
    let inverse = grid.affine.inverse().unwrap();
    items(object, tags::ROI_CONTOUR_SEQUENCE)
        .iter()
        .map(|region| {
            let mut mask = Array3::from_elem(grid.shape, false);
            for contour in items(region, tags::CONTOUR_SEQUENCE) {
                let data = contour.element(tags::CONTOUR_DATA).unwrap();
                for value in data.to_multi_str().unwrap().iter() {
                    assert!(value.trim().len() <= 16, "{value}");
                }
                let points: Vec<[f64; 3]> = data
                    .to_multi_float64()
                    .unwrap()
                    .chunks_exact(3)
                    .map(|p| inverse.apply([-p[0], -p[1], p[2]]))
                    .collect();
                let z = points[0][2].round();
                assert!(points.iter().all(|p| (p[2] - z).abs() < 1e-3));
                fill(&mut mask, z as usize, &points);
            }
            mask
        })
        .collect()
}

fn fill(mask: &mut Array3<bool>, z: usize, points: &[[f64; 3]]) {
    let (_, rows, columns) = mask.dim();
    for y in 0..rows {
        for x in 0..columns {
            let (px, py) = (x as f64, y as f64);
            let pairs = points.iter().zip(points.iter().cycle().skip(1));
            let crossings = pairs.filter(|(a, b)| {
                (a[1] > py) != (b[1] > py)
                    && px < a[0] + (py - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            });
            mask[[z, y, x]] ^= crossings.count() % 2 == 1;
        }
    }
}

fn check(map: &LabelMap, series: &Path) -> dicom_object::DefaultDicomObject {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("rt.dcm");
    let reference = Reference::open(series, None, &LIMITS).unwrap();
    let table = LabelTable::abdomen();
    dicom::save_labels(
        &path,
        LabelObject::StructureSet,
        map,
        &table,
        &reference,
        Overwrite::Refuse,
    )
    .unwrap();
    let object = open_file(&path).unwrap();
    let labels: Vec<u16> = map
        .counts()
        .iter()
        .map(|c| c.0)
        .filter(|&n| n > 0)
        .collect();
    let masks = filled(&object, map.grid());
    for (label, mask) in labels.iter().zip(&masks) {
        let expected = map.volume.data().mapv(|voxel| voxel == *label);
        assert_eq!(mask, expected, "label {label}");
    }
    object
}

#[test]
fn contours_give_the_mask_back() {
    let series = folder(&even(6));
    let object = check(&painted(series.path()), series.path());
    let regions = items(&object, tags::STRUCTURE_SET_ROI_SEQUENCE);
    let names: Vec<_> = regions
        .iter()
        .map(|region| region.element(tags::ROI_NAME).unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        names.iter().map(|name| name.trim()).collect::<Vec<_>>(),
        ["tumor", "liver"]
    );
}

#[test]
fn holes_stay_holes() {
    let series = folder(&even(6));
    let mut map = painted(series.path());
    map.volume.data_mut().fill(9);
    for z in 0..6 {
        map.volume.data_mut()[[z, 1, 1]] = 0;
        map.volume.data_mut()[[z, 2, 3]] = 3;
    }
    check(&map, series.path());
}

#[test]
fn an_empty_map_names_what_was_looked_for() {
    let series = folder(&even(6));
    let mut map = painted(series.path());
    map.volume.data_mut().fill(0);
    let object = check(&map, series.path());
    assert_eq!(items(&object, tags::STRUCTURE_SET_ROI_SEQUENCE).len(), 12);
}
