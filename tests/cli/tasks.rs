//! `infer --task`: task files, where models are found, and what goes wrong.

use super::{
    bytes, code, folder, labels, names, one_channel_model, refuse, run, stderr, succeed,
    two_channel_model, write,
};
use medseg::io::{Limits, nifti};
use medseg::volume::{Affine, Grid, Volume};
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::Path;

/// `models/` as TotalSegmentator lays it out, with stand-ins: small models of this repository.
pub fn models(here: &Path) {
    for (dataset, configuration, model) in [
        (
            "Dataset291_organs",
            "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres",
            one_channel_model(),
        ),
        (
            "Dataset297_fast",
            "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres",
            one_channel_model(),
        ),
        (
            "Dataset298_fastest",
            "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres",
            one_channel_model(),
        ),
        (
            "Dataset900_Two",
            "nnUNetTrainer__nnUNetPlans__3d_fullres",
            two_channel_model(),
        ),
    ] {
        let dataset = here.join("models").join(dataset);
        std::fs::create_dir_all(&dataset).unwrap();
        symlink(model, dataset.join(configuration)).unwrap();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

/// Two phases of one patient, and a task file that runs a model of two channels and one of one.
fn two_phases(here: &Path) {
    models(here);
    succeed(here, "phantom -o A.nii.gz --size 40,36,30 --spacing 6,6,8");
    succeed(
        here,
        "phantom -o P.nii.gz --size 40,36,30 --spacing 6,6,8 --seed 5",
    );
    write(
        here,
        "both.toml",
        b"channels = ['A', 'P']\n\
         labels = { kidney = 1, right = 5, skeleton = 6 }\n\
         priority = ['right']\n\
         [[tasks]]\n\
         task = 'organs.toml'\n\
         channels = ['A']\n\
         labels = { 'kidney_*' = 'right', bone = 'skeleton' }\n\
         [[tasks]]\n\
         task = 'two.toml'\n\
         labels = { kidney = 'kidney' }\n",
    );
    write(
        here,
        "two.toml",
        b"channels = ['A', 'P']\nlabels = { kidney = 1, tumor = 2 }\nmirroring = false\n[[models]]\nmodel = 900\n",
    );
    write(
        here,
        "organs.toml",
        b"channels = ['CT']\nlabels = 'abdomen'\nmirroring = false\n[[models]]\nmodel = 'organs'\n",
    );
}

#[test]
fn a_task_is_the_merge_of_its_models_over_one_reading() {
    let here = folder();
    two_phases(here.path());
    let inputs = "-i P=P.nii.gz,A=A.nii.gz";
    succeed(
        here.path(),
        &format!(
            "infer --task both.toml {inputs} -o both.nii.gz --model-dir models --report r.json"
        ),
    );
    let single = |arguments: &str| {
        succeed(
            here.path(),
            &format!("infer {arguments} -o one.nii.gz --no-mirroring --force"),
        );
        labels(&here.path().join("one.nii.gz"))
    };
    let two = single(
        "-i A.nii.gz,P.nii.gz -m models/Dataset900_Two/nnUNetTrainer__nnUNetPlans__3d_fullres",
    );
    let organs = single("-i A.nii.gz");
    let expected: Vec<u16> = two
        .iter()
        .zip(&organs)
        .map(|(&two, &organ)| match (two, organ) {
            (_, 1 | 2) => 5,
            (1, _) => 1,
            (_, 11) => 6,
            _ => 0,
        })
        .collect();
    let found = labels(&here.path().join("both.nii.gz"));
    assert_eq!(found, expected);
    for label in [1, 5, 6] {
        assert!(found.contains(&label), "the case says nothing of {label}");
    }
    let report = json(&here.path().join("r.json"));
    let phases = report["cases"][0]["phases"].as_array().unwrap();
    let count = |name: &str| phases.iter().filter(|phase| phase["name"] == name).count();
    assert_eq!((count("read"), count("predict 900")), (1, 1), "{phases:?}");
    assert_eq!(count("predict organs"), 1, "{phases:?}");
    assert_eq!(report["model"]["models"].as_array().unwrap().len(), 2);
}

#[test]
fn a_second_phase_on_another_grid_is_resampled() {
    let here = folder();
    two_phases(here.path());
    // The same patient with other voxels: shape and spacing differ.
    succeed(
        here.path(),
        "phantom -o P2.nii.gz --size 60,54,24 --spacing 4,4,10 --seed 5",
    );
    succeed(
        here.path(),
        "infer --task two.toml -i A.nii.gz,P2.nii.gz -o o.nii.gz --model-dir models --report r.json",
    );
    assert_eq!(labels(&here.path().join("o.nii.gz")).len(), 40 * 36 * 30);
    let report = bytes(here.path().join("r.json"));
    assert!(
        String::from_utf8(report)
            .unwrap()
            .contains("channel P onto the grid of the first")
    );
}

#[test]
fn totalseg_writes_a_file_per_class_of_a_subset() {
    let here = folder();
    models(here.path());
    succeed(
        here.path(),
        "phantom -o ct.nii.gz --size 80,72,60 --spacing 4,4,5",
    );
    // The stand-in's label 1 is called spleen here.
    let arguments =
        "infer --task total --roi-subset spleen,kidney_right -i ct.nii.gz --model-dir models";
    succeed(here.path(), &format!("{arguments} -o masks --per-class"));
    assert_eq!(
        names(&here.path().join("masks")),
        ["kidney_right.nii.gz", "spleen.nii.gz"]
    );
    succeed(
        here.path(),
        &format!("{arguments} -o map.nii.gz --ml --statistics s.json"),
    );
    let map = labels(&here.path().join("map.nii.gz"));
    for (label, name) in [(1, "spleen"), (2, "kidney_right")] {
        let mask = labels(&here.path().join(format!("masks/{name}.nii.gz")));
        let of_map: Vec<u16> = map.iter().map(|&found| u16::from(found == label)).collect();
        assert_eq!(mask, of_map, "{name}");
    }
    assert!(map.contains(&1) && map.iter().all(|&label| label <= 2));
    let statistics = json(&here.path().join("s.json"));
    assert_eq!(statistics["ct"].as_array().unwrap().len(), 2);
    let again = run(here.path(), &format!("{arguments} -o masks --per-class"));
    assert_eq!(code(&again), 1);
    assert!(
        stderr(&again).contains("already exists"),
        "{}",
        stderr(&again)
    );
    succeed(
        here.path(),
        &format!("{arguments} -o masks --per-class --skip-existing"),
    );
}

#[test]
fn a_batch_gives_what_single_runs_give() {
    let here = folder();
    two_phases(here.path());
    std::fs::create_dir(here.path().join("in")).unwrap();
    for name in ["A", "P"] {
        std::fs::copy(
            here.path().join(format!("{name}.nii.gz")),
            here.path().join(format!("in/{name}.nii.gz")),
        )
        .unwrap();
    }
    let task = "infer --task organs.toml --model-dir models";
    succeed(here.path(), &format!("{task} -i in -o out"));
    for name in ["A", "P"] {
        succeed(
            here.path(),
            &format!("{task} -i {name}.nii.gz -o {name}_one.nii.gz"),
        );
        assert_eq!(
            bytes(here.path().join(format!("out/{name}.nii.gz"))),
            bytes(here.path().join(format!("{name}_one.nii.gz")))
        );
    }
    let plan = succeed(
        here.path(),
        &format!("{task} -i A.nii.gz -o x.nii.gz --dry-run"),
    );
    assert!(
        plan.contains("model organs: ") && plan.contains("needs"),
        "{plan}"
    );
}

#[test]
fn mistakes_are_named() {
    let here = folder();
    two_phases(here.path());
    let usage = |arguments: &str, expected: &str| {
        let output = run(here.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(expected),
            "{arguments}: {}",
            stderr(&output)
        );
    };
    let models = "--model-dir models -o o.nii.gz";
    usage(
        &format!("infer --task totl -i A.nii.gz {models}"),
        "there is no such task",
    );
    usage(
        &format!("infer --task totalseg:fats -i A.nii.gz {models}"),
        "similar: ",
    );
    usage(
        &format!("infer --task two.toml -i A=A.nii.gz,P.nii.gz {models}"),
        "every channel",
    );
    usage(
        &format!("infer --task total --roi-subset livr -i A.nii.gz {models}"),
        "no such label",
    );
    usage(
        &format!("infer --task total -m models -i A.nii.gz {models}"),
        "cannot be used with",
    );
    let error = refuse(
        here.path(),
        "infer --task total -i A.nii.gz -o o.nii.gz --model-dir nowhere",
    );
    assert!(
        error.contains("Dataset291_*") && error.contains("nowhere"),
        "{error}"
    );
    let error = refuse(
        here.path(),
        &format!("infer --task total -i A.nii.gz {models}"),
    );
    assert!(error.contains("Dataset292_*"), "{error}");
    let error = refuse(
        here.path(),
        &format!("infer --task two.toml -i A.nii.gz {models}"),
    );
    assert!(error.contains("takes the channels A, P"), "{error}");
    write(
        here.path(),
        "typo.toml",
        b"channels = ['A']\nlabels = ['x']\n[[model]]\nmodel = 900\n",
    );
    let error = refuse(
        here.path(),
        &format!("infer --task typo.toml -i A.nii.gz {models}"),
    );
    assert!(
        error.contains("typo.toml: line") && error.contains("`model`"),
        "{error}"
    );
    write(
        here.path(),
        "circle.toml",
        b"channels = ['A']\nlabels = ['x']\n[[tasks]]\ntask = 'circle.toml'\nlabels = { x = 'x' }\n",
    );
    let error = refuse(
        here.path(),
        &format!("infer --task circle.toml -i A.nii.gz {models}"),
    );
    assert!(error.contains("files deep"), "{error}");
    write(
        here.path(),
        "names.toml",
        b"channels = ['A', 'P']\nlabels = ['x']\n[[models]]\nmodel = 900\nlabels = { cyst = 'x' }\n",
    );
    let error = refuse(
        here.path(),
        &format!("infer --task names.toml -i A.nii.gz,P.nii.gz {models}"),
    );
    assert!(
        error.contains("no label cyst: it has kidney, tumor"),
        "{error}"
    );
    write(
        here.path(),
        "folds.toml",
        b"channels = ['A', 'P']\nlabels = ['x']\n[[models]]\nmodel = 900\nfolds = [4]\nlabels = 'numbers'\n",
    );
    let error = refuse(
        here.path(),
        &format!("infer --task folds.toml -i A.nii.gz,P.nii.gz {models}"),
    );
    assert!(error.contains("fold_4"), "{error}");
    assert!(!here.path().join("o.nii.gz").exists());
}

#[test]
fn phases_of_two_patients_are_refused() {
    let here = folder();
    two_phases(here.path());
    let (image, _) = nifti::read_f32(&here.path().join("P.nii.gz"), &Limits::UNLIMITED).unwrap();
    let grid = Grid {
        affine: Affine::from_spacing([6.0, 6.0, 8.0], [5000.0; 3]),
        ..*image[0].grid()
    };
    let far = Volume::new(image[0].data().to_owned(), grid).unwrap();
    nifti::save_volume(
        &here.path().join("far.nii.gz"),
        &[&far],
        &nifti::Geometry::from_grid(&grid),
        Vec::new(),
        medseg::io::Overwrite::Force,
    )
    .unwrap();
    let error = refuse(
        here.path(),
        "infer --task two.toml -i A.nii.gz,far.nii.gz -o o.nii.gz --model-dir models",
    );
    assert!(error.contains("do not overlap"), "{error}");
}

#[test]
fn tasks_are_listed() {
    let here = folder();
    models(here.path());
    let list = succeed(here.path(), "info --tasks --model-dir models");
    assert!(
        list.contains("totalseg:fast") && list.contains("1/1 models"),
        "{list}"
    );
    let all: Value = serde_json::from_str(&succeed(here.path(), "info --tasks --json")).unwrap();
    assert!(all.as_array().unwrap().len() > 50);
    let one: Value = serde_json::from_str(&succeed(
        here.path(),
        "info --tasks total --json --model-dir models",
    ))
    .unwrap();
    assert_eq!(one["labels"][0]["name"], "spleen");
    assert_eq!(one["labels"].as_array().unwrap().len(), 117);
    assert!(one["models"][0]["folder"].is_string() && one["models"][1]["folder"].is_null());
}

#[test]
fn a_phase_that_moved_is_registered_and_its_motion_reported() {
    let here = folder();
    two_phases(here.path());
    succeed(
        here.path(),
        "phantom -o A.nii.gz --size 48,44,40 --spacing 6,6,6 --force",
    );
    let (mut channels, _) =
        nifti::read_f32(&here.path().join("A.nii.gz"), &Limits::UNLIMITED).unwrap();
    // The late phase of a patient who turned by 8 degrees and slid by 14 mm.
    let (sin, cos) = 8.0_f64.to_radians().sin_cos();
    let motion = Affine {
        linear: [[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]],
        origin_mm: [9.0, -7.0, 8.0],
    };
    let late = channels.remove(0).map(|&hu| {
        if hu > 60.0 {
            60.0 + 0.6 * (hu - 60.0)
        } else {
            hu
        }
    });
    let save = |name: &str, affine: Affine| {
        let grid = Grid {
            affine,
            ..*late.grid()
        };
        let volume = Volume::new(late.data().clone(), grid).unwrap();
        let geometry = nifti::Geometry::from_grid(&grid);
        let path = here.path().join(name);
        let force = medseg::io::Overwrite::Force;
        nifti::save_volume(&path, &[&volume], &geometry, Vec::new(), force).unwrap();
    };
    save("still.nii.gz", late.grid().affine);
    save("moved.nii.gz", motion.after(&late.grid().affine));
    let segment = |late: &str, more: &str| {
        let output = run(
            here.path(),
            &format!(
                "infer --task two.toml -i A.nii.gz,{late} -o o.nii.gz --model-dir models --report r.json --force {more}"
            ),
        );
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        (labels(&here.path().join("o.nii.gz")), stderr(&output))
    };
    let (expected, said) = segment("still.nii.gz", "--register");
    assert!(!said.contains("moved by"), "{said}");
    assert_eq!(expected, segment("still.nii.gz", "").0);
    let (without, _) = segment("moved.nii.gz", "");
    let (with, said) = segment("moved.nii.gz", "--register");
    assert!(said.contains("moved.nii.gz: moved by"), "{said}");
    let off = |found: &[u16]| found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(
        4 * off(&with) < off(&without),
        "{} {}",
        off(&with),
        off(&without)
    );
    let report = json(&here.path().join("r.json"));
    let found = &report["cases"][0]["registration"][0];
    assert_eq!(
        (found["channel"].as_str(), found["onto"].as_str()),
        (Some("P"), Some("A"))
    );
    assert_eq!(found["verdict"], "moved", "{found}");
    for axis in 0..3 {
        let row: Vec<f64> = (0..4)
            .map(|at| found["matrix"][axis][at].as_f64().unwrap())
            .collect();
        for (found, expected) in row.iter().zip(motion.linear[axis]) {
            assert!((found - expected).abs() < 0.01, "{row:?}");
        }
    }
    let [before, after] =
        ["before", "after"].map(|when| found[format!("information_{when}")].as_f64().unwrap());
    assert!(after > 1.2 * before && before > 0.0);
    // Somebody else.
    succeed(
        here.path(),
        "phantom -o noise.nii.gz --size 48,44,40 --spacing 6,6,6 --seed 3",
    );
    let path = here.path().join("noise.nii.gz");
    let (mut other, header) = nifti::read_f32(&path, &Limits::UNLIMITED).unwrap();
    let mut state = 1_u32;
    let noise = other.remove(0).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 22) as f32
    });
    let force = medseg::io::Overwrite::Force;
    nifti::save_volume(&path, &[&noise], &header.geometry, Vec::new(), force).unwrap();
    let (_, said) = segment("noise.nii.gz", "--register");
    assert!(said.contains("no motion makes it fit A.nii.gz"), "{said}");
    assert_eq!(
        json(&here.path().join("r.json"))["cases"][0]["registration"][0]["verdict"],
        "unrelated"
    );
}
