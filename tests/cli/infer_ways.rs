//! `infer`: the ways to the same labels - instruction sets, precisions, columns, air left out.

use super::infer::{images, report};
use super::{bytes, code, folder, labels, refuse, run, stderr, stdout, succeed, write};
use medseg::nn::{Isa, Precision};
use std::path::Path;

/// `infer` of `ct.nii` by the embedded model; the bytes of the label map.
fn labels_of(here: &Path, isa: &str, precision: &str) -> Vec<u8> {
    let name = format!("{isa}_{precision}.nii");
    let output = super::medseg(here)
        .args(["infer", "-i", "ct.nii", "-o", &name, "--step", "1"])
        .args(["--precision", precision, "--report", "r.json", "--force"])
        .env("MEDSEG_ISA", isa)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{isa}: {}", stderr(&output));
    let settings = &report(&here.join("r.json"))["settings"];
    assert_eq!(settings["isa"], isa);
    assert_eq!(settings["precision"], precision);
    bytes(here.join(name))
}

#[test]
fn every_instruction_set_of_the_machine_finds_the_same_labels() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 40,40,30 --spacing 6,6,6",
    );
    let best = labels_of(here.path(), Isa::detect().name(), "fp32");
    assert!(best[352..].iter().any(|&byte| byte != 0));
    for isa in Isa::available().map(Isa::name) {
        for precision in Precision::ALL.map(Precision::name) {
            let other = labels_of(here.path(), isa, precision);
            let differing = best.iter().zip(&other).filter(|(a, b)| a != b).count();
            // Rounding decides where two labels tie.
            assert!(differing <= 5, "{differing} differ: {isa} {precision}");
        }
    }
}

#[test]
fn sixteen_bits_keep_the_dice_of_every_large_structure_above_0_999() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 112,112,70 --spacing 3.66,3.66,4.3 --seed 4",
    );
    let best = Isa::detect().name();
    let reference = &labels_of(here.path(), best, "fp32")[352..];
    let fast = Isa::available().filter(|&isa| isa != Isa::Scalar);
    for isa in fast.map(Isa::name) {
        let halved = &labels_of(here.path(), isa, "bf16")[352..];
        let mut large = 0;
        for label in 1..=u8::MAX {
            let count = |map: &[u8]| map.iter().filter(|&&at| at == label).count();
            let size = count(reference);
            if size < 1000 {
                continue;
            }
            large += 1;
            let pairs = reference.iter().zip(halved);
            let both = pairs.filter(|&(&a, &b)| a == label && b == label).count();
            let dice = 2.0 * both as f64 / (size + count(halved)) as f64;
            assert!(dice >= 0.999, "{isa}: label {label} has {dice}");
        }
        assert!(large >= 6, "{large} large structures");
    }
}

/// The GiB that a dry run says a case needs.
fn needs_gib(line: &str) -> f64 {
    let (_, rest) = line.split_once("needs ").expect("needs");
    let (number, _) = rest.split_once(" GiB").expect("GiB");
    number.parse().unwrap()
}

#[test]
fn columns_keep_the_limit_and_change_nothing() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 110,110,20 --spacing 5,5,9",
    );
    let dry = "infer -i ct.nii -o o.nii --step 1 --dry-run";
    let usual = needs_gib(&succeed(here.path(), dry));
    // What the thriftiest way needs is said with the refusal.
    let output = run(here.path(), &format!("{dry} --memory-limit 100MiB"));
    let least = needs_gib(&stdout(&output)) + 0.006;
    assert!(least < usual, "{least} {usual}");
    let plan = succeed(here.path(), &format!("{dry} --memory-limit {least}GiB"));
    assert!(plan.contains(" columns"), "{plan}");
    for (name, more) in [
        ("whole.nii", String::new()),
        ("columns.nii", format!("--memory-limit {least}GiB")),
    ] {
        let infer = format!("infer -i ct.nii -o {name} --step 1 {more}");
        succeed(here.path(), &infer);
    }
    let read = |name| bytes(here.path().join(name));
    let whole = labels(&here.path().join("whole.nii"));
    assert!(whole.iter().any(|&label| label != 0));
    assert!(read("whole.nii") == read("columns.nii"));
    // A limit that nothing keeps is refused before work, and nothing is left behind.
    let line = refuse(
        here.path(),
        "infer -i ct.nii -o none.nii --step 1 --memory-limit 100MiB",
    );
    assert!(line.contains("limit"), "{line}");
    assert!(!here.path().join("none.nii").exists());
}

