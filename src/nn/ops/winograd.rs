//! A box of a convolution by Winograd's algorithm: transform, multiply, transform back, store.

use super::{Extent, Job, Sink, finish::store_raw};
use crate::nn::arena::Stored;
use crate::nn::partition::CellPlan;
use crate::nn::winograd::{input_cell, output_cell};

/// Channels per block; narrower layers are computed directly.
const BLOCK: usize = 16;

impl Job<'_> {
    /// Computes the channel groups `units` of one staged box.
    pub(super) fn winograd(
        &self,
        cells: &CellPlan,
        units: std::ops::Range<usize>,
        extent: Extent,
        slab: &[f32],
        scratch: &mut [f32],
    ) {
        let (window, packed) = (&self.plan.window, &self.op.packed);
        let points = packed.cells;
        let [thick, edge, _] = cells.cell.outputs();
        let grid = [
            extent.count[0].div_ceil(thick),
            extent.count[1].div_ceil(edge),
            window.output[2].div_ceil(edge),
        ];
        let total = grid[0] * grid[1] * grid[2];
        let (inputs, rest) = scratch.split_at_mut(cells.input_floats);
        let (products, lines) = rest.split_at_mut(cells.product_floats);
        let mut sums = vec![[0f64; 64]; units.len()];
        let strides = [window.rows * window.pitch * BLOCK, window.pitch * BLOCK];
        let steps = window.steps;
        let place = |cell: usize| {
            let (z, y, x) = (
                cell / (grid[1] * grid[2]),
                cell / grid[2] % grid[1],
                cell % grid[2],
            );
            [z * thick, y * edge, x * edge]
        };
        for start in (0..total).step_by(cells.batch) {
            let count = cells.batch.min(total - start);
            for index in 0..count {
                let [z, y, x] = place(start + index);
                let position =
                    (z * steps[0] * window.rows + y * steps[1]) * window.pitch + x * steps[2];
                for block in 0..window.blocks {
                    let from = (window.phase_start(block, [0; 3]) + position) * BLOCK;
                    let to = (block * cells.batch + index) * BLOCK;
                    input_cell(
                        self.isa,
                        cells.cell,
                        &slab[from..],
                        strides,
                        &mut inputs[to..],
                        cells.input_step,
                    );
                }
            }
            for (unit, sums) in units.clone().zip(&mut sums) {
                let groups = &packed.groups[unit * points..(unit + 1) * points];
                let kernel = &packed.kernels[groups[0].kernel];
                let ready = kernel.ready();
                let width = kernel.width;
                let step = cells.batch * width + BLOCK;
                for (point, (group, chunk)) in groups.iter().zip(&cells.chunks).enumerate() {
                    let weights = packed.weights(group);
                    for slot in kernel.tiles(count) {
                        // A tile may overrun into the next point's place, which is written after it.
                        let c = &mut products[point * step + slot.start * width..];
                        let inputs = Stored::Single(&*inputs);
                        ready.run(
                            slot,
                            inputs,
                            slot.start,
                            &cells.runs,
                            chunk,
                            weights,
                            c,
                            false,
                        );
                    }
                }
                let mut index = 0;
                while index < count {
                    let at = place(start + index);
                    let here = (count - index).min(grid[2] - at[2] / edge);
                    for block in 0..width / BLOCK {
                        for cell in 0..here {
                            let from = (index + cell) * width + block * BLOCK;
                            let to = &mut lines[cell * edge * BLOCK..];
                            output_cell(
                                self.isa,
                                cells.cell,
                                &products[from..],
                                step,
                                to,
                                edge * cells.batch * BLOCK,
                            );
                        }
                        let sums = &mut sums[block * 2 * BLOCK..(block + 1) * 2 * BLOCK];
                        let channel = groups[0].first + block * BLOCK;
                        self.store_lines(extent, at, here, channel, lines, cells, sums);
                    }
                    index += here;
                }
            }
        }
        for (unit, sums) in units.zip(&sums) {
            let group = &packed.groups[unit * points];
            self.keep_sums(
                group.first,
                packed.kernels[group.kernel].width,
                extent.index,
                sums,
            );
        }
    }

    /// Stores the rows of `cells` neighbouring output cells that lie inside the volume.
    #[allow(clippy::too_many_arguments)]
    fn store_lines(
        &self,
        extent: Extent,
        at: [usize; 3],
        cells: usize,
        channel: usize,
        lines: &[f32],
        plan: &CellPlan,
        sums: &mut [f64],
    ) {
        let Sink::Value {
            data,
            value,
            storing,
            ..
        } = &self.sink
        else {
            unreachable!("only normalised convolutions are computed by cells");
        };
        let output = self.plan.window.output;
        let [planes, edge, _] = plan.cell.outputs();
        let columns = (edge * cells).min(output[2] - at[2]);
        let row_floats = edge * plan.batch * BLOCK;
        for plane in 0..planes.min(extent.count[0] - at[0]) {
            for row in 0..edge.min(extent.count[1] - at[1]) {
                let line = &lines[(plane * edge + row) * row_floats..][..columns * BLOCK];
                let to = [
                    extent.first[0] + at[0] + plane,
                    extent.first[1] + at[1] + row,
                    at[2],
                ];
                store_raw(
                    self.isa, data, value, channel, output, to, line, BLOCK, sums, *storing,
                );
            }
        }
    }
}
