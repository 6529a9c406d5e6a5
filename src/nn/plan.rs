//! How a network will run on one patch size: boxes, tiles and memory, all decided before allocating.
//!
//! The partition depends on shapes alone, never on the number of threads, so that sums are added in the
//! same order everywhere.

use std::ops::Range;

use super::Error;
use super::arena::{LINE, Lifetime, place};
use super::graph::{Finish, Graph};
use super::partition::{OpPlan, plan_op};
use super::window::output_grid;

/// Memory and work of one forward pass, known before anything is allocated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Patch `[z, y, x]`.
    pub(crate) patch: [usize; 3],
    /// Grid of each resolution level.
    pub(crate) grids: Vec<[usize; 3]>,
    /// First float of each value in the arena.
    pub(crate) offsets: Vec<usize>,
    /// First float of each value's scale and shift (`[2][padded channels]`).
    pub(crate) norms: Vec<usize>,
    /// How each operation runs.
    pub(crate) ops: Vec<OpPlan>,
    /// Floats of activations.
    pub(crate) arena_floats: usize,
    /// Floats of scales and shifts.
    pub(crate) norm_floats: usize,
    /// Doubles of partial sums.
    pub(crate) partial_sums: usize,
    /// Floats of scratch per worker.
    pub(crate) scratch_floats: usize,
    /// Floats of a box of logits.
    pub(crate) box_floats: usize,
}

/// The grid of each resolution level for a patch.
pub(crate) fn level_grids(
    strides: impl Iterator<Item = [usize; 3]>,
    patch: [usize; 3],
) -> Vec<[usize; 3]> {
    let mut grid = patch;
    strides
        .map(|stride| {
            grid = output_grid(grid, stride);
            grid
        })
        .collect()
}

impl Plan {
    /// Bytes an executor allocates for the patch: activations, scales and partial sums.
    pub fn arena_bytes(&self) -> usize {
        (self.arena_floats + self.norm_floats) * size_of::<f32>()
            + self.partial_sums * size_of::<f64>()
    }

    /// Bytes of scratch each worker thread needs on top.
    pub fn scratch_bytes_per_thread(&self) -> usize {
        self.scratch_floats * size_of::<f32>()
    }

    /// Bytes of the logits of one box, which every worker needs in [`Executor::run_boxes`](super::Executor::run_boxes).
    pub fn box_bytes_per_thread(&self) -> usize {
        self.box_floats * size_of::<f32>()
    }

    /// Bytes in all for `threads` workers.
    pub fn total_bytes(&self, threads: usize) -> usize {
        self.arena_bytes() + threads * self.scratch_bytes_per_thread()
    }

    /// The patch `[z, y, x]` in voxels.
    pub fn patch(&self) -> [usize; 3] {
        self.patch
    }

    /// Bytes of `value`.
    pub(crate) fn value_bytes(&self, graph: &Graph, value: usize) -> usize {
        self.region(graph, value).len() * size_of::<f32>()
    }

    /// The floats of `value` in the arena.
    pub(crate) fn region(&self, graph: &Graph, value: usize) -> Range<usize> {
        let voxels = self.grids[graph.values[value].level].iter().product();
        let floats = graph.floats(value, voxels);
        self.offsets[value]..self.offsets[value] + floats.expect("planned without overflow")
    }

    /// Scale and shift that readers of `value` apply.
    pub(crate) fn norm<'n>(
        &self,
        graph: &Graph,
        norms: &'n [f32],
        value: usize,
    ) -> (&'n [f32], &'n [f32]) {
        let padded = graph.values[value].padded();
        let start = self.norms[value];
        norms[start..start + 2 * padded].split_at(padded)
    }

    /// Marks `value` as one that is read as it is.
    pub(crate) fn unscale(&self, graph: &Graph, norms: &mut [f32], value: usize) {
        let padded = graph.values[value].padded();
        let start = self.norms[value];
        norms[start..start + padded].fill(1.0);
        norms[start + padded..start + 2 * padded].fill(0.0);
    }

    /// Plans `graph` for `patch`, which is a multiple of all strides.
    pub(crate) fn new(
        graph: &Graph,
        strides: impl Iterator<Item = [usize; 3]>,
        patch: [usize; 3],
    ) -> Result<Self, Error> {
        let too_large = || Error::Memory {
            what: "a patch of this size",
            bytes: usize::MAX,
        };
        let grids = level_grids(strides, patch);
        let voxels = |level: usize| {
            grids[level]
                .iter()
                .try_fold(1usize, |product, &n| product.checked_mul(n))
        };
        let mut lifetimes = Vec::with_capacity(graph.values.len());
        for (index, value) in graph.values.iter().enumerate() {
            let written = graph.ops.iter().position(|op| op.writes(index));
            let read = graph.ops.iter().rposition(|op| op.reads(index));
            let written = written.expect("every value has a writer");
            let len = voxels(value.level)
                .and_then(|count| graph.floats(index, count))
                .filter(|&len| len < isize::MAX as usize / 64)
                .ok_or_else(too_large)?;
            lifetimes.push(Lifetime {
                len,
                steps: [written, read.unwrap_or(written)],
            });
        }
        let (offsets, arena_floats) = place(&lifetimes);
        let mut norm_floats = 0;
        let norms = graph
            .values
            .iter()
            .map(|value| {
                let start = norm_floats;
                norm_floats += 2 * value.padded();
                start
            })
            .collect();
        let ops: Vec<OpPlan> = graph
            .ops
            .iter()
            .map(|op| plan_op(op, grids[op.level]))
            .collect();
        let partial_sums = graph
            .ops
            .iter()
            .zip(&ops)
            .map(|(op, plan)| match op.finish {
                Finish::Normalised { value, .. } => {
                    plan.boxes[0] * plan.boxes[1] * graph.values[value].padded() * 2
                }
                _ => 0,
            })
            .max()
            .unwrap_or(0);
        let scratch_floats = ops
            .iter()
            .map(OpPlan::scratch_floats)
            .max()
            .unwrap_or(0)
            .next_multiple_of(LINE);
        let box_floats = graph
            .ops
            .iter()
            .zip(&ops)
            .filter(|(op, _)| matches!(op.finish, Finish::Logits { .. }))
            .map(|(op, plan)| {
                let [planes, rows] = plan.window.extent;
                op.channels_out * planes * rows * plan.window.output[2]
            })
            .max()
            .unwrap_or(0);
        Ok(Self {
            box_floats,
            patch,
            grids,
            offsets,
            norms,
            ops,
            arena_floats,
            norm_floats: norm_floats.next_multiple_of(LINE),
            partial_sums,
            scratch_floats,
        })
    }
}
