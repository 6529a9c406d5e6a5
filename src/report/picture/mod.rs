//! Pictures of slices: grey values through a window, masks as colours and outlines.
//!
//! Volumes are shown the way radiologists look at them: axial slices with the patient's right on the
//! left and anterior on top, coronal ones with superior on top, sagittal ones with anterior on the left.
//! Pixels are square in millimetres. [`overlay`] draws a prediction against its reference, [`preview`]
//! an image with a label map, [`bodies`] closed surfaces from four sides.

pub mod bodies;
mod canvas;
mod legend;
pub mod overlay;
pub mod preview;
mod slice;
mod window;

pub use window::Window;

/// A picture as bytes of a PNG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Png(pub Vec<u8>);

/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// An image and a mask, or two masks, that are not on one grid.
    #[error("{what} is not on the grid of the others: {reason}")]
    Grid {
        /// Which of them.
        what: &'static str,
        /// What differs.
        reason: String,
    },
    /// A volume without an orientation.
    #[error(transparent)]
    Orientation(#[from] crate::geometry::orientation::OrientationError),
    /// A slice outside the volume.
    #[error("slice {index} of a volume with {slices} slices; the results are of other files")]
    Slice {
        /// What was asked for.
        index: usize,
        /// What there is.
        slices: usize,
    },
}
