//! The program as a user meets it: examples from the help, exit codes, files, pipes.

mod commands;
mod connect;
#[path = "../dicom/builder.rs"]
mod dicom_builder;
mod examples;
mod infer;
mod infer_ways;
mod manners;
mod pictures;
mod pipes;
mod tasks;

use medseg::io::{Limits, nifti};
use medseg::volume::LabelTable;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program, quiet about progress, working in `folder`.
fn medseg(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medseg"));
    command
        .current_dir(folder)
        .env("MEDSEG_NO_PROGRESS", "1")
        .env_remove("MEDSEG_THREADS")
        .env_remove("MEDSEG_ISA")
        .env_remove("MEDSEG_MEMORY_LIMIT")
        .env_remove("MEDSEG_MODELS");
    command
}

/// Runs the program with arguments separated by blanks.
fn run(folder: &Path, arguments: &str) -> Output {
    medseg(folder)
        .args(arguments.split_whitespace())
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs and expects exit code 0; returns stdout.
fn succeed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert_eq!(code(&output), 0, "medseg {arguments}: {}", stderr(&output));
    stdout(&output)
}

/// Runs and expects exit code 1 and one error line; returns that line.
fn refuse(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert_eq!(code(&output), 1, "medseg {arguments}: {}", stderr(&output));
    let text = stderr(&output);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "medseg {arguments}: {text}");
    errors[0].to_owned()
}

/// A folder of its own for one test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The 3-D model with two channels that tests use.
fn two_channel_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres")
}

/// The model that is part of the program, as a folder.
fn one_channel_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/embedded_model/nnUNetTrainer__nnUNetPlans__3d_fullres")
}

/// Names in a folder, sorted, hidden ones included.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The voxels of a label map.
fn labels(path: &Path) -> Vec<u16> {
    let (map, _) = nifti::read_label_map(path, LabelTable::default(), &Limits::UNLIMITED).unwrap();
    map.volume.as_slice().to_vec()
}

/// A file in `here`, replaced where it exists.
fn write(here: &Path, name: &str, content: &[u8]) {
    medseg::io::atomic::write(&here.join(name), medseg::io::Overwrite::Force, content).unwrap();
}
