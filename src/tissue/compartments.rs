//! Visceral and subcutaneous fat, and what was found of each kind.

use super::body::{AIR_HU, Body, Place};
use super::{FatKind, FatMap, FatWindow, Input};
use ndarray::{ArrayView3, Axis, s};
use rayon::prelude::*;

/// How much fat of one kind there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Amount {
    /// Voxels.
    pub voxels: u64,
    /// Mean HU; `None` without voxels.
    pub mean_hu: Option<f64>,
}

/// Voxels and sum of their HU: visceral, subcutaneous.
type Sums = [(u64, f64); 2];
/// A voxel in the window beside air or gas: its place in the slice, and its HU.
type Rim = ([usize; 2], f64);

/// Marks visceral and subcutaneous fat where `fat` is 0 and the map is background. Voxels that touch air
/// or gas by a face are partial volume: of skin or bowel wall where they are brighter than fat, and no fat. Where
/// those below the skin are darker than fat on average no skin is seen, only fat and air share them, and they
/// count. Returns the amounts of both.
pub(super) fn mark(
    input: &Input<'_>,
    image: ArrayView3<'_, f32>,
    body: &Body,
    window: FatWindow,
    fat: &mut FatMap,
) -> [Amount; 2] {
    let shape = input.grid.shape;
    let slices: Vec<_> = fat.axis_iter_mut(Axis(0)).collect();
    let found: Vec<(Sums, Vec<Rim>)> = slices
        .into_par_iter()
        .enumerate()
        .map(|(z, mut slice)| {
            let mut sums = [(0, 0.0); 2];
            let mut rim = Vec::new();
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                let (hus, labels) = (image.slice(s![z, y, ..]), input.map.slice(s![z, y, ..]));
                for (place, stretch) in body.row([z, y]) {
                    let kind = match place {
                        Place::Outside => continue,
                        Place::InsideWall => FatKind::Visceral,
                        Place::BelowSkin => FatKind::Subcutaneous,
                    };
                    for x in stretch.start..stretch.end.min(shape[2]) {
                        let hu = f64::from(hus[x]);
                        if row[x] != 0 || !window.contains(hu) || labels[x] != 0 {
                            continue;
                        }
                        if touches_air(image, [z, y, x], shape) {
                            if kind == FatKind::Subcutaneous {
                                rim.push(([y, x], hu));
                            }
                            continue;
                        }
                        row[x] = kind as u8;
                        let (voxels, sum) = &mut sums[kind as usize - FatKind::Visceral as usize];
                        *voxels += 1;
                        *sum += hu;
                    }
                }
            }
            (sums, rim)
        })
        .collect();
    // Added in the order of the slices: the same for any number of threads.
    let mut total = [(0_u64, 0.0_f64); 2];
    let mut beside_air = (0_u64, 0.0_f64);
    for (sums, rim) in &found {
        for (total, part) in total.iter_mut().zip(sums) {
            total.0 += part.0;
            total.1 += part.1;
        }
        beside_air.0 += rim.len() as u64;
        beside_air.1 += rim.iter().map(|(_, hu)| hu).sum::<f64>();
    }
    let mean = |(voxels, sum): (u64, f64)| sum / voxels as f64;
    // No voxel at all makes the mean NaN, and the comparison false.
    if mean(beside_air) < mean(total[1]) {
        for (z, (_, rim)) in found.iter().enumerate() {
            for ([y, x], _) in rim {
                fat[[z, *y, *x]] = FatKind::Subcutaneous as u8;
            }
        }
        total[1].0 += beside_air.0;
        total[1].1 += beside_air.1;
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
