//! Flags that mean the same in every command that writes something.

use super::{bytes, code, folder, names, run, stderr, stdout, succeed};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Command without its output, and the output.
const COMMANDS: [(&str, &str); 4] = [
    ("phantom --size 24,24,18", "patient"),
    ("preview case/ct.nii.gz case/label.nii.gz", "case.png"),
    (
        "skeleton -i case/label.nii.gz --label artery",
        "branches.csv",
    ),
    ("report -i results.json", "report.xlsx"),
];

/// Every file below, with its bytes.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_dir() {
        let mut all = Vec::new();
        for name in names(path) {
            all.extend(files(&path.join(name)));
        }
        return all;
    }
    vec![(path.to_owned(), bytes(path))]
}

fn status(text: &str) -> String {
    let report: Value = serde_json::from_str(text).unwrap();
    report["cases"][0]["status"].as_str().unwrap().to_owned()
}

#[test]
fn outputs_are_planned_kept_and_reported() {
    let here = folder();
    succeed(here.path(), "phantom -o case --size 48,48,36 --damaged");
    succeed(
        here.path(),
        "evaluate -p case/pred.nii.gz -r case/label.nii.gz -o results.json",
    );
    for (command, output) in COMMANDS {
        let place = here.path().join(output);
        let command = format!("{command} -o {output}");

        assert_eq!(succeed(here.path(), &format!("{command} --dry-run")), "");
        assert!(!place.exists(), "{command} --dry-run wrote");

        let text = succeed(here.path(), &format!("{command} --json --report run.json"));
        assert_eq!(status(&text), "done", "{command}");
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_ne!(written["cases"][0]["outputs"], Value::Array(Vec::new()));
        let report = String::from_utf8(bytes(here.path().join("run.json"))).unwrap();
        assert_eq!(status(&report), "done", "{command}");

        let first = files(&place);
        let again = run(here.path(), &command);
        assert_eq!(code(&again), 1, "{command}");
        assert!(stderr(&again).contains(output), "{}", stderr(&again));
        let text = succeed(here.path(), &format!("{command} --skip-existing --json"));
        assert_eq!(status(&text), "skipped", "{command}");
        succeed(here.path(), &format!("{command} --force"));
        assert!(first == files(&place), "{command}: other bytes");
    }
}

#[test]
fn standard_output_takes_one_thing() {
    let here = folder();
    let output = run(here.path(), "phantom --size 24,24,18 -o - --json");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--report"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}
