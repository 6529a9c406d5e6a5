//! Where label maps and images come from.

use super::nifti::{File, Stored};
use super::{evaluate, json, medseg, results, target};
use std::path::{Path, PathBuf};
use std::process::Command;

fn organ(start_x: u16) -> File {
    File::with_box(1, [start_x, 2, 2], [start_x + 4, 6, 6])
}

#[test]
fn lists_name_pairs_and_images() {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    organ(2).save(&at("data/new/one.nii"));
    organ(3).save(&at("data/new/two.nii"));
    organ(2).save(&at("data/truth.nii"));
    let mut image = File::new([12, 10, 8], |[x, ..]| 10 * x);
    image.stored = Stored::I16;
    image.save(&at("data/image.nii"));
    let csv = "case,prediction,reference,image\nfirst,new/one.nii,truth.nii,image.nii\n\"a, b\",new/two.nii,truth.nii,image.nii\n";
    std::fs::write(at("data/pairs.csv"), csv).unwrap();
    evaluate(
        here.path(),
        &["--list", "data/pairs.csv", "-o", "csv.json"],
        0,
    );
    let found = json(&at("csv.json"));
    assert_eq!(
        (&found["cases"][0]["case"], &found["cases"][1]["case"]),
        (&"a, b".into(), &"first".into())
    );
    assert_eq!(target(&found, 1, "label_1")["scores"]["dice"], 1.0);
    assert_eq!(target(&found, 0, "label_1")["scores"]["dice"], 0.75);
    assert_eq!(
        target(&found, 0, "label_1")["intensity"]["prediction"]["mean"],
        45.0
    );
    let list = r#"[{"case": "first", "prediction": "new/one.nii", "reference": "truth.nii", "image": "image.nii"},
                   {"case": "a, b", "prediction": "new/two.nii", "reference": "truth.nii", "image": "image.nii"}]"#;
    std::fs::write(at("data/pairs.json"), list).unwrap();
    evaluate(
        here.path(),
        &["--list", "data/pairs.json", "-o", "json.json"],
        0,
    );
    assert_eq!(json(&at("json.json")), found);
    // Two lines of one case are not chosen between, and a missing file is named.
    std::fs::write(at("twice.csv"), "prediction,reference\ndata/new/one.nii,data/truth.nii\ndata/new/two.nii,data/truth.nii\nnone.nii,data/new/one.nii\ndata/truth.nii,data/new/two.nii\n").unwrap();
    evaluate(here.path(), &["--list", "twice.csv", "-o", "twice.json"], 3);
    let failures = json(&at("twice.json"))["failures"].clone();
    assert_eq!(
        (&failures[0]["case"], &failures[0]["kind"]),
        (&"one".into(), &"unreadable".into())
    );
    assert_eq!(
        (&failures[1]["case"], &failures[1]["kind"]),
        (&"truth".into(), &"ambiguous".into())
    );
}

#[test]
fn images_give_intensities_inside_the_window() {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    organ(3).save(&at("p/a.nii"));
    organ(2).save(&at("r/a.nii"));
    let mut image = File::new([12, 10, 8], |[x, ..]| 10 * x);
    image.stored = Stored::F32;
    image.save(&at("images/a_0000.nii"));
    let found = results(here.path(), &["--image", "images"]);
    let [p, r] = ["prediction", "reference"]
        .map(|side| target(&found, 0, "label_1")["intensity"][side].clone());
    assert_eq!(
        (&p["mean"], &p["min"], &p["max"], &p["median"]),
        (&45.0.into(), &30.0.into(), &60.0.into(), &45.0.into())
    );
    assert_eq!(
        (&r["mean"], &r["voxels"], &r["outside"]),
        (&35.0.into(), &64.into(), &0.into())
    );
    assert_eq!(found["cases"][0]["image"], "a_0000.nii");
    let found = results(here.path(), &["--image", "images", "--window", "-5,30"]);
    let r = &target(&found, 0, "label_1")["intensity"]["reference"];
    assert_eq!(
        (&r["voxels"], &r["outside"], &r["mean"]),
        (&32.into(), &32.into(), &25.0.into())
    );
    // An image somewhere else is refused and named.
    image.origin_mm[2] += 3.0;
    image.save(&at("images/a_0000.nii"));
    let pair = ["-p", "p", "-r", "r", "-o", "moved.json"];
    let output = evaluate(
        here.path(),
        &[&pair[..], &["--image", "images"]].concat(),
        1,
    );
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("the image lies elsewhere"), "{text}");
    evaluate(
        here.path(),
        &[
            &pair[..],
            &["--force", "--image", "images", "--window", "30,-5"],
        ]
        .concat(),
        2,
    );
}

