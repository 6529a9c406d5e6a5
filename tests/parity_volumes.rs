//! NRRD and MetaImage files against SimpleITK: `testdata/volumes/make.py` wrote them and what it reads in them.

use medseg::geometry::orientation::Orientation;
use medseg::io::nifti::{self, Format, Geometry, NiftiImage, Voxels};
use medseg::io::{Limits, Overwrite, labels};
use medseg::volume::{Affine, Grid, LabelMap, LabelTable, Volume};
use ndarray::Array3;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const LIMITS: Limits = Limits {
    memory_bytes: 1 << 30,
};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/volumes")
        .join(name)
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

fn little_endian(voxels: &Voxels) -> Vec<u8> {
    macro_rules! bytes {
        ($($kind:ident),*) => {
            match voxels {
                $(Voxels::$kind(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),)*
            }
        };
    }
    bytes!(U8, I8, I16, U16, I32, U32, I64, U64, F32, F64)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(name: &str, image: &NiftiImage, expected: &Value) {
    assert_eq!(
        image.voxels.datatype().name(),
        expected["datatype"],
        "{name}"
    );
    let grid = image.grid();
    let size: Vec<f64> = grid.shape.iter().rev().map(|&n| n as f64).collect();
    assert_eq!(size, numbers(&expected["size_xyz"]), "{name}");
    assert_eq!(
        image.header.channels() as u64,
        expected["channels"],
        "{name}"
    );
    assert_eq!(
        sha256(&little_endian(&image.voxels)),
        expected["sha256"],
        "{name}"
    );
    // SimpleITK makes unit directions of the stored vectors: equal up to a rounding of the last bits.
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs());
    let spacing = numbers(&expected["spacing_mm_xyz"]);
    let origin = numbers(&expected["origin_lps_mm"]);
    let direction = numbers(&expected["direction_lps"]);
    let flip = [-1.0, -1.0, 1.0];
    for row in 0..3 {
        assert!(close(grid.spacing_mm[2 - row], spacing[row]), "{name}");
        assert!(
            close(grid.affine.origin_mm[row], flip[row] * origin[row]),
            "{name}"
        );
        for column in 0..3 {
            let found = grid.affine.linear[row][column];
            let wanted = flip[row] * direction[3 * row + column] * spacing[column];
            assert!(close(found, wanted), "{name}: {found} {wanted}");
        }
    }
}

