//! The residual blocks of an encoder.

use super::{Builder, Conv, Pool};
use crate::nn::Error;
use crate::nn::arch::ResidualEncoder;
use crate::nn::pack::Feed;

impl Builder<'_> {
    /// The stem and the stages of a `ResidualEncoderUNet`; the last value of each stage.
    pub(super) fn residual_encoder(
        &mut self,
        encoder: &ResidualEncoder,
        image: Feed,
    ) -> Result<Vec<Feed>, Error> {
        let kernel = self.spec.stages[0].kernel;
        let stem = self.active(kernel, [1; 3], encoder.stem_features);
        let mut current = self.normalised("encoder.stem.convs.0", vec![image], &stem, [0, 0])?;
        let mut skips = Vec::new();
        for level in 0..self.spec.stages.len() {
            let narrow = encoder.bottleneck.as_ref().map(|list| list[level]);
            for block in 0..self.spec.stages[level].encoder_convs {
                let prefix = format!("encoder.stages.{level}.blocks.{block}");
                current = self.residual_block(&prefix, current, narrow, block == 0, level)?;
            }
            skips.push(current);
        }
        Ok(skips)
    }

    /// One block; `first` of its stage, it strides.
    fn residual_block(
        &mut self,
        prefix: &str,
        input: Feed,
        narrow: Option<usize>,
        first: bool,
        level: usize,
    ) -> Result<Feed, Error> {
        let stage = &self.spec.stages[level];
        let (kernel, features) = (stage.kernel, stage.features);
        let (from, stride) = if first {
            (level.saturating_sub(1), stage.stride)
        } else {
            (level, [1; 3])
        };
        let start = self.graph.ops.len();
        let mut skip = input;
        let mut pool = None;
        if let (Some(source), true) = (input.value, stride != [1; 3]) {
            // Averages are of activated values: nothing is left for their readers to apply.
            skip = self.value(input.channels, level, 1.0);
            pool = skip.value.map(|to| Pool {
                from: source,
                to,
                factor: stride,
            });
        }
        if input.channels != features {
            let conv = Conv {
                bias: false,
                slope: 1.0,
                ..self.active([1; 3], [1; 3], features)
            };
            let name = format!("{prefix}.skip.{}", usize::from(pool.is_some()));
            skip = self.normalised(&name, vec![skip], &conv, [level; 2])?;
        }
        let convs = match narrow {
            None => vec![
                self.active(kernel, stride, features),
                self.active(kernel, [1; 3], features),
            ],
            Some(narrow) => vec![
                self.active([1; 3], [1; 3], narrow),
                self.active(kernel, stride, narrow),
                self.active([1; 3], [1; 3], features),
            ],
        };
        let last = convs.len() - 1;
        let (mut current, mut at) = (input, from);
        for (index, mut conv) in convs.into_iter().enumerate() {
            if index == last {
                // LeakyReLU comes after the sum.
                conv.slope = 1.0;
            }
            let to = if conv.stride == [1; 3] { at } else { level };
            let name = format!("{prefix}.conv{}", index + 1);
            current = self.normalised(&name, vec![current], &conv, [at, to])?;
            at = to;
        }
        self.graph.ops[start].before = pool;
        if let Some(op) = self.graph.ops.last_mut() {
            op.after = skip.value;
        }
        Ok(current)
    }

    /// A convolution with bias as in the architecture and LeakyReLU.
    fn active(&self, kernel: [usize; 3], stride: [usize; 3], channels: usize) -> Conv {
        Conv {
            kernel,
            stride,
            channels,
            bias: self.spec.conv_bias,
            slope: self.spec.negative_slope,
        }
    }
}
