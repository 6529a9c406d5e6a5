//! A network's weights on a GPU, and its operations as the GPU runs them.

use super::Arithmetic;
use super::error::Error;
use super::gpu::Gpu;
use super::memory::Buffer;
use super::queue::Queue;
use crate::nn::graph::{Finish, Graph, Pool};
use crate::nn::network::Network as HostNetwork;
use crate::nn::weights::{Tensor, Weights};
use half::{bf16, f16};
use std::sync::Arc;

/// A U-Net on a GPU. Immutable.
pub struct Network {
    pub(super) gpu: Gpu,
    pub(super) arithmetic: Arithmetic,
    /// Whether channels are innermost.
    pub(super) last: bool,
    pub(super) flat: bool,
    pub(super) channels: usize,
    pub(super) classes: usize,
    pub(super) strides: Vec<[usize; 3]>,
    pub(super) epsilon: f64,
    /// Of sums in residual blocks.
    pub(super) sum_slope: f32,
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
}

/// A tensor between two operations, normalised.
pub(super) struct Value {
    pub channels: usize,
    /// Resolution level.
    pub level: usize,
    /// Factor of negative numbers.
    pub slope: f32,
}

/// One operation.
pub(super) struct Step {
    pub name: String,
    /// Values read, side by side; none for the image.
    pub reads: Vec<usize>,
    /// Resolution levels read and written.
    pub levels: [usize; 2],
    pub channels: [usize; 2],
    pub kernel: [usize; 3],
    /// Stride, or factor of a transposed convolution.
    pub stride: [usize; 3],
    pub weights: Buffer,
    pub finish: End,
    pub before: Option<Pool>,
    /// Value added to the normalised result.
    pub after: Option<usize>,
}

/// What happens to the sums of an operation.
pub(super) enum End {
    /// They are normalised into a value.
    Normalised {
        value: usize,
        gamma: Buffer,
        beta: Buffer,
    },
    /// They are a value once the bias is added.
    Upsampled { value: usize, bias: Buffer },
    /// They are logits once the bias is added.
    Logits { bias: Buffer },
}

impl Step {
    /// The value written; `None` for the head.
    pub fn output(&self) -> Option<usize> {
        match self.finish {
            End::Normalised { value, .. } | End::Upsampled { value, .. } => Some(value),
            End::Logits { .. } => None,
        }
    }
}

impl Network {
    /// Copies `weights`, those of `host`, to the GPU.
    ///
    /// # Errors
    ///
    /// Its memory does not suffice.
    pub(super) fn new(
        gpu: &Gpu,
        host: &HostNetwork,
        weights: &Weights,
        arithmetic: Arithmetic,
        last: bool,
    ) -> Result<Self, Error> {
        let (graph, spec) = (host.graph(), host.spec());
        let loader = Loader {
            queue: gpu.queue(),
            weights,
            arithmetic,
            last,
        };
        let values = graph.values.iter().map(|value| Value {
            channels: value.channels,
            level: value.level,
            slope: value.slope,
        });
        Ok(Self {
            gpu: gpu.clone(),
            arithmetic,
            last,
            flat: spec.spatial_dims == 2,
            channels: spec.in_channels,
            classes: spec.out_channels,
            strides: spec.stages.iter().map(|stage| stage.stride).collect(),
            epsilon: spec.norm_eps,
            sum_slope: spec.negative_slope,
            values: values.collect(),
            steps: loader.steps(graph)?,
        })
    }

    /// The GPU it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How it computes.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// Bytes of its weights.
    pub fn weight_bytes(&self) -> usize {
        self.steps.iter().map(|step| step.weights.bytes()).sum()
    }
}

struct Loader<'a> {
    queue: &'a Arc<Queue>,
    weights: &'a Weights,
    arithmetic: Arithmetic,
    last: bool,
}

impl Loader<'_> {
    fn steps(&self, graph: &Graph) -> Result<Vec<Step>, Error> {
        let single = |numbers: &[f32]| Buffer::of(self.queue, numbers, "network weights");
        let mut steps = Vec::new();
        for op in &graph.ops {
            let levels = [
                op.level,
                op.output()
                    .map_or(op.level, |value| graph.values[value].level),
            ];
            let channels = [
                op.feeds.iter().map(|feed| feed.channels).sum(),
                op.channels_out,
            ];
            let (weights, stride, finish) = match &op.finish {
                Finish::Normalised { value, gamma, beta } => {
                    let tensor = self.tensor(&format!("{}.conv.weight", op.name))?;
                    let (gamma, beta) = (single(gamma)?, single(beta)?);
                    let end = End::Normalised {
                        value: *value,
                        gamma,
                        beta,
                    };
                    (self.filter(tensor)?, op.stride, end)
                }
                Finish::Upsampled {
                    value,
                    bias,
                    factor,
                } => {
                    let tensor = self.tensor(&format!("{}.weight", op.name))?;
                    let bias = single(&bias[..op.channels_out])?;
                    (
                        self.filter(tensor)?,
                        *factor,
                        End::Upsampled {
                            value: *value,
                            bias,
                        },
                    )
                }
                Finish::Logits { bias } => {
                    let tensor = self.tensor(&format!("{}.weight", op.name))?;
                    let end = End::Logits {
                        bias: single(bias)?,
                    };
                    (
                        single(&transposed(&tensor.data, channels[1]))?,
                        op.stride,
                        end,
                    )
                }
            };
            let kernel = match finish {
                End::Upsampled { .. } => stride,
                _ => op.kernel,
            };
            steps.push(Step {
                name: op.name.clone(),
                reads: op.feeds.iter().filter_map(|feed| feed.value).collect(),
                levels,
                channels,
                kernel,
                stride,
                weights,
                finish,
                before: op.before,
                after: op.after,
            });
        }
        Ok(steps)
    }

    /// A tensor that the host's network was built from.
    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        let found = self.weights.get(name);
        found.ok_or_else(|| Error::Refused(format!("weights: no tensor named {name}")))
    }

    /// Weights `[outer][inner][kernel]` in the type and layout of activations.
    fn filter(&self, tensor: &Tensor) -> Result<Buffer, Error> {
        let [outer, inner] = [0, 1].map(|axis| tensor.shape.get(axis).copied().unwrap_or(1));
        let turned: Vec<f32>;
        let numbers = if self.last {
            let each = tensor.data.len() / outer.max(1);
            let parts = tensor.data.chunks(each.max(1));
            turned = parts.flat_map(|part| transposed(part, inner)).collect();
            &turned
        } else {
            &tensor.data
        };
        let what = "network weights";
        match self.arithmetic {
            Arithmetic::Fp32 | Arithmetic::Tf32 => Buffer::of(self.queue, numbers, what),
            Arithmetic::Fp16 => {
                let halves: Vec<u16> = numbers
                    .iter()
                    .map(|&n| f16::from_f32(n).to_bits())
                    .collect();
                Buffer::of(self.queue, &halves, what)
            }
            Arithmetic::Bf16 => {
                let halves: Vec<u16> = numbers
                    .iter()
                    .map(|&n| bf16::from_f32(n).to_bits())
                    .collect();
                Buffer::of(self.queue, &halves, what)
            }
        }
    }
}

/// `[rows][columns]` as `[columns][rows]`.
fn transposed(numbers: &[f32], rows: usize) -> Vec<f32> {
    let columns = numbers.len() / rows.max(1);
    let mut result = Vec::with_capacity(numbers.len());
    for column in 0..columns {
        result.extend((0..rows).map(|row| numbers[row * columns + column]));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_puts_rows_innermost() {
        // Two channels of three taps.
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(transposed(&numbers, 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
