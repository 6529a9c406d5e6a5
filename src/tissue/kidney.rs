//! One kidney with the tumours that touch it: its voxels, centre and convex hull.

use super::sphere::Sphere;
use crate::geometry::bounds::BoundingBox;
use crate::topology::components::{Components, TooManyRuns};
use crate::topology::{Connectivity, label_components};
use crate::volume::{Affine, Grid, LabelSet};
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;
use std::ops::Range;

/// Two pieces of one kidney label whose centres are further apart than this across the body are two
/// kidneys that share a label.
const TWO_KIDNEYS_MM: f64 = 80.0;
/// Pieces below this part of the largest are strays: a convex hull must not reach out to them.
const STRAY: f64 = 0.05;
/// Farthest place, from the kidney's hull, that anything around a kidney is looked for.
pub(super) const REACH_MM: f64 = 45.0;

/// A kidney (one component, or several pieces of one) and the tumours that touch it.
#[derive(Debug, Clone)]
pub(super) struct Kidney {
    /// The kidney's label.
    pub(super) label: u16,
    /// The voxels, inside `bounds` only.
    pub(super) body: Array3<bool>,
    /// The box of `body` in the volume: the smallest one.
    pub(super) bounds: BoundingBox,
    /// The kidney and [`REACH_MM`] around it.
    pub(super) surroundings: BoundingBox,
    /// Mean position, RAS+ mm.
    pub(super) centre_mm: [f64; 3],
    /// Voxels of kidney and tumour.
    pub(super) voxels: u64,
    /// Whether kidney or tumour reach the border of the volume.
    pub(super) is_cut: bool,
}

struct Piece {
    /// Index among the components of the label map.
    component: usize,
    voxels: u64,
    centre_mm: [f64; 3],
}

/// Finds the kidneys: one per label, or two where one label holds two organs far apart.
pub(super) fn find_kidneys(
    map: ArrayView3<'_, u16>,
    grid: &Grid,
    kidneys: &[u16],
    tumors: &[u16],
) -> Result<Vec<Kidney>, TooManyRuns> {
    let mut found = Vec::new();
    // All of them first: the volume is large, their box is not.
    let wanted = LabelSet::new(kidneys.iter().chain(tumors));
    let Some(all) = BoundingBox::of_labels(map, &wanted) else {
        return Ok(found);
    };
    let Ok(all_of_map) = all.view(&map) else {
        return Ok(found);
    };
    let tumors = LabelSet::new(tumors);
    // Neighbours of one label belong together, whatever lies around them.
    let parts = label_components(all_of_map, Connectivity::TwentySix)?;
    for &label in kidneys {
        let pieces = pieces(&parts, label, all.start, &grid.affine);
        for group in organs(&pieces) {
            let chosen: Vec<usize> = group.iter().map(|&index| pieces[index].component).collect();
            found.extend(gather(&parts, &chosen, (label, &tumors), all.start, grid)?);
        }
    }
    Ok(found)
}

/// The pieces of a label, largest first, with their centres. `start` is where the components' box begins in the
/// volume, `[z, y, x]`.
fn pieces(parts: &Components<u16>, label: u16, start: [usize; 3], affine: &Affine) -> Vec<Piece> {
    let mut sums = vec![[0_u64; 3]; parts.len()];
    for (component, [z, y], x) in parts.runs() {
        add_run(&mut sums[component], [z, y], x);
    }
    let mut list: Vec<Piece> = (parts.list().iter().zip(sums).enumerate())
        .filter(|(_, (part, _))| part.value == label)
        .map(|(component, (part, sum))| {
            let mean = sum.map(|sum| sum as f64 / part.voxels as f64);
            let ijk = std::array::from_fn(|axis| mean[axis] + start[2 - axis] as f64);
            Piece {
                component,
                voxels: part.voxels,
                centre_mm: affine.apply(ijk),
            }
        })
        .collect();
    list.sort_by(|a, b| b.voxels.cmp(&a.voxels).then(a.component.cmp(&b.component)));
    list
}

/// Adds the voxel indices x, y, z of a stretch along x.
fn add_run(sums: &mut [u64; 3], [z, y]: [usize; 2], x: Range<usize>) {
    let count = x.len() as u64;
    // The mean of first and last, as often as there are voxels.
    sums[0] += count * (x.start + x.end - 1) as u64 / 2;
    sums[1] += count * y as u64;
    sums[2] += count * z as u64;
}

