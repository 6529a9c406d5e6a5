//! The networks of all folds on one patch, mirrored where the model was trained so.

use super::predict_error::PredictError;
use super::sliding_window::PatchPredictor;
use crate::nn::{Executor, LogitsBox, Network, TakeLogits};
use rayon::prelude::*;

/// The folds of a model as one predictor; only the fold in use holds activations.
pub(super) struct Folds<'n> {
    networks: &'n [Network],
    patch: [usize; 3],
    flips: &'n [[bool; 3]],
    /// A patch of logits, where mirrored passes are added up.
    logits: Vec<f32>,
    current: Option<(usize, Executor<'n>)>,
}

impl<'n> Folds<'n> {
    /// Nothing is allocated before the first patch.
    pub fn new(networks: &'n [Network], patch: [usize; 3], flips: &'n [[bool; 3]]) -> Self {
        Self {
            networks,
            patch,
            flips,
            logits: Vec::new(),
            current: None,
        }
    }
}

impl PatchPredictor for Folds<'_> {
    fn heads(&self) -> usize {
        self.networks.first().map_or(0, Network::out_channels)
    }

    fn folds(&self) -> usize {
        self.networks.len()
    }

    fn predict(
        &mut self,
        fold: usize,
        patch: &[f32],
        take: &TakeLogits<'_>,
    ) -> Result<(), PredictError> {
        let executor = match self.current.take() {
            Some(current) if current.0 == fold => current.1,
            other => {
                drop(other); // before the next fold's memory is taken
                self.networks[fold].executor(self.patch)?
            }
        };
        let heads = self.networks[fold].out_channels();
        let (_, executor) = self.current.insert((fold, executor));
        if self.flips.is_empty() {
            return Ok(executor.run_boxes(patch, take)?);
        }
        let [depth, height, width] = self.patch;
        let (plane, voxels) = (height * width, depth * height * width);
        self.logits.resize(heads * voxels, 0.0);
        executor.run(patch, &mut self.logits)?;
        for &flip in self.flips {
            executor.run_accumulate(patch, flip, &mut self.logits)?;
        }
        let passes = (1 + self.flips.len()) as f32;
        self.logits
            .par_chunks_mut(plane)
            .for_each(|plane| plane.iter_mut().for_each(|logit| *logit /= passes));
        let logits = &self.logits;
        (0..depth).into_par_iter().for_each(|z| {
            take(LogitsBox {
                heads: 0..heads,
                start: [z, 0, 0],
                shape: [1, height, width],
                values: &logits[z * plane..],
                head_stride: voxels,
            });
        });
        Ok(())
    }
}

/// All non-empty combinations of the mirroring axes, fewest axes first and then in lexicographic order
/// (`itertools.combinations`), as flips of `[z, y, x]`. The order shows in the last bit of the sums.
pub(super) fn flips(axes: &[usize], spatial_dims: usize) -> Vec<[bool; 3]> {
    let mut subsets: Vec<Vec<usize>> = (1_usize..1 << axes.len())
        .map(|subset| {
            (0..axes.len())
                .filter(|&position| subset >> position & 1 == 1)
                .collect()
        })
        .collect();
    subsets.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    subsets
        .into_iter()
        .map(|subset| {
            let mut flip = [false; 3];
            for position in subset {
                // Axes of a 2-D network are those of the slice.
                if let Some(flipped) = flip.get_mut(axes[position] + 3 - spatial_dims) {
                    *flipped = true;
                }
            }
            flip
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrorings_come_in_the_order_of_itertools() {
        let (o, x) = (false, true);
        assert_eq!(
            flips(&[0, 1, 2], 3),
            [
                [x, o, o],
                [o, x, o],
                [o, o, x],
                [x, x, o],
                [x, o, x],
                [o, x, x],
                [x, x, x]
            ]
        );
        assert_eq!(flips(&[0, 1], 2), [[o, x, o], [o, o, x], [o, x, x]]);
        assert!(flips(&[], 3).is_empty());
    }
}
