//! What can go wrong with a GPU.

/// Why a GPU cannot be used, or no longer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is none, or its software is not there.
    #[error("{0}")]
    Unavailable(String),
    /// A number above those there are.
    #[error("there is no GPU cuda:{asked}: this machine has {found}, counted from cuda:0")]
    NoSuchDevice {
        /// The number asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The device's memory does not suffice.
    #[error("out of GPU memory: {what} needs {:.2} GiB", *.bytes as f64 / f64::from(1 << 30))]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for; 0 where a library did not say.
        bytes: usize,
    },
    /// A call of the driver or of cuDNN failed.
    #[error("{call} failed: {meaning} (code {code})")]
    Call {
        /// The function.
        call: &'static str,
        /// What it returned.
        code: i32,
        /// What that means.
        meaning: String,
    },
    /// What the GPU cannot be given.
    #[error("{0}")]
    Refused(String),
    /// The GPU computes something else than the processor.
    #[error(
        "{device} computes other numbers than the processor: relative difference {difference:.1e} on a test patch, \
         at most {bound:.0e} is expected of {arithmetic}; its driver or cuDNN does not work as medseg expects"
    )]
    Disagrees {
        /// The GPU.
        device: String,
        /// Relative difference of the logits, from root mean squares.
        difference: f64,
        /// What is accepted.
        bound: f64,
        /// The arithmetic.
        arithmetic: &'static str,
    },
}

impl Error {
    /// Whether less at a time could help.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Memory { .. })
    }
}
