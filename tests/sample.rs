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
    assert_eq!(fitted.fit.method, Method::Affine);
    for scale in fitted.fit.scale {
        assert!((scale - 1.0 / 1.1).abs() < 0.02, "{:?}", fitted.fit);
    }
    for &residual in &fitted.fit.residual_mm {
        assert!(residual < 0.5, "{residual}");
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
    assert_eq!(report("a.json")["cases"][0]["method"], "affine");
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
