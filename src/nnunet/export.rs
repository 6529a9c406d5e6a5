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
use super::uncertainty::{Activation, FoldSums, Uncertainty, entropies};
use crate::geometry::resample::{
    Interpolation, LinearResampler, ResampleFunction, ResampleOptions, separate_axis,
};
use ndarray::{Array3, Array4, ArrayView2, ArrayViewMut, ArrayViewMut2, Axis, Dimension, s};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

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
    uncertainty: Option<Uncertainty>,
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
    disagreement: Disagreement,
    /// Next slice of the crop to be written.
    next: usize,
}

/// Where the disagreement of the folds of a column is, on its way to the image as logits are.
#[derive(Debug, Default)]
struct Disagreement {
    /// Slices of which some folds are known.
    sums: BTreeMap<usize, FoldSums>,
    /// The two newest network slices, `[y, x]`.
    older: Vec<f32>,
    newer: Vec<f32>,
    /// One image slice.
    resampled: Vec<f32>,
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

    fn activation(&self) -> Activation {
        match self {
            Self::Largest(_) => Activation::Softmax,
            Self::Regions(_) => Activation::Sigmoid,
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
    /// How certain the labels are, where asked for.
    pub uncertainty: Option<Uncertainty>,
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
            uncertainty: None,
        })
    }

    /// Also keeps the uncertainty of every voxel of a prediction by so many folds: 4 bytes per voxel of the image, 8 for
    /// several folds.
    #[must_use]
    pub fn with_uncertainty(mut self, folds: usize) -> Self {
        let shape = self.properties.grid.shape;
        self.uncertainty = Some(Uncertainty {
            entropy: Array3::zeros(shape),
            disagreement: (folds > 1).then(|| Array3::zeros(shape)),
        });
        self
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
            uncertainty: self.uncertainty,
        }
    }

    /// Decides slice `out` of the crop in a column from its logits `[heads, y, x]`.
    fn write<L: Logit>(&mut self, column: &Column, out: usize, logits: &[L]) {
        let [rows, columns] = self.place(column);
        let plane = column.target_plane();
        let mut numbers = vec![0_u16; plane];
        let decision = &self.decision;
        numbers
            .par_chunks_mut(BLOCK)
            .enumerate()
            .for_each(|(block, numbers)| decide(decision, logits, plane, block * BLOCK, numbers));
        let order = self.properties.transpose_forward;
        let out = self.properties.bounds.start[0] + out;
        let place = s![out, rows.clone(), columns.clone()];
        let mut frame = self.labels.view_mut().permuted_axes(order);
        paste(frame.slice_mut(place), &numbers);
        if let Some(uncertainty) = &mut self.uncertainty {
            let values = entropies(decision.activation(), logits, plane);
            let mut frame = uncertainty.entropy.view_mut().permuted_axes(order);
            paste(frame.slice_mut(place), &values);
        }
        if let Some(probabilities) = &mut self.probabilities {
            let values = to_probabilities(decision, logits, plane);
            let [a, b, c] = order.map(|axis| axis + 1);
            let mut frame = probabilities.view_mut().permuted_axes([0, a, b, c]);
            paste(frame.slice_mut(s![.., out, rows, columns]), &values);
        }
    }

    /// Writes the folds' disagreement in slice `out` of the crop in a column.
    fn write_disagreement(&mut self, column: &Column, out: usize, values: &[f32]) {
        let [rows, columns] = self.place(column);
        let (order, start) = (
            self.properties.transpose_forward,
            self.properties.bounds.start[0],
        );
        if let Some(all) = self.uncertainty.as_mut().map(|it| &mut it.disagreement)
            && let Some(all) = all
        {
            let mut frame = all.view_mut().permuted_axes(order);
            paste(frame.slice_mut(s![start + out, rows, columns]), values);
        }
    }

    /// Rows and columns of the uncropped image that a column decides.
    fn place(&self, column: &Column) -> [Range<usize>; 2] {
        [0, 1].map(|axis| {
            let (start, target) = (self.properties.bounds.start[axis + 1], &column.target[axis]);
            start + target.start..start + target.end
        })
    }

    /// Whether the folds' disagreement is asked for.
    fn compares_folds(&self) -> bool {
        let asked = self.uncertainty.as_ref();
        asked.is_some_and(|asked| asked.disagreement.is_some())
    }
}