/// Groups of piece indices: the pieces of each organ, without strays.
fn organs(pieces: &[Piece]) -> Vec<Vec<usize>> {
    let Some(first) = pieces.first() else {
        return Vec::new();
    };
    let is_large = |piece: &&Piece| piece.voxels as f64 >= STRAY * first.voxels as f64;
    let second = (pieces.iter().take_while(is_large))
        .find(|piece| (piece.centre_mm[0] - first.centre_mm[0]).abs() > TWO_KIDNEYS_MM);
    let mut groups = vec![Vec::new(); if second.is_some() { 2 } else { 1 }];
    for (index, piece) in pieces.iter().take_while(is_large).enumerate() {
        let from = |other: &Piece| (piece.centre_mm[0] - other.centre_mm[0]).abs();
        let group = usize::from(second.is_some_and(|second| from(second) < from(first)));
        groups[group].push(index);
    }
    groups
}

/// The chosen parts of a label with every tumour that touches them. `start` is where the parts' box begins in the
/// volume, `[z, y, x]`.
fn gather(
    parts: &Components<u16>,
    chosen: &[usize],
    (label, tumors): (u16, &LabelSet),
    start: [usize; 3],
    grid: &Grid,
) -> Result<Option<Kidney>, TooManyRuns> {
    let mut is_chosen = vec![false; parts.len()];
    for &component in chosen {
        is_chosen[component] = true;
    }
    let joined = parts.mask(|index, part| is_chosen[index] || tumors.holds(part.value));
    let whole = label_components(joined.view(), Connectivity::TwentySix)?;
    let mut touches = vec![false; whole.len()];
    for (_, [z, y], x) in parts.runs().filter(|(part, ..)| is_chosen[*part]) {
        if let Some(component) = whole.component_at([z, y, x.start]) {
            touches[component] = true;
        }
    }
    let touching = || (whole.list().iter().zip(&touches)).filter_map(|(c, &is)| is.then_some(c));
    let local = touching().map(|component| component.bounds);
    let Some(local) = local.reduce(|a, b| a.union(&b)) else {
        return Ok(None);
    };
    let body = whole.mask(|number, _| touches[number]);
    let Ok(body) = local.view(&body.view()).map(|body| body.to_owned()) else {
        return Ok(None);
    };
    let mut sums = [0; 3];
    for (_, [z, y], x) in whole.runs().filter(|(component, ..)| touches[*component]) {
        let x = x.start + start[2]..x.end + start[2];
        add_run(&mut sums, [z + start[0], y + start[1]], x);
    }
    let voxels = touching().map(|component| component.voxels).sum();
    let bounds = BoundingBox {
        start: std::array::from_fn(|axis| local.start[axis] + start[axis]),
        end: std::array::from_fn(|axis| local.end[axis] + start[axis]),
    };
    let shape = grid.shape;
    Ok(Some(Kidney {
        label,
        body,
        bounds,
        surroundings: bounds.expanded_mm(REACH_MM, spacing_mm(&grid.affine), shape),
        centre_mm: (grid.affine).apply(sums.map(|sum| sum as f64 / voxels as f64)),
        voxels,
        is_cut: (0..3).any(|axis| bounds.start[axis] == 0 || bounds.end[axis] == shape[axis]),
    }))
}

/// Voxel steps `[z, y, x]` of an affine.
pub(super) fn spacing_mm(affine: &Affine) -> [f64; 3] {
    let [x, y, z] = affine.column_norms_mm();
    [z, y, x]
}

/// Where a voxel of the volume, `[z, y, x]`, lies in the world.
pub(super) fn place_mm(affine: &Affine, [z, y, x]: [usize; 3]) -> [f64; 3] {
    affine.apply([x as f64, y as f64, z as f64])
}

impl Kidney {
    /// Whether a voxel of the volume, `[z, y, x]`, belongs to kidney or tumour.
    pub(super) fn holds(&self, voxel: [usize; 3]) -> bool {
        self.bounds.contains(voxel) && {
            let local: [usize; 3] =
                std::array::from_fn(|axis| voxel[axis] - self.bounds.start[axis]);
            self.body[local]
        }
    }

