//! Single operations against plain f64 loops: every instruction set, odd sizes, every way to cut boxes.

use half::bf16;

use super::*;
use crate::nn::graph::Value;
use crate::nn::kernel::Kernel;
use crate::nn::pack::{Feed, Packed, Shape};
use crate::nn::partition::{Choice, plan_boxes};
use crate::nn::window::output_grid;
use crate::nn::winograd::Cell;

/// Reproducible numbers in -1..1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// One layer to test.
#[derive(Debug, Clone)]
struct Case {
    kernel: [usize; 3],
    stride: [usize; 3],
    grid: [usize; 3],
    /// Channels of each concatenated input; one input means the image when `image`.
    inputs: Vec<usize>,
    image: bool,
    outputs: usize,
}

fn block_for(channels: usize) -> usize {
    if channels <= 8 { 8 } else { 16 }
}

/// `[block][voxel][channel]` from `[channel][voxel]`.
fn blocked(planar: &[f32], voxels: usize, block: usize) -> Vec<f32> {
    let channels = planar.len() / voxels;
    let mut result = vec![0.0; channels.div_ceil(block) * block * voxels];
    for (index, value) in planar.iter().enumerate() {
        let (channel, voxel) = (index / voxels, index % voxels);
        result[(channel / block * voxels + voxel) * block + channel % block] = *value;
    }
    result
}

/// The convolution as loops, "same" padding, f64; `[channel][voxel]`.
fn naive(case: &Case, input: &[f64], weight: &[f32]) -> Vec<f64> {
    let (g, o) = (case.grid, output_grid(case.grid, case.stride));
    let channels: usize = case.inputs.iter().sum();
    let k = case.kernel;
    let mut result = Vec::new();
    for co in 0..case.outputs {
        for index in 0..o.iter().product::<usize>() {
            let at = [index / (o[1] * o[2]), index / o[2] % o[1], index % o[2]];
            let mut sum = 0.0;
            for tap in 0..k.iter().product::<usize>() {
                let t = [tap / (k[1] * k[2]), tap / k[2] % k[1], tap % k[2]];
                let from: [isize; 3] = std::array::from_fn(|axis| {
                    (at[axis] * case.stride[axis] + t[axis]) as isize - (k[axis] / 2) as isize
                });
                if (0..3).any(|axis| from[axis] < 0 || from[axis] >= g[axis] as isize) {
                    continue;
                }
                let voxel = (from[0] as usize * g[1] + from[1] as usize) * g[2] + from[2] as usize;
                for ci in 0..channels {
                    let w = weight[(co * channels + ci) * k.iter().product::<usize>() + tap];
                    sum += f64::from(w) * input[ci * g.iter().product::<usize>() + voxel];
                }
            }
            result.push(sum);
        }
    }
    result
}

/// Runs `case` with boxes of `extent` on `isa` and compares raw values and sums with [`naive`].
fn check(case: &Case, isa: Isa, extent: [usize; 2], splits: usize) {
    check_algorithm(case, isa, Factors::Single, extent, splits, None);
    let full = case.outputs > 8 && case.inputs.iter().all(|&channels| channels > 8);
    if !case.image && full && [Isa::Scalar, Isa::Amx].contains(&isa) {
        check_algorithm(case, isa, Factors::Half, extent, splits, None);
    }
}

