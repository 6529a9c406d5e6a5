//! The network block of a configuration, in both spellings nnU-Net has had.
//!
//! New plans name a class and its arguments (`architecture.network_class_name`, `arch_kwargs`); plans from
//! before nnU-Net 2.4, among them the published TotalSegmentator weights, have keys such as
//! `UNet_base_num_features` next to the patch size. Scalars where lists are expected hold for every stage.
//! Dropout is ignored: it does nothing at inference.
//!
//! Source: nnunetv2 2.8.1 `utilities/plans_handling/plans_handler.py`, dynamic_network_architectures 0.4.4
//! `architectures/unet.py`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::model::Error;
use super::model::json::Field;
use crate::nn::arch::{EncoderKind, ResidualEncoder, Stage, UnetSpec};

/// Most resolution levels; nnU-Net plans 4 to 9.
const MAX_STAGES: usize = 16;
/// Most channels of a level; nnU-Net plans up to 512.
const MAX_FEATURES: usize = 16_384;
/// Most convolution blocks per level.
const MAX_CONVS: usize = 64;
/// Largest kernel.
const MAX_KERNEL: usize = 31;
/// Largest stride.
const MAX_STRIDE: usize = 16;
/// Networks medseg can run, for messages.
const SUPPORTED: &str = "PlainConvUNet and ResidualEncoderUNet";

/// Reads the network of `configuration`; input and output channels, which depend on the dataset, are 0.
pub(super) fn parse(configuration: &Field<'_>, dims: usize) -> Result<UnetSpec, Error> {
    match configuration.get("architecture").present() {
        Some(architecture) => parse_new(configuration, &architecture, dims),
        None => parse_old(configuration, dims),
    }
}

/// The network classes medseg runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Residual,
}

/// The class a plans file names; only the part after the last dot counts.
fn class_of(class: &Field<'_>) -> Result<Class, Error> {
    match class.text()?.rsplit('.').next() {
        Some("PlainConvUNet") => Ok(Class::Plain),
        Some("ResidualEncoderUNet") => Ok(Class::Residual),
        _ => Err(class.unsupported(SUPPORTED)),
    }
}

/// The residual blocks that `arguments` describe; `features` are those of the stages.
fn residual_encoder(
    arguments: &Field<'_>,
    stages: &Stages<'_>,
    features: &[usize],
) -> Result<ResidualEncoder, Error> {
    let stem_features = match arguments.get("stem_channels").present() {
        Some(field) => field.whole(1, MAX_FEATURES)?,
        None => features.first().copied().unwrap_or(0),
    };
    let block = arguments.get("block");
    let bottleneck = match block.clone().present() {
        None => false,
        Some(class) => match class.text()?.rsplit('.').next() {
            Some("BasicBlockD") => false,
            Some("BottleneckD") => true,
            _ => return Err(class.unsupported("BasicBlockD and BottleneckD")),
        },
    };
    let bottleneck = if bottleneck {
        let channels = arguments.get("bottleneck_channels");
        Some(stages.scalars(&channels, MAX_FEATURES, stages.count)?)
    } else {
        None
    };
    Ok(ResidualEncoder {
        stem_features,
        bottleneck,
    })
}

