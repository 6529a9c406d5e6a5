//! What a header declares, in the words that NRRD, MetaImage and DICOM share, made into a [`Header`].

use super::error::{Error, Result};
use super::limits::Limits;
use super::nifti::{Datatype, Endian, Extension, Format, Geometry, Header, Reader, Version};
use super::stream::Stream;
use crate::volume::{Affine, Grid};
use std::path::{Component, Path, PathBuf};

/// Voxel steps outside are no anatomy, in millimetres.
const STEP_RANGE_MM: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// Sizes, type and place of the voxels as a header declares them.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub format: Format,
    pub endian: Endian,
    pub datatype: Datatype,
    /// `(x, y)`, `(x, y, z)` or `(x, y, z, channels)`.
    pub sizes: Vec<u64>,
    /// Step along each voxel axis, a vector in millimetres RAS+; the third is made up for images.
    pub steps_mm: Vec<[f64; 3]>,
    /// Lengths of the steps where the file states them apart from the directions.
    pub spacing_mm: Option<Vec<f64>>,
    /// Place of the first voxel, millimetres RAS+.
    pub origin_mm: [f64; 3],
    /// First byte of the voxels in their stream.
    pub vox_offset: u64,
    pub warnings: Vec<String>,
}

impl Declared {
    /// Bytes of the voxels, of all channels in `sizes`.
    pub fn payload_bytes(&self) -> u64 {
        let voxels = self
            .sizes
            .iter()
            .fold(1_u64, |n, &size| n.saturating_mul(size));
        voxels.saturating_mul(self.datatype.bytes() as u64)
    }

    /// Opens the voxels in `stream`. With `interleaved` above 1, that many channels lie together in
    /// every voxel; they are brought into channel order in memory, at twice the stored bytes.
    pub(super) fn reader(
        mut self,
        interleaved: u64,
        mut stream: Stream,
        extensions: Vec<Extension>,
        limits: &Limits,
    ) -> Result<Reader> {
        let file = stream.name.clone();
        if interleaved == 1 {
            return Reader::new(self.header(&file)?, extensions, stream, limits);
        }
        if self.sizes.len() > 3 {
            return Err(Error::unsupported(
                &file,
                "has channels in two places, expected one axis of channels",
            ));
        }
        self.sizes.resize(3, 1);
        self.sizes.push(interleaved);
        let vox_offset = std::mem::take(&mut self.vox_offset);
        let header = self.header(&file)?;
        let bytes = header.payload_bytes();
        limits.check(&file, bytes.saturating_mul(2))?;
        stream.check_length(vox_offset.saturating_add(bytes), "what the header declares")?;
        stream.skip_to(vox_offset)?;
        let mixed = stream.read_all(bytes)?;
        stream.finish()?;
        let (width, channels) = (header.datatype.bytes(), header.channels());
        let mut sorted = Vec::with_capacity(mixed.len());
        for channel in 0..channels {
            for voxel in mixed.chunks_exact(width * channels) {
                let sample = voxel.get(channel * width..(channel + 1) * width);
                sorted.extend_from_slice(sample.unwrap_or_default());
            }
        }
        drop(mixed);
        let length = sorted.len() as u64;
        let source = Box::new(std::io::Cursor::new(sorted));
        let stream = Stream::new(source, file, Some(length))?;
        Reader::new(header, extensions, stream, limits)
    }

    /// Opens voxels that come from anywhere, in the order and type declared. `name` is what errors call them.
    pub fn reader_of(
        self,
        source: impl std::io::Read + Send + 'static,
        extensions: Vec<Extension>,
        name: &str,
        limits: &Limits,
    ) -> Result<Reader> {
        let stream = Stream::uncompressed(Box::new(source), name.to_owned());
        Reader::new(self.header(name)?, extensions, stream, limits)
    }

