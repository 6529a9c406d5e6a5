//! The results documents of a report, and whether they belong together.

use super::Language;
use crate::evaluate::baseline::Regressions;
use crate::evaluate::measure::{Kind, MEASURES, kind_of};
use crate::evaluate::results::{FailureKind, Results};
use std::collections::BTreeSet;

/// One evaluated model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name in all tables; different for every model of a report.
    pub name: String,
    /// SHA-256 of the results file, in hexadecimal.
    pub sha256: String,
    /// The results.
    pub results: Results,
}

/// Why results cannot make a report.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceError {
    /// No document at all.
    #[error("no results file: name at least one that medseg evaluate wrote")]
    None,
    /// A document in which nothing was scored.
    #[error("{model}: no case was scored{reasons}; score again before reporting")]
    NoCases {
        /// Name of the model.
        model: String,
        /// The first failures, if any.
        reasons: String,
    },
    /// Scores that mean different things.
    #[error(
        "{first} and {second} cannot be compared: {what} is {a} in one and {b} in the other; \
         score both with the same settings"
    )]
    Mixed {
        /// Name of the first model.
        first: String,
        /// Name of the other.
        second: String,
        /// The setting that differs.
        what: &'static str,
        /// Its value in the first.
        a: String,
        /// Its value in the other.
        b: String,
    },
    /// Nothing that two models both have.
    #[error(
        "{first} and {second} have no case and label in common: nothing to compare; the cases of \
         one are {a}, of the other {b}"
    )]
    NothingInCommon {
        /// Name of the first model.
        first: String,
        /// Name of the other.
        second: String,
        /// Some cases of the first.
        a: String,
        /// Some cases of the other.
        b: String,
    },
}

