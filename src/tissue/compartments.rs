//! Visceral and subcutaneous fat, and what was found of each kind.

use super::body::{AIR_HU, Body, Place};
use super::{FatKind, FatMap, FatWindow, Input};
use ndarray::{ArrayView3, Axis};
use rayon::prelude::*;

/// How much fat of one kind there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Amount {
    /// Voxels.
    pub voxels: u64,
    /// Mean HU; `None` without voxels.
    pub mean_hu: Option<f64>,
}

/// Marks visceral and subcutaneous fat where `fat` is 0 and the map is background. Voxels that touch air
/// or gas by a face are partial volume, not fat. Returns the amounts of both.
pub(super) fn mark(
    input: &Input<'_>,
    image: ArrayView3<'_, f32>,
    body: &Body,
    window: FatWindow,
    fat: &mut FatMap,
) -> [Amount; 2] {
    let shape = input.grid.shape;
    let slices: Vec<_> = fat.axis_iter_mut(Axis(0)).collect();
    let sums: Vec<[(u64, f64); 2]> = slices
        .into_par_iter()
        .enumerate()
        .map(|(z, mut slice)| {
            let mut sums = [(0, 0.0); 2];
            for ((y, x), value) in slice.indexed_iter_mut() {
                let at = [z, y, x];
                let hu = f64::from(image[at]);
                if *value != 0 || !window.contains(hu) || input.map[at] != 0 {
                    continue;
                }
                let kind = match body.place(at) {
                    Place::Outside => continue,
                    Place::InsideWall => FatKind::Visceral,
                    Place::BelowSkin => FatKind::Subcutaneous,
                };
                if touches_air(image, at, shape) {
                    continue;
                }
                *value = kind as u8;
                let (voxels, sum) = &mut sums[kind as usize - FatKind::Visceral as usize];
                *voxels += 1;
                *sum += hu;
            }
            sums
        })
        .collect();
    // Added in the order of the slices: the same for any number of threads.
    let mut total = [(0_u64, 0.0_f64); 2];
    for slice in sums {
        for (total, part) in total.iter_mut().zip(slice) {
            total.0 += part.0;
            total.1 += part.1;
        }
    }
    total.map(|(voxels, sum)| Amount {
        voxels,
        mean_hu: (voxels > 0).then(|| sum / voxels as f64),
    })
}

fn touches_air(image: ArrayView3<'_, f32>, at: [usize; 3], shape: [usize; 3]) -> bool {
    (0..3).any(|axis| {
        let mut near = at;
        let before = at[axis] > 0 && {
            near[axis] = at[axis] - 1;
            f64::from(image[near]) < AIR_HU
        };
        before
            || at[axis] + 1 < shape[axis] && {
                near[axis] = at[axis] + 1;
                f64::from(image[near]) < AIR_HU
            }
    })
}
