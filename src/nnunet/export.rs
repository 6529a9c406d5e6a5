//! From logits on the network's grid to labels on the image's.
//!
//! nnU-Net resamples the logits of all classes to the image, then takes the largest. Here slices of
//! logits are consumed as the sliding window finishes them: an image slice is interpolated from two
//! network slices, decided, written into the label map and forgotten. Arithmetic and storage types are
//! nnU-Net's (`f64` arithmetic, stored as `f16`), so the labels are the same.
//!
//! Behaviour of `nnunetv2` 2.8.1 `inference/export_prediction.py` and `label_handling.py`.

use super::columns::Column;
use super::dataset::{Classes, DatasetInfo};
use super::logit::Logit;
use super::predict_error::PredictError;
use super::preprocess::Properties;
use super::sliding_window::LogitsSink;
use crate::geometry::resample::{
    Interpolation, LinearResampler, ResampleFunction, ResampleOptions, separate_axis,
};
use ndarray::{Array3, Array4, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

/// Voxels that are decided together.
const BLOCK: usize = 4096;
/// Logit of what is certain: networks rarely exceed it.
const CERTAIN: f32 = 10.0;

/// Collects the labels (and probabilities, if asked for) of one case.
#[derive(Debug)]
pub struct LabelExport<T> {
    properties: Properties,
    decision: Decision,
    /// Of the whole image.
    resampler: Option<LinearResampler>,
    function: ResampleFunction,
    /// Of the current column.
    column: Option<ColumnState<T>>,
    labels: Array3<u16>,
    probabilities: Option<Array4<f32>>,
}

/// Where the export of a column is.
#[derive(Debug)]
struct ColumnState<T> {
    column: Column,
    resampler: Option<LinearResampler>,
    /// The two newest network slices, `[heads, y, x]`.
    older: Vec<T>,
    newer: Vec<T>,
    /// One image slice of logits, `[heads, y, x]`.
    resampled: Resampled<T>,
    /// Next slice of the crop to be written.
    next: usize,
}

/// Resampled logits. SciPy returns the type that it was given, PyTorch's interpolation is asked for `f32`.
#[derive(Debug)]
enum Resampled<T> {
    Kept(Vec<T>),
    Single(Vec<f32>),
}

/// How logits become a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// The position of the largest logit of so many, ties to the lowest.
    Largest(usize),
    /// For each channel in order: its number where the sigmoid exceeds 0.5.
    Regions(Vec<u16>),
}

impl Decision {
    fn heads(&self) -> usize {
        match self {
            Self::Largest(heads) => *heads,
            Self::Regions(numbers) => numbers.len(),
        }
    }
}

/// What [`LabelExport::finish`] returns, both on the grid of the image.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// Label numbers, `[z, y, x]`.
    pub labels: Array3<u16>,
    /// Probabilities, `[heads, z, y, x]`, where asked for.
    pub probabilities: Option<Array4<f32>>,
}

impl<T: Logit> LabelExport<T> {
    /// Prepares for the logits of one case. `probabilities` keeps softmax (or sigmoid) values of every
    /// class and voxel: `4 * heads` bytes per voxel of the image.
    ///
    /// # Errors
    /// [`PredictError::Unsupported`] for logits that the plans want resampled by cubic splines;
    /// [`PredictError::Resample`].
    pub fn new(
        properties: Properties,
        dataset: &DatasetInfo,
        resampling: ResampleOptions,
        probabilities: bool,
    ) -> Result<Self, PredictError> {
        let decision = match &dataset.classes {
            Classes::Exclusive(names) => Decision::Largest(names.len()),
            Classes::Regions(regions) => {
                Decision::Regions(regions.iter().map(|region| region.written_as).collect())
            }
        };
        let resampler = logits_resampler(&properties, resampling)?;
        let heads = decision.heads();
        let shape = properties.grid.shape;
        let probabilities = probabilities.then(|| {
            let mut all = Array4::zeros([heads, shape[0], shape[1], shape[2]]);
            if let Decision::Largest(_) = decision {
                // Outside the crop: certainly background.
                all.index_axis_mut(Axis(0), 0).fill(1.0);
            }
            all
        });
        Ok(Self {
            properties,
            resampler,
            function: resampling.function,
            column: None,
            labels: Array3::zeros(shape),
            decision,
            probabilities,
        })
    }

    /// Logits per class (or region) of a voxel that is certainly background.
    pub fn background(dataset: &DatasetInfo) -> Vec<f32> {
        let mut logits = vec![-CERTAIN; dataset.heads()];
        if let (Classes::Exclusive(_), Some(first)) = (&dataset.classes, logits.first_mut()) {
            *first = CERTAIN;
        }
        logits
    }

