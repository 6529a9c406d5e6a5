//! The cases worth looking at: the worst of every label.

use super::picture::Png;
use super::source::Model;
use crate::evaluate::case::{CaseScores, Status, TargetScores};

/// A case and label that stands among the worst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Index of the model.
    pub model: usize,
    /// Index of the case in its results.
    pub case: usize,
    /// Index of the label in the case.
    pub label: usize,
    /// Place among the worst of this label, from 1.
    pub place: usize,
    /// The slice with the most wrong voxels of this label, where slices were scored.
    pub slice: Option<usize>,
}

/// A chosen case with its pictures, if they could be made.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Which case.
    pub chosen: Chosen,
    /// Slices around the worst one, in order, and which of them is the worst; or why there are none.
    pub pictures: Result<Pictures, String>,
}

/// Slices of one case.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// Index along the last axis of the file, and the picture.
    pub slices: Vec<(usize, Png)>,
    /// Position in `slices` to show first.
    pub first: usize,
}

/// The `count` worst cases of every label in every model: missed structures first, then spurious ones,
/// then by ascending Dice; equal ones by name. Cases in which nothing is wrong (Dice 1, or the label
/// absent on both sides) are never listed.
pub fn choose(models: &[Model], count: usize) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    for (model_index, model) in models.iter().enumerate() {
        let cases = &model.results.cases;
        let labels = cases.first().map_or(0, |case| case.labels.len());
        for label in 0..labels {
            let mut rows: Vec<(usize, &TargetScores)> = cases
                .iter()
                .enumerate()
                .filter_map(|(index, case)| Some((index, case.labels.get(label)?)))
                .filter(|(_, target)| target.fp + target.fn_ > 0)
                .collect();
            rows.sort_by(|(index_a, a), (index_b, b)| {
                badness(a)
                    .0
                    .cmp(&badness(b).0)
                    .then(badness(a).1.total_cmp(&badness(b).1))
                    .then(index_a.cmp(index_b))
            });
            for (place, (case, target)) in rows.into_iter().take(count).enumerate() {
                chosen.push(Chosen {
                    model: model_index,
                    case,
                    label,
                    place: place + 1,
                    slice: cases
                        .get(case)
                        .and_then(|case| worst_slice(case, &target.label)),
                });
            }
        }
    }
    chosen
}

/// Smaller is worse.
fn badness(target: &TargetScores) -> (u8, f64) {
    let order = match target.status {
        Status::Missed => 0,
        Status::Spurious => 1,
        Status::Ok => 2,
        Status::BothEmpty => 3,
    };
    (order, target.counts().dice().unwrap_or(1.0))
}

/// The slice in which most voxels of `label` are wrong, the first of equals; `None` when slices were
/// not scored or nothing is wrong.
pub fn worst_slice(case: &CaseScores, label: &str) -> Option<usize> {
    let slices = case.slices.as_ref()?;
    let target = slices.labels.get(label)?;
    let wrong = target
        .prediction
        .iter()
        .zip(&target.reference)
        .zip(&target.both)
        .map(|((prediction, reference), both)| (prediction + reference).saturating_sub(2 * both));
    let (mut worst, mut most) = (None, 0);
    for (z, wrong) in slices.z.iter().zip(wrong) {
        if wrong > most {
            (worst, most) = (Some(*z), wrong);
        }
    }
    worst
}
