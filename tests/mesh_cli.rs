//! `medseg smooth` as a user meets it: files, names, formats, refusals.

use medseg::io::nifti::{Geometry, save_label_map};
use medseg::io::{Overwrite, atomic, labels};
use medseg::volume::{Affine, Grid, LabelMap, LabelTable};
use ndarray::Array3;
use std::path::Path;
use std::process::{Command, Output};

/// Two touching boxes of labels 1 and 7 in 10 x 8 x 6 voxels of 1 x 1 x 2 mm, mirrored.
fn write_map(path: &Path, table: &LabelTable, labels_of: impl Fn(usize) -> u16) {
    let grid = Grid {
        shape: [6, 8, 10],
        spacing_mm: [2.0, 1.0, 1.0],
        affine: Affine::from_spacing([-1.0, -1.0, 2.0], [50.0, 60.0, -700.0]),
    };
    let data = Array3::from_shape_fn([6, 8, 10], |(z, y, x)| {
        let inside = (1..5).contains(&z) && (1..7).contains(&y) && (1..9).contains(&x);
        if inside { labels_of(x) } else { 0 }
    });
    let map = LabelMap::new(data, grid, table.clone()).unwrap();
    let extensions = if table.is_empty() {
        Vec::new()
    } else {
        labels::with_table(&[], table)
    };
    save_label_map(
        path,
        &map,
        &Geometry::from_grid(&grid),
        extensions,
        Overwrite::Force,
    )
    .unwrap();
}