    /// Labels and probabilities, once all slices of all columns were accepted.
    pub fn finish(self) -> Exported {
        Exported {
            labels: self.labels,
            probabilities: self.probabilities,
        }
    }

    /// Decides slice `out` of the crop in a column from its logits `[heads, y, x]`.
    fn write<L: Logit>(&mut self, column: &Column, out: usize, logits: &[L]) {
        let start = self.properties.bounds.start;
        let [rows, columns] = [0, 1].map(|axis| {
            let target = &column.target[axis];
            start[axis + 1] + target.start..start[axis + 1] + target.end
        });
        let plane = column.target_plane();
        let mut numbers = vec![0_u16; plane];
        let decision = &self.decision;
        numbers
            .par_chunks_mut(BLOCK)
            .enumerate()
            .for_each(|(block, numbers)| decide(decision, logits, plane, block * BLOCK, numbers));
        let order = self.properties.transpose_forward;
        let mut frame = self.labels.view_mut().permuted_axes(order);
        let place = s![start[0] + out, rows.clone(), columns.clone()];
        for (to, number) in frame.slice_mut(place).iter_mut().zip(&numbers) {
            *to = *number;
        }
        if let Some(probabilities) = &mut self.probabilities {
            let values = to_probabilities(decision, logits, plane);
            let [a, b, c] = order.map(|axis| axis + 1);
            let mut frame = probabilities.view_mut().permuted_axes([0, a, b, c]);
            let place = s![.., start[0] + out, rows, columns];
            for (to, value) in frame.slice_mut(place).iter_mut().zip(&values) {
                *to = *value;
            }
        }
    }
}

impl<T: Logit> ColumnState<T> {
    /// Prepares for the slices of `column`. `resampler` is that of the whole image.
    fn new(
        column: Column,
        resampler: Option<&LinearResampler>,
        function: ResampleFunction,
        heads: usize,
    ) -> Self {
        let resampler = resampler.map(|resampler| resampler.part(&column.target).0);
        let (kept, resampled) = match resampler {
            Some(_) => (column.source_plane(), column.target_plane()),
            None => (0, 0),
        };
        Self {
            column,
            resampler,
            older: vec![T::default(); heads * kept],
            newer: vec![T::default(); heads * kept],
            resampled: match function {
                ResampleFunction::Splines => Resampled::Kept(vec![T::default(); heads * resampled]),
                ResampleFunction::Torch => Resampled::Single(vec![0.0; heads * resampled]),
            },
            next: 0,
        }
    }

    /// Resamples slice `next` of the crop from the two slices kept, of which `newest` is the newer, if
    /// they are all it takes.
    fn resample(&mut self, newest: usize) -> bool {
        let Some(resampler) = &self.resampler else {
            return false;
        };
        let out = self.next;
        if resampler
            .source_slices(out)
            .is_none_or(|(_, high)| high > newest)
        {
            return false;
        }
        // A slice above the newest is asked for with weight 0 only.
        let source = |z: usize| {
            if z >= newest {
                &*self.newer
            } else {
                &*self.older
            }
        };
        match &mut self.resampled {
            Resampled::Kept(target) => resample_slice(resampler, source, out, target),
            Resampled::Single(target) => resample_slice(resampler, source, out, target),
        }
        self.next += 1;
        true
    }
}

impl<T: Logit> LogitsSink<T> for LabelExport<T> {
    fn begin(&mut self, column: &Column) -> Result<(), PredictError> {
        self.column = None; // before the next column's memory is taken
        let heads = self.decision.heads();
        let state = ColumnState::new(
            column.clone(),
            self.resampler.as_ref(),
            self.function,
            heads,
        );
        self.column = Some(state);
        Ok(())
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<T>) -> Result<(), PredictError> {
        let Some(mut state) = self.column.take() else {
            return Ok(());
        };
        if state.resampler.is_none() {
            self.write(&state.column, z, logits);
        } else {
            std::mem::swap(&mut state.older, &mut state.newer);
            std::mem::swap(&mut state.newer, logits);
            while state.resample(z) {
                match &state.resampled {
                    Resampled::Kept(logits) => self.write(&state.column, state.next - 1, logits),
                    Resampled::Single(logits) => self.write(&state.column, state.next - 1, logits),
                }
            }
        }
        self.column = Some(state);
        Ok(())
    }
}

