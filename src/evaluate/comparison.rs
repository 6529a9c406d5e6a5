//! Several evaluations of the same cases against each other: paired differences, tests, ranking.
//!
//! [`Comparison`] is the document; `docs/evaluate.md` describes it.

use super::case::CaseScores;
use super::markdown::cell;
use super::measure::{Kind, kind_of};
use super::results::Results;
use super::statistics::{Random, SignedRank, bootstrap_mean_ci95, holm, mean, wilcoxon};
use super::summary::{Empty, counted_value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Resamples of the ranking.
const RANKINGS: usize = 1000;

/// Value of the field `schema`.
pub const SCHEMA: &str = "medseg-comparison";

/// Version of the format.
pub const VERSION: u32 = 1;

/// Several evaluations against each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of medseg that compared.
    pub medseg: String,
    /// Surface distances of all evaluations.
    pub definition: String,
    /// Seed of all resampling.
    pub seed: u64,
    /// Names of the evaluations, in the order given.
    pub evaluations: Vec<String>,
    /// Cases that all evaluations have.
    pub common_cases: usize,
    /// Cases that some evaluation lacks.
    pub left_out_cases: Vec<String>,
    /// Labels that some evaluation lacks.
    pub left_out_labels: Vec<String>,
    /// Every two evaluations, in every score.
    pub pairs: Vec<PairOfEvaluations>,
    /// Every score.
    pub rankings: Vec<Ranking>,
}

/// Two evaluations in one score, label by label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairOfEvaluations {
    /// Name of the first.
    pub first: String,
    /// Name of the second; differences are second minus first.
    pub second: String,
    /// Name of the score.
    pub score: String,
    /// One entry per label.
    pub labels: Vec<Paired>,
}

/// The order of all evaluations in one score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// Name of the score.
    pub score: String,
    /// One entry per evaluation, in the order given.
    pub ranks: Vec<Rank>,
}

/// Evaluations that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComparisonError {
    /// One alone.
    #[error("one evaluation cannot be compared with itself: name two or more results files")]
    TooFew,
    /// Two of one name.
    #[error("{0:?} is named twice")]
    Twice(String),
    /// Other surface distances.
    #[error("{name:?} has surface distances as {found} defines them, {first:?} as {expected}")]
    Definition {
        /// The evaluation that differs.
        name: String,
        /// Its definition.
        found: String,
        /// The first evaluation.
        first: String,
        /// Its definition.
        expected: String,
    },
    /// Nothing in common.
    #[error("no case has {score} in all evaluations")]
    Nothing {
        /// Name of the score.
        score: String,
    },
}

impl Comparison {
    /// Compares `evaluations` (name and results) in `scores`, given by their full names
    /// ([`super::measure::full_name`]). Cases and labels that an evaluation lacks are listed and left out.
    ///
    /// # Errors
    /// [`ComparisonError`].
    pub fn new(
        evaluations: &[(String, Results)],
        scores: &[String],
        seed: u64,
    ) -> Result<Self, ComparisonError> {
        let [(first_name, first), rest @ ..] = evaluations else {
            return Err(ComparisonError::TooFew);
        };
        if rest.is_empty() {
            return Err(ComparisonError::TooFew);
        }
        let definition = &first.settings.definition;
        for (index, (name, results)) in evaluations.iter().enumerate() {
            if evaluations[..index].iter().any(|(known, _)| known == name) {
                return Err(ComparisonError::Twice(name.clone()));
            }
            if results.settings.definition != *definition {
                return Err(ComparisonError::Definition {
                    name: name.clone(),
                    found: results.settings.definition.clone(),
                    first: first_name.clone(),
                    expected: definition.clone(),
                });
            }
        }
        let (common, left_out_cases) = in_all(evaluations, |results| {
            results.cases.iter().map(|case| &case.case).collect()
        });
        let (_, left_out_labels) = in_all(evaluations, |results| {
            let targets = results.cases.iter().flat_map(|case| &case.labels);
            targets.map(|target| &target.label).collect()
        });
        let cases: Vec<&[CaseScores]> = evaluations
            .iter()
            .map(|(_, results)| results.cases.as_slice())
            .collect();
        let mut comparison = Self {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            medseg: env!("CARGO_PKG_VERSION").to_owned(),
            definition: definition.clone(),
            seed,
            evaluations: evaluations.iter().map(|(name, _)| name.clone()).collect(),
            common_cases: common.len(),
            left_out_cases,
            left_out_labels,
            pairs: Vec::new(),
            rankings: Vec::new(),
        };
        for score in scores {
            let ranks = rank(&cases, score, seed);
            if ranks.is_empty() {
                return Err(ComparisonError::Nothing {
                    score: score.clone(),
                });
            }
            comparison.rankings.push(Ranking {
                score: score.clone(),
                ranks,
            });
            for (index, (second, _)) in evaluations.iter().enumerate() {
                for (earlier, (first, _)) in evaluations[..index].iter().enumerate() {
                    comparison.pairs.push(PairOfEvaluations {
                        first: first.clone(),
                        second: second.clone(),
                        score: score.clone(),
                        labels: paired(cases[earlier], cases[index], score, seed),
                    });
                }
            }
        }
        Ok(comparison)
    }

