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
