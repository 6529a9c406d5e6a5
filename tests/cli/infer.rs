//! `infer`: one file, a batch, and what goes wrong in one.

use super::{
    bytes, code, folder, names, one_channel_model, refuse, run, stderr, stdout, succeed,
    two_channel_model,
};
use serde_json::Value;
use std::path::Path;

pub fn report(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

/// `images/` with three cases of two channels, and `model`, which takes them.
pub fn images(here: &Path) {
    std::os::unix::fs::symlink(two_channel_model(), here.join("model")).unwrap();
    std::fs::create_dir(here.join("images")).unwrap();
    for (seed, name) in [(1, "a"), (2, "b.v1"), (3, "한 글")] {
        for channel in 0..2 {
            let output = super::medseg(here)
                .args(["phantom", "--size", "20,18,16", "--spacing", "2,2,3"])
                .args(["--seed", &format!("{}", 10 * seed + channel), "-o"])
                .arg(format!("images/{name}_000{channel}.nii.gz"))
                .output()
                .unwrap();
            assert_eq!(code(&output), 0, "{}", stderr(&output));
        }
    }
}

#[test]
fn the_embedded_model_is_announced_and_the_geometry_copied() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 24,24,20 --spacing 9,9,9",
    );
    let output = run(
        here.path(),
        "infer -i ct.nii -o labels.nii --statistics s.json --report r.json",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("embedded model"),
        "{}",
        stderr(&output)
    );
    let (image, labels) = (
        bytes(here.path().join("ct.nii")),
        bytes(here.path().join("labels.nii")),
    );
    // pixdim; qform_code to srow_z: see nifti1.h.
    assert_eq!(image[76..108], labels[76..108]);
    assert_eq!(image[252..328], labels[252..328]);
    let statistics = report(&here.path().join("s.json"));
    assert_eq!(statistics["ct"][0]["name"], "kidney_right");
    let report = report(&here.path().join("r.json"));
    assert_eq!(report["cases"][0]["status"], "done");
    assert_eq!(
        report["cases"][0]["inputs"][0]["sha256"]
            .as_str()
            .unwrap()
            .len(),
        64
    );
    assert!(report["memory"]["peak_rss_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn results_are_the_same_for_every_number_of_threads() {
    let here = folder();
    let model = two_channel_model();
    let model = model.display();
    succeed(
        here.path(),
        "phantom -o ct.nii --size 50,40,30 --spacing 2,2,2",
    );
    succeed(
        here.path(),
        "phantom -o pet.nii --size 50,40,30 --spacing 2,2,2 --seed 2",
    );
    for threads in [1, 2, 4] {
        succeed(
            here.path(),
            &format!(
                "--threads {threads} infer -i ct.nii,pet.nii -m {model} -o labels{threads}.nii.gz --probabilities"
            ),
        );
    }
    for name in ["labels", "labels_probabilities"] {
        let named = |threads: &str| {
            let tail = name.strip_prefix("labels").unwrap();
            bytes(here.path().join(format!("labels{threads}{tail}.nii.gz")))
        };
        assert_eq!(named("1"), named("2"), "{name}");
        assert_eq!(named("1"), named("4"), "{name}");
    }
}

/// A copy of the two-channel model as `broken/`, with the numbers of one tensor replaced.
fn broken_model(here: &Path, tensor: &str, value: f32) {
    let model = two_channel_model();
    let model = model.display();
    succeed(here, &format!("convert --model {model} -o broken --force"));
    let path = here.join("broken/fold_0/checkpoint_final.safetensors");
    let mut file = bytes(&path);
    let (header, data) = {
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
        (header + 8, metadata.info(tensor).unwrap().data_offsets)
    };
    for number in file[header + data.0..header + data.1].chunks_mut(4) {
        number.copy_from_slice(&value.to_le_bytes());
    }
    std::fs::remove_file(&path).unwrap();
    let mut options = std::fs::File::options();
    let written = options.write(true).create_new(true).open(path);
    std::io::Write::write_all(&mut written.unwrap(), &file).unwrap();
}

#[test]
fn a_network_that_is_no_longer_one_is_an_error_with_the_layer_not_a_mask() {
    let here = folder();
    succeed(here.path(), "phantom -o a.nii --size 20,20,16");
    for (tensor, value, mention) in [
        (
            "encoder.stages.1.0.convs.0.conv.weight",
            f32::NAN,
            "encoder.stages.1.0.convs.0.conv.weight: value 0 is NaN",
        ),
        (
            "decoder.transpconvs.0.weight",
            f32::MAX,
            "layer decoder.transpconvs.0 gives NaN or infinite",
        ),
    ] {
        broken_model(here.path(), tensor, value);
        let line = refuse(here.path(), "infer -i a.nii,a.nii -m broken -o out.nii");
        assert!(line.contains(mention), "{line}");
        assert!(!here.path().join("out.nii").exists());
    }
}

#[test]
fn an_instruction_set_nobody_has_is_refused_before_work() {
    let here = folder();
    succeed(here.path(), "phantom -o ct.nii --size 20,20,16");
    let output = run(here.path(), "infer -i ct.nii -o out.nii --isa mmx");
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("scalar, avx2, avx512 or amx"),
        "{}",
        stderr(&output)
    );
    let output = run(here.path(), "infer -i ct.nii -o out.nii --precision fp8");
    assert_eq!(code(&output), 2);
    assert_eq!(names(here.path()), ["ct.nii"]);
}

