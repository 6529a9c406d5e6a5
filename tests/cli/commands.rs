//! `info`, `compare`, `labels`, `convert`, `phantom`, `demo`.

use super::{bytes, code, folder, names, one_channel_model, refuse, run, stderr, stdout, succeed};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn info_tells_size_spacing_and_labels() {
    let here = folder();
    succeed(
        here.path(),
        "phantom -o case --size 40,36,30 --spacing 10,11,10 --seed 3",
    );
    let ct = json(&succeed(here.path(), "info --json case/ct.nii.gz"));
    assert_eq!(ct["size_xyz"], serde_json::json!([40, 36, 30]));
    assert_eq!(ct["spacing_mm_xyz"], serde_json::json!([10.0, 11.0, 10.0]));
    assert_eq!(ct["orientation"], "LPS");
    assert_eq!(ct["datatype"], "int16");
    assert!(ct.get("labels").is_none());
    let labels = json(&succeed(here.path(), "info --json case/label.nii.gz"));
    let first = &labels["labels"][0];
    assert_eq!(first["name"], "kidney_right");
    let volume_ml = first["voxels"].as_f64().unwrap() * 1.1;
    assert!((first["volume_ml"].as_f64().unwrap() - volume_ml).abs() < 1e-3);
}

#[test]
fn info_of_a_model_lists_its_classes() {
    let here = folder();
    let model = one_channel_model();
    let model = json(&succeed(
        here.path(),
        &format!("info --json {}", model.display()),
    ));
    assert_eq!(model["kind"], "model");
    assert_eq!(model["classes"][11]["name"], "bone");
    assert_eq!(model["channels"], serde_json::json!(["CT"]));
}

#[test]
fn info_of_a_missing_file_names_it() {
    let here = folder();
    assert!(refuse(here.path(), "info nothing.nii.gz").contains("nothing.nii.gz"));
    assert!(refuse(here.path(), "info .").contains("plans.json"));
}

#[test]
fn compare_counts_what_differs_and_says_where() {
    let here = folder();
    succeed(here.path(), "phantom -o case --size 32,32,24 --damaged");
    succeed(here.path(), "compare case/label.nii.gz case/label.nii.gz");
    let output = run(
        here.path(),
        "compare --json case/pred.nii.gz case/label.nii.gz",
    );
    assert_eq!(code(&output), 4);
    let report = json(&stdout(&output));
    assert_eq!(report["compared_as"], "label maps");
    assert_eq!(report["equal"], false);
    assert!(report["different"].as_u64().unwrap() > 0);
    let liver = report["labels"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "liver");
    let dice = liver.unwrap()["dice"].as_f64().unwrap();
    assert!(0.5 < dice && dice <= 1.0, "{dice}");
    assert!(report["first_difference"]["voxel_xyz"].is_array());
}

#[test]
fn compare_respects_the_tolerance() {
    let here = folder();
    succeed(here.path(), "phantom -o a.nii --size 16,16,16 --seed 1");
    succeed(here.path(), "phantom -o b.nii --size 16,16,16 --seed 2");
    let output = run(here.path(), "compare a.nii b.nii --json");
    assert_eq!(code(&output), 4);
    let largest = json(&stdout(&output))["channels"][0]["largest_difference"]["difference"]
        .as_f64()
        .unwrap();
    assert!(largest > 1.0);
    succeed(here.path(), &format!("compare a.nii b.nii --tol {largest}"));
}

#[test]
fn compare_of_other_shapes_is_an_error_and_of_a_shifted_grid_a_difference() {
    let here = folder();
    succeed(here.path(), "phantom -o a.nii --size 16,16,16");
    succeed(here.path(), "phantom -o b.nii --size 16,16,15");
    let line = refuse(here.path(), "compare a.nii b.nii");
    assert!(line.contains("a.nii") && line.contains("b.nii"), "{line}");
    succeed(
        here.path(),
        "convert -i a.nii -o turned.nii --orientation RAS",
    );
    assert_eq!(code(&run(here.path(), "compare a.nii turned.nii")), 4);
}

#[test]
fn convert_there_and_back_gives_the_same_voxels_and_place() {
    let here = folder();
    succeed(here.path(), "phantom -o a.nii.gz --size 17,13,11");
    succeed(
        here.path(),
        "convert -i a.nii.gz -o b.nii --orientation PIR",
    );
    assert!(succeed(here.path(), "info b.nii").contains("orientation: PIR"));
    succeed(
        here.path(),
        "convert -i b.nii -o c.nii.gz --orientation LPS",
    );
    succeed(here.path(), "compare a.nii.gz c.nii.gz");
    let line = refuse(here.path(), "convert -i a.nii.gz -o b.nii");
    assert!(line.contains("b.nii"), "{line}");
    let wrong = run(
        here.path(),
        "convert -i a.nii.gz -o d.nii --orientation XYZ",
    );
    assert_eq!(code(&wrong), 2);
}

