//! Whether a GPU computes what the processor computes, asked before it is trusted.

use super::Arithmetic;
use super::error::Error;
use super::executor::Executor;
use super::gpu::Gpu;
use super::network::Network;
use crate::nn::Error as NetworkError;
use crate::nn::network::Network as HostNetwork;
use crate::nn::survey::noise;
use crate::nn::weights::Weights;

impl Arithmetic {
    /// Relative difference of logits from the processor's that is still rounding: ten times and more what rounding of
    /// this size gave for eight networks (6e-7, 2e-3, 2e-3 and 1.4e-2 of the largest logit).
    fn bound(self) -> f64 {
        match self {
            Self::Fp32 => 1e-3,
            Self::Tf32 | Self::Fp16 => 0.02,
            Self::Bf16 => 0.1,
        }
    }
}

impl Network {
    /// Copies `weights`, those of `host`, to the GPU, and compares what both make of a small patch of noise: two voxels
    /// of the lowest resolution along each axis, or `patch` where that is smaller.
    ///
    /// Where cuDNN does not run one order of channels, or wrongly, the other is tried.
    ///
    /// # Errors
    ///
    /// [`Error::Disagrees`]; what keeps either from computing the patch.
    pub fn checked(
        gpu: &Gpu,
        host: &HostNetwork,
        weights: &Weights,
        arithmetic: Arithmetic,
        patch: [usize; 3],
    ) -> Result<Self, NetworkError> {
        // Tensor cores read channels innermost, plain sums take what every version of cuDNN takes.
        let last = arithmetic != Arithmetic::Fp32;
        let stride = host.spec().total_stride();
        let patch = std::array::from_fn(|axis| patch[axis].min(2 * stride[axis]));
        let voxels: usize = patch.iter().product();
        let input: Vec<f32> = noise(host.in_channels() * voxels)
            .into_iter()
            .map(|number| 2.0 * number)
            .collect();
        let mut expected = vec![0.0; host.out_channels() * voxels];
        host.executor(patch)?.run(&input, &mut expected)?;
        let attempt = |last: bool| -> Result<Self, NetworkError> {
            let network = Self::new(gpu, host, weights, arithmetic, last)?;
            let mut found = vec![0.0; expected.len()];
            let mut executor = Executor::new(std::slice::from_ref(&network), patch, &[[false; 3]]);
            executor.run(0, &input, &mut found)?;
            drop(executor);
            let difference = relative_difference(&found, &expected);
            let bound = arithmetic.bound();
            // NaN is no agreement.
            if difference <= bound {
                return Ok(network);
            }
            Err(NetworkError::Gpu(Error::Disagrees {
                device: gpu.label(),
                difference,
                bound,
                arithmetic: arithmetic.name(),
            }))
        };
        match attempt(last) {
            Err(error) if !matches!(&error, NetworkError::Gpu(error) if error.is_memory()) => {
                attempt(!last).map_err(|_| error)
            }
            other => other,
        }
    }
}

/// The norm of the difference over that of `expected`.
fn relative_difference(found: &[f32], expected: &[f32]) -> f64 {
    let square = |number: f64| number * number;
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let all: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    (difference / all.max(f64::MIN_POSITIVE)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_nan_is_no_agreement() {
        assert_eq!(relative_difference(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_difference(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert_eq!(relative_difference(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        let lost = relative_difference(&[f32::NAN], &[1.0]);
        assert!(lost.is_nan());
    }
}
