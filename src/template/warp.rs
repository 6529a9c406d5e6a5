//! Pulling the template's labels onto the patient's grid.

use super::deformation::Deformation;
use super::{Patient, Template};
use crate::geometry::points::nearest_index;
use crate::volume::{Affine, LabelSet};
use ndarray::{Array3, Axis, s};
use rayon::prelude::*;

/// Distance of the nodes at which the map is evaluated. Between them it is linear, which is off by less than
/// 0.1 mm for a bend of 10 mm.
const NODE_MM: f64 = 8.0;

/// Positions in the template at nodes of the patient's grid.
struct Lattice {
    /// Voxel coordinates x, y, z of the template, `[z, y, x]`.
    nodes: Array3<[f64; 3]>,
    /// Voxels between nodes, `[z, y, x]`.
    step: [usize; 3],
}

fn between(a: [f64; 3], b: [f64; 3], part: f64) -> [f64; 3] {
    std::array::from_fn(|axis| a[axis] + (b[axis] - a[axis]) * part)
}

impl Lattice {
    fn new(map: &Deformation, patient: &Patient<'_>, to_voxel: &Affine) -> Self {
        let grid = patient.input.grid;
        let [x, y, z] = grid.affine.column_norms_mm();
        let step = [z, y, x].map(|mm| ((NODE_MM / mm) as usize).max(1));
        let count: [usize; 3] =
            std::array::from_fn(|axis| (grid.shape[axis] - 1).div_ceil(step[axis]) + 1);
        let mut nodes = Array3::from_elem(count, [0.0; 3]);
        let planes: Vec<_> = nodes.axis_iter_mut(Axis(0)).collect();
        planes
            .into_par_iter()
            .enumerate()
            .for_each(|(z, mut plane)| {
                for ((y, x), node) in plane.indexed_iter_mut() {
                    let ijk = [x * step[2], y * step[1], z * step[0]].map(|at| at as f64);
                    *node = to_voxel.apply(map.apply(grid.affine.apply(ijk)));
                }
            });
        Self { nodes, step }
    }

    /// The nodes along one row of voxels.
    fn row(&self, z: usize, y: usize) -> Vec<[f64; 3]> {
        let shape: [usize; 3] = self.nodes.dim().into();
        let split = |at: usize, axis: usize| {
            let low = at / self.step[axis];
            let high = (low + 1).min(shape[axis] - 1);
            let part = (at % self.step[axis]) as f64 / self.step[axis] as f64;
            (low, high, part)
        };
        let ((z0, z1, along_z), (y0, y1, along_y)) = (split(z, 0), split(y, 1));
        (0..shape[2])
            .map(|x| {
                let node = |z: usize, y: usize| self.nodes[[z, y, x]];
                let near = between(node(z0, y0), node(z0, y1), along_y);
                let far = between(node(z1, y0), node(z1, y1), along_y);
                between(near, far, along_z)
            })
            .collect()
    }
}

/// The template's label at every voxel of the patient, nearest neighbour; the patient's kidneys and tumours
/// (`given`) last. Slices in parallel. Nothing comes from a template without place in the world.
pub(super) fn pull(
    patient: &Patient<'_>,
    template: &Template<'_>,
    given: &LabelSet,
    map: &Deformation,
) -> Array3<u16> {
    let mut out = Array3::zeros(patient.input.grid.shape);
    let Some(to_voxel) = template.input.grid.affine.inverse() else {
        return out;
    };
    let lattice = Lattice::new(map, patient, &to_voxel);
    let step = lattice.step[2];
    let parts: Vec<f64> = (0..step).map(|x| x as f64 / step as f64).collect();
    let dropped = LabelSet::new(template.kidneys.iter().chain(template.lesions));
    let [depth, height, width] = template.input.grid.shape.map(|n| n as f64);
    let nearest = |[x, y, z]: [f64; 3]| {
        let (z, y) = (nearest_index(z, depth)?, nearest_index(y, height)?);
        Some([z, y, nearest_index(x, width)?])
    };
    let label = |at: [f64; 3]| {
        let label = nearest(at).map_or(0, |voxel| template.input.map[voxel]);
        if dropped.holds(label) { 0 } else { label }
    };
    let slices: Vec<_> = out.axis_iter_mut(Axis(0)).collect();
    slices
        .into_par_iter()
        .enumerate()
        .for_each(|(z, mut slice)| {
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                let nodes = lattice.row(z, y);
                let own = patient.input.map.slice(s![z, y, ..]);
                let stretches = (row.axis_chunks_iter_mut(Axis(0), step))
                    .zip(own.axis_chunks_iter(Axis(0), step));
                for (node, (values, own)) in stretches.enumerate() {
                    let low = nodes[node];
                    let high = nodes[(node + 1).min(nodes.len() - 1)];
                    for ((value, &own), &part) in values.into_iter().zip(own).zip(&parts) {
                        *value = if given.holds(own) {
                            own
                        } else {
                            label(between(low, high, part))
                        };
                    }
                }
            }
        });
    out
}
