//! Sliding-window prediction with memory for one row of tiles.
//!
//! nnU-Net predicts overlapping tiles, adds their weighted logits into a volume of
//! classes x depth x height x width `f16` values and divides by the summed weights at the end. Tiles
//! are visited with z outermost, so a slice is final as soon as the tiles that start above it are
//! done. Only the slices of one tile height are kept here, in a ring; a final slice is divided, handed
//! to a [`LogitsSink`] and its memory used again. Where even that is too much, the image is predicted
//! in [`columns`](super::columns). Every voxel sees the same additions in the same order as in nnU-Net,
//! and therefore the same `f16` roundings.
//!
//! A network on a device of its own adds tiles up there ([`device_sums`](super::device_sums)), in the same order and
//! with the same roundings; where it cannot, or stops, it is done here.
//!
//! An ensemble adds the final logits of its folds and divides by their number. Either every fold
//! has a ring of its own, or the folds run one after the other into one summed volume: whichever is
//! smaller; the results are the same.
//!
//! The image comes by slices too ([`ImageSlices`]), and logits leave the network in boxes that are
//! weighted and added while they are in the cache.
//!
//! Parallel work is split by box, slice and class, never within a sum: any number of threads gives the
//! same bytes.

use super::columns::Column;
use super::device_sums::DeviceSums;
use super::gaussian::importance_map;
use super::logit::Logit;
use super::predict_error::PredictError;
use super::window_grid::WindowGrid;
use crate::nn::cuda::SumsForm;
use crate::nn::{LogitsBox, TakeLogits};
use crate::progress::Progress;
use ndarray::{Array4, ArrayView4, Axis, Slice as Stretch};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A network, or several folds of one, that turns a patch into logits.
pub trait PatchPredictor {
    /// Number of output channels.
    fn heads(&self) -> usize;

    /// Number of folds whose logits are averaged; at least one.
    fn folds(&self) -> usize;

    /// Predicts `patch` (`[C, z, y, x]`) with fold `fold`, mirroring included, and hands every voxel of
    /// every class to `take` once.
    ///
    /// # Errors
    /// [`PredictError::Network`].
    fn predict(
        &mut self,
        fold: usize,
        patch: &[f32],
        take: &TakeLogits<'_>,
    ) -> Result<(), PredictError>;

    /// Sums of tiles on the predictor's own device, where it has one and they fit; else the caller adds up.
    ///
    /// # Errors
    /// [`PredictError::Network`].
    fn sums(
        &mut self,
        form: &SumsForm<'_>,
    ) -> Result<Option<Box<dyn DeviceSums + '_>>, PredictError> {
        let _ = form;
        Ok(None)
    }
}

/// An image at the network's resolution that is read slice by slice.
pub trait ImageSlices {
    /// Number of channels.
    fn channels(&self) -> usize;

    /// Slices `range` as `[C, z, y, x]`. Ranges ascend; one that starts lower begins another pass.
    ///
    /// # Errors
    /// What keeps the slices from being made.
    fn slices(&mut self, range: Range<usize>) -> Result<ArrayView4<'_, f32>, PredictError>;
}

/// An image that is there as a whole, `[C, z, y, x]`.
impl ImageSlices for &Array4<f32> {
    fn channels(&self) -> usize {
        self.dim().0
    }

    fn slices(&mut self, range: Range<usize>) -> Result<ArrayView4<'_, f32>, PredictError> {
        Ok(self.slice_axis(Axis(1), Stretch::from(range)))
    }
}

/// Takes finished slices of logits.
pub trait LogitsSink<T> {
    /// The slices of `column` follow.
    ///
    /// # Errors
    /// Whatever stops the prediction.
    fn begin(&mut self, column: &Column) -> Result<(), PredictError>;

    /// The logits of one fold of several in slice `z` of the column are final, `[heads, y, x]` of its source. All folds
    /// come before [`accept`](Self::accept) hands their average over. Only uncertainty asks for them.
    fn fold(&mut self, z: usize, logits: &[T]) {
        let _ = (z, logits);
    }

