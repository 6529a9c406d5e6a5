//! The operations of a U-Net in the order they run, with their weights checked and packed.

mod residual;

use super::arch::{EncoderKind, UnetSpec};
use super::kernel::Factors;
use super::pack::{Feed, Packed, Shape};
use super::partition::plan_op;
use super::weights::{Tensor, Weights};
use super::winograd::Cell;
use super::{Compute, Error};

/// A tensor between two operations.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    /// Real channels.
    pub channels: usize,
    /// Channels per block: 8 or 16.
    pub block: usize,
    /// Resolution level (stage index).
    pub level: usize,
    /// Slope its readers apply to negative normalised values.
    pub slope: f32,
}

impl Value {
    /// Channel blocks.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// Channels including padding.
    pub fn padded(&self) -> usize {
        self.blocks() * self.block
    }
}

/// What happens to the sums of an operation.
pub(crate) enum Finish {
    /// Stored raw, with the statistics of an instance norm gathered; readers normalise.
    Normalised {
        /// Value written.
        value: usize,
        /// Learned scale per channel.
        gamma: Vec<f32>,
        /// Learned shift per channel.
        beta: Vec<f32>,
    },
    /// Stored with bias at every `factor`-th voxel.
    Upsampled {
        /// Value written.
        value: usize,
        /// Bias per padded channel.
        bias: Vec<f32>,
        /// Upsampling factor `[z, y, x]`.
        factor: [usize; 3],
    },
    /// Written, with bias, to the caller's logits.
    Logits {
        /// Bias per class.
        bias: Vec<f32>,
    },
}

/// One operation.
pub(crate) struct Op {
    /// Name in the state dict, without `.weight`.
    pub name: String,
    /// What it reads.
    pub feeds: Vec<Feed>,
    /// Floats per staged position.
    pub block_in: usize,
    /// Staged channel blocks.
    pub blocks_in: usize,
    /// Kernel of the staged convolution (1 for transposed convolutions and the head).
    pub kernel: [usize; 3],
    /// Its stride.
    pub stride: [usize; 3],
    /// Resolution level of its input.
    pub level: usize,
    /// Output channels.
    pub channels_out: usize,
    /// Weights.
    pub packed: Packed,
    /// Whether they are transformed for Winograd's algorithm, and for which cells.
    pub cell: Option<Cell>,
    /// Epilogue.
    pub finish: Finish,
    /// Averaging done before it.
    pub before: Option<Pool>,
    /// Value added to its normalised output once that is complete; the sum, through LeakyReLU, takes the output's
    /// place.
    pub after: Option<usize>,
}

/// The average of a value over boxes of `factor` voxels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    /// Value read.
    pub from: usize,
    /// Value written.
    pub to: usize,
    /// Box `[z, y, x]`.
    pub factor: [usize; 3],
}

impl Op {
    /// The value it writes; `None` for the head.
    pub fn output(&self) -> Option<usize> {
        match &self.finish {
            Finish::Normalised { value, .. } | Finish::Upsampled { value, .. } => Some(*value),
            Finish::Logits { .. } => None,
        }
    }

    /// Whether it, or what is done before it, writes `value`.
    pub fn writes(&self, value: usize) -> bool {
        self.output() == Some(value) || self.before.is_some_and(|pool| pool.to == value)
    }

    /// Whether it, or what is done before or after it, reads `value`.
    pub fn reads(&self, value: usize) -> bool {
        self.feeds.iter().any(|feed| feed.value == Some(value))
            || self.before.is_some_and(|pool| pool.from == value)
            || self.after == Some(value)
    }
}

/// Operations and the values between them.
pub(crate) struct Graph {
    /// Values in the order they are written.
    pub values: Vec<Value>,
    /// Operations in the order they run.
    pub ops: Vec<Op>,
    /// Whether values are kept in 16 bits.
    pub halves: bool,
}

impl Graph {
    /// Floats of memory that `value` takes for so many voxels.
    pub fn floats(&self, value: usize, voxels: usize) -> Option<usize> {
        let numbers = voxels.checked_mul(self.values[value].padded())?;
        Some(if self.halves { numbers / 2 } else { numbers })
    }
}

/// Channels per block for a layer of `channels` features.
fn block_for(channels: usize) -> usize {
    if channels <= 8 { 8 } else { 16 }
}

