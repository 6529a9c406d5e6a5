//! Checks that a set of scores must pass: `[label.]score[.statistic] op value`.
//!
//! `dice=0.85`, `liver.dice.min>=0.7`, `hd95.median<=5`, `missed=0`. The number, the verdict and the
//! sentence come from one evaluation and cannot contradict each other. A score that no case has does
//! not pass.

use super::measure::{Kind, full_name, kind_of};
use super::summary::{Summary, TargetSummary};
use serde::{Deserialize, Serialize};

/// A check, read by [`parse`](Self::parse).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// The check as written.
    pub expression: String,
    label: Option<String>,
    quantity: Quantity,
    comparison: Comparison,
    threshold: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Quantity {
    Score { name: String, statistic: String },
    Count(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Comparison {
    Less,
    AtMost,
    AtLeast,
    More,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The check as written.
    pub expression: String,
    /// Whether it holds.
    pub holds: bool,
    /// What was found; `None` when no case has a number.
    pub value: Option<f64>,
    /// The finding in a sentence.
    pub text: String,
}

/// A check that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// No comparison, or a number that is none.
    #[error("check {0:?}: expected [LABEL.]SCORE[.STATISTIC] and one of = < <= >= > and a number")]
    Form(String),
    /// An unknown score.
    #[error(
        "check {expression:?}: unknown score {score:?}, expected dice, iou, precision, recall, specificity, hd, hd95, assd, masd, nsd@MM, centroid_distance, volume_difference, relative_volume_difference, missed, spurious, both_empty, cases or failed"
    )]
    Score {
        /// The check.
        expression: String,
        /// What was found.
        score: String,
    },
    /// A label that was not scored.
    #[error("check {expression:?}: label {label:?} was not scored, only {known}")]
    Label {
        /// The check.
        expression: String,
        /// What was found.
        label: String,
        /// The labels there are.
        known: String,
    },
    /// `=` for a score that has no better direction.
    #[error("check {0:?}: say <= or >=, more of this score is neither better nor worse")]
    Direction(String),
}

const STATISTICS: [&str; 9] = [
    "mean",
    "median",
    "min",
    "max",
    "sd",
    "q1",
    "q3",
    "ci95_low",
    "ci95_high",
];
const COUNTS: [&str; 6] = ["missed", "spurious", "both_empty", "ok", "cases", "failed"];

impl Gate {
    /// Reads a check. Without a label it is about all labels together, without a statistic about the
    /// mean over cases; `pooled` (for dice and iou) is over the voxels of all cases. `=` means at least
    /// for shares and at most for distances and counts.
    ///
    /// # Errors
    /// [`GateError`], except [`GateError::Label`].
    pub fn parse(text: &str) -> Result<Self, GateError> {
        let form = || GateError::Form(text.to_owned());
        let at = text.find(['<', '>', '=']).ok_or_else(form)?;
        let (left, right) = text.split_at(at);
        let operator_end = right.find(|c| !"<>=".contains(c)).ok_or_else(form)?;
        let (operator, value) = right.split_at(operator_end);
        let threshold: f64 = value.trim().parse().map_err(|_| form())?;
        if threshold.is_nan() {
            return Err(form());
        }
        let (label, quantity) = parse_quantity(text, left.trim())?;
        let comparison = match operator {
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">=" => Comparison::AtLeast,
            ">" => Comparison::More,
            "=" | "==" => match &quantity {
                Quantity::Count(_) => Comparison::AtMost,
                Quantity::Score { name, .. } => match kind_of(name) {
                    Some(Kind::Share) => Comparison::AtLeast,
                    Some(Kind::Distance | Kind::Errors) => Comparison::AtMost,
                    _ => return Err(GateError::Direction(text.to_owned())),
                },
            },
            _ => return Err(form()),
        };
        Ok(Self {
            expression: text.to_owned(),
            label,
            quantity,
            comparison,
            threshold,
        })
    }

    /// Checks `summary`; `failed` is the number of cases that could not be scored.
    ///
    /// # Errors
    /// [`GateError::Label`] when the label was not scored.
    pub fn check(&self, summary: &Summary, failed: usize) -> Result<Verdict, GateError> {
        let wanted = self.label.as_deref();
        // A set of one label has no entry for all of them together.
        let found = match wanted {
            Some(label) => summary.labels.iter().find(|target| target.label == label),
            None => summary.labels.first(),
        };
        if let (Some(label), None) = (wanted, found) {
            let known: Vec<&str> = summary
                .labels
                .iter()
                .map(|target| target.label.as_str())
                .collect();
            return Err(GateError::Label {
                expression: self.expression.clone(),
                label: label.to_owned(),
                known: known.join(", "),
            });
        }
        let value = match &self.quantity {
            Quantity::Count(name) => Some(count(name, found, summary, failed) as f64),
            Quantity::Score { name, statistic } => {
                found.and_then(|target| statistic_of(target, name, statistic))
            }
        };
        let holds = value.is_some_and(|value| match self.comparison {
            Comparison::Less => value < self.threshold,
            Comparison::AtMost => value <= self.threshold,
            Comparison::AtLeast => value >= self.threshold,
            Comparison::More => value > self.threshold,
        });
        let sign = match self.comparison {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::AtLeast => ">=",
            Comparison::More => ">",
        };
        let shown = value.map_or_else(|| "not defined in any case".to_owned(), |v| v.to_string());
        let outcome = if holds { "holds" } else { "does not hold" };
        let text = format!(
            "{}: {shown}, wanted {sign} {}: {outcome}",
            self.subject(),
            self.threshold
        );
        Ok(Verdict {
            expression: self.expression.clone(),
            holds,
            value,
            text,
        })
    }

