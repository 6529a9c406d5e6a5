//! Writing single files, whole or slice by slice.

use super::super::atomic::{AtomicFile, Overwrite};
use super::super::error::{Error, Result, display_name};
use super::{Datatype, Extension, Format, Geometry, GzipWriter, Layout, Sample};
use crate::volume::{LabelMap, Volume};
use std::io::Write;
use std::path::Path;

/// Largest distance, in millimetres, between a volume's grid and the header geometry it is written with.
const POSITION_TOLERANCE_MM: f64 = 1e-3;

/// How the bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// Gzip with a level from 1 (fast) to 9 (small).
    Gzip(u32),
}

impl Compression {
    /// Level for label maps: on 117 organs in 512 x 512 x 300 voxels, level 2 takes less than
    /// half the time and makes twice the file, level 7 takes twice as long for a sixth less.
    pub const LABELS: Self = Self::Gzip(6);
    /// Level for images: level 1 saves a third of the time and makes a CT a third larger; level 6
    /// takes a third longer for 2 %.
    pub const IMAGES: Self = Self::Gzip(2);

    /// `self` for names ending in `.gz` or `.nrrd`, none for all others and for `-`.
    pub fn for_name(self, path: &Path) -> Self {
        if has_ending(path, ".gz") || has_ending(path, ".nrrd") {
            self
        } else {
            Self::None
        }
    }
}

impl Format {
    /// The format that a name asks for: NRRD for `.nrrd`, MetaImage for `.mha`, else NIfTI.
    pub fn for_name(path: &Path) -> Self {
        if has_ending(path, ".nrrd") {
            Self::Nrrd
        } else if has_ending(path, ".mha") {
            Self::MetaImage
        } else {
            Self::Nifti
        }
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    let tail = name
        .len()
        .checked_sub(ending.len())
        .and_then(|at| name.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(ending.as_bytes()))
}

enum Target<W: Write> {
    Plain(W),
    Gzip(GzipWriter<W>),
}

impl<W: Write> Target<W> {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(inner) => inner.write_all(bytes),
            Self::Gzip(inner) => inner.write_all(bytes),
        }
    }
}

/// Writes the header first and then voxels as they are computed: x fastest, then y, z, channel, in
/// pieces of any length.
///
/// Memory: one piece plus what [`GzipWriter`] holds.
pub struct SliceWriter<W: Write> {
    target: Target<W>,
    datatype: Datatype,
    left: u64,
    scratch: Vec<u8>,
    name: String,
}

impl<W: Write> SliceWriter<W> {
    /// Writes the header of `layout`; `name` is what errors call the output.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a shape without voxels, [`Error::Environment`] from the writer.
    pub fn new(
        mut inner: W,
        name: &str,
        layout: &Layout,
        compression: Compression,
    ) -> Result<Self> {
        let mut head = layout.encode(name, compression)?;
        // A NIfTI header is compressed with the voxels, those of other formats never are.
        if layout.format != Format::Nifti {
            inner
                .write_all(&head)
                .map_err(|source| Error::environment("write", name, source))?;
            head.clear();
        }
        let target = match compression {
            Compression::None => Target::Plain(inner),
            Compression::Gzip(level) => Target::Gzip(GzipWriter::new(inner, level)),
        };
        let mut writer = Self {
            target,
            datatype: layout.datatype,
            left: layout.voxel_count(),
            scratch: Vec::new(),
            name: name.to_owned(),
        };
        writer.send(&head)?;
        Ok(writer)
    }

