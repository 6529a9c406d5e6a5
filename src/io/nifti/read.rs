//! Opening a file, and the ways to take its voxels.

use super::super::error::{Error, Result, display_name};
use super::super::limits::Limits;
use super::super::stream::Stream;
use super::super::{metaimage, nrrd, picture};
use super::datatype::Sample;
use super::extension::read_extensions;
use super::header::NIFTI1_BYTES;
use super::voxels::{self, with_voxels};
use super::{Extension, Geometry, Header, Voxels};
use crate::volume::{Grid, LabelMap, LabelTable, Volume};
use ndarray::Array3;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file whose header has been read and checked, and whose voxels come next.
///
/// Taking the voxels in the type that is needed ([`Reader::into_f32`], [`Reader::into_label_map`])
/// converts them as they are read: the peak is the target plus less than 1 MiB.
pub struct Reader {
    header: Header,
    extensions: Vec<Extension>,
    stream: Stream,
    limits: Limits,
}

/// A NIfTI file in memory, voxels in the type of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct NiftiImage {
    /// What the header says.
    pub header: Header,
    /// Header extensions, byte for byte.
    pub extensions: Vec<Extension>,
    /// Stored values of all volumes.
    pub voxels: Voxels,
    /// Name of the file as shown to people.
    pub name: String,
}

/// Reads a whole file in the type of its voxels; `-` is standard input. Cost: the stored voxels once.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`], [`Error::OverLimit`] or [`Error::Environment`], naming the file.
pub fn read(path: &Path, limits: &Limits) -> Result<NiftiImage> {
    Reader::open(path, limits)?.into_image()
}

/// Reads the header and the extensions only: instant for files of any size. The voxels are neither
/// read nor verified, only that a file of known length can hold them.
///
/// # Errors
/// As [`read`].
pub fn read_header(path: &Path) -> Result<(Header, Vec<Extension>)> {
    let reader = Reader::open(path, &Limits::UNLIMITED)?;
    Ok((reader.header, reader.extensions))
}

/// Reads an image as `f32`, one volume per channel, with its geometry for outputs.
///
/// # Errors
/// As [`read`].
pub fn read_f32(path: &Path, limits: &Limits) -> Result<(Vec<Volume<f32>>, Header)> {
    Reader::open(path, limits)?.into_f32()
}

/// Reads a label map with the geometry for outputs. Whole numbers from 0 to 65535 in any type are labels.
///
/// # Errors
/// As [`read`], [`Error::NotALabelMap`] for any other value, [`Error::Unsupported`] for several volumes.
pub fn read_label_map(
    path: &Path,
    table: LabelTable,
    limits: &Limits,
) -> Result<(LabelMap, Header)> {
    Reader::open(path, limits)?.into_label_map(table)
}

