//! PNG and TIFF: segmented by a model that was trained on them, and refused with a reason.

use super::{bytes, code, folder, labels, names, refuse, run, stderr, succeed, write};
use png::{BitDepth, ColorType};
use std::path::{Path, PathBuf};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/parity/configurations")
        .join(name)
}

/// The model of a case.
fn model(name: &str) -> String {
    let mut models = std::fs::read_dir(case(name).join("model")).unwrap();
    models.next().unwrap().unwrap().path().display().to_string()
}

fn save_png(path: &Path, color: ColorType, depth: BitDepth, samples: usize) {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 8, 6);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![0; 48 * samples]).unwrap();
    writer.finish().unwrap();
    medseg::io::atomic::write(path, medseg::io::Overwrite::Force, &file).unwrap();
}

#[test]
fn a_folder_of_pictures_becomes_a_folder_of_pictures() {
    let here = folder();
    let input = case("picture_rgb").join("input").display().to_string();
    let model = model("picture_rgb");
    succeed(
        here.path(),
        &format!("infer -i {input} -m {model} -o labels/"),
    );
    assert_eq!(names(&here.path().join("labels")), ["case.png"]);
    let found = labels(&here.path().join("labels/case.png"));
    assert_eq!(found, labels(&case("picture_rgb").join("expected.png")));
    // The same through a volume, and back.
    succeed(
        here.path(),
        &format!("infer -i {input}/case_0000.png -m {model} -o l.nii.gz"),
    );
    assert_eq!(labels(&here.path().join("l.nii.gz")), found);
    succeed(here.path(), "convert -i l.nii.gz -o back.png");
    assert_eq!(
        bytes(here.path().join("back.png")),
        bytes(here.path().join("labels/case.png"))
    );
}

#[test]
fn the_spacing_of_a_stack_is_read_and_written_beside_it() {
    let here = folder();
    let input = case("picture_stack")
        .join("input/case_0000.tif")
        .display()
        .to_string();
    let infer = format!("infer -i {input} -m {} -o out.tif", model("picture_stack"));
    write(here.path(), "out.json", b"mine");
    assert!(refuse(here.path(), &infer).contains("out.json already exists"));
    assert!(!here.path().join("out.tif").exists());
    let output = run(here.path(), &format!("{infer} --force"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!stderr(&output).contains("1 mm"), "{}", stderr(&output));
    let expected = case("picture_stack");
    assert_eq!(
        labels(&here.path().join("out.tif")),
        labels(&expected.join("expected.tif"))
    );
    let spacing =
        |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&bytes(path)).unwrap() };
    assert_eq!(
        spacing(here.path().join("out.json")),
        spacing(expected.join("expected.json"))
    );
    // Without the file voxels are 1 mm, and that is said.
    std::fs::copy(&input, here.path().join("bare.tif")).unwrap();
    let output = run(
        here.path(),
        &format!(
            "infer -i bare.tif -m {} -o b.nii.gz",
            model("picture_stack")
        ),
    );
    assert!(
        stderr(&output).contains("voxels count as 1 mm"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn pictures_that_would_have_to_be_converted_are_refused_with_the_reason() {
    let here = folder();
    let path = here.path().join("p.png");
    let infer = format!("infer -i p.png -m {} -o l.png", model("picture_rgb"));
    for (color, depth, samples, reason) in [
        (
            ColorType::Indexed,
            BitDepth::Eight,
            1,
            "has a palette, expected grey or RGB",
        ),
        (
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            2,
            "is grey with alpha",
        ),
        (
            ColorType::Rgb,
            BitDepth::Sixteen,
            6,
            "has 16 bits per sample and 3 channel(s)",
        ),
        (ColorType::Rgba, BitDepth::Eight, 4, "4 "),
        (ColorType::Grayscale, BitDepth::Eight, 1, "1 "),
    ] {
        save_png(&path, color, depth, samples);
        let line = refuse(here.path(), &infer);
        assert!(line.contains(reason) && line.contains("p.png"), "{line}");
        assert!(!here.path().join("l.png").exists());
    }
    let mut cut = bytes(case("picture_rgb").join("input/case_0000.png"));
    cut.truncate(cut.len() / 2);
    write(here.path(), "p.png", &cut);
    assert!(refuse(here.path(), &infer).contains("p.png: as PNG: "));
    // Known from the header: a volume is no picture.
    succeed(
        here.path(),
        "phantom -o ct.nii --size 24,24,20 --spacing 9,9,9",
    );
    let line = refuse(here.path(), "infer -i ct.nii -o ct.png");
    assert!(
        line.contains("a PNG holds one slice, the label map has 20"),
        "{line}"
    );
}