    fn subject(&self) -> String {
        let label = self
            .label
            .as_deref()
            .map_or(String::new(), |label| format!("{label} "));
        match &self.quantity {
            Quantity::Count(name) => format!("{label}{name}"),
            Quantity::Score { name, statistic } => format!("{label}{name} {statistic}"),
        }
    }
}

fn parse_quantity(text: &str, left: &str) -> Result<(Option<String>, Quantity), GateError> {
    // `nsd@0.5` has a dot of its own: look for the score from the right, longest label last.
    let parts: Vec<&str> = left.split('.').collect();
    let mut best = None;
    for start in (0..parts.len()).rev() {
        for end in start + 1..=parts.len() {
            let score = parts[start..end].join(".");
            let rest = parts[end..].join(".");
            let statistic = match rest.as_str() {
                "" => "mean",
                rest if STATISTICS.contains(&rest) || rest == "pooled" => rest,
                _ => continue,
            };
            let quantity = if COUNTS.contains(&score.as_str()) && rest.is_empty() {
                Quantity::Count(score)
            } else if let Some(name) = full_name(&score) {
                if statistic == "pooled" && !["dice", "iou"].contains(&name.as_str()) {
                    continue;
                }
                Quantity::Score {
                    name,
                    statistic: statistic.to_owned(),
                }
            } else {
                continue;
            };
            best = Some((start, quantity));
        }
    }
    let (start, quantity) = best.ok_or_else(|| GateError::Score {
        expression: text.to_owned(),
        score: left.to_owned(),
    })?;
    let label = parts[..start].join(".");
    Ok(((!label.is_empty()).then_some(label), quantity))
}

fn count(name: &str, target: Option<&TargetSummary>, summary: &Summary, failed: usize) -> usize {
    let cases = target.map(|target| target.cases).unwrap_or_default();
    match name {
        "missed" => cases.missed,
        "spurious" => cases.spurious,
        "both_empty" => cases.both_empty,
        "ok" => cases.ok,
        "cases" => summary.cases,
        _ => failed,
    }
}

fn statistic_of(target: &TargetSummary, name: &str, statistic: &str) -> Option<f64> {
    if statistic == "pooled" {
        return if name == "dice" {
            target.pooled_dice
        } else {
            target.pooled_iou
        };
    }
    let numbers = target.scores.get(name)?.distribution?;
    match statistic {
        "mean" => Some(numbers.mean),
        "median" => Some(numbers.median),
        "min" => Some(numbers.min),
        "max" => Some(numbers.max),
        "sd" => numbers.sd,
        "q1" => Some(numbers.q1),
        "q3" => Some(numbers.q3),
        "ci95_low" => numbers.mean_ci95.map(|[low, _]| low),
        "ci95_high" => numbers.mean_ci95.map(|[_, high]| high),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::case::Confusion;
    use crate::evaluate::statistics::Distribution;
    use crate::evaluate::summary::{ScoreSummary, StatusCounts};
    use std::collections::BTreeMap;

    fn summary() -> Summary {
        let scores = |values: &[f64]| ScoreSummary {
            distribution: Distribution::of(values, 0),
            left_out: 0,
        };
        Summary {
            cases: 3,
            groups: None,
            labels: vec![TargetSummary {
                label: "lobe.left".to_owned(),
                cases: StatusCounts {
                    ok: 2,
                    missed: 1,
                    ..StatusCounts::default()
                },
                scores: BTreeMap::from([
                    ("dice".to_owned(), scores(&[0.8, 0.9, 0.0])),
                    ("nsd@0.5".to_owned(), scores(&[0.5])),
                    ("hd95_mm".to_owned(), scores(&[])),
                ]),
                pooled_dice: Some(0.75),
                pooled_iou: None,
                worst: Vec::new(),
            }],
            confusion: Confusion::default(),
        }
    }

    fn verdict(text: &str) -> Verdict {
        Gate::parse(text).unwrap().check(&summary(), 2).unwrap()
    }

    #[test]
    fn checks_hold_or_not() {
        assert!(!verdict("dice=0.85").holds);
        assert!(verdict("lobe.left.dice.median>=0.8").holds);
        assert!(!verdict("lobe.left.dice.median > 0.8").holds);
        assert!(verdict("dice.pooled>0.7").holds);
        assert!(verdict("nsd@0.5=0.5").holds);
        assert!(verdict("nsd@0.5.min<=0.5").holds);
        assert!(verdict("missed<=1").holds && !verdict("lobe.left.missed=0").holds);
        assert!(!verdict("failed=0").holds);
        let text = verdict("dice.max>=0.95").text;
        assert_eq!(text, "dice max: 0.9, wanted >= 0.95: does not hold");
    }

    #[test]
    fn a_score_that_no_case_has_does_not_pass() {
        let verdict = verdict("hd95<=5");
        assert!(!verdict.holds && verdict.value.is_none());
        assert!(verdict.text.contains("not defined in any case"));
        assert!(
            !super::Gate::parse("assd<=5")
                .unwrap()
                .check(&summary(), 0)
                .unwrap()
                .holds
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "",
            "dice",
            "dice=",
            "dice=good",
            "dice=nan",
            "dice=>1",
            "bice=1",
            "dice.mode=1",
        ] {
            assert!(Gate::parse(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(
            Gate::parse("rvd=0.1"),
            Err(GateError::Direction(_))
        ));
        let other = Gate::parse("liver.dice=0.5")
            .unwrap()
            .check(&summary(), 0)
            .unwrap_err();
        assert!(other.to_string().contains("only lobe.left"), "{other}");
    }
}
