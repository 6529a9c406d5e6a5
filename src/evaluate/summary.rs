//! From the scores of all cases to the numbers of a set.
//!
//! Every mean says how many values it is made of and how many were left out: a structure that a model
//! missed has no Hausdorff distance, and a mean over the rest would praise the model for it.

use super::case::{CaseScores, Confusion, Status, TargetScores};
use super::lesions::LesionScores;
use super::measure::{Kind, kind_of};
use super::statistics::{Distribution, mean};
use crate::metrics::pair_counts::Counts;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What happens to scores that have no number when cases are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// They are left out, and counted.
    #[default]
    Nan,
    /// A missed or spurious structure counts as the worst there is: 0 for shares, the image diagonal
    /// for distances. Structures that are in neither mask are left out.
    Worst,
    /// Shares count as 0 even where both masks are empty; distances are left out.
    Zero,
}

impl std::str::FromStr for Empty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nan" => Ok(Self::Nan),
            "worst" => Ok(Self::Worst),
            "zero" => Ok(Self::Zero),
            _ => Err(format!("{text:?}: expected nan, worst or zero")),
        }
    }
}

/// How cases are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// What happens to scores without a number.
    pub empty: Empty,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// How many of the worst cases of a label are listed.
    #[serde(default)]
    pub worst: usize,
}

/// One score over all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreSummary {
    /// The numbers; `None` when no case has one.
    #[serde(flatten)]
    pub distribution: Option<Distribution>,
    /// Cases without a number that were left out.
    pub left_out: usize,
}

/// One label or region over all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetSummary {
    /// Name of the label or region; `*` for all of them together.
    pub label: String,
    /// Cases by status.
    pub cases: StatusCounts,
    /// Each score over the cases.
    pub scores: BTreeMap<String, ScoreSummary>,
    /// Dice over the voxels of all cases taken together.
    pub pooled_dice: Option<f64>,
    /// Intersection over union over the voxels of all cases taken together.
    pub pooled_iou: Option<f64>,
    /// The cases with the lowest Dice, lowest first; missed and spurious structures count as 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<WorstCase>,
}

/// One of the worst cases of a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorstCase {
    /// Name of the case.
    pub case: String,
    /// Name of the label or region.
    pub label: String,
    /// Its Dice coefficient, 0 for a missed or spurious structure.
    pub dice: f64,
}

/// How many cases have which [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusCounts {
    /// In both masks.
    pub ok: usize,
    /// In the reference only.
    pub missed: usize,
    /// In the prediction only.
    pub spurious: usize,
    /// In neither.
    pub both_empty: usize,
}

/// A set of cases in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Cases that were scored.
    pub cases: usize,
    /// Groups (patients) that the cases belong to, where they were grouped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// All labels together (`*`), then each.
    pub labels: Vec<TargetSummary>,
    /// Voxels by label over all cases.
    pub confusion: Confusion,
}

/// Gives every case an entry for every label that any case has, in one order: a label that occurs
/// nowhere in a case is `both_empty` there and counted as such.
pub fn complete(cases: &mut [CaseScores]) {
    let Some(first) = cases.first() else { return };
    let mut order: Vec<TargetScores> = first.labels.iter().map(absent).collect();
    let mut seen: BTreeSet<String> = order.iter().map(|target| target.label.clone()).collect();
    for target in cases.iter().flat_map(|case| &case.labels) {
        if seen.insert(target.label.clone()) {
            order.push(absent(target));
        }
    }
    let same = |case: &CaseScores| {
        case.labels
            .iter()
            .map(|target| &target.label)
            .eq(order.iter().map(|target| &target.label))
    };
    if cases.iter().all(same) {
        return;
    }
    // Cases list what occurs in them: the common order must not depend on which case is first.
    order.sort_by(|a, b| (&a.numbers, &a.label).cmp(&(&b.numbers, &b.label)));
    for case in cases {
        let counted: u64 = case.confusion.matrix.iter().flatten().sum();
        let mut known: BTreeMap<String, TargetScores> = case
            .labels
            .drain(..)
            .map(|target| (target.label.clone(), target))
            .collect();
        case.labels = order
            .iter()
            .map(|absent| {
                known.remove(&absent.label).unwrap_or_else(|| TargetScores {
                    tn: counted,
                    ..absent.clone()
                })
            })
            .collect();
    }
}

/// The entry of a case that has no voxel of what `target` scores.
fn absent(target: &TargetScores) -> TargetScores {
    let value = |name: &str| match name {
        "specificity" => Some(1.0),
        "volume_reference_ml" | "volume_prediction_ml" | "volume_difference_ml" => Some(0.0),
        "false_positive_volume_ml" | "false_negative_volume_ml" => Some(0.0),
        _ => None,
    };
    let reason = "reference and prediction are empty";
    let names = target.scores.keys();
    TargetScores {
        label: target.label.clone(),
        numbers: target.numbers.clone(),
        status: Status::BothEmpty,
        tp: 0,
        fp: 0,
        fn_: 0,
        tn: 0,
        scores: names
            .clone()
            .map(|name| (name.clone(), value(name)))
            .collect(),
        undefined: names
            .filter(|name| value(name).is_none())
            .map(|name| (name.clone(), reason.to_owned()))
            .collect(),
        // No lesion and none predicted: the challenges count that as perfect.
        lesions: target.lesions.map(|_| LesionScores {
            tp: 0,
            fp: 0,
            fn_: 0,
            dice: 1.0,
            hd95_mm: 0.0,
        }),
        intensity: None,
    }
}

