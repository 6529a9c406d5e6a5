//! Every example in every `--help` runs.

use super::dicom_builder::{Slice, save};
use super::{folder, medseg, names, one_channel_model, run, stdout, succeed, two_channel_model};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const COMMANDS: [&str; 20] = [
    "infer",
    "smooth",
    "vessel-connect",
    "ureter-connect",
    "fat",
    "sample",
    "skeleton",
    "evaluate",
    "report",
    "preview",
    "info",
    "check-model",
    "compare",
    "labels",
    "convert",
    "phantom",
    "demo",
    "bench",
    "completions",
    "man",
];

/// The lines after `Examples:` in a command's help.
fn examples(command: &str) -> Vec<String> {
    let here = folder();
    let help = stdout(&run(here.path(), &format!("{command} --help")));
    let (_, after) = help
        .split_once("Examples:\n")
        .unwrap_or_else(|| panic!("{command} --help has no examples"));
    after
        .replace("\\\n", "") // one command over several lines
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("medseg "))
        .map(str::to_owned)
        .collect()
}

/// The files that the examples name.
fn prepare(here: &Path) {
    succeed(here, "phantom -o case --size 24,20,16 --damaged");
    for name in ["ct", "mine", "theirs", "resampled", "reference", "t1", "t2"] {
        std::fs::copy(
            here.join("case/ct.nii.gz"),
            here.join(format!("{name}.nii.gz")),
        )
        .unwrap();
    }
    std::fs::copy(
        here.join("case/pred.nii.gz"),
        here.join("prediction.nii.gz"),
    )
    .unwrap();
    std::fs::copy(here.join("case/label.nii.gz"), here.join("labels.nii.gz")).unwrap();
    for name in ["images", "masks", "predictions", "references"] {
        std::fs::create_dir(here.join(name)).unwrap();
        if name != "images" {
            std::fs::copy(
                here.join("case/label.nii.gz"),
                here.join(name).join("case.nii.gz"),
            )
            .unwrap();
        }
    }
    std::fs::copy(here.join("ct.nii.gz"), here.join("images/case_0000.nii.gz")).unwrap();
    symlink(one_channel_model(), here.join("model")).unwrap();
    symlink(
        one_channel_model(),
        here.join("nnUNetTrainer__nnUNetPlans__3d_fullres"),
    )
    .unwrap();
    symlink(two_channel_model(), here.join("two_channels")).unwrap();
    super::tasks::models(here);
    for name in ["early", "late"] {
        let copy = here.join(format!("{name}.nii.gz"));
        std::fs::copy(here.join("ct.nii.gz"), copy).unwrap();
    }
    let task = "channels = ['A', 'P']\nlabels = ['kidney', 'tumor']\nmirroring = false\nstep = 1.0\n[[models]]\nmodel = 900\n";
    let path = here.join("mine.toml");
    medseg::io::atomic::write(&path, medseg::io::Overwrite::Force, task.as_bytes()).unwrap();
    std::fs::copy(
        one_channel_model().join("dataset.json"),
        here.join("dataset.json"),
    )
    .unwrap();
}

/// All that is in a folder; links stay links.
fn copy(from: &Path, to: &Path) {
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_symlink() {
            symlink(std::fs::read_link(&from).unwrap(), &to).unwrap();
        } else if from.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// A DICOM series on the grid of the label map.
fn study(here: &Path) {
    let folder = here.join("STUDY");
    std::fs::create_dir(&folder).unwrap();
    let limits = medseg::io::Limits::detect();
    let map = here.join("labels.nii.gz");
    let (map, _) =
        medseg::io::nifti::read_label_map(&map, medseg::volume::LabelTable::default(), &limits)
            .unwrap();
    for (z, slice) in Slice::on(map.grid()).iter().enumerate() {
        save(&folder.join(format!("IM{z:04}")), &slice.bytes());
    }
}

#[test]
fn every_example_in_the_help_runs() {
    let prepared = folder();
    prepare(prepared.path());
    for command in COMMANDS {
        for example in examples(command) {
            let here = folder();
            copy(prepared.path(), here.path());
            if example.contains("-i organs.nii.gz") {
                std::fs::copy(
                    here.path().join("case/pred.nii.gz"),
                    here.path().join("organs.nii.gz"),
                )
                .unwrap();
            }
            if example.contains("medseg report") {
                let scored = "evaluate -p predictions -r references -o results.json";
                succeed(here.path(), scored);
                std::fs::copy(
                    here.path().join("results.json"),
                    here.path().join("more.json"),
                )
                .unwrap();
            }
            if example.contains("--merge") {
                for part in [1, 2] {
                    let sets = "-p predictions -r references";
                    let shard = format!("evaluate {sets} -o part{part}.json --shard {part}/2");
                    succeed(here.path(), &shard);
                }
            }
            if example.contains("--list") {
                let list = "prediction,reference\npredictions/case.nii.gz,references/case.nii.gz\n";
                let path = here.path().join("pairs.csv");
                medseg::io::atomic::write(&path, medseg::io::Overwrite::Force, list.as_bytes())
                    .unwrap();
            }
            if example.contains("--compare") {
                for name in ["a", "b"] {
                    let sets = "-p predictions -r references";
                    succeed(here.path(), &format!("evaluate {sets} -o {name}.json"));
                }
            }
            if example.contains("evaluate -p prediction.nii.gz") {
                std::fs::copy(
                    here.path().join("case/label.nii.gz"),
                    here.path().join("reference.nii.gz"),
                )
                .unwrap();
            }
            if example.contains("--label-maps") {
                std::fs::copy(
                    here.path().join("case/label.nii.gz"),
                    here.path().join("reference.nii.gz"),
                )
                .unwrap();
            }
            if example.contains("STUDY/") {
                study(here.path());
            }
            // The folder names of the examples do not outlive the test's own folder.
            let line = example
                .replace("/tmp/demo", "demo_folder")
                .replace("medseg ", &format!("{} ", env!("CARGO_BIN_EXE_medseg")));
            let output = Command::new("sh")
                .args(["-c", &format!("set -e; {line}")])
                .current_dir(here.path())
                .env("MEDSEG_NO_PROGRESS", "1")
                .output()
                .unwrap();
            let expected = if example.contains("--label-maps") {
                4
            } else {
                0
            };
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{example}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn every_command_is_in_the_list_of_this_test() {
    let here = folder();
    let help = stdout(&run(here.path(), "--help"));
    let listed = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect::<Vec<_>>();
    assert_eq!(listed, COMMANDS);
}

#[test]
fn a_typo_is_wrong_usage_and_names_the_near_match() {
    let here = folder();
    let output = medseg(here.path()).arg("infre").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("infer"));
    assert!(names(here.path()).is_empty());
}