    /// Slice `z` of the column is final: `logits` is `[heads, y, x]` of its source. Slices arrive in
    /// ascending order, each once. The vector may be exchanged for another of the same length.
    ///
    /// # Errors
    /// Whatever stops the prediction.
    fn accept(&mut self, z: usize, logits: &mut Vec<T>) -> Result<(), PredictError>;
}

/// Sliding-window prediction of one image size.
#[derive(Debug, Clone)]
pub struct SlidingWindow {
    grid: WindowGrid,
    importance: Vec<f32>,
    air: Option<Air>,
}

/// Which tiles are not worth a run of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Air {
    /// Per channel: tiles without any value of the image above are skipped.
    pub highest: Vec<f32>,
    /// Logits of voxels that lie in skipped tiles only.
    pub background: Vec<f32>,
}

impl Air {
    /// Whether `voxels` `[C, z, y, x]` are nothing else.
    pub(super) fn fills(&self, voxels: &ArrayView4<'_, f32>) -> bool {
        voxels
            .outer_iter()
            .zip(&self.highest)
            .all(|(channel, &highest)| channel.iter().all(|&value| value <= highest))
    }
}

/// What a pass over one column works with.
pub(super) struct Pass<'p> {
    pub grid: &'p WindowGrid,
    pub importance: &'p [f32],
    pub column: &'p Column,
    patch: Vec<f32>,
    pub air: Option<&'p Air>,
    pub skipped: usize,
    /// Tiles that were told of already, and are computed again.
    pub again: usize,
    pub progress: &'p dyn Progress,
}

/// Sums of one slice of a column: `[heads, y, x]` logits and `[y, x]` weights.
struct Slice<T> {
    sums: Vec<T>,
    weights: Vec<T>,
}

/// The slices of one tile height; the first is slice `start(level)` of the padded image. Each has a lock
/// because boxes of logits come from several threads.
struct Ring<T> {
    slices: VecDeque<Mutex<Slice<T>>>,
    /// Rows and columns of the padded image.
    region: [Range<usize>; 2],
    ones: Vec<f32>,
}

impl SlidingWindow {
    /// Prepares the weights of the tiles of `grid`.
    pub fn new(grid: WindowGrid) -> Self {
        let importance = importance_map(grid.patch(), grid.spatial_dims());
        Self {
            grid,
            importance,
            air: None,
        }
    }

    /// Skips tiles that hold nothing but air. Voxels in skipped tiles only become background; others are
    /// decided by the tiles that are left.
    #[must_use]
    pub fn skipping(mut self, air: Option<Air>) -> Self {
        self.air = air;
        self
    }

    /// The tiles.
    pub fn grid(&self) -> &WindowGrid {
        &self.grid
    }

    /// Whether an ensemble of `folds` keeps a ring per fold (or else one volume of summed logits).
    pub fn rings_per_fold(grid: &WindowGrid, folds: usize) -> bool {
        folds == 1 || folds * grid.patch()[0] <= grid.image()[0] + grid.patch()[0]
    }

    /// Predicts `image` (the grid's image size) column by column and hands slices of logits to `sink`.
    /// Returns the number of tiles that were skipped, counted as in the progress.
    ///
    /// Reports the phase `predict` with one step per tile, fold and column. Memory: `heads * y * x` values
    /// of `T` of the largest column for every slice of the ring (or volume, see
    /// [`rings_per_fold`](Self::rings_per_fold)), one patch, and what the network takes.
    ///
    /// # Errors
    /// [`PredictError::LogitsNotFinite`] when a sum overflows or the network gives NaN,
    /// [`PredictError::Interrupted`], and what the image, the network or the sink return.
    pub fn run<T: Logit>(
        &self,
        image: &mut dyn ImageSlices,
        columns: &[Column],
        network: &mut dyn PatchPredictor,
        sink: &mut dyn LogitsSink<T>,
        progress: &dyn Progress,
    ) -> Result<usize, PredictError> {
        let tiles: usize = columns
            .iter()
            .map(|column| column.tile_count(&self.grid))
            .sum();
        progress.begin("predict", (tiles * network.folds()) as u64);
        let voxels: usize = self.grid.patch().iter().product();
        let mut patch = vec![0.0; image.channels() * voxels];
        let mut skipped = 0;
        for column in columns {
            sink.begin(column)?;
            let mut pass = Pass {
                grid: &self.grid,
                importance: &self.importance,
                column,
                patch,
                air: self.air.as_ref(),
                skipped: 0,
                again: 0,
                progress,
            };
            let next = pass.on_device(image, network, sink)?;
            if next < self.grid.image()[0] {
                if Self::rings_per_fold(&self.grid, network.folds()) {
                    pass.all_folds(next, image, network, sink)?;
                } else {
                    pass.fold_by_fold(next, image, network, sink)?;
                }
            }
            skipped += pass.skipped;
            patch = pass.patch;
        }
        Ok(skipped)
    }
}

