//! The sliding window over a network that adds tiles up on a device of its own.
//!
//! The device gets the slices of the image that a level of tiles sees, cuts the tiles out, predicts and adds them up, and
//! gives finished slices of logits back. Levels overlap: while the device computes one, the slices that the level before
//! finished are exported here and the image of the next is made.
//!
//! A device may give up at any time. What it finished stays; the host goes on with the slices that are left.

use super::logit::Logit;
use super::predict_error::PredictError;
use super::sliding_window::{ImageSlices, LogitsSink, Pass, PatchPredictor, add, average, overlap};
use crate::nn::cuda::{Level, Logits, SumsForm};
use ndarray::Axis;

/// Why sums on a device end early.
#[derive(Debug)]
pub enum Stop {
    /// The device cannot go on, and the host is to do it.
    GaveUp,
    /// The prediction ends.
    Failed(PredictError),
}

impl<E: Into<PredictError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Sums of the tiles of one column on a device, for every fold.
pub trait DeviceSums {
    /// Starts a level for all folds and returns before it is done. Levels come in ascending order; the level before was
    /// waited for, and the slices that the last but one finished were read.
    ///
    /// # Errors
    /// [`Stop`].
    fn queue(&mut self, level: &Level<'_>) -> Result<(), Stop>;

    /// Waits for the level; `tell` hears how many tiles were done, whenever some were, and may end it.
    ///
    /// # Errors
    /// [`Stop`]; that of `tell`.
    fn wait(&mut self, tell: &mut dyn FnMut(usize) -> Result<(), Stop>) -> Result<(), Stop>;

    /// Copies the logits `[heads, y, x]` of a fold in slice `slice` of the padded image, which is finished; false where
    /// one is not finite.
    ///
    /// # Errors
    /// [`Stop`].
    fn read(&mut self, fold: usize, slice: usize, to: Logits<'_>) -> Result<bool, Stop>;
}

impl Pass<'_> {
    /// Predicts the column on the predictor's device as far as that goes, and returns the number of slices of the image
    /// that were handed to the sink: all, or those before the device gave up.
    ///
    /// # Errors
    /// As those of the host.
    pub(super) fn on_device<T: Logit>(
        &mut self,
        image: &mut dyn ImageSlices,
        network: &mut dyn PatchPredictor,
        sink: &mut dyn LogitsSink<T>,
    ) -> Result<usize, PredictError> {
        let (grid, column) = (self.grid, self.column);
        let (heads, folds) = (network.heads(), network.folds());
        let levels = 0..grid.starts(0).len();
        let [rows, columns] = column.tiles(grid);
        let before = grid.pad_before();
        let region = [0, 1].map(|axis| {
            let (range, before) = (&column.source[axis], before[axis + 1]);
            range.start + before..range.end + before
        });
        let finished = levels.clone().map(|level| grid.final_slices(level).len());
        let form = SumsForm {
            half: T::HALF,
            image: [grid.image()[1], grid.image()[2]],
            region,
            finished: finished.max().unwrap_or(0),
            tiles: rows.len() * columns.len(),
            importance: self.importance,
            background: self.air.map(|air| air.background.as_slice()),
        };
        let Some(mut sums) = network.sums(&form)? else {
            return Ok(0);
        };
        let slice = vec![T::default(); heads * column.source_plane()];
        let mut slices = vec![slice; folds];
        let (mut next, mut told, mut air) = (0, 0, Vec::new());
        let progress = self.progress;
        let mut tell = |tiles: usize| {
            progress.advance(tiles as u64);
            told += tiles;
            if progress.interrupted() {
                return Err(Stop::Failed(PredictError::Interrupted));
            }
            Ok(())
        };
        let mut run = || -> Result<(), Stop> {
            for level in levels.clone() {
                let upcoming = self.tiles_of(level, image)?;
                sums.wait(&mut tell)?;
                sums.queue(&upcoming.level)?;
                tell(upcoming.air * folds)?;
                air.push(upcoming.air * folds);
                if let Some(previous) = level.checked_sub(1) {
                    self.hand_over(previous, &mut *sums, &mut slices, sink, &mut next)?;
                }
            }
            sums.wait(&mut tell)?;
            self.hand_over(levels.end - 1, &mut *sums, &mut slices, sink, &mut next)
        };
        let kept = match run() {
            Ok(()) => levels.end,
            Err(Stop::GaveUp) => grid.levels_from(next).start,
            Err(Stop::Failed(error)) => return Err(error),
        };
        // The host does the other levels again.
        self.skipped = air.iter().take(kept).sum();
        self.again = told - kept * form.tiles * folds;
        Ok(next)
    }
}

/// A level that is about to be queued.
struct Upcoming<'i> {
    level: Level<'i>,
    /// Tiles of nothing but air, which are left out.
    air: usize,
}

impl Pass<'_> {
    /// The tiles of a level and the slices they see.
    fn tiles_of<'i>(
        &self,
        level: usize,
        image: &'i mut dyn ImageSlices,
    ) -> Result<Upcoming<'i>, Stop> {
        let grid = self.grid;
        let [rows, columns] = self.column.tiles(grid);
        let seen = grid.seen_slices(level);
        let slices = image.slices(seen.clone())?;
        let z = grid.starts(0)[level];
        let (mut tiles, mut air) = (Vec::new(), 0);
        for &y in &grid.starts(1)[rows] {
            for &x in &grid.starts(2)[columns.clone()] {
                let is_air = self.air.is_some_and(|air| {
                    let [(z, _), (y, _), (x, _)] = overlap([z, y, x], grid);
                    let z = z.start - seen.start..z.end - seen.start;
                    air.fills(&slices.slice(ndarray::s![.., z, y, x]))
                });
                if is_air {
                    air += 1;
                } else {
                    tiles.push([y, x]);
                }
            }
        }
        let channel = |index| slices.index_axis_move(Axis(0), index).to_slice();
        let channels = (0..slices.dim().0).map(channel);
        let channels: Option<Vec<&[f32]>> = channels.collect();
        let [before_z, before_y, before_x] = grid.pad_before().map(|voxels| voxels as isize);
        Ok(Upcoming {
            level: Level {
                // Slices that do not lie side by side are the host's.
                channels: channels.ok_or(Stop::GaveUp)?,
                offset: [
                    z as isize - before_z - seen.start as isize,
                    -before_y,
                    -before_x,
                ],
                first: z,
                tiles,
                finished: grid.final_slices(level),
            },
            air,
        })
    }

    /// Hands the slices that a level finished to the sink, from slice `next` on.
    fn hand_over<T: Logit>(
        &self,
        level: usize,
        sums: &mut dyn DeviceSums,
        slices: &mut [Vec<T>],
        sink: &mut dyn LogitsSink<T>,
        next: &mut usize,
    ) -> Result<(), Stop> {
        let folds = slices.len();
        let first = self.grid.starts(0)[level];
        for (slot, z) in self.image_slices(level, *next) {
            for (fold, slice) in slices.iter_mut().enumerate() {
                if !sums.read(fold, first + slot, T::logits(slice))? {
                    let half = T::HALF;
                    return Err(PredictError::LogitsNotFinite { slice: z, half }.into());
                }
            }
            // Only now: a slice that was told of is not told of again when the device gives up.
            if folds > 1 {
                slices.iter().for_each(|slice| sink.fold(z, slice));
            }
            let Some((mean, others)) = slices.split_first_mut() else {
                continue;
            };
            others.iter().for_each(|other| add(mean, other));
            average(mean, folds);
            sink.accept(z, mean)?;
            *next = z + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "device_sums_tests.rs"]
mod tests;