fn check_algorithm(
    case: &Case,
    isa: Isa,
    factors: Factors,
    extent: [usize; 2],
    splits: usize,
    cell: Option<Cell>,
) {
    let mut noise = Noise(7);
    let voxels: usize = case.grid.iter().product();
    let channels: usize = case.inputs.iter().sum();
    let volume: usize = case.kernel.iter().product();
    let mut weight = noise.vec(case.outputs * channels * volume);
    if factors == Factors::Half {
        weight = weight.iter().map(|&w| bf16::from_f32(w).to_f32()).collect();
    }
    let block_in = match (case.image, channels) {
        (true, 1 | 2) => channels,
        (true, 3 | 4) => 4,
        _ => block_for(case.inputs[0]),
    };
    let feeds: Vec<Feed> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(value, &channels)| Feed {
            value: (!case.image).then_some(value),
            channels,
        })
        .collect();
    let shape = Shape {
        feeds: &feeds,
        block_in,
        kernel: case.kernel,
        stride: case.stride,
        channels_out: case.outputs,
        block_out: block_for(case.outputs),
        cells: [1; 3],
        points_of: None,
    };
    let blocks_in = shape.blocks();
    let k = case.kernel;
    let packed = match cell {
        Some(cell) => {
            let mut packed = Packed::layout(isa, factors, &shape.for_cell(cell));
            packed.fill_transformed(&shape, cell, &weight).unwrap();
            packed
        }
        None => {
            let mut packed = Packed::layout(isa, factors, &shape);
            packed
                .fill(&shape, |co, ci, [z, y, x], _| {
                    weight[(co * channels + ci) * volume + (z * k[1] + y) * k[2] + x]
                })
                .unwrap();
            packed
        }
    };
    let value = |channels: usize, slope: f32| Value {
        channels,
        block: block_for(channels),
        level: 0,
        slope,
    };
    let op = Op {
        name: String::new(),
        feeds: feeds.clone(),
        block_in,
        blocks_in,
        kernel: case.kernel,
        stride: case.stride,
        level: 0,
        channels_out: case.outputs,
        packed,
        cell,
        finish: Finish::Normalised {
            value: 9,
            gamma: Vec::new(),
            beta: Vec::new(),
        },
        before: None,
        after: None,
    };
    // Inputs: raw numbers, scales and shifts, and what readers must see, in f64.
    let values: Vec<Value> = case.inputs.iter().map(|&c| value(c, 0.1)).collect();
    let mut seen = Vec::new();
    let mut stored = Vec::new();
    for value in &values {
        let raw = noise.vec(value.channels * voxels);
        let (mut scale, mut shift) = (noise.vec(value.channels), noise.vec(value.channels));
        for (index, &x) in raw.iter().enumerate() {
            let channel = index / voxels;
            let y = f64::from(x) * f64::from(scale[channel]) + f64::from(shift[channel]);
            let bent = if y < 0.0 { y * f64::from(0.1f32) } else { y };
            let halved = f64::from(bf16::from_f32(bent as f32));
            seen.push(match factors {
                Factors::Single if case.image => f64::from(x),
                Factors::Single => bent,
                Factors::Half => halved,
            });
        }
        scale.resize(value.padded(), 0.0);
        shift.resize(value.padded(), 0.0);
        let data = if case.image {
            raw
        } else {
            blocked(&raw, voxels, value.block)
        };
        stored.push((data, scale, shift));
    }
    let inputs: Vec<Input<'_>> = stored
        .iter()
        .zip(&values)
        .map(|((data, scale, shift), value)| {
            if case.image {
                let (channels, flip) = (value.channels, [false; 3]);
                Input::Image {
                    data,
                    channels,
                    flip,
                }
            } else {
                Input::Value {
                    data: Stored::Single(data),
                    value,
                    scale,
                    shift,
                }
            }
        })
        .collect();
    let choice = Choice {
        cost: 0.0,
        extent,
        splits,
    };
    let plan = plan_boxes(&op, case.grid, choice);
    let out_voxels: usize = plan.window.output.iter().product();
    let output = value(case.outputs, 1.0);
    let mut data = vec![f32::NAN; output.padded() * out_voxels];
    let boxes = plan.boxes[0] * plan.boxes[1];
    let mut partials = vec![f64::NAN; boxes * 2 * output.padded()];
    let pool = ScratchPool::new(1, plan.scratch_floats()).unwrap();
    // Leftovers of another layer must not matter.
    pool.with(|buffer| buffer.fill(1e30)).unwrap();
    let target = Target::Value {
        data: Stored::Single(&mut data),
        value: &output,
        partials: &mut partials,
    };
    run(isa, &op, &plan, &inputs, target, &pool).unwrap();
    let expected = naive(case, &seen, &weight);
    let context = format!("{case:?} {} {extent:?} {splits}", isa.name());
    // Rounding of a running f32 sum of so many terms of size up to 2 that itself grows like their root.
    let mut tolerance = 6e-8 * ((channels * volume) as f64).max(32.0) * 2.0;
    if cell.is_some_and(|cell| cell.edge == 4) {
        tolerance *= 5.0;
    }
    if factors == Factors::Half {
        // An activated number next to the middle of two 16-bit ones may go either way.
        tolerance += 8e-3;
    }
    for (index, want) in expected.iter().enumerate() {
        let (channel, voxel) = (index / out_voxels, index % out_voxels);
        let block = output.block;
        let got = data[(channel / block * out_voxels + voxel) * block + channel % block];
        let distance = (f64::from(got) - want).abs();
        assert!(distance <= tolerance, "{context}: {got} {want} at {index}");
    }
    for channel in 0..case.outputs {
        let stretch = &expected[channel * out_voxels..(channel + 1) * out_voxels];
        let mut moments = [0.0; 2];
        for pair in partials.chunks(2 * output.padded()) {
            moments[0] += pair[channel];
            moments[1] += pair[output.padded() + channel];
        }
        let sum: f64 = stretch.iter().sum();
        let squares: f64 = stretch.iter().map(|v| v * v).sum();
        let bound = tolerance * out_voxels as f64;
        assert!((moments[0] - sum).abs() <= bound, "{context}: sum");
        assert!(
            (moments[1] - squares).abs() <= 20.0 * bound * (1.0 + squares.sqrt()),
            "{context}: squares"
        );
    }
}

fn case(
    kernel: [usize; 3],
    stride: [usize; 3],
    grid: [usize; 3],
    inputs: &[usize],
    outputs: usize,
) -> Case {
    Case {
        kernel,
        stride,
        grid,
        inputs: inputs.to_vec(),
        image: false,
        outputs,
    }
}

