//! How certain a model is of the labels it gives, voxel by voxel, from the logits that the labels are made of.
//!
//! **Entropy** of the class probabilities `p` of a voxel, in nats: `H(p) = -sum p_c ln p_c`, from 0 (certain) to `ln C` for `C`
//! classes of equal probability. Regions have a probability each and are taken as independent: the sum of their
//! binary entropies, from 0 to `R ln 2`. It is computed from the logits that decide the label, at the image's resolution,
//! after resampling and, for an ensemble, after averaging; it is the entropy of the probabilities that
//! [`LabelExport`](super::export::LabelExport) hands out.
//!
//! **Disagreement** of the folds of an ensemble, in nats: the mutual information between label and fold,
//! `I = H(mean_k p_k) - mean_k H(p_k)`, from 0 (all folds say the same, be it "I do not know") to `ln K` for `K` folds that
//! are certain of different classes. It is computed from every fold's final logits at the network's resolution,
//! and brought to the image's as logits are. It tells voxels that no training data would settle (entropy without
//! disagreement) from those that the training data did not cover.
//!
//! Source: Houlsby et al., Bayesian active learning for classification and preference learning, 2011 (arXiv 1112.5745),
//! equation 2; for networks Gal, Islam and Ghahramani, 2017 (arXiv 1703.02910), section 4; ensembles as in
//! Lakshminarayanan et al., 2017 (arXiv 1612.01474).
//!
//! Arithmetic is `f32` per voxel in the order of folds and classes: the same bytes for any number of threads.

use super::logit::Logit;
use crate::volume::LabelMap;
use ndarray::{Array3, Axis};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// Voxels that are computed together.
const BLOCK: usize = 1024;

/// Uncertainty of one case, `[z, y, x]` on the grid of its image, in nats. 0 outside of the crop.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncertainty {
    /// Entropy of the probabilities that decided the label.
    pub entropy: Array3<f32>,
    /// Mutual information of label and fold; `None` for a single fold.
    pub disagreement: Option<Array3<f32>>,
}

/// How logits become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Of classes that exclude each other.
    Softmax,
    /// Of regions, one by one.
    Sigmoid,
}

/// Mean uncertainty of the voxels of one label, in nats.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelUncertainty {
    /// Label number.
    pub label: u16,
    /// Its name in the label table, or `label_<number>`.
    pub name: String,
    /// Number of voxels.
    pub voxel_count: u64,
    /// Mean entropy; null for a label that does not occur.
    pub mean_entropy: Option<f64>,
    /// Mean disagreement of the folds; null for a label that does not occur, left out for a single fold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_disagreement: Option<Option<f64>>,
}

/// Entropy of every voxel of a slice of logits `[heads, plane]`.
///
/// With `m = max x` and `S = sum e^(x - m)` it is `ln S - sum (x - m) e^(x - m) / S`: two terms that are never negative, so nothing
/// cancels. A region of logit `x` is a pair of classes with the logits 0 and `-|x|`.
pub fn entropies<T: Logit>(activation: Activation, logits: &[T], plane: usize) -> Vec<f32> {
    let mut found = vec![0.0; plane];
    found
        .par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, to)| {
            let mut probabilities = Block::new(logits, plane, block * BLOCK, to.len());
            probabilities.entropy(activation, to, None);
        });
    found
}

/// What the folds seen so far say of one slice.
#[derive(Debug)]
pub struct FoldSums {
    activation: Activation,
    /// Sums of probabilities, `[plane / BLOCK][heads][BLOCK]`.
    probabilities: Vec<f32>,
    /// Sums of entropies, `[plane]`.
    entropies: Vec<f32>,
    heads: usize,
    folds: usize,
}

impl FoldSums {
    /// Before the first fold, of a slice of `plane` voxels. Memory: `4 * (heads + 1)` bytes per voxel.
    pub fn new(activation: Activation, heads: usize, plane: usize) -> Self {
        Self {
            activation,
            probabilities: vec![0.0; heads * plane],
            entropies: vec![0.0; plane],
            heads,
            folds: 0,
        }
    }

