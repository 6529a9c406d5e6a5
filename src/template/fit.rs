//! Finding the map from patient to template.

use super::cloud::{Kidney, SurfacePoint, distance};
use super::deformation::{Deformation, Match, spread};
use crate::volume::Affine;
use rayon::prelude::*;

/// Steps of iterated closest points; in the first few only kidneys count.
const STEPS: usize = 20;
const KIDNEYS_FIRST: usize = 5;
/// Centres at which the map bends, per kidney and for the bones.
const KIDNEY_CENTRES: usize = 20;
const BONE_CENTRES: usize = 80;
/// How many independent points the surface of a kidney, and of the bones, is worth: neighbours see the same voxels.
const KIDNEY_WORTH: f64 = 150.0;
const BONE_WORTH: f64 = 400.0;
/// Distance at which a match counts half.
const DOUBT_MM: f64 = 3.0;
/// Bones further apart than this are no pair, at their first and at the last step.
const BONES_REACH_MM: [f64; 2] = [40.0, 12.0];
/// Bones are doubted at this part of their reach, if that is more.
const BONES_DOUBT: f64 = 0.25;
/// A body's size along an axis differs by no more than this from the template's.
const SCALE_RANGE: [f64; 2] = [0.7, 1.4];
/// With one kidney only its size is believed, and within this range.
const ONE_KIDNEY_RANGE: [f64; 2] = [0.8, 1.25];
/// A map under which a small volume shrinks below this part of itself nearly folds.
const LEAST_GROWTH: f64 = 0.1;

/// How the map was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Affine and a smooth deformation.
    Smooth,
    /// The affine part of the same.
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
    /// The map, both sides RAS+ mm.
    pub map: Deformation,
    /// Its affine part.
    pub to_template: Affine,
    /// How it was found.
    pub method: Method,
    /// Mean distance of each kidney's surface from the template's, in mm and in the order of the kidneys that
    /// both have.
    pub residual_mm: Vec<f64>,
    /// The same for bones within reach, where they were used.
    pub bone_residual_mm: Option<f64>,
    /// Lengths of the affine part's columns: template mm per patient mm along x, y, z.
    pub scale: [f64; 3],
    /// Largest displacement on the kidneys' surfaces that the affine part does not explain, in mm.
    pub largest_bend_mm: f64,
    /// What was out of range and replaced.
    pub clamped: Vec<&'static str>,
    /// How far to believe it.
    pub confidence: Confidence,
}

/// The same structure of patient and template.
type Kidneys = (Kidney, Kidney);
/// Points of the same surface in patient and template.
type Surfaces<'a> = (&'a [SurfacePoint], &'a [SurfacePoint]);

fn surfaces((patient, template): &Kidneys) -> Surfaces<'_> {
    (&patient.surface, &template.surface)
}

/// Finds the map. `method` forces a simpler one.
pub(super) fn fit(kidneys: &[Kidneys], bones: Option<Surfaces<'_>>, method: Option<Method>) -> Fit {
    let mut clamped = Vec::new();
    let mut used = method.unwrap_or(Method::Smooth);
    if kidneys.len() < 2 && bones.is_none() && matches!(used, Method::Smooth | Method::Affine) {
        used = Method::Scale;
    }
    let mut map = match used {
        Method::Smooth => iterate(kidneys, bones),
        Method::Affine => iterate(kidneys, bones).without_bends(),
        Method::Scale => scaled(kidneys, &mut clamped),
        Method::Translation => translation(kidneys),
    };
    if used == Method::Smooth && !is_unfolded(&map, kidneys, bones) {
        clamped.push("the deformation folds: its affine part instead");
        used = Method::Affine;
        map = map.without_bends();
    }
    if matches!(used, Method::Smooth | Method::Affine) && !is_plausible(&map.affine()) {
        clamped.push("the affine map is implausible: translation instead");
        used = Method::Translation;
        map = translation(kidneys);
    }
    let confidence = match (used, bones) {
        (Method::Smooth | Method::Affine, Some(_)) => Confidence::High,
        (Method::Smooth | Method::Affine, None) => Confidence::Medium,
        _ => Confidence::Low,
    };
    let bends = kidneys
        .iter()
        .flat_map(|(patient, _)| &patient.surface)
        .map(|point| distance(map.bend_mm(point.at_mm), [0.0; 3]));
    let to_template = map.affine();
    Fit {
        residual_mm: kidneys
            .iter()
            .map(|pair| residual(surfaces(pair), &map, f64::INFINITY))
            .collect(),
        bone_residual_mm: bones.map(|pair| residual(pair, &map, BONES_REACH_MM[1])),
        scale: to_template.column_norms_mm(),
        to_template,
        method: used,
        largest_bend_mm: bends.fold(0.0, f64::max),
        clamped,
        confidence,
        map,
    }
}

