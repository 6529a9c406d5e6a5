//! Where the renal fascia is: a smooth closed surface around one kidney, from the CT.
//!
//! The surface is described by its margin, the distance in mm from the kidney's convex hull along rays
//! from the kidney's centre, and the margin by real spherical harmonics up to degree 5. Along each ray
//! the smoothed CT votes for margins by log likelihood ratios: fat speaks for the perirenal space,
//! brighter tissue against it, and a thin bright layer for the fascia itself. What lies behind an
//! organ (a labelled voxel, or tissue thicker than 8 mm) has no vote. The coefficients are the maximum
//! a posteriori estimate: expectation-maximisation over a window around the present surface that
//! narrows from 10 to 2 mm, beginning at the prior.
//!
//! Where a part of it is not seen the prior stays: 13 mm around the middle of the kidney and 60 % more above
//! and below it, as the perirenal space is long from top to bottom.
//! Where nearly none is seen the usual distance is taken, 12.5 mm and 50 % more. Votes and prior were chosen on twelve
//! synthetic cases with holes in 5 to 40 % of the fascia, noise of 7 to 18 HU and margins of 6 to 20 mm
//! (docs/measurements/tissue.md).

use super::body::{Body, Place};
use super::kidney::{Kidney, REACH_MM};
use super::sphere::{Sphere, harmonics};
use super::{FatWindow, Input};
use crate::geometry::linear_system::solve_positive_definite;
use crate::geometry::points::PointSampler;
use rayon::prelude::*;
use std::f64::consts::PI;

/// Step along a ray, and of margins.
const STEP_MM: f64 = 1.0;
/// Margins that are tried: 0 to `REACH_MM` in steps.
const STEPS: usize = REACH_MM as usize + 1;
const DEGREE: usize = 5;
/// Margin at the level of the kidney, where nothing is seen.
const PRIOR_MM: f64 = 13.0;
/// Part by which it grows towards the poles of the patient's long axis.
const PRIOR_POLES: f64 = 0.6;
/// The limit where a CT shows nothing of the fascia; chosen on phantoms.
pub(super) const UNSEEN: Usual = Usual {
    margin_mm: 12.5,
    poles: 0.5,
    caudal_mm: 0.0,
};
/// The limit without a CT; chosen on 24 synthetic cases that were not scored.
pub(super) const GEOMETRIC: Usual = Usual {
    margin_mm: 13.5,
    poles: 0.6,
    caudal_mm: 3.0,
};
/// Below this share of directions with a fascia none is believed: fat alone speaks for ever larger limits.
const LEAST_SEEN: f64 = 0.12;
/// Variance of a harmonic coefficient of degree 0, and its ratio from degree to degree.
const PRIOR_VARIANCE: f64 = 38.0;
const PRIOR_DECAY: f64 = 0.36;
/// How many of the rays vote independently: neighbours see the same voxels.
const INDEPENDENT_RAYS: f64 = 1200.0;
/// Half widths of the window around the present surface.
const WINDOWS_MM: [f64; 10] = [10.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 3.0, 2.0, 2.0];
/// Precision with which one ray can place the surface.
const RAY_SD_MM: f64 = 1.0;
/// Weight of a vote: successive samples of a ray share voxels.
const VOTE: f64 = 0.6;
/// Votes in nats per mm: fat and bright tissue inside of the fascia.
const FAT_INSIDE: f64 = 0.04;
const BRIGHT_INSIDE: f64 = 0.8;
/// Votes in nats for a margin whose layer is bright, or fat (a hole in the fascia).
const BRIGHT_LAYER: f64 = 3.0;
const FAT_LAYER: f64 = 0.7;
/// Brightness above the fat around the kidney at which tissue stops being fat, and over which it changes.
const BRIGHT_FROM_HU: f64 = 15.0;
const BRIGHT_OVER_HU: f64 = 30.0;
/// Bright layers from this thickness on are organs, not fascia.
const ORGAN_MM: usize = 8;
/// The level of fat is taken from so many steps of every ray.
const LEVEL_STEPS: usize = 20;
/// The kidney's own partial volume reaches this far.
const PARTIAL_VOLUME_MM: f64 = 3.75;
/// Standard deviation of the smoothing of the CT.
const SMOOTHING_MM: f64 = 1.2;

/// The fitted limit of the perirenal space.
#[derive(Debug, Clone)]
pub(super) struct Fascia {
    /// Distance from the kidney's centre to the limit by direction of the sphere, in mm.
    pub(super) limit_mm: Vec<f64>,
    /// Part of the sphere in which a fascia is seen at the limit, among directions that no organ ends
    /// before it; `None` without CT, or where organs end all.
    pub(super) found_share: Option<f64>,
    /// Part of the sphere that organs end before the limit; `None` without CT.
    pub(super) organ_share: Option<f64>,
}

