//! The number type in which overlapping tiles are added up.
//!
//! nnU-Net keeps sums, weights and logits in `f16` and lets PyTorch widen, add in `f32` and round
//! after every tile. Which voxels change label at a boundary depends on these roundings, so
//! they are reproduced for `f16`; `f32` is the more exact alternative.

use crate::geometry::resample::Sample;
use crate::nn::cuda::Logits;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that are widened at a time.
const BLOCK: usize = 256;

/// A storage type for logits; rows are converted and added in `f32` and rounded once per operation.
/// Slices handed to one call have the same length.
pub trait Logit: Sample + PartialOrd {
    /// Whether sums are kept in 16 bits.
    const HALF: bool;

    /// `sums += predictions * weights`.
    fn add_weighted(sums: &mut [Self], predictions: &[f32], weights: &[f32]);

    /// `sums += others`, both stored in this type.
    fn add(sums: &mut [Self], others: &[Self]);

    /// `to = sums / weights`; false when a result is not finite.
    fn divide(sums: &[Self], weights: &[Self], to: &mut [Self]) -> bool;

    /// `values /= divisor`.
    fn divide_all(values: &mut [Self], divisor: f32);

    /// `to = values`, exact.
    fn widen_f32(values: &[Self], to: &mut [f32]);

    /// The same memory as its type.
    fn logits(values: &mut [Self]) -> Logits<'_>;
}

impl Logit for f32 {
    const HALF: bool = false;

    fn add_weighted(sums: &mut [Self], predictions: &[f32], weights: &[f32]) {
        for ((sum, prediction), weight) in sums.iter_mut().zip(predictions).zip(weights) {
            *sum += prediction * weight;
        }
    }

    fn add(sums: &mut [Self], others: &[Self]) {
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum += other;
        }
    }

    fn divide(sums: &[Self], weights: &[Self], to: &mut [Self]) -> bool {
        let mut finite = true;
        for ((to, sum), weight) in to.iter_mut().zip(sums).zip(weights) {
            *to = sum / weight;
            finite &= to.is_finite();
        }
        finite
    }

    fn divide_all(values: &mut [Self], divisor: f32) {
        for value in values {
            *value /= divisor;
        }
    }

    fn widen_f32(values: &[Self], to: &mut [f32]) {
        to.copy_from_slice(values);
    }

    fn logits(values: &mut [Self]) -> Logits<'_> {
        Logits::Single(values)
    }
}

impl Logit for f16 {
    const HALF: bool = true;

    fn add_weighted(sums: &mut [Self], predictions: &[f32], weights: &[f32]) {
        update(sums, |offset, wide| {
            let predictions = &predictions[offset..];
            let weights = &weights[offset..];
            for ((sum, prediction), weight) in wide.iter_mut().zip(predictions).zip(weights) {
                *sum += prediction * weight;
            }
        });
    }

    fn add(sums: &mut [Self], others: &[Self]) {
        let mut wide_others = [0.0; BLOCK];
        update(sums, |offset, wide| {
            let others_here = &mut wide_others[..wide.len()];
            others[offset..offset + wide.len()].convert_to_f32_slice(others_here);
            for (sum, other) in wide.iter_mut().zip(others_here) {
                *sum += *other;
            }
        });
    }

    fn divide(sums: &[Self], weights: &[Self], to: &mut [Self]) -> bool {
        let mut finite = true;
        let (mut wide, mut wide_weights) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
        for ((to, sums), weights) in to
            .chunks_mut(BLOCK)
            .zip(sums.chunks(BLOCK))
            .zip(weights.chunks(BLOCK))
        {
            let n = to.len();
            sums.convert_to_f32_slice(&mut wide[..n]);
            weights.convert_to_f32_slice(&mut wide_weights[..n]);
            for (value, weight) in wide[..n].iter_mut().zip(&wide_weights) {
                *value /= weight;
            }
            to.convert_from_f32_slice(&wide[..n]);
            finite &= to.iter().all(|value| value.is_finite());
        }
        finite
    }

    fn divide_all(values: &mut [Self], divisor: f32) {
        update(values, |_, wide| {
            for value in wide {
                *value /= divisor;
            }
        });
    }

    fn widen_f32(values: &[Self], to: &mut [f32]) {
        values.convert_to_f32_slice(to);
    }

    fn logits(values: &mut [Self]) -> Logits<'_> {
        Logits::Half(values)
    }
}

/// Widens `values` block by block, lets `change(offset, block)` work on them and rounds them back.
fn update(values: &mut [f16], mut change: impl FnMut(usize, &mut [f32])) {
    let mut wide = [0.0; BLOCK];
    for (index, block) in values.chunks_mut(BLOCK).enumerate() {
        let wide = &mut wide[..block.len()];
        block.convert_to_f32_slice(wide);
        change(index * BLOCK, wide);
        block.convert_from_f32_slice(wide);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_after_every_addition() {
        // 2048 + 1 is a tie between 2048 and 2050 in f16: twice one is lost, two at once is kept.
        let mut sums = vec![f16::from_f32(2048.0); 300];
        let ones = vec![1.0; 300];
        f16::add_weighted(&mut sums, &ones, &ones);
        f16::add_weighted(&mut sums, &ones, &ones);
        assert!(sums.iter().all(|sum| sum.to_f32() == 2048.0));
        f16::add_weighted(&mut sums, &vec![2.0; 300], &ones);
        assert!(sums.iter().all(|sum| sum.to_f32() == 2050.0));
        let mut singles = vec![2048.0_f32; 300];
        f32::add_weighted(&mut singles, &ones, &ones);
        assert_eq!(singles[299], 2049.0);
    }

    #[test]
    fn overflow_is_noticed() {
        let sums = [f16::MAX];
        let mut to = [f16::ZERO];
        assert!(f16::divide(&sums, &[f16::ONE], &mut to));
        assert!(!f16::divide(&sums, &[f16::from_f32(0.5)], &mut to));
        assert!(!f32::divide(&[f32::NAN], &[1.0], &mut [0.0]));
    }

    #[test]
    fn blocks_line_up_with_their_weights() {
        let predictions: Vec<f32> = (0..600).map(|index| (index % 64) as f32).collect();
        let weights = vec![2.0; 600];
        let mut sums = vec![f16::ZERO; 600];
        f16::add_weighted(&mut sums, &predictions, &weights);
        let copy = sums.clone();
        f16::add(&mut sums, &copy);
        f16::divide_all(&mut sums, 4.0);
        let mut wide = vec![0.0; 600];
        f16::widen_f32(&sums, &mut wide);
        assert_eq!(wide, predictions);
    }
}