#[test]
fn tiles_of_air_are_left_out_on_request() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 60,60,20 --spacing 9,9,9",
    );
    // An empty scanner: every tile is air, and the network never runs.
    let mut empty = bytes(here.path().join("ct.nii"));
    for voxel in empty[352..].chunks_exact_mut(2) {
        voxel.copy_from_slice(&(-1000_i16).to_le_bytes());
    }
    write(here.path(), "air.nii", &empty);
    let output = run(here.path(), "infer -i air.nii -o air_out.nii --skip-air");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("held only air") && !said.contains(" 0 tile"),
        "{said}"
    );
    let found = labels(&here.path().join("air_out.nii"));
    assert!(found.iter().all(|&label| label == 0));
    // A body is found as without.
    succeed(here.path(), "infer -i ct.nii -o usual.nii --step 1");
    succeed(
        here.path(),
        "infer -i ct.nii -o skipped.nii --step 1 --skip-air",
    );
    let [usual, skipped] = ["usual.nii", "skipped.nii"].map(|name| bytes(here.path().join(name)));
    let differing = usual.iter().zip(&skipped).filter(|(a, b)| a != b).count();
    assert!(differing * 1000 <= usual.len(), "{differing}");
    // Intensities that are no Hounsfield units have no air.
    images(here.path());
    let line = refuse(
        here.path(),
        "infer -i images/a_0000.nii.gz,images/a_0001.nii.gz -m model -o no.nii --skip-air",
    );
    assert!(line.contains("air"), "{line}");
}

/// The 32-bit floats of an uncompressed or gzipped NIfTI file.
fn floats(path: &Path) -> Vec<f32> {
    let limits = medseg::io::Limits::detect();
    let (volumes, _) = medseg::io::nifti::Reader::open(path, &limits)
        .unwrap()
        .into_f32()
        .unwrap();
    let values = volumes.iter().flat_map(medseg::volume::Volume::as_slice);
    values.copied().collect()
}