impl Reader {
    /// Opens a file and reads its header; `-` is standard input. For a pair, either file may be named.
    ///
    /// # Errors
    /// As [`read`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        if path == Path::new("-") {
            return Self::from_reader(std::io::stdin(), "standard input", limits);
        }
        let header_file = header_file(path);
        let mut stream = Stream::open(&header_file)?;
        if nrrd::is_nrrd(stream.peek()?) {
            return nrrd::open(stream, Some(&header_file), limits);
        }
        if metaimage::is_metaimage(stream.peek()?) {
            return metaimage::open(stream, Some(&header_file), limits);
        }
        if let Some(kind) = picture::Kind::of(stream.peek()?) {
            return picture::open(kind, stream, Some(path), limits);
        }
        let (header, extensions, stream) = read_start(stream)?;
        if !header.separate_voxels {
            return Self::new(header, extensions, stream, limits);
        }
        stream.finish()?;
        let voxel_file = voxel_file(&header_file).ok_or_else(|| {
            Error::malformed(
                &display_name(path),
                "the header says that the voxels are in a separate .img file, which is not there",
            )
        })?;
        Self::new(header, extensions, Stream::open(&voxel_file)?, limits)
    }

    /// Reads from any source, plain or gzipped; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`read`]; [`Error::Unsupported`] for a header whose voxels are in another file.
    pub fn from_reader(
        source: impl Read + Send + 'static,
        name: &str,
        limits: &Limits,
    ) -> Result<Self> {
        let mut stream = Stream::new(Box::new(source), name.to_owned(), None)?;
        if nrrd::is_nrrd(stream.peek()?) {
            return nrrd::open(stream, None, limits);
        }
        if metaimage::is_metaimage(stream.peek()?) {
            return metaimage::open(stream, None, limits);
        }
        if let Some(kind) = picture::Kind::of(stream.peek()?) {
            return picture::open(kind, stream, None, limits);
        }
        let (header, extensions, stream) = read_start(stream)?;
        if header.separate_voxels {
            return Err(Error::unsupported(
                name,
                "is the header of a .hdr/.img pair, expected a single file",
            ));
        }
        Self::new(header, extensions, stream, limits)
    }

    /// A header from any format, and the stream whose byte `header.vox_offset` is the first voxel.
    pub(in crate::io) fn new(
        header: Header,
        extensions: Vec<Extension>,
        stream: Stream,
        limits: &Limits,
    ) -> Result<Self> {
        let end = header.vox_offset.saturating_add(header.payload_bytes());
        stream.check_length(end, "what the header declares")?;
        Ok(Self {
            header,
            extensions,
            stream,
            limits: *limits,
        })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Header extensions, byte for byte.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// Name of the file as shown to people.
    pub fn name(&self) -> &str {
        &self.stream.name
    }

    /// Reads the voxels in the type of the file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn into_image(mut self) -> Result<NiftiImage> {
        let count = self.plan(self.header.payload_bytes())?;
        let voxels = voxels::read_stored(&mut self.stream, &self.header, count)?;
        let name = self.stream.name.clone();
        let (header, extensions) = self.finish()?;
        Ok(NiftiImage {
            header,
            extensions,
            voxels,
            name,
        })
    }

    /// Reads the voxels as `f32` with the file's scaling, one volume per channel.
    ///
    /// # Errors
    /// As [`read`]; [`Error::Malformed`] when every voxel of a volume is NaN.
    pub fn into_f32(mut self) -> Result<(Vec<Volume<f32>>, Header)> {
        // A file of very many tiny volumes costs more for the volumes than for the voxels.
        let voxels = self.header.voxel_count().saturating_mul(4);
        let volumes = self
            .header
            .channels()
            .saturating_mul(size_of::<Volume<f32>>());
        self.plan(voxels.saturating_add(volumes as u64))?;
        let grid = self.header.grid;
        let mut volumes = Vec::with_capacity(self.header.channels().min(1024));
        for _ in 0..self.header.channels() {
            let values = voxels::read_f32(&mut self.stream, &self.header, grid.voxel_count())?;
            volumes.push(volume(values, grid, &self.stream.name)?);
        }
        let (header, _) = self.finish()?;
        Ok((volumes, header))
    }

    /// Reads the voxels as label numbers.
    ///
    /// # Errors
    /// As [`read_label_map`].
    pub fn into_label_map(self, table: LabelTable) -> Result<(LabelMap, Header)> {
        self.into_label_map_reusing(table, Vec::new())
    }

    /// [`Reader::into_label_map`] into the memory of `reused`, whose values go: saves the kernel's work
    /// for fresh pages where many files are read one after the other.
    ///
    /// # Errors
    /// As [`read_label_map`].
    pub fn into_label_map_reusing(
        mut self,
        table: LabelTable,
        reused: Vec<u16>,
    ) -> Result<(LabelMap, Header)> {
        check_one_volume(&self.header, &self.stream.name)?;
        let count = self.plan(self.header.voxel_count().saturating_mul(2))?;
        let labels = voxels::read_labels(&mut self.stream, &self.header, count, reused)?;
        let volume = volume(labels, self.header.grid, &self.stream.name)?;
        let (header, _) = self.finish()?;
        Ok((LabelMap { volume, table }, header))
    }

    /// Checks that `target_bytes` may be used, goes to the first voxel and returns how many there are.
    fn plan(&mut self, target_bytes: u64) -> Result<usize> {
        self.limits.check(&self.stream.name, target_bytes)?;
        self.stream.skip_to(self.header.vox_offset)?;
        usize::try_from(self.header.voxel_count()).map_err(|_| Error::OverLimit {
            what: self.stream.name.clone(),
            needed_bytes: target_bytes,
            limit_bytes: usize::MAX as u64,
        })
    }

    fn finish(self) -> Result<(Header, Vec<Extension>)> {
        let mut header = self.header;
        let excess = self.stream.finish()?;
        if excess > 0 {
            header
                .warnings
                .push(format!("{excess} bytes after the voxels were ignored"));
        }
        Ok((header, self.extensions))
    }
}

impl NiftiImage {
    /// Where the voxels are.
    pub fn grid(&self) -> &Grid {
        &self.header.grid
    }