/// A value as it counts in the summary; `None` also for a score that the target does not have.
pub fn counted_value(
    name: &str,
    target: &TargetScores,
    diagonal_mm: f64,
    empty: Empty,
) -> Option<f64> {
    // What was not computed for this target is not the worst there is.
    let value = *target.scores.get(name)?;
    if value.is_some() || empty == Empty::Nan {
        return value;
    }
    match (empty, kind_of(name)?, target.status) {
        (Empty::Zero, Kind::Share, _) => Some(0.0),
        (Empty::Worst, _, Status::BothEmpty) => None,
        (Empty::Worst, Kind::Share, _) => Some(0.0),
        (Empty::Worst, Kind::Distance, _) => Some(diagonal_mm),
        _ => None,
    }
}

/// Sums up `cases`, which have been made [`complete`] and stand in their final order. `group_of` names
/// the group (patient) of a case: values are averaged within each group first, and groups count alike.
/// Labels and scores in parallel. Cost: [`super::statistics::RESAMPLES`] draws per value.
pub fn summarize(
    cases: &[CaseScores],
    policy: Policy,
    group_of: Option<&(dyn Fn(&str) -> String + Sync)>,
) -> Summary {
    let groups: Option<Vec<String>> =
        group_of.map(|group_of| cases.iter().map(|case| group_of(&case.case)).collect());
    let count = cases.first().map_or(0, |case| case.labels.len());
    // Index `count` stands for all labels together.
    let all = (count > 1).then_some(count);
    let labels = all
        .into_iter()
        .chain(0..count)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|index| {
            let chosen = if index == count { None } else { Some(index) };
            summarize_target(cases, chosen, policy, groups.as_deref())
        })
        .collect();
    Summary {
        cases: cases.len(),
        groups: groups.map(|groups| groups.into_iter().collect::<BTreeSet<_>>().len()),
        labels,
        confusion: total_confusion(cases),
    }
}

fn summarize_target(
    cases: &[CaseScores],
    index: Option<usize>,
    policy: Policy,
    groups: Option<&[String]>,
) -> TargetSummary {
    let chosen = |case: &'_ CaseScores| match index {
        Some(index) => index..index + 1,
        None => 0..case.labels.len(),
    };
    let entries: Vec<(usize, &TargetScores)> = cases
        .iter()
        .enumerate()
        .flat_map(|(number, case)| {
            case.labels[chosen(case)]
                .iter()
                .map(move |target| (number, target))
        })
        .collect();
    let mut counts = Counts::default();
    let mut statuses = StatusCounts::default();
    let mut names = BTreeSet::new();
    for (_, target) in &entries {
        counts.add(&target.counts());
        *(match target.status {
            Status::Ok => &mut statuses.ok,
            Status::Missed => &mut statuses.missed,
            Status::Spurious => &mut statuses.spurious,
            Status::BothEmpty => &mut statuses.both_empty,
        }) += 1;
        names.extend(target.scores.keys());
    }
    let names: Vec<&String> = names.into_iter().collect();
    let scores = names
        .into_par_iter()
        .map(|name| {
            let values: Vec<(usize, Option<f64>)> = entries
                .iter()
                .filter(|(_, target)| target.scores.contains_key(name))
                .map(|&(number, target)| {
                    let diagonal_mm = cases[number].diagonal_mm;
                    (
                        number,
                        counted_value(name, target, diagonal_mm, policy.empty),
                    )
                })
                .collect();
            let left_out = values.iter().filter(|(_, value)| value.is_none()).count();
            let known = values
                .iter()
                .filter_map(|&(number, value)| Some((number, value?)));
            let values: Vec<f64> = match groups {
                None => known.map(|(_, value)| value).collect(),
                Some(groups) => {
                    let mut by_group: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
                    for (number, value) in known {
                        by_group.entry(&groups[number]).or_default().push(value);
                    }
                    by_group.values().map(|values| mean(values)).collect()
                }
            };
            let distribution = Distribution::of(&values, policy.seed);
            (
                name.clone(),
                ScoreSummary {
                    distribution,
                    left_out,
                },
            )
        })
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    let label = match (index, entries.first()) {
        (Some(_), Some((_, target))) => target.label.clone(),
        _ => "*".to_owned(),
    };
    TargetSummary {
        label,
        cases: statuses,
        scores,
        pooled_dice: counts.dice(),
        pooled_iou: counts.iou(),
        worst: worst_cases(cases, &entries, policy.worst),
    }
}

/// The `count` entries with the lowest Dice, lowest first, equal ones in the order of their cases.
fn worst_cases(
    cases: &[CaseScores],
    entries: &[(usize, &TargetScores)],
    count: usize,
) -> Vec<WorstCase> {
    let mut listed: Vec<WorstCase> = entries
        .iter()
        .filter_map(|&(number, target)| {
            let case = &cases[number];
            Some(WorstCase {
                case: case.case.clone(),
                label: target.label.clone(),
                dice: counted_value("dice", target, case.diagonal_mm, Empty::Worst)?,
            })
        })
        .collect();
    listed.sort_by(|a, b| a.dice.total_cmp(&b.dice));
    listed.truncate(count);
    listed
}

fn total_confusion(cases: &[CaseScores]) -> Confusion {
    let mut total: BTreeMap<(u16, u16), u64> = BTreeMap::new();
    for confusion in cases.iter().map(|case| &case.confusion) {
        for (&reference, row) in confusion.labels.iter().zip(&confusion.matrix) {
            for (&prediction, &voxels) in confusion.labels.iter().zip(row) {
                *total.entry((reference, prediction)).or_default() += voxels;
            }
        }
    }
    let labels: Vec<u16> = total
        .keys()
        .map(|&(label, _)| label)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let matrix = labels
        .iter()
        .map(|&r| {
            labels
                .iter()
                .map(|&p| total.get(&(r, p)).copied().unwrap_or(0))
                .collect()
        })
        .collect();
    Confusion { labels, matrix }
}
