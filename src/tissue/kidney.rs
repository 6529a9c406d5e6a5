//! One kidney with the tumours that touch it: its voxels, centre and convex hull.

use super::sphere::Sphere;
use crate::geometry::bounds::BoundingBox;
use crate::topology::components::TooManyRuns;
use crate::topology::{Connectivity, label_components};
use crate::volume::{Affine, Grid};
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

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
    /// The box of `body` in the volume: the kidney and [`REACH_MM`] around it.
    pub(super) bounds: BoundingBox,
    /// Mean position, RAS+ mm.
    pub(super) centre_mm: [f64; 3],
    /// Voxels of kidney and tumour.
    pub(super) voxels: u64,
    /// Whether kidney or tumour reach the border of the volume.
    pub(super) is_cut: bool,
}

struct Piece {
    number: usize,
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
    let Some(all) = BoundingBox::of(map, |&v| wanted.holds(v)) else {
        return Ok(found);
    };
    let Ok(all_of_map) = all.view(&map) else {
        return Ok(found);
    };
    for &label in kidneys {
        let Some(local) = BoundingBox::of(all_of_map, |&v| v == label || tumors.contains(&v))
        else {
            continue;
        };
        let near = BoundingBox {
            start: std::array::from_fn(|axis| local.start[axis] + all.start[axis]),
            end: std::array::from_fn(|axis| local.end[axis] + all.start[axis]),
        };
        let Ok(view) = near.view(&map) else { continue };
        let own = view.mapv(|v| v == label);
        let pieces = pieces(&own, &near, &grid.affine)?;
        for group in organs(&pieces) {
            if let Some(kidney) = gather(&map, grid, &near, (label, tumors), &pieces, &group)? {
                found.push(kidney);
            }
        }
    }
    Ok(found)
}

/// A set of labels that is quick to ask.
struct LabelSet(Vec<bool>);

impl LabelSet {
    fn new<'a>(labels: impl Iterator<Item = &'a u16>) -> Self {
        let mut holds = vec![false; 1 << 16];
        for &label in labels {
            holds[usize::from(label)] = true;
        }
        Self(holds)
    }

    fn holds(&self, label: u16) -> bool {
        // Most of a volume is background.
        label != 0 && self.0[usize::from(label)]
    }
}