fn is_plausible(map: &Affine) -> bool {
    let within = |scale: &f64| (SCALE_RANGE[0]..=SCALE_RANGE[1]).contains(scale);
    map.is_finite() && map.determinant() > 0.0 && map.column_norms_mm().iter().all(within)
}

/// Whether the map keeps volumes the right way round where it was fitted.
fn is_unfolded(map: &Deformation, kidneys: &[Kidneys], bones: Option<Surfaces<'_>>) -> bool {
    (kidneys.iter().map(surfaces).chain(bones))
        .flat_map(|(patient, _)| patient)
        .all(|point| map.growth(point.at_mm) > LEAST_GROWTH)
}

fn mean(points: impl Iterator<Item = [f64; 3]> + Clone) -> [f64; 3] {
    let count = points.clone().count().max(1) as f64;
    std::array::from_fn(|axis| points.clone().map(|point| point[axis]).sum::<f64>() / count)
}

/// The mean of the kidneys' centres in the patient and in the template.
fn middles(kidneys: &[Kidneys]) -> ([f64; 3], [f64; 3]) {
    (
        mean(kidneys.iter().map(|(patient, _)| patient.centre_mm)),
        mean(kidneys.iter().map(|(_, template)| template.centre_mm)),
    )
}

fn translation(kidneys: &[Kidneys]) -> Deformation {
    let (from, to) = middles(kidneys);
    Deformation::translation(from, to, Vec::new())
}

fn scaled(kidneys: &[Kidneys], clamped: &mut Vec<&'static str>) -> Deformation {
    let ratio = kidneys
        .iter()
        .map(|(patient, template)| template.radius_mm / patient.radius_mm);
    let ratio = ratio.sum::<f64>() / kidneys.len() as f64;
    let scale = ratio.clamp(ONE_KIDNEY_RANGE[0], ONE_KIDNEY_RANGE[1]);
    if scale != ratio {
        clamped.push("scale");
    }
    let (from, to) = middles(kidneys);
    Deformation::scaling(scale, from, to)
}

/// Index and distance of the nearest of `points`, the first of equals.
fn nearest(points: &[[f64; 3]], at: [f64; 3]) -> (usize, f64) {
    /// Points whose distances are found together, without a branch.
    const BLOCK: usize = 8;
    let mut best = (0, f64::INFINITY);
    for (block, points) in points.chunks(BLOCK).enumerate() {
        let mut squared = [f64::INFINITY; BLOCK];
        for (squared, point) in squared.iter_mut().zip(points) {
            let [x, y, z]: [f64; 3] = std::array::from_fn(|axis| point[axis] - at[axis]);
            *squared = x * x + y * y + z * z;
        }
        let smaller = |a: f64, b: f64| if b < a { b } else { a };
        let least = squared.into_iter().fold(f64::INFINITY, smaller);
        if least < best.1 {
            let within = squared.iter().position(|&mm2| mm2 == least);
            best = (block * BLOCK + within.unwrap_or(0), least);
        }
    }
    (best.0, best.1.sqrt())
}

fn places(surface: &[SurfacePoint]) -> Vec<[f64; 3]> {
    surface.iter().map(|point| point.at_mm).collect()
}

/// Mean distance of the patient's mapped surface from the template's, over trusted points within `reach_mm`:
/// that to the plane of the nearest point, as points are a sample of the surface.
fn residual((patient, template): Surfaces<'_>, map: &Deformation, reach_mm: f64) -> f64 {
    let there = places(template);
    let near: Vec<f64> = (patient.iter())
        .filter(|point| point.is_trusted)
        .filter_map(|point| {
            let at = map.apply(point.at_mm);
            let (index, mm) = nearest(&there, at);
            let other = template.get(index).filter(|_| mm <= reach_mm)?;
            let across: f64 = (0..3)
                .map(|axis| (at[axis] - other.at_mm[axis]) * other.normal[axis])
                .sum();
            Some(if other.normal == [0.0; 3] {
                mm
            } else {
                across.abs()
            })
        })
        .collect();
    near.iter().sum::<f64>() / near.len().max(1) as f64
}

/// Two surfaces, and what stays the same from step to step.
struct Prepared<'a> {
    surfaces: Surfaces<'a>,
    /// [`Deformation::basis`] at every point of the patient.
    basis: Vec<Vec<f64>>,
    /// Places of the template's points.
    there: Vec<[f64; 3]>,
}