    /// Appends voxels in the type of the layout.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another type or for more voxels than the layout has,
    /// [`Error::Environment`] from the writer.
    pub fn append<T: Sample>(&mut self, values: &[T]) -> Result<()> {
        if T::DATATYPE != self.datatype {
            return Err(Error::Parameter(format!(
                "{}: got {} voxels for a file of {}",
                self.name,
                T::DATATYPE,
                self.datatype
            )));
        }
        self.left = self
            .left
            .checked_sub(values.len() as u64)
            .ok_or_else(|| Error::Parameter(format!("{}: more voxels than declared", self.name)))?;
        let mut scratch = std::mem::take(&mut self.scratch);
        for piece in values.chunks(64 << 10) {
            scratch.clear();
            T::encode(piece, &mut scratch);
            self.send(&scratch)?;
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Ends the file and gives the inner writer back, unflushed.
    ///
    /// # Errors
    /// [`Error::Parameter`] when voxels are missing, [`Error::Environment`] from the writer.
    pub fn finish(self) -> Result<W> {
        if self.left > 0 {
            return Err(Error::Parameter(format!(
                "{}: {} voxels are missing",
                self.name, self.left
            )));
        }
        match self.target {
            Target::Plain(inner) => Ok(inner),
            Target::Gzip(gzip) => gzip
                .finish()
                .map_err(|source| Error::environment("write", self.name, source)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.target
            .write_all(bytes)
            .map_err(|source| Error::environment("write", self.name.clone(), source))
    }
}

/// Writes a label map to any writer: `uint8` when all labels are below 256, else `uint16`, and
/// `scl_slope` 1. `geometry` (usually the input's) is written bit for bit.
///
/// # Errors
/// [`Error::Geometry`] when the map lies elsewhere than `geometry` says (by more than 1e-3 mm),
/// [`Error::Environment`] from the writer.
pub fn write_label_map<W: Write>(
    inner: W,
    name: &str,
    map: &LabelMap,
    geometry: &Geometry,
    extensions: Vec<Extension>,
    format: Format,
    compression: Compression,
) -> Result<W> {
    let narrow = map.max_label() < 256;
    let datatype = if narrow { Datatype::U8 } else { Datatype::U16 };
    check_geometry(map.grid(), geometry, name)?;
    let layout = Layout {
        extensions,
        format,
        ..Layout::new(map.grid().shape, datatype, geometry.clone())
    };
    let mut writer = SliceWriter::new(inner, name, &layout, compression)?;
    if narrow {
        let mut bytes = Vec::with_capacity(64 << 10);
        for piece in map.volume.as_slice().chunks(64 << 10) {
            bytes.clear();
            bytes.extend(piece.iter().map(|&label| label as u8));
            writer.append(&bytes)?;
        }
    } else {
        writer.append(map.volume.as_slice())?;
    }
    writer.finish()
}

/// Saves a label map under a name, atomically; as NRRD, MetaImage or
/// NIfTI by its ending ([`Format::for_name`]), uncompressed NIfTI to standard output for `-`.
///
/// # Errors
/// Those of [`AtomicFile::create`], [`write_label_map`] and [`AtomicFile::commit`].
pub fn save_label_map(
    path: &Path,
    map: &LabelMap,
    geometry: &Geometry,
    extensions: Vec<Extension>,
    overwrite: Overwrite,
) -> Result<()> {
    let file = AtomicFile::create(path, overwrite)?;
    let name = file.shown_name().to_owned();
    let compression = Compression::LABELS.for_name(path);
    let format = Format::for_name(path);
    write_label_map(file, &name, map, geometry, extensions, format, compression)?.commit()
}

/// Saves an image under a name as [`save_label_map`] does, in the type of its voxels. Several
/// volumes of one grid make a 4-D file.
///
/// # Errors
/// As [`save_label_map`]; [`Error::Parameter`] for volumes of different shapes or none.
pub fn save_volume<T: Sample>(
    path: &Path,
    channels: &[&Volume<T>],
    geometry: &Geometry,
    extensions: Vec<Extension>,
    overwrite: Overwrite,
) -> Result<()> {
    let shown = display_name(path);
    let first = channels
        .first()
        .ok_or_else(|| Error::Parameter(format!("{shown}: no volume to write")))?;
    for volume in channels {
        check_geometry(volume.grid(), geometry, &shown)?;
        if volume.shape() != first.shape() {
            return Err(Error::Parameter(format!(
                "{shown}: volumes of shapes {:?} and {:?} cannot share a file",
                first.shape(),
                volume.shape()
            )));
        }
    }
    let layout = Layout {
        channels: channels.len(),
        extensions,
        format: Format::for_name(path),
        ..Layout::new(first.shape(), T::DATATYPE, geometry.clone())
    };
    let file = AtomicFile::create(path, overwrite)?;
    let name = file.shown_name().to_owned();
    let compression = Compression::IMAGES.for_name(path);
    let mut writer = SliceWriter::new(file, &name, &layout, compression)?;
    for volume in channels {
        writer.append(volume.as_slice())?;
    }
    writer.finish()?.commit()
}

fn check_geometry(grid: &crate::volume::Grid, geometry: &Geometry, file: &str) -> Result<()> {
    let described = geometry.grid(grid.shape, file)?;
    grid.check_matches(&described, POSITION_TOLERANCE_MM)
        .map_err(|source| Error::Geometry {
            file: file.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Limits;
    use crate::io::nifti::{Reader, Version, Voxels};
    use crate::volume::{Grid, LabelTable};
    use ndarray::Array3;

    fn map(top: u16) -> LabelMap {
        let grid = Grid::with_spacing([3, 4, 5], [2.5, 0.7, 0.8]);
        let data = Array3::from_shape_fn([3, 4, 5], |(z, y, x)| {
            ((z * 20 + y * 5 + x) as u16) % (top + 1)
        });
        LabelMap::new(data, grid, LabelTable::default()).unwrap()
    }

    fn encoded(map: &LabelMap, extensions: Vec<Extension>, compression: Compression) -> Vec<u8> {
        let geometry = Geometry::from_grid(map.grid());
        write_label_map(
            Vec::new(),
            "x",
            map,
            &geometry,
            extensions,
            Format::Nifti,
            compression,
        )
        .unwrap()
    }

    fn reader(bytes: Vec<u8>) -> Reader {
        Reader::from_reader(std::io::Cursor::new(bytes), "x", &Limits::UNLIMITED).unwrap()
    }

    #[test]
    fn a_label_map_comes_back_in_the_narrowest_type() {
        for (top, datatype) in [(7, Datatype::U8), (59, Datatype::U8)] {
            let bytes = encoded(&map(top), Vec::new(), Compression::LABELS);
            let reader = reader(bytes);
            assert_eq!(reader.header().datatype, datatype);
            assert_eq!(reader.header().scaling, None);
            let (back, header) = reader.into_label_map(LabelTable::default()).unwrap();
            assert_eq!(back.volume.as_slice(), map(top).volume.as_slice());
            assert!(header.warnings.is_empty(), "{:?}", header.warnings);
        }
        let mut wide = map(3);
        wide.volume.as_slice_mut()[0] = 300;
        let reader = reader(encoded(&wide, Vec::new(), Compression::None));
        assert_eq!(reader.header().datatype, Datatype::U16);
    }

    #[test]
    fn geometry_and_extensions_survive_bit_for_bit() {
        let extensions = vec![
            Extension::from_text(6, "a comment"),
            Extension {
                code: 0,
                data: vec![1, 0, 2, 0, 0, 0, 0, 0],
            },
        ];
        let original = map(3);
        let first = reader(encoded(&original, extensions.clone(), Compression::None));
        assert_eq!(first.extensions(), extensions);
        let mut geometry = first.header().geometry.clone();
        geometry.quatern = [0.1_f32, 0.2, -0.3].map(f64::from);
        geometry.pixdim[0] = -1.0;
        geometry.xyzt_units = 10;
        for version in [Version::One, Version::Two] {
            geometry.version = version;
            let bytes = write_label_map(
                Vec::new(),
                "x",
                &original,
                &geometry,
                extensions.clone(),
                Format::Nifti,
                Compression::LABELS,
            )
            .unwrap();
            let second = reader(bytes);
            assert_eq!(second.header().geometry, geometry);
            assert_eq!(second.extensions(), extensions);
        }
    }

    #[test]
    fn every_type_comes_back() {
        fn check<T: Sample>(values: Vec<T>) {
            let grid = Grid::with_spacing([1, 1, values.len()], [1.0; 3]);
            let layout = Layout::new(grid.shape, T::DATATYPE, Geometry::from_grid(&grid));
            let mut writer = SliceWriter::new(Vec::new(), "x", &layout, Compression::None).unwrap();
            writer.append(&values).unwrap();
            let image = reader(writer.finish().unwrap()).into_image().unwrap();
            assert_eq!(image.voxels, T::wrap(values));
        }
        check::<u8>(vec![0, 255]);
        check::<i8>(vec![-128, 127]);
        check::<i16>(vec![i16::MIN, i16::MAX]);
        check::<u16>(vec![0, u16::MAX]);
        check::<i32>(vec![i32::MIN, i32::MAX]);
        check::<u32>(vec![0, u32::MAX]);
        check::<i64>(vec![i64::MIN, i64::MAX]);
        check::<u64>(vec![0, u64::MAX]);
        check::<f32>(vec![-1.5, f32::MAX]);
        check::<f64>(vec![-1.5e300, 0.1]);
    }

    #[test]
    fn slices_may_come_in_any_pieces_but_must_be_complete() {
        let grid = Grid::with_spacing([2, 2, 3], [1.0; 3]);
        let layout = Layout::new(grid.shape, Datatype::I16, Geometry::from_grid(&grid));
        let start = || SliceWriter::new(Vec::new(), "x", &layout, Compression::IMAGES).unwrap();
        let mut writer = start();
        writer.append::<i16>(&[1, 2, 3, 4]).unwrap();
        writer.append::<i16>(&[5, 6, 7, 8, 9, 10, 11, 12]).unwrap();
        let image = reader(writer.finish().unwrap()).into_image().unwrap();
        assert_eq!(image.voxels, Voxels::I16((1..=12).collect()));
        assert!(start().finish().is_err());
        assert!(start().append::<i16>(&[0; 13]).is_err());
        assert!(start().append::<u8>(&[0; 12]).is_err());
    }

    #[test]
    fn a_map_that_lies_elsewhere_is_refused() {
        let mut geometry = Geometry::from_grid(map(1).grid());
        geometry.srow[0][3] += 5.0;
        let outcome = write_label_map(
            Vec::new(),
            "x",
            &map(1),
            &geometry,
            Vec::new(),
            Format::Nifti,
            Compression::None,
        );
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("5.0000 mm"), "{message}");
    }
}