    /// Tables for people, in GitHub's Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{} common cases", self.common_cases);
        for (what, names) in [
            ("cases", &self.left_out_cases),
            ("labels", &self.left_out_labels),
        ] {
            if !names.is_empty() {
                let _ = write!(text, "; not in all, left out: {what} {}", names.join(", "));
            }
        }
        text.push('\n');
        for ranking in &self.rankings {
            let _ = writeln!(
                text,
                "\n| {} | mean | rank of the mean | mean rank | first place |\n|---|---|---|---|---|",
                ranking.score
            );
            for (name, rank) in self.evaluations.iter().zip(&ranking.ranks) {
                let first = rank.place_frequency.first().copied().unwrap_or(0.0);
                let _ = writeln!(
                    text,
                    "| {} | {:.4} | {} | {:.2} | {:.0} % |",
                    cell(name),
                    rank.mean,
                    rank.aggregate_then_rank,
                    rank.rank_then_aggregate,
                    100.0 * first
                );
            }
        }
        for pair in &self.pairs {
            let _ = writeln!(
                text,
                "\n| {}: {} minus {} | n | mean difference (95 %) | better, equal, worse | p | p (Holm) |\n|---|---|---|---|---|---|",
                pair.score,
                cell(&pair.second),
                cell(&pair.first)
            );
            for row in &pair.labels {
                let p = |value: Option<f64>| value.map_or("-".to_owned(), |p| format!("{p:.2e}"));
                let [low, high] = row.ci95;
                let _ = writeln!(
                    text,
                    "| {} | {} | {:+.4} ({low:+.4} to {high:+.4}) | {}, {}, {} | {} | {} |",
                    cell(&row.label),
                    row.n,
                    row.mean_difference,
                    row.wins,
                    row.ties,
                    row.losses,
                    p(row.test.map(|test| test.p)),
                    p(row.p_holm)
                );
            }
        }
        text
    }
}

/// What all evaluations have, and what only some have; both sorted.
fn in_all(
    evaluations: &[(String, Results)],
    names: impl Fn(&Results) -> BTreeSet<&String>,
) -> (Vec<String>, Vec<String>) {
    let sets: Vec<BTreeSet<&String>> = evaluations
        .iter()
        .map(|(_, results)| names(results))
        .collect();
    let all: BTreeSet<&String> = sets.iter().flatten().copied().collect();
    all.into_iter()
        .cloned()
        .partition(|name| sets.iter().all(|set| set.contains(name)))
}

/// Two evaluations compared in one score of one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Name of the label or region.
    pub label: String,
    /// Name of the score.
    pub score: String,
    /// Cases in which both have a number.
    pub n: usize,
    /// Mean of second minus first.
    pub mean_difference: f64,
    /// 95 % bootstrap interval of the mean difference.
    pub ci95: [f64; 2],
    /// Cases in which the second is better.
    pub wins: usize,
    /// Cases in which both are equal.
    pub ties: usize,
    /// Cases in which the first is better.
    pub losses: usize,
    /// Wilcoxon signed-rank test; `None` when no case differs.
    pub test: Option<SignedRank>,
    /// The p value after Holm's correction over all labels of this score.
    pub p_holm: Option<f64>,
}

/// Compares two evaluations of the same cases in one score, label by label. Missed and spurious
/// structures count as the worst score. Labels that both have no number for are left out.
pub fn paired(first: &[CaseScores], second: &[CaseScores], score: &str, seed: u64) -> Vec<Paired> {
    let values = [values_of(first, score), values_of(second, score)];
    let labels = first
        .iter()
        .flat_map(|case| &case.labels)
        .map(|target| &target.label);
    let mut rows: Vec<Paired> = Vec::new();
    for label in labels {
        if rows.iter().any(|row| row.label == *label) {
            continue;
        }
        let differences: Vec<f64> = values[0]
            .iter()
            .filter(|((known, _), _)| known == label)
            .filter_map(|(key, first)| Some(values[1].get(key)? - first))
            .collect();
        if differences.is_empty() {
            continue;
        }
        let better = if less_is_better(score) { -1.0 } else { 1.0 };
        let count =
            |keep: fn(f64) -> bool| differences.iter().filter(|&&d| keep(d * better)).count();
        rows.push(Paired {
            label: label.clone(),
            score: score.to_owned(),
            n: differences.len(),
            mean_difference: mean(&differences),
            ci95: bootstrap_mean_ci95(&differences, seed),
            wins: count(|d| d > 0.0),
            ties: count(|d| d == 0.0),
            losses: count(|d| d < 0.0),
            test: wilcoxon(&differences),
            p_holm: None,
        });
    }
    let p_values: Vec<f64> = rows.iter().filter_map(|row| Some(row.test?.p)).collect();
    let tested = rows.iter_mut().filter(|row| row.test.is_some());
    for (row, p) in tested.zip(holm(&p_values)) {
        row.p_holm = Some(p);
    }
    rows
}

