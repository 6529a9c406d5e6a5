//! Which instruction set the kernels use.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::kernel::amx;
use super::{Error, Precision};

/// An instruction set with its own kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust; the oracle of the others.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with AMX-BF16: tiles of products of 16-bit floats, where the precision allows them.
    Amx,
}

/// The widest registers of an [`Isa`]: what decides everything but products of 16-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// Portable Rust.
    Scalar,
    /// 256 bits.
    Avx2,
    /// 512 bits.
    Avx512,
}

impl Isa {
    /// All sets, the portable one first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx];

    /// The sets of this machine, the portable one first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best set of this machine, found out once per process.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().unwrap_or(Self::Scalar))
    }

    /// The set called `name` (`scalar`, `avx2`, `avx512` or `amx`), as a user forces it.
    ///
    /// # Errors
    ///
    /// The name is unknown, or the machine lacks the set.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| Error::IsaName(name.to_owned()))?;
        isa.require()
    }

    /// The name [`Isa::from_name`] accepts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Whether this machine can run the set.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Scalar => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Amx => {
                static PERMITTED: OnceLock<bool> = OnceLock::new();
                Self::Avx512.is_available() && *PERMITTED.get_or_init(amx::is_permitted)
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return matches!(self, Self::Scalar);
    }

    /// Its widest registers.
    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Self::Scalar => Vectors::Scalar,
            Self::Avx2 => Vectors::Avx2,
            Self::Avx512 | Self::Amx => Vectors::Avx512,
        }
    }

    /// Whether plain sums of `precision` multiply 16-bit floats.
    pub(crate) fn multiplies_halves(self, precision: Precision) -> bool {
        self == Self::Amx && precision.keeps_halves()
    }

    /// Itself, if the machine can run it.
    pub(crate) fn require(self) -> Result<Self, Error> {
        if self.is_available() {
            Ok(self)
        } else {
            let present: Vec<&str> = Self::available().map(Self::name).collect();
            Err(Error::IsaUnavailable {
                name: self.name(),
                present: present.join(", "),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        assert_eq!(Isa::from_name("scalar").unwrap(), Isa::Scalar);
        assert_eq!(Isa::from_name(Isa::detect().name()).unwrap(), Isa::detect());
        assert!(matches!(Isa::from_name("AVX"), Err(Error::IsaName(_))));
    }

    #[test]
    fn a_set_that_is_missing_is_refused_with_those_that_are_there() {
        for isa in Isa::ALL {
            match Isa::from_name(isa.name()) {
                Ok(found) => assert!(found == isa && isa.is_available()),
                Err(error) => {
                    assert!(!isa.is_available());
                    assert!(error.to_string().contains("it has scalar"), "{error}");
                }
            }
        }
    }
}
