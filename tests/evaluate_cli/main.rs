//! `medseg evaluate` as a user meets it: labels, unusual files, broken batches, shards, interruptions.

#![expect(
    clippy::disallowed_methods,
    reason = "broken files are made without the care of the program's own writer"
)]

mod batch;
mod compare;
mod inputs;
mod labels;
mod nifti;
mod unusual;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The program with two threads, quiet about progress, working in `folder`.
fn medseg(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medseg"));
    command
        .current_dir(folder)
        .arg("evaluate")
        .args(arguments)
        .env("MEDSEG_NO_PROGRESS", "1")
        .env("MEDSEG_THREADS", "2")
        .env_remove("MEDSEG_MEMORY_LIMIT");
    command
}

/// Runs the command and expects an exit code.
fn evaluate(folder: &Path, arguments: &[&str], code: i32) -> Output {
    let output = medseg(folder, arguments)
        .output()
        .expect("the program starts");
    assert_eq!(
        output.status.code(),
        Some(code),
        "medseg evaluate {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Scores `folder/p` against `folder/r` (files or folders) and returns the results.
fn results(folder: &Path, arguments: &[&str]) -> Value {
    let all = [
        &["-p", "p", "-r", "r", "-o", "results.json", "--force"],
        arguments,
    ]
    .concat();
    evaluate(folder, &all, 0);
    json(&folder.join("results.json"))
}

/// The entry of one label in one case.
fn target<'a>(results: &'a Value, case: usize, label: &str) -> &'a Value {
    let labels = results["cases"][case]["labels"].as_array().unwrap();
    let found = labels.iter().find(|entry| entry["label"] == label);
    found.unwrap_or_else(|| panic!("{label} is not in {labels:?}"))
}
