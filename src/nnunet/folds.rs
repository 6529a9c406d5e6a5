//! The networks of all folds on one patch, mirrored where the model was trained so.

use super::device_sums::DeviceSums;
use super::gpu::{GpuFolds, GpuSums, is_size};
use super::predict_error::PredictError;
use super::sliding_window::PatchPredictor;
use crate::nn::cuda::{self, Sums, SumsForm};
use crate::nn::{Error, Executor, LogitsBox, Network, TakeLogits};
use rayon::prelude::*;

/// The folds of a model as one predictor; only the fold in use holds activations.
pub(super) struct Folds<'n> {
    networks: &'n [Network],
    patch: [usize; 3],
    flips: &'n [[bool; 3]],
    /// A patch of logits, where mirrored passes are added up or come from a GPU.
    logits: Vec<f32>,
    current: Option<(usize, Executor<'n>)>,
    /// As long as it works.
    gpu: Option<&'n GpuFolds>,
    pub(super) on_gpu: Option<cuda::Executor<'n>>,
    /// All passes of a patch: as it is and mirrored.
    passes: Vec<[bool; 3]>,
    /// Why the GPU was given up.
    pub trouble: Option<String>,
}

impl<'n> Folds<'n> {
    /// Nothing is allocated before the first patch.
    pub fn new(
        networks: &'n [Network],
        gpu: Option<&'n GpuFolds>,
        patch: [usize; 3],
        flips: &'n [[bool; 3]],
    ) -> Self {
        Self {
            networks,
            patch,
            flips,
            logits: Vec::new(),
            current: None,
            gpu,
            on_gpu: None,
            passes: std::iter::once([false; 3])
                .chain(flips.iter().copied())
                .collect(),
            trouble: None,
        }
    }

    /// Whether the GPU predicted the patch.
    fn predict_on_gpu(&mut self, fold: usize, patch: &[f32]) -> Result<bool, Error> {
        let Some(executor) = self.gpu_executor() else {
            return Ok(false);
        };
        let mut executor = executor;
        match executor.run(fold, patch, &mut self.logits) {
            Ok(()) => {
                self.on_gpu = Some(executor);
                Ok(true)
            }
            Err(error) => self.give_up(error).map(|()| false),
        }
    }

    /// The executor of the GPU, if there is one that works; to be put back after use.
    fn gpu_executor(&mut self) -> Option<cuda::Executor<'n>> {
        let folds = self.gpu?;
        let passes = &self.passes;
        let made = || cuda::Executor::new(&folds.networks, self.patch, passes);
        Some(self.on_gpu.take().unwrap_or_else(made))
    }

    /// The processor goes on, and why is told; or the error ends the case.
    pub(super) fn give_up(&mut self, error: Error) -> Result<(), Error> {
        match self.gpu.take() {
            Some(folds) if folds.on.goes_on_after(&error) => {
                self.trouble = Some(folds.on.trouble(&error));
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Hands a patch of logits on, plane by plane.
    fn hand_on(&self, heads: usize, take: &TakeLogits<'_>) {
        let [depth, height, width] = self.patch;
        let plane = height * width;
        let logits = &self.logits;
        (0..depth).into_par_iter().for_each(|z| {
            take(LogitsBox {
                heads: 0..heads,
                start: [z, 0, 0],
                shape: [1, height, width],
                values: &logits[z * plane..],
                head_stride: depth * plane,
            });
        });
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
        let heads = self.networks[fold].out_channels();
        let [depth, height, width] = self.patch;
        if self.gpu.is_some() || !self.flips.is_empty() {
            self.logits.resize(heads * depth * height * width, 0.0);
        }
        if self.predict_on_gpu(fold, patch)? {
            self.hand_on(heads, take);
            return Ok(());
        }
        let executor = match self.current.take() {
            Some(current) if current.0 == fold => current.1,
            other => {
                drop(other); // before the next fold's memory is taken
                self.networks[fold].executor(self.patch)?
            }
        };
        let (_, executor) = self.current.insert((fold, executor));
        if self.flips.is_empty() {
            return Ok(executor.run_boxes(patch, take)?);
        }
        executor.run(patch, &mut self.logits)?;
        for &flip in self.flips {
            executor.run_accumulate(patch, flip, &mut self.logits)?;
        }
        let passes = self.passes.len() as f32;
        self.logits
            .par_chunks_mut(height * width)
            .for_each(|plane| plane.iter_mut().for_each(|logit| *logit /= passes));
        self.hand_on(heads, take);
        Ok(())
    }

    fn sums(
        &mut self,
        form: &SumsForm<'_>,
    ) -> Result<Option<Box<dyn DeviceSums + '_>>, PredictError> {
        let Some(mut executor) = self.gpu_executor() else {
            return Ok(None);
        };
        match Sums::new(&mut executor, form) {
            Ok(sums) => Ok(Some(Box::new(GpuSums {
                folds: self,
                work: Some((executor, sums)),
            }))),
            Err(error) if is_size(&error) => {
                // The GPU's logits are added up here, tile by tile.
                self.on_gpu = Some(executor);
                Ok(None)
            }
            Err(error) => {
                self.give_up(error)?;
                Ok(None)
            }
        }
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
