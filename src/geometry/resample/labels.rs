//! Resampling of label maps by the largest interpolated membership.

use super::axis::{self, Alignment, LinearTap};
use super::nnunet::{front, on_front_axis};
use super::{
    Interpolation, ResampleError, ResampleFunction, ResampleOptions, Sample, build, check_shapes,
    cubic, resize_nearest, separate_axis,
};
use half::f16;
use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

/// nnU-Net's resampling of a label map (`is_seg=True`), one channel:
/// `labels` (`[z, y, x]`, spacing `current_mm`) to `shape` (spacing `new_mm`).
///
/// * Nearest: copies.
/// * Linear and cubic: every label's 0/1 map is interpolated (cubic: clipped to its range) and each
///   voxel takes the label with the largest value. Exact ties go to the nearest voxel's label if that is
///   among the tied ones, otherwise to the smallest tied label (batchgenerators 0.25.5; versions
///   before 0.25.4 let the largest label with at least one half win).
/// * One axis handled apart ([`separate_axis`]): the above inside every slice, then along the axis
///   the nearest slice. `options.along_separate_axis` other than nearest lets, in ascending order,
///   every label whose interpolated 0/1 map exceeds one half after rounding take the voxel.
/// * [`ResampleFunction::Torch`]: linear as above, with the membership times 1000 rounded to `f16` before
///   it is compared, as PyTorch stores it; ties go to the smallest tied label.
///
/// Linear needs no per-label pass: an output voxel looks at its eight neighbours only, and sums their
/// weights per label in SciPy's order, so that ties are ties of the same bits. Cost: O(output), cubic
/// O(output * labels) time and three extra `f64` volumes.
///
/// # Errors
/// [`ResampleError::Spacing`], [`ResampleError::EmptySource`], [`ResampleError::TooLarge`].
pub fn resample_labels<T>(
    labels: ArrayView3<'_, T>,
    shape: [usize; 3],
    current_mm: [f64; 3],
    new_mm: [f64; 3],
    options: ResampleOptions,
) -> Result<Array3<T>, ResampleError>
where
    T: Sample + Ord,
{
    let apart = separate_axis(options.separate_axis, current_mm, new_mm)?;
    let source_shape: [usize; 3] = labels.dim().into();
    check_shapes(source_shape, shape)?;
    if source_shape == shape {
        return Ok(labels.as_standard_layout().into_owned());
    }
    if shape.contains(&0) {
        return Ok(Array3::default(shape));
    }
    let Some(axis) = apart else {
        return match options.interpolation {
            Interpolation::Nearest => resize_nearest(labels, shape, Alignment::Faces),
            Interpolation::Linear => Ok(linear(labels, shape, options.function)),
            Interpolation::Cubic => cubic_argmax(labels, shape),
        };
    };
    let mut between = shape;
    between[axis] = source_shape[axis];
    let alignment = options.function.alignment();
    let middle = match options.interpolation {
        Interpolation::Nearest => resize_nearest(labels, between, Alignment::Faces)?,
        // An axis that keeps its length has taps of weight one, so the volume can be done at once.
        Interpolation::Linear => linear(labels, between, options.function),
        Interpolation::Cubic => {
            let mut failure = None;
            let middle = on_front_axis(labels, axis, |labels| {
                let mut target = Array3::default(front(between, axis));
                for (slice, mut target) in labels.outer_iter().zip(target.outer_iter_mut()) {
                    let (y, x) = target.dim();
                    match cubic_argmax(slice.insert_axis(Axis(0)), [1, y, x]) {
                        Ok(result) => target.assign(&result.index_axis(Axis(0), 0)),
                        Err(error) => failure = Some(error),
                    }
                }
                target
            });
            if let Some(error) = failure {
                return Err(error);
            }
            middle
        }
    };
    match options.along_separate_axis {
        _ if between == shape => Ok(middle),
        Interpolation::Nearest => resize_nearest(middle.view(), shape, alignment),
        along => along_axis(&middle, shape, along),
    }
}

/// Sum of weights per label among up to eight neighbours.
struct Scores<T> {
    entries: [(T, f64); 8],
    used: usize,
}

impl<T: Copy + Ord> Scores<T> {
    fn add(&mut self, label: T, weight: f64) {
        for (known, sum) in &mut self.entries[..self.used] {
            if *known == label {
                *sum += weight;
                return;
            }
        }
        self.entries[self.used] = (label, weight);
        self.used += 1;
    }