impl<'a> Prepared<'a> {
    fn new(surfaces: Surfaces<'a>, map: &Deformation) -> Self {
        let basis = surfaces.0.par_iter().map(|point| map.basis(point.at_mm));
        Self {
            surfaces,
            basis: basis.collect(),
            there: places(surfaces.1),
        }
    }
}

/// Closest points both ways, none farther than `reach_mm` and none at a tumour. Together they are worth
/// `worth` points; one that is `doubt_mm` off counts half (Cauchy's weights).
fn closest<'a>(
    prepared: &'a Prepared<'_>,
    map: &Deformation,
    (reach_mm, doubt_mm, worth): (f64, f64, f64),
) -> Vec<Match<'a>> {
    let (patient, template) = prepared.surfaces;
    let mapped: Vec<[f64; 3]> = (prepared.basis.par_iter())
        .map(|basis| map.mapped(basis))
        .collect();
    let pair = |own: usize, other: &SurfacePoint, mm: f64| {
        (patient[own].is_trusted && mm <= reach_mm).then(|| Match {
            basis: &prepared.basis[own],
            to_mm: other.at_mm,
            normal: other.normal,
            weight: 1.0 / (1.0 + (mm / doubt_mm).powi(2)),
        })
    };
    let forwards = mapped.par_iter().enumerate().map(|(own, &at)| {
        let (index, mm) = nearest(&prepared.there, at);
        pair(own, template.get(index)?, mm)
    });
    let backwards = template.par_iter().map(|other| {
        let (own, mm) = nearest(&mapped, other.at_mm);
        (own < patient.len())
            .then(|| pair(own, other, mm))
            .flatten()
    });
    let found: Vec<Option<Match<'a>>> = forwards.chain(backwards).collect();
    let mut found: Vec<Match<'a>> = found.into_iter().flatten().collect();
    let each = worth / found.len().max(1) as f64;
    for one in &mut found {
        one.weight *= each;
    }
    found
}

/// Iterated closest points, with the most probable map at each step.
fn iterate(kidneys: &[Kidneys], bones: Option<Surfaces<'_>>) -> Deformation {
    let mut centres: Vec<[f64; 3]> = (kidneys.iter())
        .flat_map(|(patient, _)| spread(&places(&patient.surface), KIDNEY_CENTRES))
        .collect();
    if let Some((patient, _)) = bones {
        centres.extend(spread(&places(patient), BONE_CENTRES));
    }
    let (from, to) = middles(kidneys);
    let mut map = Deformation::translation(from, to, centres);
    let prepared = |pair| Prepared::new(pair, &map);
    let kidneys: Vec<Prepared<'_>> = kidneys.iter().map(surfaces).map(prepared).collect();
    let bones = bones.map(prepared);
    for step in 0..STEPS {
        let mut found: Vec<Match<'_>> = (kidneys.iter())
            .flat_map(|pair| closest(pair, &map, (f64::INFINITY, DOUBT_MM, KIDNEY_WORTH)))
            .collect();
        if let Some(bones) = bones.as_ref().filter(|_| step >= KIDNEYS_FIRST) {
            let done = (step - KIDNEYS_FIRST) as f64 / (STEPS - 1 - KIDNEYS_FIRST) as f64;
            let reach = BONES_REACH_MM[0] + done * (BONES_REACH_MM[1] - BONES_REACH_MM[0]);
            let doubt = DOUBT_MM.max(BONES_DOUBT * reach);
            found.extend(closest(bones, &map, (reach, doubt, BONE_WORTH)));
        }
        match map.fitted(&found) {
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
    fn the_nearest_point_is_the_first_of_the_nearest() {
        // On a lattice, so that many are equally far.
        let lattice = |n: usize| [n % 3, n / 3 % 4, n * 7 % 5].map(|n| n as f64);
        for count in [1, 7, 8, 9, 61] {
            let points: Vec<[f64; 3]> = (0..count).map(lattice).collect();
            for at in (0..50).map(|n| lattice(n).map(|mm| 0.75 * mm)) {
                let squared = |point: &[f64; 3]| -> f64 {
                    (0..3).map(|axis| (point[axis] - at[axis]).powi(2)).sum()
                };
                let all: Vec<f64> = points.iter().map(squared).collect();
                let least = all.iter().copied().fold(f64::INFINITY, f64::min);
                let first = all.iter().position(|&mm2| mm2 == least).unwrap();
                assert_eq!(nearest(&points, at), (first, least.sqrt()));
            }
        }
        assert_eq!(nearest(&[], [0.0; 3]), (0, f64::INFINITY));
        assert_eq!(nearest(&[[f64::NAN; 3]], [0.0; 3]).1, f64::INFINITY);
    }
}
