//! The ring against a plain version that keeps whole volumes, as nnU-Net does.

use super::*;
use crate::nnunet::columns;
use crate::progress::{Cancel, Silent};
use half::f16;
use ndarray::Array4;

/// Logits that depend on the patch's content, on the place inside it and on fold and head.
struct Mock {
    patch: [usize; 3],
    heads: usize,
    folds: usize,
    scale: f32,
}

impl PatchPredictor for Mock {
    fn heads(&self) -> usize {
        self.heads
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
        // Boxes of single rows, and classes apart, in an order of its own.
        let [depth, height, width] = self.patch;
        for row in (0..depth * height).rev() {
            for head in 0..self.heads {
                let values: Vec<f32> = (row * width..(row + 1) * width)
                    .map(|voxel| self.logit(fold, patch, head, voxel))
                    .collect();
                take(LogitsBox {
                    heads: head..head + 1,
                    start: [row / height, row % height, 0],
                    shape: [1, 1, width],
                    values: &values,
                    head_stride: width,
                });
            }
        }
        Ok(())
    }
}

impl Mock {
    fn new(patch: [usize; 3], heads: usize, folds: usize) -> Self {
        Self {
            patch,
            heads,
            folds,
            scale: 1.0,
        }
    }

    fn logit(&self, fold: usize, patch: &[f32], head: usize, voxel: usize) -> f32 {
        self.scale
            * (patch[voxel] * (head as f32 + 0.37) + (voxel % 7) as f32 * 0.11 - fold as f32 * 0.53)
    }
}

#[derive(Default)]
struct Collect<T>(Vec<Vec<T>>);

impl<T: Logit> LogitsSink<T> for Collect<T> {
    fn begin(&mut self, _column: &Column) -> Result<(), PredictError> {
        Ok(())
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<T>) -> Result<(), PredictError> {
        assert_eq!(z, self.0.len(), "slices arrive in order");
        self.0.push(logits.clone());
        Ok(())
    }
}

fn image(shape: [usize; 3]) -> Array4<f32> {
    Array4::from_shape_fn([1, shape[0], shape[1], shape[2]], |(_, z, y, x)| {
        ((z * 31 + y * 17 + x * 7) % 23) as f32 * 0.173 - 1.9
    })
}

fn grid(shape: [usize; 3], patch: [usize; 3]) -> WindowGrid {
    let spatial_dims = if patch[0] == 1 { 2 } else { 3 };
    WindowGrid::new(shape, patch, spatial_dims, 0.5).unwrap()
}

fn streamed<T: Logit>(shape: [usize; 3], patch: [usize; 3], mock: &mut Mock) -> Vec<Vec<T>> {
    let window = SlidingWindow::new(grid(shape, patch));
    let mut sink = Collect(Vec::new());
    let columns = columns::cut(window.grid(), None, [1, 1]);
    window
        .run(&mut &image(shape), &columns, mock, &mut sink, &Silent)
        .unwrap();
    sink.0
}

/// Puts the slices of columns together.
struct Paste {
    shape: [usize; 3],
    heads: usize,
    column: Option<Column>,
    slices: Vec<Vec<f16>>,
}

impl LogitsSink<f16> for Paste {
    fn begin(&mut self, column: &Column) -> Result<(), PredictError> {
        self.column = Some(column.clone());
        Ok(())
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<f16>) -> Result<(), PredictError> {
        let [_, height, width] = self.shape;
        let column = self.column.as_ref().unwrap();
        let [rows, columns] = column.source.clone();
        let mut values = logits.iter();
        for head in 0..self.heads {
            for y in rows.clone() {
                for x in columns.clone() {
                    self.slices[z][(head * height + y) * width + x] = *values.next().unwrap();
                }
            }
        }
        Ok(())
    }
}