    /// Label with the largest sum of those that PyTorch stores; ties to the smallest.
    fn winner_in_half(&self) -> Option<T> {
        let stored = |sum: f64| f16::from_f32((sum * 1000.0) as f32);
        let ranked = self.entries[..self.used]
            .iter()
            .map(|&(label, sum)| (stored(sum), std::cmp::Reverse(label)));
        ranked
            .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, label)| label.0)
    }

    /// Label with the largest sum; ties to `nearest`, otherwise to the smallest label.
    fn winner(&self, nearest: T) -> T {
        let Some((&opening, others)) = self.entries[..self.used].split_first() else {
            return nearest;
        };
        let (mut best, mut top) = opening;
        for &(label, sum) in others {
            if sum > top || (sum == top && label < best) {
                (best, top) = (label, sum);
            }
        }
        let tied = self.entries[..self.used]
            .iter()
            .any(|&(label, sum)| label == nearest && sum == top);
        if tied { nearest } else { best }
    }
}

fn linear<T: Sample + Ord>(
    labels: ArrayView3<'_, T>,
    shape: [usize; 3],
    function: ResampleFunction,
) -> Array3<T> {
    let alignment = function.alignment();
    let source: [usize; 3] = labels.dim().into();
    let taps: [Vec<LinearTap>; 3] =
        std::array::from_fn(|axis| axis::linear(source[axis], shape[axis], alignment));
    let nearest: [Vec<usize>; 3] =
        std::array::from_fn(|axis| axis::nearest(source[axis], shape[axis], alignment));
    let plane = shape[1] * shape[2];
    build(shape, |target: &mut [T]| {
        target
            .par_chunks_mut(plane)
            .enumerate()
            .for_each(|(out_z, target)| {
                let z = taps[0][out_z];
                for (out_y, target) in target.chunks_exact_mut(shape[2]).enumerate() {
                    let y = taps[1][out_y];
                    let nearest_row =
                        labels.slice(ndarray::s![nearest[0][out_z], nearest[1][out_y], ..]);
                    let mut corners = Vec::with_capacity(4);
                    for (z_index, z_weight) in [(z.low, z.weights[0]), (z.high, z.weights[1])] {
                        for (y_index, y_weight) in [(y.low, y.weights[0]), (y.high, y.weights[1])] {
                            let weight = z_weight * y_weight;
                            if z_weight != 0.0 && y_weight != 0.0 {
                                corners.push((
                                    labels.slice(ndarray::s![z_index, y_index, ..]),
                                    weight,
                                ));
                            }
                        }
                    }
                    for ((to, x), &nearest_x) in target.iter_mut().zip(&taps[2]).zip(&nearest[2]) {
                        let nearest = nearest_row[nearest_x];
                        let uniform = corners
                            .iter()
                            .all(|(row, _)| row[x.low] == nearest && row[x.high] == nearest);
                        *to = if uniform {
                            nearest
                        } else {
                            let mut scores = Scores {
                                entries: [(nearest, 0.0); 8],
                                used: 0,
                            };
                            for (row, weight) in &corners {
                                scores.add(row[x.low], weight * x.weights[0]);
                                if x.weights[1] != 0.0 {
                                    scores.add(row[x.high], weight * x.weights[1]);
                                }
                            }
                            match function {
                                ResampleFunction::Splines => scores.winner(nearest),
                                ResampleFunction::Torch => {
                                    scores.winner_in_half().unwrap_or(nearest)
                                }
                            }
                        };
                    }
                }
            });
    })
}

/// The labels that occur, ascending.
fn present<T: Sample + Ord>(labels: ArrayView3<'_, T>) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    for &label in labels {
        if found.last() == Some(&label) {
            continue;
        }
        if let Err(place) = found.binary_search(&label) {
            found.insert(place, label);
        }
    }
    found
}

/// The 0/1 map of `label`.
fn indicator<T: Sample + Ord>(labels: ArrayView3<'_, T>, label: T) -> Array3<u8> {
    labels.mapv(|value| u8::from(value == label))
}

fn cubic_argmax<T: Sample + Ord>(
    labels: ArrayView3<'_, T>,
    shape: [usize; 3],
) -> Result<Array3<T>, ResampleError> {
    let nearest = resize_nearest(labels, shape, Alignment::Faces)?;
    let source: [usize; 3] = labels.dim().into();
    let found = present(labels);
    if source == shape || found.len() < 2 {
        return Ok(nearest);
    }
    let mut winner = nearest.clone();
    let mut best = Array3::<f64>::from_elem(shape, f64::NEG_INFINITY);
    let mut tied = Array3::<bool>::default(shape); // the nearest label has the top value
    for &label in &found {
        let map = indicator(labels, label);
        let score: Array3<f64> = cubic::resize(
            map.view(),
            shape,
            Alignment::Faces,
            cubic::value_range(map.view()),
        );
        ndarray::Zip::from(&mut winner)
            .and(&mut best)
            .and(&mut tied)
            .and(&nearest)
            .and(&score)
            .for_each(|winner, best, tied, &nearest, &score| {
                if score > *best {
                    *best = score;
                    *winner = label;
                    *tied = nearest == label;
                } else if score == *best && score > 0.0 && nearest == label {
                    *tied = true;
                }
            });
    }
    ndarray::Zip::from(&mut winner)
        .and(&tied)
        .and(&nearest)
        .for_each(|winner, &tied, &nearest| {
            if tied {
                *winner = nearest;
            }
        });
    Ok(winner)
}

