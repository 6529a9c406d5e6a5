//! Cubic B-spline resampling, streamed through the volume.
//!
//! An interpolating cubic spline needs coefficients first: along every axis a recursive filter runs
//! forward and backward over the whole line (pole `sqrt(3) - 2`; Unser, Aldroubi and Eden 1993).
//! As SciPy does for `mode="nearest"`, every line is first extended by 12 copies of its edge values,
//! and the filter starts from a half-sample-symmetric continuation of that line.
//!
//! SciPy holds the padded volume in `f64`. Here each source slice is filtered and evaluated in-plane
//! as soon as it is read, and the z axis is filtered in blocks: the forward recursion carries its
//! state from block to block, the backward recursion starts [`LOOKAHEAD`] slices ahead, where an
//! arbitrary start value has decayed below one part in 10^18. The working set is at most
//! `BLOCK_SPAN + LOOKAHEAD + 8` planes of the target's in-plane size in `f64`, whatever the number of
//! slices. Results differ from SciPy's by rounding only (below 2e-12 on a range of 2000).

use super::axis::{self, Alignment, CubicTap, SPLINE_PADDING};
use super::{Sample, build};
use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, CowArray, Ix2};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

/// Pole of the cubic B-spline filter, `sqrt(3) - 2`.
const POLE: f64 = -0.267_949_192_431_122_7;
/// `(1 - POLE) * (1 - 1 / POLE)`.
const GAIN: f64 = 6.0;
/// Samples after which the filter has forgotten its start: `|POLE|^36` is 2.6e-21.
const LOOKAHEAD: usize = 36;
/// Coefficient slices that one block of the z pass spans.
const BLOCK_SPAN: usize = 32;
/// Slices of the result that are made at a time, at most.
pub(super) const MOST_SLICES: usize = 2 * BLOCK_SPAN;
/// Lines that are filtered together, so that the recursion runs in vector registers.
const LANES: usize = 8;