#[test]
fn columns_do_not_show_in_any_bit() {
    for (shape, patch) in [
        ([11, 30, 27], [8, 8, 8]),
        ([3, 29, 5], [8, 8, 8]),
        ([5, 40, 19], [1, 8, 8]),
    ] {
        for folds in [1, 9] {
            let mut mock = Mock::new(patch, 3, folds);
            let expected = streamed::<f16>(shape, patch, &mut mock);
            for counts in [[2, 1], [1, 3], [3, 2], [99, 99]] {
                let window = SlidingWindow::new(grid(shape, patch));
                let columns = columns::cut(window.grid(), None, counts);
                let mut sink = Paste {
                    shape,
                    heads: 3,
                    column: None,
                    slices: vec![vec![f16::NAN; 3 * shape[1] * shape[2]]; shape[0]],
                };
                window
                    .run(&mut &image(shape), &columns, &mut mock, &mut sink, &Silent)
                    .unwrap();
                assert!(sink.slices == expected, "{shape:?} {folds} {counts:?}");
            }
        }
    }
}

/// nnU-Net's way: whole padded volumes, scalar arithmetic, fold after fold.
fn whole(shape: [usize; 3], patch: [usize; 3], mock: &mut Mock) -> Vec<Vec<f16>> {
    let grid = grid(shape, patch);
    let importance = importance_map(patch, grid.spatial_dims());
    let source = image(shape);
    let [depth, height, width] = grid.padded();
    let mut mean = vec![vec![f16::ZERO; mock.heads * shape[1] * shape[2]]; shape[0]];
    for fold in 0..mock.folds {
        let mut sums = vec![f16::ZERO; mock.heads * depth * height * width];
        let mut weights = vec![f16::ZERO; depth * height * width];
        for &z0 in grid.starts(0) {
            for &y0 in grid.starts(1) {
                for &x0 in grid.starts(2) {
                    let at = |index: usize| {
                        let (z, rest) =
                            (index / (patch[1] * patch[2]), index % (patch[1] * patch[2]));
                        [z0 + z, y0 + rest / patch[2], x0 + rest % patch[2]]
                    };
                    let voxels: usize = patch.iter().product();
                    let cut: Vec<f32> = (0..voxels)
                        .map(|index| {
                            let place = at(index);
                            let inside: Option<Vec<usize>> = (0..3)
                                .map(|axis| {
                                    place[axis]
                                        .checked_sub(grid.pad_before()[axis])
                                        .filter(|&i| i < shape[axis])
                                })
                                .collect();
                            inside.map_or(0.0, |p| source[[0, p[0], p[1], p[2]]])
                        })
                        .collect();
                    let logits: Vec<f32> = (0..mock.heads * voxels)
                        .map(|index| mock.logit(fold, &cut, index / voxels, index % voxels))
                        .collect();
                    for index in 0..voxels {
                        let [z, y, x] = at(index);
                        let flat = (z * height + y) * width + x;
                        for head in 0..mock.heads {
                            let sum = &mut sums[head * depth * height * width + flat];
                            *sum = f16::from_f32(
                                sum.to_f32() + logits[head * voxels + index] * importance[index],
                            );
                        }
                        weights[flat] = f16::from_f32(weights[flat].to_f32() + importance[index]);
                    }
                }
            }
        }
        for (z, slice) in mean.iter_mut().enumerate() {
            for (index, value) in slice.iter_mut().enumerate() {
                let (head, voxel) = (index / (shape[1] * shape[2]), index % (shape[1] * shape[2]));
                let place = [z, voxel / shape[2], voxel % shape[2]];
                let padded: [usize; 3] =
                    std::array::from_fn(|axis| place[axis] + grid.pad_before()[axis]);
                let flat = (padded[0] * height + padded[1]) * width + padded[2];
                let sum = sums[head * depth * height * width + flat];
                let logit = f16::from_f32(sum.to_f32() / weights[flat].to_f32());
                *value = f16::from_f32(value.to_f32() + logit.to_f32());
            }
        }
    }
    if mock.folds > 1 {
        for value in mean.iter_mut().flatten() {
            *value = f16::from_f32(value.to_f32() / mock.folds as f32);
        }
    }
    mean
}

