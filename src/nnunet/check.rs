//! Whether a model is fit to run: whether every fold answers to a patch.
//!
//! Loading a [`Model`] has compared names and shapes of all tensors with the plans, and reading a fold's weights
//! refuses those that are no numbers; what is left is what the network makes of them. Each fold runs once on a patch of fixed noise, which goes through every layer.

use super::model::Model;
use super::predict_error::PredictError;
use crate::nn::Network;
use crate::nn::survey::noise;
use crate::nn::weights::Weights;
use serde::Serialize;

/// What was found about one fold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoldCheck {
    /// The fold: a number or `all`.
    pub fold: String,
    /// Tensors that inference reads.
    pub tensors: usize,
    /// The largest absolute value of any weight.
    pub largest_weight: f32,
    /// Lowest and highest logit of the patch; `None` when the network gave no numbers.
    pub logits: Option<[f32; 2]>,
    /// Why the fold cannot be used, if so.
    pub problem: Option<String>,
}

/// Bytes that [`check`] needs besides the weights, on the current thread pool.
///
/// # Errors
/// As [`check`].
pub fn patch_bytes(model: &Model) -> Result<u64, PredictError> {
    let network = Network::new(&model.network, &model.fold_weights(0)?)?;
    let patch = model.configuration.patch_size;
    let voxels: usize = patch.iter().product();
    let plan = network.plan(patch)?;
    let channels = network.in_channels() + network.out_channels();
    let patches = voxels.saturating_mul(channels).saturating_mul(4);
    Ok(plan
        .total_bytes(rayon::current_num_threads())
        .saturating_add(patches) as u64)
}

/// Checks all folds of `model`, one after another. Time: one patch per fold.
///
/// # Errors
/// Weights that cannot be read or do not fit, and networks the engine cannot run. What is wrong with values is
/// no error but [`FoldCheck::problem`].
pub fn check(model: &Model) -> Result<Vec<FoldCheck>, PredictError> {
    let folds = model.folds().enumerate();
    folds
        .map(|(position, fold)| {
            let weights = model.fold_weights(position)?;
            let mut found = FoldCheck {
                fold: fold.to_string(),
                tensors: weights.len(),
                largest_weight: largest_weight(&weights),
                logits: None,
                problem: None,
            };
            match logit_range(model, &weights)? {
                Ok(range) => {
                    found.logits = Some(range);
                    if range[0] == range[1] {
                        found.problem = Some("every logit of a noise patch is the same".to_owned());
                    }
                }
                Err(problem) => found.problem = Some(problem),
            }
            Ok(found)
        })
        .collect()
}

/// Lowest and highest logit for a patch of noise, or why there are none.
fn logit_range(model: &Model, weights: &Weights) -> Result<Result<[f32; 2], String>, PredictError> {
    let network = Network::new(&model.network, weights)?;
    let patch = model.configuration.patch_size;
    let voxels: usize = patch.iter().product();
    let input = noise(network.in_channels() * voxels);
    let mut logits = vec![0.0; network.out_channels() * voxels];
    let mut executor = network.executor(patch)?;
    if let Err(error) = executor.run(&input, &mut logits) {
        return Ok(Err(error.to_string()));
    }
    if let Some(bad) = logits.iter().find(|logit| !logit.is_finite()) {
        return Ok(Err(format!("the network answers {bad} to a noise patch")));
    }
    let lowest = logits.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    Ok(Ok([lowest, highest]))
}

fn largest_weight(weights: &Weights) -> f32 {
    let all = weights.values().flat_map(|tensor| &tensor.data);
    all.fold(0.0_f32, |largest, value| largest.max(value.abs()))
}