/// Values in standard order into a view of any.
fn paste<T: Copy, D: Dimension>(mut place: ArrayViewMut<'_, T, D>, values: &[T]) {
    for (to, value) in place.iter_mut().zip(values) {
        *to = *value;
    }
}

impl<T: Logit> ColumnState<T> {
    /// Prepares for the slices of `column`. `resampler` is that of the whole image.
    fn new(
        column: Column,
        resampler: Option<&LinearResampler>,
        function: ResampleFunction,
        heads: usize,
        compares_folds: bool,
    ) -> Self {
        let resampler = resampler.map(|resampler| resampler.part(&column.target).0);
        let (kept, resampled) = match resampler {
            Some(_) => (column.source_plane(), column.target_plane()),
            None => (0, 0),
        };
        let slice = |voxels| vec![0.0; if compares_folds { voxels } else { 0 }];
        Self {
            column,
            resampler,
            older: vec![T::default(); heads * kept],
            newer: vec![T::default(); heads * kept],
            resampled: match function {
                ResampleFunction::Splines => Resampled::Kept(vec![T::default(); heads * resampled]),
                ResampleFunction::Torch => Resampled::Single(vec![0.0; heads * resampled]),
            },
            disagreement: Disagreement {
                sums: BTreeMap::new(),
                older: slice(kept),
                newer: slice(kept),
                resampled: slice(resampled),
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
        let source = newest_of(&self.older, &self.newer, newest);
        match &mut self.resampled {
            Resampled::Kept(target) => resample_slice(resampler, source, out, target),
            Resampled::Single(target) => resample_slice(resampler, source, out, target),
        }
        let Disagreement {
            older,
            newer,
            resampled,
            ..
        } = &mut self.disagreement;
        if !resampled.is_empty() {
            resample_slice(resampler, newest_of(older, newer, newest), out, resampled);
        }
        self.next += 1;
        true
    }
}

/// Which of the two slices kept slice `z` is, where `newest` is the newer. One above is asked for with weight 0 only.
fn newest_of<'s, T>(
    older: &'s [T],
    newer: &'s [T],
    newest: usize,
) -> impl Fn(usize) -> &'s [T] + Sync
where
    T: Sync,
{
    move |z| if z >= newest { newer } else { older }
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
            self.compares_folds(),
        );
        self.column = Some(state);
        Ok(())
    }

    fn fold(&mut self, z: usize, logits: &[T]) {
        if self.compares_folds()
            && let Some(state) = &mut self.column
        {
            let (activation, heads) = (self.decision.activation(), self.decision.heads());
            let sums = state.disagreement.sums.entry(z);
            let plane = state.column.source_plane();
            sums.or_insert_with(|| FoldSums::new(activation, heads, plane))
                .add(logits);
        }
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<T>) -> Result<(), PredictError> {
        let Some(mut state) = self.column.take() else {
            return Ok(());
        };
        let disagreement = state.disagreement.sums.remove(&z);
        let disagreement = disagreement.map(FoldSums::disagreement);
        if state.resampler.is_none() {
            self.write(&state.column, z, logits);
            if let Some(values) = disagreement {
                self.write_disagreement(&state.column, z, &values);
            }
        } else {
            std::mem::swap(&mut state.older, &mut state.newer);
            std::mem::swap(&mut state.newer, logits);
            if let Some(values) = disagreement {
                let kept = &mut state.disagreement;
                kept.older = std::mem::replace(&mut kept.newer, values);
            }
            while state.resample(z) {
                match &state.resampled {
                    Resampled::Kept(logits) => self.write(&state.column, state.next - 1, logits),
                    Resampled::Single(logits) => self.write(&state.column, state.next - 1, logits),
                }
                let values = &state.disagreement.resampled;
                self.write_disagreement(&state.column, state.next - 1, values);
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
