//! `medseg sample`: a template moved onto a patient that is known, what stays, errors.

use medseg::phantom::{Options, Phantom};
use medseg::template::{Confidence, Error, Input, Method, Patient, Template, fit_template};
use medseg::volume::{Grid, LabelMap};
use std::path::Path;
use std::process::{Command, Output};

fn phantom(seed: u64) -> LabelMap {
    let options = Options {
        size_xyz: [96, 96, 75],
        spacing_mm_xyz: [4.27, 4.27, 4.0],
        seed,
    };
    Phantom::new(&options).unwrap().label_map()
}

fn input<'a>(map: &'a LabelMap, grid: &'a Grid) -> Input<'a> {
    Input {
        map: map.volume.data().view(),
        grid,
    }
}

#[test]
fn a_moved_and_scaled_template_is_found_again() {
    let map = phantom(1);
    let mut grid = *map.grid();
    // The same body 10 % larger and 40 mm away.
    for row in &mut grid.affine.linear {
        for value in row.iter_mut() {
            *value *= 1.1;
        }
    }
    grid.affine.origin_mm = grid.affine.origin_mm.map(|mm| 1.1 * mm + 40.0);
    let patient = Patient {
        input: input(&map, &grid),
        kidneys: &[1, 2],
        tumors: &[],
        image: None,
    };
    let template = Template {
        input: input(&map, map.grid()),
        kidneys: &[1, 2],
        lesions: &[3, 4],
        bones: &[],
    };
    let fitted = fit_template(&patient, &template, None).unwrap();
    assert_eq!(fitted.fit.method, Method::Smooth);
    for scale in fitted.fit.scale {
        // What the prior keeps of an unlikely size is made up for by the deformation.
        assert!((scale - 1.0 / 1.1).abs() < 0.04, "{:?}", fitted.fit);
    }
    for &residual in &fitted.fit.residual_mm {
        assert!(residual < 1.0, "{residual}");
    }
    for (&own, &got) in map.volume.data().iter().zip(&fitted.map) {
        if own == 1 || own == 2 {
            assert_eq!(own, got, "kidneys stay");
        }
        assert!(got != 3 && got != 4, "lesions are not carried over");
    }
    let liver = |labels: &mut dyn Iterator<Item = u16>| labels.filter(|&v| v == 9).count() as f64;
    let ratio =
        liver(&mut fitted.map.iter().copied()) / liver(&mut map.volume.as_slice().iter().copied());
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
}

/// A patient whose organs lie where `map` takes them in the template.
fn moved(template: &LabelMap, map: impl Fn([f64; 3]) -> [f64; 3]) -> LabelMap {
    let grid = *template.grid();
    let to_voxel = grid.affine.inverse().unwrap();
    let mut patient = template.clone();
    let [depth, height, width] = grid.shape;
    for z in 0..depth {
        for y in 0..height {
            for x in 0..width {
                let world = grid.affine.apply([x as f64, y as f64, z as f64]);
                let [i, j, k] = to_voxel.apply(map(world)).map(f64::round);
                let inside = |at: f64, n: usize| at >= 0.0 && at < n as f64;
                let label = if inside(i, width) && inside(j, height) && inside(k, depth) {
                    template.volume.data()[[k as usize, j as usize, i as usize]]
                } else {
                    0
                };
                patient.volume.data_mut()[[z, y, x]] = label;
            }
        }
    }
    patient
}

/// Mean Dice of the labels that are not given.
fn organ_dice(truth: &LabelMap, found: &ndarray::Array3<u16>) -> f64 {
    let (mut both, mut either) = ([0.0; 64], [0.0; 64]);
    for (&a, &b) in truth.volume.data().iter().zip(found) {
        either[usize::from(a)] += 1.0;
        either[usize::from(b)] += 1.0;
        if a == b {
            both[usize::from(a)] += 1.0;
        }
    }
    let organs = (5..64).filter(|&label| either[label] > 400.0);
    let dice: Vec<f64> = organs
        .map(|label| 2.0 * both[label] / either[label])
        .collect();
    dice.iter().sum::<f64>() / dice.len() as f64
}