/// Where the fascia usually is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usual {
    /// Distance from the kidney's hull at its level.
    margin_mm: f64,
    /// Part by which the distance grows towards the upper and lower pole.
    poles: f64,
    /// How much farther it is at the lower pole, and nearer at the upper: the space is a cone that is open downwards.
    caudal_mm: f64,
}

/// One ray: what the smoothed CT shows from the hull outwards.
struct Ray {
    /// 0 for fat to 1 for brighter tissue; 0 where the kidney's own partial volume reaches.
    bright: Vec<f64>,
    /// Whether a vote is taken.
    votes: Vec<bool>,
    /// First step of the first organ, `STEPS` without one.
    organ: usize,
}

/// The prior margin in a direction, in mm.
fn prior_mm(direction: [f64; 3]) -> f64 {
    PRIOR_MM * (1.0 + PRIOR_POLES * direction[2] * direction[2])
}

/// The limit where no fascia is seen, or without a CT: the usual distance around the kidney.
pub(super) fn expected(hull_mm: &[f64], sphere: &Sphere, usual: Usual) -> Fascia {
    let limits = hull_mm.iter().zip(&sphere.directions);
    let usual_mm = |z: f64| usual.margin_mm * (1.0 + usual.poles * z * z) - usual.caudal_mm * z;
    Fascia {
        limit_mm: limits
            .map(|(hull, direction)| hull + usual_mm(direction[2]))
            .collect(),
        found_share: None,
        organ_share: None,
    }
}

/// Fits the limit to the CT.
pub(super) fn fit(
    input: &Input<'_>,
    image: &PointSampler<'_, f32>,
    kidney: &Kidney,
    hull_mm: &[f64],
    sphere: &Sphere,
    (window, body): (FatWindow, Option<&Body>),
) -> Fascia {
    let rays = cast(input, image, kidney, hull_mm, sphere, (window, body));
    let energies: Vec<Vec<f64>> = rays.par_iter().map(energy).collect();
    let margins = most_probable(&energies, sphere);
    let (mut seen, mut open, mut ended) = (0.0, 0.0, 0.0);
    for ((ray, &margin), &weight) in rays.iter().zip(&margins).zip(&sphere.weights) {
        let at = (margin / STEP_MM).round() as usize;
        if ray.organ <= at + 1 {
            ended += weight;
            continue;
        }
        open += weight;
        let layer = at.saturating_sub(2)..(at + 3).min(STEPS);
        let is_bright = |&step: &usize| ray.votes[step] && ray.bright[step] > 0.5;
        if layer.filter(is_bright).count() > 0 {
            seen += weight;
        }
    }
    let found_share = (open > 0.0).then(|| seen / open);
    let limit_mm = if found_share.is_some_and(|share| share < LEAST_SEEN) {
        expected(hull_mm, sphere, UNSEEN).limit_mm
    } else {
        hull_mm
            .iter()
            .zip(margins)
            .map(|(hull, margin)| hull + margin)
            .collect()
    };
    Fascia {
        limit_mm,
        found_share,
        organ_share: Some(ended / (4.0 * PI)),
    }
}

