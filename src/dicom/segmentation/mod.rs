//! DICOM segmentations (PS3.3 A.51): label maps in the words of a hospital's archive.
//!
//! **Written**: one binary frame for every label in every slice in which it occurs; slices without a
//! label have no frame. Names, colours and SNOMED codes come from the label table, patient and study
//! from the series, identifiers from the content: the same result is the same file. A map of
//! background only is one frame without a voxel, with the labels that were looked for as segments.
//!
//! **Read**: frames are placed by their positions, never by their order. Files of medseg carry the
//! extent of their series and the label numbers in private elements; those of others reach from the
//! first to the last frame, and labels are segment numbers. Segments that share a voxel make no label
//! map and are refused, as are fractional ones.

mod bits;
mod read;
mod write;

pub(super) use read::open;
pub(super) use write::encode;

/// Private element of the data set: centre of the first voxel of the series, LPS+ mm, FD.
const FIRST_POSITION: u8 = 1;
/// Private element of the data set: slices of the series, UL.
const SLICES: u8 = 2;
/// Private element of a segment: its number in the label map, US.
const LABEL: u8 = 3;
