//! A vertex in the middle of quads that bend.
//!
//! A tube of two voxels has eight quads around it, and flat facets of 45 degrees each show however well their corners lie. Quads
//! that bend get a vertex in their middle, raised to where the surface is: at a distance `h` between corners the middle of a quad on a
//! smooth surface lies `h² / 8 * (f_xx + f_yy)` below the mean of its corners, and a corner's step to the mean of its four
//! neighbours is `h² / 4 * (f_xx + f_yy)`. So the raise is half the mean of the corners' steps, turned round. Vertices where
//! three or more regions meet are left out: their neighbours lie on a curve.
//!
//! The centre belongs to one quad, which both its regions share, so nothing opens and no edge changes its number of triangles.

use super::net::{AT_JUNCTION, Net};
use super::quad::dot;
use super::smoothing::{Offset, step_to_neighbours};
use rayon::prelude::*;

/// Quads whose centre would rise more than this get one, in voxels: balls of radius below 8, tubes of radius below 4.
const LEAST_RAISE: f32 = 0.03;
/// A centre never rises more than this, in voxels.
const MOST_RAISE: f32 = 0.25;

/// How far the middle of a quad lies from the mean of its corners, in voxels.
pub(super) fn raise(net: &Net, offsets: &[Offset], quad: usize) -> [f32; 3] {
    raise_from(net.quads.vertices[quad].map(|vertex| step(net, offsets, vertex as usize)))
}

/// The step of a vertex to the mean of its neighbours; none where three or more regions meet.
fn step(net: &Net, offsets: &[Offset], vertex: usize) -> [f32; 3] {
    if net.vertices.kind[vertex] & AT_JUNCTION == 0 {
        step_to_neighbours(net, offsets, vertex)
    } else {
        [0.0; 3]
    }
}

/// The raise that follows from the steps of the four corners.
fn raise_from(steps: [[f32; 3]; 4]) -> [f32; 3] {
    let mut raise = [0.0_f32; 3];
    for step in steps {
        for (raise, step) in raise.iter_mut().zip(step) {
            *raise -= step / 8.0;
        }
    }
    let length = dot(raise, raise).sqrt();
    if length > MOST_RAISE {
        raise.map(|component| component * (MOST_RAISE / length))
    } else {
        raise
    }
}

/// Decides which quads get a centre.
pub(super) fn mark_bent_quads(net: &mut Net, offsets: &[Offset]) {
    let steps: Vec<[f32; 3]> = (0..net.vertices.len())
        .into_par_iter()
        .with_min_len(4096)
        .map(|vertex| step(net, offsets, vertex))
        .collect();
    let bent: Vec<bool> = net
        .quads
        .vertices
        .par_iter()
        .with_min_len(4096)
        .map(|vertices| {
            let raise = raise_from(vertices.map(|vertex| steps[vertex as usize]));
            dot(raise, raise) > LEAST_RAISE * LEAST_RAISE
        })
        .collect();
    net.quads.set_bent(&bent);
}
