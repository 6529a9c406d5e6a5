//! Which labels are scored, and under which names.

use super::nifti::File;
use super::{evaluate, json, results, target};

#[test]
fn brats_reads_the_old_enhancing_label_on_both_sides() {
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name);
    for (prediction, reference) in [(3, 4), (4, 3), (4, 4)] {
        let tumour = |label| File::with_box(label, [2, 2, 2], [6, 6, 6]);
        tumour(prediction).save(&at("p/a.nii"));
        tumour(reference).save(&at("r/a.nii"));
        let found = results(here.path(), &["--region", "brats"]);
        for region in ["WT", "TC", "ET"] {
            let scores = &target(&found, 0, region)["scores"];
            assert_eq!(scores["dice"], 1.0, "{region} {prediction} {reference}");
        }
        assert_eq!(found["settings"]["mapped_reference"][0][0], 4);
    }
}

#[test]
fn ignored_voxels_count_in_no_score() {
    let here = tempfile::tempdir().unwrap();
    let organ = File::with_box(1, [2, 2, 2], [6, 6, 6]);
    let mut reference = organ.clone();
    let mut prediction = organ.clone();
    // A stray piece of the prediction where the reference says nothing.
    for (p, r) in prediction
        .labels
        .iter_mut()
        .zip(&mut reference.labels)
        .skip(900)
    {
        (*p, *r) = (1, 9);
    }
    prediction.save(&here.path().join("p"));
    reference.save(&here.path().join("r"));
    let found = results(here.path(), &["--ignore-label", "9", "--lesions", "gli"]);
    let found = target(&found, 0, "label_1");
    assert_eq!(
        (&found["fp"], &found["lesions"]["fp"]),
        (&0.into(), &0.into())
    );
    for score in ["dice", "nsd@1"] {
        assert_eq!(found["scores"][score], 1.0, "{score}");
    }
    assert_eq!(found["scores"]["false_positive_volume_ml"], 0.0);
}

#[test]
fn labels_of_references_can_be_renumbered() {
    let here = tempfile::tempdir().unwrap();
    let organ = |label| File::with_box(label, [2, 2, 2], [6, 6, 6]);
    organ(1).save(&here.path().join("p"));
    organ(7).save(&here.path().join("r"));
    let found = results(here.path(), &["--map-reference", "7=1"]);
    assert_eq!(target(&found, 0, "label_1")["status"], "ok");
}

#[test]
fn numbers_alone_do_not_get_names_of_a_scheme() {
    let here = tempfile::tempdir().unwrap();
    let organ = File::with_box(9, [2, 2, 2], [6, 6, 6]);
    organ.save(&here.path().join("p"));
    organ.save(&here.path().join("r"));
    target(&results(here.path(), &["--labels", "9"]), 0, "label_9");
    target(&results(here.path(), &["--labels", "liver"]), 0, "liver");
}

#[test]
fn a_label_that_only_the_baseline_has_is_named() {
    let here = tempfile::tempdir().unwrap();
    let organ = File::with_box(9, [2, 2, 2], [6, 6, 6]);
    organ.save(&here.path().join("p"));
    organ.save(&here.path().join("r"));
    results(here.path(), &["--labels", "liver"]);
    let before = here.path().join("before.json");
    std::fs::rename(here.path().join("results.json"), &before).unwrap();
    let pair = [
        "-p",
        "p",
        "-r",
        "r",
        "-o",
        "now.json",
        "--markdown",
        "now.md",
    ];
    let against = ["--baseline", "before.json", "--overlap-only"];
    let tolerances = ["--tolerance", "dice=0.01", "--tolerance", "hd95=1mm"];
    evaluate(here.path(), &[&pair[..], &against, &tolerances].concat(), 4);
    let found = json(&here.path().join("now.json"));
    assert_eq!(found["baseline"]["lost_labels"][0], "liver");
    assert_eq!(found["baseline"]["lost_scores"][0], "hd95_mm");
    let text = std::fs::read_to_string(here.path().join("now.md")).unwrap();
    assert!(text.contains("liver") && text.contains("hd95"), "{text}");
}
