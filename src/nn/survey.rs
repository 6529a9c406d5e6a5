//! What a network consists of on one patch: layers, their work and their memory.

use serde::Serialize;

use super::graph::{Finish, Op};
use super::network::Network;
use super::plan::Plan;
use super::window::output_grid;

/// One operation of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// State-dict name without `.weight`.
    pub name: String,
    /// `convolution`, `transposed` or `head`.
    pub kind: &'static str,
    /// How it is computed: `direct`, or `winograd` with the outputs of a cell.
    pub algorithm: String,
    /// Voxels of its input `[z, y, x]`.
    pub grid: [usize; 3],
    /// Channels read and written.
    pub channels: [usize; 2],
    /// Kernel `[z, y, x]`.
    pub kernel: [usize; 3],
    /// Stride, or factor of a transposed convolution, `[z, y, x]`.
    pub stride: [usize; 3],
    /// Multiply-adds of the plain sum, without bias: half of what torch's `FlopCounterMode` counts.
    pub multiply_adds: u64,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
}

/// One resolution level of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Voxels `[z, y, x]`.
    pub grid: [usize; 3],
    /// Bytes of all activations of the level, as if none shared memory.
    pub activation_bytes: u64,
}

impl Network {
    /// The operations in the order they run. Cost: none worth naming.
    pub fn layers(&self, plan: &Plan) -> Vec<Layer> {
        let graph = self.graph();
        graph.ops.iter().map(|op| layer(op, plan)).collect()
    }

    /// The resolution levels, the highest first.
    pub fn levels(&self, plan: &Plan) -> Vec<Level> {
        let graph = self.graph();
        let bytes = |level: usize| {
            let values = graph.values.iter().enumerate();
            values
                .filter(|(_, value)| value.level == level)
                .map(|(index, _)| plan.value_bytes(graph, index) as u64)
                .sum()
        };
        plan.grids
            .iter()
            .enumerate()
            .map(|(level, &grid)| Level {
                grid,
                activation_bytes: bytes(level),
            })
            .collect()
    }
}

fn layer(op: &Op, plan: &Plan) -> Layer {
    let grid = plan.grids[op.level];
    let channels_in: usize = op.feeds.iter().map(|feed| feed.channels).sum();
    let (kind, kernel, stride) = match &op.finish {
        Finish::Normalised { .. } => ("convolution", op.kernel, op.stride),
        Finish::Upsampled { factor, .. } => ("transposed", *factor, *factor),
        Finish::Logits { .. } => ("head", op.kernel, op.stride),
    };
    let positions = match kind {
        "transposed" => grid,
        _ => output_grid(grid, op.stride),
    };
    let product = |factors: &[usize]| factors.iter().map(|&n| n as u64).product::<u64>();
    Layer {
        name: op.name.clone(),
        kind,
        algorithm: match op.cell {
            Some(cell) => {
                let [z, y, x] = cell.outputs();
                format!("winograd {z}x{y}x{x}")
            }
            None => "direct".to_owned(),
        },
        grid,
        channels: [channels_in, op.channels_out],
        kernel,
        stride,
        multiply_adds: product(&positions)
            * product(&kernel)
            * product(&[channels_in, op.channels_out]),
        weight_bytes: op.packed.bytes() as u64,
    }
}

/// So many numbers from -1 to 1, always the same ones: a patch to try a network on. The high bits of the linear congruential
/// generator with the multiplier and increment of Knuth's MMIX.
pub fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::noise;
    use crate::nn::arch::{EncoderKind, Stage, UnetSpec};
    use crate::nn::weights::{Tensor, Weights};
    use crate::nn::{Compute, Network, Precision};

    #[test]
    fn multiply_adds_and_levels_of_a_small_network_by_hand() {
        let stage = |features, stride, decoder_convs| Stage {
            features,
            kernel: [3; 3],
            stride: [stride; 3],
            encoder_convs: 1,
            decoder_convs,
        };
        let spec = UnetSpec {
            encoder: EncoderKind::Plain,
            spatial_dims: 3,
            in_channels: 1,
            out_channels: 2,
            stages: vec![stage(8, 1, 1), stage(16, 2, 0)],
            conv_bias: false,
            norm_eps: 1e-5,
            norm_affine: false,
            negative_slope: 0.01,
        };
        let weights: Weights = [
            (
                "encoder.stages.0.0.convs.0.conv.weight",
                vec![8, 1, 3, 3, 3],
            ),
            (
                "encoder.stages.1.0.convs.0.conv.weight",
                vec![16, 8, 3, 3, 3],
            ),
            ("decoder.transpconvs.0.weight", vec![16, 8, 2, 2, 2]),
            ("decoder.stages.0.convs.0.conv.weight", vec![8, 16, 3, 3, 3]),
            ("decoder.seg_layers.0.weight", vec![2, 8, 1, 1, 1]),
            ("decoder.seg_layers.0.bias", vec![2]),
        ]
        .into_iter()
        .map(|(name, shape)| {
            let data = vec![0.5; shape.iter().product()];
            (name.to_owned(), Tensor { shape, data })
        })
        .collect();
        for precision in Precision::ALL {
            let compute = Compute {
                precision,
                ..Compute::default()
            };
            let network = Network::with_compute(&spec, &weights, compute, Some([8; 3])).unwrap();
            let plan = network.plan([8; 3]).unwrap();
            let layers = network.layers(&plan);
            let counts: Vec<u64> = layers.iter().map(|layer| layer.multiply_adds).collect();
            let (fine, coarse) = (512, 64);
            assert_eq!(
                counts,
                [
                    fine * 27 * 8,
                    coarse * 27 * 8 * 16,
                    coarse * 8 * 16 * 8,
                    fine * 27 * 16 * 8,
                    fine * 8 * 2
                ]
            );
            assert_eq!(layers[2].kind, "transposed");
            let levels = network.levels(&plan);
            assert_eq!(levels[1].grid, [4; 3]);
            let all: u64 = levels.iter().map(|level| level.activation_bytes).sum();
            assert!(all >= 8 * 512 * 3 + 16 * 64);
            assert!((plan.arena_bytes() as u64) < all + 8192);
        }
    }

    #[test]
    fn noise_fills_its_range_evenly() {
        let numbers = noise(10_000);
        assert!(numbers.iter().all(|n| (-1.0..=1.0).contains(n)));
        let mean = numbers.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.05, "{mean}");
        assert_eq!(numbers, noise(10_000));
    }
}
