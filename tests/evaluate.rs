//! Evaluations as a whole: documents, merging of shards, baselines, summaries, comparison of models.

use medseg::evaluate::baseline::{Tolerances, compare};
use medseg::evaluate::case::{CaseScores, Options, score_case};
use medseg::evaluate::comparison::{paired, rank};
use medseg::evaluate::gate::Gate;
use medseg::evaluate::results::{Failure, FailureKind, Results, Settings};
use medseg::evaluate::summary::Empty;
use medseg::evaluate::{csv, junit, markdown, nnunet_summary};
use medseg::volume::{Grid, Volume};
use ndarray::Array3;

/// A box of label 1 (and of 2 where `second`), moved by `shift` in the prediction.
fn case(name: &str, shift: usize, second: bool) -> CaseScores {
    let grid = Grid::with_spacing([8, 12, 12], [2.0, 1.0, 1.0]);
    let label = |z: usize, y: usize, x: usize, shift: usize| {
        let inside = (2..5).contains(&z) && (2..7).contains(&y);
        match x {
            _ if !inside => 0,
            x if (2 + shift..6 + shift).contains(&x) => 1,
            11 if second => 2,
            _ => 0,
        }
    };
    let volume = |shift: usize| {
        let data = Array3::from_shape_fn(grid.shape, |(z, y, x)| label(z, y, x, shift));
        Volume::new(data, grid).unwrap()
    };
    score_case(name, &volume(shift), &volume(0), &Options::default()).unwrap()
}

fn settings(shard: Option<[usize; 2]>) -> Settings {
    Settings {
        definition: "medseg".to_owned(),
        nsd_tolerances_mm: vec![1.0, 2.0, 3.0],
        grid_tolerance_mm: 1e-3,
        shard,
        ..Settings::default()
    }
}

fn cases() -> Vec<CaseScores> {
    (0..6)
        .map(|n| case(&format!("case_{n}"), n % 3, n == 4))
        .collect()
}

fn failure() -> Failure {
    Failure {
        case: "broken".to_owned(),
        kind: FailureKind::Unreadable,
        reason: "broken.nii.gz: <cut> & gone".to_owned(),
    }
}

fn results() -> Results {
    Results::new(settings(None), cases(), vec![failure()], None)
}