#[test]
fn every_variant_reads_as_in_simpleitk() {
    let text = std::fs::read_to_string(testdata("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let files = expected.as_object().unwrap();
    assert!(files.len() >= 30);
    for (name, expected) in files {
        let image = nifti::read(&testdata(name), &LIMITS).unwrap();
        check(name, &image, expected);
    }
}

#[test]
fn real_files_read_as_in_simpleitk() {
    let Some(shared) = std::env::var_os("MEDSEG_SHARED") else {
        eprintln!("MEDSEG_SHARED is not set: the real NRRD files are not compared");
        return;
    };
    let text = std::fs::read_to_string(testdata("shared.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        let path = Path::new(&shared).join("data/nrrd").join(name);
        check(name, &nifti::read(&path, &LIMITS).unwrap(), expected);
    }
    let path = Path::new(&shared).join("data/nrrd/Segmentation.seg.nrrd");
    let (_, extensions) = nifti::read_header(&path).unwrap();
    let table = labels::table_in_extensions(&extensions).unwrap();
    assert_eq!(table.name_of(1), "ribs");
    assert_eq!(table.get(1).unwrap().rgb, [253, 232, 158]);
}

/// An oblique, mirrored grid whose numbers need all of `f64`.
fn grid() -> Grid {
    let (sine, cosine) = 0.3_f64.sin_cos();
    let spacing = [0.7, 0.8, 2.5];
    let columns = [[-cosine, sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]];
    Grid {
        shape: [3, 4, 5],
        spacing_mm: [spacing[2], spacing[1], spacing[0]],
        affine: Affine {
            linear: std::array::from_fn(|row| {
                std::array::from_fn(|column| columns[column][row] * spacing[column])
            }),
            origin_mm: [-11.1, 33.123_456_789_012, 1e-3],
        },
    }
}

#[test]
fn what_is_written_reads_back_with_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let data = Array3::from_shape_fn([3, 4, 5], |(z, y, x)| ((z + 2 * y + x) % 4) as u16);
    let map = LabelMap {
        volume: Volume::new(data, grid()).unwrap(),
        table: LabelTable::abdomen(),
    };
    let extensions = labels::with_table(&[], &map.table);
    for name in ["a.nrrd", "a.seg.nrrd", "a.mha", "a.nii.gz"] {
        let path = folder.path().join(name);
        let geometry = Geometry::from_grid(map.grid());
        nifti::save_label_map(
            &path,
            &map,
            &geometry,
            extensions.clone(),
            Overwrite::Refuse,
        )
        .unwrap();
        let (_, found) = nifti::read_header(&path).unwrap();
        let table = labels::table_in_extensions(&found);
        let kept = table.map(|table| table.name_of(1));
        let expected = (!name.ends_with(".mha")).then(|| "kidney_right".to_owned());
        assert_eq!(kept, expected, "{name}");
        let (back, header) = nifti::read_label_map(&path, LabelTable::default(), &LIMITS).unwrap();
        assert_eq!(back.volume.as_slice(), map.volume.as_slice());
        map.grid().check_matches(back.grid(), 1e-4).unwrap();
        assert_eq!(header.format, Format::for_name(&path));
    }
}

#[test]
fn nrrd_repeats_an_f64_geometry_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let source = testdata("gzip.nrrd");
    let image = nifti::read(&source, &LIMITS).unwrap();
    let volume = image.to_f32().unwrap();
    let path = folder.path().join("copy.nrrd");
    let channels = [&volume[0], &volume[0]];
    nifti::save_volume(
        &path,
        &channels,
        image.geometry(),
        Vec::new(),
        Overwrite::Refuse,
    )
    .unwrap();
    let copy = nifti::read(&path, &LIMITS).unwrap();
    assert_eq!(copy.grid(), image.grid());
    assert_eq!(copy.header.channels(), 2);
    assert_eq!(copy.to_f32().unwrap()[1].as_slice(), volume[0].as_slice());
    assert!(Orientation::of(&copy.grid().affine).is_ok());
}

#[test]
fn headers_that_lead_elsewhere_or_nowhere_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nrrd = |change: (&str, &str)| {
        "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 2 2 2\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n\
         endian: little\nencoding: raw\nspace origin: (0,0,0)\n"
            .replace(change.0, change.1)
            + "\n0123456789abcdef"
    };
    let mha = |change: (&str, &str)| {
        "NDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementSpacing = 1 1 1\nElementDataFile = LOCAL\n0123456789abcdef"
            .replace(change.0, change.1)
    };
    let read = |name: &str, text: String| {
        let path = folder.path().join(name);
        medseg::io::atomic::write(&path, Overwrite::Force, text.as_bytes()).unwrap();
        nifti::read(&path, &LIMITS)
    };
    read("sound.nrrd", nrrd(("", ""))).unwrap();
    read("sound.mha", mha(("", ""))).unwrap();
    for (change, word) in [
        (
            ("encoding: raw", "encoding: raw\ndata file: ../secret.raw"),
            "beside",
        ),
        (
            ("encoding: raw", "encoding: raw\ndata file: /etc/passwd"),
            "beside",
        ),
        (
            (
                "encoding: raw",
                "encoding: raw\ndata file: slice%02d.raw 1 2 1",
            ),
            "beside",
        ),
        (
            ("encoding: raw", "encoding: raw\ndata file: gone.raw"),
            "gone.raw",
        ),
        (("encoding: raw", "encoding: bzip2"), "bzip2"),
        (("encoding: raw", "encoding: gzip"), "damaged gzip"),
        (("type: short", "type: block"), "block"),
        (("space: LPS", "space: scanner-xyz"), "scanner-xyz"),
        (
            ("space: LPS", "space: LPS\nspace units: \"m\" \"m\" \"m\""),
            "units",
        ),
        (("sizes: 2 2 2", "sizes: 2 2 20"), "needs"),
        (("sizes: 2 2 2", "sizes: 2 2 -2"), "sizes"),
        (("(0,0,1)", "(0,1,0)"), "do not span"),
        (("(0,0,1)", "(0,0,nan)"), "space directions"),
        (("(0,0,1)", "(0,0,0)"), "voxel size along z"),
        (("endian: little\n", ""), "endian"),
    ] {
        let message = read("wrong.nrrd", nrrd(change)).unwrap_err().to_string();
        assert!(
            message.contains(word) && message.contains("wrong.nrrd") || word == "gone.raw",
            "{message}"
        );
    }
    for (change, word) in [
        (("LOCAL", "../secret.raw"), "beside"),
        (("LOCAL", "LIST"), "beside"),
        (("NDims = 3", "NDims = 9"), "NDims"),
        (("MET_SHORT", "MET_STRING"), "MET_STRING"),
        (("DimSize = 2 2 2", "DimSize = 2 2 0"), "DimSize"),
        (("1 1 1", "1 1 0"), "voxel size along z"),
        (("NDims = 3", "NDims = 3\nBinaryData = False"), "text"),
        (("NDims = 3", "NDims = 3\nCompressedData = True"), "zlib"),
    ] {
        let message = read("wrong.mha", mha(change)).unwrap_err().to_string();
        assert!(
            message.contains(word) && message.contains("wrong.mha"),
            "{message}"
        );
    }
}
