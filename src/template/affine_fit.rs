//! Fitting the affine map from patient to template.

use super::cloud::Cloud;
use crate::geometry::linear_system::solve_positive_definite;
use crate::volume::Affine;
use rayon::prelude::*;

/// Strengths of the ridge that leave-one-kidney-out chooses from.
const RIDGES: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];
/// Strength with bones, which span the whole body.
const RIDGE_WITH_BONES: f64 = 0.01;
/// Surface points while the ridge is chosen.
const SPARSE: usize = 400;
/// Steps of iterated closest points.
const STEPS: usize = 25;
/// Part of the pairs, by distance, that counts in a step: of kidneys, of bones.
const KEPT: f64 = 0.9;
const BONES_KEPT: f64 = 0.7;
/// Bones further apart than this are no pair, at the first and at the last step.
const BONES_REACH_MM: [f64; 2] = [40.0, 12.0];
/// A body's size along an axis differs by no more than this from the template's.
const SCALE_RANGE: [f64; 2] = [0.7, 1.4];
/// With one kidney only its size is believed, and within this range.
const ONE_KIDNEY_RANGE: [f64; 2] = [0.8, 1.25];

/// How the map was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Affine.
    Affine,
    /// Uniform scale from the size of one kidney, and translation.
    Scale,
    /// Translation of the kidneys' centres.
    Translation,
}

/// How far the map can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// Kidneys and bones agree.
    High,
    /// Both kidneys.
    Medium,
    /// One kidney, or a fallback.
    Low,
}

/// The map from patient to template.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Patient's world position to the template's, both RAS+ mm.
    pub to_template: Affine,
    /// How it was found.
    pub method: Method,
    /// Mean distance of each kidney's surface points from the template's surface, in mm and in the order of
    /// the kidneys that both have.
    pub residual_mm: Vec<f64>,
    /// The same for bones within reach, where they were used.
    pub bone_residual_mm: Option<f64>,
    /// Lengths of the matrix's columns: template mm per patient mm along x, y, z.
    pub scale: [f64; 3],
    /// Strength of the ridge.
    pub ridge: f64,
    /// What was out of range and replaced.
    pub clamped: Vec<&'static str>,
    /// How far to believe it.
    pub confidence: Confidence,
}

type Pair = (Cloud, Cloud);

/// Finds the map. `method` forces a simpler one.
pub(super) fn fit(kidneys: &[Pair], bones: Option<&Pair>, method: Option<Method>) -> Fit {
    let mut clamped = Vec::new();
    let (mut ridge, mut used) = (0.0, method.unwrap_or(Method::Affine));
    if kidneys.len() < 2 && bones.is_none() && used == Method::Affine {
        used = Method::Scale;
    }
    let mut map = match used {
        Method::Affine => {
            ridge = if bones.is_some() {
                RIDGE_WITH_BONES
            } else {
                best_ridge(kidneys)
            };
            iterate(kidneys, bones, ridge, start(kidneys, ridge))
        }
        Method::Scale => scaled(kidneys, &mut clamped),
        Method::Translation => translation(kidneys),
    };
    if used == Method::Affine && !is_plausible(&map) {
        clamped.push("the affine map is implausible: translation instead");
        used = Method::Translation;
        map = translation(kidneys);
    }
    let confidence = match (used, bones) {
        (Method::Affine, Some(_)) => Confidence::High,
        (Method::Affine, None) => Confidence::Medium,
        _ => Confidence::Low,
    };
    Fit {
        residual_mm: kidneys
            .iter()
            .map(|pair| residual(pair, &map, f64::INFINITY))
            .collect(),
        bone_residual_mm: bones.map(|pair| residual(pair, &map, BONES_REACH_MM[1])),
        scale: map.column_norms_mm(),
        to_template: map,
        method: used,
        ridge,
        clamped,
        confidence,
    }
}

fn is_plausible(map: &Affine) -> bool {
    let within = |scale: &f64| (SCALE_RANGE[0]..=SCALE_RANGE[1]).contains(scale);
    map.is_finite() && map.determinant() > 0.0 && map.column_norms_mm().iter().all(within)
}

