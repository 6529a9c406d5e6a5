//! Averages over boxes and sums of values, for residual blocks.
//!
//! Every voxel is computed by itself, so results do not depend on how the work is shared out.

use rayon::prelude::*;

use crate::nn::graph::Value;
use crate::nn::lanes::Activation;

/// Voxels of one task.
const VOXELS: usize = 2048;

/// An earlier result with what its readers apply.
pub(crate) struct Source<'a> {
    /// Blocks `[block][z][y][x][channel]`.
    pub data: &'a [f32],
    /// What it is.
    pub value: &'a Value,
    /// Scale per padded channel.
    pub scale: &'a [f32],
    /// Shift per padded channel.
    pub shift: &'a [f32],
}

impl Source<'_> {
    /// What is applied to the channels of one block.
    fn activation(&self, block: usize) -> Activation<'_> {
        let channels = block * self.value.block..(block + 1) * self.value.block;
        Activation {
            scale: &self.scale[channels.clone()],
            shift: &self.shift[channels],
            slope: self.value.slope,
        }
    }
}

/// Replaces `target`, raw results whose readers would apply `scale` and `shift`, by
/// `leaky_relu(scale * target + shift + source)`.
///
/// `source` has the channels and the grid of `target`. Time: one pass over both.
pub(crate) fn add(
    target: &mut [f32],
    scale: &[f32],
    shift: &[f32],
    source: &Source<'_>,
    slope: f32,
) {
    let block = source.value.block;
    let floats = target.len() / source.value.blocks().max(1);
    if floats == 0 {
        return;
    }
    let pairs = target
        .par_chunks_mut(floats)
        .zip(source.data.par_chunks(floats));
    pairs.enumerate().for_each(|(index, (to, from))| {
        let own = Activation {
            scale: &scale[index * block..(index + 1) * block],
            shift: &shift[index * block..(index + 1) * block],
            slope,
        };
        let other = source.activation(index);
        to.par_chunks_mut(VOXELS * block)
            .zip(from.par_chunks(VOXELS * block))
            .for_each(|(to, from)| match block {
                8 => add_rows::<8>(to, own, from, other),
                _ => add_rows::<16>(to, own, from, other),
            });
    });
}

/// Adds voxels of one channel block; `own.slope` is applied to the sum.
fn add_rows<const B: usize>(
    target: &mut [f32],
    own: Activation<'_>,
    source: &[f32],
    other: Activation<'_>,
) {
    let (own_scale, own_shift) = lanes::<B>(own);
    let (scale, shift) = lanes::<B>(other);
    let (target, _) = target.as_chunks_mut::<B>();
    let (source, _) = source.as_chunks::<B>();
    for (to, from) in target.iter_mut().zip(source) {
        for lane in 0..B {
            let added = leaky(from[lane] * scale[lane] + shift[lane], other.slope);
            let sum = to[lane] * own_scale[lane] + own_shift[lane] + added;
            to[lane] = leaky(sum, own.slope);
        }
    }
}

/// Fills `target` of grid `grid` with the averages of `source` over boxes of `factor` voxels; the source's grid
/// is `grid * factor`. Time: one pass over both.
pub(crate) fn average(
    target: &mut [f32],
    grid: [usize; 3],
    source: &Source<'_>,
    factor: [usize; 3],
) {
    let block = source.value.block;
    let [depth, height, width] = grid;
    target
        .par_chunks_mut(width * block)
        .enumerate()
        .for_each(|(index, to)| {
            let (plane, y) = (index / height, index % height);
            let (number, z) = (plane / depth, plane % depth);
            let rows = (0..factor[0]).flat_map(|dz| (0..factor[1]).map(move |dy| [dz, dy]));
            let rows = rows.map(|[dz, dy]| {
                let plane = number * depth * factor[0] + z * factor[0] + dz;
                let row = plane * height * factor[1] + y * factor[1] + dy;
                let floats = width * factor[2] * block;
                &source.data[row * floats..(row + 1) * floats]
            });
            let activation = source.activation(number);
            match block {
                8 => average_row::<8>(to, rows, activation, factor),
                _ => average_row::<16>(to, rows, activation, factor),
            }
        });
}

/// Averages `rows` and boxes along x of one channel block.
fn average_row<'a, const B: usize>(
    target: &mut [f32],
    rows: impl Iterator<Item = &'a [f32]>,
    activation: Activation<'_>,
    factor: [usize; 3],
) {
    let (scale, shift) = lanes::<B>(activation);
    let (target, _) = target.as_chunks_mut::<B>();
    target.fill([0.0; B]);
    for row in rows {
        let (row, _) = row.as_chunks::<B>();
        for (to, voxels) in target.iter_mut().zip(row.chunks(factor[2])) {
            for from in voxels {
                for lane in 0..B {
                    to[lane] += leaky(from[lane] * scale[lane] + shift[lane], activation.slope);
                }
            }
        }
    }
    let count = factor.iter().product::<usize>() as f32;
    for to in target {
        for value in to {
            *value /= count;
        }
    }
}

/// Scale and shift of one channel block.
fn lanes<const B: usize>(activation: Activation<'_>) -> ([f32; B], [f32; B]) {
    let array = |numbers: &[f32]| numbers.try_into().expect("one number per channel");
    (array(activation.scale), array(activation.shift))
}

/// LeakyReLU; NaN stays NaN.
#[inline(always)]
fn leaky(value: f32, slope: f32) -> f32 {
    if value < 0.0 { value * slope } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(channels: usize, slope: f32) -> Value {
        Value {
            channels,
            block: 8,
            level: 0,
            slope,
        }
    }

    #[test]
    fn averages_of_activated_voxels() {
        // Two blocks of 8 lanes, 2 x 2 x 4 voxels; lane 0 counts voxels, the other block is constant.
        let mut data = vec![0.0; 2 * 16 * 8];
        for voxel in 0..16 {
            data[voxel * 8] = voxel as f32 - 8.0;
            data[(16 + voxel) * 8 + 3] = 1.0;
        }
        let (scale, shift) = (vec![1.0; 16], vec![0.0; 16]);
        let value = value(12, 0.5);
        let source = Source {
            data: &data,
            value: &value,
            scale: &scale,
            shift: &shift,
        };
        let mut target = vec![f32::NAN; 2 * 4 * 8];
        average(&mut target, [2, 1, 2], &source, [1, 2, 2]);
        // z = 0: voxels -8 -7 / -4 -3 halved by the slope, averaged: -2.75; next box two further.
        assert_eq!(target[0], -2.75);
        assert_eq!(target[8], -1.75);
        assert_eq!(target[16], (0.0 + 1.0 + 4.0 + 5.0) / 4.0);
        assert_eq!(target[4 * 8 + 3], 1.0);
        assert_eq!(target[1], 0.0);
    }

    #[test]
    fn sums_are_activated_after_adding() {
        let value = value(8, 0.1);
        let (scale, shift) = (vec![2.0; 8], vec![1.0; 8]);
        let mut target = vec![-3.0; 8];
        target[7] = 4.0;
        let data = vec![-1.0; 8];
        let source = Source {
            data: &data,
            value: &value,
            scale: &scale,
            shift: &shift,
        };
        add(&mut target, &[1.0; 8], &[0.5; 8], &source, 0.01);
        // Source: 2 * -1 + 1 = -1, by its slope -0.1; sums: -3 + 0.5 - 0.1 and 4 + 0.5 - 0.1.
        assert!((target[0] + 0.026).abs() < 1e-7, "{}", target[0]);
        assert!((target[7] - 4.4).abs() < 1e-6, "{}", target[7]);
    }
}
