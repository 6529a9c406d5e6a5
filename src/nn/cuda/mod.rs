//! The network on an NVIDIA GPU.
//!
//! * **Libraries** are looked for at run time: the driver (`libcuda.so.1`) and cuDNN 9. Without them the program is
//!   the same but for what `--device cuda` answers.
//! * **Graph.** The operations are those of the processor's network; activations are stored normalised, since a GPU
//!   reads and writes memory faster than it would normalise while it convolves.
//! * **Kernels.** cuDNN convolves; statistics, instance norm, averages, mirroring and the head are `kernels.cu`, shipped
//!   as the text `kernels.ptx` that the driver compiles for its GPU.
//! * **Memory.** Activations share one arena by liveness. Tiles and their mirrored passes run together as far as memory
//!   allows; where it does not, half as many at a time. Overlapping tiles are added up on the GPU where there is room
//!   ([`Sums`]), else by the caller, who gets the logits of one patch after the other ([`Executor::run`]).
//! * **Graphs.** The work of a batch is recorded the second time and queued as a whole from then on.
//! * **Trust.** No network is handed out before it gave the processor's numbers on a small patch ([`Network::checked`]).

mod check;
mod dnn;
mod driver;
mod error;
mod executor;
mod gpu;
mod layout;
mod library;
mod memory;
mod network;
mod nvrtc;
mod pass;
mod ptx;
mod queue;
mod sums;

pub use error::Error;
pub use executor::Executor;
pub use gpu::{Found, Gpu, Survey};
pub use network::Network;
pub use sums::{Level, Logits, Sums, SumsForm};

/// How a GPU stores and multiplies numbers. Sums, statistics and logits are in single precision or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Single precision, without tensor cores: errors as on the processor.
    #[default]
    Fp32,
    /// Single precision, factors rounded to 11 bits (TF32) on tensor cores: what PyTorch does with fp32 convolutions.
    Tf32,
    /// 16-bit floats with 11 bits of precision: what nnU-Net does on a GPU (autocast).
    Fp16,
    /// 16-bit floats with 8 bits of precision and the range of single precision.
    Bf16,
}

impl Arithmetic {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of an activation.
    fn bytes(self) -> usize {
        match self {
            Self::Fp32 | Self::Tf32 => 4,
            Self::Fp16 | Self::Bf16 => 2,
        }
    }
}
