//! `medseg fat` on phantoms and hand-made volumes: overlap with the truth, what stays, errors.

use medseg::phantom::{Layers, Options as PhantomOptions, Phantom, tissue};
use medseg::tissue::{Error, FatKind, Found, Input, Options, find_fat};
use medseg::volume::Grid;
use ndarray::Array3;
use std::path::Path;
use std::process::{Command, Output};

fn options() -> Options {
    Options {
        compartments: true,
        ..Options::abdomen()
    }
}

struct Case {
    map: Array3<u16>,
    image: Array3<f32>,
    truth: Array3<u8>,
    grid: Grid,
}

fn phantom(seed: u64) -> Case {
    let layers = Layers {
        labels: true,
        ct: true,
        tissue: true,
    };
    let options = PhantomOptions {
        size_xyz: [128, 128, 75],
        spacing_mm_xyz: [3.2, 3.2, 4.0],
        seed,
    };
    let rendered = Phantom::new(&options).unwrap().render(layers);
    let labels = rendered.labels.unwrap();
    Case {
        grid: *labels.grid(),
        map: labels.volume.into_parts().0,
        image: rendered.ct.unwrap().map(|&hu| f32::from(hu)).into_parts().0,
        truth: rendered.tissue.unwrap().into_parts().0,
    }
}

fn found(case: &Case, options: &Options) -> Result<Found, Error> {
    let input = Input {
        map: case.map.view(),
        image: Some(case.image.view()),
        grid: &case.grid,
    };
    find_fat(&input, options)
}

fn dice(found: &Array3<u8>, kind: FatKind, truth: &Array3<u8>, tissue: u8) -> f64 {
    let (mut both, mut sum) = (0.0, 0.0);
    for (&a, &b) in found.iter().zip(truth) {
        let (a, b) = (a == kind as u8, b == tissue);
        both += f64::from(u8::from(a && b));
        sum += f64::from(u8::from(a)) + f64::from(u8::from(b));
    }
    2.0 * both / sum
}

#[test]
fn phantoms_fat_is_found_in_its_compartments() {
    for seed in [1, 2] {
        let case = phantom(seed);
        let found = found(&case, &options()).unwrap();
        let overlap = |kind, tissue| dice(&found.fat, kind, &case.truth, tissue);
        let perirenal = overlap(FatKind::Perirenal, tissue::PERIRENAL_FAT);
        let visceral = overlap(FatKind::Visceral, tissue::VISCERAL_FAT);
        let subcutaneous = overlap(FatKind::Subcutaneous, tissue::SUBCUTANEOUS_FAT);
        assert!(perirenal > 0.8, "seed {seed}: perirenal {perirenal}");
        assert!(visceral > 0.85, "seed {seed}: visceral {visceral}");
        assert!(
            subcutaneous > 0.95,
            "seed {seed}: subcutaneous {subcutaneous}"
        );
        assert_eq!(found.kidneys.len(), 2);
        for (&kind, &label) in found.fat.iter().zip(&case.map) {
            assert!(kind == 0 || label == 0, "fat on a label");
        }
    }
}

#[test]
fn flips_of_the_axes_change_nothing() {
    let case = phantom(3);
    let plain = found(&case, &options()).unwrap();
    let flip = |[z, y, x]: [usize; 3]| [z, y, case.grid.shape[2] - 1 - x];
    let mut turned = Case {
        map: Array3::from_shape_fn(case.grid.shape, |(z, y, x)| case.map[flip([z, y, x])]),
        image: Array3::from_shape_fn(case.grid.shape, |(z, y, x)| case.image[flip([z, y, x])]),
        truth: case.truth.clone(),
        grid: case.grid,
    };
    let last = (case.grid.shape[2] - 1) as f64;
    turned.grid.affine.origin_mm = case.grid.affine.apply([last, 0.0, 0.0]);
    for row in &mut turned.grid.affine.linear {
        row[0] = -row[0];
    }
    let other = found(&turned, &options()).unwrap();
    // Rounding may move single voxels at the limit.
    let differing = plain
        .fat
        .indexed_iter()
        .filter(|&((z, y, x), &kind)| other.fat[flip([z, y, x])] != kind)
        .count();
    let fat = plain.fat.iter().filter(|&&kind| kind > 0).count();
    assert!(differing * 200 < fat, "{differing} of {fat} voxels differ");
    assert_eq!(plain.kidneys[0].side, other.kidneys[0].side);
}

#[test]
fn skin_that_shares_voxels_with_air_is_no_fat() {
    let mut case = phantom(1);
    let bare = found(&case, &options()).unwrap().subcutaneous.unwrap();
    // The outermost voxels of the body are skin and air now, as bright as thin fat.
    let air = case.image.mapv(|hu| hu < -300.0);
    let (depth, height, width) = air.dim();
    let mut skin = Vec::new();
    for ((z, y, x), &is_air) in air.indexed_iter() {
        let near = [
            [z, y, (x + 1).min(width - 1)],
            [z, y, x.saturating_sub(1)],
            [z, (y + 1).min(height - 1), x],
            [z, y.saturating_sub(1), x],
            [(z + 1).min(depth - 1), y, x],
            [z.saturating_sub(1), y, x],
        ];
        if !is_air && case.map[[z, y, x]] == 0 && near.iter().any(|&at| air[at]) {
            skin.push([z, y, x]);
        }
    }
    for &at in &skin {
        case.image[at] = -60.0;
    }
    let with_skin = found(&case, &options()).unwrap();
    for &at in &skin {
        assert_ne!(with_skin.fat[at], FatKind::Subcutaneous as u8, "{at:?}");
    }
    assert!(with_skin.subcutaneous.unwrap().voxels < bare.voxels);
}

