//! A plain device against the host, with and without giving up on the way.

use super::*;
use crate::nn::{LogitsBox, TakeLogits};
use crate::nnunet::columns::{self, Column};
use crate::nnunet::sliding_window::{Air, SlidingWindow};
use crate::nnunet::window_grid::WindowGrid;
use crate::progress::Progress;
use half::f16;
use ndarray::Array4;
use std::sync::atomic::{AtomicU64, Ordering};

const HEADS: usize = 2;

/// Logits that depend on the patch's content, the place in it, fold and head.
fn logit(fold: usize, patch: &[f32], head: usize, voxel: usize) -> f32 {
    patch[voxel] * (head as f32 + 0.37) + (voxel % 7) as f32 * 0.11 - fold as f32 * 0.53
}

/// A network on a device that answers so many calls.
struct Device {
    patch: [usize; 3],
    folds: usize,
    /// `None`: there is no device.
    calls: Option<usize>,
}

impl PatchPredictor for Device {
    fn heads(&self) -> usize {
        HEADS
    }

    fn folds(&self) -> usize {
        self.folds
    }

    fn predict(
        &mut self,
        fold: usize,
        patch: &[f32],
        take: &TakeLogits<'_>,
    ) -> Result<(), PredictError> {
        let voxels = patch.len();
        let values: Vec<f32> = (0..HEADS * voxels)
            .map(|index| logit(fold, patch, index / voxels, index % voxels))
            .collect();
        take(LogitsBox {
            heads: 0..HEADS,
            start: [0; 3],
            shape: self.patch,
            values: &values,
            head_stride: voxels,
        });
        Ok(())
    }

    fn sums(
        &mut self,
        form: &SumsForm<'_>,
    ) -> Result<Option<Box<dyn DeviceSums + '_>>, PredictError> {
        let Some(calls) = self.calls else {
            return Ok(None);
        };
        let slots = self.patch[0] + form.finished;
        let plane = form.region[0].len() * form.region[1].len();
        Ok(Some(Box::new(Plain {
            patch: self.patch,
            half: form.half,
            image: form.image,
            region: form.region.clone(),
            importance: form.importance.to_vec(),
            background: form.background.map(<[f32]>::to_vec),
            cleared: 0,
            slots: vec![vec![Slot::new(plane); slots]; self.folds],
            waiting: 0,
            calls,
        })))
    }
}

/// Sums of a slice, `[head][place]`, and weights.
#[derive(Clone)]
struct Slot {
    sums: Vec<f32>,
    weights: Vec<f32>,
}

impl Slot {
    fn new(plane: usize) -> Self {
        Self {
            sums: vec![f32::NAN; HEADS * plane],
            weights: vec![f32::NAN; plane],
        }
    }
}

struct Plain {
    patch: [usize; 3],
    half: bool,
    image: [usize; 2],
    region: [std::ops::Range<usize>; 2],
    importance: Vec<f32>,
    background: Option<Vec<f32>>,
    cleared: usize,
    slots: Vec<Vec<Slot>>,
    waiting: usize,
    calls: usize,
}

impl Plain {
    fn answer(&mut self) -> Result<(), Stop> {
        self.calls = self.calls.checked_sub(1).ok_or(Stop::GaveUp)?;
        Ok(())
    }

    fn round(&self, number: f32) -> f32 {
        if self.half {
            f16::from_f32(number).to_f32()
        } else {
            number
        }
    }

    /// The tile at a place, 0 beyond the image.
    fn cut(&self, level: &Level<'_>, [y, x]: [usize; 2]) -> Vec<f32> {
        let [depth, height, width] = self.patch;
        let [rows, columns] = self.image;
        let mut patch = Vec::new();
        for index in 0..depth * height * width {
            let place = [
                index / width / height,
                y + index / width % height,
                x + index % width,
            ];
            let [z, y, x] = [0, 1, 2].map(|axis| place[axis] as isize + level.offset[axis]);
            let inside =
                z >= 0 && (0..rows as isize).contains(&y) && (0..columns as isize).contains(&x);
            let voxel = (z * rows as isize + y) * columns as isize + x;
            let voxel = usize::try_from(voxel).ok().filter(|_| inside);
            let value = voxel.and_then(|voxel| level.channels[0].get(voxel));
            patch.push(value.copied().unwrap_or(0.0));
        }
        patch
    }
}

impl DeviceSums for Plain {
    fn queue(&mut self, level: &Level<'_>) -> Result<(), Stop> {
        self.answer()?;
        assert_eq!(self.waiting, 0, "the level before was waited for");
        let [depth, height, width] = self.patch;
        let [rows, columns] = self.region.clone();
        let plane = rows.len() * columns.len();
        for fold in 0..self.slots.len() {
            let count = self.slots[fold].len();
            for z in self.cleared.max(level.first)..level.first + depth {
                let slot = &mut self.slots[fold][z % count];
                slot.sums.fill(0.0);
                slot.weights.fill(0.0);
            }
            for &tile in &level.tiles {
                let patch = self.cut(level, tile);
                for voxel in 0..patch.len() {
                    let (y, x) = (tile[0] + voxel / width % height, tile[1] + voxel % width);
                    if !rows.contains(&y) || !columns.contains(&x) {
                        continue;
                    }
                    let place = (y - rows.start) * columns.len() + x - columns.start;
                    let z = (level.first + voxel / width / height) % count;
                    let weight = self.importance[voxel];
                    for head in 0..HEADS {
                        let old = self.slots[fold][z].sums[head * plane + place];
                        let new = old + logit(fold, &patch, head, voxel) * weight;
                        self.slots[fold][z].sums[head * plane + place] = self.round(new);
                    }
                    let total = self.slots[fold][z].weights[place] + weight;
                    self.slots[fold][z].weights[place] = self.round(total);
                }
            }
            for z in level.finished.clone() {
                for index in 0..HEADS * plane {
                    let slot = &self.slots[fold][z % count];
                    let weight = slot.weights[index % plane];
                    let mean = match &self.background {
                        Some(background) if weight == 0.0 => background[index / plane],
                        _ => slot.sums[index] / weight,
                    };
                    let mean = self.round(mean);
                    self.slots[fold][z % count].sums[index] = mean;
                }
            }
        }
        self.cleared = level.first + depth;
        self.waiting = level.tiles.len() * self.slots.len();
        Ok(())
    }

