//! Trilinear resampling, slice by slice.
//!
//! SciPy evaluates an output voxel as one sum over its eight neighbours in C order of the axes,
//! each term being `((value * weight_z) * weight_y) * weight_x`. Logits are stored as `f16` right
//! after this, so one last bit of `f64` can decide a rounding and, through an argmax, a voxel. The
//! kernels here therefore keep SciPy's order of multiplication and summation exactly and save work
//! elsewhere: the products with the z and y weights are formed once per source row (contiguous, so
//! the compiler vectorises them), neighbours of weight zero are skipped (adding zero changes
//! nothing), and only then every output voxel sums its neighbours along x.

use super::axis::{self, Alignment, LinearTap};
use super::{ResampleError, Sample, check_shapes};
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2};
use rayon::prelude::*;
use std::ops::Range;

/// In which order the eight weighted neighbours are multiplied and summed. The orders differ in the
/// last bit of `f64` only; it matters where that bit decides (rounding to `f16`, truncation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Summation {
    /// z outermost, x innermost: `[z, y, x]` arrays in SciPy and scikit-image (nnU-Net).
    #[default]
    Zyx,
    /// x outermost, z innermost: `[x, y, z]` arrays as nibabel returns them (`TotalSegmentator`).
    Xyz,
}

/// Linear resampling of `[z, y, x]` arrays to one fixed shape, one output slice at a time.
///
/// The weights are prepared once; [`slice`](Self::slice) then produces any output slice from at most
/// two source slices, in any order and from any thread. Many channels of the same shape (logits) can
/// be resampled without ever holding more than a slice of each at full resolution. Whole volumes
/// ([`volume`](Self::volume)) go through the same code, so both are bit-identical.
///
/// Numerics: `f64` arithmetic, SciPy's order of operations, one rounding to the output type. Equal
/// bit for bit to `skimage.transform.resize(order=1, mode="edge", anti_aliasing=False)` before its
/// final clip, which can only take back an overshoot by the last bit of `f64`, lost in `f32` and `f16`.
#[derive(Debug, Clone)]
pub struct LinearResampler {
    source_shape: [usize; 3],
    target_shape: [usize; 3],
    taps: [Vec<LinearTap>; 3],
    alignment: Alignment,
    summation: Summation,
}

impl LinearResampler {
    /// Prepares nnU-Net's resampling between two `[z, y, x]` shapes: aligned outer faces, all axes
    /// linear. Cost: one tap per output index and axis.
    ///
    /// # Errors
    /// [`ResampleError::EmptySource`] when there is nothing to sample from,
    /// [`ResampleError::TooLarge`] when the output cannot be addressed.
    pub fn new(source_shape: [usize; 3], target_shape: [usize; 3]) -> Result<Self, ResampleError> {
        Self::with_alignment(source_shape, target_shape, Alignment::Faces, Summation::Zyx)
    }

