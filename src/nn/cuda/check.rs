//! Whether a GPU computes what the processor computes, asked before it is trusted.

use super::Arithmetic;
use super::error::Error;
use super::executor::Executor;
use super::gpu::Gpu;
use super::network::Network;
use super::sums::{Level, Logits, Sums, SumsForm};
use crate::nn::Error as NetworkError;
use crate::nn::network::Network as HostNetwork;
use crate::nn::survey::noise;
use crate::nn::weights::Weights;
use half::f16;
use std::slice::from_ref;

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
    /// of the lowest resolution along each axis, or `patch` where that is smaller. The GPU computes it one by one, as recorded
    /// work and through its sums of tiles.
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
        let agrees = |found: &[f32]| {
            let (difference, bound) = (relative_difference(found, &expected), arithmetic.bound());
            // NaN is no agreement.
            if difference <= bound {
                return Ok(());
            }
            Err(NetworkError::Gpu(Error::Disagrees {
                device: gpu.label(),
                difference,
                bound,
                arithmetic: arithmetic.name(),
            }))
        };
        let attempt = |last: bool| -> Result<Self, NetworkError> {
            let network = Self::new(gpu, host, weights, arithmetic, last)?;
            agrees(&passes(&network, patch, &input)?)?;
            match sums(&network, patch, &input) {
                Ok(found) => agrees(&found)?,
                // Where there is no room for sums of a small patch, there is none for those of an image.
                Err(NetworkError::Gpu(error)) if error.is_memory() => {}
                Err(error) => return Err(error),
            }
            Ok(network)
        };
        match attempt(last) {
            Err(error) if !matches!(&error, NetworkError::Gpu(error) if error.is_memory()) => {
                attempt(!last).map_err(|_| error)
            }
            other => other,
        }
    }
}

/// Logits of a patch computed three times: one by one, while it is recorded, and as recorded.
fn passes(network: &Network, patch: [usize; 3], input: &[f32]) -> Result<Vec<f32>, NetworkError> {
    let mut executor = Executor::new(from_ref(network), patch, &[[false; 3]]);
    let mut logits = vec![0.0; network.classes * patch.iter().product::<usize>()];
    for _ in 0..3 {
        executor.run(0, input, &mut logits)?;
    }
    Ok(logits)
}

/// Logits of a patch that is the only tile of an image, through sums of 16 bits.
fn sums(network: &Network, patch: [usize; 3], input: &[f32]) -> Result<Vec<f32>, NetworkError> {
    let [depth, height, width] = patch;
    let (plane, voxels) = (height * width, depth * height * width);
    let mut executor = Executor::new(from_ref(network), patch, &[[false; 3]]);
    let form = SumsForm {
        half: true,
        image: [height, width],
        region: [0..height, 0..width],
        finished: depth,
        tiles: 1,
        importance: &vec![1.0; voxels],
        background: None,
    };
    let mut sums = Sums::new(&mut executor, &form)?;
    let level = Level {
        channels: input.chunks(voxels).collect(),
        offset: [0; 3],
        first: 0,
        tiles: vec![[0, 0]],
        finished: 0..depth,
    };
    sums.queue(&mut executor, &level)?;
    while let Some(waited) = sums.wait_for_some() {
        waited?;
    }
    executor.check()?;
    let mut logits = vec![0.0; network.classes * voxels];
    let mut slice = vec![f16::ZERO; network.classes * plane];
    for z in 0..depth {
        sums.read(0, z, Logits::Half(&mut slice))?;
        for (class, values) in slice.chunks(plane).enumerate() {
            let to = &mut logits[(class * depth + z) * plane..][..plane];
            to.iter_mut()
                .zip(values)
                .for_each(|(to, value)| *to = value.to_f32());
        }
    }
    Ok(logits)
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