impl Pass<'_> {
    /// Predicts all folds of a level before the next, for the slices of the image from `next` on.
    fn all_folds<T: Logit>(
        &mut self,
        next: usize,
        image: &mut dyn ImageSlices,
        network: &mut dyn PatchPredictor,
        sink: &mut dyn LogitsSink<T>,
    ) -> Result<(), PredictError> {
        let folds = network.folds();
        let mut finished = vec![T::default(); network.heads() * self.column.source_plane()];
        let mut other = vec![T::default(); if folds > 1 { finished.len() } else { 0 }];
        let mut rings: Vec<Ring<T>> = (0..folds)
            .map(|_| Ring::new(self.grid, network.heads(), self.column))
            .collect();
        for level in self.grid.levels_from(next) {
            for (fold, ring) in rings.iter().enumerate() {
                self.level(image, level, fold, network, ring)?;
            }
            for (slot, z) in self.image_slices(level, next) {
                for (fold, ring) in rings.iter().enumerate() {
                    ring.fill_air(slot, self.air);
                    if fold == 0 {
                        ring.finish(slot, z, &mut finished)?;
                        if folds > 1 {
                            sink.fold(z, &finished);
                        }
                    } else {
                        ring.finish(slot, z, &mut other)?;
                        sink.fold(z, &other);
                        add(&mut finished, &other);
                    }
                }
                average(&mut finished, folds);
                sink.accept(z, &mut finished)?;
            }
            for ring in &mut rings {
                ring.advance(self.grid.final_slices(level).len());
            }
        }
        Ok(())
    }

    /// Predicts one fold after the other into a volume of summed logits, for the slices from `next` on.
    fn fold_by_fold<T: Logit>(
        &mut self,
        next: usize,
        image: &mut dyn ImageSlices,
        network: &mut dyn PatchPredictor,
        sink: &mut dyn LogitsSink<T>,
    ) -> Result<(), PredictError> {
        let folds = network.folds();
        let mut finished = vec![T::default(); network.heads() * self.column.source_plane()];
        let mut sums: Vec<Vec<T>> = Vec::with_capacity(self.grid.image()[0]);
        for fold in 0..folds {
            let mut ring = Ring::new(self.grid, network.heads(), self.column);
            for level in self.grid.levels_from(next) {
                self.level(image, level, fold, network, &ring)?;
                for (slot, z) in self.image_slices(level, next) {
                    ring.fill_air(slot, self.air);
                    ring.finish(slot, z, &mut finished)?;
                    sink.fold(z, &finished);
                    if fold == 0 {
                        sums.push(finished.clone());
                        continue;
                    }
                    let sum = &mut sums[z - next];
                    add(sum, &finished);
                    if fold + 1 == folds {
                        average(sum, folds);
                        sink.accept(z, sum)?;
                        *sum = Vec::new();
                    }
                }
                ring.advance(self.grid.final_slices(level).len());
            }
        }
        Ok(())
    }

    /// Ring slots that are final after `level`, with the slices of the image they hold, from slice `next` on.
    pub(super) fn image_slices(&self, level: usize, next: usize) -> Vec<(usize, usize)> {
        self.grid
            .final_slices(level)
            .enumerate()
            .filter_map(|(slot, z)| Some((slot, self.grid.image_slice(z)?)))
            .filter(|&(_, z)| z >= next)
            .collect()
    }

    /// Tells of a tile that is done, unless it was told of before.
    fn done(&mut self) {
        match self.again.checked_sub(1) {
            Some(left) => self.again = left,
            None => self.progress.advance(1),
        }
    }

    /// Adds all tiles of the column that start at one z.
    fn level<T: Logit>(
        &mut self,
        image: &mut dyn ImageSlices,
        level: usize,
        fold: usize,
        network: &mut dyn PatchPredictor,
        ring: &Ring<T>,
    ) -> Result<(), PredictError> {
        let grid = self.grid;
        let [rows, columns] = self.column.tiles(grid);
        let seen = grid.seen_slices(level);
        let slices = image.slices(seen.clone())?;
        let z = grid.starts(0)[level];
        for &y in &grid.starts(1)[rows] {
            for &x in &grid.starts(2)[columns.clone()] {
                if self.progress.interrupted() {
                    return Err(PredictError::Interrupted);
                }
                let tile = overlap([z, y, x], grid);
                let of_air = |air: &Air| {
                    let [(z, _), (y, _), (x, _)] = tile.clone();
                    let z = z.start - seen.start..z.end - seen.start;
                    air.fills(&slices.slice(ndarray::s![.., z, y, x]))
                };
                if self.air.is_some_and(of_air) {
                    self.skipped += 1;
                } else {
                    cut(&mut self.patch, slices, seen.start, tile, grid);
                    network.predict(fold, &self.patch, &|logits| {
                        ring.add(&logits, self.importance, [y, x], grid);
                    })?;
                }
                self.done();
            }
        }
        Ok(())
    }
}