#[test]
fn the_ring_equals_whole_volumes_in_every_bit() {
    for (shape, patch) in [
        ([19, 11, 13], [8, 8, 8]),
        ([3, 11, 5], [8, 8, 8]),
        ([8, 8, 8], [8, 8, 8]),
        ([5, 20, 9], [1, 8, 8]),
        ([40, 6, 9], [6, 8, 4]),
    ] {
        for folds in [1, 2, 3] {
            let mut mock = Mock::new(patch, 3, folds);
            assert_eq!(
                streamed::<f16>(shape, patch, &mut mock),
                whole(shape, patch, &mut mock),
                "{shape:?} {patch:?} {folds}"
            );
        }
    }
}

#[test]
fn single_precision_is_close_to_half_precision() {
    let mut mock = Mock::new([8; 3], 2, 2);
    let half = streamed::<f16>([19, 11, 13], [8, 8, 8], &mut mock);
    let single = streamed::<f32>([19, 11, 13], [8, 8, 8], &mut mock);
    // Where the importance is below the smallest normal f16 (corners of the volume), f16 sums are coarse;
    // everywhere else a few roundings of sums below 64 are left, divided by weights of about 1 to 10.
    let far = half
        .iter()
        .flatten()
        .zip(single.iter().flatten())
        .filter(|(a, b)| (a.to_f32() - **b).abs() > 0.02)
        .count();
    assert!(far < 19 * 11 * 13 * 2 / 50, "{far} logits differ");
}

#[test]
fn an_overflow_names_the_slice() {
    let mut mock = Mock {
        scale: 30000.0,
        ..Mock::new([8; 3], 1, 1)
    };
    let window = SlidingWindow::new(grid([9, 8, 8], [8; 3]));
    let columns = columns::cut(window.grid(), None, [1, 1]);
    let error = window
        .run::<f16>(
            &mut &image([9, 8, 8]),
            &columns,
            &mut mock,
            &mut Collect(Vec::new()),
            &Silent,
        )
        .unwrap_err();
    assert!(error.to_string().contains("32-bit accumulation"), "{error}");
}

#[test]
fn a_cancelled_prediction_stops() {
    let cancel = Cancel::default();
    cancel.cancel();
    let window = SlidingWindow::new(grid([9, 8, 8], [8; 3]));
    let mut mock = Mock::new([8; 3], 1, 1);
    let columns = columns::cut(window.grid(), None, [1, 1]);
    let stopped = window.run::<f32>(
        &mut &image([9, 8, 8]),
        &columns,
        &mut mock,
        &mut Collect(Vec::new()),
        &cancel,
    );
    assert!(matches!(stopped, Err(PredictError::Interrupted)));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| {
                let mut mock = Mock::new([8; 3], 3, 2);
                streamed::<f16>([19, 11, 13], [8, 8, 8], &mut mock)
            })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn tiles_of_air_are_skipped_and_become_background() {
    let shape = [8, 40, 8];
    let mut picture = Array4::from_elem([1, 8, 40, 8], -3.0_f32);
    picture.slice_mut(ndarray::s![.., .., ..8, ..]).fill(1.0);
    let mut mock = Mock::new([8; 3], 2, 1);
    let grid = grid(shape, [8; 3]);
    let columns = columns::cut(&grid, None, [2, 1]);
    let mut skipped = Vec::new();
    let mut results = Vec::new();
    for air in [
        None,
        Some(Air {
            highest: vec![-3.0],
            background: vec![5.0, -5.0],
        }),
    ] {
        let window = SlidingWindow::new(grid.clone()).skipping(air);
        let mut sink = Paste {
            shape,
            heads: 2,
            column: None,
            slices: vec![vec![f16::NAN; 2 * 40 * 8]; 8],
        };
        let count = window.run(&mut &picture, &columns, &mut mock, &mut sink, &Silent);
        skipped.push(count.unwrap());
        results.push(sink.slices);
    }
    // Tiles start at 0, 4, ..., 32; those at 0 and 4 see the picture. The cut at 20 runs one tile twice.
    assert_eq!(skipped, [0, 8]);
    let row =
        |slices: &Vec<Vec<f16>>, head: usize, y: usize| slices[3][(head * 40 + y) * 8].to_f32();
    assert_eq!(row(&results[1], 0, 30), 5.0);
    assert_eq!(row(&results[1], 1, 30), -5.0);
    // The first rows see no skipped tile.
    assert_eq!(row(&results[0], 0, 2), row(&results[1], 0, 2));
}
