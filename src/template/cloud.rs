//! Surface points of structures, in world millimetres.

use super::{Error, Input, Patient};
use crate::geometry::bounds::BoundingBox;
use crate::topology::{Connectivity, label_components};
use crate::volume::Grid;
use ndarray::{Array3, ArrayView3};

/// Most surface points of a structure.
const POINTS: usize = 1500;
/// Points of a kidney this near to a tumour are not trusted.
const TUMOR_MM: f64 = 6.0;
/// Fewer voxels than this have no shape.
const LEAST_VOXELS: usize = 8;
/// Fewer points than this away from a tumour are not enough: then all count.
const LEAST_TRUSTED: usize = 50;
/// Compact bone and most spongy bone of the trunk.
const BONE_HU: f32 = 220.0;
/// Smaller pieces above [`BONE_HU`] are contrast, calcification or noise.
const LEAST_BONE_MM3: f64 = 3000.0;

/// A structure as points.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    /// Points of the surface, at most [`POINTS`], spread evenly over the scan order.
    pub(super) surface_mm: Vec<[f64; 3]>,
    /// Centroid, then the means of the outermost 5 % both ways along each world axis.
    pub(super) landmarks_mm: Vec<[f64; 3]>,
    /// Mean of all voxels.
    pub(super) centre_mm: [f64; 3],
    /// Root mean square distance from the centre.
    pub(super) radius_mm: f64,
}

impl Cloud {
    /// The same structure with fewer surface points.
    pub(super) fn sparse(&self, count: usize) -> Self {
        Self {
            surface_mm: thinned(self.surface_mm.clone(), count),
            ..self.clone()
        }
    }
}

/// The voxels where `inside` holds, inside of their bounding box.
fn boxed(
    map: ArrayView3<'_, u16>,
    inside: impl Fn(u16) -> bool + Sync,
) -> Option<(Array3<bool>, BoundingBox)> {
    let bounds = BoundingBox::of(map, |&v| inside(v))?;
    let mask = bounds.view(&map).ok()?.mapv(inside);
    Some((mask, bounds))
}

/// All voxels and those of the surface (a face neighbour is outside).
fn points(mask: &Array3<bool>, start: [usize; 3], grid: &Grid) -> (Vec<[f64; 3]>, Vec<[f64; 3]>) {
    let shape: [usize; 3] = mask.dim().into();
    let (mut all, mut surface) = (Vec::new(), Vec::new());
    for ((z, y, x), &inside) in mask.indexed_iter() {
        if !inside {
            continue;
        }
        let ijk = [
            (x + start[2]) as f64,
            (y + start[1]) as f64,
            (z + start[0]) as f64,
        ];
        let place = grid.affine.apply(ijk);
        all.push(place);
        let at = [z, y, x];
        let is_surface = (0..3).any(|axis| {
            let mut near = at;
            let before = at[axis] == 0 || {
                near[axis] = at[axis] - 1;
                !mask[near]
            };
            before || at[axis] + 1 == shape[axis] || {
                near[axis] = at[axis] + 1;
                !mask[near]
            }
        });
        if is_surface {
            surface.push(place);
        }
    }
    (all, surface)
}

/// `count` of the points at equal distances in the list.
fn thinned(points: Vec<[f64; 3]>, count: usize) -> Vec<[f64; 3]> {
    if points.len() <= count {
        return points;
    }
    (0..count)
        .map(|index| points[index * points.len() / count])
        .collect()
}

