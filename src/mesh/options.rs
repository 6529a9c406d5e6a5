//! What the caller may choose.

/// How surfaces are made. The defaults lose nothing: every voxel of every label has its part in a surface.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Labels to make surfaces of; `None` for all. The others still take part in the net, so a label's surface does not depend
    /// on which others were asked for.
    pub labels: Option<Vec<u16>>,
    /// Edits of the label map before anything else.
    pub cleaning: Cleaning,
    /// Number of smoothing steps.
    pub iterations: Iterations,
    /// How far a vertex may move from its corner along each voxel axis, in voxels: 0 keeps the voxel faces, 0.5 (the default)
    /// reaches every plane between two voxel centres.
    pub box_voxels: f32,
    /// What is done about the volume that smoothing takes away.
    pub volume: VolumeRule,
    /// Fewer triangles; `None` keeps all.
    pub simplification: Option<Simplification>,
    /// Frame of the positions.
    pub frame: Frame,
    /// Whether surfaces get a normal per vertex.
    pub normals: bool,
    /// Most memory to use, in bytes, the map included: more is refused as soon as the number of vertices is known.
    pub limit_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            labels: None,
            cleaning: Cleaning::default(),
            iterations: Iterations::Auto,
            box_voxels: 0.5,
            volume: VolumeRule::PerRegion,
            simplification: None,
            frame: Frame::Ras,
            normals: false,
            limit_bytes: u64::MAX,
        }
    }
}

/// Edits of the label map, made for the chosen labels only, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cleaning {
    /// Of every label only the piece with most voxels stays (pieces touch at faces, edges or corners).
    pub largest_only: bool,
    /// Pieces of less than this volume become background, in mm³; 0 keeps all.
    pub least_island_mm3: f64,
    /// Background that a label encloses becomes that label.
    pub fill_holes: bool,
    /// Background is filled, a voxel or two at a time, where pieces of a label touch along an edge or at a corner only: what was one
    /// piece by 26 neighbours becomes one surface. Other labels are never overwritten.
    pub bridge: bool,
}

impl Cleaning {
    /// Whether the label map stays as it is.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Number of smoothing steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iterations {
    /// `40 * sqrt(thickest / thinnest spacing)`, at most 120: thick slices have longer stairs.
    Auto,
    /// As many as said; 0 gives the voxel faces.
    Fixed(usize),
}

impl Iterations {
    /// The number for voxels of `spacing_mm`.
    pub fn count(self, spacing_mm: [f64; 3]) -> usize {
        match self {
            Self::Fixed(count) => count,
            Self::Auto => {
                let thickest = spacing_mm.into_iter().fold(0.0, f64::max);
                let thinnest = spacing_mm.into_iter().fold(f64::INFINITY, f64::min);
                let count = 40.0 * (thickest / thinnest).sqrt();
                // Comparison with a NaN is false, so a broken spacing gives the plain number.
                if count > 120.0 {
                    120
                } else {
                    (count.round() as usize).max(40)
                }
            }
        }
    }
}

/// What is done about the volume that smoothing takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeRule {
    /// Every connected piece gets back the volume of its voxels.
    PerRegion,
    /// Nothing.
    Off,
}

/// How far triangles are merged. Borders with other labels stay as they are and so limit what can be saved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Simplification {
    /// As long as the surface moves by no more than about this distance.
    Tolerance {
        /// The distance in millimetres.
        mm: f64,
    },
    /// Until this part of the triangles is left, between 0 and 1.
    Ratio(f64),
}

/// The axes of the millimetre positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Right, anterior, superior: NIfTI, and this program everywhere.
    Ras,
    /// Left, posterior, superior: DICOM and ITK.
    Lps,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thick_slices_get_more_steps() {
        assert_eq!(Iterations::Auto.count([1.0; 3]), 40);
        assert_eq!(Iterations::Auto.count([3.0, 0.75, 0.75]), 80);
        assert_eq!(Iterations::Auto.count([50.0, 0.5, 0.5]), 120);
        assert_eq!(Iterations::Fixed(3).count([50.0, 0.5, 0.5]), 3);
    }
}
