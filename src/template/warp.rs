//! Pulling the template's labels onto the patient's grid.

use super::affine_fit::Fit;
use super::{Patient, Template};
use crate::geometry::points::PointSampler;
use ndarray::{Array3, Axis};
use rayon::prelude::*;

/// The template's label at every voxel of the patient, nearest neighbour; the patient's kidneys and tumours
/// last. Slices in parallel.
pub(super) fn pull(patient: &Patient<'_>, template: &Template<'_>, fit: &Fit) -> Array3<u16> {
    let mut out = Array3::zeros(patient.input.grid.shape);
    let sampler = PointSampler::new(template.input.map, template.input.grid);
    let given = |v: u16| patient.kidneys.contains(&v) || patient.tumors.contains(&v);
    let dropped = |v: u16| template.kidneys.contains(&v) || template.lesions.contains(&v);
    let affine = &patient.input.grid.affine;
    let there = |ijk| fit.to_template.apply(affine.apply(ijk));
    let (first, second) = (there([0.0; 3]), there([1.0, 0.0, 0.0]));
    let step: [f64; 3] = std::array::from_fn(|axis| second[axis] - first[axis]);
    let slices: Vec<_> = out.axis_iter_mut(Axis(0)).collect();
    slices
        .into_par_iter()
        .enumerate()
        .for_each(|(z, mut slice)| {
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                let start = there([0.0, y as f64, z as f64]);
                for (x, value) in row.iter_mut().enumerate() {
                    let own = patient.input.map[[z, y, x]];
                    if own != 0 && given(own) {
                        *value = own;
                        continue;
                    }
                    let place = std::array::from_fn(|axis| start[axis] + x as f64 * step[axis]);
                    let label = sampler
                        .as_ref()
                        .and_then(|sampler| sampler.nearest_value(place));
                    *value = label
                        .filter(|&label| label != 0 && !dropped(label))
                        .unwrap_or(0);
                }
            }
        });
    out
}