#[test]
fn without_a_ct_fat_reaches_farthest_below_the_kidney() {
    let centre = 40.0;
    let squared = |z: usize, y: usize, x: usize| -> f64 {
        [z, y, x]
            .iter()
            .map(|&at| (at as f64 - centre).powi(2))
            .sum()
    };
    let ball = |(z, y, x): (usize, usize, usize)| u16::from(squared(z, y, x) <= 144.0);
    let map = Array3::from_shape_fn([81, 81, 81], ball);
    let grid = Grid::with_spacing([81; 3], [1.5; 3]);
    let input = Input {
        map: map.view(),
        image: None,
        grid: &grid,
    };
    let found = find_fat(&input, &Options::abdomen()).unwrap().fat;
    // Fat beyond the capsule in mm along a line from the centre: sideways 13.5, at the poles 1.6 times as much,
    // and 3 more below than above.
    let reach = |step: [isize; 3]| {
        let inside = |far: &isize| {
            let at: [usize; 3] = step.map(|part| (40 + part * far) as usize);
            found[at] == FatKind::Perirenal as u8
        };
        1.5 * (13..40).filter(inside).count() as f64
    };
    for (step, expected) in [
        ([0, 0, 1], 13.5),
        ([0, -1, 0], 13.5),
        ([-1, 0, 0], 24.6),
        ([1, 0, 0], 18.6),
    ] {
        let found = reach(step);
        assert!((found - expected).abs() <= 1.6, "{step:?}: {found}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let mut case = phantom(4);
    let mut none = options();
    none.kidneys = vec![77];
    assert!(matches!(found(&case, &none), Err(Error::NoKidney { .. })));
    let without = Input {
        map: case.map.view(),
        image: None,
        grid: &case.grid,
    };
    assert_eq!(find_fat(&without, &options()), Err(Error::NeedsImage));
    case.image.mapv_inplace(|hu| hu + 1024.0);
    assert!(matches!(
        found(&case, &options()),
        Err(Error::NotHounsfield { .. })
    ));
    case.image.fill(-1000.0);
    assert_eq!(found(&case, &options()), Err(Error::NoBody));
    let mut wide = options();
    wide.compartments = false;
    case.map
        .slice_mut(ndarray::s![0..6, 40..52, 40..52])
        .fill(1);
    assert!(matches!(found(&case, &wide), Err(Error::CutKidney { .. })));
}

fn medseg(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medseg"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

fn succeed(folder: &Path, line: &str) -> Vec<u8> {
    let output = medseg(folder, line);
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn the_command_writes_batches_streams_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeed(here, "phantom -o case --size 96,96,60 --seed 5");
    let common = "--image case/ct.nii.gz --kind all --fat-label 50";
    succeed(
        here,
        &format!("fat -i case/label.nii.gz {common} -o fat.nii.gz --report r.json --threads 1"),
    );
    succeed(
        here,
        &format!("fat -i case/label.nii.gz {common} -o again.nii.gz --threads 3"),
    );
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert_eq!(read("fat.nii.gz"), read("again.nii.gz"));
    let report: serde_json::Value = serde_json::from_slice(&read("r.json")).unwrap();
    let case = &report["cases"][0];
    assert_eq!(case["mode"], "ct");
    assert_eq!(case["sides"].as_array().unwrap().len(), 2);
    assert!(case["sides"][0]["perirenal_ml"].as_f64().unwrap() > 20.0);
    assert!(case["sides"][0]["thickness"]["posterior_mm"].is_number());
    assert!(case["subcutaneous"]["ml"].as_f64().unwrap() > 1000.0);

    let stream = succeed(here, "fat -i case/label.nii.gz -o -");
    assert_eq!(&stream[344..347], b"n+1");
    succeed(here, "fat -i case/label.nii.gz --dry-run --report dry.json");
    let dry: serde_json::Value = serde_json::from_slice(&read("dry.json")).unwrap();
    assert_eq!(dry["cases"][0]["mode"], "geometric");
    assert_eq!(dry["cases"][0]["outputs"].as_array().unwrap().len(), 0);

    std::fs::create_dir(here.join("masks")).unwrap();
    std::fs::create_dir(here.join("images")).unwrap();
    for name in ["a", "b"] {
        std::fs::copy(
            here.join("case/label.nii.gz"),
            here.join(format!("masks/{name}.nii.gz")),
        )
        .unwrap();
    }
    std::fs::copy(
        here.join("case/ct.nii.gz"),
        here.join("images/a_0000.nii.gz"),
    )
    .unwrap();
    let batch = medseg(here, "fat -i masks --image images -o out");
    assert_eq!(batch.status.code(), Some(3), "one CT is missing");
    assert!(here.join("out/a.nii.gz").exists() && !here.join("out/b.nii.gz").exists());
}

#[test]
fn wrong_inputs_end_with_a_reason_and_without_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    succeed(here, "phantom -o case --size 48,48,30");
    succeed(here, "phantom -o other --size 48,48,20");
    for (line, code, reason) in [
        ("--image other/ct.nii.gz", 1, "is not on the grid of"),
        ("--kidney 77", 1, "name the kidneys with --kidney"),
        ("--kind all", 2, "need the CT"),
        ("--kidney kidny", 2, "kidny"),
        ("--hu -30,-190", 2, "--hu"),
        ("--fat-label 0", 2, "label"),
    ] {
        let output = medseg(
            here,
            &format!("fat -i case/label.nii.gz -o out.nii.gz {line}"),
        );
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        assert!(text.contains(reason), "{line}: {text}");
        assert!(!here.join("out.nii.gz").exists());
    }
}
