//! How exactly a network computes, and on what.

use super::Isa;

/// How numbers are stored and multiplied between the image and the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision with errors as small as PyTorch's own.
    #[default]
    Fp32,
    /// Single precision with faster sums: errors of a layer up to 2e-6 instead of 3e-7, relative to its
    /// largest results.
    Fast32,
    /// As [`Precision::Fast32`], with activations kept as 16-bit numbers of 10 bits of precision: half the memory.
    /// Products, sums and statistics stay in single precision, except that AMX multiplies bf16.
    Bf16,
}

impl Precision {
    /// All precisions, the most exact first.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Fast32, Self::Bf16];

    /// Whether activations are kept in 16 bits.
    pub(crate) fn keeps_halves(self) -> bool {
        self == Self::Bf16
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fast32 => "fast32",
            Self::Bf16 => "bf16",
        }
    }
}

/// The arithmetic of a network: what decides its numbers besides weights and image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Instruction set.
    pub isa: Isa,
    /// Precision.
    pub precision: Precision,
}

impl Default for Compute {
    /// The best instruction set of this machine in single precision.
    fn default() -> Self {
        Self {
            isa: Isa::detect(),
            precision: Precision::default(),
        }
    }
}