/// Reads the CT along every ray.
fn cast(
    input: &Input<'_>,
    image: &PointSampler<'_, f32>,
    kidney: &Kidney,
    hull_mm: &[f64],
    sphere: &Sphere,
    (window, body): (FatWindow, Option<&Body>),
) -> Vec<Ray> {
    let place = |index: usize, step: usize| -> [f64; 3] {
        let along = hull_mm[index] + step as f64 * STEP_MM;
        std::array::from_fn(|axis| kidney.centre_mm[axis] + along * sphere.directions[index][axis])
    };
    let in_kidney = |world: [f64; 3]| image.nearest(world).is_some_and(|at| kidney.holds(at));
    // No voxel beyond has the kidney within that length.
    let beside = (kidney.bounds).expanded(image.steps_within(PARTIAL_VOLUME_MM), input.grid.shape);
    let near_kidney = |world: [f64; 3], radius: f64| {
        let may_be = image
            .nearest(world)
            .is_none_or(|voxel| beside.contains(voxel));
        may_be
            && STENCIL.iter().any(|offset| {
                let length = offset.iter().map(|o| o * o).sum::<f64>().sqrt();
                in_kidney(std::array::from_fn(|axis| {
                    world[axis] + radius * offset[axis] / length
                }))
            })
    };
    // Per ray and step: HU where the level of fat is taken from, whether a voxel is there, whether it is labelled,
    // how near the kidney is.
    struct Sample {
        hu: Option<f64>,
        is_outside: bool,
        is_label: bool,
        is_beside_kidney: bool,
        is_partial: bool,
    }
    let samples: Vec<Vec<Sample>> = (0..sphere.len())
        .into_par_iter()
        .map(|index| {
            (0..STEPS)
                .map(|step| {
                    let at = place(index, step);
                    // Beyond the body wall there is nothing to look for.
                    let voxel = image.nearest(at).filter(|&voxel| {
                        body.is_none_or(|body| body.place(voxel) == Place::InsideWall)
                    });
                    let label = voxel.map(|voxel| input.map[voxel]);
                    let is_partial = near_kidney(at, PARTIAL_VOLUME_MM);
                    let is_sure = step < LEVEL_STEPS && label == Some(0) && !is_partial;
                    Sample {
                        hu: is_sure.then(|| smoothed(image, at)),
                        is_outside: label.is_none(),
                        is_label: label.is_some_and(|label| label > 0),
                        is_beside_kidney: near_kidney(at, 0.4 * PARTIAL_VOLUME_MM),
                        is_partial,
                    }
                })
                .collect()
        })
        .collect();
    // The level of fat in this patient, from what surely is fat around this kidney.
    let mut fat: Vec<f64> = (samples.iter().flatten())
        .filter_map(|sample| sample.hu.filter(|&hu| window.contains(hu)))
        .collect();
    fat.sort_by(f64::total_cmp);
    let level = fat.get(fat.len() / 2).copied().unwrap_or(-100.0);
    (samples.into_par_iter().enumerate())
        .map(|(index, samples)| {
            // What lies behind the first organ has no vote and is not looked at.
            let mut bright = vec![0.0; STEPS];
            let organ = first_organ(|step| {
                let sample = &samples[step];
                let hu = (sample.hu).unwrap_or_else(|| smoothed(image, place(index, step)));
                bright[step] = ((hu - level - BRIGHT_FROM_HU) / BRIGHT_OVER_HU).clamp(0.0, 1.0);
                let is_bright = bright[step] > 0.5 || sample.is_label;
                let is_tissue = is_bright && !sample.is_beside_kidney;
                let is_end = sample.is_outside || (sample.is_label && is_tissue);
                (is_tissue, is_end)
            });
            Ray {
                organ,
                votes: samples.iter().map(|s| !s.is_partial).collect(),
                bright,
            }
        })
        .collect()
}

/// Six directions along the axes and eight along the diagonals.
const STENCIL: [[f64; 3]; 14] = [
    [1.0, 0.0, 0.0],
    [-1.0, 0.0, 0.0],
    [0.0, 1.0, 0.0],
    [0.0, -1.0, 0.0],
    [0.0, 0.0, 1.0],
    [0.0, 0.0, -1.0],
    [1.0, 1.0, 1.0],
    [1.0, 1.0, -1.0],
    [1.0, -1.0, 1.0],
    [1.0, -1.0, -1.0],
    [-1.0, 1.0, 1.0],
    [-1.0, 1.0, -1.0],
    [-1.0, -1.0, 1.0],
    [-1.0, -1.0, -1.0],
];

/// The CT smoothed by seven points with the variance of a Gaussian of [`SMOOTHING_MM`].
fn smoothed(image: &PointSampler<'_, f32>, world: [f64; 3]) -> f64 {
    let around: f64 = STENCIL[..6]
        .iter()
        .map(|offset| {
            image.linear(std::array::from_fn(|axis| {
                world[axis] + 2.0 * SMOOTHING_MM * offset[axis]
            }))
        })
        .sum();
    0.25 * image.linear(world) + 0.125 * around
}

/// The step at which the first organ begins: tissue that is labelled, thick, or goes on to the end. `look` says of
/// a step whether it is tissue, and whether the ray ends there; it is asked step by step until the organ is found.
fn first_organ(mut look: impl FnMut(usize) -> (bool, bool)) -> usize {
    let mut run = None;
    for step in 0..STEPS {
        let (is_tissue, is_end) = look(step);
        if is_end {
            return run.unwrap_or(step);
        }
        if !is_tissue {
            run = None;
            continue;
        }
        let start = *run.get_or_insert(step);
        if step + 1 - start >= ORGAN_MM {
            return start;
        }
    }
    run.unwrap_or(STEPS)
}