/// nnU-Net's `order_z > 0` for label maps: only lengths along one axis differ.
fn along_axis<T: Sample + Ord>(
    labels: &Array3<T>,
    shape: [usize; 3],
    interpolation: Interpolation,
) -> Result<Array3<T>, ResampleError> {
    let mut result = Array3::default(shape);
    for label in present(labels.view()) {
        let map = indicator(labels.view(), label);
        let score: Array3<f64> = match interpolation {
            Interpolation::Linear => super::resize(map.view(), shape, interpolation)?,
            _ => cubic::resize(map.view(), shape, Alignment::Faces, None),
        };
        ndarray::Zip::from(&mut result)
            .and(&score)
            .for_each(|to, score| {
                // numpy.round: halves to even, so one half is zero.
                if score.round_ties_even() > 0.5 {
                    *to = label;
                }
            });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ISOTROPIC: [f64; 3] = [1.0; 3];

    fn linear_labels(values: Vec<i16>, from: [usize; 3], to: [usize; 3]) -> Vec<i16> {
        let labels = Array3::from_shape_vec(from, values).unwrap();
        resample_labels(
            labels.view(),
            to,
            ISOTROPIC,
            ISOTROPIC,
            ResampleOptions::LOGITS,
        )
        .unwrap()
        .into_raw_vec_and_offset()
        .0
    }

    #[test]
    fn no_label_is_invented_between_others() {
        assert_eq!(
            linear_labels(vec![0, 0, 2], [1, 1, 3], [1, 1, 6]),
            [0, 0, 0, 0, 2, 2]
        );
    }

    #[test]
    fn a_tie_takes_the_nearest_label() {
        // The output voxel lies halfway; the nearest index is the upper one.
        assert_eq!(linear_labels(vec![1, 5], [1, 1, 2], [1, 1, 1]), [5]);
        assert_eq!(linear_labels(vec![5, 1], [1, 1, 2], [1, 1, 1]), [1]);
    }

    #[test]
    fn a_tie_without_the_nearest_label_takes_the_smallest() {
        // batchgenerators' own example: 1 and 2 score 0.375 each, 3 scores 0.25 and is nearest.
        assert_eq!(
            linear_labels(vec![3, 1, 1, 1, 2, 2, 2, 3], [2; 3], [1; 3]),
            [1]
        );
    }

    #[test]
    fn negative_labels_are_labels() {
        assert_eq!(
            linear_labels(vec![-1, -1, 4], [1, 1, 3], [1, 1, 2]),
            [-1, 4]
        );
    }

    proptest! {
        /// The plain version: interpolate every label's map with the volume code.
        #[test]
        fn linear_equals_interpolating_every_label(
            values in prop::collection::vec(-1_i16..4, 24),
            shape in [1_usize..7, 1_usize..7, 1_usize..7],
        ) {
            let labels = Array3::from_shape_vec([2, 3, 4], values).unwrap();
            prop_assume!(shape != [2, 3, 4]);
            let fast = linear(labels.view(), shape, ResampleFunction::Splines);
            let nearest = resize_nearest(labels.view(), shape, Alignment::Faces).unwrap();
            let found = present(labels.view());
            let scores: Vec<Array3<f64>> = found
                .iter()
                .map(|&label| {
                    super::super::resize(
                        indicator(labels.view(), label).view(), shape, Interpolation::Linear,
                    ).unwrap()
                })
                .collect();
            for (index, &got) in fast.indexed_iter() {
                let top = scores.iter().map(|score| score[index]).fold(0.0, f64::max);
                let tied: Vec<i16> = found.iter().zip(&scores)
                    .filter(|(_, score)| score[index] == top)
                    .map(|(&label, _)| label)
                    .collect();
                let expected = if tied.contains(&nearest[index]) { nearest[index] } else { tied[0] };
                prop_assert_eq!(got, expected);
            }
        }
    }
}
