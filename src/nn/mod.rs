//! The network engine: layers, kernels, executor and weight files.
//!
//! A U-Net runs on its own executor, one patch at a time:
//!
//! * **Layout.** Activations are `[C/B][D][H][W][B]`: blocks of `B` channels (16, or 8 for layers of up
//!   to 8 features), a cache line per voxel and block, channels padded with zeros. Blocks are
//!   contiguous regions, so concatenation is a list of regions and copies nothing.
//! * **Lazy normalisation.** A convolution stores its raw result and the exact sums for the instance
//!   norm (`f64`). Nobody ever normalises a tensor in memory: whoever reads it next applies
//!   `leaky_relu(scale * x + shift)` while staging.
//! * **Staging and implicit matrix product.** A task copies its box of the input, normalised and zero
//!   padded, into scratch in such a way (`window`) that every kernel tap is a constant
//!   offset; a small register-blocked kernel (`kernel`) then runs over positions without edge cases.
//!   Convolution, transposed convolution and the head are this kernel with three different epilogues.
//! * **Winograd.** 3x3x3 (1x3x3) convolutions of at least 16 channels run with 3.4 (2.25) times fewer
//!   products, those of stride 2 with 1.7 (1.4) times fewer, where the plan expects that to pay (`winograd`).
//! * **Instruction sets.** [`Isa`] picks AVX-512, AVX2 or portable kernels once per network, and for products of
//!   16-bit floats AMX tiles or AVX512_BF16. The
//!   partition into tasks depends only on the layer's shape, so results do not depend on the number
//!   of threads.
//! * **Memory.** [`Plan`] lays every activation out in one arena by liveness before anything is
//!   allocated and says how many bytes a run will take.
//! * **GPUs.** The same graph runs on an NVIDIA GPU where there is one ([`cuda`]).

pub mod arch;
mod arena;
pub mod cuda;
mod error;
mod graph;
mod isa;
mod kernel;
mod lanes;
pub mod network;
mod number;
mod ops;
mod pack;
mod partition;
mod plan;
mod precision;
pub mod survey;
pub mod weights;
mod window;
mod winograd;

pub use error::Error;
pub use isa::Isa;
pub use network::{Executor, Network};
pub use ops::{LogitsBox, TakeLogits};
pub use plan::Plan;
pub use precision::{Compute, Precision};