/// Checks that the models can stand in one report: each has a case, all surface distances are of one
/// definition, scores without a number count alike, and every model shares a case and label with the
/// first.
///
/// # Errors
/// [`SourceError`], naming the models and what differs.
pub fn check(models: &[Model]) -> Result<(), SourceError> {
    let first = models.first().ok_or(SourceError::None)?;
    for model in models {
        if model.results.cases.is_empty() {
            let failures = &model.results.failures;
            let reasons: Vec<&str> = failures.iter().take(3).map(|f| f.reason.as_str()).collect();
            return Err(SourceError::NoCases {
                model: model.name.clone(),
                reasons: if reasons.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", reasons.join("; "))
                },
            });
        }
    }
    for model in models.iter().skip(1) {
        for ((what, a), (_, b)) in meaning(first).into_iter().zip(meaning(model)) {
            if a != b {
                return Err(SourceError::Mixed {
                    first: first.name.clone(),
                    second: model.name.clone(),
                    what,
                    a,
                    b,
                });
            }
        }
        let known = entries(first);
        if entries(model).is_disjoint(&known) {
            let some = |model: &Model| {
                let cases = model.results.cases.iter();
                cases
                    .take(3)
                    .map(|case| case.case.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return Err(SourceError::NothingInCommon {
                first: first.name.clone(),
                second: model.name.clone(),
                a: some(first),
                b: some(model),
            });
        }
    }
    Ok(())
}

/// The settings that decide what a number means.
fn meaning(model: &Model) -> [(&'static str, String); 5] {
    let settings = &model.results.settings;
    let empty = format!("{:?}", settings.policy.empty).to_lowercase();
    let lesions = settings.lesions.map(|rules| format!("{rules:?}"));
    let window = settings.window.as_ref().map(|window| format!("{window:?}"));
    [
        (
            "the window of intensities that count",
            window.unwrap_or_else(|| "none".to_owned()),
        ),
        (
            "the definition of surface distances",
            settings.definition.clone(),
        ),
        ("the rule for scores without a number (--empty)", empty),
        (
            "the grouping of cases",
            settings
                .group_by
                .clone()
                .unwrap_or_else(|| "none".to_owned()),
        ),
        (
            "the rule set for lesions",
            lesions.unwrap_or_else(|| "none".to_owned()),
        ),
    ]
}

fn entries(model: &Model) -> BTreeSet<(&str, &str)> {
    let cases = model.results.cases.iter();
    cases
        .flat_map(|case| {
            case.labels
                .iter()
                .map(move |target| (case.case.as_str(), target.label.as_str()))
        })
        .collect()
}

/// Every score that any case of any model has, in the order of tables.
pub fn score_names(models: &[Model]) -> Vec<String> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for case in models.iter().flat_map(|model| &model.results.cases) {
        for target in &case.labels {
            names.extend(target.scores.keys().map(String::as_str));
        }
    }
    let place = |name: &str| {
        let known = MEASURES.iter().position(|(known, _, _)| *known == name);
        let tolerance = name
            .strip_prefix("nsd@")
            .and_then(|mm| mm.parse::<f64>().ok());
        match (known, tolerance) {
            // Overlap first, then surfaces by tolerance, then distances and the rest.
            (Some(index), _) if kind_of(name) == Some(Kind::Share) => (0, index as f64),
            (_, Some(mm)) => (1, mm),
            (Some(index), _) => (2, index as f64),
            (None, None) => (3, 0.0),
        }
    };
    let mut sorted: Vec<String> = names.into_iter().map(str::to_owned).collect();
    sorted.sort_by(|a, b| {
        let ((group_a, rank_a), (group_b, rank_b)) = (place(a), place(b));
        group_a
            .cmp(&group_b)
            .then(rank_a.total_cmp(&rank_b))
            .then(a.cmp(b))
    });
    sorted
}

/// The scores of overviews: Dice, IoU, up to three surface shares, two distances.
pub fn headline_scores(models: &[Model]) -> Vec<String> {
    let names = score_names(models);
    let shares = names.iter().filter(|name| name.starts_with("nsd@")).take(3);
    let chosen: Vec<&String> = shares.collect();
    let fixed = ["dice", "iou", "hd95_mm", "assd_mm"];
    names
        .iter()
        .filter(|name| fixed.contains(&name.as_str()) || chosen.contains(name))
        .cloned()
        .collect()
}

/// Labels of all models in the order of the first, without "all together".
pub fn label_names(models: &[Model]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for case in models
        .iter()
        .filter_map(|model| model.results.cases.first())
    {
        for target in &case.labels {
            if !names.contains(&target.label) {
                names.push(target.label.clone());
            }
        }
    }
    names
}

/// Name of a label number: that of the single label that scores it, else `label_<number>`.
pub fn number_name(model: &Model, number: u16) -> String {
    if number == 0 {
        return "background".to_owned();
    }
    let targets = model
        .results
        .cases
        .first()
        .map_or(&[][..], |case| &case.labels);
    targets
        .iter()
        .find(|target| target.numbers == [number])
        .map_or_else(|| format!("label_{number}"), |target| target.label.clone())
}

/// Whether all checks and baselines of a model hold; `None` when there are none.
pub fn verdict(model: &Model) -> Option<bool> {
    let results = &model.results;
    let baseline = results.baseline.as_ref();
    if results.checks.is_empty() && baseline.is_none() {
        return None;
    }
    let held = results.checks.iter().all(|check| check.holds);
    Some(held && baseline.is_none_or(Regressions::holds))
}

/// Name of a kind as the results document has it, and the remedy.
pub fn failure_kind(kind: FailureKind) -> (&'static str, &'static str) {
    match kind {
        FailureKind::MissingPrediction => (
            "missing_prediction",
            "segment the case again, or take its reference out of the set",
        ),
        FailureKind::MissingReference => (
            "missing_reference",
            "add the reference, or take the prediction out of the set",
        ),
        FailureKind::Ambiguous => ("ambiguous", "keep one file of this name in each folder"),
        FailureKind::Unreadable => ("unreadable", "write or copy the file again"),
        FailureKind::Geometry => (
            "geometry",
            "write the prediction on the grid of the reference",
        ),
        FailureKind::Memory => ("memory", "give more memory with --memory-limit"),
    }
}

/// What a model was scored with, by name; the same names for every model.
pub fn settings(language: Language, model: &Model) -> Vec<(&'static str, String)> {
    let word = |text| language.word(text);
    let none = || word("none").to_owned();
    let results = &model.results;
    let settings = &results.settings;
    let list = |values: &[f64]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value}")).collect();
        values.join(", ")
    };
    let tolerances = settings.nsd_tolerances_of_mm.iter();
    let own = tolerances.map(|(label, values)| format!("{label}: {}", list(values)));
    let tolerances: Vec<String> = [list(&settings.nsd_tolerances_mm)]
        .into_iter()
        .chain(own)
        .collect();
    let targets: Vec<String> = settings
        .targets
        .iter()
        .map(|target| serde_json::to_string(target).unwrap_or_default())
        .collect();
    let mapped: Vec<String> = settings
        .mapped
        .iter()
        .map(|(from, to)| format!("{from}={to}"))
        .collect();
    vec![
        (word("scored by medseg"), results.medseg.clone()),
        (word("results file SHA-256"), model.sha256.clone()),
        (word("cases scored"), results.cases.len().to_string()),
        (word("cases not scored"), results.failures.len().to_string()),
        (
            word("definition of surface distances"),
            settings.definition.clone(),
        ),
        (word("NSD tolerances (mm)"), tolerances.join("; ")),
        (
            word("scores without a number"),
            format!("{:?}", settings.policy.empty).to_lowercase(),
        ),
        (
            word("seed of the bootstrap"),
            settings.policy.seed.to_string(),
        ),
        (
            word("labels and regions"),
            if targets.is_empty() {
                word("all that occur").to_owned()
            } else {
                targets.join(", ")
            },
        ),
        (
            word("renumbered labels"),
            if mapped.is_empty() {
                none()
            } else {
                mapped.join(", ")
            },
        ),
        (
            word("ignored label"),
            settings
                .ignore_label
                .map_or_else(none, |label| label.to_string()),
        ),
        (
            word("grid tolerance (mm)"),
            format!("{}", settings.grid_tolerance_mm),
        ),
        (
            word("lesion rules"),
            settings.lesions.map_or_else(none, |rules| {
                serde_json::to_string(&rules).unwrap_or_default()
            }),
        ),
        (
            word("scored as tubes"),
            if settings.tubes.is_empty() {
                none()
            } else {
                settings.tubes.join(", ")
            },
        ),
        (
            word("intensities that count"),
            settings.window.as_ref().map_or_else(none, |window| {
                serde_json::to_string(window).unwrap_or_default()
            }),
        ),
        (
            word("resampled cases"),
            results
                .cases
                .iter()
                .filter(|case| case.resampled)
                .count()
                .to_string(),
        ),
        (
            word("grouped by"),
            settings.group_by.clone().unwrap_or_else(none),
        ),
        (
            word("shard"),
            settings
                .shard
                .map_or_else(none, |[index, count]| format!("{index}/{count}")),
        ),
    ]
}