    /// Adds the final logits `[heads, plane]` of one fold.
    pub fn add<T: Logit>(&mut self, logits: &[T]) {
        let (plane, activation) = (self.entropies.len(), self.activation);
        self.folds += 1;
        self.probabilities
            .par_chunks_mut(self.heads * BLOCK)
            .zip(self.entropies.par_chunks_mut(BLOCK))
            .enumerate()
            .for_each(|(block, (sums, entropies))| {
                let mut one = Block::new(logits, plane, block * BLOCK, entropies.len());
                let mut entropy = [0.0; BLOCK];
                let entropy = &mut entropy[..entropies.len()];
                one.entropy(activation, entropy, Some(sums));
                for (sum, value) in entropies.iter_mut().zip(entropy) {
                    *sum += *value;
                }
            });
    }

    /// Mutual information of label and fold for every voxel, `[plane]`.
    pub fn disagreement(mut self) -> Vec<f32> {
        let (heads, folds, activation) = (self.heads, self.folds.max(1) as f32, self.activation);
        self.entropies
            .par_chunks_mut(BLOCK)
            .zip(self.probabilities.par_chunks(heads * BLOCK))
            .for_each(|(to, sums)| {
                let mut total = [0.0; BLOCK];
                let total = &mut total[..to.len()];
                for head in sums.chunks_exact(to.len()) {
                    for (total, sum) in total.iter_mut().zip(head) {
                        let mean = sum / folds;
                        *total += surprise(mean);
                        if activation == Activation::Sigmoid {
                            *total += surprise(1.0 - mean);
                        }
                    }
                }
                for (to, total) in to.iter_mut().zip(total) {
                    // Equal folds differ from their mean by rounding.
                    *to = (*total - *to / folds).max(0.0);
                }
            });
        self.entropies
    }
}

/// Logits of a few voxels as `[heads, voxels]`.
struct Block {
    logits: Vec<f32>,
    voxels: usize,
}

impl Block {
    fn new<T: Logit>(logits: &[T], plane: usize, first: usize, voxels: usize) -> Self {
        let heads = logits.chunks_exact(plane);
        let mut wide = vec![0.0; heads.len() * voxels];
        for (to, head) in wide.chunks_exact_mut(voxels).zip(heads) {
            T::widen_f32(&head[first..first + voxels], to);
        }
        Self {
            logits: wide,
            voxels,
        }
    }

    /// Writes the entropies and adds the probabilities to `sums`, where given.
    fn entropy(&mut self, activation: Activation, to: &mut [f32], sums: Option<&mut [f32]>) {
        match activation {
            Activation::Softmax => self.softmax(to, sums),
            Activation::Sigmoid => self.sigmoid(to, sums),
        }
    }

    fn softmax(&mut self, to: &mut [f32], sums: Option<&mut [f32]>) {
        let mut rows = [[0.0_f32; BLOCK]; 3];
        let [largest, sum, weighted] = rows.each_mut().map(|row| &mut row[..to.len()]);
        largest.fill(f32::NEG_INFINITY);
        for head in self.logits.chunks_exact(self.voxels) {
            for (largest, value) in largest.iter_mut().zip(head) {
                *largest = largest.max(*value);
            }
        }
        for head in self.logits.chunks_exact_mut(self.voxels) {
            for (((value, largest), sum), weighted) in head
                .iter_mut()
                .zip(&*largest)
                .zip(&mut *sum)
                .zip(&mut *weighted)
            {
                let below = *value - largest;
                *value = exp(below);
                *sum += *value;
                *weighted += below * *value;
            }
        }
        for ((to, sum), weighted) in to.iter_mut().zip(&*sum).zip(&*weighted) {
            *to = sum.ln() - weighted / sum;
        }
        let Some(sums) = sums else {
            return;
        };
        for (sums, head) in sums
            .chunks_exact_mut(self.voxels)
            .zip(self.logits.chunks_exact(self.voxels))
        {
            for ((to, value), sum) in sums.iter_mut().zip(head).zip(&*sum) {
                *to += value / sum;
            }
        }
    }

    fn sigmoid(&mut self, to: &mut [f32], sums: Option<&mut [f32]>) {
        to.fill(0.0);
        for head in self.logits.chunks_exact_mut(self.voxels) {
            for (value, to) in head.iter_mut().zip(&mut *to) {
                let below = -value.abs();
                let less = exp(below);
                *to += less.ln_1p() - below * less / (1.0 + less);
                let lesser = less / (1.0 + less);
                *value = if *value > 0.0 { 1.0 - lesser } else { lesser };
            }
        }
        for (sum, value) in sums.unwrap_or_default().iter_mut().zip(&self.logits) {
            *sum += value;
        }
    }
}

/// `-p ln p`, 0 for 0.
fn surprise(probability: f32) -> f32 {
    if probability > 0.0 {
        -probability * probability.ln()
    } else {
        0.0
    }
}