fn smooth(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medseg"))
        .current_dir(folder)
        .env("MEDSEG_NO_PROGRESS", "1")
        .arg("smooth")
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

fn succeed(folder: &Path, arguments: &str) -> String {
    let output = smooth(folder, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn fail(folder: &Path, arguments: &str, code: i32) -> String {
    let output = smooth(folder, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments}");
    String::from_utf8(output.stderr).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn two_boxes() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let map = folder.path().join("map.nii.gz");
    write_map(&map, &LabelTable::default(), |x| if x < 5 { 1 } else { 7 });
    folder
}

#[test]
fn files_are_named_after_number_and_name() {
    let folder = two_boxes();
    succeed(folder.path(), "-i map.nii.gz -o plain");
    assert_eq!(
        names(&folder.path().join("plain")),
        ["label_1.obj", "label_7.obj", "labels.mtl"]
    );
    succeed(
        folder.path(),
        "-i map.nii.gz -o named --labels abdomen --labels ureter",
    );
    assert_eq!(
        names(&folder.path().join("named")),
        ["7_ureter.obj", "labels.mtl"]
    );
    write_map(
        &folder.path().join("own.nii"),
        &LabelTable::abdomen(),
        |_| 9,
    );
    succeed(folder.path(), "own.nii -o own --format stl");
    assert_eq!(names(&folder.path().join("own")), ["9_liver.stl"]);
}

#[test]
fn the_report_says_what_was_made() {
    let folder = two_boxes();
    let text = succeed(
        folder.path(),
        "-i map.nii.gz -o out --json --statistics rows.json --frame lps",
    );
    let row: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(row["frame"], "lps");
    assert_eq!(row["labels"][0]["voxels"], 4 * 6 * 4);
    assert_eq!(row["labels"][1]["genus"], 0);
    let change = row["labels"][0]["volume_out_ml"].as_f64().unwrap() / 0.192 - 1.0;
    assert!(change.abs() < 0.01, "{change}");
    let saved = std::fs::read(folder.path().join("rows.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&saved).unwrap();
    assert_eq!(saved[0], row);
    let object = std::fs::read_to_string(folder.path().join("out/label_1.obj")).unwrap();
    assert!(
        object.contains("\n# frame LPS, unit mm\nmtllib labels.mtl\no label_1\nusemtl label_1\nv ")
    );
}

#[test]
fn one_merged_file_in_every_format() {
    let folder = two_boxes();
    succeed(
        folder.path(),
        "-i map.nii.gz -o all --merge --format obj,stl,ply,glb --normals --simplify 50%",
    );
    let all = folder.path().join("all");
    assert_eq!(
        names(&all),
        [
            "labels.glb",
            "labels.mtl",
            "labels.obj",
            "labels.ply",
            "labels.stl"
        ]
    );
    let text = std::fs::read_to_string(all.join("labels.obj")).unwrap();
    let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        (lines("o "), lines("v "), lines("f ")),
        (2, lines("vn "), lines("f "))
    );
    let stl = std::fs::read(all.join("labels.stl")).unwrap();
    assert_eq!(stl.len(), 84 + 50 * lines("f "));
}

#[test]
fn nothing_is_replaced_or_guessed() {
    let folder = two_boxes();
    succeed(
        folder.path(),
        "-i map.nii.gz -o out --dry-run --report dry.json",
    );
    assert!(!folder.path().join("out").exists());
    succeed(folder.path(), "-i map.nii.gz -o out");
    let before = std::fs::read(folder.path().join("out/label_7.obj")).unwrap();
    assert!(fail(folder.path(), "-i map.nii.gz -o out", 1).contains("already exists"));
    assert!(
        String::from_utf8_lossy(
            &smooth(folder.path(), "-i map.nii.gz -o out --skip-existing").stderr
        )
        .contains("skipped")
    );
    succeed(folder.path(), "-i map.nii.gz -o out --force --threads 1");
    assert_eq!(
        std::fs::read(folder.path().join("out/label_7.obj")).unwrap(),
        before
    );
    assert!(
        fail(folder.path(), "-i map.nii.gz -o x --labels 3", 1).contains("label 3 does not occur")
    );
    fail(folder.path(), "-i map.nii.gz -o x --simplify 0.1", 2);
    assert!(fail(folder.path(), "-i map.nii.gz -o x --box 0.6", 1).contains("0 to 0.5"));
    fail(folder.path(), "-i none.nii -o x", 1);
    assert!(!folder.path().join("x").exists());
}

#[test]
fn an_empty_map_is_told_and_a_batch_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let maps = folder.path().join("maps");
    std::fs::create_dir(&maps).unwrap();
    write_map(&maps.join("a.nii.gz"), &LabelTable::default(), |_| 0);
    write_map(&maps.join("b.nii.gz"), &LabelTable::default(), |_| 2);
    let output = smooth(folder.path(), "-i maps -o out");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no foreground"));
    assert_eq!(
        names(&folder.path().join("out/b")),
        ["label_2.obj", "labels.mtl"]
    );
    std::fs::copy(maps.join("b.nii.gz"), maps.join("c.nii.gz")).unwrap();
    let broken = std::fs::OpenOptions::new()
        .write(true)
        .open(maps.join("c.nii.gz"))
        .unwrap();
    broken.set_len(60).unwrap();
    fail(folder.path(), "-i maps -o out2", 3);
    assert_eq!(
        names(&folder.path().join("out2/b")),
        ["label_2.obj", "labels.mtl"]
    );
}

/// A NIfTI-1 file of 4 x 4 x 4 32-bit floats, all 0 but one, with an sform whose first entry is `sform`.
fn write_floats(path: &Path, value: f32, sform: f32) {
    let mut bytes = vec![0_u8; 352];
    bytes[0..4].copy_from_slice(&348_i32.to_le_bytes());
    for (at, size) in [3_i16, 4, 4, 4, 1, 1, 1, 1].into_iter().enumerate() {
        bytes[40 + 2 * at..][..2].copy_from_slice(&size.to_le_bytes());
    }
    bytes[70..72].copy_from_slice(&16_i16.to_le_bytes());
    bytes[72..74].copy_from_slice(&32_i16.to_le_bytes());
    for at in 0..4 {
        bytes[76 + 4 * at..][..4].copy_from_slice(&1.0_f32.to_le_bytes());
    }
    bytes[108..112].copy_from_slice(&352.0_f32.to_le_bytes());
    bytes[112..116].copy_from_slice(&1.0_f32.to_le_bytes());
    bytes[254..256].copy_from_slice(&1_i16.to_le_bytes());
    for (at, entry) in [(280, sform), (300, 1.0), (320, 1.0)] {
        bytes[at..at + 4].copy_from_slice(&entry.to_le_bytes());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    for voxel in 0..64 {
        let voxel = if voxel == 21 { value } else { 0.0 };
        bytes.extend_from_slice(&voxel.to_le_bytes());
    }
    atomic::write(path, Overwrite::Force, &bytes).unwrap();
}

#[test]
fn maps_that_are_none_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value, sform| write_floats(&folder.path().join(name), value, sform);
    write("whole.nii", 3.0, 1.0);
    succeed(folder.path(), "-i whole.nii -o whole");
    assert_eq!(
        names(&folder.path().join("whole")),
        ["label_3.obj", "labels.mtl"]
    );
    for (name, value, sform, found) in [
        ("part.nii", 1.5, 1.0, "1.5"),
        ("high.nii", 65536.0, 1.0, "65536"),
        ("below.nii", -1.0, 1.0, "-1"),
        ("nan.nii", f32::NAN, 1.0, "NaN"),
        ("affine.nii", 1.0, f32::NAN, "NaN"),
    ] {
        write(name, value, sform);
        let error = fail(folder.path(), &format!("-i {name} -o x"), 1);
        assert!(error.contains(name) && error.contains(found), "{error}");
        assert!(!folder.path().join("x").exists(), "{name}");
    }
}

/// A NIfTI-1 file of 3 x 3 x 3 voxels of `datatype`, the middle one `value`, read as 2 * stored + 1 if `is_scaled`.
fn write_scaled(path: &Path, datatype: i16, value: u16, is_scaled: bool) {
    write_floats(path, 0.0, 1.0);
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(352);
    for at in [42, 44, 46] {
        bytes[at..at + 2].copy_from_slice(&3_i16.to_le_bytes());
    }
    bytes[70..72].copy_from_slice(&datatype.to_le_bytes());
    bytes[72..74].copy_from_slice(&16_i16.to_le_bytes());
    if is_scaled {
        bytes[112..116].copy_from_slice(&2.0_f32.to_le_bytes());
        bytes[116..120].copy_from_slice(&1.0_f32.to_le_bytes());
    }
    for voxel in 0..27 {
        let voxel = if voxel == 13 { value } else { 0 };
        bytes.extend_from_slice(&voxel.to_le_bytes());
    }
    atomic::write(path, Overwrite::Force, &bytes).unwrap();
}

#[test]
fn integers_of_16_bits_and_scaled_ones_keep_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (name, datatype, value, is_scaled, labels) in [
        ("int16", 4, 117, false, &["label_117.obj"][..]),
        ("uint16", 512, 65535, false, &["label_65535.obj"]),
        // The background reads as 1 and the middle as 7.
        ("scaled", 4, 3, true, &["label_1.obj", "label_7.obj"]),
    ] {
        let file = format!("{name}.nii");
        write_scaled(&folder.path().join(&file), datatype, value, is_scaled);
        succeed(folder.path(), &format!("-i {file} -o {name}"));
        let mut found = names(&folder.path().join(name));
        assert_eq!(found.pop().as_deref(), Some("labels.mtl"));
        assert_eq!(found, labels, "{name}");
    }
}

/// Two boxes of label 2 that touch along an edge only.
fn write_diagonal(path: &Path) {
    let grid = Grid::with_spacing([4, 6, 6], [1.0; 3]);
    let data = Array3::from_shape_fn([4, 6, 6], |(z, y, x)| {
        let inside = (1..3).contains(&z) && (1..5).contains(&y) && (1..5).contains(&x);
        u16::from(inside && (y < 3) == (x < 3)) * 2
    });
    let map = LabelMap::new(data, grid, LabelTable::default()).unwrap();
    let geometry = Geometry::from_grid(&grid);
    save_label_map(path, &map, &geometry, Vec::new(), Overwrite::Force).unwrap();
}

#[test]
fn bridge_makes_one_surface_of_pieces_that_touch_along_an_edge() {
    let folder = tempfile::tempdir().unwrap();
    write_diagonal(&folder.path().join("map.nii"));
    for (flag, shells, voxels) in [("", 2, 16), ("--bridge", 1, 17)] {
        let text = succeed(
            folder.path(),
            &format!("-i map.nii -o out --force --json {flag}"),
        );
        let row: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(row["labels"][0]["shells"], shells, "{text}");
        assert_eq!(row["labels"][0]["voxels"], voxels, "{text}");
    }
}

/// Width, height and pixels of an 8-bit RGB picture.
fn picture(path: &Path) -> (usize, usize, Vec<[u8; 3]>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let (width, height) = reader.info().size();
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    reader.next_frame(&mut pixels).unwrap();
    let (pixels, _) = pixels.as_chunks::<3>();
    (width as usize, height as usize, pixels.to_vec())
}

#[test]
fn the_preview_shows_every_label_in_its_colour_from_four_sides() {
    let folder = two_boxes();
    let here = folder.path();
    let arguments = "-i map.nii.gz --labels abdomen -o";
    succeed(here, &format!("{arguments} a --preview a.png --threads 1"));
    let (width, height, pixels) = picture(&here.join("a.png"));
    // Label 1 lies left of label 7 in voxels, so on the patient's right after mirroring x twice: once by the affine, once by the view.
    let table = LabelTable::abdomen();
    let is_of = |pixel: [u8; 3], label: u16| {
        let rgb = table.get(label).unwrap().rgb.map(f64::from);
        let pixel = pixel.map(f64::from);
        let length = |v: [f64; 3]| v.iter().map(|a| a * a).sum::<f64>().sqrt();
        let product: f64 = rgb.iter().zip(pixel).map(|(a, b)| a * b).sum();
        product > 0.999 * length(rgb) * length(pixel) && length(pixel) > 0.3 * length(rgb)
    };
    let columns = |label: u16, of: std::ops::Range<usize>| -> Vec<usize> {
        (0..height / 2)
            .flat_map(|y| of.clone().map(move |x| (x, y)))
            .filter(|&(x, y)| is_of(pixels[y * width + x], label))
            .map(|(x, _)| x)
            .collect()
    };
    let mean = |columns: Vec<usize>| columns.iter().sum::<usize>() / columns.len();
    let front = 0..width / 2;
    assert!(mean(columns(1, front.clone())) < mean(columns(7, front)));
    // From the right label 1 hides label 7, but for the legend below.
    let right = width / 2..width;
    assert!(columns(1, right.clone()).len() > 1000 && columns(7, right).is_empty());

    succeed(here, &format!("{arguments} b --preview b.png --threads 3"));
    succeed(
        here,
        &format!("{arguments} c --preview c.png --frame lps --merge --format stl"),
    );
    let bytes = |name: &str| std::fs::read(here.join(name)).unwrap();
    assert!(bytes("a.png") == bytes("b.png"), "differs between threads");
    assert!(bytes("a.png") == bytes("c.png"), "differs between frames");
    assert!(fail(here, "-i map.nii.gz -o d --preview a.png", 1).contains("already exists"));
    assert!(fail(here, "-i map.nii.gz -o d --preview d.jpg", 2).contains(".png"));
    assert!(fail(here, "-i map.nii.gz -o d --preview none/d.png", 1).contains("none"));
    assert!(!here.join("d").exists());
}

#[test]
fn a_batch_has_a_preview_per_case() {
    let folder = two_boxes();
    let here = folder.path();
    std::fs::create_dir(here.join("maps")).unwrap();
    for name in ["a", "b"] {
        let copy = here.join(format!("maps/{name}.nii.gz"));
        std::fs::copy(here.join("map.nii.gz"), copy).unwrap();
    }
    succeed(here, "-i maps -o out --preview view.png --format stl");
    for name in ["a", "b"] {
        let found = names(&here.join("out").join(name));
        assert_eq!(found, ["label_1.stl", "label_7.stl", "view.png"]);
    }
    assert!(fail(here, "-i maps -o x --preview y/view.png", 2).contains("plain file name"));
}

#[test]
fn memory_is_refused_before_work_starts() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let grid = Grid::with_spacing([64, 64, 64], [1.0; 3]);
    let data = Array3::from_shape_fn(grid.shape, |(z, y, x)| ((z + y + x) % 2) as u16);
    let map = LabelMap::new(data, grid, LabelTable::default()).unwrap();
    let geometry = Geometry::from_grid(&grid);
    let path = here.join("map.nii.gz");
    save_label_map(&path, &map, &geometry, Vec::new(), Overwrite::Force).unwrap();
    // The voxels fit, their many vertices do not.
    let error = fail(here, "-i map.nii.gz -o x --memory-limit 10MiB", 1);
    assert!(
        error.contains("vertices need 0.0") && error.contains("map.nii.gz"),
        "{error}"
    );
    let error = fail(here, "-i map.nii.gz -o x --memory-limit 600KiB", 1);
    assert!(
        error.contains("map.nii.gz") && error.contains("limit"),
        "{error}"
    );
    assert!(!here.join("x").exists());
}

/// Files that appear in `folder`, at any depth.
fn all_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                all_files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_full_disk_is_an_error_without_remains() {
    let folder = two_boxes();
    for format in ["obj", "stl", "ply", "glb"] {
        // 1 KiB per file, and the signal of going beyond it ignored: writing fails as on a full disk.
        let line = format!(
            "trap '' XFSZ; ulimit -f 2; exec {} smooth -i map.nii.gz -o {format} --format {format}",
            env!("CARGO_BIN_EXE_medseg")
        );
        let output = Command::new("sh")
            .current_dir(folder.path())
            .env("MEDSEG_NO_PROGRESS", "1")
            .args(["-c", &line])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!(".{format}")), "{error}");
        let left = all_files(&folder.path().join(format));
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_killed_run_leaves_whole_files_only() {
    let folder = two_boxes();
    let here = folder.path();
    succeed(here, "-i map.nii.gz -o whole --format obj,stl,glb");
    for round in 0..30 {
        let target = format!("round-{round}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_medseg"))
            .current_dir(here)
            .args([
                "smooth",
                "-q",
                "-i",
                "map.nii.gz",
                "--format",
                "obj,stl,glb",
                "-o",
                &target,
            ])
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(500 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        for file in all_files(&here.join(&target)) {
            let name = file.file_name().unwrap();
            let whole = std::fs::read(here.join("whole").join(name))
                .unwrap_or_else(|_| panic!("litter: {}", file.display()));
            assert!(std::fs::read(&file).unwrap() == whole, "{}", file.display());
        }
    }
}