#[test]
fn a_document_comes_back_as_it_was() {
    let results = results();
    let text = results.to_json().unwrap();
    assert_eq!(Results::from_json(&text).unwrap(), results);
    assert!(!String::from_utf8(text.clone()).unwrap().contains("NaN"));
    let other = String::from_utf8(text)
        .unwrap()
        .replace("\"version\": 1", "\"version\": 9");
    assert!(
        Results::from_json(other.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("version 9")
    );
    assert!(Results::from_json(b"{}").is_err());
}

#[test]
fn a_label_of_one_case_is_absent_in_the_others_and_counted() {
    let results = results();
    let names: Vec<&str> = results
        .summary
        .labels
        .iter()
        .map(|t| t.label.as_str())
        .collect();
    assert_eq!(names, ["*", "label_1", "label_2"]);
    let second = &results.summary.labels[2];
    assert_eq!((second.cases.ok, second.cases.both_empty), (1, 5));
    let dice = &second.scores["dice"];
    assert_eq!((dice.distribution.unwrap().n, dice.left_out), (1, 5));
    let absent = &results.cases[0].labels[1];
    assert_eq!(absent.scores["dice"], None);
    assert!(absent.undefined["hd95_mm"].contains("empty"));
    assert_eq!(absent.tn, 8 * 12 * 12);
}

#[test]
fn the_worst_cases_are_listed() {
    let mut settings = settings(None);
    settings.policy.worst = 3;
    let results = Results::new(settings, cases(), Vec::new(), None);
    let worst = |label: usize| -> Vec<(&str, &str)> {
        let listed = &results.summary.labels[label].worst;
        let names = listed.iter().map(|entry| (&*entry.case, &*entry.label));
        names.collect()
    };
    // Shifted by 2, 2 and 1 voxels; label 2 occurs in one case only.
    let first = [
        ("case_2", "label_1"),
        ("case_5", "label_1"),
        ("case_1", "label_1"),
    ];
    assert_eq!(worst(0), first);
    assert_eq!(worst(1), first);
    assert_eq!(worst(2), [("case_4", "label_2")]);
    assert_eq!(results.summary.labels[0].worst[0].dice, 0.5);
    assert!(markdown::document(&results).contains("Worst Dice: case_2 label_1 0.500, "));
}

#[test]
fn shards_make_the_document_of_a_single_run() {
    let all = cases();
    let part = |index: usize| {
        let chosen = all.iter().skip(index - 1).step_by(3).cloned().collect();
        let failures = if index == 2 {
            vec![failure()]
        } else {
            Vec::new()
        };
        Results::new(settings(Some([index, 3])), chosen, failures, None)
    };
    let merged = Results::merge(vec![part(3), part(1), part(2)], None).unwrap();
    assert_eq!(merged.to_json().unwrap(), results().to_json().unwrap());
    let refused = |parts: Vec<Results>| Results::merge(parts, None).unwrap_err().to_string();
    assert!(refused(vec![part(1), part(3)]).contains("missing: 2"));
    assert!(refused(vec![part(1), part(2), part(2), part(3)]).contains("more than once: 2"));
    assert!(refused(vec![results()]).contains("without a shard number"));
    let mut other = part(2);
    other.settings.definition = "monai".to_owned();
    assert!(refused(vec![part(1), other, part(3)]).contains("different settings"));
}

#[test]
fn missing_structures_count_as_the_policy_says() {
    let grid = Grid::with_spacing([4, 4, 4], [3.0, 1.0, 1.0]);
    let mut reference = Volume::filled(0_u16, grid);
    reference.data_mut()[[1, 1, 1]] = 1;
    let missed = score_case(
        "a",
        &Volume::filled(0, grid),
        &reference,
        &Options::default(),
    )
    .unwrap();
    let with = |empty: Empty| {
        let mut settings = settings(None);
        settings.policy.empty = empty;
        let results = Results::new(settings, vec![missed.clone()], Vec::new(), None);
        let scores = &results.summary.labels[0].scores;
        ["dice", "hd95_mm", "precision"].map(|name| scores[name].distribution.map(|d| d.mean))
    };
    let diagonal_mm = (144.0_f64 + 16.0 + 16.0).sqrt();
    assert_eq!(with(Empty::Nan), [Some(0.0), None, None]);
    assert_eq!(
        with(Empty::Worst),
        [Some(0.0), Some(diagonal_mm), Some(0.0)]
    );
    assert_eq!(with(Empty::Zero), [Some(0.0), None, Some(0.0)]);
}

#[test]
fn groups_count_alike() {
    let group = |case: &str| if case == "case_0" { "a" } else { "b" }.to_owned();
    let cases: Vec<CaseScores> = ["case_0", "case_1", "case_2"]
        .into_iter()
        .map(|name| case(name, usize::from(name != "case_0"), false))
        .collect();
    let results = Results::new(settings(None), cases, Vec::new(), Some(&group));
    let dice = results.summary.labels[0].scores["dice"]
        .distribution
        .unwrap();
    assert_eq!(
        (results.summary.groups, dice.n, dice.mean),
        (Some(2), 2, (1.0 + 0.75) / 2.0)
    );
}

#[test]
fn a_worse_case_is_a_regression_and_a_lost_one_too() {
    let before = cases();
    let mut now = before.clone();
    now.remove(5);
    now[0] = case("case_0", 1, false);
    let tolerances = Tolerances::parse(&["dice=0.1", "hd95=0.5mm"]).unwrap();
    let found = compare(&now, &before, &tolerances);
    let worse: Vec<&str> = found.regressions.iter().map(|r| r.score.as_str()).collect();
    assert_eq!(worse, ["dice", "hd95_mm"]);
    assert_eq!(found.lost_cases, ["case_5"]);
    assert!(!found.holds());
    assert!(compare(&before, &before, &tolerances).holds());
    assert!(Tolerances::parse(&["bice=1"]).is_err());
}

#[test]
fn models_are_compared_and_ranked() {
    let good: Vec<CaseScores> = (0..8).map(|n| case(&format!("{n}"), 0, false)).collect();
    let bad: Vec<CaseScores> = (0..8)
        .map(|n| case(&format!("{n}"), 1 + n % 2, false))
        .collect();
    let rows = paired(&good, &bad, "dice", 0);
    assert_eq!((rows[0].n, rows[0].losses, rows[0].wins), (8, 8, 0));
    assert!(rows[0].mean_difference < -0.2 && rows[0].test.unwrap().p < 0.01);
    assert_eq!(rows[0].p_holm, rows[0].test.map(|test| test.p));
    let places = rank(&[&bad, &good], "hd95_mm", 0);
    assert_eq!(
        (places[0].aggregate_then_rank, places[1].aggregate_then_rank),
        (2.0, 1.0)
    );
    assert!((places[1].place_frequency[0] - 1.0).abs() < 1e-9);
}

#[test]
fn other_documents_hold_the_same_numbers() {
    let mut results = results();
    let gate = Gate::parse("label_1.dice>=0.9").unwrap();
    results
        .checks
        .push(gate.check(&results.summary, 1).unwrap());
    let tables = csv::cases(&results);
    assert_eq!(tables.lines().count(), 1 + 6 * 2);
    assert!(tables.starts_with("case,label,status,tp,fp,fn,tn,dice,iou"));
    assert!(
        csv::slices(&results)
            .lines()
            .any(|line| line == "case_0,2,label_1,20,20,20,1,1")
    );
    let xml = junit::document(&results);
    assert!(xml.contains("failures=\"1\" errors=\"1\""), "{xml}");
    assert!(xml.contains("broken.nii.gz: &lt;cut&gt; &amp; gone"));
    assert!(markdown::document(&results).contains("**failed**: label_1 dice mean"));
    let summary = nnunet_summary::document(&results, "/p", "/r");
    let strict = summary.replace("NaN", "null");
    let value: serde_json::Value = serde_json::from_str(&strict).unwrap();
    assert_eq!(value["metric_per_case"].as_array().unwrap().len(), 6);
    assert_eq!(value["metric_per_case"][0]["metrics"]["1"]["Dice"], 1.0);
    assert_eq!(value["metric_per_case"][0]["metrics"]["1"]["n_ref"], 60);
    assert_eq!(value["mean"]["1"]["Dice"], (1.0 + 0.75 + 0.5) / 3.0);
}