    /// Like [`new`](Self::new) with another alignment and order of summation.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_alignment(
        source_shape: [usize; 3],
        target_shape: [usize; 3],
        alignment: Alignment,
        summation: Summation,
    ) -> Result<Self, ResampleError> {
        check_shapes(source_shape, target_shape)?;
        let taps = std::array::from_fn(|axis| {
            if source_shape[axis] == 0 {
                Vec::new() // the target is empty as well: check_shapes
            } else {
                axis::linear(source_shape[axis], target_shape[axis], alignment)
            }
        });
        Ok(Self {
            source_shape,
            target_shape,
            taps,
            alignment,
            summation,
        })
    }

    /// Takes the nearest sample along `axis` (0 = z, 1 = y, 2 = x) instead of interpolating: nnU-Net's
    /// separate-z resampling. Copying slices commutes with interpolating inside them, so this gives the
    /// same bits as nnU-Net's two steps. `None` changes nothing; see [`super::separate_axis`].
    #[must_use]
    pub fn with_nearest_axis(mut self, axis: Option<usize>) -> Self {
        if let Some(axis) = axis
            && let Some(taps) = self.taps.get_mut(axis)
            && self.source_shape[axis] > 0
        {
            *taps = axis::nearest_taps(
                self.source_shape[axis],
                self.target_shape[axis],
                self.alignment,
            );
        }
        self
    }

    /// Shape `[z, y, x]` that sources must have.
    pub fn source_shape(&self) -> [usize; 3] {
        self.source_shape
    }

    /// Shape `[z, y, x]` of the result.
    pub fn target_shape(&self) -> [usize; 3] {
        self.target_shape
    }

    /// The part of this resampler that makes rows `target[0]` and columns `target[1]` of every slice, and
    /// the rows and columns of the source that its own source consists of. Bits do not change.
    pub fn part(&self, target: &[Range<usize>; 2]) -> (Self, [Range<usize>; 2]) {
        let mut part = self.clone();
        let source = [0, 1].map(|plane_axis| {
            let axis = plane_axis + 1;
            let source = self.part_of_axis(axis, target[plane_axis].clone());
            part.taps[axis] = self.taps[axis][target[plane_axis].clone()]
                .iter()
                .map(|tap| LinearTap {
                    low: tap.low - source.start,
                    high: tap.high - source.start,
                    ..*tap
                })
                .collect();
            part.source_shape[axis] = source.len();
            part.target_shape[axis] = target[plane_axis].len();
            source
        });
        (part, source)
    }

    /// Source indices along `axis` (0 = z, 1 = y, 2 = x) that output indices `target` are made of.
    pub fn part_of_axis(&self, axis: usize, target: Range<usize>) -> Range<usize> {
        let taps = &self.taps[axis][target];
        // Both indices never decrease.
        match (taps.first(), taps.last()) {
            (Some(first), Some(last)) => first.low..last.high + 1,
            _ => 0..0,
        }
    }

    /// The one or two source slices that output slice `out_z` is made of; both are the same index
    /// where one is enough. `None` beyond the last output slice. Non-decreasing in `out_z`.
    pub fn source_slices(&self, out_z: usize) -> Option<(usize, usize)> {
        self.taps[0].get(out_z).map(|tap| {
            if tap.weights[1] == 0.0 {
                (tap.low, tap.low)
            } else {
                (tap.low, tap.high)
            }
        })
    }

    /// Writes output slice `out_z` into `target` (`[y, x]` of the target shape).
    ///
    /// `source(z)` hands out `[y, x]` source slices and is asked only for those of
    /// [`source_slices`](Self::source_slices). Rows in standard layout are read fastest. Serial: run
    /// slices or channels in parallel. Cost per output voxel: up to eight multiply-adds; scratch is
    /// four source rows and one output row of `f64`.
    ///
    /// # Panics
    /// When `out_z` is out of range or a slice or the target has another shape than declared: an
    /// error of the caller, never of the data.
    pub fn slice<'a, T: Sample, U: Sample>(
        &self,
        source: impl Fn(usize) -> ArrayView2<'a, T>,
        out_z: usize,
        mut target: ArrayViewMut2<'_, U>,
    ) {
        let [_, source_y, source_x] = self.source_shape;
        let [_, target_y, target_x] = self.target_shape;
        assert_eq!(
            target.dim(),
            (target_y, target_x),
            "target slice of another shape"
        );
        let z = self.taps[0][out_z];
        if target_y == 0 || target_x == 0 {
            return;
        }
        let (low, high) = (source(z.low), source(z.high));
        for slice in [&low, &high] {
            assert_eq!(
                slice.dim(),
                (source_y, source_x),
                "source slice of another shape"
            );
        }
        let mut rows: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; source_x]);
        let mut sums = vec![0.0; target_x];
        for (mut out, y) in target.rows_mut().into_iter().zip(&self.taps[1]) {
            // Corners in C order (z low, y low), (z low, y high), (z high, y low), (z high, y high).
            let mut weights = [[0.0; 2]; 4];
            let mut used = 0;
            for (slice, z_weight) in [(&low, z.weights[0]), (&high, z.weights[1])] {
                for (y_index, y_weight) in [(y.low, y.weights[0]), (y.high, y.weights[1])] {
                    if z_weight == 0.0 || y_weight == 0.0 {
                        continue;
                    }
                    let row = &mut rows[used];
                    widen_row(slice, y_index, row);
                    if self.summation == Summation::Zyx {
                        weigh(row, z_weight, y_weight);
                    }
                    weights[used] = [y_weight, z_weight];
                    used += 1;
                }
            }
            let x_taps = &self.taps[2];
            let row = |corner: usize| (&rows[corner], weights[corner]);
            match (self.summation, used) {
                (Summation::Zyx, 1) => sum_rows([&rows[0]], x_taps, &mut sums),
                (Summation::Zyx, 2) => sum_rows([&rows[0], &rows[1]], x_taps, &mut sums),
                (Summation::Zyx, _) => {
                    sum_rows([&rows[0], &rows[1], &rows[2], &rows[3]], x_taps, &mut sums);
                }
                (Summation::Xyz, 1) => sum_x_first([row(0)], x_taps, &mut sums),
                (Summation::Xyz, 2) => sum_x_first([row(0), row(1)], x_taps, &mut sums),
                // Rows were read z-major; by y and then z the middle two change places.
                (Summation::Xyz, _) => {
                    sum_x_first([row(0), row(2), row(1), row(3)], x_taps, &mut sums);
                }
            }
            match out.as_slice_mut() {
                Some(out) => U::narrow(&sums, out),
                None => {
                    for (to, &from) in out.iter_mut().zip(&sums) {
                        *to = U::from_f64(from);
                    }
                }
            }
        }
    }

    /// Resamples a whole volume into `target` (`[z, y, x]`, standard layout), slices in parallel.
    /// Memory: the two volumes and a few rows per thread.
    pub(super) fn fill<T: Sample, U: Sample>(&self, source: ArrayView3<'_, T>, target: &mut [U]) {
        let [_, target_y, target_x] = self.target_shape;
        let plane = target_y * target_x;
        if plane == 0 {
            return;
        }
        target
            .par_chunks_mut(plane)
            .enumerate()
            .for_each(|(out_z, chunk)| {
                if let Ok(slice) = ArrayViewMut2::from_shape((target_y, target_x), chunk) {
                    self.slice(
                        |z| source.index_axis_move(ndarray::Axis(0), z),
                        out_z,
                        slice,
                    );
                }
            });
    }

    /// Resamples a whole volume, output slices in parallel; the same bits for any number of threads
    /// and as [`slice`](Self::slice). Memory: the result and a few rows per thread.
    ///
    /// # Errors
    /// [`ResampleError::WrongShape`] when `source` has not the declared shape.
    pub fn volume<T: Sample, U: Sample>(
        &self,
        source: ArrayView3<'_, T>,
    ) -> Result<ndarray::Array3<U>, ResampleError> {
        let found: [usize; 3] = source.dim().into();
        if found != self.source_shape {
            return Err(ResampleError::WrongShape {
                found,
                expected: self.source_shape,
            });
        }
        Ok(super::build(self.target_shape, |target| {
            self.fill(source, target);
        }))
    }
}

