//! What happens to a tile of sums: raw with statistics, upsampled with bias, or logits.

use super::{Extent, Job, SharedNumbers, Sink};
use crate::nn::Isa;
use crate::nn::arena::with_stored;
use crate::nn::graph::{Finish, Value};
use crate::nn::lanes::{Storing, store_biased, store_sums};
use crate::nn::pack::Group;

impl Job<'_> {
    /// Writes the sums `tile` (`[rows][width]`) of positions `position..position + rows`.
    pub(super) fn finish(
        &self,
        group: &Group,
        extent: Extent,
        position: usize,
        rows: usize,
        tile: &[f32],
        sums: &mut [f64; 64],
    ) {
        let width = self.op.packed.kernels[group.kernel].width;
        let window = &self.plan.window;
        window.for_each_row(
            extent.count,
            position,
            rows,
            |plane, row, x, first, count| {
                let at = [extent.first[0] + plane, extent.first[1] + row, x];
                let tile = &tile[first * width..(first + count) * width];
                match (&self.op.finish, &self.sink) {
                    (
                        Finish::Normalised { .. },
                        Sink::Value {
                            data,
                            value,
                            storing,
                            ..
                        },
                    ) => {
                        let block = value.block;
                        let sums = sums.chunks_exact_mut(2 * block);
                        for (number, sums) in sums.take(width / block).enumerate() {
                            let channel = group.first + number * block;
                            let tile = &tile[number * block..];
                            store_raw(
                                self.isa,
                                data,
                                value,
                                channel,
                                window.output,
                                at,
                                tile,
                                width,
                                sums,
                                *storing,
                            );
                        }
                    }
                    (
                        Finish::Upsampled { bias, factor, .. },
                        Sink::Value {
                            data,
                            value,
                            storing,
                            ..
                        },
                    ) => {
                        self.store_upsampled(
                            data, value, group, at, count, tile, width, bias, *factor, *storing,
                        );
                    }
                    (Finish::Logits { bias }, Sink::Logits { .. }) => {
                        self.store_logits(group.first, at, count, tile, width, bias);
                    }
                    _ => unreachable!("the executor pairs every epilogue with its target"),
                }
            },
        );
    }

    /// Stores sums plus bias at every `factor`-th voxel.
    #[allow(clippy::too_many_arguments)]
    fn store_upsampled(
        &self,
        data: &SharedNumbers<'_>,
        value: &Value,
        group: &Group,
        at: [usize; 3],
        count: usize,
        tile: &[f32],
        width: usize,
        bias: &[f32],
        factor: [usize; 3],
        storing: Storing,
    ) {
        let grid: [usize; 3] =
            std::array::from_fn(|axis| self.plan.window.output[axis] * factor[axis]);
        let [z, y, x]: [usize; 3] =
            std::array::from_fn(|axis| at[axis] * factor[axis] + group.cell[axis]);
        let block = value.block;
        let reach = (count - 1) * factor[2] + 1;
        for number in 0..width / block {
            let channel = group.first + number * block;
            let start = (((channel / block * grid[0] + z) * grid[1] + y) * grid[2] + x) * block;
            let (isa, tile, step) = (self.isa, &tile[number * block..], factor[2]);
            let bias = &bias[channel..channel + block];
            let len = reach * block;
            // SAFETY: tasks own disjoint boxes of disjoint channel blocks, with all cells of a row (splits
            // fall between stretches of channels, never between cells).
            unsafe {
                with_stored!(data, data => store_biased(
                    isa,
                    block,
                    tile,
                    width,
                    data.part(start, len),
                    step,
                    bias,
                    storing,
                ));
            }
        }
    }

    /// Writes or adds logits of the classes from `first`, un-flipped.
    fn store_logits(
        &self,
        first: usize,
        at: [usize; 3],
        count: usize,
        tile: &[f32],
        width: usize,
        bias: &[f32],
    ) {
        let &Sink::Logits {
            ref data,
            first_head,
            origin,
            grid,
            flip,
            add,
        } = &self.sink
        else {
            return;
        };
        let at: [usize; 3] = std::array::from_fn(|axis| at[axis] - origin[axis]);
        let z = if flip[0] { grid[0] - 1 - at[0] } else { at[0] };
        let y = if flip[1] { grid[1] - 1 - at[1] } else { at[1] };
        let x = if flip[2] {
            grid[2] - at[2] - count
        } else {
            at[2]
        };
        for (class, bias) in bias[first..].iter().enumerate().take(width) {
            let start = (((first - first_head + class) * grid[0] + z) * grid[1] + y) * grid[2] + x;
            // SAFETY: a task owns its box of voxels for its classes; flips map boxes to disjoint boxes.
            let target = unsafe { data.part(start, count) };
            let logits = tile.iter().skip(class).step_by(width).map(|sum| sum + bias);
            let store = |(to, logit): (&mut f32, f32)| *to = if add { *to + logit } else { logit };
            if flip[2] {
                target.iter_mut().rev().zip(logits).for_each(store);
            } else {
                target.iter_mut().zip(logits).for_each(store);
            }
        }
    }
}

/// Stores raw sums of one channel block, rows `width` apart, at `[z, y, x]` onwards, and gathers their
/// statistics.
#[allow(clippy::too_many_arguments)]
pub(super) fn store_raw(
    isa: Isa,
    data: &SharedNumbers<'_>,
    value: &Value,
    channel: usize,
    [depth, height, row]: [usize; 3],
    [z, y, x]: [usize; 3],
    tile: &[f32],
    width: usize,
    sums: &mut [f64],
    storing: Storing,
) {
    let block = value.block;
    let count = tile.len().div_ceil(width);
    let start = (((channel / block * depth + z) * height + y) * row + x) * block;
    // SAFETY: tasks own disjoint boxes of disjoint channel blocks, and a task writes one row after the
    // other.
    unsafe {
        with_stored!(data, data => store_sums(
            isa,
            block,
            tile,
            width,
            data.part(start, count * block),
            sums,
            storing,
        ));
    }
}