fn cloud(all: &[[f64; 3]], surface: Vec<[f64; 3]>) -> Option<Cloud> {
    if all.len() < LEAST_VOXELS {
        return None;
    }
    let mean = |points: &[[f64; 3]]| -> [f64; 3] {
        std::array::from_fn(|axis| {
            points.iter().map(|point| point[axis]).sum::<f64>() / points.len() as f64
        })
    };
    let centre_mm = mean(all);
    let mut landmarks_mm = vec![centre_mm];
    for axis in 0..3 {
        let mut order: Vec<[f64; 3]> = all.to_vec();
        order.sort_by(|a, b| a[axis].total_cmp(&b[axis]));
        let part = (order.len() / 20).max(1);
        landmarks_mm.push(mean(&order[..part]));
        landmarks_mm.push(mean(&order[order.len() - part..]));
    }
    let squared = |point: &[f64; 3]| -> f64 {
        (0..3)
            .map(|axis| (point[axis] - centre_mm[axis]).powi(2))
            .sum()
    };
    let radius_mm = (all.iter().map(squared).sum::<f64>() / all.len() as f64).sqrt();
    Some(Cloud {
        surface_mm: thinned(surface, POINTS),
        landmarks_mm,
        centre_mm,
        radius_mm,
    })
}

/// The structure made of `labels`, or `None` where it has hardly a voxel.
pub(super) fn label_points(input: &Input<'_>, labels: &[u16]) -> Option<Cloud> {
    let (mask, bounds) = boxed(input.map, |v| v != 0 && labels.contains(&v))?;
    let (all, surface) = points(&mask, bounds.start, input.grid);
    cloud(&all, surface)
}

/// A kidney of the patient. The tumour that touches it counts for the landmarks while it is smaller than
/// half of the kidney; surface points near a tumour are dropped.
pub(super) fn given_points(patient: &Patient<'_>, label: u16) -> Result<Option<Cloud>, Error> {
    let input = &patient.input;
    let Some((own, bounds)) = boxed(input.map, |v| v == label) else {
        return Ok(None);
    };
    let (all, surface) = points(&own, bounds.start, input.grid);
    let Some((joined, wide)) = boxed(input.map, |v| v == label || patient.tumors.contains(&v))
    else {
        return Ok(None);
    };
    let pieces = label_components(joined.view(), Connectivity::Six)?;
    let numbers = pieces.numbers();
    let mut touches = vec![false; pieces.len()];
    for (((z, y, x), &number), &inside) in numbers.indexed_iter().zip(&joined) {
        let at = [z + wide.start[0], y + wide.start[1], x + wide.start[2]];
        if inside && number > 0 && input.map[at] == label {
            touches[number as usize - 1] = true;
        }
    }
    let with_tumor = pieces.mask(|number, _| touches[number]);
    let (together, _) = points(&with_tumor, wide.start, input.grid);
    let tumor = boxed(input.map, |v| patient.tumors.contains(&v))
        .map(|(mask, bounds)| points(&mask, bounds.start, input.grid).1)
        .unwrap_or_default();
    let tumor = thinned(tumor, POINTS);
    let is_far = |point: &[f64; 3]| {
        tumor.iter().all(|other| {
            (0..3)
                .map(|axis| (point[axis] - other[axis]).powi(2))
                .sum::<f64>()
                > TUMOR_MM * TUMOR_MM
        })
    };
    let surface = thinned(surface, 4 * POINTS);
    let far: Vec<[f64; 3]> = surface.iter().copied().filter(is_far).collect();
    let trusted = if far.len() > LEAST_TRUSTED {
        far
    } else {
        surface
    };
    let whole = if together.len() * 2 < all.len() * 3 {
        &together
    } else {
        &all
    };
    Ok(cloud(whole, trusted))
}

/// The bones in the patient's CT: large bright pieces without a given label.
pub(super) fn bone_points(patient: &Patient<'_>) -> Option<Cloud> {
    let image = patient.image?;
    let given = |v: u16| patient.kidneys.contains(&v) || patient.tumors.contains(&v);
    let mut mask = image.mapv(|hu| hu > BONE_HU);
    mask.zip_mut_with(&patient.input.map, |bone, &v| *bone &= !given(v));
    let voxel_mm3 = patient.input.grid.affine.determinant().abs();
    let pieces = label_components(mask.view(), Connectivity::TwentySix).ok()?;
    let bones = pieces.mask(|_, piece| piece.voxels as f64 * voxel_mm3 >= LEAST_BONE_MM3);
    let (all, surface) = points(&bones, [0; 3], patient.input.grid);
    cloud(&all, surface)
}