#[test]
fn a_folder_is_a_batch_that_keeps_names() {
    let here = folder();
    images(here.path());
    let plan = succeed(here.path(), "infer -i images -m model -o out --dry-run");
    assert_eq!(plan.lines().count(), 3, "{plan}");
    assert!(!here.path().join("out").exists());
    succeed(
        here.path(),
        "infer -i images -m model -o out --report r.json",
    );
    assert_eq!(
        names(&here.path().join("out")),
        ["a.nii.gz", "b.v1.nii.gz", "한 글.nii.gz"]
    );
    assert_eq!(
        report(&here.path().join("r.json"))["cases"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn an_existing_output_is_refused_before_work_and_skipped_on_request() {
    let here = folder();
    images(here.path());
    succeed(here.path(), "infer -i images -m model -o out");
    let whole: Vec<_> = names(&here.path().join("out"))
        .iter()
        .map(|name| bytes(here.path().join("out").join(name)))
        .collect();
    assert!(refuse(here.path(), "infer -i images -m model -o out").contains("already exists"));
    std::fs::remove_file(here.path().join("out/b.v1.nii.gz")).unwrap();
    let resumed = run(
        here.path(),
        "infer -i images -m model -o out --skip-existing",
    );
    assert_eq!(code(&resumed), 0);
    assert!(stderr(&resumed).contains("skipped"), "{}", stderr(&resumed));
    let again: Vec<_> = names(&here.path().join("out"))
        .iter()
        .map(|name| bytes(here.path().join("out").join(name)))
        .collect();
    assert_eq!(whole, again);
}

#[test]
fn a_broken_case_does_not_stop_the_others() {
    let here = folder();
    images(here.path());
    std::fs::copy(
        here.path().join("images/a_0000.nii.gz"),
        here.path().join("images/broken_0000.nii.gz"),
    )
    .unwrap();
    let broken = here.path().join("images/broken_0001.nii.gz");
    let good = bytes(here.path().join("images/a_0001.nii.gz"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&broken)
        .unwrap();
    std::io::Write::write_all(&mut file, &good[..good.len() / 2]).unwrap();
    let output = run(
        here.path(),
        "infer -i images -m model -o out --report r.json",
    );
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert_eq!(
        names(&here.path().join("out")),
        ["a.nii.gz", "b.v1.nii.gz", "한 글.nii.gz"]
    );
    assert!(
        stderr(&output).contains("1 of 4 cases failed"),
        "{}",
        stderr(&output)
    );
    let cases = report(&here.path().join("r.json"))["cases"].clone();
    let failed: Vec<&Value> = cases
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["status"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0]["error"]
            .as_str()
            .unwrap()
            .contains("broken_0001.nii.gz")
    );
}

#[test]
fn channels_are_checked_before_work() {
    let here = folder();
    succeed(here.path(), "phantom -o t1.nii --size 20,20,16");
    let model = two_channel_model();
    let model = model.display();
    let line = refuse(
        here.path(),
        &format!("infer -i t1.nii -m {model} -o out.nii"),
    );
    assert!(line.contains("t1.nii"), "{line}");
    succeed(here.path(), "phantom -o t2.nii --size 20,20,15");
    let line = refuse(
        here.path(),
        &format!("infer -i t1.nii,t2.nii -m {model} -o out.nii"),
    );
    assert!(
        line.contains("[15, 20, 20]") && line.contains("[16, 20, 20]"),
        "{line}"
    );
    assert!(!here.path().join("out.nii").exists());
}

#[test]
fn wrong_settings_are_clear_errors() {
    let here = folder();
    succeed(here.path(), "phantom -o ct.nii --size 20,20,16");
    let model = one_channel_model();
    let model = model.display();
    for (arguments, mention) in [
        ("--step 0".to_owned(), "step"),
        (format!("-m {model} --folds 3"), "fold"),
        (
            format!("-m {model} --checkpoint checkpoint_best.pth"),
            "checkpoint_best.pth",
        ),
        (format!("-m {model} --configuration 2d"), "2d"),
        ("-m nowhere".to_owned(), "nowhere"),
        ("--memory-limit 1MiB".to_owned(), "limit"),
    ] {
        let line = refuse(
            here.path(),
            &format!("infer -i ct.nii -o out.nii {arguments}"),
        );
        assert!(line.contains(mention), "{arguments}: {line}");
    }
    assert_eq!(code(&run(here.path(), "infer -o out.nii")), 2);
    assert_eq!(code(&run(here.path(), "infer -i ct.nii -o out.obj")), 2);
    assert_eq!(names(here.path()), ["ct.nii"]);
}

#[test]
fn the_dry_run_predicts_the_peak_within_a_fifth() {
    let here = folder();
    succeed(here.path(), "phantom -o ct.nii --size 200,200,120");
    let plan = succeed(
        here.path(),
        "infer -i ct.nii -o labels.nii.gz --dry-run --report plan.json",
    );
    assert!(plan.contains("labels.nii.gz"), "{plan}");
    let output = run(
        here.path(),
        "infer -i ct.nii -o labels.nii.gz --report r.json",
    );
    assert_eq!(code(&output), 0, "{}{}", stderr(&output), stdout(&output));
    let memory = report(&here.path().join("r.json"))["memory"].clone();
    let predicted = memory["predicted_peak_bytes"].as_f64().unwrap();
    let measured = memory["peak_rss_bytes"].as_f64().unwrap();
    assert!(
        (measured / predicted - 1.0).abs() < 0.2,
        "predicted {predicted}, measured {measured}"
    );
}

/// The test case of a cascade: `image.nii.gz`, `models/` with both stages, `expected.nii.gz`, `previous.nii.gz`.
fn cascade(here: &Path) {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/parity/configurations/cascade");
    let link = |from: &str, to: &str| {
        std::os::unix::fs::symlink(case.join(from), here.join(to)).unwrap();
    };
    link("input/case_0000.nii.gz", "image.nii.gz");
    link("expected.nii.gz", "expected.nii.gz");
    link("previous.nii.gz", "previous.nii.gz");
    std::fs::create_dir(here.join("models")).unwrap();
    for stage in ["3d_lowres", "3d_cascade_fullres"] {
        let name = format!("nnUNetTrainer__nnUNetPlans__{stage}");
        link(&format!("model/{name}"), &format!("models/{name}"));
    }
}

#[test]
fn a_cascade_runs_its_first_stage_or_takes_its_label_map() {
    let here = folder();
    cascade(here.path());
    let infer = "infer -i image.nii.gz --no-mirroring -m models/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres";
    succeed(
        here.path(),
        &format!("{infer} -o own.nii.gz --report r.json"),
    );
    succeed(here.path(), "compare own.nii.gz expected.nii.gz");
    let phases = &report(&here.path().join("r.json"))["cases"][0]["phases"];
    let phases: Vec<&str> = phases
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(phases[..3], ["read", "first stage", "predict"]);

    succeed(
        here.path(),
        &format!("{infer} --previous previous.nii.gz -o file.nii.gz"),
    );
    std::fs::create_dir(here.path().join("low")).unwrap();
    std::fs::copy(
        here.path().join("previous.nii.gz"),
        here.path().join("low/image.nii.gz"),
    )
    .unwrap();
    succeed(
        here.path(),
        &format!("{infer} --previous low -o folder.nii.gz"),
    );
    for output in ["file.nii.gz", "folder.nii.gz"] {
        assert_eq!(
            bytes(here.path().join(output)),
            bytes(here.path().join("own.nii.gz"))
        );
    }
}

#[test]
fn a_first_stage_that_does_not_fit_is_named() {
    let here = folder();
    cascade(here.path());
    let infer = "infer -i image.nii.gz -o out.nii.gz -m models/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres";
    succeed(
        here.path(),
        "phantom -o ct.nii.gz --size 22,20,14 --spacing 9,9,9",
    );
    succeed(here.path(), "infer -i ct.nii.gz -o other.nii.gz");
    let wrong = |previous: &str, expected: &str| {
        let output = run(here.path(), &format!("{infer} --previous {previous}"));
        assert_ne!(code(&output), 0);
        assert!(
            stderr(&output).contains(expected),
            "{previous}: {}",
            stderr(&output)
        );
        assert!(!here.path().join("out.nii.gz").exists());
    };
    wrong("other.nii.gz", "is not on the grid of the image");
    wrong("missing.nii.gz", "missing.nii.gz");
    std::fs::create_dir(here.path().join("empty")).unwrap();
    wrong("empty", "empty: has no label map called image");
    wrong(
        "models/nnUNetTrainer__nnUNetPlans__3d_cascade_fullres",
        "according to the plans",
    );
    std::fs::remove_file(
        here.path()
            .join("models/nnUNetTrainer__nnUNetPlans__3d_lowres"),
    )
    .unwrap();
    let output = run(here.path(), infer);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("there is no nnUNetTrainer__nnUNetPlans__3d_lowres beside it")
    );
    let output = run(
        here.path(),
        "infer -i image.nii.gz -o out.nii.gz --previous other.nii.gz",
    );
    assert_eq!(code(&output), 2, "{}", stderr(&output));
}

#[test]
fn channels_of_different_patients_are_refused_and_doubtful_intensities_warned_of() {
    let here = folder();
    images(here.path());
    // The second channel one metre away: the origin of qform and sform, along x.
    let path = here.path().join("images/a_0001.nii.gz");
    succeed(here.path(), "convert -i images/a_0001.nii.gz -o far.nii");
    let mut moved = bytes(here.path().join("far.nii"));
    for at in [268, 292] {
        let place = f32::from_le_bytes(moved[at..at + 4].try_into().unwrap()) + 1000.0;
        moved[at..at + 4].copy_from_slice(&place.to_le_bytes());
    }
    let mut file = std::fs::File::options()
        .write(true)
        .truncate(true)
        .open(here.path().join("far.nii"))
        .unwrap();
    std::io::Write::write_all(&mut file, &moved).unwrap();
    std::fs::remove_file(path).unwrap();
    let output = run(
        here.path(),
        "infer -i images/a_0000.nii.gz,far.nii -m model -o out.nii.gz",
    );
    assert_eq!(code(&output), 1);
    let message = stderr(&output);
    assert!(message.contains("far.nii do not overlap"), "{message}");

    let output = run(
        here.path(),
        "infer -i images/b.v1_0000.nii.gz,images/b.v1_0001.nii.gz -m model -o out.nii.gz",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // The second channel is PET, and phantoms are CT.
    assert!(stderr(&output).contains("as in CT"), "{}", stderr(&output));
}

#[test]
fn postprocessing_is_applied_on_request() {
    let here = folder();
    let case =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/parity/configurations/residual");
    std::os::unix::fs::symlink(&case, here.path().join("case")).unwrap();
    let infer =
        "infer -i case/input/case_0000.nii.gz -m case/model/nnUNetTrainer__nnUNetPlans__3d_fullres";
    succeed(here.path(), &format!("{infer} -o plain.nii.gz"));
    succeed(here.path(), "compare plain.nii.gz case/expected.nii.gz");
    succeed(
        here.path(),
        &format!("{infer} -o kept.nii.gz --postprocessing case/postprocessing.json"),
    );
    succeed(here.path(), "compare kept.nii.gz case/postprocessed.nii.gz");
    succeed(
        here.path(),
        &format!("{infer} -o pickled.nii.gz --postprocessing case/postprocessing.pkl"),
    );
    succeed(here.path(), "compare pickled.nii.gz kept.nii.gz");
    let message = refuse(
        here.path(),
        &format!("{infer} -o x.nii.gz --postprocessing none.json"),
    );
    assert!(message.contains("none.json"), "{message}");
}

#[test]
fn a_model_is_checked_before_it_is_used() {
    let here = folder();
    std::os::unix::fs::symlink(two_channel_model(), here.path().join("model")).unwrap();
    let found = succeed(here.path(), "check-model model --json");
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["fit"], true);
    assert_eq!(found["folds"][0]["fold"], "0");
    let [low, high] = [0, 1].map(|at| found["folds"][0]["logits"][at].as_f64().unwrap());
    assert!(low < high, "{found}");
    let missing = refuse(here.path(), "check-model model --folds 0,3");
    assert!(
        missing.contains("fold_3") && missing.contains("fold_0"),
        "{missing}"
    );
    let none = refuse(here.path(), "check-model nothing");
    assert!(none.contains("is no model"), "{none}");
}
