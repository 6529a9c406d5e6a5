//! Which tensors a network consists of: names and shapes as dynamic_network_architectures 0.4.4 gives them.

use super::{Error, TensorInfo, element_count};
use crate::nn::arch::{EncoderKind, ResidualEncoder, UnetSpec};
use std::collections::BTreeMap;

/// Names and shapes of a network's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Every tensor inference reads.
    pub needed: BTreeMap<String, Vec<usize>>,
    /// Start of names that may be in the file and are not read: the heads of deep supervision.
    pub ignored: &'static str,
}

impl Layout {
    /// The layout of `spec`. Two-dimensional networks have tensors of one axis less, as in the file.
    pub fn of(spec: &UnetSpec) -> Self {
        let mut layout = Self {
            needed: BTreeMap::new(),
            ignored: "decoder.seg_layers.",
        };
        match &spec.encoder {
            EncoderKind::Plain => layout.plain_encoder(spec),
            EncoderKind::Residual(encoder) => layout.residual_encoder(spec, encoder),
        }
        let upwards = spec.stages.windows(2).rev().enumerate();
        for (j, pair) in upwards {
            let [fine, coarse] = pair else { continue };
            let mut shape = vec![coarse.features, fine.features];
            shape.extend(file_axes(spec, coarse.stride));
            let up = format!("decoder.transpconvs.{j}");
            layout.convolution(&up, shape, fine.features, spec.conv_bias);
            for i in 0..fine.decoder_convs {
                let inputs = if i == 0 {
                    2 * fine.features
                } else {
                    fine.features
                };
                let block = format!("decoder.stages.{j}.convs.{i}");
                layout.block(spec, &block, fine.features, inputs, fine.kernel);
            }
        }
        let features = spec.stages.first().map_or(0, |stage| stage.features);
        let mut shape = vec![spec.out_channels, features];
        shape.extend(file_axes(spec, [1; 3]));
        layout.convolution(&Self::head(spec), shape, spec.out_channels, true);
        layout
    }

    /// Name of the head (its `.weight` and `.bias` follow): the last of the decoder's `seg_layers`.
    pub fn head(spec: &UnetSpec) -> String {
        format!("decoder.seg_layers.{}", spec.stages.len().saturating_sub(2))
    }

    /// Number of values in all needed tensors.
    pub fn parameters(&self) -> u64 {
        self.needed
            .values()
            .map(|shape| element_count(shape).map_or(u64::MAX, |n| n as u64))
            .fold(0, u64::saturating_add)
    }

    fn plain_encoder(&mut self, spec: &UnetSpec) {
        let mut channels = spec.in_channels;
        for (s, stage) in spec.stages.iter().enumerate() {
            for i in 0..stage.encoder_convs {
                let block = format!("encoder.stages.{s}.0.convs.{i}");
                self.block(spec, &block, stage.features, channels, stage.kernel);
                channels = stage.features;
            }
        }
    }

    fn residual_encoder(&mut self, spec: &UnetSpec, encoder: &ResidualEncoder) {
        let kernel = spec.stages.first().map_or([1; 3], |stage| stage.kernel);
        let mut channels = encoder.stem_features;
        self.block(
            spec,
            "encoder.stem.convs.0",
            channels,
            spec.in_channels,
            kernel,
        );
        let bottleneck = |s: usize| encoder.bottleneck.as_ref()?.get(s).copied();
        for (s, stage) in spec.stages.iter().enumerate() {
            let features = stage.features;
            for b in 0..stage.encoder_convs {
                let name = format!("encoder.stages.{s}.blocks.{b}");
                let convs: &[(usize, usize, [usize; 3])] = match bottleneck(s) {
                    None => &[
                        (features, channels, stage.kernel),
                        (features, features, stage.kernel),
                    ],
                    Some(narrow) => &[
                        (narrow, channels, [1; 3]),
                        (narrow, narrow, stage.kernel),
                        (features, narrow, [1; 3]),
                    ],
                };
                for (number, &(outputs, inputs, kernel)) in convs.iter().enumerate() {
                    let conv = format!("{name}.conv{}", number + 1);
                    self.block(spec, &conv, outputs, inputs, kernel);
                }
                if channels != features {
                    let pooled = b == 0 && stage.stride != [1; 3];
                    let skip = format!("{name}.skip.{}", usize::from(pooled));
                    let mut shape = vec![features, channels];
                    shape.extend(file_axes(spec, [1; 3]));
                    self.convolution(&format!("{skip}.conv"), shape, features, false);
                    self.norm(spec, &skip, features);
                }
                channels = features;
            }
        }
    }

    fn block(
        &mut self,
        spec: &UnetSpec,
        name: &str,
        outputs: usize,
        inputs: usize,
        kernel: [usize; 3],
    ) {
        let mut shape = vec![outputs, inputs];
        shape.extend(file_axes(spec, kernel));
        self.convolution(&format!("{name}.conv"), shape, outputs, spec.conv_bias);
        self.norm(spec, name, outputs);
    }

    fn norm(&mut self, spec: &UnetSpec, name: &str, outputs: usize) {
        if spec.norm_affine {
            for part in ["weight", "bias"] {
                self.needed
                    .insert(format!("{name}.norm.{part}"), vec![outputs]);
            }
        }
    }