fn parse_new(
    configuration: &Field<'_>,
    architecture: &Field<'_>,
    dims: usize,
) -> Result<UnetSpec, Error> {
    let class = class_of(&architecture.get("network_class_name"))?;
    let arguments = architecture.get("arch_kwargs");
    arguments.object()?;
    let conv = arguments.get("conv_op");
    let other = 5 - dims;
    if conv.text()?.ends_with(&format!("Conv{other}d")) {
        let expected = format!("{other} sizes, as conv_op is Conv{other}d");
        return Err(configuration.get("patch_size").wrong(&expected));
    }
    expect_class(&conv, &format!("Conv{dims}d"))?;
    // The planners always write the following; a file without them means the planners' choice, and
    // comparing the tensors with the layout finds out if that was wrong.
    if let Some(norm) = arguments.get("norm_op").present() {
        expect_class(&norm, &format!("InstanceNorm{dims}d"))?;
    }
    if let Some(nonlin) = arguments.get("nonlin").present() {
        expect_class(&nonlin, "LeakyReLU")?;
    }
    for key in ["norm_op", "nonlin"] {
        let null = arguments
            .object()?
            .get(key)
            .is_some_and(serde_json::Value::is_null);
        if null {
            return Err(arguments
                .get(key)
                .unsupported("networks with instance norm and LeakyReLU"));
        }
    }
    let first = arguments.get("nonlin_first");
    if let Some(field) = first.present()
        && field.boolean()?
    {
        return Err(field.unsupported("networks whose LeakyReLU follows the norm"));
    }
    let conv_bias = match arguments.get("conv_bias").present() {
        Some(field) => field.boolean()?,
        None => true,
    };
    let (norm_eps, norm_affine) = match arguments.get("norm_op_kwargs").present() {
        Some(norm) => {
            let eps = norm.get("eps");
            let affine = norm.get("affine").present();
            let norm_eps = match eps.clone().present() {
                Some(field) => field.number()?,
                None => 1e-5,
            };
            if !(norm_eps > 0.0 && norm_eps < 1.0) {
                return Err(eps.wrong("a number between 0 and 1"));
            }
            // torch's InstanceNorm has no affine parameters unless asked.
            (norm_eps, affine.map_or(Ok(false), |field| field.boolean())?)
        }
        None => (1e-5, true),
    };
    let slope = arguments.get("nonlin_kwargs").get("negative_slope");
    let negative_slope = match slope.present() {
        Some(field) => field.number()? as f32,
        None => 0.01,
    };
    let n = arguments.get("n_stages");
    let mut spec = UnetSpec {
        encoder: EncoderKind::Plain,
        spatial_dims: dims,
        in_channels: 0,
        out_channels: 0,
        stages: Vec::new(),
        conv_bias,
        norm_eps,
        norm_affine,
        negative_slope,
    };
    let stages = Stages {
        count: n.whole(2, MAX_STAGES)?,
        dims,
        kernels: arguments.get("kernel_sizes"),
        strides: arguments.get("strides"),
        encoder_convs: arguments.get(match class {
            Class::Plain => "n_conv_per_stage",
            Class::Residual => "n_blocks_per_stage",
        }),
        decoder_convs: arguments.get("n_conv_per_stage_decoder"),
    };
    let features = stages.scalars(
        &arguments.get("features_per_stage"),
        MAX_FEATURES,
        stages.count,
    )?;
    if class == Class::Residual {
        spec.encoder = EncoderKind::Residual(residual_encoder(&arguments, &stages, &features)?);
    }
    stages.fill(spec, &features)
}

fn parse_old(configuration: &Field<'_>, dims: usize) -> Result<UnetSpec, Error> {
    let class = configuration.get("UNet_class_name");
    if class.clone().present().is_none() {
        return Err(configuration
            .get("architecture")
            .wrong("the description of a network"));
    }
    let class = class_of(&class)?;
    let mut spec = UnetSpec {
        encoder: EncoderKind::Plain,
        spatial_dims: dims,
        in_channels: 0,
        out_channels: 0,
        stages: Vec::new(),
        conv_bias: true,
        norm_eps: 1e-5,
        norm_affine: true,
        negative_slope: 0.01,
    };
    let encoder_convs = configuration.get("n_conv_per_stage_encoder");
    let count = encoder_convs.list()?.len();
    if !(2..=MAX_STAGES).contains(&count) {
        return Err(encoder_convs.wrong(&format!("2 to {MAX_STAGES} stages")));
    }
    let stages = Stages {
        count,
        dims,
        kernels: configuration.get("conv_kernel_sizes"),
        strides: configuration.get("pool_op_kernel_sizes"),
        encoder_convs,
        decoder_convs: configuration.get("n_conv_per_stage_decoder"),
    };
    let base = configuration
        .get("UNet_base_num_features")
        .whole(1, MAX_FEATURES)?;
    let most = configuration
        .get("unet_max_num_features")
        .whole(1, MAX_FEATURES)?;
    let features: Vec<usize> = (0..count).map(|i| (base << i).min(most)).collect();
    if class == Class::Residual {
        spec.encoder = EncoderKind::Residual(ResidualEncoder {
            stem_features: base.min(most),
            bottleneck: None,
        });
    }
    stages.fill(spec, &features)
}