    /// Distance from the centre to the surface of the convex hull in every direction, in mm.
    ///
    /// The hull is the intersection of the half spaces that touch the kidney in the same directions.
    /// Only the ends of rows along x are looked at: the hull's corners are among them.
    pub(super) fn hull_mm(&self, affine: &Affine, sphere: &Sphere) -> Vec<f64> {
        let mut ends: Vec<[f64; 3]> = Vec::new();
        let [z0, y0, x0] = self.bounds.start;
        for (z, slice) in self.body.outer_iter().enumerate() {
            let mut rows = Vec::new();
            for (y, row) in slice.outer_iter().enumerate() {
                if let Some(first) = row.iter().position(|&inside| inside) {
                    let last = row.iter().rposition(|&inside| inside).unwrap_or(first);
                    rows.push([y as i64, first as i64, last as i64]);
                }
            }
            for [y, x] in outline(&rows) {
                let at = place_mm(affine, [z + z0, y as usize + y0, x as usize + x0]);
                ends.push(std::array::from_fn(|axis| at[axis] - self.centre_mm[axis]));
            }
        }
        let dot = |a: &[f64; 3], b: &[f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        // Several directions at once: none of them waits for the maximum of another.
        const BLOCK: usize = 8;
        let heights: Vec<f64> = (sphere.directions.par_chunks(BLOCK))
            .flat_map_iter(|directions| {
                let mut heights = [0.0; BLOCK];
                for end in &ends {
                    for (height, direction) in heights.iter_mut().zip(directions) {
                        let along = dot(end, direction);
                        *height = if along > *height { along } else { *height };
                    }
                }
                heights.into_iter().take(directions.len())
            })
            .collect();
        (sphere.directions.par_iter())
            .map(|direction| {
                // Planes almost along the direction say nothing about it and would divide by zero.
                let mut nearest = f64::INFINITY;
                let is_nearer = |height: f64, cosine: f64, nearest: f64| {
                    (cosine > 0.05) & (height < nearest * cosine)
                };
                for (normals, heights) in sphere.directions.chunks(BLOCK).zip(heights.chunks(BLOCK))
                {
                    // Few blocks hold a nearer plane, and to ask a whole one takes no branches.
                    let pairs = || normals.iter().zip(heights);
                    let any = pairs().fold(false, |any, (normal, &height)| {
                        any | is_nearer(height, dot(direction, normal), nearest)
                    });
                    for (normal, &height) in pairs().take_while(|_| any) {
                        let cosine = dot(direction, normal);
                        if is_nearer(height, cosine, nearest) {
                            nearest = height / cosine;
                        }
                    }
                }
                nearest
            })
            .collect()
    }
}

/// The corners `[y, x]` of the convex outline of a slice's rows, `[y, first x, last x]` in the order of y: where
/// the chain of first and that of last voxels turns outwards (Andrew's monotone chain).
fn outline(rows: &[[i64; 3]]) -> Vec<[i64; 2]> {
    let mut corners = Vec::new();
    for (end, sign) in [(1, 1), (2, -1)] {
        let mut chain: Vec<[i64; 2]> = Vec::new();
        for row in rows {
            let next = [row[0], row[end]];
            while let [.., a, b] = chain[..] {
                let turn = (b[0] - a[0]) * (next[1] - b[1]) - (b[1] - a[1]) * (next[0] - b[0]);
                // The first voxels bulge to small x, the last ones to large x.
                if sign * turn > 0 {
                    break;
                }
                chain.pop();
            }
            chain.push(next);
        }
        corners.extend(chain);
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_keeps_the_corners_and_drops_dents_and_straight_parts() {
        let rows = [
            [0, 2, 4],
            [1, 3, 5],
            [2, 2, 6],
            [3, 0, 6],
            [4, 1, 6],
            [6, 2, 4],
        ];
        let found = outline(&rows);
        let expected = [[0, 2], [3, 0], [6, 2], [0, 4], [2, 6], [4, 6], [6, 4]];
        assert_eq!(found, expected);
        assert_eq!(outline(&[[5, 1, 1]]), [[5, 1], [5, 1]]);
        assert!(outline(&[]).is_empty());
    }
}
