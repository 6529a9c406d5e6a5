//! Voxels in the type of the file, and the loops that turn stored bytes into other types.

use super::super::error::{Error, Result};
use super::super::stream::Stream;
use super::datatype::with_sample;
use super::header::{Header, Scaling};
use super::{Datatype, Sample};
use crate::volume::LabelError;

/// Bytes converted at a time: stays in the second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// First allocation for data whose true length only the end of the stream tells.
const FIRST_BYTES: usize = 16 << 20;

/// Voxels of all volumes in the type of the file, in file order: x fastest, then y, z, t.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types of the standard")]
pub enum Voxels {
    U8(Vec<u8>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    U16(Vec<u16>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    I64(Vec<i64>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Runs an expression with the vector inside [`Voxels`].
macro_rules! with_voxels {
    ($voxels:expr, $values:ident => $body:expr) => {
        match $voxels {
            $crate::io::nifti::Voxels::U8($values) => $body,
            $crate::io::nifti::Voxels::I8($values) => $body,
            $crate::io::nifti::Voxels::I16($values) => $body,
            $crate::io::nifti::Voxels::U16($values) => $body,
            $crate::io::nifti::Voxels::I32($values) => $body,
            $crate::io::nifti::Voxels::U32($values) => $body,
            $crate::io::nifti::Voxels::I64($values) => $body,
            $crate::io::nifti::Voxels::U64($values) => $body,
            $crate::io::nifti::Voxels::F32($values) => $body,
            $crate::io::nifti::Voxels::F64($values) => $body,
        }
    };
}
pub(super) use with_voxels;

impl Voxels {
    /// Type of the stored values.
    pub fn datatype(&self) -> Datatype {
        fn of<T: Sample>(_: &[T]) -> Datatype {
            T::DATATYPE
        }
        with_voxels!(self, values => of(values))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        with_voxels!(self, values => values.len())
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stored value at `index` in file order, unscaled.
    pub fn get(&self, index: usize) -> Option<f64> {
        with_voxels!(self, values => values.get(index).map(|value| value.to_f64()))
    }
}

/// Reads the bytes of `count` voxels, at most [`CHUNK_BYTES`] at a time, and hands each piece to `take`.
fn for_chunks(
    stream: &mut Stream,
    header: &Header,
    count: usize,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut left = count.saturating_mul(header.datatype.bytes());
    let mut bytes = vec![0_u8; CHUNK_BYTES.min(left)];
    while left > 0 {
        let now = left.min(bytes.len());
        let part = bytes.get_mut(..now).unwrap_or_default();
        let found = stream.read_most(part)?;
        if found < now {
            return Err(Error::malformed(
                &stream.name,
                format!(
                    "truncated: voxels of {} bytes are declared, {} are missing",
                    header.payload_bytes(),
                    header.vox_offset.saturating_add(header.payload_bytes()) - stream.position()
                ),
            ));
        }
        take(part)?;
        left -= now;
    }
    Ok(())
}

/// Reads `count` voxels in the type of the file.
pub(super) fn read_stored(stream: &mut Stream, header: &Header, count: usize) -> Result<Voxels> {
    fn typed<T: Sample>(stream: &mut Stream, header: &Header, count: usize) -> Result<Voxels> {
        let file = stream.name.clone();
        let mut out = Growing::<T>::new(count, stream.has_exact_length());
        for_chunks(stream, header, count, |bytes| {
            out.reserve(bytes.len() / size_of::<T>(), &file)?;
            T::decode(bytes, header.endian, &mut out.values);
            Ok(())
        })?;
        check_some_number(&out.values, &file)?;
        Ok(T::wrap(out.values))
    }
    with_sample!(header.datatype, T => typed::<T>(stream, header, count))
}

/// Reads `count` voxels as `f32` with the file's scaling applied.
pub(super) fn read_f32(stream: &mut Stream, header: &Header, count: usize) -> Result<Vec<f32>> {
    fn typed<T: Sample>(stream: &mut Stream, header: &Header, count: usize) -> Result<Vec<f32>> {
        let file = stream.name.clone();
        let mut out = Growing::<f32>::new(count, stream.has_exact_length());
        let mut scratch: Vec<T> = Vec::new();
        for_chunks(stream, header, count, |bytes| {
            scratch.clear();
            T::decode(bytes, header.endian, &mut scratch);
            out.reserve(scratch.len(), &file)?;
            extend_f32(&scratch, header.scaling, &mut out.values);
            Ok(())
        })?;
        check_some_number(&out.values, &file)?;
        Ok(out.values)
    }
    with_sample!(header.datatype, T => typed::<T>(stream, header, count))
}

/// Reads `count` voxels as label numbers, into the memory of `reused`.
pub(super) fn read_labels(
    stream: &mut Stream,
    header: &Header,
    count: usize,
    reused: Vec<u16>,
) -> Result<Vec<u16>> {
    fn typed<T: Sample>(
        stream: &mut Stream,
        header: &Header,
        count: usize,
        reused: Vec<u16>,
    ) -> Result<Vec<u16>> {
        let file = stream.name.clone();
        let mut out = Growing::<u16>::new(count, stream.has_exact_length()).reusing(reused);
        let mut scratch: Vec<T> = Vec::new();
        for_chunks(stream, header, count, |bytes| {
            scratch.clear();
            T::decode(bytes, header.endian, &mut scratch);
            out.reserve(scratch.len(), &file)?;
            extend_labels(&scratch, header, &mut out.values, &file)
        })?;
        Ok(out.values)
    }
    with_sample!(header.datatype, T => typed::<T>(stream, header, count, reused))
}

/// A vector that grows to a known length without trusting it: at once where the file is as long as
/// it says, by doubling where only the end of a compressed stream will tell.
pub(super) struct Growing<T> {
    pub values: Vec<T>,
    total: usize,
    trusted: bool,
}

impl<T> Growing<T> {
    pub fn new(total: usize, trusted: bool) -> Self {
        Self {
            values: Vec::new(),
            total,
            trusted,
        }
    }

    /// Starts with the memory of `vector`, whose values go.
    pub fn reusing(mut self, mut vector: Vec<T>) -> Self {
        vector.clear();
        self.values = vector;
        self
    }

    /// Makes room for `more` values.
    pub fn reserve(&mut self, more: usize, file: &str) -> Result<()> {
        let (length, capacity) = (self.values.len(), self.values.capacity());
        if capacity - length >= more {
            return Ok(());
        }
        let wanted = if self.trusted {
            self.total
        } else {
            let first = FIRST_BYTES / size_of::<T>().max(1);
            (length * 2).max(first).min(self.total)
        };
        let wanted = wanted.max(length + more);
        self.values
            .try_reserve_exact(wanted - length)
            .map_err(|_| Error::OverLimit {
                what: file.to_owned(),
                needed_bytes: wanted as u64 * size_of::<T>() as u64,
                limit_bytes: super::super::limits::available_memory_bytes().unwrap_or(0),
            })
    }
}

/// Appends `values` as `f32`: directly where the file has no scaling, else through `f64` without
/// fusing. nibabel 5.4.2 `get_fdata(dtype=float32)` gives the same bits; ITK 5.4 gives them too
/// except for 32- and 64-bit integers beyond 2^24 under a scaling, which it rounds to `f32` first.
pub(super) fn extend_f32<T: Sample>(values: &[T], scaling: Option<Scaling>, out: &mut Vec<f32>) {
    match scaling {
        None => out.extend(values.iter().map(|value| value.to_f32())),
        Some(scaling) => out.extend(
            values
                .iter()
                .map(|value| scaling.apply(value.to_f64()) as f32),
        ),
    }
}

/// Appends `values` as label numbers; the first that is none is the error, with its place.
pub(super) fn extend_labels<T: Sample>(
    values: &[T],
    header: &Header,
    out: &mut Vec<u16>,
    file: &str,
) -> Result<()> {
    // A look at all values and then a conversion without one: loops that the compiler makes into vector instructions.
    if header.scaling.is_none() && values.iter().fold(true, |all, v| all & v.is_label()) {
        out.extend(values.iter().map(|value| value.to_label()));
        return Ok(());
    }
    extend_labels_one_by_one(values, header, out, file)
}

/// [`extend_labels`] through `f64`: with a scaling, and to find the voxel that is no label.
fn extend_labels_one_by_one<T: Sample>(
    values: &[T],
    header: &Header,
    out: &mut Vec<u16>,
    file: &str,
) -> Result<()> {
    for &stored in values {
        let mut value = stored.to_f64();
        if let Some(scaling) = header.scaling {
            value = scaling.apply(value);
        }
        let label = value as u16; // saturates, NaN becomes 0: both differ from the value
        if f64::from(label) != value {
            let [_, ny, nx] = header.grid.shape.map(|n| n.max(1));
            let index = out.len();
            let source = LabelError {
                value,
                x: index % nx,
                y: index / nx % ny,
                z: index / nx / ny,
            };
            return Err(Error::NotALabelMap {
                file: file.to_owned(),
                source,
            });
        }
        out.push(label);
    }
    Ok(())
}

/// Refuses an image without a single number: every voxel NaN.
pub(super) fn check_some_number<T: Sample>(values: &[T], file: &str) -> Result<()> {
    // Stops at the first number, so the cost is one look for every sound file.
    if values.is_empty() || values.iter().any(|value| !value.to_f64().is_nan()) {
        return Ok(());
    }
    Err(Error::malformed(file, "every voxel is NaN"))
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, Geometry, Layout};
    use super::*;
    use crate::volume::Grid;

    fn header() -> Header {
        let grid = Grid::with_spacing([2, 2, 2], [1.0; 3]);
        let layout = Layout::new(grid.shape, Datatype::U8, Geometry::from_grid(&grid));
        Header::parse(&layout.encode("a", Compression::LABELS).unwrap(), "a").unwrap()
    }

    /// Both ways to labels give the same, or the same error, for every value alone and for all of them.
    fn check<T: Sample>(values: &[T]) {
        let header = header();
        for part in values.chunks(1).chain([values]) {
            let (mut fast, mut plain) = (vec![7], vec![7]);
            let found = extend_labels(part, &header, &mut fast, "a");
            let expected = extend_labels_one_by_one(part, &header, &mut plain, "a");
            assert_eq!(
                found.map_err(|error| error.to_string()),
                expected.map_err(|error| error.to_string()),
                "{part:?}"
            );
            assert_eq!(fast, plain, "{part:?}");
        }
    }

    #[test]
    fn labels_read_at_once_are_those_read_one_by_one() {
        check(&[0_u8, 1, 127, 128, 255]);
        check(&[0_i8, 1, 127]);
        check(&[5_i8, -1, i8::MIN]);
        check(&[0_u16, 255, 256, u16::MAX]);
        check(&[0_i16, 255, i16::MAX]);
        check(&[3_i16, -1, i16::MIN]);
        check(&[0_i32, 65535]);
        check(&[9_i32, 65536, 131_072, -1, i32::MIN, i32::MAX]);
        check(&[9_u32, 65535, 65536, u32::MAX]);
        check(&[9_i64, 65535, 65536, -65535, i64::MIN, i64::MAX]);
        check(&[9_u64, 65535, 65536, u64::MAX]);
        check(&[0.0_f32, -0.0, 65535.0]);
        check(&[
            1.0_f32,
            0.5,
            65535.5,
            65536.0,
            -1.0,
            f32::NAN,
            f32::INFINITY,
        ]);
        check(&[0.0_f64, -0.0, 65535.0]);
        check(&[
            1.0_f64,
            0.5,
            1.000_000_1,
            65536.0,
            -1e-9,
            f64::NAN,
            f64::NEG_INFINITY,
        ]);
    }
}