/// The components of a mask, largest first, with their centres.
fn pieces(
    mask: &Array3<bool>,
    bounds: &BoundingBox,
    affine: &Affine,
) -> Result<Vec<Piece>, TooManyRuns> {
    let components = label_components(mask.view(), Connectivity::TwentySix)?;
    let numbers = components.numbers();
    let mut sums = vec![[0.0_f64; 3]; components.len()];
    for ((z, y, x), &number) in numbers.indexed_iter() {
        if number > 0 {
            for (sum, at) in sums[number as usize - 1].iter_mut().zip([x, y, z]) {
                *sum += at as f64;
            }
        }
    }
    let start = bounds.start;
    let mut list: Vec<Piece> = (components.list().iter().zip(sums).enumerate())
        .map(|(number, (component, sum))| {
            let mean = sum.map(|sum| sum / component.voxels as f64);
            let ijk = std::array::from_fn(|axis| mean[axis] + start[2 - axis] as f64);
            Piece {
                number,
                voxels: component.voxels,
                centre_mm: affine.apply(ijk),
            }
        })
        .collect();
    list.sort_by(|a, b| b.voxels.cmp(&a.voxels).then(a.number.cmp(&b.number)));
    Ok(list)
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

fn gather(
    map: &ArrayView3<'_, u16>,
    grid: &Grid,
    near: &BoundingBox,
    (label, tumors): (u16, &[u16]),
    pieces: &[Piece],
    group: &[usize],
) -> Result<Option<Kidney>, TooManyRuns> {
    let Ok(view) = near.view(map) else {
        return Ok(None);
    };
    // The chosen pieces, with every tumour that touches them.
    let own = view.mapv(|v| v == label);
    let parts = label_components(own.view(), Connectivity::TwentySix)?;
    let chosen: Vec<usize> = group.iter().map(|&index| pieces[index].number).collect();
    let chosen = parts.mask(|number, _| chosen.contains(&number));
    let mut joined = chosen.clone();
    joined.zip_mut_with(&view, |inside, v| *inside |= tumors.contains(v));
    let whole = label_components(joined.view(), Connectivity::TwentySix)?;
    let numbers = whole.numbers();
    let mut touches = vec![false; whole.len()];
    for (&inside, &number) in chosen.iter().zip(&numbers) {
        if inside && number > 0 {
            touches[number as usize - 1] = true;
        }
    }
    let body = whole.mask(|number, _| touches[number]);
    let Some(tight) = BoundingBox::of(body.view(), |&inside| inside) else {
        return Ok(None);
    };
    let tight = BoundingBox {
        start: std::array::from_fn(|axis| tight.start[axis] + near.start[axis]),
        end: std::array::from_fn(|axis| tight.end[axis] + near.start[axis]),
    };
    let shape = grid.shape;
    let is_cut = (0..3).any(|axis| tight.start[axis] == 0 || tight.end[axis] == shape[axis]);
    let bounds = tight.expanded_mm(REACH_MM, spacing_mm(&grid.affine), shape);
    let mut wide = Array3::from_elem(bounds.shape(), false);
    let (mut sum, mut voxels) = ([0.0; 3], 0_u64);
    for ((z, y, x), &inside) in body.indexed_iter() {
        if inside {
            let at = [z + near.start[0], y + near.start[1], x + near.start[2]];
            let local: [usize; 3] = std::array::from_fn(|axis| at[axis] - bounds.start[axis]);
            wide[local] = true;
            voxels += 1;
            for (sum, at) in sum.iter_mut().zip([at[2], at[1], at[0]]) {
                *sum += at as f64;
            }
        }
    }
    Ok(Some(Kidney {
        label,
        body: wide,
        bounds,
        centre_mm: grid.affine.apply(sum.map(|sum| sum / voxels as f64)),
        voxels,
        is_cut,
    }))
}

/// Voxel steps `[z, y, x]` of an affine.
pub(super) fn spacing_mm(affine: &Affine) -> [f64; 3] {
    let [x, y, z] = affine.column_norms_mm();
    [z, y, x]
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

    /// World position of a voxel of the box, `[z, y, x]` counted from the box's start.
    pub(super) fn world_mm(&self, affine: &Affine, [z, y, x]: [usize; 3]) -> [f64; 3] {
        let [z0, y0, x0] = self.bounds.start;
        affine.apply([(x + x0) as f64, (y + y0) as f64, (z + z0) as f64])
    }

    /// Distance from the centre to the surface of the convex hull in every direction, in mm.
    ///
    /// The hull is the intersection of the half spaces that touch the kidney in the same directions.
    /// Only the ends of rows along x are looked at: the hull's corners are among them.
    pub(super) fn hull_mm(&self, affine: &Affine, sphere: &Sphere) -> Vec<f64> {
        let mut ends: Vec<[f64; 3]> = Vec::new();
        for (z, slice) in self.body.outer_iter().enumerate() {
            let mut rows = Vec::new();
            for (y, row) in slice.outer_iter().enumerate() {
                if let Some(first) = row.iter().position(|&inside| inside) {
                    let last = row.iter().rposition(|&inside| inside).unwrap_or(first);
                    rows.push([y as i64, first as i64, last as i64]);
                }
            }
            for [y, x] in outline(&rows) {
                let at = self.world_mm(affine, [z, y as usize, x as usize]);
                ends.push(std::array::from_fn(|axis| at[axis] - self.centre_mm[axis]));
            }
        }
        let dot = |a: &[f64; 3], b: &[f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        let heights: Vec<f64> = (sphere.directions.par_iter())
            .map(|direction| {
                ends.iter()
                    .map(|end| dot(end, direction))
                    .fold(0.0, f64::max)
            })
            .collect();
        (sphere.directions.par_iter())
            .map(|direction| {
                // Planes almost along the direction say nothing about it and would divide by zero.
                let mut nearest = f64::INFINITY;
                for (normal, height) in sphere.directions.iter().zip(&heights) {
                    let cosine = dot(direction, normal);
                    if cosine > 0.05 && *height < nearest * cosine {
                        nearest = height / cosine;
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
