//! Comparison with an earlier evaluation, case by case and label by label.

use super::case::{CaseScores, Status, TargetScores};
use super::measure::{Kind, full_name, kind_of};
use super::summary::{Empty, counted_value};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// By how much each score may get worse: name and amount, in the score's unit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tolerances(BTreeMap<String, f64>);

/// A tolerance that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tolerance {0:?}: expected SCORE=AMOUNT such as dice=0.005 or hd95=0.2mm")]
pub struct ToleranceError(pub String);

impl Tolerances {
    /// Reads entries such as `dice=0.005` and `hd95=0.2mm`. Only scores that are named are compared;
    /// no entry at all means Dice within 0.005.
    ///
    /// # Errors
    /// [`ToleranceError`] for an unknown score, one without a better direction, or no amount.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, ToleranceError> {
        if entries.is_empty() {
            return Ok(Self(BTreeMap::from([("dice".to_owned(), 0.005)])));
        }
        let entry = |text: &str| {
            let (name, amount) = text.split_once('=')?;
            let name = full_name(name.trim())?;
            let amount: f64 = amount.trim().trim_end_matches("mm").trim().parse().ok()?;
            let known = matches!(
                kind_of(&name),
                Some(Kind::Share | Kind::Distance | Kind::Errors)
            );
            (known && amount >= 0.0).then_some((name, amount))
        };
        entries
            .iter()
            .map(|text| {
                entry(text.as_ref()).ok_or_else(|| ToleranceError(text.as_ref().to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A score that got worse by more than the tolerance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// Name of the case.
    pub case: String,
    /// Name of the label or region.
    pub label: String,
    /// Name of the score.
    pub score: String,
    /// Value in the baseline.
    pub before: f64,
    /// Value now.
    pub now: f64,
}

/// Result of [`compare`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Regressions {
    /// Values that were compared.
    pub compared: usize,
    /// Those that got worse.
    pub regressions: Vec<Regression>,
    /// Cases of the baseline that were not scored now.
    pub lost_cases: Vec<String>,
    /// Labels of the baseline that are not scored now, in cases that are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_labels: Vec<String>,
    /// Scores of the baseline, of those that are compared, that no case has now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_scores: Vec<String>,
    /// Cases that the baseline does not have.
    pub new_cases: Vec<String>,
}

impl Regressions {
    /// Whether nothing got worse and nothing is lost.
    pub fn holds(&self) -> bool {
        self.regressions.is_empty()
            && self.lost_cases.is_empty()
            && self.lost_labels.is_empty()
            && self.lost_scores.is_empty()
    }
}

/// Compares `now` with `before`, both [`super::summary::complete`]. A structure that is missed or
/// spurious has the worst score there is, so that missing it now is a regression and not a gap. A score
/// of a label that is in neither mask is not compared.
pub fn compare(now: &[CaseScores], before: &[CaseScores], tolerances: &Tolerances) -> Regressions {
    let earlier: BTreeMap<&str, &CaseScores> = before
        .iter()
        .map(|case| (case.case.as_str(), case))
        .collect();
    let mut found = Regressions::default();
    for case in now {
        let Some(earlier) = earlier.get(case.case.as_str()) else {
            found.new_cases.push(case.case.clone());
            continue;
        };
        for target in &case.labels {
            let Some(before) = earlier
                .labels
                .iter()
                .find(|known| known.label == target.label)
            else {
                continue;
            };
            for (score, &tolerance) in &tolerances.0 {
                let worst = Empty::Worst;
                let before = counted_value(score, before, earlier.diagonal_mm, worst);
                let now = counted_value(score, target, case.diagonal_mm, worst);
                let (Some(before), Some(now)) = (before, now) else {
                    continue;
                };
                found.compared += 1;
                let worse = match kind_of(score) {
                    Some(Kind::Distance | Kind::Errors) => now - before,
                    _ => before - now,
                };
                if worse > tolerance {
                    found.regressions.push(Regression {
                        case: case.case.clone(),
                        label: target.label.clone(),
                        score: score.clone(),
                        before,
                        now,
                    });
                }
            }
        }
    }
    found.lost_cases = before
        .iter()
        .filter(|known| now.iter().all(|case| case.case != known.case))
        .map(|known| known.case.clone())
        .collect();
    found.lost_labels = lost_labels(now, before);
    found.lost_scores = lost_scores(now, before, tolerances);
    found
}

/// Labels that a reference of the baseline holds and that nothing has scores for now: left out of the
/// run, or called otherwise. What was only ever spurious and has gone is no loss.
fn lost_labels(now: &[CaseScores], before: &[CaseScores]) -> Vec<String> {
    let scored: BTreeSet<&str> = targets(now).map(|target| target.label.as_str()).collect();
    let lost: BTreeSet<&str> = targets(before)
        .filter(|target| matches!(target.status, Status::Ok | Status::Missed))
        .map(|target| target.label.as_str())
        .filter(|label| !now.is_empty() && !scored.contains(label))
        .collect();
    lost.into_iter().map(str::to_owned).collect()
}

/// Scores with a tolerance that the baseline has numbers for and this run did not compute.
fn lost_scores(now: &[CaseScores], before: &[CaseScores], tolerances: &Tolerances) -> Vec<String> {
    let had =
        |score: &str| targets(before).any(|t| t.scores.get(score).is_some_and(Option::is_some));
    let has = |score: &str| targets(now).any(|target| target.scores.contains_key(score));
    let lost = tolerances
        .0
        .keys()
        .filter(|score| had(score) && !has(score));
    lost.filter(|_| !now.is_empty()).cloned().collect()
}

fn targets(cases: &[CaseScores]) -> impl Iterator<Item = &TargetScores> {
    cases.iter().flat_map(|case| &case.labels)
}