    fn convolution(&mut self, name: &str, shape: Vec<usize>, outputs: usize, bias: bool) {
        self.needed.insert(format!("{name}.weight"), shape);
        if bias {
            self.needed.insert(format!("{name}.bias"), vec![outputs]);
        }
    }
}

/// A kernel with as many axes as the file's tensors have.
fn file_axes(spec: &UnetSpec, kernel: [usize; 3]) -> impl Iterator<Item = usize> {
    kernel
        .into_iter()
        .skip(3_usize.saturating_sub(spec.spatial_dims))
}

/// Compares the tensors of a file with what the network needs; see [`super::WeightFile::check`].
pub(super) fn check(found: &[TensorInfo], layout: &Layout) -> Result<(), Error> {
    let by_name: BTreeMap<&str, &TensorInfo> = found
        .iter()
        .map(|info| (info.name.as_str(), info))
        .collect();
    for (name, shape) in &layout.needed {
        let Some(info) = by_name.get(name.as_str()) else {
            let hint = match found.first() {
                Some(first) => {
                    format!("the file has {} tensors, first {}", found.len(), first.name)
                }
                None => "the file has no tensors".to_owned(),
            };
            return Err(Error::tensor(
                name,
                format!("missing; {}", super::printable(&hint)),
            ));
        };
        if info.shape != *shape {
            let problem = format!(
                "shape {:?} in the file, {shape:?} according to the plans",
                info.shape
            );
            return Err(Error::tensor(name, problem));
        }
        if info.dtype.size().is_none() {
            return Err(Error::tensor(name, "its values are not floating point"));
        }
    }
    // A tensor of the network that the plans know nothing of means that the plans describe another network
    // (PyTorch's strict loading refuses it, too).
    let of_network = |name: &str| name.starts_with("encoder.") || name.starts_with("decoder.");
    let foreign = found.iter().map(|info| info.name.as_str()).find(|name| {
        of_network(name) && !layout.needed.contains_key(*name) && !name.starts_with(layout.ignored)
    });
    match foreign {
        Some(name) => Err(Error::tensor(
            name,
            "in the file, but the network of the plans has no such tensor",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::arch::Stage;
    use crate::nn::weights::Dtype;

    fn spec() -> UnetSpec {
        let stage = |features, stride, decoder_convs| Stage {
            features,
            kernel: [1, 3, 3],
            stride: [1, stride, stride],
            encoder_convs: 2,
            decoder_convs,
        };
        UnetSpec {
            encoder: EncoderKind::Plain,
            spatial_dims: 2,
            in_channels: 1,
            out_channels: 3,
            stages: vec![stage(4, 1, 1), stage(8, 2, 0)],
            conv_bias: true,
            norm_eps: 1e-5,
            norm_affine: true,
            negative_slope: 0.01,
        }
    }

    fn file(layout: &Layout) -> Vec<TensorInfo> {
        layout
            .needed
            .iter()
            .map(|(name, shape)| TensorInfo {
                name: name.clone(),
                dtype: Dtype::F32,
                shape: shape.clone(),
            })
            .collect()
    }

    #[test]
    fn a_small_network_by_hand() {
        let layout = Layout::of(&spec());
        let shape = |name: &str| layout.needed[name].clone();
        assert_eq!(
            shape("encoder.stages.0.0.convs.0.conv.weight"),
            [4, 1, 3, 3]
        );
        assert_eq!(
            shape("encoder.stages.1.0.convs.0.conv.weight"),
            [8, 4, 3, 3]
        );
        assert_eq!(shape("decoder.transpconvs.0.weight"), [8, 4, 2, 2]);
        assert_eq!(shape("decoder.stages.0.convs.0.conv.weight"), [4, 8, 3, 3]);
        assert_eq!(shape("decoder.seg_layers.0.weight"), [3, 4, 1, 1]);
        // 4 encoder blocks and 1 decoder block of 4 tensors, 1 transposed convolution and 1 head of 2.
        assert_eq!(layout.needed.len(), 5 * 4 + 2 + 2);
        assert_eq!(
            layout.parameters(),
            (36 + 12) + (144 + 12) + (288 + 24) + (576 + 24) + (128 + 4) + (288 + 12) + (12 + 3)
        );
    }

    #[test]
    fn differences_name_the_tensor() {
        let layout = Layout::of(&spec());
        let good = file(&layout);
        assert!(check(&good, &layout).is_ok());
        let message = |infos: &[TensorInfo]| check(infos, &layout).unwrap_err().to_string();

        let mut missing = good.clone();
        missing.retain(|info| info.name != "decoder.transpconvs.0.bias");
        assert!(message(&missing).starts_with("tensor decoder.transpconvs.0.bias: missing"));

        let mut shape = good.clone();
        shape[0].shape = vec![7];
        assert!(message(&shape).contains("shape [7] in the file"));

        let mut extra = good.clone();
        extra[0].name = "encoder.stages.9.0.convs.0.conv.bias".to_owned();
        extra.push(good[0].clone());
        assert!(message(&extra).contains("no such tensor"));

        let mut heads = good;
        heads.push(TensorInfo {
            name: "decoder.seg_layers.7.bias".to_owned(),
            dtype: Dtype::F32,
            shape: vec![3],
        });
        assert!(check(&heads, &layout).is_ok());
        assert!(message(&[]).contains("no tensors"));
    }
}
