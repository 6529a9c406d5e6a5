//! What cannot be reported is refused, saying what was found and what to do.

#![allow(
    clippy::disallowed_methods,
    reason = "broken inputs are written for the program to refuse"
)]

use super::{folder, phantoms, run};
use std::path::Path;

/// Writes `name` as a changed `results.json`.
fn changed(here: &Path, name: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(here.join("results.json")).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(here.join(name), text.replace(from, to)).unwrap();
}

#[test]
fn documents_that_do_not_fit() {
    let here = folder();
    let here = here.path();
    changed(here, "next.json", "\"version\": 1", "\"version\": 2");
    let text = run(here, "report -i next.json -o r.xlsx", 1);
    assert!(
        text.contains("next.json") && text.contains("version 2, expected"),
        "{text}"
    );

    changed(
        here,
        "google.json",
        "\"definition\": \"medseg\"",
        "\"definition\": \"google\"",
    );
    let text = run(here, "report -i results.json google.json -o r.xlsx", 1);
    assert!(
        text.contains("medseg in one and google in the other"),
        "{text}"
    );

    changed(
        here,
        "added.json",
        "\"version\": 1",
        "\"version\": 1, \"added\": {\"later\": true}",
    );
    run(here, "report -i added.json -o added.xlsx", 0);

    changed(here, "others.json", "\"case\": \"", "\"case\": \"other_");
    let text = run(here, "report -i results.json others.json -o r.xlsx", 1);
    assert!(text.contains("no case and label in common"), "{text}");

    let mut empty: serde_json::Value =
        serde_json::from_slice(&std::fs::read(here.join("results.json")).unwrap()).unwrap();
    empty["cases"] = serde_json::json!([]);
    std::fs::write(here.join("empty.json"), empty.to_string()).unwrap();
    let text = run(here, "report -i empty.json -o r.xlsx", 1);
    assert!(
        text.contains("empty: no case was scored (no prediction"),
        "{text}"
    );

    std::fs::write(here.join("broken.json"), "{\"schema\": ").unwrap();
    let text = run(here, "report -i broken.json -o r.xlsx", 1);
    assert!(text.contains("broken.json"), "{text}");
    assert!(!here.join("r.xlsx").exists());

    run(here, "report -i results.json -o report.xls", 2);
    run(here, "report -i results.json -o r.xlsx --names a,b", 2);
    run(here, "report -i results.json -o r.xlsx --flag-below 7", 2);
    let text = run(here, "report -i results.json -o added.xlsx", 1);
    assert!(text.contains("already exists"), "{text}");
}

#[test]
fn missing_pictures_are_named_and_the_report_is_made() {
    let here = phantoms();
    let here = here.path();
    std::fs::remove_file(here.join("images/p2_0000.nii.gz")).unwrap();
    let sets = "--images images --predictions predictions --references references";
    let text = run(
        here,
        &format!("report -i results.json -o r.xlsx --html r.html {sets}"),
        3,
    );
    assert!(
        text.contains("no picture of p2: images has no image p2_0000 or p2"),
        "{text}"
    );
    assert!(here.join("r.xlsx").exists());
    let page = std::fs::read_to_string(here.join("r.html")).unwrap();
    assert!(page.contains("no picture: images has no image p2_0000 or p2"));
    let text = run(
        here,
        &format!("report -i results.json -o s.xlsx {sets} --images nowhere"),
        2,
    );
    assert!(text.contains("--images"), "{text}");
    let sets = sets.replace("images images", "images nowhere");
    let text = run(here, &format!("report -i results.json -o s.xlsx {sets}"), 1);
    assert!(text.contains("nowhere"), "{text}");
    run(here, "report -i results.json -o s.xlsx --images images", 2);
}

#[test]
fn previews_of_what_does_not_fit() {
    let here = phantoms();
    let here = here.path();
    run(here, "phantom -o small --size 24,20,16", 0);
    let text = run(here, "preview p1/ct.nii.gz small/label.nii.gz -o x.png", 1);
    assert!(text.contains("the mask is not on the grid"), "{text}");
    run(here, "preview p1/ct.nii.gz -o x.jpg", 2);
    run(here, "preview p1/ct.nii.gz -o x.png --window liver", 2);
    run(here, "preview p1/ct.nii.gz -o x.png --opacity 2", 2);
    assert!(!here.join("x.png").exists());
}