/// Builds and checks the graph of `spec`, choosing the fastest algorithm of each layer on level grids `grids`.
pub(crate) fn build(
    spec: &UnetSpec,
    weights: &Weights,
    compute: Compute,
    grids: &[[usize; 3]],
) -> Result<Graph, Error> {
    let mut builder = Builder {
        spec,
        weights,
        compute,
        grids,
        graph: Graph {
            values: Vec::new(),
            ops: Vec::new(),
            // Averages and sums of residual blocks are made in 32 bits only.
            halves: compute.precision.keeps_halves() && spec.encoder == EncoderKind::Plain,
        },
    };
    let image = Feed {
        value: None,
        channels: spec.in_channels,
    };
    let skips = match &spec.encoder {
        EncoderKind::Plain => builder.plain_encoder(image)?,
        EncoderKind::Residual(encoder) => builder.residual_encoder(encoder, image)?,
    };
    let lowest = spec.stages.len() - 1;
    let mut current = vec![skips[lowest]];
    for (index, level) in (0..lowest).rev().enumerate() {
        let up = builder.upsample(
            &format!("decoder.transpconvs.{index}"),
            current,
            [level + 1, level],
        )?;
        current = vec![up, skips[level]];
        for conv in 0..spec.stages[level].decoder_convs {
            let prefix = format!("decoder.stages.{index}.convs.{conv}");
            current = builder.conv(&prefix, current, [1; 3], [level, level])?;
        }
    }
    builder.head(&format!("decoder.seg_layers.{}", lowest - 1), current)?;
    Ok(builder.graph)
}

/// What the engine cannot run.
pub(crate) fn check(spec: &UnetSpec) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::Unsupported(message));
    if spec.stages.len() < 2 {
        return refuse("a U-Net needs at least 2 stages".into());
    }
    if !matches!(spec.spatial_dims, 2 | 3) {
        return refuse(format!("{} spatial dimensions", spec.spatial_dims));
    }
    if spec.in_channels == 0 || spec.out_channels == 0 {
        return refuse("no input or output channels".into());
    }
    if !spec.negative_slope.is_finite() || !spec.norm_eps.is_finite() || spec.norm_eps < 0.0 {
        return refuse("slope or epsilon is not a usable number".into());
    }
    for (level, stage) in spec.stages.iter().enumerate() {
        let lowest = level + 1 == spec.stages.len();
        let kernel_ok = stage.kernel.iter().all(|&k| k % 2 == 1 && k <= 7);
        let stride_ok = stage.stride.iter().all(|&s| s == 1 || s == 2);
        if !kernel_ok || !stride_ok {
            return refuse(format!(
                "stage {level} has kernel {:?} and stride {:?}; kernels must be odd and at most 7, strides 1 or 2",
                stage.kernel, stage.stride
            ));
        }
        if level == 0 && stage.stride != [1; 3] {
            return refuse(format!(
                "stage 0 has stride {:?}; logits are only computed at full resolution",
                stage.stride
            ));
        }
        if spec.spatial_dims == 2 && (stage.kernel[0] != 1 || stage.stride[0] != 1) {
            return refuse(format!("stage {level} of a 2-D network extends along z"));
        }
        if stage.features == 0 || stage.encoder_convs == 0 || (stage.decoder_convs == 0 && !lowest)
        {
            return refuse(format!("stage {level} has no features or no convolutions"));
        }
    }
    if let EncoderKind::Residual(encoder) = &spec.encoder {
        let narrow = encoder.bottleneck.as_ref();
        let bad = |list: &Vec<usize>| list.len() != spec.stages.len() || list.contains(&0);
        if encoder.stem_features == 0 || narrow.is_some_and(bad) {
            return refuse("a residual block has no features".into());
        }
    }
    Ok(())
}

/// A convolution with instance norm.
struct Conv {
    kernel: [usize; 3],
    stride: [usize; 3],
    channels: usize,
    /// Whether the file has a bias.
    bias: bool,
    /// Slope its readers apply to negative values.
    slope: f32,
}

struct Builder<'a> {
    spec: &'a UnetSpec,
    weights: &'a Weights,
    compute: Compute,
    grids: &'a [[usize; 3]],
    graph: Graph,
}