/// Smallest and largest value, NaN ignored; `None` without any number.
pub(super) fn value_range<T: Sample>(values: ArrayView3<'_, T>) -> Option<(f64, f64)> {
    let ranges: Vec<_> = (0..values.len_of(Axis(0)))
        .into_par_iter()
        .map(|z| slice_range(&values.index_axis(Axis(0), z)))
        .collect();
    ranges
        .into_iter()
        .flatten()
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// [`value_range`] of one slice.
pub(super) fn slice_range<T: Sample>(values: &ArrayView2<'_, T>) -> Option<(f64, f64)> {
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    for value in values {
        let value = value.to_f64();
        low = low.min(value);
        high = high.max(value);
    }
    (low <= high).then_some((low, high))
}

/// Keeps NaN, as `numpy.clip` does.
pub(super) fn clip(value: f64, range: Option<(f64, f64)>) -> f64 {
    match range {
        Some((low, _)) if value < low => low,
        Some((_, high)) if value > high => high,
        _ => value,
    }
}

/// Weights of the first samples of a line of `n` in the forward recursion's start value: the sum over
/// the half-sample-symmetric continuation, cut where it no longer counts.
fn start_weights(n: usize) -> Vec<f64> {
    let power = |exponent: usize| POLE.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
    let scale = POLE / (1.0 - power(2 * n));
    (0..n.min(LOOKAHEAD))
        .map(|index| {
            let own = if index == 0 { 1.0 } else { 0.0 };
            own + scale * (power(index) + power(2 * n - 1 - index))
        })
        .collect()
}

/// Turns samples into spline coefficients, in place, for `LANES` lines at once.
fn filter(lines: &mut [[f64; LANES]], start: &[f64]) {
    let mut first = [0.0; LANES];
    for (sample, weight) in lines.iter().zip(start) {
        for lane in 0..LANES {
            first[lane] += GAIN * sample[lane] * weight;
        }
    }
    let mut state = first;
    for (index, sample) in lines.iter_mut().enumerate() {
        if index > 0 {
            for lane in 0..LANES {
                state[lane] = GAIN * sample[lane] + POLE * state[lane];
            }
        }
        *sample = state;
    }
    for lane in &mut state {
        *lane *= POLE / (POLE - 1.0);
    }
    let Some((last, rest)) = lines.split_last_mut() else {
        return;
    };
    *last = state;
    for sample in rest.iter_mut().rev() {
        for lane in 0..LANES {
            state[lane] = POLE * (state[lane] - sample[lane]);
        }
        *sample = state;
    }
}

/// The spline at one tap, for `LANES` lines at once.
fn evaluate(coefficients: &[[f64; LANES]], tap: &CubicTap) -> [f64; LANES] {
    let mut sum = [0.0; LANES];
    for (sample, weight) in coefficients[tap.start..tap.start + 4]
        .iter()
        .zip(tap.weights)
    {
        for lane in 0..LANES {
            sum[lane] += sample[lane] * weight;
        }
    }
    sum
}

/// Copies the edge samples of a line into its padding.
fn pad_edges(lines: &mut [[f64; LANES]]) {
    let inner = SPLINE_PADDING..lines.len() - SPLINE_PADDING;
    let (first, last) = (lines[inner.start], lines[inner.end - 1]);
    lines[..inner.start].fill(first);
    lines[inner.end..].fill(last);
}

/// In-plane part of a cubic resampling: `[y, x]` slices to `[y, x]` slices of `f64`.
pub(super) struct PlaneResampler {
    source: (usize, usize),
    y: Vec<CubicTap>,
    x: Vec<CubicTap>,
    y_start: Vec<f64>,
    x_start: Vec<f64>,
}

impl PlaneResampler {
    /// Prepares for slices of `source` = (y, x) samples, both positive.
    pub fn new(source: (usize, usize), target: (usize, usize), alignment: Alignment) -> Self {
        Self {
            source,
            y: axis::cubic(source.0, target.0, alignment),
            x: axis::cubic(source.1, target.1, alignment),
            y_start: start_weights(source.0 + 2 * SPLINE_PADDING),
            x_start: start_weights(source.1 + 2 * SPLINE_PADDING),
        }
    }

    /// One slice, not clipped.
    pub fn slice<T: Sample>(&self, slice: &ArrayView2<'_, T>) -> Array2<f64> {
        let (source_y, source_x) = self.source;
        let (target_y, target_x) = (self.y.len(), self.x.len());
        let mut rows = Array2::<f64>::zeros((source_y, target_x));
        let mut lines = vec![[0.0; LANES]; source_x + 2 * SPLINE_PADDING];
        for top in (0..source_y).step_by(LANES) {
            let lanes = LANES.min(source_y - top);
            for lane in 0..lanes {
                for (sample, value) in lines[SPLINE_PADDING..]
                    .iter_mut()
                    .zip(slice.row(top + lane))
                {
                    sample[lane] = value.to_f64();
                }
            }
            pad_edges(&mut lines);
            filter(&mut lines, &self.x_start);
            for (x, tap) in self.x.iter().enumerate() {
                let values = evaluate(&lines, tap);
                for (lane, &value) in values.iter().enumerate().take(lanes) {
                    rows[[top + lane, x]] = value;
                }
            }
        }
        let mut result = Array2::<f64>::zeros((target_y, target_x));
        let mut lines = vec![[0.0; LANES]; source_y + 2 * SPLINE_PADDING];
        for left in (0..target_x).step_by(LANES) {
            let lanes = left..(left + LANES).min(target_x);
            for (sample, row) in lines[SPLINE_PADDING..].iter_mut().zip(rows.rows()) {
                for (lane, x) in lanes.clone().enumerate() {
                    sample[lane] = row[x];
                }
            }
            pad_edges(&mut lines);
            filter(&mut lines, &self.y_start);
            for (mut row, tap) in result.rows_mut().into_iter().zip(&self.y) {
                let values = evaluate(&lines, tap);
                for (lane, x) in lanes.clone().enumerate() {
                    row[x] = values[lane];
                }
            }
        }
        result
    }
}

/// One block of output slices and the coefficient range (padded indices) it reads.
struct Block {
    outputs: Range<usize>,
    /// First coefficient of the block.
    first: usize,
    /// One past the last coefficient that is read or filtered ahead.
    end: usize,
    /// First coefficient of the next block.
    next_first: usize,
}

fn plan_blocks(taps: &[CubicTap], padded: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut from = 0;
    while let Some(opening) = taps.get(from) {
        let first = opening.start;
        let count = taps[from..]
            .iter()
            .take(MOST_SLICES)
            .take_while(|tap| tap.start < first + BLOCK_SPAN)
            .count();
        let to = from + count.max(1);
        let next_first = taps.get(to).map_or(padded, |tap| tap.start);
        let needed = taps[to - 1].start + 4 + LOOKAHEAD;
        let carried = if to < taps.len() { next_first } else { 0 };
        // The start value of the first block sums over the first LOOKAHEAD samples.
        let opening_needs = if from == 0 { LOOKAHEAD } else { 0 };
        blocks.push(Block {
            outputs: from..to,
            first: if from == 0 { 0 } else { first },
            end: needed.max(carried).max(opening_needs).min(padded),
            next_first,
        });
        from = to;
    }
    blocks
}

/// Cubic resampling of a whole volume. `source` and `target_shape` are not empty. Values are clipped
/// to `range`. Slices and rows in parallel; the result does not depend on the number of threads.
pub(super) fn resize<T: Sample, U: Sample>(
    source: ArrayView3<'_, T>,
    target_shape: [usize; 3],
    alignment: Alignment,
    range: Option<(f64, f64)>,
) -> Array3<U> {
    let mut stream = Stream::new(source.dim().into(), target_shape, alignment, range);
    let plane = target_shape[1] * target_shape[2];
    build(target_shape, |target: &mut [U]| {
        while let Some(slices) = stream.upcoming() {
            let target = &mut target[slices.start * plane..slices.end * plane];
            stream.write(|z| source.index_axis(Axis(0), z).into(), target);
        }
    })
}

/// A cubic resampling in progress: some slices of the result after the others.
pub(super) struct Stream {
    source_z: usize,
    target: [usize; 3],
    in_plane: PlaneResampler,
    taps: Vec<CubicTap>,
    start: Vec<f64>,
    blocks: Vec<Block>,
    range: Option<(f64, f64)>,
    /// Index of the next block.
    next: usize,
    /// In-plane results of the source slices from `base` on.
    planes: VecDeque<Array2<f64>>,
    base: usize,
    /// Forward-filtered coefficients just before the next block.
    carry: Vec<f64>,
}

impl Stream {
    /// Prepares a resampling between two shapes that are not empty; values are clipped to `range`.
    pub fn new(
        source: [usize; 3],
        target: [usize; 3],
        alignment: Alignment,
        range: Option<(f64, f64)>,
    ) -> Self {
        let taps = axis::cubic(source[0], target[0], alignment);
        let padded = source[0] + 2 * SPLINE_PADDING;
        Self {
            source_z: source[0],
            in_plane: PlaneResampler::new(
                (source[1], source[2]),
                (target[1], target[2]),
                alignment,
            ),
            start: start_weights(padded),
            blocks: plan_blocks(&taps, padded),
            taps,
            range,
            next: 0,
            planes: VecDeque::new(),
            base: 0,
            carry: vec![0.0; target[1] * target[2]],
            target,
        }
    }

    /// Most in-plane results that are kept at a time.
    pub fn most_planes(&self) -> usize {
        let source_of = |index: usize| index.saturating_sub(SPLINE_PADDING).min(self.source_z - 1);
        self.blocks
            .iter()
            .map(|block| source_of(block.end - 1) + 1 - source_of(block.first))
            .max()
            .unwrap_or(0)
    }

    /// The slices that [`write`](Self::write) makes next, at most [`MOST_SLICES`]; none at the end.
    pub fn upcoming(&self) -> Option<Range<usize>> {
        Some(self.blocks.get(self.next)?.outputs.clone())
    }

    /// Starts from the first slice again.
    pub fn restart(&mut self) {
        self.next = 0;
        self.base = 0;
        self.planes.clear();
    }

    /// Writes the upcoming slices `[z, y, x]` to `target`. `source` hands out source slices, in any order
    /// and on any thread.
    pub fn write<'a, T: Sample, U: Sample>(
        &mut self,
        source: impl Fn(usize) -> CowArray<'a, T, Ix2> + Sync,
        target: &mut [U],
    ) {
        let Some(block) = self.blocks.get(self.next) else {
            return;
        };
        self.next += 1;
        let [_, target_y, target_x] = self.target;
        let last = self.source_z - 1;
        let source_of = |index: usize| index.saturating_sub(SPLINE_PADDING).min(last);
        let keep_from = source_of(block.first);
        while self.base < keep_from && self.planes.pop_front().is_some() {
            self.base += 1;
        }
        self.base = self.base.max(keep_from);
        let (in_plane, base) = (&self.in_plane, self.base);
        let have = base + self.planes.len();
        let fresh: Vec<_> = (have..source_of(block.end - 1) + 1)
            .into_par_iter()
            .map(|z| in_plane.slice(&source(z).view()))
            .collect();
        self.planes.extend(fresh);

        let count = block.outputs.len();
        let plane = target_y * target_x;
        let mut rows = vec![U::default(); count * plane];
        let pass = ZPass {
            planes: &self.planes,
            plane_of: &|index| source_of(index) - base,
            start: &self.start,
            taps: &self.taps[block.outputs.clone()],
            block,
            padded: self.source_z + 2 * SPLINE_PADDING,
            range: self.range,
        };
        rows.par_chunks_mut(count * target_x)
            .zip(self.carry.par_chunks_mut(target_x))
            .enumerate()
            .for_each(|(y, (rows, carry))| pass.row(y, rows, carry));
        // Rows were computed as [y, slice, x]; put them in place as [slice, y, x].
        target
            .par_chunks_mut(plane)
            .enumerate()
            .for_each(|(slice, out)| {
                for (y, out) in out.chunks_exact_mut(target_x).enumerate() {
                    let from = (y * count + slice) * target_x;
                    out.copy_from_slice(&rows[from..from + target_x]);
                }
            });
    }
}