    /// The checked header.
    pub fn header(self, file: &str) -> Result<Header> {
        let shape = self.shape(file)?;
        let mut columns = [[0.0, 0.0, 1.0]; 3]; // the third stays for images of one slice
        for (column, step) in columns.iter_mut().zip(self.steps_mm) {
            *column = step;
        }
        let [a, b, c] = columns;
        let linear = [[a[0], b[0], c[0]], [a[1], b[1], c[1]], [a[2], b[2], c[2]]];
        let affine = Affine {
            linear,
            origin_mm: self.origin_mm,
        };
        let norms = affine.column_norms_mm();
        let mut spacing = norms;
        for (cell, stated) in spacing.iter_mut().zip(self.spacing_mm.iter().flatten()) {
            *cell = *stated;
        }
        for (axis, length) in ["x", "y", "z"].iter().zip(spacing) {
            if !STEP_RANGE_MM.contains(&length) {
                return Err(Error::malformed(
                    file,
                    format!("the voxel size along {axis} is {length}, expected millimetres"),
                ));
            }
        }
        let volume: f64 = norms.iter().product();
        // A flat or skewed-to-flat frame has no inverse that could be trusted.
        if !affine.is_finite() || affine.determinant().abs() < 1e-6 * volume {
            return Err(Error::malformed(
                file,
                "the axis directions do not span a volume",
            ));
        }
        let [x, y, z] = spacing;
        let grid = Grid {
            shape,
            spacing_mm: [z, y, x],
            affine,
        };
        Ok(Header {
            format: self.format,
            version: Version::One,
            endian: self.endian,
            datatype: self.datatype,
            scaling: None,
            geometry: Geometry {
                axes: self.sizes.len().min(3),
                ..Geometry::exact(&grid)
            },
            grid,
            description: String::new(),
            intent_code: 0,
            intent_name: String::new(),
            vox_offset: self.vox_offset,
            separate_voxels: false,
            warnings: self.warnings,
            dim: self.sizes,
        })
    }

    /// `[z, y, x]`, every size at least 1, the byte count within 63 bits.
    fn shape(&self, file: &str) -> Result<[usize; 3]> {
        let bytes = self
            .sizes
            .iter()
            .try_fold(self.datatype.bytes() as u64, |bytes, &size| {
                bytes.checked_mul(size)
            });
        if !bytes.is_some_and(|bytes| bytes > 0 && i64::try_from(bytes).is_ok()) {
            return Err(Error::malformed(
                file,
                format!("sizes are {:?}, expected what a file can hold", self.sizes),
            ));
        }
        let size = |axis: usize| {
            let size = self.sizes.get(axis).copied().unwrap_or(1);
            usize::try_from(size).unwrap_or(usize::MAX)
        };
        Ok([size(2), size(1), size(0)])
    }
}

/// The step along each voxel axis: the columns of an affine.
pub(super) fn axis_steps(affine: &Affine) -> [[f64; 3]; 3] {
    let [a, b, c] = affine.linear;
    [[a[0], b[0], c[0]], [a[1], b[1], c[1]], [a[2], b[2], c[2]]]
}

/// Numbers in the shortest form that reads back to the same value.
pub(super) fn numbers<const N: usize>(values: [f64; N], between: &str) -> String {
    values.map(|value| value.to_string()).join(between)
}

/// LPS+ to RAS+ or back: x and y change sign. Zero stays positive so that files compare equal.
pub(crate) fn flip_xy([x, y, z]: [f64; 3]) -> [f64; 3] {
    [0.0 - x, 0.0 - y, z]
}

/// The file of detached voxels that a header names; `header` is `None` for a header that came
/// through a pipe. Only a plain name is followed: a header from elsewhere must not make us read
/// files outside its folder.
pub(super) fn beside(header: Option<&Path>, name: &str, file: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name)
        .components()
        .filter(|part| *part != Component::CurDir);
    match (header, parts.next(), parts.next()) {
        (Some(header), Some(Component::Normal(only)), None)
            if !name.contains(['%', '\0']) && !name.starts_with("LIST") =>
        {
            Ok(header.with_file_name(only))
        }
        _ => Err(Error::unsupported(
            file,
            format!(
                "the voxels are in {name:?}, expected them in the same file or in one file beside the header"
            ),
        )),
    }
}
