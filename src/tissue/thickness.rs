//! Thickness of the perirenal fat at the level of the renal vein.
//!
//! On the axial plane at the renal vein, the straight distance from the renal capsule backwards to the posterior
//! abdominal wall, and sideways to the lateral one. The posterior thickness is one of the two parts of the Mayo adhesive
//! probability score (the other, stranding, is not measured): below 1 cm gives no point, from 1 cm one, from 2 cm two
//! (as Yao et al., Medical Science Monitor 2019, and Haehn et al., Translational Andrology and Urology, use it). The wall is the first
//! tissue that is no fat for 4 mm or more, or the first label; thinner layers are fascia and vessels.

use super::kidney::{Kidney, place_mm};
use super::sphere::Sphere;
use super::{FatWindow, Input};
use crate::geometry::points::PointSampler;
use crate::volume::{Affine, LabelSet};
use ndarray::s;
use rayon::prelude::*;

const STEP_MM: f64 = 0.5;
/// A vein this near to the kidney's hull is the renal vein.
const VEIN_MM: f64 = 5.0;
/// No fat for this long is a wall.
const WALL_MM: f64 = 4.0;
/// Farther than this there is no wall to measure to.
const FARTHEST_MM: f64 = 120.0;
/// Lines beside each other, of which the middle result counts.
const OFFSETS_MM: [f64; 5] = [-6.0, -3.0, 0.0, 3.0, 6.0];

/// Both thicknesses of one kidney.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thickness {
    /// Height of the plane, RAS+ mm.
    pub level_mm: f64,
    /// Whether the height is that of labelled renal vein; else it is the middle of the kidney.
    pub at_vein: bool,
    /// Behind the kidney, in mm; `None` without a wall in reach.
    pub posterior_mm: Option<f64>,
    /// Beside the kidney, away from the spine, in mm; `None` without a wall in reach.
    pub lateral_mm: Option<f64>,
}

/// The height of the renal vein: the mean of the vein's voxels inside of the kidney's convex hull and 5 mm
/// around it, else the middle of the kidney; and which of the two.
pub(super) fn level(
    input: &Input<'_>,
    kidney: &Kidney,
    hull_mm: &[f64],
    sphere: &Sphere,
    veins: &[u16],
) -> (f64, bool) {
    let ([z0, y0, x0], [z1, y1, x1]) = (kidney.surroundings.start, kidney.surroundings.end);
    let veins = LabelSet::new(veins);
    let slices: Vec<(f64, u32)> = (z0..z1)
        .into_par_iter()
        .map(|z| {
            let (mut sum, mut count) = (0.0, 0_u32);
            for y in y0..y1 {
                for x in veins.places(input.map.slice(s![z, y, x0..x1])) {
                    let place = place_mm(&input.grid.affine, [z, y, x + x0]);
                    let away = std::array::from_fn(|axis| place[axis] - kidney.centre_mm[axis]);
                    let length = away.iter().map(|part| part * part).sum::<f64>().sqrt();
                    if length == 0.0 || length <= sphere.value(hull_mm, away) + VEIN_MM {
                        sum += place[2];
                        count += 1;
                    }
                }
            }
            (sum, count)
        })
        .collect();
    // Added in the order of the slices: the same for any number of threads.
    let (sum, count) = (slices.iter()).fold((0.0, 0), |(sum, count), slice| {
        (sum + slice.0, count + slice.1)
    });
    if count == 0 {
        (kidney.centre_mm[2], false)
    } else {
        (sum / f64::from(count), true)
    }
}

/// Measures behind and beside a kidney at height `level_mm`; `outward` is the sign of world x away from the spine.
pub(super) fn measure(
    (image, labels): (&PointSampler<'_, f32>, &PointSampler<'_, u16>),
    affine: &Affine,
    kidney: &Kidney,
    (level_mm, at_vein): (f64, bool),
    outward: f64,
    window: FatWindow,
) -> Thickness {
    // The kidney's voxels on the plane.
    let half = 0.5
        * affine.linear[2]
            .iter()
            .map(|part| part.abs())
            .fold(0.0, f64::max);
    let [z0, y0, x0] = kidney.bounds.start;
    let section: Vec<[f64; 3]> = (kidney.body.indexed_iter())
        .filter(|&(_, &inside)| inside)
        .map(|((z, y, x), _)| place_mm(affine, [z + z0, y + y0, x + x0]))
        .filter(|place| (place[2] - level_mm).abs() <= half)
        .collect();
    let along = |direction: [f64; 3]| {
        let reach = |place: &[f64; 3]| place[0] * direction[0] + place[1] * direction[1];
        let tip = section
            .iter()
            .max_by(|a, b| reach(a).total_cmp(&reach(b)))?;
        let side = [direction[1], direction[0], 0.0];
        let mut found: Vec<f64> = OFFSETS_MM
            .iter()
            .filter_map(|offset| {
                // From the capsule of this line, not from that of the tip.
                let start = std::array::from_fn(|axis| {
                    tip[axis] + offset * side[axis] - 10.0 * direction[axis]
                });
                fat_along(image, labels, kidney, start, direction, window)
            })
            .collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).copied()
    };
    Thickness {
        level_mm,
        at_vein,
        posterior_mm: along([0.0, -1.0, 0.0]),
        lateral_mm: along([outward, 0.0, 0.0]),
    }
}

/// Length from the last kidney voxel of a line to the wall.
fn fat_along(
    image: &PointSampler<'_, f32>,
    labels: &PointSampler<'_, u16>,
    kidney: &Kidney,
    start: [f64; 3],
    direction: [f64; 3],
    window: FatWindow,
) -> Option<f64> {
    let mut capsule = None;
    let mut lean_since = None;
    for step in 0..(FARTHEST_MM / STEP_MM) as usize {
        let at = step as f64 * STEP_MM;
        let place = std::array::from_fn(|axis| start[axis] + at * direction[axis]);
        let voxel = labels.nearest(place)?;
        if kidney.holds(voxel) {
            capsule = Some(at);
            lean_since = None;
            continue;
        }
        let Some(capsule) = capsule else { continue };
        let is_labelled = labels.nearest_value(place).is_some_and(|label| label > 0);
        if is_labelled {
            return Some(lean_since.unwrap_or(at) - capsule);
        }
        if window.contains(image.linear(place)) {
            lean_since = None;
            continue;
        }
        let since = *lean_since.get_or_insert(at);
        // The capsule's own partial volume is no wall: contact counts as a wall only when it goes on.
        if at - since >= WALL_MM {
            return Some(since - capsule);
        }
    }
    None
}