/// The ridge that places a kidney best when the map is fitted to the other's shape and place.
fn best_ridge(kidneys: &[Pair]) -> f64 {
    let cost = |&ridge: &f64| -> f64 {
        (0..kidneys.len())
            .map(|left_out| {
                let others: Vec<Pair> = (kidneys.iter().enumerate())
                    .filter(|(index, _)| *index != left_out)
                    .map(|(_, (patient, template))| {
                        (patient.sparse(SPARSE), template.sparse(SPARSE))
                    })
                    .collect();
                let map = iterate(&others, None, ridge, start(&others, ridge));
                let (patient, template) = &kidneys[left_out];
                distance(map.apply(patient.centre_mm), template.centre_mm)
            })
            .sum()
    };
    let costs: Vec<f64> = RIDGES.par_iter().map(cost).collect();
    let best = (RIDGES.iter().zip(costs)).min_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(RIDGES[0], |(&ridge, _)| ridge)
}

fn mean(points: impl Iterator<Item = [f64; 3]> + Clone) -> [f64; 3] {
    let count = points.clone().count().max(1) as f64;
    std::array::from_fn(|axis| points.clone().map(|point| point[axis]).sum::<f64>() / count)
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3)
        .map(|axis| (a[axis] - b[axis]).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn translation(kidneys: &[Pair]) -> Affine {
    let from = mean(kidneys.iter().map(|(patient, _)| patient.centre_mm));
    let to = mean(kidneys.iter().map(|(_, template)| template.centre_mm));
    let offset = std::array::from_fn(|axis| to[axis] - from[axis]);
    Affine::from_spacing([1.0; 3], offset)
}

fn scaled(kidneys: &[Pair], clamped: &mut Vec<&'static str>) -> Affine {
    let ratio = kidneys
        .iter()
        .map(|(patient, template)| template.radius_mm / patient.radius_mm);
    let ratio = ratio.sum::<f64>() / kidneys.len() as f64;
    let scale = ratio.clamp(ONE_KIDNEY_RANGE[0], ONE_KIDNEY_RANGE[1]);
    if scale != ratio {
        clamped.push("scale");
    }
    let from = mean(kidneys.iter().map(|(patient, _)| patient.centre_mm));
    let to = mean(kidneys.iter().map(|(_, template)| template.centre_mm));
    Affine::from_spacing(
        [scale; 3],
        std::array::from_fn(|axis| to[axis] - scale * from[axis]),
    )
}

/// The map from the landmarks.
fn start(kidneys: &[Pair], ridge: f64) -> Affine {
    let pairs: Vec<([f64; 3], [f64; 3])> = kidneys
        .iter()
        .flat_map(|(patient, template)| {
            patient
                .landmarks_mm
                .iter()
                .copied()
                .zip(template.landmarks_mm.iter().copied())
        })
        .collect();
    ridge_affine(&pairs, ridge).unwrap_or_else(|| translation(kidneys))
}

/// Least squares with a ridge towards a uniform scale without rotation; `None` for a degenerate set.
fn ridge_affine(pairs: &[([f64; 3], [f64; 3])], ridge: f64) -> Option<Affine> {
    let from = mean(pairs.iter().map(|pair| pair.0));
    let to = mean(pairs.iter().map(|pair| pair.1));
    let mut square = [0.0; 9];
    let mut product = [[0.0; 3]; 3];
    let (mut spread_from, mut spread_to) = (0.0, 0.0);
    for (a, b) in pairs {
        let x: [f64; 3] = std::array::from_fn(|axis| a[axis] - from[axis]);
        let y: [f64; 3] = std::array::from_fn(|axis| b[axis] - to[axis]);
        for row in 0..3 {
            for column in 0..3 {
                square[3 * row + column] += x[row] * x[column];
                product[row][column] += x[row] * y[column];
            }
            spread_from += x[row] * x[row];
            spread_to += y[row] * y[row];
        }
    }
    let weight = ridge * spread_from / 3.0;
    let scale = (spread_to / spread_from).sqrt();
    let mut linear = [[0.0; 3]; 3];
    for axis in 0..3 {
        square[4 * axis] += weight;
        product[axis][axis] += weight * scale;
    }
    for (row, target) in linear.iter_mut().enumerate() {
        let right: Vec<f64> = product.iter().map(|values| values[row]).collect();
        let solved = solve_positive_definite(&square, &right)?;
        target.copy_from_slice(&solved);
    }
    let rotated = Affine {
        linear,
        origin_mm: [0.0; 3],
    };
    let moved = rotated.apply_vector(from);
    Some(Affine {
        linear,
        origin_mm: std::array::from_fn(|axis| to[axis] - moved[axis]),
    })
}

/// Index and distance of the nearest of `points`.
fn nearest(points: &[[f64; 3]], at: [f64; 3]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (index, point) in points.iter().enumerate() {
        let squared =
            (point[0] - at[0]).powi(2) + (point[1] - at[1]).powi(2) + (point[2] - at[2]).powi(2);
        if squared < best.1 {
            best = (index, squared);
        }
    }
    (best.0, best.1.sqrt())
}

/// Mean distance of the patient's mapped surface from the template's, over points within `reach_mm`.
fn residual((patient, template): &Pair, map: &Affine, reach_mm: f64) -> f64 {
    let near: Vec<f64> = (patient.surface_mm.iter())
        .map(|&point| nearest(&template.surface_mm, map.apply(point)).1)
        .filter(|&mm| mm <= reach_mm)
        .collect();
    near.iter().sum::<f64>() / near.len().max(1) as f64
}

/// Pairs of a point of the patient, the template's point, and their present distance.
type Match = ([f64; 3], [f64; 3], f64);

fn matches((patient, template): &Pair, map: &Affine, both_ways: bool) -> Vec<Match> {
    let mapped: Vec<[f64; 3]> = patient
        .surface_mm
        .iter()
        .map(|&point| map.apply(point))
        .collect();
    let mut found: Vec<Match> = (0..mapped.len())
        .into_par_iter()
        .map(|index| {
            let (there, mm) = nearest(&template.surface_mm, mapped[index]);
            (patient.surface_mm[index], template.surface_mm[there], mm)
        })
        .collect();
    if both_ways && !mapped.is_empty() {
        found.par_extend(template.surface_mm.par_iter().map(|&point| {
            let (here, mm) = nearest(&mapped, point);
            (patient.surface_mm[here], point, mm)
        }));
    }
    found
}

/// The closest part of the matches.
fn trimmed(mut found: Vec<Match>, part: f64) -> Vec<Match> {
    found.sort_by(|a, b| a.2.total_cmp(&b.2));
    found.truncate((found.len() as f64 * part).ceil() as usize);
    found
}

/// Iterated closest points, symmetric for kidneys, from the patient only for bones.
fn iterate(kidneys: &[Pair], bones: Option<&Pair>, ridge: f64, mut map: Affine) -> Affine {
    for step in 0..STEPS {
        let found: Vec<Match> = kidneys
            .iter()
            .flat_map(|pair| matches(pair, &map, true))
            .collect();
        let mut pairs = trimmed(found, KEPT);
        if let Some(bones) = bones {
            let done = step as f64 / (STEPS - 1) as f64;
            let reach = BONES_REACH_MM[0] + done * (BONES_REACH_MM[1] - BONES_REACH_MM[0]);
            let mut found = matches(bones, &map, false);
            found.retain(|pair| pair.2 <= reach);
            pairs.extend(trimmed(found, BONES_KEPT));
        }
        let points: Vec<([f64; 3], [f64; 3])> = pairs.iter().map(|pair| (pair.0, pair.1)).collect();
        match ridge_affine(&points, ridge) {
            Some(better) => map = better,
            None => break,
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_affine_is_found_without_a_ridge() {
        let map = Affine {
            linear: [[1.1, 0.1, 0.0], [-0.05, 0.9, 0.02], [0.0, 0.03, 1.05]],
            origin_mm: [4.0, -7.0, 30.0],
        };
        let points = [
            [0.0, 0.0, 0.0],
            [50.0, 3.0, 1.0],
            [-4.0, 40.0, 9.0],
            [7.0, -20.0, 60.0],
            [-30.0, 5.0, -10.0],
        ];
        let pairs: Vec<_> = points
            .iter()
            .map(|&point| (point, map.apply(point)))
            .collect();
        let found = ridge_affine(&pairs, 0.0).unwrap();
        for &point in &points {
            assert!(distance(found.apply(point), map.apply(point)) < 1e-9);
        }
        let stiff = ridge_affine(&pairs, 1e9).unwrap();
        assert!(stiff.linear[0][1].abs() < 1e-6, "{stiff:?}");
        assert!((stiff.linear[0][0] - stiff.linear[2][2]).abs() < 1e-6);
    }

    #[test]
    fn points_of_one_place_have_no_affine() {
        assert!(ridge_affine(&[([1.0; 3], [2.0; 3]); 5], 0.1).is_none());
    }
}
