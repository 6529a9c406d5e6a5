//! `medseg report` and `medseg preview` through the program: every number read back, hostile names,
//! refusals, pictures. `testdata/report/make_results.py` makes the documents.

mod pages;
mod refusals;
mod workbooks;

use medseg::evaluate::results::Results;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/report")
        .join(name)
}

/// Results of two models on the same cases, with hostile names.
fn results(name: &str) -> Results {
    Results::from_json(&std::fs::read(testdata(name)).unwrap()).unwrap()
}

fn medseg(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medseg"))
        .current_dir(folder)
        .env("MEDSEG_NO_PROGRESS", "1")
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// Runs the program, which must end with `code`; returns what it said on stderr.
fn run(folder: &Path, arguments: &str, code: i32) -> String {
    let output = medseg(folder, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(code),
        "medseg {arguments}: {text}"
    );
    text
}

/// A folder with `results.json` and `more.json`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["results.json", "more.json"] {
        std::fs::copy(testdata(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// A folder with two scored phantoms, one prediction without its first label.
fn phantoms() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for name in ["images", "predictions", "references"] {
        std::fs::create_dir(here.join(name)).unwrap();
    }
    for seed in [1, 2] {
        run(
            here,
            &format!("phantom -o p{seed} --seed {seed} --size 40,36,24 --damaged"),
            0,
        );
        let case = here.join(format!("p{seed}"));
        let copy = |from: &str, to: String| std::fs::copy(case.join(from), here.join(to)).unwrap();
        copy("ct.nii.gz", format!("images/p{seed}_0000.nii.gz"));
        copy("label.nii.gz", format!("references/p{seed}.nii.gz"));
        copy("pred.nii.gz", format!("predictions/p{seed}.nii.gz"));
    }
    run(
        here,
        "evaluate -p predictions -r references -o results.json -q",
        0,
    );
    folder
}
