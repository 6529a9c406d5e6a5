//! The 348-byte NIfTI-1 and 540-byte NIfTI-2 headers.
//!
//! Sources: `nifti1.h` and `nifti2.h` of the NIfTI data format working group for the layout; where a
//! field is odd, nibabel 5.4.2 decides whether the file can be read, and we refuse rather than guess
//! where its answer would be a guess (`vox_offset` 0 in a single file, a spacing of zero).

use super::super::error::{Error, Result};
use super::raw::Raw;
use super::{Datatype, Geometry};
use crate::volume::Grid;

/// Bytes of a NIfTI-1 header.
pub(super) const NIFTI1_BYTES: usize = 348;
/// Bytes of a NIfTI-2 header.
pub(super) const NIFTI2_BYTES: usize = 540;

/// Which of the two header layouts a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 348 bytes, sizes up to 32767, `f32` geometry.
    One,
    /// 540 bytes, 64-bit sizes, `f64` geometry.
    Two,
}

/// The kind of file a header was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// NIfTI, its version in [`Header::version`].
    Nifti,
    /// NRRD with attached or detached voxels.
    Nrrd,
    /// MetaImage, `.mha` or `.mhd`.
    MetaImage,
    /// A DICOM series or multi-frame object.
    Dicom,
    /// PNG or TIFF.
    Picture,
}

/// Byte order of the numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// Stored value to real value: `value * slope + intercept`, computed in `f64` without fusing, as nibabel and ITK do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// `scl_slope`, finite and not zero.
    pub slope: f64,
    /// `scl_inter`, finite.
    pub intercept: f64,
}

impl Scaling {
    /// Applies the scaling to one stored value.
    pub fn apply(&self, stored: f64) -> f64 {
        stored * self.slope + self.intercept
    }
}

/// What a volume's header says, checked. Formats other than NIfTI are told in NIfTI's terms, with
/// [`Geometry::from_grid`] as the position fields that outputs get.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// Kind of file.
    pub format: Format,
    /// Header layout.
    pub version: Version,
    /// Byte order of header and voxels.
    pub endian: Endian,
    /// Type of the stored voxels.
    pub datatype: Datatype,
    /// Sizes as declared, `(x, y, z, t, …)`, 1 to 7 of them, each at least 1.
    pub dim: Vec<u64>,
    /// `scl_slope` and `scl_inter`; `None` where the stored values are the real ones (slope 1 and
    /// intercept 0, or a slope that is 0, NaN or infinite).
    pub scaling: Option<Scaling>,
    /// Position fields, to be copied into outputs bit for bit.
    pub geometry: Geometry,
    /// Where the voxels are, from those fields.
    pub grid: Grid,
    /// `descrip`, without trailing zeros.
    pub description: String,
    /// `intent_code`.
    pub intent_code: i32,
    /// `intent_name`, without trailing zeros.
    pub intent_name: String,
    /// First byte of the voxels in the file that holds them.
    pub vox_offset: u64,
    /// Whether the voxels are in a separate `.img` file.
    pub separate_voxels: bool,
    /// Oddities that were read over, one sentence each.
    pub warnings: Vec<String>,
}

impl Header {
    /// Number of volumes: the size of the one axis beyond the third that is not 1, else 1.
    pub fn channels(&self) -> usize {
        let beyond: u64 = self.dim.iter().skip(3).product();
        usize::try_from(beyond).unwrap_or(usize::MAX)
    }

    /// Number of voxels of all volumes together.
    pub fn voxel_count(&self) -> u64 {
        self.dim.iter().product()
    }

    /// Bytes of the voxels as stored.
    pub fn payload_bytes(&self) -> u64 {
        self.voxel_count() * self.datatype.bytes() as u64
    }

    /// Number of declared axes without trailing axes of size 1, at least 2: 2 for an image, 3 for a volume.
    pub fn rank(&self) -> usize {
        let used = self.dim.iter().rposition(|&size| size > 1);
        used.map_or(2, |last| last + 1).max(2)
    }

    /// How many bytes the header that starts with `start` (at least 12 bytes) has.
    pub(super) fn length(start: &[u8], file: &str) -> Result<usize> {
        let magic = start.get(4..8).unwrap_or_default();
        let size: [u8; 4] = start
            .get(..4)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or_default();
        let is_540 = u32::from_le_bytes(size) == 540 || u32::from_be_bytes(size) == 540;
        if magic.starts_with(b"n+2") || magic.starts_with(b"ni2") {
            if !is_540 {
                return Err(Error::malformed(
                    file,
                    format!(
                        "NIfTI-2 header declares {} bytes, expected 540",
                        i32::from_le_bytes(size)
                    ),
                ));
            }
            return Ok(NIFTI2_BYTES);
        }
        if is_540 {
            return Err(Error::malformed(
                file,
                format!(
                    "NIfTI-2 header with magic {:?}, expected \"n+2\" or \"ni2\"",
                    String::from_utf8_lossy(magic)
                ),
            ));
        }
        Ok(NIFTI1_BYTES)
    }

    /// Reads a header of [`Header::length`] bytes.
    pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let raw = Raw::read(bytes, file)?;
        let mut warnings = raw.warnings.clone();
        let datatype = Datatype::from_code(raw.datatype, file)?;
        if usize::try_from(raw.bitpix) != Ok(datatype.bytes() * 8) {
            warnings.push(format!(
                "bitpix is {}, but datatype {datatype} has {} bits",
                raw.bitpix,
                datatype.bytes() * 8
            ));
        }
        let dim = raw.sizes(file)?;
        let vox_offset = raw.offset(file)?;
        let (geometry, grid) = Geometry::from_raw(&raw, &dim, file, &mut warnings)?;
        Ok(Self {
            format: Format::Nifti,
            version: raw.version,
            endian: raw.endian,
            datatype,
            scaling: raw.scaling(file)?,
            geometry,
            grid,
            description: text(&raw.descrip),
            intent_code: raw.intent_code,
            intent_name: text(&raw.intent_name),
            vox_offset,
            separate_voxels: raw.separate_voxels,
            warnings,
            dim,
        })
    }
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