/// `e^x` for `x <= 0`, to 2e-7 of the result; 0 below -87. Unlike the standard library's it is computed for many values at
/// a time, and gives the same bits on every machine.
///
/// `x = n ln 2 + r`: the polynomial of `r` is Cephes' `expf` (Moshier, 1992), and `2^n` goes into the exponent.
fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let shifted = x.max(-87.0) * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x.max(-87.0) - whole * LN2_HIGH - whole * LN2_LOW;
    let tail = POLYNOMIAL.iter().fold(0.0, |sum, c| sum * rest + c);
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let value = (tail * rest * rest + rest + 1.0) * f32::from_bits(power);
    if x < -87.0 { 0.0 } else { value }
}

/// Mean uncertainty of every label of the table and every other label that occurs, ascending, background left out.
///
/// Sums are `f64` per slice, added in slice order: the same for any number of threads. Cost: one pass.
pub fn label_uncertainties(labels: &LabelMap, found: &Uncertainty) -> Vec<LabelUncertainty> {
    let slices: Vec<BTreeMap<u16, (u64, [f64; 2])>> = (0..labels.grid().shape[0])
        .into_par_iter()
        .map(|z| {
            let mut sums = BTreeMap::new();
            let numbers = labels.volume.data().index_axis(Axis(0), z);
            let entropies = found.entropy.index_axis(Axis(0), z);
            let disagreement = found.disagreement.as_ref();
            let disagreement = disagreement.map(|all| all.index_axis(Axis(0), z));
            for ((place, &number), &entropy) in numbers.indexed_iter().zip(&entropies) {
                if number != 0 {
                    let (count, sums): &mut (u64, [f64; 2]) = sums.entry(number).or_default();
                    *count += 1;
                    sums[0] += f64::from(entropy);
                    sums[1] += disagreement.map_or(0.0, |all| f64::from(all[place]));
                }
            }
            sums
        })
        .collect();
    let mut sums: BTreeMap<u16, (u64, [f64; 2])> = labels
        .table
        .iter()
        .filter(|(number, _)| *number != 0)
        .map(|(number, _)| (number, Default::default()))
        .collect();
    for (number, (count, [entropy, disagreement])) in slices.into_iter().flatten() {
        let (counts, sums) = sums.entry(number).or_default();
        *counts += count;
        sums[0] += entropy;
        sums[1] += disagreement;
    }
    let rows = sums.into_iter().map(|(label, (voxel_count, sums))| {
        let [mean_entropy, mean_disagreement] =
            sums.map(|sum| (voxel_count > 0).then(|| sum / voxel_count as f64));
        LabelUncertainty {
            label,
            name: labels.table.name_of(label),
            voxel_count,
            mean_entropy,
            mean_disagreement: found.disagreement.is_some().then_some(mean_disagreement),
        }
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Grid, LabelTable};
    use half::f16;

    fn near(found: f32, expected: f64) {
        assert!(
            (f64::from(found) - expected).abs() < 3e-7 * (1.0 + expected),
            "{found} {expected}"
        );
    }

    /// `-sum p ln p` in double precision.
    fn plain(probabilities: &[f64]) -> f64 {
        probabilities
            .iter()
            .filter(|p| **p > 0.0)
            .map(|p| -p * p.ln())
            .sum()
    }

    fn softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / sum).collect()
    }

    #[test]
    fn exponentials_are_as_good_as_single_precision() {
        for step in 0..=870_000 {
            let x = step as f32 * -1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 2e-7, "{x}: {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn entropies_by_hand() {
        let ln2 = std::f64::consts::LN_2;
        // Voxels: equal, certain, probabilities 1/2 1/4 1/4, far from 0.
        let logits = [0.0, 40.0, 2.0_f32.ln(), 1000.0, 0.0, -40.0, 0.0, 1000.0];
        let third = [0.0, -40.0, 0.0, -1000.0];
        let logits: Vec<f32> = logits.into_iter().chain(third).collect();
        let found = entropies(Activation::Softmax, &logits, 4);
        near(found[0], 3.0_f64.ln());
        near(found[1], 0.0);
        near(found[2], 1.5 * ln2);
        near(found[3], ln2);
        // Two regions: 1/2 and 1/2; 3/4 and certain; 1/4 and certainly not.
        let three = 3.0_f32.ln();
        let logits = [0.0, three, -three, 0.0, 90.0, -90.0];
        let found = entropies(Activation::Sigmoid, &logits, 3);
        near(found[0], 2.0 * ln2);
        let quarter = plain(&[0.75, 0.25]);
        near(found[1], quarter);
        near(found[2], quarter);
    }

    #[test]
    fn certain_folds_that_contradict_each_other_disagree_by_the_logarithm_of_their_number() {
        let mut sums = FoldSums::new(Activation::Softmax, 3, 4);
        // Voxels: contradiction; agreement; agreement on not knowing; one knows, one does not.
        sums.add(&[30.0_f32, 30., 1., 30., 0., 0., 1., 0., 0., 0., 1., 0.]);
        sums.add(&[0.0_f32, 30., 1., 1., 30., 0., 1., 1., 0., 0., 1., 1.]);
        let found = sums.disagreement();
        near(found[0], std::f64::consts::LN_2);
        near(found[1], 0.0);
        near(found[2], 0.0);
        let mean = [2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0];
        near(found[3], plain(&mean) - 0.5 * 3.0_f64.ln());
        let mut regions = FoldSums::new(Activation::Sigmoid, 2, 1);
        regions.add(&[50.0_f32, 3.0]);
        regions.add(&[-50.0_f32, 3.0]);
        near(regions.disagreement()[0], std::f64::consts::LN_2);
    }

    #[test]
    fn blocks_and_threads_do_not_show() {
        let (heads, plane) = (5, 2 * BLOCK + 37);
        let fold = |fold: usize| -> Vec<f16> {
            let value = |at: usize| ((at * 31 + fold * 17) % 23) as f32 * 0.4 - 4.0;
            (0..heads * plane)
                .map(|at| f16::from_f32(value(at)))
                .collect()
        };
        let pool = |threads| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            builder.build().unwrap().install(|| {
                let mut sums = FoldSums::new(Activation::Softmax, heads, plane);
                (0..3).for_each(|number| sums.add(&fold(number)));
                (
                    entropies(Activation::Softmax, &fold(0), plane),
                    sums.disagreement(),
                )
            })
        };
        let found = pool(1);
        assert!(found == pool(3));
        for voxel in [0, BLOCK - 1, BLOCK, 2 * BLOCK + 36] {
            let of = |number: usize| {
                let logits = fold(number);
                let at = |head: usize| f64::from(logits[head * plane + voxel].to_f32());
                softmax(&(0..heads).map(at).collect::<Vec<_>>())
            };
            let folds = [of(0), of(1), of(2)];
            near(found.0[voxel], plain(&folds[0]));
            let mean: Vec<f64> = (0..heads)
                .map(|head| folds.iter().map(|p| p[head]).sum::<f64>() / 3.0)
                .collect();
            let within: f64 = folds.iter().map(|p| plain(p)).sum::<f64>() / 3.0;
            let found = f64::from(found.1[voxel]);
            assert!((found - (plain(&mean) - within)).abs() < 1e-6);
        }
    }

    #[test]
    fn labels_have_the_mean_of_their_voxels() {
        let numbers = Array3::from_shape_vec([2, 1, 2], vec![1, 0, 1, 3]).unwrap();
        let mut table = LabelTable::default();
        for number in 0..3 {
            table.insert(
                number,
                crate::volume::Label {
                    name: format!("n{number}"),
                    rgb: [0; 3],
                },
            );
        }
        let labels =
            LabelMap::new(numbers, Grid::with_spacing([2, 1, 2], [1.0; 3]), table).unwrap();
        let values = |all: Vec<f32>| Array3::from_shape_vec([2, 1, 2], all).unwrap();
        let mut found = Uncertainty {
            entropy: values(vec![0.5, 9.0, 1.0, 0.25]),
            disagreement: Some(values(vec![0.1, 9.0, 0.3, 0.0])),
        };
        let rows = label_uncertainties(&labels, &found);
        let entropies: Vec<_> = rows.iter().map(|r| (r.label, r.mean_entropy)).collect();
        assert_eq!(entropies, [(1, Some(0.75)), (2, None), (3, Some(0.25))]);
        let both = rows[0].mean_disagreement.unwrap().unwrap();
        assert!((both - 0.2).abs() < 1e-7);
        assert_eq!(rows[1].mean_disagreement, Some(None));
        found.disagreement = None;
        let rows = label_uncertainties(&labels, &found);
        assert!(rows.iter().all(|row| row.mean_disagreement.is_none()));
    }
}
