//! Files in and out: NIfTI, NRRD, MetaImage, pictures, atomic writing, memory limits, label tables, batches, lists.
//!
//! Four rules hold for everything in here:
//!
//! 1. Content decides, not the extension; what a header claims is checked against the bytes that are
//!    there and against the memory limit before anything is allocated.
//! 2. An output appears under its name only when it is whole ([`atomic`]), and never silently
//!    replaces a file.
//! 3. Same voxels, same bytes: no clock, no host name, no dependence on the number of threads.
//! 4. Errors say which file, what was found and what was expected, in one line, grouped by who has
//!    to act ([`Error`]).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod atomic;
pub mod batch;
mod declared;
mod delimited;
mod error;
pub mod labels;
pub mod limits;
mod metaimage;
pub mod nifti;
mod nrrd;
mod output;
pub mod pair_list;
pub mod picture;
mod stream;

pub use atomic::Overwrite;
pub(crate) use declared::{Declared, flip_xy};
pub use error::{Error, Result, display_name};
pub use limits::Limits;
pub(crate) use stream::starts_as_dicom;