/// The class must be `expected`, whatever module it is written in.
fn expect_class(field: &Field<'_>, expected: &str) -> Result<(), Error> {
    match field.text()?.rsplit('.').next() {
        Some(name) if name == expected => Ok(()),
        _ => Err(field.unsupported(&format!("{expected} here"))),
    }
}

/// The per-stage settings both spellings share.
struct Stages<'d> {
    count: usize,
    dims: usize,
    kernels: Field<'d>,
    strides: Field<'d>,
    encoder_convs: Field<'d>,
    decoder_convs: Field<'d>,
}

impl Stages<'_> {
    fn fill(&self, mut spec: UnetSpec, features: &[usize]) -> Result<UnetSpec, Error> {
        let kernels = self.triples(&self.kernels, MAX_KERNEL)?;
        if kernels.iter().flatten().any(|size| size % 2 == 0) {
            return Err(self.kernels.wrong("odd kernel sizes"));
        }
        let strides = self.triples(&self.strides, MAX_STRIDE)?;
        let encoder_convs = self.scalars(&self.encoder_convs, MAX_CONVS, self.count)?;
        let mut decoder_convs = self.scalars(&self.decoder_convs, MAX_CONVS, self.count - 1)?;
        // The file lists the decoder from the lowest resolution up; the lowest has no decoder stage.
        decoder_convs.reverse();
        decoder_convs.push(0);
        let convs = encoder_convs.into_iter().zip(decoder_convs);
        spec.stages = features
            .iter()
            .zip(kernels)
            .zip(strides)
            .zip(convs)
            .map(
                |(((&features, kernel), stride), (encoder, decoder))| Stage {
                    features,
                    kernel,
                    stride,
                    encoder_convs: encoder,
                    decoder_convs: decoder,
                },
            )
            .collect();
        Ok(spec)
    }

    /// One whole number per stage; a single number holds for all.
    fn scalars(&self, field: &Field<'_>, most: usize, count: usize) -> Result<Vec<usize>, Error> {
        if !field.is_list() {
            return Ok(vec![field.whole(1, most)?; count]);
        }
        let numbers = field.wholes(1, most)?;
        if numbers.len() == count {
            Ok(numbers)
        } else {
            Err(field.wrong(&format!("{count} numbers for {} stages", self.count)))
        }
    }

    /// One size per axis and stage; a single number holds for all axes, or for all stages.
    fn triples(&self, field: &Field<'_>, most: usize) -> Result<Vec<[usize; 3]>, Error> {
        if !field.is_list() {
            let size = field.whole(1, most)?;
            return Ok(vec![
                self.triple(&vec![size; self.dims]).unwrap_or([1; 3]);
                self.count
            ]);
        }
        let stages = field.list()?;
        if stages.len() != self.count {
            return Err(field.wrong(&format!("one entry for each of {} stages", self.count)));
        }
        stages
            .iter()
            .map(|stage| {
                let sizes = if stage.is_list() {
                    stage.wholes(1, most)?
                } else {
                    vec![stage.whole(1, most)?; self.dims]
                };
                self.triple(&sizes)
                    .ok_or_else(|| stage.wrong(&format!("{} numbers from 1 to {most}", self.dims)))
            })
            .collect()
    }

    /// Sizes per axis with a leading 1 for two-dimensional networks.
    fn triple(&self, sizes: &[usize]) -> Option<[usize; 3]> {
        match (self.dims, sizes) {
            (2, &[y, x]) => Some([1, y, x]),
            (3, &[z, y, x]) => Some([z, y, x]),
            _ => None,
        }
    }
}
