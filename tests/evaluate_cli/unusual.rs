//! Files that hold the same labels in another way score the same.

use super::nifti::{File, Stored};
use super::results;
use serde_json::Value;

/// Two labels, one of them moved in the prediction; `second` is the number of the other.
fn pair(second: u16) -> [File; 2] {
    [1, 0].map(|shift| {
        File::new([12, 10, 8], move |[x, y, z]| match (x, y, z) {
            (2..6, 2..8, 1..5) => 1,
            (x, 3..7, 3..7) if (7 + shift..10 + shift).contains(&x) => second,
            _ => 0,
        })
    })
}

/// Everything that was found, without the names of the files.
fn scores(files: [&File; 2]) -> Value {
    let here = tempfile::tempdir().unwrap();
    files[0].save(&here.path().join("p"));
    files[1].save(&here.path().join("r"));
    let found = results(here.path(), &["--lesions", "gli"]);
    assert!(found["failures"].as_array().unwrap().is_empty());
    found["cases"].clone()
}

#[test]
fn other_ways_to_store_the_same_labels_change_nothing() {
    let [prediction, reference] = pair(2);
    let plain = scores([&prediction, &reference]);
    assert!(plain[0]["labels"][1]["scores"]["dice"].as_f64().unwrap() < 1.0);
    type Change = (&'static str, fn(&mut File));
    let changes: [Change; 9] = [
        ("slope", |file| file.slope = 0.5),
        ("slope on int16", |file| {
            file.slope = 0.5;
            file.stored = Stored::I16;
        }),
        ("trailing axis", |file| file.trailing_axis = true),
        ("big-endian int32", |file| {
            file.big_endian = true;
            file.stored = Stored::I32;
        }),
        ("big-endian uint16", |file| {
            file.big_endian = true;
            file.stored = Stored::U16;
        }),
        ("qform only", |file| file.qform_only = true),
        ("float64", |file| file.stored = Stored::F64),
        ("float32", |file| file.stored = Stored::F32),
        ("uint16", |file| file.stored = Stored::U16),
    ];
    for (what, change) in changes {
        let (mut p, mut r) = (prediction.clone(), reference.clone());
        change(&mut p);
        assert_eq!(scores([&p, &reference]), plain, "{what} prediction");
        change(&mut r);
        assert_eq!(scores([&prediction, &r]), plain, "{what} reference");
        assert_eq!(scores([&p, &r]), plain, "{what} both");
    }
}

#[test]
fn labels_above_255_are_labels() {
    let small = scores(pair(2).each_ref());
    let mut large = pair(40_000);
    for file in &mut large {
        file.stored = Stored::U16;
    }
    let large = scores(large.each_ref());
    for score in ["scores", "lesions", "tp", "fp", "fn", "tn", "status"] {
        assert_eq!(
            large[0]["labels"][1][score], small[0]["labels"][1][score],
            "{score}"
        );
    }
    assert_eq!(large[0]["labels"][1]["label"], "label_40000");
    assert_eq!(
        large[0]["confusion"]["matrix"],
        small[0]["confusion"]["matrix"]
    );
}