/// Minus the log likelihood of every margin along a ray, in nats.
fn energy(ray: &Ray) -> Vec<f64> {
    let has_vote = |step: usize| step < ray.organ && ray.votes[step];
    let layer_vote = |step: usize| {
        if step < STEPS && has_vote(step) {
            BRIGHT_LAYER * ray.bright[step] - FAT_LAYER * (1.0 - ray.bright[step])
        } else {
            0.0
        }
    };
    let mut inside = 0.0;
    (0..STEPS)
        .map(|step| {
            // Just before an organ its partial volume looks like a fascia.
            let layer = if step + 2 >= ray.organ || step == 0 {
                0.0
            } else {
                (layer_vote(step - 1) + layer_vote(step) + layer_vote(step + 1)) / 3.0
            };
            let here = inside - layer;
            if has_vote(step) {
                inside += (BRIGHT_INSIDE * ray.bright[step]
                    - FAT_INSIDE * (1.0 - ray.bright[step]))
                    * STEP_MM;
            }
            here
        })
        .collect()
}

/// The most probable smooth margin in every direction, in mm.
fn most_probable(energies: &[Vec<f64>], sphere: &Sphere) -> Vec<f64> {
    let basis: Vec<Vec<f64>> = sphere
        .directions
        .iter()
        .map(|&direction| harmonics(direction, DEGREE))
        .collect();
    let count = (DEGREE + 1) * (DEGREE + 1);
    let per_ray: Vec<f64> = sphere
        .weights
        .iter()
        .map(|weight| weight * INDEPENDENT_RAYS / (4.0 * PI))
        .collect();
    let prior: Vec<f64> = (0..count)
        .map(|index| {
            (basis.iter().zip(&sphere.directions).zip(&sphere.weights))
                .map(|((row, &direction), weight)| row[index] * prior_mm(direction) * weight)
                .sum()
        })
        .collect();
    let variance: Vec<f64> = (0..count)
        .map(|index| PRIOR_VARIANCE * PRIOR_DECAY.powi(index.isqrt() as i32))
        .collect();
    let mut coefficients = prior.clone();
    for window in WINDOWS_MM {
        let votes: Vec<(f64, f64)> = (energies.par_iter().zip(&basis).zip(&per_ray))
            .map(|((energy, row), count)| {
                let (target, precision) = local_vote(energy, dot(row, &coefficients), window);
                (target, precision * count)
            })
            .collect();
        coefficients = update(&basis, &votes, &prior, &variance).unwrap_or(coefficients);
    }
    let margins = basis.iter().map(|row| dot(row, &coefficients));
    let last = (STEPS - 1) as f64 * STEP_MM;
    margins.map(|margin| margin.clamp(0.0, last)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Where the likelihood inside a Gaussian window around `present_mm` wants the surface, and with what
/// precision (1 / mm²): the window's own precision is taken off, so that a ray that sees nothing is silent.
fn local_vote(energy: &[f64], present_mm: f64, window_mm: f64) -> (f64, f64) {
    let exponent = |step: usize| {
        let offset = step as f64 * STEP_MM - present_mm;
        -VOTE * energy[step] - offset * offset / (2.0 * window_mm * window_mm)
    };
    let exponents: [f64; STEPS] = std::array::from_fn(exponent);
    let top = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
    for (step, exponent) in exponents.iter().enumerate() {
        let weight = (exponent - top).exp();
        let margin = step as f64 * STEP_MM;
        sum += weight;
        first += weight * margin;
        second += weight * margin * margin;
    }
    let mean = first / sum;
    let variance = (second / sum - mean * mean).max(0.0);
    let noise = RAY_SD_MM * RAY_SD_MM;
    let (with, window) = (
        1.0 / (variance + noise),
        1.0 / (window_mm * window_mm + noise),
    );
    let precision = with - window;
    if precision <= 1e-6 {
        return (present_mm, 0.0);
    }
    let target = (with * mean - window * present_mm) / precision;
    (target.clamp(0.0, (STEPS - 1) as f64 * STEP_MM), precision)
}

/// Weighted least squares of the votes with the prior.
fn update(
    basis: &[Vec<f64>],
    votes: &[(f64, f64)],
    prior: &[f64],
    variance: &[f64],
) -> Option<Vec<f64>> {
    let n = prior.len();
    let mut matrix = vec![0.0; n * n];
    let mut right = vec![0.0; n];
    for (row, &(target, precision)) in basis.iter().zip(votes) {
        if precision == 0.0 {
            continue;
        }
        for a in 0..n {
            let weighted = row[a] * precision;
            right[a] += weighted * target;
            for (entry, b) in matrix[a * n..=a * n + a].iter_mut().zip(row) {
                *entry += weighted * b;
            }
        }
    }
    for a in 0..n {
        matrix[a * n + a] += 1.0 / variance[a];
        right[a] += prior[a] / variance[a];
    }
    solve_positive_definite(&matrix, &right)
}
