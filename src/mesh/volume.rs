//! Volume restoration: every region gets back the volume of its voxels, without opening gaps.
//!
//! Smoothing shrinks what is thin. Each region `a` (a face-connected piece of a label, or of enclosed background) gets one offset
//! `δ_a`, the outside 0, and every quad between `a` and `b` moves by `δ_a - δ_b` along its normal. As both sides move together,
//! nothing opens or overlaps. To first order the volumes then change by `Σ_b A_ab (δ_a - δ_b)`, `A_ab` being the area between
//! the two; asking that this be what is missing gives a symmetric positive definite system, solved by conjugate gradients.
//! A few rounds absorb the higher orders. No vertex leaves its box.
//!
//! Regions of one or a few voxels collapse under smoothing before an offset could help; those below a third of their volume
//! are first drawn back towards their corners.

use super::lattice::split_by_lengths;
use super::net::Net;
use super::quad::{LocalQuad, dot};
use super::regions::OUTSIDE;
use super::smoothing::Offset;
use rayon::prelude::*;

/// Below this part of its volume a region is drawn back towards its voxels.
const COLLAPSED: f64 = 0.3;
/// How much of its displacement such a region keeps in a round, and the number of rounds.
const KEEP: f32 = 0.7;
const DRAW_BACK_ROUNDS: usize = 6;
/// Restoration stops when no region misses more than this part of its volume.
const TOLERANCE: f64 = 2e-4;
/// Regions of fewer voxels are small: their boxes hold them, and another round over everything gains little.
const SMALL: u64 = 64;
const SMALL_TOLERANCE: f64 = 0.02;
/// Longest move of a quad in one round, in voxels, and the shortest that is made: less is a tenth of the tolerance on a tube of one voxel,
/// and what does not move need not be measured again.
const LONGEST_MOVE: f64 = 0.5;
const SHORTEST_MOVE: f64 = 2e-5;

/// Flux of volume through a quad, and its area vector.
#[derive(Clone, Copy)]
struct Measure {
    flux: f64,
    normal: [f32; 3],
    area: f32,
}

/// Pairs of touching regions, the outside left out, and the pair of each quad.
pub(super) struct Pairs {
    regions: Vec<[u32; 2]>,
    /// `u32::MAX` for quads at the outside.
    of_quad: Vec<u32>,
}

/// Moves vertices so that every region has the volume of its voxels, as far as the box allows, in at most `rounds` rounds.
pub(super) fn restore(
    net: &Net,
    pairs: &Pairs,
    offsets: &mut [Offset],
    box_voxels: f32,
    rounds: usize,
) {
    let mut measures = measure(net, offsets);
    let mut volumes = region_volumes(net, &measures);
    if let Some(moved) = draw_back_collapsed(net, offsets, &volumes) {
        measure_again(net, offsets, &moved, &mut measures);
        volumes = region_volumes(net, &measures);
    }
    for round in 1..=rounds {
        let missing = missing(net, &volumes);
        if missing.iter().all(|&missing| missing == 0.0) {
            return;
        }
        let moves = solve(net, pairs, &measures, missing);
        let moved = move_quads(net, offsets, &measures, &moves, box_voxels);
        if round < rounds {
            measure_again(net, offsets, &moved, &mut measures);
            volumes = region_volumes(net, &measures);
        }
    }
}

fn measure(net: &Net, offsets: &[Offset]) -> Vec<Measure> {
    (0..net.quads.len())
        .into_par_iter()
        .with_min_len(4096)
        .map(|quad| measure_quad(net, offsets, quad))
        .collect()
}

fn measure_quad(net: &Net, offsets: &[Offset], index: usize) -> Measure {
    let quad = LocalQuad::of(net, offsets, index);
    let normal = quad.area_vector();
    Measure {
        flux: quad.flux(net.layer_of(index)),
        normal,
        area: dot(normal, normal).sqrt(),
    }
}

/// Measures again what has changed: the quads at vertices that have moved, and bent ones whose centre follows from such a vertex.
fn measure_again(net: &Net, offsets: &[Offset], moved: &[bool], measures: &mut [Measure]) {
    measures
        .par_iter_mut()
        .with_min_len(4096)
        .enumerate()
        .for_each(|(quad, measure)| {
            let corners = net.quads.vertices[quad].map(|vertex| vertex as usize);
            let has_changed = corners.iter().any(|&vertex| moved[vertex])
                || net.quads.is_bent(quad)
                    && corners
                        .iter()
                        .any(|&vertex| net.vertices.neighbours(vertex).iter().any(|&n| moved[n]));
            if has_changed {
                *measure = measure_quad(net, offsets, quad);
            }
        });
}