/// Score by label and case.
fn values_of<'a>(cases: &'a [CaseScores], score: &str) -> BTreeMap<(&'a str, &'a str), f64> {
    cases
        .iter()
        .flat_map(|case| case.labels.iter().map(move |target| (case, target)))
        .filter_map(|(case, target)| {
            let value = counted_value(score, target, case.diagonal_mm, Empty::Worst)?;
            Some(((target.label.as_str(), case.case.as_str()), value))
        })
        .collect()
}

fn less_is_better(score: &str) -> bool {
    matches!(kind_of(score), Some(Kind::Distance | Kind::Errors))
}

/// Where an evaluation stands among several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// Index of the evaluation.
    pub index: usize,
    /// Mean score over the common cases and labels.
    pub mean: f64,
    /// Rank of the mean, 1 is best; equal means share their mean rank.
    pub aggregate_then_rank: f64,
    /// Mean of the ranks in every case and label.
    pub rank_then_aggregate: f64,
    /// How often it takes each place when the cases are drawn anew, best first; adds up to 1.
    pub place_frequency: Vec<f64>,
}

/// Ranks evaluations by one score over the cases and labels that all of them have a number for.
pub fn rank(evaluations: &[&[CaseScores]], score: &str, seed: u64) -> Vec<Rank> {
    let values: Vec<_> = evaluations
        .iter()
        .map(|cases| values_of(cases, score))
        .collect();
    let sign = if less_is_better(score) { 1.0 } else { -1.0 };
    // Rows of the cases, so that a resample draws all labels of a case together.
    let mut by_case: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    for key in values.first().into_iter().flat_map(BTreeMap::keys) {
        let row: Option<Vec<f64>> = values.iter().map(|known| known.get(key).copied()).collect();
        if let Some(row) = row {
            by_case.entry(key.1).or_default().push(row);
        }
    }
    let cases: Vec<Vec<Vec<f64>>> = by_case.into_values().collect();
    let rows: Vec<&Vec<f64>> = cases.iter().flatten().collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let means = |rows: &[&Vec<f64>]| -> Vec<f64> {
        (0..values.len())
            .map(|index| rows.iter().map(|row| row[index]).sum::<f64>() / rows.len() as f64)
            .collect()
    };
    let total = means(&rows);
    let places = ranks(&total, sign);
    let mut mean_rank = vec![0.0; values.len()];
    for row in &rows {
        for (sum, rank) in mean_rank.iter_mut().zip(ranks(row, sign)) {
            *sum += rank / rows.len() as f64;
        }
    }
    let mut random = Random::new(seed);
    let mut frequency = vec![vec![0.0; values.len()]; values.len()];
    for _ in 0..RANKINGS {
        let drawn: Vec<&Vec<f64>> = (0..cases.len())
            .flat_map(|_| &cases[random.below(cases.len())])
            .collect();
        for (places, rank) in frequency.iter_mut().zip(ranks(&means(&drawn), sign)) {
            // A shared rank lies between two places and counts half for each.
            let (low, high) = (rank.floor() as usize - 1, rank.ceil() as usize - 1);
            places[low] += 0.5 / RANKINGS as f64;
            places[high] += 0.5 / RANKINGS as f64;
        }
    }
    (0..values.len())
        .map(|index| Rank {
            index,
            mean: total[index],
            aggregate_then_rank: places[index],
            rank_then_aggregate: mean_rank[index],
            place_frequency: frequency[index].clone(),
        })
        .collect()
}

/// Ranks from 1 of `values * sign`, ascending; equal values share their mean rank.
fn ranks(values: &[f64], sign: f64) -> Vec<f64> {
    values
        .iter()
        .map(|value| {
            let better = values
                .iter()
                .filter(|&&other| other * sign < value * sign)
                .count();
            let equal = values.iter().filter(|&other| other == value).count();
            better as f64 + (equal as f64 + 1.0) / 2.0
        })
        .collect()
}