fn widen_row<T: Sample>(slice: &ArrayView2<'_, T>, y: usize, target: &mut [f64]) {
    let row = slice.row(y);
    match row.as_slice() {
        Some(values) => T::widen(values, target),
        None => {
            for (to, from) in target.iter_mut().zip(row) {
                *to = from.to_f64();
            }
        }
    }
}

/// `(value * z) * y`, two roundings, as SciPy multiplies.
fn weigh(row: &mut [f64], z_weight: f64, y_weight: f64) {
    for value in row {
        *value = *value * z_weight * y_weight;
    }
}

/// Sums `N` weighted rows at the x taps, row by row, low before high.
fn sum_rows<const N: usize>(rows: [&Vec<f64>; N], taps: &[LinearTap], sums: &mut [f64]) {
    for (sum, tap) in sums.iter_mut().zip(taps) {
        let mut total = 0.0;
        for row in rows {
            total += row[tap.low] * tap.weights[0];
            total += row[tap.high] * tap.weights[1];
        }
        *sum = total;
    }
}

/// [`Summation::Xyz`] of `N` rows of plain values with their `[y, z]` weights, ordered by y and then z;
/// x is the outermost sum.
fn sum_x_first<const N: usize>(
    rows: [(&Vec<f64>, [f64; 2]); N],
    taps: &[LinearTap],
    sums: &mut [f64],
) {
    for (sum, tap) in sums.iter_mut().zip(taps) {
        let mut total = 0.0;
        for (index, x_weight) in [(tap.low, tap.weights[0]), (tap.high, tap.weights[1])] {
            for (row, [y_weight, z_weight]) in rows {
                total += row[index] * x_weight * y_weight * z_weight;
            }
        }
        *sum = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use ndarray::{Array2, Array3, s};
    use proptest::prelude::*;

    fn pattern(shape: [usize; 3]) -> Array3<f32> {
        Array3::from_shape_fn(shape, |(z, y, x)| {
            ((z * 37 + y * 11 + x * 5) % 23) as f32 - 7.25
        })
    }

    #[test]
    fn halving_a_cube_averages_it() {
        let cube =
            Array3::from_shape_vec([2, 2, 2], vec![0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
                .unwrap();
        let resampler = LinearResampler::new([2; 3], [1; 3]).unwrap();
        let mean: Array3<f32> = resampler.volume(cube.view()).unwrap();
        assert_eq!(mean[[0, 0, 0]], 3.5);
    }

    #[test]
    fn slices_and_volume_agree_bit_for_bit_in_f16() {
        let source = pattern([5, 7, 6]).mapv(f16::from_f32);
        let resampler = LinearResampler::new([5, 7, 6], [9, 4, 13]).unwrap();
        let whole: Array3<f16> = resampler.volume(source.view()).unwrap();
        for z in (0..9).rev() {
            let mut slice = Array2::<f16>::default([4, 13]);
            resampler.slice(|z| source.slice(s![z, .., ..]), z, slice.view_mut());
            assert_eq!(slice, whole.slice(s![z, .., ..]));
        }
    }

    #[test]
    fn only_the_named_source_slices_are_read() {
        let source = pattern([5, 2, 2]);
        let resampler = LinearResampler::new([5, 2, 2], [8, 3, 3]).unwrap();
        for z in 0..8 {
            let (low, high) = resampler.source_slices(z).unwrap();
            let mut target = Array2::<f32>::zeros([3, 3]);
            resampler.slice(
                |asked| {
                    assert!(asked == low || asked == high || z == 0 || z == 7);
                    source.slice(s![asked, .., ..])
                },
                z,
                target.view_mut(),
            );
        }
        assert_eq!(resampler.source_slices(8), None);
    }

    #[test]
    fn a_nearest_axis_copies_slices() {
        let source = pattern([3, 2, 2]);
        let resampler = LinearResampler::new([3, 2, 2], [6, 2, 2])
            .unwrap()
            .with_nearest_axis(Some(0));
        let out: Array3<f32> = resampler.volume(source.view()).unwrap();
        for z in 0..6 {
            assert_eq!(out.slice(s![z, .., ..]), source.slice(s![z / 2, .., ..]));
        }
    }

    #[test]
    fn empty_targets_are_fine_and_empty_sources_are_refused() {
        let resampler = LinearResampler::new([3, 2, 2], [0, 2, 2]).unwrap();
        let out: Array3<f32> = resampler.volume(pattern([3, 2, 2]).view()).unwrap();
        assert_eq!(out.dim(), (0, 2, 2));
        assert!(matches!(
            LinearResampler::new([0, 2, 2], [1, 2, 2]),
            Err(ResampleError::EmptySource { .. })
        ));
    }

    #[test]
    fn both_orders_of_summation_agree_to_rounding() {
        let source = pattern([4, 5, 6]);
        let [a, b] = [Summation::Zyx, Summation::Xyz].map(|summation| {
            LinearResampler::with_alignment([4, 5, 6], [7, 3, 11], Alignment::Centres, summation)
                .unwrap()
                .volume::<f32, f64>(source.view())
                .unwrap()
        });
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-13);
        }
    }

    proptest! {
        #[test]
        fn reading_any_memory_layout_gives_the_same(
            shape in [1_usize..5, 1_usize..5, 1_usize..5],
            target in [1_usize..7, 1_usize..7, 1_usize..7],
        ) {
            let source = pattern(shape);
            let fortran = {
                let mut copy = Array3::zeros(ndarray::ShapeBuilder::f(shape));
                copy.assign(&source);
                copy
            };
            let resampler = LinearResampler::new(shape, target).unwrap();
            let a: Array3<f32> = resampler.volume(source.view()).unwrap();
            let b: Array3<f32> = resampler.volume(fortran.view()).unwrap();
            prop_assert_eq!(a, b);
        }

        #[test]
        fn results_stay_between_the_extremes(
            values in prop::collection::vec(-100.0..100.0_f32, 24),
            target in [1_usize..9, 1_usize..9, 1_usize..9],
        ) {
            let source = Array3::from_shape_vec([2, 3, 4], values).unwrap();
            let out: Array3<f32> = LinearResampler::new([2, 3, 4], target)
                .unwrap()
                .volume(source.view())
                .unwrap();
            let low = source.iter().copied().fold(f32::INFINITY, f32::min);
            let high = source.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for &value in &out {
                prop_assert!((low - 1e-4..=high + 1e-4).contains(&value));
            }
        }
    }
}