/// Volume of every region in voxels. The sum runs in the order of the quads: the same for any number of threads.
fn region_volumes(net: &Net, measures: &[Measure]) -> Vec<f64> {
    let mut volumes = vec![0.0; net.regions.len()];
    for (&[a, b], measure) in net.quads.regions.iter().zip(measures) {
        volumes[a as usize] += measure.flux;
        volumes[b as usize] -= measure.flux;
    }
    volumes
}

/// Voxels minus volume; 0 for the outside and for regions that miss no more than the tolerance.
fn missing(net: &Net, volumes: &[f64]) -> Vec<f64> {
    let mut missing: Vec<f64> = net
        .regions
        .voxels
        .iter()
        .zip(volumes)
        .map(|(&voxels, volume)| {
            let missing = voxels as f64 - volume;
            let tolerance = if voxels < SMALL {
                SMALL_TOLERANCE
            } else {
                TOLERANCE
            };
            if missing.abs() <= tolerance * voxels as f64 {
                0.0
            } else {
                missing
            }
        })
        .collect();
    missing[OUTSIDE as usize] = 0.0;
    missing
}

/// Draws the regions that have nearly vanished back towards their voxels; says which vertices have moved, if any.
fn draw_back_collapsed(net: &Net, offsets: &mut [Offset], volumes: &[f64]) -> Option<Vec<bool>> {
    let is_collapsed = |region: usize, volume: f64| {
        let voxels = net.regions.voxels[region];
        voxels > 0 && volume < COLLAPSED * voxels as f64
    };
    let mut collapsed: Vec<bool> = volumes
        .iter()
        .enumerate()
        .map(|(region, &volume)| is_collapsed(region, volume))
        .collect();
    if !collapsed.contains(&true) {
        return None;
    }
    let mut moved = vec![false; offsets.len()];
    // Only their own quads need to be looked at again, which are few.
    let mut quads: Vec<usize> = (0..net.quads.len())
        .into_par_iter()
        .with_min_len(4096)
        .filter(|&quad| {
            net.quads.regions[quad]
                .iter()
                .any(|&side| collapsed[side as usize])
        })
        .collect();
    for _ in 0..DRAW_BACK_ROUNDS {
        let mut vertices: Vec<u32> = quads
            .iter()
            .flat_map(|&quad| net.quads.vertices[quad])
            .collect();
        vertices.sort_unstable();
        vertices.dedup();
        for vertex in vertices {
            let offset = &mut offsets[vertex as usize];
            *offset = Offset(offset.0.map(|value| KEEP * value));
            moved[vertex as usize] = true;
        }
        let mut volumes = vec![0.0; collapsed.len()];
        for &quad in &quads {
            let [a, b] = net.quads.regions[quad];
            let flux = LocalQuad::of(net, offsets, quad).flux(net.layer_of(quad));
            volumes[a as usize] += flux;
            volumes[b as usize] -= flux;
        }
        for (region, collapsed) in collapsed.iter_mut().enumerate() {
            *collapsed &= is_collapsed(region, volumes[region]);
        }
        quads.retain(|&quad| {
            net.quads.regions[quad]
                .iter()
                .any(|&side| collapsed[side as usize])
        });
        if quads.is_empty() {
            break;
        }
    }
    Some(moved)
}

impl Pairs {
    /// Finds the pairs; they do not change as the net moves.
    pub fn find(net: &Net) -> Self {
        let key = |&[a, b]: &[u32; 2]| u64::from(a.min(b)) << 32 | u64::from(a.max(b));
        let mut keys: Vec<u64> = net
            .quads
            .regions
            .par_iter()
            .filter(|sides| !sides.contains(&OUTSIDE))
            .map(key)
            .collect();
        keys.par_sort_unstable();
        keys.dedup();
        let of_quad = net
            .quads
            .regions
            .par_iter()
            .map(|sides| {
                if sides.contains(&OUTSIDE) {
                    u32::MAX
                } else {
                    keys.binary_search(&key(sides))
                        .map_or(u32::MAX, |index| index as u32)
                }
            })
            .collect();
        let regions = keys
            .iter()
            .map(|&key| [(key >> 32) as u32, key as u32])
            .collect();
        Self { regions, of_quad }
    }
}

