//! Killed writers, full disks, racing writers, odd names, closed pipes.

use crate::child::{command, label_map};
use crate::samples::Random;
use medseg::io::atomic::{self, AtomicFile};
use medseg::io::nifti::{Compression, Datatype, Format, Geometry, Layout, Reader, SliceWriter};
use medseg::io::nifti::{read_f32, read_label_map, save_label_map, write_label_map};
use medseg::io::{Limits, Overwrite};
use medseg::volume::{Grid, LabelTable};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn names(folder: &Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn voxels(path: &Path) -> Vec<u16> {
    let read = read_label_map(path, LabelTable::default(), &Limits::UNLIMITED);
    let (map, _) = read.unwrap_or_else(|error| panic!("{error}"));
    map.volume.as_slice().to_vec()
}

#[test]
fn f6_killed_writers_leave_whole_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(6);
    let expected = label_map(1).volume.as_slice().to_vec();
    let mut finished = 0;
    for round in 0..60 {
        let target = folder.path().join(format!("round-{round}"));
        atomic::create_folder(&target).unwrap();
        let mut child = command("write-new", &target).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in names(&target) {
            assert!(!is_hidden(&name), "litter: {}", name.display());
            assert_eq!(voxels(&target.join(&name)), expected, "{}", name.display());
            finished += 1;
        }
    }
    assert!(finished > 0, "no writer ever finished a file");
}

#[test]
fn f6_killed_while_replacing_the_old_or_the_new_file_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.nii.gz");
    let maps = [1, 2].map(|seed| label_map(seed).volume.as_slice().to_vec());
    let status = command("write 1", &path).status().unwrap();
    assert!(status.success());
    let mut random = Random::new(7);
    for _ in 0..40 {
        let mut child = command("write-over", &path).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(maps.contains(&voxels(&path)));
    }
    // A link that was made and not yet renamed (some microseconds) cannot be taken back after SIGKILL.
    let hidden = names(folder.path())
        .into_iter()
        .filter(|name| is_hidden(name));
    assert!(hidden.count() <= 2);
}

#[test]
fn f7_a_file_size_limit_is_an_error_without_remains() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.nii.gz");
    let output = command("write-limited 100000", &path).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("out.nii.gz"), "{message}");
    assert!(
        names(folder.path()).is_empty(),
        "{:?}",
        names(folder.path())
    );
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn f7_a_full_disk_is_an_error_without_remains() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("full");
    atomic::create_folder(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("full-disk check not run: mounting a tmpfs needs root");
        return;
    }
    let mounted = Mounted(mount);
    let path = mounted.0.join("out.nii.gz");
    let output = command("write 1", &path).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("out.nii.gz: No space left"), "{message}");
    assert!(names(&mounted.0).is_empty(), "{:?}", names(&mounted.0));
}

#[test]
fn f9_a_file_beyond_the_address_space_is_refused_in_gib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.nii");
    let grid = Grid::with_spacing([600, 512, 512], [1.0; 3]);
    let layout = Layout::new(grid.shape, Datatype::I16, Geometry::from_grid(&grid));
    // A sparse file of 315 MB: the header, and a hole.
    let mut bytes = Vec::new();
    SliceWriter::new(&mut bytes, "x", &layout, Compression::None).unwrap();
    atomic::write(&path, Overwrite::Refuse, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(352 + 2 * grid.voxel_count() as u64).unwrap();
    let output = command("read-limited 600000000", &path).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("needs 0.59 GiB, limit 0.4"), "{message}");
}

#[test]
fn f14_of_two_writers_one_wins_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.nii.gz");
    let maps = [1, 2].map(|seed| label_map(seed).volume.as_slice().to_vec());
    for _ in 0..50 {
        let mut writers = ["write 1", "write 2"].map(|job| command(job, &path).spawn().unwrap());
        for writer in &mut writers {
            assert!(writer.wait().unwrap().success());
        }
        assert!(maps.contains(&voxels(&path)));
        assert_eq!(names(folder.path()), ["out.nii.gz"]);
    }
}

#[test]
fn f15_names_are_written_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let map = label_map(3);
    let geometry = Geometry::from_grid(map.grid());
    let long = format!("{}.nii.gz", "k".repeat(243));
    let mut expected: Vec<OsString> = [
        "two blanks  in a row.nii.gz".as_bytes(),
        "한국어 파일.nii.gz".as_bytes(),
        b"new\nline.nii.gz",
        b"-dash.nii.gz",
        b"a.v1.nii",
        b"a.v1.nii.gz",
        b"sub-01_ses.2",
        b"x.nii.gz.tmp",
        b"trailing.",
        b"bytes-\xff\xfe.nii.gz",
        long.as_bytes(),
    ]
    .map(|name| OsStr::from_bytes(name).to_owned())
    .to_vec();
    for name in &expected {
        let path = folder.path().join(name);
        for overwrite in [Overwrite::Refuse, Overwrite::Force] {
            save_label_map(&path, &map, &geometry, Vec::new(), overwrite).unwrap();
        }
        assert_eq!(voxels(&path), map.volume.as_slice());
    }
    expected.sort();
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn f16_a_closed_pipe_is_told_from_a_full_device() {
    let map = label_map(1);
    let geometry = Geometry::from_grid(map.grid());
    let save = |path: &Path| save_label_map(path, &map, &geometry, Vec::new(), Overwrite::Force);
    let full = save(Path::new("/dev/full")).unwrap_err();
    assert!(
        !full.is_broken_pipe() && full.to_string().contains("/dev/full"),
        "{full}"
    );

    let (reader, writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let closer = std::thread::spawn(move || {
        let mut start = [0; 348];
        std::io::Read::read_exact(&mut &reader, &mut start).unwrap();
    });
    let mut file = AtomicFile::create(&path, Overwrite::Refuse).unwrap();
    drop(writer);
    let name = file.shown_name().to_owned();
    let compression = Compression::None;
    let broken = write_label_map(
        &mut file,
        &name,
        &map,
        &geometry,
        Vec::new(),
        Format::Nifti,
        compression,
    );
    closer.join().unwrap();
    assert!(broken.unwrap_err().is_broken_pipe());
}

#[test]
fn f16_a_volume_goes_through_a_pipe() {
    let (reader, writer) = std::io::pipe().unwrap();
    let map = label_map(1);
    let expected = map.volume.as_slice().to_vec();
    let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let sender = std::thread::spawn(move || {
        let geometry = Geometry::from_grid(map.grid());
        save_label_map(&path, &map, &geometry, Vec::new(), Overwrite::Refuse).unwrap();
        drop(writer);
    });
    let source = Reader::from_reader(reader, "pipe", &Limits::UNLIMITED);
    let (map, _) = source
        .unwrap()
        .into_label_map(LabelTable::default())
        .unwrap();
    sender.join().unwrap();
    assert_eq!(map.volume.as_slice(), expected);
}

#[test]
fn a_missing_input_is_named() {
    let error = read_f32(Path::new("/no/such file.nii.gz"), &Limits::UNLIMITED).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read /no/such file.nii.gz: No such file or directory (os error 2)"
    );
}
