//! Voxel types, and the conversions between file bytes and numbers.

use super::super::error::{Error, Result};
use super::Endian;

/// Type of the stored voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datatype {
    /// `uint8`, code 2.
    U8,
    /// `int8`, code 256.
    I8,
    /// `int16`, code 4.
    I16,
    /// `uint16`, code 512.
    U16,
    /// `int32`, code 8.
    I32,
    /// `uint32`, code 768.
    U32,
    /// `int64`, code 1024.
    I64,
    /// `uint64`, code 1280.
    U64,
    /// `float32`, code 16.
    F32,
    /// `float64`, code 64.
    F64,
}

/// Every type with its NIfTI code, bytes and name.
const TYPES: [(Datatype, i16, usize, &str); 10] = [
    (Datatype::U8, 2, 1, "uint8"),
    (Datatype::I16, 4, 2, "int16"),
    (Datatype::I32, 8, 4, "int32"),
    (Datatype::F32, 16, 4, "float32"),
    (Datatype::F64, 64, 8, "float64"),
    (Datatype::I8, 256, 1, "int8"),
    (Datatype::U16, 512, 2, "uint16"),
    (Datatype::U32, 768, 4, "uint32"),
    (Datatype::I64, 1024, 8, "int64"),
    (Datatype::U64, 1280, 8, "uint64"),
];

/// Types of the standard that hold no single real number per voxel, or none we can hold.
const UNSUPPORTED: [(i16, &str); 7] = [
    (1, "binary (1 bit)"),
    (32, "complex64"),
    (128, "RGB24"),
    (1536, "float128"),
    (1792, "complex128"),
    (2048, "complex256"),
    (2304, "RGBA32"),
];

impl Datatype {
    pub(super) fn from_code(code: i16, file: &str) -> Result<Self> {
        if let Some(&(datatype, ..)) = TYPES.iter().find(|entry| entry.1 == code) {
            return Ok(datatype);
        }
        Err(match UNSUPPORTED.iter().find(|entry| entry.0 == code) {
            Some((_, name)) => Error::unsupported(
                file,
                format!("voxels are {name}, expected one integer or float32/float64 per voxel"),
            ),
            None => Error::malformed(
                file,
                format!(
                    "datatype is {code}, expected a NIfTI code such as 4 (int16) or 16 (float32)"
                ),
            ),
        })
    }

    fn entry(self) -> (i16, usize, &'static str) {
        TYPES
            .iter()
            .find(|entry| entry.0 == self)
            .map_or((0, 0, "?"), |&(_, code, bytes, name)| (code, bytes, name))
    }

    /// The code in a NIfTI header.
    pub fn code(self) -> i16 {
        self.entry().0
    }

    /// Bytes per voxel.
    pub fn bytes(self) -> usize {
        self.entry().1
    }

    /// NumPy's name, `int16`.
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Whether values can have fractions or be NaN.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
}

impl std::fmt::Display for Datatype {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A number type that NIfTI voxels can have.
pub trait Sample:
    Copy + Send + Sync + PartialEq + std::fmt::Debug + sealed::Sealed + 'static
{
    /// Its NIfTI type.
    const DATATYPE: Datatype;
    /// The value as `f64` (rounded for large 64-bit integers).
    fn to_f64(self) -> f64;
    /// Whether the value is a label number: whole, from 0 to 65535.
    #[doc(hidden)]
    fn is_label(self) -> bool;
    /// The label number, where the value is one.
    #[doc(hidden)]
    fn to_label(self) -> u16;
    /// The value as `f32`, rounded once.
    fn to_f32(self) -> f32;
    /// Appends the numbers in `bytes`; a partial one at the end is left out.
    #[doc(hidden)]
    fn decode(bytes: &[u8], endian: Endian, into: &mut Vec<Self>);
    /// Appends the little-endian bytes of `values`.
    #[doc(hidden)]
    fn encode(values: &[Self], into: &mut Vec<u8>);
    #[doc(hidden)]
    fn wrap(values: Vec<Self>) -> super::Voxels;
}

macro_rules! samples {
    ($($type:ty => $variant:ident),*) => {$(
        impl sealed::Sealed for $type {}
        #[allow(clippy::cast_lossless, reason = "one macro for types that convert exactly and types that round")]
        impl Sample for $type {
            const DATATYPE: Datatype = Datatype::$variant;
            fn to_f64(self) -> f64 { self as f64 }
            fn is_label(self) -> bool {
                // The first test is for NaN and for negative numbers, which 16 bits could give back as they were.
                (self >= 0 as $type) & (self as u16 as $type == self)
            }
            fn to_label(self) -> u16 { self as u16 }
            fn to_f32(self) -> f32 { self as f32 }
            fn decode(bytes: &[u8], endian: Endian, into: &mut Vec<Self>) {
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                match endian {
                    Endian::Little => into.extend(chunks.iter().map(|&c| <$type>::from_le_bytes(c))),
                    Endian::Big => into.extend(chunks.iter().map(|&c| <$type>::from_be_bytes(c))),
                }
            }
            fn encode(values: &[Self], into: &mut Vec<u8>) {
                let start = into.len();
                into.resize(start + size_of_val(values), 0);
                let room = into.get_mut(start..).unwrap_or_default();
                let (chunks, _) = room.as_chunks_mut::<{ size_of::<$type>() }>();
                for (chunk, value) in chunks.iter_mut().zip(values) {
                    *chunk = value.to_le_bytes();
                }
            }
            fn wrap(values: Vec<Self>) -> super::Voxels { super::Voxels::$variant(values) }
        }
    )*};
}
samples!(u8 => U8, i8 => I8, i16 => I16, u16 => U16, i32 => I32, u32 => U32,
         i64 => I64, u64 => U64, f32 => F32, f64 => F64);

/// Runs an expression with the Rust type of a [`Datatype`].
macro_rules! with_sample {
    ($datatype:expr, $type:ident => $body:expr) => {
        match $datatype {
            $crate::io::nifti::Datatype::U8 => {
                type $type = u8;
                $body
            }
            $crate::io::nifti::Datatype::I8 => {
                type $type = i8;
                $body
            }
            $crate::io::nifti::Datatype::I16 => {
                type $type = i16;
                $body
            }
            $crate::io::nifti::Datatype::U16 => {
                type $type = u16;
                $body
            }
            $crate::io::nifti::Datatype::I32 => {
                type $type = i32;
                $body
            }
            $crate::io::nifti::Datatype::U32 => {
                type $type = u32;
                $body
            }
            $crate::io::nifti::Datatype::I64 => {
                type $type = i64;
                $body
            }
            $crate::io::nifti::Datatype::U64 => {
                type $type = u64;
                $body
            }
            $crate::io::nifti::Datatype::F32 => {
                type $type = f32;
                $body
            }
            $crate::io::nifti::Datatype::F64 => {
                type $type = f64;
                $body
            }
        }
    };
}
pub(super) use with_sample;