/// Slice `out` of all heads; `source` hands out slices `[heads, y, x]`.
fn resample_slice<'s, T: Logit, U: Logit>(
    resampler: &LinearResampler,
    source: impl Fn(usize) -> &'s [T] + Sync,
    out: usize,
    target: &mut [U],
) {
    let [_, height, width] = resampler.source_shape();
    let [_, out_height, out_width] = resampler.target_shape();
    target
        .par_chunks_mut(out_height * out_width)
        .enumerate()
        .for_each(|(head, target)| {
            let first = head * height * width;
            let plane = |z: usize| {
                let plane = &source(z)[first..first + height * width];
                ArrayView2::from_shape((height, width), plane)
                    .expect("a slice holds heads * height * width logits")
            };
            let target = ArrayViewMut2::from_shape((out_height, out_width), target)
                .expect("chunks are one output plane");
            resampler.slice(plane, out, target);
        });
}

/// nnU-Net's resampling of logits from the network's grid to the crop, if there is any to do.
///
/// # Errors
/// [`PredictError::Unsupported`] where it cannot be done by slices.
pub(super) fn logits_resampler(
    properties: &Properties,
    options: ResampleOptions,
) -> Result<Option<LinearResampler>, PredictError> {
    if properties.is_unresampled() {
        return Ok(None);
    }
    let apart = separate_axis(
        options.separate_axis,
        properties.network_spacing_mm,
        properties.spacing_mm,
    )?;
    let resampler =
        options.linear_resampler(properties.network_shape, properties.bounds.shape(), None)?;
    let in_plane = options.interpolation;
    let along = apart.map_or(in_plane, |_| options.along_separate_axis);
    match (in_plane, along) {
        // Linear in the plane and along the separate axis is linear in all axes.
        (Interpolation::Linear, Interpolation::Linear) => Ok(Some(resampler)),
        (Interpolation::Linear, Interpolation::Nearest) => {
            Ok(Some(resampler.with_nearest_axis(apart)))
        }
        (Interpolation::Nearest, Interpolation::Nearest) => {
            Ok(Some((0..3).fold(resampler, |resampler, axis| {
                resampler.with_nearest_axis(Some(axis))
            })))
        }
        _ => Err(PredictError::Unsupported {
            feature: "resampling of logits other than linear or nearest".to_owned(),
        }),
    }
}

/// Labels of the voxels from `first` of a slice of logits `[heads, plane]`.
fn decide<T: Logit>(
    decision: &Decision,
    logits: &[T],
    plane: usize,
    first: usize,
    numbers: &mut [u16],
) {
    let mut wide = [0.0_f32; BLOCK];
    let wide = &mut wide[..numbers.len()];
    let load = |head: usize, to: &mut [f32]| {
        let start = head * plane + first;
        T::widen_f32(&logits[start..start + to.len()], to);
    };
    match decision {
        Decision::Largest(heads) => {
            let mut largest = [0.0_f32; BLOCK];
            let largest = &mut largest[..numbers.len()];
            load(0, largest);
            numbers.fill(0);
            for head in 1..*heads {
                load(head, wide);
                for ((number, largest), &value) in numbers.iter_mut().zip(&mut *largest).zip(&*wide)
                {
                    if value > *largest {
                        *largest = value;
                        *number = head as u16;
                    }
                }
            }
        }
        Decision::Regions(region_numbers) => {
            numbers.fill(0);
            for (head, &region) in region_numbers.iter().enumerate() {
                load(head, wide);
                for (number, &value) in numbers.iter_mut().zip(&*wide) {
                    if sigmoid(value) > 0.5 {
                        *number = region;
                    }
                }
            }
        }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Softmax or sigmoid of a slice of logits `[heads, plane]`, in `f32` like PyTorch.
fn to_probabilities<T: Logit>(decision: &Decision, logits: &[T], plane: usize) -> Vec<f32> {
    let mut values = vec![0.0; logits.len()];
    values
        .par_chunks_mut(plane)
        .zip(logits.par_chunks(plane))
        .for_each(|(to, from)| T::widen_f32(from, to));
    let heads = match decision {
        Decision::Regions(_) => {
            values
                .par_iter_mut()
                .for_each(|value| *value = sigmoid(*value));
            return values;
        }
        Decision::Largest(heads) => *heads,
    };
    // Two small planes turn the strided passes over classes into contiguous ones.
    let mut largest = vec![f32::NEG_INFINITY; plane];
    let mut sums = vec![0.0_f32; plane];
    for head in values.chunks_exact(plane) {
        for (largest, value) in largest.iter_mut().zip(head) {
            *largest = largest.max(*value);
        }
    }
    values.par_chunks_mut(plane).for_each(|head| {
        for (value, largest) in head.iter_mut().zip(&largest) {
            *value = (*value - largest).exp();
        }
    });
    for head in values.chunks_exact(plane).take(heads) {
        for (sum, value) in sums.iter_mut().zip(head) {
            *sum += value;
        }
    }
    values.par_chunks_mut(plane).for_each(|head| {
        for (value, sum) in head.iter_mut().zip(&sums) {
            *value /= sum;
        }
    });
    values
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