    fn wait(&mut self, tell: &mut dyn FnMut(usize) -> Result<(), Stop>) -> Result<(), Stop> {
        self.answer()?;
        tell(std::mem::take(&mut self.waiting))
    }

    fn read(&mut self, fold: usize, slice: usize, to: Logits<'_>) -> Result<bool, Stop> {
        self.answer()?;
        let slot = &self.slots[fold][slice % self.slots[fold].len()];
        match to {
            Logits::Half(to) => to
                .iter_mut()
                .zip(&slot.sums)
                .for_each(|(to, &sum)| *to = f16::from_f32(sum)),
            Logits::Single(to) => to.copy_from_slice(&slot.sums),
        }
        Ok(slot.sums.iter().all(|sum| sum.is_finite()))
    }
}

/// What a prediction hands over, in order.
#[derive(Debug, PartialEq)]
struct Collect<T> {
    folds: Vec<(usize, Vec<T>)>,
    slices: Vec<(usize, Vec<T>)>,
}

impl<T: Logit> LogitsSink<T> for Collect<T> {
    fn begin(&mut self, _column: &Column) -> Result<(), PredictError> {
        Ok(())
    }

    fn fold(&mut self, z: usize, logits: &[T]) {
        self.folds.push((z, logits.to_vec()));
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<T>) -> Result<(), PredictError> {
        self.slices.push((z, logits.clone()));
        Ok(())
    }
}

impl<T: Logit> Collect<T> {
    /// What folds said: slices one after the other, though folds may have come one after the other.
    fn by_slice(&self) -> Vec<(usize, Vec<T>)> {
        let mut folds = self.folds.clone();
        folds.sort_by_key(|(z, _)| *z);
        folds
    }
}

/// Counts steps.
#[derive(Default)]
struct Steps([AtomicU64; 2]);

impl Progress for Steps {
    fn begin(&self, _name: &str, total: u64) {
        self.0[0].store(total, Ordering::Relaxed);
    }

    fn advance(&self, steps: u64) {
        self.0[1].fetch_add(steps, Ordering::Relaxed);
    }
}

struct Scene {
    shape: [usize; 3],
    patch: [usize; 3],
    folds: usize,
    columns: [usize; 2],
    air: bool,
}

impl Scene {
    /// What comes out, and how many tiles were skipped.
    fn run<T: Logit>(&self, calls: Option<usize>) -> (Collect<T>, usize) {
        let [depth, height, width] = self.shape;
        let image = Array4::from_shape_fn([1, depth, height, width], |(_, z, y, x)| {
            if y < height / 4 {
                ((z * 31 + y * 17 + x * 7) % 23) as f32 * 0.173 - 1.9
            } else {
                -3.0
            }
        });
        let dimensions = if self.patch[0] == 1 { 2 } else { 3 };
        let grid = WindowGrid::new(self.shape, self.patch, dimensions, 0.5).unwrap();
        let columns = columns::cut(&grid, None, self.columns);
        let air = self.air.then(|| Air {
            highest: vec![-3.0],
            background: vec![10.0, -10.0],
        });
        let mut sink = Collect {
            folds: Vec::new(),
            slices: Vec::new(),
        };
        let mut device = Device {
            patch: self.patch,
            folds: self.folds,
            calls,
        };
        let steps = Steps::default();
        let window = SlidingWindow::new(grid).skipping(air);
        let skipped = window
            .run(&mut &image, &columns, &mut device, &mut sink, &steps)
            .unwrap();
        let [total, done] = steps.0.map(|count| count.load(Ordering::Relaxed));
        assert_eq!(total, done, "{calls:?}");
        (sink, skipped)
    }

    /// The host's result, which the device's must be whenever it gives up.
    fn check<T: Logit + std::fmt::Debug>(&self) {
        let (expected, skipped) = self.run::<T>(None);
        assert_eq!(self.air, skipped > 0);
        for calls in (0..40).chain([usize::MAX]) {
            let (found, also) = self.run::<T>(Some(calls));
            assert!(found.slices == expected.slices, "{calls} calls");
            assert!(found.by_slice() == expected.by_slice(), "{calls} calls");
            assert_eq!(skipped, also, "{calls} calls");
        }
    }
}

#[test]
fn a_device_that_may_give_up_at_any_time_gives_what_the_host_gives() {
    for (shape, patch, columns) in [
        ([19, 26, 11], [8, 8, 8], [1, 1]),
        ([5, 30, 9], [8, 8, 8], [2, 1]),
        ([4, 20, 19], [1, 8, 8], [1, 2]),
    ] {
        for (folds, air) in [(1, false), (3, true)] {
            let scene = Scene {
                shape,
                patch,
                folds,
                columns,
                air,
            };
            scene.check::<f16>();
            scene.check::<f32>();
        }
    }
}