/// Solves `Σ_b A_ab (δ_a - δ_b) = missing_a` by conjugate gradients with the diagonal as preconditioner.
fn solve(net: &Net, pairs: &Pairs, measures: &[Measure], missing: Vec<f64>) -> Vec<f64> {
    let count = missing.len();
    let mut diagonal = vec![0.0; count];
    let mut between = vec![0.0; pairs.regions.len()];
    for ((sides, measure), &pair) in net.quads.regions.iter().zip(measures).zip(&pairs.of_quad) {
        for &side in sides {
            diagonal[side as usize] += f64::from(measure.area);
        }
        if let Some(between) = between.get_mut(pair as usize) {
            *between += f64::from(measure.area);
        }
    }
    let apply = |vector: &[f64]| -> Vec<f64> {
        let mut result: Vec<f64> = vector.iter().zip(&diagonal).map(|(v, d)| v * d).collect();
        for (&[a, b], area) in pairs.regions.iter().zip(&between) {
            result[a as usize] -= area * vector[b as usize];
            result[b as usize] -= area * vector[a as usize];
        }
        result[OUTSIDE as usize] = 0.0;
        result
    };
    let precondition = |residual: &[f64]| -> Vec<f64> {
        residual
            .iter()
            .zip(&diagonal)
            .map(|(r, d)| r / d.max(1e-9))
            .collect()
    };
    let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };

    let mut moves = vec![0.0; count];
    let mut residual = missing;
    let mut scaled = precondition(&residual);
    let mut direction = scaled.clone();
    let mut energy = product(&residual, &scaled);
    for _ in 0..200 {
        if energy < 1e-12 {
            break;
        }
        let applied = apply(&direction);
        let curvature = product(&direction, &applied);
        if curvature <= 0.0 {
            break;
        }
        let step = energy / curvature;
        for index in 0..count {
            moves[index] += step * direction[index];
            residual[index] -= step * applied[index];
        }
        scaled = precondition(&residual);
        let next = product(&residual, &scaled);
        let ratio = next / energy;
        energy = next;
        for (direction, scaled) in direction.iter_mut().zip(&scaled) {
            *direction = scaled + ratio * *direction;
        }
    }
    moves
}

/// What the quads around a vertex ask of it: lanes 0-2 the sum of move times area vector, lane 3 that of |move| times area.
#[derive(Clone, Copy, Default)]
struct Pull {
    vector: [f32; 3],
    weighted: f32,
    area: f32,
}

/// Moves every quad by the difference of what its regions move; says which vertices that has moved.
fn move_quads(
    net: &Net,
    offsets: &mut [Offset],
    measures: &[Measure],
    moves: &[f64],
    box_voxels: f32,
) -> Vec<bool> {
    let pulls = gather_pulls(net, measures, moves);
    let mut has_moved = vec![false; offsets.len()];
    offsets
        .par_iter_mut()
        .zip(&pulls)
        .zip(&mut has_moved)
        .with_min_len(4096)
        .for_each(|((offset, pull), has_moved)| {
            let length = dot(pull.vector, pull.vector).sqrt();
            if length > 1e-12 {
                let scale = pull.weighted / pull.area.max(1e-12) / length;
                let moved: [f32; 3] = std::array::from_fn(|axis| {
                    (offset.0[axis] + pull.vector[axis] * scale).clamp(-box_voxels, box_voxels)
                });
                *offset = Offset::from_xyz(moved);
                *has_moved = true;
            }
        });
    has_moved
}

/// Sums at every vertex over its quads. The quads of a layer touch the vertices of that layer and of the next: even layers
/// run in parallel, then odd ones, so each sum has one order.
fn gather_pulls(net: &Net, measures: &[Measure], moves: &[f64]) -> Vec<Pull> {
    let mut pulls = vec![Pull::default(); net.vertices.len()];
    let vertex_counts = &net.vertices.per_layer;
    let starts = |counts: &[usize]| -> Vec<usize> {
        counts
            .iter()
            .scan(0, |sum, &count| {
                let start = *sum;
                *sum += count;
                Some(start)
            })
            .collect()
    };
    let vertex_start = starts(vertex_counts);
    let quad_start = starts(&net.quads.per_layer);
    for parity in 0..2 {
        let skipped: usize = vertex_counts.iter().take(parity).sum();
        let lengths: Vec<usize> = vertex_counts
            .get(parity..)
            .unwrap_or_default()
            .chunks(2)
            .map(|pair| pair.iter().sum())
            .collect();
        split_by_lengths(&mut pulls[skipped..], &lengths)
            .into_par_iter()
            .enumerate()
            .for_each(|(pair, pulls)| {
                let layer = 2 * pair + parity;
                let base = vertex_start[layer];
                let first = quad_start[layer];
                let quads = first..first + net.quads.per_layer[layer];
                for (index, measure) in quads.clone().zip(&measures[quads]) {
                    let [a, b] = net.quads.regions[index].map(|region| moves[region as usize]);
                    let distance = (a - b).clamp(-LONGEST_MOVE, LONGEST_MOVE) as f32;
                    let distance = if (a - b).abs() < SHORTEST_MOVE {
                        0.0
                    } else {
                        distance
                    };
                    let Measure { normal, area, .. } = *measure;
                    for vertex in net.quads.vertices[index] {
                        let pull = &mut pulls[vertex as usize - base];
                        for (sum, component) in pull.vector.iter_mut().zip(normal) {
                            *sum += distance * component;
                        }
                        pull.weighted += distance.abs() * area;
                        pull.area += area;
                    }
                }
            });
    }
    pulls
}