#[test]
fn a_bent_patient_is_fitted_better_than_by_translation_or_affine() {
    let map = phantom(1);
    // Another shape of body, a tilt, and 5 mm of waves: what the kidneys show of it must reach their neighbours.
    let patient = moved(&map, |[x, y, z]| {
        let wave = |at: f64| 5.0 * (at / 35.0).sin();
        [
            1.08 * x + 0.05 * z + wave(y + z),
            0.92 * y + wave(x),
            1.05 * z - 0.05 * x + 12.0 + wave(x - y),
        ]
    });
    let template = Template {
        input: input(&map, map.grid()),
        kidneys: &[1, 2],
        lesions: &[3, 4],
        bones: &[],
    };
    let given = Patient {
        input: input(&patient, patient.grid()),
        kidneys: &[1, 2],
        tumors: &[3],
        image: None,
    };
    let dice = |method| {
        let fitted = fit_template(&given, &template, method).unwrap();
        organ_dice(&patient, &fitted.map)
    };
    let [smooth, affine, translation] =
        [None, Some(Method::Affine), Some(Method::Translation)].map(dice);
    assert!(
        smooth > translation + 0.05 && smooth > affine,
        "{smooth} {affine} {translation}"
    );
}

#[test]
fn one_kidney_gives_scale_and_low_confidence() {
    let map = phantom(2);
    let mut alone = map.clone();
    for value in alone.volume.as_slice_mut() {
        if *value != 2 {
            *value = 0;
        }
    }
    let template = Template {
        input: input(&map, map.grid()),
        kidneys: &[1, 2],
        lesions: &[3, 4],
        bones: &[],
    };
    let patient = Patient {
        input: input(&alone, alone.grid()),
        kidneys: &[1, 2],
        tumors: &[3],
        image: None,
    };
    let fitted = fit_template(&patient, &template, None).unwrap();
    assert_eq!(fitted.fit.method, Method::Scale);
    assert_eq!(fitted.fit.confidence, Confidence::Low);
    let empty = Patient {
        kidneys: &[77, 78],
        ..patient
    };
    let error = fit_template(&empty, &template, None);
    assert!(matches!(error, Err(Error::NoKidney { .. })));
    let bare = Template {
        kidneys: &[77, 78],
        ..template
    };
    let error = fit_template(&patient, &bare, None);
    assert!(matches!(error, Err(Error::NoTemplateKidney { .. })));
}

fn medseg(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medseg"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn the_command_writes_reports_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    assert!(
        medseg(here, "phantom -o case --size 64,64,50 --seed 3")
            .status
            .success()
    );
    for (name, more) in [
        ("a", "--threads 1"),
        ("b", "--threads 3"),
        ("c", "--image case/ct.nii.gz"),
    ] {
        let line =
            format!("sample -i case/label.nii.gz -o {name}.nii.gz --report {name}.json {more}");
        let output = medseg(here, &line);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let read = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert_eq!(read("a.nii.gz"), read("b.nii.gz"));
    let report = |name: &str| -> serde_json::Value { serde_json::from_slice(&read(name)).unwrap() };
    assert_eq!(report("a.json")["cases"][0]["method"], "smooth");
    assert!(report("c.json")["cases"][0]["bone_residual_mm"].is_number());
    for (line, code, reason) in [
        ("--kidneys 77,78", 1, "name the kidneys with --kidneys"),
        ("--template case/ct.nii.gz", 1, "template"),
        ("--template missing.nii.gz", 1, "missing.nii.gz"),
        (
            "--template case/label.nii.gz --template-kidneys 77,78",
            1,
            "--template-kidneys",
        ),
        (
            "--template case/label.nii.gz --template-kidneys 1",
            2,
            "--template-kidneys",
        ),
        ("--kidneys 5,2", 2, "artery"),
    ] {
        let output = medseg(
            here,
            &format!("sample -i case/label.nii.gz -o out.nii.gz {line}"),
        );
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        assert!(text.contains(reason), "{line}: {text}");
        assert!(!here.join("out.nii.gz").exists());
    }
}