impl Builder<'_> {
    /// The tensor `prefix.suffix`, whose shape must be `expected`.
    fn tensor(&self, name: String, expected: &[usize]) -> Result<&Tensor, Error> {
        let Some(tensor) = self.weights.get(&name) else {
            return Err(Error::MissingTensor { name });
        };
        if tensor.shape != expected {
            return Err(Error::TensorShape {
                name,
                found: tensor.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        if tensor.data.len() != expected.iter().product::<usize>() {
            return Err(Error::TensorLength {
                name,
                found: tensor.data.len(),
                shape: tensor.shape.clone(),
            });
        }
        Ok(tensor)
    }

    /// Shape `[a, b, kernel...]` at the rank of the file.
    fn weight_shape(&self, channels: [usize; 2], kernel: [usize; 3]) -> Vec<usize> {
        let spatial = &kernel[3 - self.spec.spatial_dims..];
        channels.iter().chain(spatial).copied().collect()
    }

    /// One number per channel, or `default` where the architecture has none.
    fn vector(
        &self,
        present: bool,
        name: String,
        channels: usize,
        default: f32,
    ) -> Result<Vec<f32>, Error> {
        if present {
            Ok(self.tensor(name, &[channels])?.data.clone())
        } else {
            Ok(vec![default; channels])
        }
    }

    /// Adds a value and returns the feed that reads it.
    fn value(&mut self, channels: usize, level: usize, slope: f32) -> Feed {
        self.graph.values.push(Value {
            channels,
            block: block_for(channels),
            level,
            slope,
        });
        Feed {
            value: Some(self.graph.values.len() - 1),
            channels,
        }
    }

    /// Floats per staged position for `feeds`: the block they are stored in; for the image, its channels
    /// rounded up to a size the kernels know.
    fn block_in(&self, feeds: &[Feed]) -> usize {
        match feeds[0].value {
            Some(value) => self.graph.values[value].block,
            None => match feeds[0].channels {
                channels @ (1 | 2) => channels,
                3 | 4 => 4,
                5..=8 => 8,
                _ => 16,
            },
        }
    }

    /// What a layer multiplies where it computes plain sums. An image stays as exact as it is, and layers of few
    /// channels would leave tiles half empty.
    fn factors(&self, shape: &Shape<'_>) -> Factors {
        let Compute { isa, precision } = self.compute;
        let stored = shape.feeds.iter().all(|feed| feed.value.is_some());
        let full = shape.block_in == 16 && shape.block_out == 16;
        if self.graph.halves && isa.multiplies_halves(precision) && stored && full {
            Factors::Half
        } else {
            Factors::Single
        }
    }

    /// The stages of a `PlainConvUNet`; the last value of each.
    fn plain_encoder(&mut self, image: Feed) -> Result<Vec<Feed>, Error> {
        let mut current = vec![image];
        let mut skips = Vec::new();
        for (level, stage) in self.spec.stages.iter().enumerate() {
            for index in 0..stage.encoder_convs {
                let first = index == 0;
                let prefix = format!("encoder.stages.{level}.0.convs.{index}");
                let from = if first {
                    level.saturating_sub(1)
                } else {
                    level
                };
                let stride = if first { stage.stride } else { [1; 3] };
                current = self.conv(&prefix, current, stride, [from, level])?;
            }
            skips.push(current[0]);
        }
        Ok(skips)
    }

    /// The stage's convolution with instance norm and LeakyReLU; `levels` are those of input and output.
    fn conv(
        &mut self,
        prefix: &str,
        feeds: Vec<Feed>,
        stride: [usize; 3],
        levels: [usize; 2],
    ) -> Result<Vec<Feed>, Error> {
        let stage = &self.spec.stages[levels[1]];
        let conv = Conv {
            kernel: stage.kernel,
            stride,
            channels: stage.features,
            bias: self.spec.conv_bias,
            slope: self.spec.negative_slope,
        };
        Ok(vec![self.normalised(prefix, feeds, &conv, levels)?])
    }

    /// Convolution and instance norm; `levels` are those of input and output.
    fn normalised(
        &mut self,
        prefix: &str,
        feeds: Vec<Feed>,
        conv: &Conv,
        levels: [usize; 2],
    ) -> Result<Feed, Error> {
        let &Conv {
            kernel,
            stride,
            channels: channels_out,
            bias,
            slope,
        } = conv;
        let channels_in: usize = feeds.iter().map(|feed| feed.channels).sum();
        let shape = self.weight_shape([channels_out, channels_in], kernel);
        let weight = self.tensor(format!("{prefix}.conv.weight"), &shape)?;
        // The bias is only checked: instance norm subtracts it again, exactly.
        self.vector(bias, format!("{prefix}.conv.bias"), channels_out, 0.0)?;
        let affine = self.spec.norm_affine;
        let gamma = self.vector(affine, format!("{prefix}.norm.weight"), channels_out, 1.0)?;
        let beta = self.vector(affine, format!("{prefix}.norm.bias"), channels_out, 0.0)?;
        let block_in = self.block_in(&feeds);
        let shape = Shape {
            feeds: &feeds,
            block_in,
            kernel,
            stride,
            channels_out,
            block_out: block_for(channels_out),
            cells: [1; 3],
            points_of: None,
        };
        let blocks_in = shape.blocks();
        let [kz, ky, kx] = kernel;
        let mut op = Op {
            name: prefix.to_owned(),
            feeds: feeds.clone(),
            block_in,
            blocks_in,
            kernel,
            stride,
            level: levels[0],
            channels_out,
            packed: Packed::layout(self.compute.isa, self.factors(&shape), &shape),
            cell: None,
            finish: Finish::Normalised {
                value: self.graph.values.len(),
                gamma,
                beta,
            },
            before: None,
            after: None,
        };
        // Half factors take up layers that gain less from fewer products of single precision.
        let isa = self.compute.isa;
        let grid = self.grids[levels[0]];
        let mut cost = plan_op(&op, grid).cost;
        let halved = op.packed.factors == Factors::Half;
        for cell in shape.winograd_cells(self.compute.precision) {
            if halved && cell.stride == 2 {
                // Twice the work of an instruction beats 1.7 times fewer products.
                continue;
            }
            let layout = Packed::layout(isa, Factors::Single, &shape.for_cell(cell));
            let direct = (
                op.cell.replace(cell),
                std::mem::replace(&mut op.packed, layout),
            );
            let transformed = plan_op(&op, grid).cost;
            if transformed < cost {
                cost = transformed;
            } else {
                (op.cell, op.packed) = direct;
            }
        }
        match op.cell {
            Some(cell) => op.packed.fill_transformed(&shape, cell, &weight.data)?,
            None => op.packed.fill(&shape, |co, ci, [z, y, x], _| {
                weight.data[(((co * channels_in + ci) * kz + z) * ky + y) * kx + x]
            })?,
        }
        self.graph.ops.push(op);
        Ok(self.value(channels_out, levels[1], slope))
    }

    /// Transposed convolution whose kernel is its stride, from the lower of `levels` to the higher.
    fn upsample(
        &mut self,
        prefix: &str,
        feeds: Vec<Feed>,
        levels: [usize; 2],
    ) -> Result<Feed, Error> {
        let factor = self.spec.stages[levels[0]].stride;
        let channels_out = self.spec.stages[levels[1]].features;
        let channels_in: usize = feeds.iter().map(|feed| feed.channels).sum();
        let shape = self.weight_shape([channels_in, channels_out], factor);
        let weight = self.tensor(format!("{prefix}.weight"), &shape)?;
        let mut bias = self.vector(
            self.spec.conv_bias,
            format!("{prefix}.bias"),
            channels_out,
            0.0,
        )?;
        let block_in = self.block_in(&feeds);
        let shape = Shape {
            feeds: &feeds,
            block_in,
            kernel: [1; 3],
            stride: [1; 3],
            channels_out,
            block_out: block_for(channels_out),
            cells: factor,
            points_of: None,
        };
        let blocks_in = shape.blocks();
        let [fz, fy, fx] = factor;
        let mut packed = Packed::layout(self.compute.isa, self.factors(&shape), &shape);
        packed.fill(&shape, |co, ci, _, [z, y, x]| {
            weight.data[(((ci * channels_out + co) * fz + z) * fy + y) * fx + x]
        })?;
        let output = self.value(channels_out, levels[1], 1.0);
        let value = self.graph.values.len() - 1;
        bias.resize(self.graph.values[value].padded(), 0.0);
        self.graph.ops.push(Op {
            name: prefix.to_owned(),
            feeds,
            block_in,
            blocks_in,
            kernel: [1; 3],
            stride: [1; 3],
            level: levels[0],
            channels_out,
            packed,
            cell: None,
            finish: Finish::Upsampled {
                value,
                bias,
                factor,
            },
            before: None,
            after: None,
        });
        Ok(output)
    }

    /// The 1x1x1 convolution to classes at full resolution.
    fn head(&mut self, prefix: &str, feeds: Vec<Feed>) -> Result<(), Error> {
        let channels_out = self.spec.out_channels;
        let channels_in: usize = feeds.iter().map(|feed| feed.channels).sum();
        let shape = self.weight_shape([channels_out, channels_in], [1; 3]);
        let weight = self.tensor(format!("{prefix}.weight"), &shape)?;
        let bias = self.tensor(format!("{prefix}.bias"), &[channels_out])?;
        let block_in = self.block_in(&feeds);
        let shape = Shape {
            feeds: &feeds,
            block_in,
            kernel: [1; 3],
            stride: [1; 3],
            channels_out,
            block_out: block_for(channels_out),
            cells: [1; 3],
            points_of: None,
        };
        let blocks_in = shape.blocks();
        let mut packed = Packed::layout(self.compute.isa, Factors::Single, &shape);
        packed.fill(&shape, |co, ci, _, _| weight.data[co * channels_in + ci])?;
        let bias = bias.data.clone();
        self.graph.ops.push(Op {
            name: prefix.to_owned(),
            feeds,
            block_in,
            blocks_in,
            kernel: [1; 3],
            stride: [1; 3],
            level: 0,
            channels_out,
            packed,
            cell: None,
            finish: Finish::Logits { bias },
            before: None,
            after: None,
        });
        Ok(())
    }
}