/// Per axis the part of a tile that lies in the image, in image coordinates, and where it lies in the patch.
pub(super) type Overlap = [(Range<usize>, usize); 3];

/// The [`Overlap`] of the tile at `start` of the padded image.
pub(super) fn overlap(start: [usize; 3], grid: &WindowGrid) -> Overlap {
    std::array::from_fn(|axis| {
        let before = grid.pad_before()[axis];
        let first = start[axis].max(before);
        let end = (start[axis] + grid.patch()[axis]).min(before + grid.image()[axis]);
        (first - before..end.max(first) - before, first - start[axis])
    })
}

/// Copies a tile to `patch`; padding is 0. `slices` are those of the image from `first` on.
fn cut(
    patch: &mut [f32],
    slices: ArrayView4<'_, f32>,
    first: usize,
    tile: Overlap,
    grid: &WindowGrid,
) {
    let [depth, height, width] = grid.patch();
    let [
        (z_range, z_offset),
        (y_range, y_offset),
        (x_range, x_offset),
    ] = tile;
    patch
        .par_chunks_mut(height * width)
        .enumerate()
        .for_each(|(index, plane)| {
            plane.fill(0.0);
            let (channel, z) = (index / depth, index % depth);
            let Some(z) = z.checked_sub(z_offset).map(|z| z + z_range.start) else {
                return;
            };
            if z >= z_range.end {
                return;
            }
            for (row, y) in plane
                .chunks_exact_mut(width)
                .skip(y_offset)
                .zip(y_range.clone())
            {
                let source = slices.slice(ndarray::s![channel, z - first, y, x_range.clone()]);
                for (to, from) in row[x_offset..].iter_mut().zip(source) {
                    *to = *from;
                }
            }
        });
}

impl<T: Logit> Ring<T> {
    fn new(grid: &WindowGrid, heads: usize, column: &Column) -> Self {
        let plane = column.source_plane();
        let region = [0, 1].map(|axis| {
            let before = grid.pad_before()[axis + 1];
            column.source[axis].start + before..column.source[axis].end + before
        });
        let slice = |_| {
            Mutex::new(Slice {
                sums: vec![T::default(); heads * plane],
                weights: vec![T::default(); plane],
            })
        };
        Self {
            slices: (0..grid.patch()[0]).map(slice).collect(),
            region,
            ones: vec![1.0; grid.patch()[2]],
        }
    }