#[test]
fn other_grids_are_resampled_only_on_request() {
    let here = tempfile::tempdir().unwrap();
    let reference = organ(2);
    reference.save(&here.path().join("r"));
    // The same place at half the voxel size.
    let mut fine = File::new([24, 20, 16], |[x, y, z]| {
        u16::from((4..12).contains(&x) && (4..12).contains(&y) && (4..12).contains(&z))
    });
    fine.spacing_xyz_mm = reference.spacing_xyz_mm.map(|mm| mm / 2.0);
    for axis in 0..3 {
        fine.origin_mm[axis] = reference.origin_mm[axis] - reference.spacing_xyz_mm[axis] / 4.0;
    }
    fine.save(&here.path().join("p"));
    evaluate(here.path(), &["-p", "p", "-r", "r", "-o", "no.json"], 1);
    let found = results(here.path(), &["--resample"]);
    assert_eq!(found["settings"]["resample"], true);
    assert_eq!(found["cases"][0]["resampled"], true);
    assert_eq!(target(&found, 0, "label_1")["scores"]["dice"], 1.0);
    reference.save(&here.path().join("p"));
    assert_eq!(
        results(here.path(), &["--resample"])["cases"][0]["resampled"],
        serde_json::Value::Null
    );
}

#[test]
fn tubes_get_scores_of_their_own() {
    let here = tempfile::tempdir().unwrap();
    let tube = |gap: bool| {
        File::new([40, 10, 8], move |[x, y, z]| {
            u16::from((3..6).contains(&y) && (3..6).contains(&z) && !(gap && (18..22).contains(&x)))
        })
    };
    tube(true).save(&here.path().join("p"));
    tube(false).save(&here.path().join("r"));
    let found = results(
        here.path(),
        &["--tubes", "1", "--fail-under", "betti0_error=1"],
    );
    let scores = &target(&found, 0, "label_1")["scores"];
    assert_eq!(
        (&scores["betti0_error"], &scores["betti1_error"]),
        (&1.0.into(), &0.0.into())
    );
    let pair = ["-p", "p", "-r", "r", "-o", "none.json"];
    let output = evaluate(here.path(), &[&pair[..], &["--tubes", "9"]].concat(), 0);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("--tubes label_9: no case has"), "{text}");
    // Only tubes count in the mean of what only tubes have.
    let sum = &results(
        here.path(),
        &["--tubes", "1", "--labels", "1,2", "--empty", "worst"],
    )["summary"];
    let all = &sum["labels"][0]["scores"]["cldice"];
    assert_eq!((&all["n"], &all["left_out"]), (&1.into(), &0.into()));
    let cldice = scores["cldice"].as_f64().unwrap();
    assert!((0.9..0.97).contains(&cldice), "{cldice}");
    assert!(
        results(here.path(), &[])["cases"][0]["labels"][0]["scores"]
            .get("cldice")
            .is_none()
    );
}

/// Runs another command of the program.
fn run(folder: &Path, arguments: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_medseg"))
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .env("MEDSEG_NO_PROGRESS", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_model_is_scored_without_writing_its_masks() {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/embedded_model/nnUNetTrainer__nnUNetPlans__3d_fullres");
    std::os::unix::fs::symlink(model, at("model")).unwrap();
    for folder in ["images", "r"] {
        std::fs::create_dir(at(folder)).unwrap();
    }
    for seed in [1, 2] {
        run(
            here.path(),
            &format!("phantom -o case{seed} --seed {seed} --size 48,40,32 --spacing 6,6,6"),
        );
        std::fs::rename(
            at(&format!("case{seed}/ct.nii.gz")),
            at(&format!("images/c{seed}_0000.nii.gz")),
        )
        .unwrap();
        std::fs::rename(
            at(&format!("case{seed}/label.nii.gz")),
            at(&format!("r/c{seed}.nii.gz")),
        )
        .unwrap();
    }
    let with_model = [
        "--model",
        "model",
        "--image",
        "images",
        "-r",
        "r",
        "--no-mirroring",
        "-o",
    ];
    evaluate(
        here.path(),
        &[&with_model[..], &["unseen.json"]].concat(),
        0,
    );
    assert!(!at("p").exists());
    evaluate(
        here.path(),
        &[&with_model[..], &["seen.json", "--save-predictions", "p"]].concat(),
        0,
    );
    assert_eq!(json(&at("seen.json")), json(&at("unseen.json")));
    run(
        here.path(),
        "infer -i images -m model -o inferred --no-mirroring",
    );
    for case in ["c1.nii.gz", "c2.nii.gz"] {
        let [kept, inferred] =
            ["p", "inferred"].map(|folder| std::fs::read(at(folder).join(case)).unwrap());
        assert_eq!(kept, inferred);
    }
    evaluate(
        here.path(),
        &[
            "-p",
            "p",
            "-r",
            "r",
            "--image",
            "images",
            "-o",
            "files.json",
        ],
        0,
    );
    let [mut with, without] = ["seen.json", "files.json"].map(|name| json(&at(name)));
    assert_eq!(with["settings"]["model"]["name"], "model");
    for case in 0..2 {
        assert_eq!(with["cases"][case]["prediction"], "");
        with["cases"][case]["prediction"] = without["cases"][case]["prediction"].clone();
    }
    assert_eq!(with["cases"], without["cases"]);
    assert_eq!(with["summary"], without["summary"]);
    let missing = medseg(
        here.path(),
        &["--model", "model", "-r", "r", "-o", "x.json"],
    )
    .output()
    .unwrap();
    assert_eq!(missing.status.code(), Some(2));
}