    /// The position fields to copy into outputs.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// One volume per channel as `f32` with the file's scaling.
    ///
    /// # Errors
    /// [`Error::Malformed`] when every voxel is NaN.
    pub fn to_f32(&self) -> Result<Vec<Volume<f32>>> {
        fn typed<T: Sample>(image: &NiftiImage, values: &[T]) -> Result<Vec<Volume<f32>>> {
            let grid = image.header.grid;
            values
                .chunks_exact(grid.voxel_count().max(1))
                .map(|channel| {
                    let mut out = Vec::with_capacity(channel.len());
                    voxels::extend_f32(channel, image.header.scaling, &mut out);
                    voxels::check_some_number(&out, &image.name)?;
                    volume(out, grid, &image.name)
                })
                .collect()
        }
        with_voxels!(&self.voxels, values => typed(self, values))
    }

    /// The voxels as label numbers.
    ///
    /// # Errors
    /// [`Error::NotALabelMap`] and [`Error::Unsupported`] as [`read_label_map`].
    pub fn to_label_map(&self, table: LabelTable) -> Result<LabelMap> {
        check_one_volume(&self.header, &self.name)?;
        let mut out = Vec::with_capacity(self.voxels.len());
        with_voxels!(&self.voxels, values =>
            voxels::extend_labels(values, &self.header, &mut out, &self.name))?;
        Ok(LabelMap {
            volume: volume(out, self.header.grid, &self.name)?,
            table,
        })
    }
}

fn check_one_volume(header: &Header, file: &str) -> Result<()> {
    match header.channels() {
        1 => Ok(()),
        channels => Err(Error::unsupported(
            file,
            format!("holds {channels} volumes, expected one label map"),
        )),
    }
}

/// Joins voxels in file order with their grid.
fn volume<T: Clone>(values: Vec<T>, grid: Grid, file: &str) -> Result<Volume<T>> {
    Array3::from_shape_vec(grid.shape, values)
        .ok()
        .and_then(|array| Volume::new(array, grid).ok())
        .ok_or_else(|| Error::malformed(file, "the voxels do not fill the grid"))
}

/// Reads header and extensions from the start of a stream.
fn read_start(mut stream: Stream) -> Result<(Header, Vec<Extension>, Stream)> {
    let mut bytes = vec![0; NIFTI1_BYTES];
    stream.read_exact(&mut bytes, "the header")?;
    let length = Header::length(&bytes, &stream.name)?;
    if length > NIFTI1_BYTES {
        bytes.resize(length, 0);
        let rest = bytes.get_mut(NIFTI1_BYTES..).unwrap_or_default();
        stream.read_exact(rest, "the NIfTI-2 header")?;
    }
    let header = Header::parse(&bytes, &stream.name)?;
    let end = (!header.separate_voxels).then_some(header.vox_offset);
    if let Some(end) = end {
        // Before the extensions, so that an offset beyond the file is called that.
        let all = end.saturating_add(header.payload_bytes());
        stream.check_length(all, "what the header declares")?;
    }
    let extensions = read_extensions(&mut stream, end, header.endian)?;
    Ok((header, extensions, stream))
}

/// The header that belongs to a file: for an `.img` the `.hdr` beside it, else the file itself.
fn header_file(path: &Path) -> PathBuf {
    sibling(path, ".img", ".hdr").unwrap_or_else(|| path.to_owned())
}

/// The voxels that belong to the `.hdr` of a pair.
fn voxel_file(path: &Path) -> Option<PathBuf> {
    sibling(path, ".hdr", ".img")
}

/// The existing file beside `path` with the ending `from` (or `from.gz`) replaced by `to`, plain or gzipped.
fn sibling(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let name = path.file_name()?.as_bytes();
    let ends_with = |ending: &str| {
        let split = name.len().checked_sub(ending.len())?;
        let (stem, tail) = name.split_at_checked(split)?;
        tail.eq_ignore_ascii_case(ending.as_bytes()).then_some(stem)
    };
    let zipped_from = format!("{from}.gz");
    let (stem, zipped) = match (ends_with(&zipped_from), ends_with(from)) {
        (Some(stem), _) => (stem, true),
        (None, Some(stem)) => (stem, false),
        (None, None) => return None,
    };
    let upper = to.to_ascii_uppercase();
    let plain = [to.to_owned(), upper.clone()];
    let gzip = [format!("{to}.gz"), format!("{upper}.GZ")];
    // The same kind first: a.hdr.gz goes with a.img.gz where both a.img and a.img.gz exist.
    let order: Vec<String> = if zipped {
        gzip.into_iter().chain(plain).collect()
    } else {
        plain.into_iter().chain(gzip).collect()
    };
    order.into_iter().find_map(|ending| {
        let mut bytes = stem.to_vec();
        bytes.extend(ending.as_bytes());
        let candidate = path.with_file_name(OsString::from_vec(bytes));
        candidate.is_file().then_some(candidate)
    })
}
