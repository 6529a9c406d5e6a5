//! Flags that mean the same in every command that writes something.

use super::{bytes, code, folder, names, refuse, run, stderr, stdout, succeed, write};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Command without its output, and the output.
const COMMANDS: [(&str, &str); 11] = [
    ("phantom --size 24,24,18", "patient"),
    ("preview case/ct.nii.gz case/label.nii.gz", "case.png"),
    (
        "skeleton -i case/label.nii.gz --label artery",
        "branches.csv",
    ),
    ("report -i results.json", "report.xlsx"),
    ("convert -i case/ct.nii.gz", "ct.nrrd"),
    ("infer -i case/ct.nii.gz --step 1", "found.nii.gz"),
    (
        "fat -i case/label.nii.gz --image case/ct.nii.gz --allow-cut",
        "fat.nii.gz",
    ),
    (
        "sample -i case/label.nii.gz --template builtin",
        "guess.nii.gz",
    ),
    (
        "vessel-connect -i case/pred.nii.gz --label artery",
        "artery.nii.gz",
    ),
    ("ureter-connect -i case/pred.nii.gz", "ureter.nii.gz"),
    ("demo", "shown"),
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

        let said = succeed(here.path(), &format!("{command} --dry-run"));
        assert!(said.is_empty() || command.starts_with("infer"), "{said}");
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
fn the_report_tells_of_a_case_that_failed() {
    let here = folder();
    write(here.path(), "broken.nii", b"no volume");
    for command in [
        "convert -o out.nrrd",
        "infer -o out.nii",
        "fat -o out.nii",
        "ureter-connect -o out.nii",
        "skeleton -o out.csv",
        "smooth -o surfaces",
    ] {
        let arguments = format!("{command} -i broken.nii --report run.json");
        let error = refuse(here.path(), &arguments);
        let report = String::from_utf8(bytes(here.path().join("run.json"))).unwrap();
        assert_eq!(status(&report), "failed", "{command}");
        let report: Value = serde_json::from_str(&report).unwrap();
        let told = report["cases"][0]["error"].as_str().unwrap();
        assert!(error.contains(told), "{command}: {error}");
    }
}

#[test]
fn a_folder_is_converted_file_by_file() {
    let here = folder();
    std::fs::create_dir(here.path().join("in")).unwrap();
    succeed(here.path(), "phantom -o in/a.nii.gz --size 12,12,9");
    write(&here.path().join("in"), "b.nii", b"no volume");
    let error = refuse(here.path(), "convert -i in -o out.nii.gz");
    assert!(error.contains("out.nii.gz is named as a file"), "{error}");
    assert!(!here.path().join("out.nii.gz").exists());
    let output = run(
        here.path(),
        "convert -i in -o out --to nrrd --report run.json",
    );
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains("1 of 2 cases failed"));
    assert_eq!(names(&here.path().join("out")), ["a.nrrd"]);
    let report: Value = serde_json::from_slice(&bytes(here.path().join("run.json"))).unwrap();
    assert_eq!(report["cases"][0]["status"], "done");
    assert_eq!(report["cases"][1]["status"], "failed");
}

#[test]
fn standard_output_takes_one_thing() {
    let here = folder();
    let output = run(here.path(), "phantom --size 24,24,18 -o - --json");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--report"), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

#[test]
fn shells_and_man_know_every_command() {
    let here = folder();
    for shell in ["bash", "zsh", "fish"] {
        let known = succeed(here.path(), &format!("completions {shell}"));
        assert!(known.contains("vessel-connect") && known.contains("memory-limit"));
    }
    succeed(here.path(), "man pages");
    let page = |name: &str| std::fs::read_to_string(here.path().join("pages").join(name)).unwrap();
    assert!(
        page("medseg.1").contains("medseg\\-infer(1)"),
        "{}",
        page("medseg.1")
    );
    assert!(page("medseg-infer.1").contains("\\-\\-precision"));
    assert!(page("medseg-labels-convert.1").contains("\\-\\-output"));
    let error = refuse(here.path(), "man pages");
    assert!(error.contains("already exists"), "{error}");
    succeed(here.path(), "man pages --force");
}
