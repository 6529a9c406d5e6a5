//! Copying a box of the input, normalised and padded, into a worker's slab.

use super::Input;
use crate::nn::Isa;
use crate::nn::arena::with_stored;
use crate::nn::lanes::{Activation, stage_row};
use crate::nn::number::Number;
use crate::nn::window::Window;

/// Stages the inputs for the box of `count` output planes and rows at `first`.
///
/// Layout: [`Window`]. Every float a valid output position can read is written.
pub(super) fn stage<T: Number>(
    isa: Isa,
    window: &Window,
    first: [usize; 2],
    count: [usize; 2],
    inputs: &[Input<'_>],
    slab: &mut [T],
) {
    let mut block = 0;
    for input in inputs {
        let blocks = match input {
            Input::Image { channels, .. } => channels.div_ceil(window.block),
            Input::Value { value, .. } => value.blocks(),
        };
        for local in 0..blocks {
            for phase in phases(window) {
                let start = window.phase_start(block + local, phase) * window.block;
                let len = window.phase_positions() * window.block;
                let part = &mut slab[start..start + len];
                stage_phase(isa, window, first, count, phase, input, local, part);
            }
        }
        block += blocks;
    }
}

/// All phases a kernel of this stride reads.
fn phases(window: &Window) -> impl Iterator<Item = [usize; 3]> {
    let [pz, py, px] = std::array::from_fn(|axis| window.phases(axis));
    (0..pz * py * px).map(move |index| [index / (py * px), index / px % py, index % px])
}

/// Stages one phase of one channel block.
#[allow(clippy::too_many_arguments)]
fn stage_phase<T: Number>(
    isa: Isa,
    window: &Window,
    first: [usize; 2],
    count: [usize; 2],
    phase: [usize; 3],
    input: &Input<'_>,
    local: usize,
    part: &mut [T],
) {
    let block = window.block;
    let (planes, rows) = (window.staged_planes(count[0]), window.staged_rows(count[1]));
    let row_floats = window.pitch * block;
    // The staged column of the first real voxel and its x; real columns end at `end`.
    let offset = window.pad(2) as isize - phase[2] as isize;
    let step = window.stride[2];
    let begin = (offset.max(0) as usize).div_ceil(step);
    let x = (begin * step) as isize - offset;
    let x = x as usize;
    let real = if x < window.input[2] {
        (window.input[2] - x).div_ceil(step)
    } else {
        0
    };
    let end = window.pitch.min(begin + real);
    for plane in 0..planes {
        let z = source(window, 0, first[0] * window.steps[0] + plane, phase[0]);
        for row in 0..rows {
            let y = source(window, 1, first[1] * window.steps[1] + row, phase[1]);
            let start = (plane * window.rows + row) * row_floats;
            let target = &mut part[start..start + row_floats];
            let (Some(z), Some(y)) = (z, y) else {
                target.fill(T::narrow(0.0));
                continue;
            };
            target[..begin * block].fill(T::narrow(0.0));
            target[end * block..].fill(T::narrow(0.0));
            let target = &mut target[begin * block..end * block];
            read_row(isa, window, input, local, [z, y, x], target);
        }
        if rows < window.rows {
            // The right padding of the last row, which the next staged row would hold.
            let start = (plane * window.rows + rows) * row_floats;
            part[start..start + window.pad(2) * block].fill(T::narrow(0.0));
        }
    }
    let start = planes * window.rows * row_floats;
    part[start..start + window.tail() * block].fill(T::narrow(0.0));
}

/// The input coordinate of a staged plane or row, `None` in the padding.
fn source(window: &Window, axis: usize, staged: usize, phase: usize) -> Option<usize> {
    (window.stride[axis] * staged + phase)
        .checked_sub(window.pad(axis))
        .filter(|&at| at < window.input[axis])
}

/// Reads one row of voxels from `[z, y, x]` on into `target`.
fn read_row<T: Number>(
    isa: Isa,
    window: &Window,
    input: &Input<'_>,
    local: usize,
    [z, y, x]: [usize; 3],
    target: &mut [T],
) {
    let [depth, height, width] = window.input;
    let (block, step) = (window.block, window.stride[2]);
    match input {
        Input::Value {
            data,
            value,
            scale,
            shift,
        } => {
            let start = (((local * depth + z) * height + y) * width + x) * block;
            let channels = local * block..(local + 1) * block;
            let activation = Activation {
                scale: &scale[channels.clone()],
                shift: &shift[channels],
                slope: value.slope,
            };
            let end = start + (width - x) * block;
            with_stored!(data, data => {
                stage_row(isa, block, &data[start..end], step, target, activation);
            });
        }
        Input::Image {
            data,
            channels,
            flip,
        } => {
            let z = if flip[0] { depth - 1 - z } else { z };
            let y = if flip[1] { height - 1 - y } else { y };
            for lane in 0..block {
                let channel = local * block + lane;
                let lanes = target.iter_mut().skip(lane).step_by(block);
                if channel >= *channels {
                    lanes.for_each(|to| *to = T::narrow(0.0));
                    continue;
                }
                let start = ((channel * depth + z) * height + y) * width;
                let row = &data[start..start + width];
                if flip[2] {
                    let row = row.iter().rev().skip(x).step_by(step);
                    lanes.zip(row).for_each(|(to, from)| *to = T::narrow(*from));
                } else if block == 1 && step == 1 {
                    let numbers = target.iter_mut().zip(&row[x..]);
                    numbers.for_each(|(to, from)| *to = T::narrow(*from));
                } else {
                    let row = row.iter().skip(x).step_by(step);
                    lanes.zip(row).for_each(|(to, from)| *to = T::narrow(*from));
                }
            }
        }
    }
}