#[test]
fn uncertainty_is_the_entropy_of_the_probabilities_and_changes_no_label() {
    let here = folder();
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/parity/configurations");
    // Three folds, mirroring and turned axes; one fold with regions.
    for (case, folds) in [("oblique", 3), ("regions", 1)] {
        let files = |folder: &str| {
            let entries = std::fs::read_dir(parity.join(case).join(folder)).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path().display().to_string());
            let mut paths: Vec<String> = paths.collect();
            paths.sort();
            paths.join(",")
        };
        let (image, model) = (files("input"), files("model"));
        let infer = format!("infer -i {image} -m {model} --json -o");
        succeed(here.path(), &format!("{infer} plain.nii --force"));
        let more = "--uncertainty --probabilities --force";
        let mut runs = Vec::new();
        for threads in [1, 3] {
            let run = format!("{infer} out.nii {more} --threads {threads}");
            let report: serde_json::Value =
                serde_json::from_str(&succeed(here.path(), &run)).unwrap();
            let files = [
                "out.nii",
                "out_uncertainty.nii.gz",
                "out_disagreement.nii.gz",
            ];
            let wanted = files.iter().take(if folds > 1 { 3 } else { 2 });
            runs.push(wanted.map(|file| bytes(here.path().join(file))).collect());
            let rows = report["cases"][0]["uncertainty"]
                .as_array()
                .unwrap()
                .clone();
            assert!(!rows.is_empty());
            let labels = labels(&here.path().join("out.nii"));
            let entropies = floats(&here.path().join("out_uncertainty.nii.gz"));
            for row in &rows {
                let number = row["label"].as_u64().unwrap();
                let of_label = labels.iter().zip(&entropies);
                let of_label = of_label.filter(|(label, _)| u64::from(**label) == number);
                let of_label: Vec<f64> = of_label.map(|(_, h)| f64::from(*h)).collect();
                assert_eq!(row["voxel_count"], of_label.len());
                match row["mean_entropy"].as_f64() {
                    None => assert!(of_label.is_empty()),
                    Some(mean) => {
                        let expected = of_label.iter().sum::<f64>() / of_label.len() as f64;
                        assert!((mean - expected).abs() < 1e-6, "{mean} {expected}");
                    }
                }
                let disagreement = row.get("mean_disagreement");
                assert_eq!(disagreement.is_some(), folds > 1);
            }
        }
        let runs: [Vec<Vec<u8>>; 2] = runs.try_into().unwrap();
        assert!(runs[0] == runs[1], "{case}: threads show");
        assert!(runs[0][0] == bytes(here.path().join("plain.nii")), "{case}");
        let entropies = floats(&here.path().join("out_uncertainty.nii.gz"));
        let probabilities = floats(&here.path().join("out_probabilities.nii.gz"));
        let voxels = entropies.len();
        let surprise = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        for (voxel, &found) in entropies.iter().enumerate() {
            let heads = probabilities.iter().skip(voxel).step_by(voxels);
            let of_head = |&p: &f32| {
                let p = f64::from(p);
                let other = if case == "regions" { 1.0 - p } else { 0.0 };
                surprise(p) + surprise(other)
            };
            let expected: f64 = heads.map(of_head).sum();
            assert!(
                (f64::from(found) - expected).abs() < 2e-5,
                "{found} {expected}"
            );
        }
        assert!(entropies.iter().any(|&h| h > 0.05), "{case}");
        if folds > 1 {
            let between = floats(&here.path().join("out_disagreement.nii.gz"));
            let most = (folds as f32).ln();
            assert!(between.iter().all(|mi| (0.0..=most).contains(mi)));
            assert!(between.iter().any(|&mi| mi > 1e-4));
            // One of these folds alone has nobody to disagree with.
            std::fs::remove_file(here.path().join("out_disagreement.nii.gz")).unwrap();
            succeed(here.path(), &format!("{infer} out.nii {more} --folds 0"));
            assert!(!here.path().join("out_disagreement.nii.gz").exists());
        }
    }
}

#[test]
fn files_beside_a_label_map_are_never_replaced_unasked_and_a_rest_is_completed() {
    let here = folder();
    let (model, image) = (
        super::two_channel_model(),
        "images/a_0000.nii.gz,images/a_0001.nii.gz",
    );
    images(here.path());
    let infer = format!(
        "infer -i {image} -m {} -o a.nii --uncertainty",
        model.display()
    );
    let plan = succeed(here.path(), &format!("{infer} --dry-run"));
    assert!(
        plan.contains("-> a.nii,a_uncertainty.nii.gz: needs"),
        "{plan}"
    );
    write(here.path(), "a_uncertainty.nii.gz", b"mine");
    let line = refuse(here.path(), &infer);
    assert!(line.contains("a_uncertainty.nii.gz"), "{line}");
    assert!(!here.path().join("a.nii").exists());
    // What an interrupted run left beside no label map is made anew.
    succeed(here.path(), &format!("{infer} --skip-existing"));
    assert!(bytes(here.path().join("a_uncertainty.nii.gz")) != b"mine");
    std::fs::remove_file(here.path().join("a_uncertainty.nii.gz")).unwrap();
    let output = run(here.path(), &format!("{infer} --skip-existing"));
    assert_eq!(code(&output), 0);
    assert!(
        stderr(&output).contains("a_uncertainty.nii.gz is missing"),
        "{}",
        stderr(&output)
    );
    let piped = format!("infer -i {image} -m {} -o - --uncertainty", model.display());
    let output = run(here.path(), &piped);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--uncertainty needs a file"));
}
