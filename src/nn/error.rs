//! What can go wrong when a network is built, planned or run.

/// An error of the network engine, grouped by who must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weight file lacks a tensor the architecture needs.
    #[error("weights: no tensor named {name}")]
    MissingTensor {
        /// State-dict name.
        name: String,
    },
    /// A tensor has a shape the architecture does not expect.
    #[error("weights: {name} has shape {found:?}, the architecture needs {expected:?}")]
    TensorShape {
        /// State-dict name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape the architecture needs.
        expected: Vec<usize>,
    },
    /// A tensor's data does not match its own shape.
    #[error("weights: {name} holds {found} numbers, its shape {shape:?} needs another count")]
    TensorLength {
        /// State-dict name.
        name: String,
        /// Numbers present.
        found: usize,
        /// Shape in the file.
        shape: Vec<usize>,
    },
    /// A layer's results overflowed, or its weights are no numbers.
    #[error("layer {layer} gives NaN or infinite results: its weights are no numbers or too large")]
    LayerNotFinite {
        /// State-dict name of the layer.
        layer: String,
    },
    /// The patch itself holds NaN or infinity.
    #[error("the input patch holds NaN or infinite numbers")]
    InputNotFinite,
    /// The architecture is one this engine cannot run.
    #[error("network: {0}")]
    Unsupported(String),
    /// The patch does not fit the network.
    #[error("patch {patch:?} is not a multiple of the network's total stride {stride:?}")]
    PatchShape {
        /// Patch `[z, y, x]` in voxels.
        patch: [usize; 3],
        /// Total stride `[z, y, x]`.
        stride: [usize; 3],
    },
    /// A slice passed to the executor has the wrong length.
    #[error("{what} holds {found} numbers, expected {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length needed.
        expected: usize,
    },
    /// The operating system refused the memory, or the size exceeds what can be addressed.
    #[error("out of memory: {what} needs {:.2} GiB", *.bytes as f64 / f64::from(1 << 30))]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// This machine lacks an instruction set that was asked for.
    #[error("instruction set {name} is not available on this machine: it has {present}")]
    IsaUnavailable {
        /// The set asked for.
        name: &'static str,
        /// The sets there are, with commas between.
        present: String,
    },
    /// A GPU cannot be used, or failed.
    #[error(transparent)]
    Gpu(#[from] super::cuda::Error),
    /// An instruction set name nobody knows.
    #[error("unknown instruction set {0:?}: expected scalar, avx2, avx512 or amx")]
    IsaName(String),
}
