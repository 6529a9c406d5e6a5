//! NIfTI-1 and NIfTI-2, read and written.
//!
//! **Reading** takes `.nii`, `.nii.gz` and `.hdr` + `.img` (each with or without gzip), decided by
//! content: both header versions, both byte orders, all integer types, `float32` and `float64`.
//! RGB, complex, 1-bit and 128-bit voxels are refused by name. What the header declares is compared
//! with the bytes of the file and with the memory limit before anything is allocated; compressed
//! data grows as it arrives and is read to the end of the stream, so that a wrong checksum, a cut
//! or trailing garbage is an error and not a picture.
//!
//! **Values.** `scl_slope` and `scl_inter` are applied as nibabel 5.4.2 does: not at all when the
//! slope is 0, NaN or infinite, else in `f64` and rounded once to `f32`. The affine is nibabel's
//! too (sform before qform); the spacing is `pixdim`, which is what ITK gives to nnU-Net. See
//! [`Geometry`] for how both survive into outputs bit for bit.
//!
//! **Shapes.** Volumes are `[z, y, x]`. A 2-D image is one slice. Axes beyond the third are channels:
//! one of them may exceed 1.
//!
//! **Writing** makes little-endian single files. Gzip is one member of independently compressed
//! 1 MiB blocks, so that it is made in parallel and still has the same bytes for any number of threads.
//!
//! ```
//! use medseg::io::Limits;
//! use medseg::io::nifti::{Compression, Datatype, Geometry, Layout, Reader, SliceWriter};
//! use medseg::volume::Grid;
//!
//! // Two slices of 3 x 2 voxels, written one after the other, x fastest.
//! let grid = Grid::with_spacing([2, 2, 3], [5.0, 0.7, 0.7]);
//! let layout = Layout::new(grid.shape, Datatype::I16, Geometry::from_grid(&grid));
//! let mut writer = SliceWriter::new(Vec::new(), "example", &layout, Compression::IMAGES)?;
//! writer.append(&[0_i16, 1, 2, 3, 4, 5])?;
//! writer.append(&[6_i16, 7, 8, 9, 10, 11])?;
//! let bytes = writer.finish()?;
//!
//! let reader = Reader::from_reader(std::io::Cursor::new(bytes), "example", &Limits::detect())?;
//! let (volumes, header) = reader.into_f32()?;
//! assert_eq!(volumes[0].data()[[1, 0, 2]], 8.0);
//! // pixdim is stored as f32, and nnU-Net works with what is stored.
//! assert_eq!(header.grid.spacing_mm, [5.0, f64::from(0.7_f32), f64::from(0.7_f32)]);
//! # Ok::<(), medseg::io::Error>(())
//! ```

mod datatype;
mod extension;
mod geometry;
mod gzip;
mod header;
mod layout;
mod raw;
mod read;
mod voxels;
mod write;

pub use datatype::{Datatype, Sample};
pub use extension::Extension;
pub use geometry::Geometry;
pub use gzip::GzipWriter;
pub use header::{Endian, Format, Header, Scaling, Version};
pub use layout::Layout;
pub use read::{NiftiImage, Reader, read, read_f32, read_header, read_label_map};
pub use voxels::Voxels;
pub use write::{Compression, SliceWriter, save_label_map, save_volume, write_label_map};
