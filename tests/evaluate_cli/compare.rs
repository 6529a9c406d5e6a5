//! Results files against each other.

use super::nifti::File;
use super::{evaluate, json};
use std::path::Path;

/// Scores twelve cases whose prediction is off by `shift` voxels (modulo the case) into `output`.
fn score(folder: &Path, output: &str, shift: u16, more: &[&str]) {
    for number in 0..12 {
        let name = format!("{number:02}.nii");
        let x = 2 + shift * (number % 4) / 2;
        File::with_box(1, [x, 2, 2], [x + 4, 6 + number % 3, 6])
            .save(&folder.join("p").join(&name));
        File::with_box(1, [2, 2, 2], [6, 6, 6]).save(&folder.join("r").join(&name));
    }
    let pair = ["-p", "p", "-r", "r", "-o", output];
    evaluate(folder, &[&pair[..], more].concat(), 0);
}

#[test]
fn evaluations_are_compared_case_by_case() {
    let here = tempfile::tempdir().unwrap();
    score(here.path(), "good.json", 1, &[]);
    score(here.path(), "bad.json", 3, &[]);
    let arguments = [
        "--compare",
        "good.json",
        "bad.json",
        "-o",
        "c.json",
        "--score",
        "dice,hd95",
    ];
    let output = evaluate(here.path(), &arguments, 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("| good |") && text.contains("bad minus good"),
        "{text}"
    );
    let found = json(&here.path().join("c.json"));
    assert_eq!(
        (&found["schema"], &found["version"]),
        (&"medseg-comparison".into(), &1.into())
    );
    assert_eq!(found["common_cases"], 12);
    let row = &found["pairs"][0]["labels"][0];
    assert_eq!(
        (&row["n"], &row["wins"], &row["label"]),
        (&12.into(), &0.into(), &"label_1".into())
    );
    assert!(
        row["mean_difference"].as_f64().unwrap() < 0.0 && row["test"]["p"].as_f64().unwrap() < 0.05
    );
    assert_eq!(found["rankings"][1]["score"], "hd95_mm");
    assert_eq!(found["rankings"][0]["ranks"][0]["aggregate_then_rank"], 1.0);
    let first = std::fs::read(here.path().join("c.json")).unwrap();
    evaluate(here.path(), &[&arguments[..], &["--force"]].concat(), 0);
    assert_eq!(std::fs::read(here.path().join("c.json")).unwrap(), first);
}

#[test]
fn what_cannot_be_compared_is_refused_or_named() {
    let here = tempfile::tempdir().unwrap();
    score(here.path(), "a.json", 1, &[]);
    score(here.path(), "b.json", 1, &["--definition", "medpy"]);
    score(here.path(), "part.json", 1, &["--shard", "1/2"]);
    let compare = |files: [&str; 2], code: i32| {
        let arguments = ["--compare", files[0], files[1], "-o", "c.json", "--force"];
        let output = evaluate(here.path(), &arguments, code);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let message = compare(["a.json", "b.json"], 1);
    assert!(
        message.contains("medpy") && message.contains("medseg"),
        "{message}"
    );
    let message = compare(["a.json", "part.json"], 0);
    assert!(
        message.contains("6 common cases") && message.contains("01, 03"),
        "{message}"
    );
    assert!(compare(["a.json", "a.json"], 1).contains("named twice"));
    assert!(compare(["a.json", "r/00.nii"], 1).contains("r/00.nii"));
    let pair = ["--compare", "a.json", "b.json", "-o", "x"];
    for wrong in [&["--score", "dise"][..], &["--dry-run"]] {
        evaluate(here.path(), &[&pair[..], wrong].concat(), 2);
    }
}
