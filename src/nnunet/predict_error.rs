//! What can go wrong between an image and its label map.

use crate::geometry::resample::ResampleError;
use crate::volume::ShapeMismatch;

/// Why a prediction could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The case has not as many images as the model has input channels.
    #[error("the model takes {expected} input channel(s), {found} image(s) were given")]
    ChannelCount {
        /// Images given.
        found: usize,
        /// Channels the model was trained with.
        expected: usize,
    },
    /// Two channels of a case have different shapes.
    #[error("channel {channel} is {found:?} voxels (z, y, x), channel 0 is {expected:?}")]
    ChannelShape {
        /// Index of the differing channel.
        channel: usize,
        /// Its shape.
        found: [usize; 3],
        /// Shape of channel 0.
        expected: [usize; 3],
    },
    /// Two channels of a case have different voxel spacings.
    #[error(
        "channel {channel} has a spacing of {found:?} mm (z, y, x), channel 0 has {expected:?}"
    )]
    ChannelSpacing {
        /// Index of the differing channel.
        channel: usize,
        /// Its spacing.
        found: [f64; 3],
        /// Spacing of channel 0.
        expected: [f64; 3],
    },
    /// An image without voxels.
    #[error("the image is {shape:?} voxels (z, y, x): nothing to predict")]
    EmptyImage {
        /// Shape of the image.
        shape: [usize; 3],
    },
    /// Intensities that are no numbers.
    #[error(
        "channel {channel} holds {count} NaN or infinite intensities, the first at \
         x {x}, y {y}, z {z}", x = voxel[2], y = voxel[1], z = voxel[0]
    )]
    NotFinite {
        /// Index of the channel.
        channel: usize,
        /// How many voxels are concerned.
        count: u64,
        /// The first of them, `[z, y, x]`.
        voxel: [usize; 3],
    },
    /// Intensities that the model's normalization does not accept.
    #[error("channel {channel} holds {value}: RGBTo01Normalization takes values from 0 to 255")]
    NotRgb {
        /// Index of the channel.
        channel: usize,
        /// A value outside.
        value: f32,
    },
    /// A cascade without its other input.
    #[error("this model is the second stage of a cascade: it needs the label map of {stage} too")]
    PreviousStageMissing {
        /// The configuration that makes it.
        stage: String,
    },
    /// A label map for a model that takes none.
    #[error("a previous stage's label map was given, but this model takes none")]
    PreviousStageUnwanted,
    /// A previous stage's label map of another image.
    #[error(
        "the previous stage's label map is {found:?} voxels (z, y, x), the image is {expected:?}"
    )]
    PreviousStageShape {
        /// Shape of the label map.
        found: [usize; 3],
        /// Shape of the image.
        expected: [usize; 3],
    },
    /// A permutation of the axes that is none.
    #[error("transpose_forward {found:?} is no order of the axes 0, 1 and 2")]
    Transpose {
        /// What was found.
        found: [usize; 3],
    },
    /// More memory than allowed.
    #[error(
        "{what} needs {:.1} GiB, the limit is {:.1} GiB", gib(*needed_bytes), gib(*limit_bytes)
    )]
    OverLimit {
        /// What would be allocated.
        what: &'static str,
        /// How much it is.
        needed_bytes: u64,
        /// How much is allowed.
        limit_bytes: u64,
    },
    /// A step of the sliding window outside (0, 1].
    #[error("the sliding window step is {step}: it must be above 0 and at most 1")]
    Step {
        /// The refused step.
        step: f64,
    },
    /// Logits overflowed while tiles were added up, or the network gave something that is no number.
    #[error(
        "the network's output for slice {slice} is not finite: {}",
        if *half { "try 32-bit accumulation" } else { "the weights or the image are unusable" }
    )]
    LogitsNotFinite {
        /// Slice in the network's frame.
        slice: usize,
        /// Whether the sums were kept in 16 bits.
        half: bool,
    },
    /// Something that nnU-Net can do and medseg cannot.
    #[error("{feature} is not supported")]
    Unsupported {
        /// What it is.
        feature: String,
    },
    /// The image could not be brought to the network's grid, or the logits back.
    #[error("resampling: {0}")]
    Resample(#[from] ResampleError),
    /// The mask of non-zero voxels is too fragmented.
    #[error("filling the mask of non-zero voxels: {0}")]
    Mask(#[from] crate::topology::components::TooManyRuns),
    /// The image's axes cannot be brought into the order the model wants.
    #[error("turning the image to RAS+: {0}")]
    Orientation(#[from] crate::geometry::orientation::OrientationError),
    /// The weights could not be read.
    #[error(transparent)]
    Model(#[from] super::model::Error),
    /// The network could not be built or run.
    #[error(transparent)]
    Network(#[from] crate::nn::Error),
    /// The result does not fit its grid.
    #[error("placing the result: {0}")]
    Shape(#[from] ShapeMismatch),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl PredictError {
    /// Whether a GPU failed: it may go on failing, whatever the image.
    pub fn is_of_gpu(&self) -> bool {
        matches!(self, Self::Network(crate::nn::Error::Gpu(_)))
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1_u32 << 30)
}
