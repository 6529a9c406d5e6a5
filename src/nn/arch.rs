//! What a U-Net looks like, independent of where its weights come from or what executes it.
//!
//! A 2-D network is described as a 3-D one of depth 1: kernels and strides get a leading 1.

/// How an encoder stage is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncoderKind {
    /// Stacked convolution + instance norm + LeakyReLU blocks
    /// (`PlainConvUNet` of dynamic_network_architectures 0.4.4).
    Plain,
    /// A stem, then residual blocks (`ResidualEncoderUNet` of dynamic_network_architectures 0.4.4).
    Residual(ResidualEncoder),
}

/// The residual blocks of an encoder, after ResNet-D (He et al., Bag of Tricks for Image Classification, CVPR
/// 2019, section 4.2): the sum of the normalised last convolution and of the block's input, through LeakyReLU.
/// Where a block strides, its input is averaged over the stride; where it changes the number of channels, it
/// goes through a 1x1x1 convolution without bias and an instance norm. [`Stage::encoder_convs`] counts blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidualEncoder {
    /// Output channels of the stem, one convolution block with the first stage's kernel and no stride.
    pub stem_features: usize,
    /// `None` for blocks of two convolutions (`BasicBlockD`); else, per stage, the channels between the 1x1x1
    /// convolutions around the one with the stage's kernel and stride (`BottleneckD`).
    pub bottleneck: Option<Vec<usize>>,
}

/// One resolution level of the encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Output channels.
    pub features: usize,
    /// Convolution kernel `[z, y, x]`, odd.
    pub kernel: [usize; 3],
    /// Stride `[z, y, x]` of the stage's first convolution.
    pub stride: [usize; 3],
    /// Number of convolution blocks, or of residual blocks, in the encoder stage.
    pub encoder_convs: usize,
    /// Number of convolution blocks in the decoder stage of the same resolution;
    /// 0 for the lowest resolution, which has none.
    pub decoder_convs: usize,
}

/// A U-Net as nnU-Net builds it: encoder stages from full to lowest resolution, a mirrored decoder with
/// transposed convolutions (kernel = stride) and concatenated skips, and a 1x1x1 head.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetSpec {
    /// Encoder block.
    pub encoder: EncoderKind,
    /// 2 or 3: the rank of the weight tensors in the file.
    pub spatial_dims: usize,
    /// Input channels.
    pub in_channels: usize,
    /// Output channels (heads).
    pub out_channels: usize,
    /// Stages, full resolution first; at least one.
    pub stages: Vec<Stage>,
    /// Whether convolutions carry a bias.
    pub conv_bias: bool,
    /// Instance-norm epsilon.
    pub norm_eps: f64,
    /// Whether instance norm has a learned scale and shift.
    pub norm_affine: bool,
    /// LeakyReLU slope for negative values.
    pub negative_slope: f32,
}

impl UnetSpec {
    /// Product of the strides of all stages: a patch must be divisible by it on every axis.
    pub fn total_stride(&self) -> [usize; 3] {
        self.stages.iter().fold([1; 3], |product, stage| {
            std::array::from_fn(|axis| product[axis] * stage.stride[axis])
        })
    }
}