#[test]
fn a_converted_model_gives_the_same_segmentation() {
    let here = folder();
    succeed(here.path(), "phantom -o ct.nii.gz --size 32,32,24");
    let model = one_channel_model();
    succeed(
        here.path(),
        &format!("convert --model {} -o safe", model.display()),
    );
    succeed(
        here.path(),
        &format!("infer -i ct.nii.gz -m {} -o a.nii", model.display()),
    );
    succeed(here.path(), "infer -i ct.nii.gz -m safe -o b.nii");
    assert_eq!(
        bytes(here.path().join("a.nii")),
        bytes(here.path().join("b.nii"))
    );
}

#[test]
fn label_tables_convert_between_formats() {
    let here = folder();
    for name in ["a.json", "a.txt", "a.ctbl", "a.csv", "a.tsv", "a.xml"] {
        succeed(here.path(), &format!("labels convert abdomen -o {name}"));
        assert_eq!(
            succeed(here.path(), &format!("labels {name}")),
            succeed(here.path(), "labels abdomen")
        );
    }
    assert_eq!(succeed(here.path(), "labels totalseg").lines().count(), 118);
    assert_eq!(
        code(&run(here.path(), "labels convert abdomen -o a.pdf")),
        2
    );
    assert!(refuse(here.path(), "labels abdomne").contains("abdomen"));
}

#[test]
fn phantoms_are_the_same_for_every_number_of_threads() {
    let here = folder();
    for threads in [1, 2, 4] {
        let arguments = format!(
            "--threads {threads} phantom -o case{threads} --size 40,40,30 --tissue --damaged"
        );
        succeed(here.path(), &arguments);
    }
    for name in names(&here.path().join("case1")) {
        let first = bytes(here.path().join("case1").join(&name));
        for other in ["case2", "case4"] {
            assert_eq!(
                first,
                bytes(here.path().join(other).join(&name)),
                "{other}/{name}"
            );
        }
    }
}

#[test]
fn impossible_phantoms_are_wrong_usage() {
    let here = folder();
    for size in ["0,8,8", "8,8", "8,8,x", "9999999999,9999999999,1"] {
        let output = run(here.path(), &format!("phantom -o x --size {size}"));
        assert_eq!(code(&output), 2, "{size}: {}", stderr(&output));
    }
    assert!(names(here.path()).is_empty());
}

#[test]
fn demo_says_what_it_wrote_and_does_not_replace_it() {
    let here = folder();
    let text = succeed(here.path(), "demo");
    assert!(
        text.contains("kidney_left") && text.contains("Dice"),
        "{text}"
    );
    assert_eq!(
        names(&here.path().join("medseg-demo")),
        [
            "case.json",
            "ct.nii.gz",
            "fat.nii.gz",
            "label.nii.gz",
            "pred.nii.gz",
            "repaired.nii.gz",
            "report.html",
            "report.xlsx",
            "results.json",
            "sample.nii.gz",
            "segmentation.nii.gz",
            "statistics.json",
            "surfaces.glb",
            "surfaces.png"
        ]
    );
    // Of the recorded gaps most are closed, and none of the three structures is left out.
    let repair: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("repair"))
        .collect();
    let mut all = [0, 0];
    for name in ["artery", "vein", "ureter"] {
        let row = repair
            .iter()
            .find(|row| row.starts_with(name))
            .expect(&text);
        let words: Vec<&str> = row.split_whitespace().collect();
        let [closed, gaps] = [1, 3].map(|at| words[at].parse::<usize>().expect(&text));
        assert!(words[2] == "of" && (1..=gaps).contains(&closed), "{text}");
        all = [all[0] + closed, all[1] + gaps];
    }
    assert!(2 * all[0] > all[1], "{text}");
    assert!(refuse(here.path(), "demo").contains("already exists"));
    succeed(here.path(), "demo --force");
}

#[test]
fn bench_counts_what_torch_counts_and_times_every_layer() {
    let here = folder();
    let model = super::two_channel_model();
    let model = model.display();
    let text = succeed(
        here.path(),
        &format!("bench model -m {model} --repeats 1 --json"),
    );
    let bench: serde_json::Value = serde_json::from_str(&text).unwrap();
    // torch 2.15.0: FlopCounterMode counts twice this on the patch of 8x16x16. Of 1562 parameters there, 12 are in a
    // head for deep supervision.
    assert_eq!(bench["multiply_adds"], 802_560);
    assert_eq!(bench["parameters"], 1_550);
    for run in bench["runs"].as_array().unwrap() {
        let layers = run["layers"].as_array().unwrap();
        let shares: f64 = layers.iter().map(|l| l["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        assert!(run["median_ms"].as_f64().unwrap() > 0.0);
        assert!(run["activation_bytes"].as_u64().unwrap() > 8 * 16 * 16 * 4);
    }
    let line = refuse(here.path(), "bench model --patch 30,32,32");
    assert!(line.contains("not a multiple"), "{line}");
    let line = refuse(
        here.path(),
        "bench model --patch 256,256,256 --memory-limit 100MiB",
    );
    assert!(line.contains("the limit is"), "{line}");
    let wrong = run(here.path(), "bench model --patch 32");
    assert_eq!(code(&wrong), 2);
}