/// What the z pass of one block shares between rows.
struct ZPass<'a> {
    planes: &'a VecDeque<Array2<f64>>,
    plane_of: &'a (dyn Fn(usize) -> usize + Sync),
    start: &'a [f64],
    taps: &'a [CubicTap],
    block: &'a Block,
    padded: usize,
    range: Option<(f64, f64)>,
}

impl ZPass<'_> {
    /// Filters and evaluates row `y`: `rows` is `[slice, x]`, `carry` the forward state per x.
    fn row<U: Sample>(&self, y: usize, rows: &mut [U], carry: &mut [f64]) {
        let width = carry.len();
        let (first, end) = (self.block.first, self.block.end);
        let mut lines = vec![[0.0; LANES]; end - first];
        for left in (0..width).step_by(LANES) {
            let lanes = left..(left + LANES).min(width);
            for (sample, index) in lines.iter_mut().zip(first..end) {
                let row = self.planes[(self.plane_of)(index)].row(y);
                for (lane, x) in lanes.clone().enumerate() {
                    sample[lane] = row[x];
                }
            }
            self.filter(&mut lines, &mut carry[lanes.clone()]);
            for (slice, tap) in self.taps.iter().enumerate() {
                let local = CubicTap {
                    start: tap.start - first,
                    ..*tap
                };
                let values = evaluate(&lines, &local);
                for (lane, x) in lanes.clone().enumerate() {
                    rows[slice * width + x] = U::from_f64(clip(values[lane], self.range));
                }
            }
        }
    }

    fn filter(&self, lines: &mut [[f64; LANES]], carry: &mut [f64]) {
        let mut state = [0.0; LANES];
        let opening = self.block.first == 0;
        if opening {
            for (sample, weight) in lines.iter().zip(self.start) {
                for lane in 0..LANES {
                    state[lane] += GAIN * sample[lane] * weight;
                }
            }
        } else {
            state[..carry.len()].copy_from_slice(carry);
        }
        // None when the next block starts at the same coefficient: then the carried state still fits.
        let handover = self.block.next_first.checked_sub(self.block.first + 1);
        for (index, sample) in lines.iter_mut().enumerate() {
            if !(opening && index == 0) {
                for lane in 0..LANES {
                    state[lane] = GAIN * sample[lane] + POLE * state[lane];
                }
            }
            *sample = state;
            if Some(index) == handover {
                carry.copy_from_slice(&state[..carry.len()]);
            }
        }
        debug_assert!(self.block.end <= self.padded);
        // At the true end of the line this is SciPy's start value; elsewhere any value would do.
        for lane in &mut state {
            *lane *= POLE / (POLE - 1.0);
        }
        let Some((last, rest)) = lines.split_last_mut() else {
            return;
        };
        *last = state;
        for sample in rest.iter_mut().rev() {
            for lane in 0..LANES {
                state[lane] = POLE * (state[lane] - sample[lane]);
            }
            *sample = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(shape: [usize; 3]) -> Array3<f32> {
        Array3::from_shape_fn(shape, |(z, y, x)| {
            ((z * 37 + y * 11 + x * 5) % 23) as f32 * 80.0 - 900.0
        })
    }

    /// The plain version: pad, filter and evaluate one whole line.
    fn resize_line(line: &[f64], n_out: usize, alignment: Alignment) -> Vec<f64> {
        let mut lines = vec![[0.0; LANES]; line.len() + 2 * SPLINE_PADDING];
        for (sample, &value) in lines[SPLINE_PADDING..].iter_mut().zip(line) {
            *sample = [value; LANES];
        }
        pad_edges(&mut lines);
        let start = start_weights(lines.len());
        filter(&mut lines, &start);
        axis::cubic(line.len(), n_out, alignment)
            .iter()
            .map(|tap| evaluate(&lines, tap)[3])
            .collect()
    }

    #[test]
    fn a_constant_stays_constant() {
        let out: Array3<f64> = resize(
            Array3::from_elem([3, 2, 4], 7.0_f32).view(),
            [5, 5, 5],
            Alignment::Faces,
            None,
        );
        for value in out {
            assert!((value - 7.0).abs() < 1e-13);
        }
    }

    #[test]
    fn the_same_grid_interpolates_the_samples() {
        let source = pattern([6, 5, 7]);
        let out: Array3<f64> = resize(source.view(), [6, 5, 7], Alignment::Faces, None);
        for (a, b) in source.iter().zip(&out) {
            assert!((f64::from(*a) - b).abs() < 1e-9);
        }
    }

    #[test]
    fn blocks_along_z_do_not_show() {
        // 200 slices make several blocks, upwards and downwards; the oracle filters the whole line.
        for target_z in [40, 199, 350, 3, 1] {
            let source = pattern([200, 1, 1]);
            let line: Vec<f64> = source.iter().map(|&v| f64::from(v)).collect();
            let out: Array3<f64> = resize(source.view(), [target_z, 1, 1], Alignment::Faces, None);
            let expected = resize_line(&line, target_z, Alignment::Faces);
            for (a, b) in out.iter().zip(&expected) {
                assert!((a - b).abs() < 2e-11, "{target_z}: {a} {b}");
            }
        }
    }

    #[test]
    fn clipping_removes_overshoot() {
        let step = Array3::from_shape_fn([1, 1, 8], |(_, _, x)| if x < 4 { 0.0_f32 } else { 1.0 });
        let free: Array3<f64> = resize(step.view(), [1, 1, 40], Alignment::Faces, None);
        assert!(free.iter().any(|&value| value > 1.05));
        let range = value_range(step.view());
        let clipped: Array3<f64> = resize(step.view(), [1, 1, 40], Alignment::Faces, range);
        assert!(clipped.iter().all(|&value| (0.0..=1.0).contains(&value)));
    }

    #[test]
    fn one_voxel_spreads() {
        let out: Array3<f32> = resize(
            Array3::from_elem([1, 1, 1], -5.0_f32).view(),
            [2, 3, 4],
            Alignment::Centres,
            Some((-5.0, -5.0)),
        );
        assert!(out.iter().all(|&value| value == -5.0));
    }
}
