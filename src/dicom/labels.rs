//! Label maps as DICOM objects of a series.

use super::reference::Reference;
use super::segments::segments;
use super::{segmentation, structures};
use crate::io::{Overwrite, Result, atomic, display_name};
use crate::volume::{LabelMap, LabelTable};
use std::path::Path;

/// What a label map becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelObject {
    /// Segmentation (SEG): a binary frame for every label and slice it occurs in.
    Segmentation,
    /// Structure set (RTSTRUCT): closed contours for every label and slice it occurs in.
    StructureSet,
}

/// Saves a label map as an object of the series `reference`, atomically; `table` names the labels. Axes of the map may be
/// turned against the series; its voxels must be those of the series.
///
/// # Errors
/// [`crate::io::Error::Parameter`] for a map on another grid or frames beyond 4 GiB, those of [`atomic::write`].
///
/// Cost: a pass over the map for every label; memory is twice the frames' bits, or in proportion to the contours.
pub fn save_labels(
    path: &Path,
    object: LabelObject,
    map: &LabelMap,
    table: &LabelTable,
    reference: &Reference,
    overwrite: Overwrite,
) -> Result<()> {
    let turned = reference.turned(map)?;
    let segments = segments(&turned, table);
    let encode = match object {
        LabelObject::Segmentation => segmentation::encode,
        LabelObject::StructureSet => structures::encode,
    };
    let bytes = encode(&turned, &segments, reference, &display_name(path))?;
    atomic::write(path, overwrite, &bytes)
}