#[test]
fn convolutions_of_every_shape_agree_with_plain_loops() {
    let cases = [
        case([3, 3, 3], [1, 1, 1], [4, 5, 7], &[8], 8),
        case([3, 3, 3], [2, 2, 2], [5, 6, 7], &[8], 16),
        case([3, 3, 3], [1, 1, 1], [3, 4, 31], &[16], 32),
        case([3, 3, 3], [2, 2, 2], [4, 4, 5], &[32], 48),
        case([1, 3, 3], [1, 2, 2], [3, 7, 9], &[5], 7),
        case([3, 1, 1], [2, 1, 2], [6, 3, 5], &[20], 20),
        case([5, 7, 1], [1, 2, 1], [6, 9, 3], &[8], 9),
        case([1, 1, 7], [1, 1, 2], [1, 2, 16], &[17], 33),
        case([7, 5, 5], [2, 1, 2], [3, 2, 9], &[3], 8),
        case([3, 3, 3], [1, 1, 1], [3, 4, 6], &[6, 6], 6),
        case([3, 3, 3], [1, 1, 1], [2, 3, 5], &[24, 24], 40),
        case([3, 3, 3], [1, 1, 1], [1, 1, 1], &[16], 16),
        case([3, 3, 3], [2, 2, 2], [1, 2, 1], &[9], 17),
        case([3, 3, 3], [1, 1, 1], [3, 3, 4], &[100], 33),
        case([1, 1, 1], [1, 1, 1], [2, 3, 40], &[16], 5),
    ];
    for case in &cases {
        let output = output_grid(case.grid, case.stride);
        for isa in Isa::available() {
            for extent in [
                [1, 1],
                [2, 3],
                [1, output[1]],
                [output[0], 2],
                [output[0], output[1]],
            ] {
                let extent = std::array::from_fn(|axis| extent[axis].min(output[axis]));
                check(case, isa, extent, 1);
            }
        }
    }
}

#[test]
fn images_of_few_and_many_channels_are_read_without_padding_channels() {
    for channels in [1, 2, 3, 4, 5, 9] {
        for (kernel, stride) in [([3, 3, 3], [1, 1, 1]), ([1, 3, 5], [1, 2, 2])] {
            for outputs in [7, 12, 32] {
                let mut case = case(kernel, stride, [3, 5, 19], &[channels], outputs);
                case.image = true;
                for isa in Isa::available() {
                    check(&case, isa, [2, 2], 1);
                    check(&case, isa, [3, output_grid(case.grid, stride)[1]], 1);
                }
            }
        }
    }
}

#[test]
fn winograd_agrees_with_plain_loops_at_odd_sizes_and_partial_boxes() {
    let cases = [
        case([3, 3, 3], [1, 1, 1], [4, 6, 8], &[16], 32),
        case([3, 3, 3], [1, 1, 1], [3, 5, 7], &[20], 17),
        case([3, 3, 3], [1, 1, 1], [5, 3, 1], &[32, 32], 48),
        case([3, 3, 3], [1, 1, 1], [1, 1, 1], &[16], 16),
        case([3, 3, 3], [1, 1, 1], [2, 9, 31], &[17], 80),
        case([1, 3, 3], [1, 1, 1], [3, 5, 9], &[24, 24], 40),
        case([1, 3, 3], [1, 1, 1], [1, 8, 70], &[48], 16),
        case([3, 3, 3], [2, 2, 2], [8, 8, 8], &[16], 32),
        case([3, 3, 3], [2, 2, 2], [5, 7, 9], &[20], 17),
        case([3, 3, 3], [2, 2, 2], [1, 2, 30], &[17], 48),
        case([1, 3, 3], [1, 2, 2], [3, 9, 11], &[24, 24], 40),
    ];
    for case in &cases {
        let edges: &[usize] = if case.stride[2] == 2 { &[2] } else { &[2, 4] };
        for &edge in edges {
            let thick = if case.kernel[0] == 1 { 1 } else { edge };
            let cell = Some(Cell {
                planes: thick,
                edge,
                stride: case.stride[2],
            });
            let output = output_grid(case.grid, case.stride);
            let rows = output[1].next_multiple_of(edge);
            let planes = output[0].next_multiple_of(thick);
            for isa in Isa::available() {
                for extent in [[planes, rows], [planes, edge], [thick, rows.min(2 * edge)]] {
                    let units = Kernel::widths(isa, case.outputs, 16).len();
                    check_algorithm(case, isa, Factors::Single, extent, 1, cell);
                    check_algorithm(case, isa, Factors::Single, extent, units, cell);
                }
            }
        }
    }
}

#[test]
fn splits_of_output_channels_change_nothing() {
    let case = case([3, 3, 3], [1, 1, 1], [2, 3, 4], &[16], 112);
    for isa in Isa::available() {
        for splits in [1, 2, 3, 4] {
            check(&case, isa, [1, 3], splits);
        }
    }
}