    /// Adds a box of weighted logits of the tile at `[y, x]`, as far as it lies in the column.
    fn add(
        &self,
        logits: &LogitsBox<'_>,
        importance: &[f32],
        start: [usize; 2],
        grid: &WindowGrid,
    ) {
        let [_, height, width] = grid.patch();
        let [planes, rows, columns] = logits.shape;
        let [region_y, region_x] = &self.region;
        let top = start[0] + logits.start[1];
        let left = start[1] + logits.start[2];
        let y_range = top.max(region_y.start)..(top + rows).min(region_y.end);
        let x_range = left.max(region_x.start)..(left + columns).min(region_x.end);
        if x_range.is_empty() {
            return;
        }
        let plane = region_y.len() * region_x.len();
        // Of the row `y` of the padded image: in the sums, in a row of the box, in a row of the tile.
        let to = |y: usize| {
            let first = (y - region_y.start) * region_x.len() + x_range.start - region_x.start;
            first..first + x_range.len()
        };
        let from = x_range.start - left..x_range.end - left;
        let in_tile = x_range.start - start[1]..x_range.end - start[1];
        for index in 0..planes {
            let z = logits.start[0] + index;
            let weights = |y: usize| {
                let row = &importance[(z * height + y - start[0]) * width..][..width];
                &row[in_tile.clone()]
            };
            let mut slice = locked(&self.slices[z]);
            for (number, head) in logits.heads.clone().enumerate() {
                let sums = &mut slice.sums[head * plane..(head + 1) * plane];
                for y in y_range.clone() {
                    let row = &logits.row(number, index, y - top)[from.clone()];
                    T::add_weighted(&mut sums[to(y)], row, weights(y));
                }
            }
            if logits.heads.start == 0 {
                for y in y_range.clone() {
                    let ones = &self.ones[..x_range.len()];
                    T::add_weighted(&mut slice.weights[to(y)], weights(y), ones);
                }
            }
        }
    }

    /// Makes voxels of a slot that no tile reached background.
    fn fill_air(&self, slot: usize, air: Option<&Air>) {
        let Some(air) = air else {
            return;
        };
        let mut slice = locked(&self.slices[slot]);
        let Slice { sums, weights } = &mut *slice;
        let one = T::from_f64(1.0);
        for (place, weight) in weights.iter_mut().enumerate() {
            if *weight == T::default() {
                *weight = one;
                let plane = self.region[0].len() * self.region[1].len();
                for (head, &logit) in air.background.iter().enumerate() {
                    sums[head * plane + place] = T::from_f64(logit.into());
                }
            }
        }
    }

    /// Divides the sums of a slot by their weights into `to`. `z` is for the error.
    fn finish(&self, slot: usize, z: usize, to: &mut [T]) -> Result<(), PredictError> {
        let slice = locked(&self.slices[slot]);
        let Slice { sums, weights } = &*slice;
        let finite = to
            .par_chunks_mut(weights.len())
            .zip(sums.par_chunks(weights.len()))
            .map(|(to, sums)| T::divide(sums, weights, to))
            .reduce(|| true, |a, b| a & b);
        if finite {
            Ok(())
        } else {
            Err(PredictError::LogitsNotFinite {
                slice: z,
                half: T::HALF,
            })
        }
    }

    /// Forgets the first `count` slices.
    fn advance(&mut self, count: usize) {
        let count = count.min(self.slices.len());
        for slice in self.slices.iter_mut().take(count) {
            let slice = slice.get_mut().unwrap_or_else(PoisonError::into_inner);
            slice.sums.fill(T::default());
            slice.weights.fill(T::default());
        }
        self.slices.rotate_left(count);
    }
}

/// A panic while a slice was locked ends the prediction anyway.
fn locked<T>(slice: &Mutex<Slice<T>>) -> MutexGuard<'_, Slice<T>> {
    slice.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Elements that one parallel task adds or divides.
const CHUNK: usize = 1 << 16;

pub(super) fn add<T: Logit>(sums: &mut [T], others: &[T]) {
    sums.par_chunks_mut(CHUNK)
        .zip(others.par_chunks(CHUNK))
        .for_each(|(sums, others)| T::add(sums, others));
}

pub(super) fn average<T: Logit>(values: &mut [T], folds: usize) {
    if folds > 1 {
        values
            .par_chunks_mut(CHUNK)
            .for_each(|values| T::divide_all(values, folds as f32));
    }
}

#[cfg(test)]
#[path = "sliding_window_tests.rs"]
mod tests;
