//! Where the voxels of a volume are.

use super::Affine;

/// Shape, spacing and voxel-to-world transform of a volume.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Number of voxels along `[z, y, x]`.
    pub shape: [usize; 3],
    /// Voxel step in millimetres along `[z, y, x]`, positive. This is what the file declares
    /// (NIfTI `pixdim`), which may differ from the affine's column lengths in the last digits;
    /// nnU-Net resamples by the declared value.
    pub spacing_mm: [f64; 3],
    /// Voxel `(i, j, k) = (x, y, z)` to RAS+ millimetres.
    pub affine: Affine,
}

/// Two grids that should be the same are not; the message names the first difference.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GridMismatch {
    /// Different numbers of voxels.
    #[error("shape {found:?} differs from {expected:?} (z, y, x)")]
    Shape {
        /// Shape of the checked grid.
        found: [usize; 3],
        /// Shape of the reference grid.
        expected: [usize; 3],
    },
    /// The same voxel lies at different places.
    #[error("voxel positions differ by up to {distance_mm:.4} mm (tolerance {tolerance_mm} mm)")]
    Position {
        /// Largest distance between corresponding corner voxels.
        distance_mm: f64,
        /// What would have been accepted.
        tolerance_mm: f64,
    },
}

impl Grid {
    /// An axis-aligned RAS+ grid at the origin with `spacing_mm` given in `[z, y, x]` order.
    pub fn with_spacing(shape: [usize; 3], spacing_mm: [f64; 3]) -> Self {
        let [z, y, x] = spacing_mm;
        Self {
            shape,
            spacing_mm,
            affine: Affine::from_spacing([x, y, z], [0.0; 3]),
        }
    }

    /// Number of voxels.
    pub fn voxel_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Volume of one voxel in mm³, from the spacing.
    pub fn voxel_volume_mm3(&self) -> f64 {
        self.spacing_mm.iter().product()
    }

    /// Whether the boxes around both grids in the patient, with edges along the world's axes, share a point.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (own, others) = (self.world_bounds_mm(), other.world_bounds_mm());
        own.iter()
            .zip(others)
            .all(|(a, b)| a[0] <= b[1] && b[0] <= a[1])
    }

    /// Lowest and highest coordinate of any voxel's centre along each RAS+ axis, in millimetres.
    fn world_bounds_mm(&self) -> [[f64; 2]; 3] {
        let [z, y, x] = self.shape.map(|n| n.saturating_sub(1) as f64);
        let mut bounds = [[f64::INFINITY, f64::NEG_INFINITY]; 3];
        for corner in 0..8 {
            let pick = |bit: usize, last: f64| if corner >> bit & 1 == 1 { last } else { 0.0 };
            let at = self.affine.apply([pick(0, x), pick(1, y), pick(2, z)]);
            for (range, at) in bounds.iter_mut().zip(at) {
                *range = [range[0].min(at), range[1].max(at)];
            }
        }
        bounds
    }

    /// Checks that `self` covers the same voxels as `reference`: equal shape, and no corner voxel
    /// further than `tolerance_mm` from its counterpart.
    ///
    /// # Errors
    /// [`GridMismatch`] with the first difference found.
    pub fn check_matches(&self, reference: &Self, tolerance_mm: f64) -> Result<(), GridMismatch> {
        if self.shape != reference.shape {
            return Err(GridMismatch::Shape {
                found: self.shape,
                expected: reference.shape,
            });
        }
        let last = self.shape.map(|n| n.saturating_sub(1) as f64);
        let mut distance_mm = 0.0_f64;
        for corner in 0..8 {
            let pick = |bit: usize, axis: usize| {
                if corner >> bit & 1 == 1 {
                    last[axis]
                } else {
                    0.0
                }
            };
            let ijk = [pick(0, 2), pick(1, 1), pick(2, 0)];
            let here = self.affine.apply(ijk);
            let there = reference.affine.apply(ijk);
            let squared: f64 = here.iter().zip(there).map(|(a, b)| (a - b) * (a - b)).sum();
            distance_mm = distance_mm.max(squared.sqrt());
        }
        // `f64::max` drops NaN, so a broken affine must be looked for.
        let finite = self.affine.is_finite() && reference.affine.is_finite();
        if finite && distance_mm <= tolerance_mm {
            Ok(())
        } else {
            Err(GridMismatch::Position {
                distance_mm,
                tolerance_mm,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_beyond_the_tolerance_is_named() {
        let reference = Grid::with_spacing([4, 5, 6], [3.0, 1.0, 1.0]);
        let mut moved = reference;
        moved.affine.origin_mm[2] += 0.5;
        assert_eq!(moved.check_matches(&reference, 0.6), Ok(()));
        let message = moved
            .check_matches(&reference, 1e-3)
            .unwrap_err()
            .to_string();
        assert!(message.contains("0.5000 mm"), "{message}");
    }

    #[test]
    fn boxes_that_share_no_point_do_not_overlap() {
        let reference = Grid::with_spacing([4, 5, 6], [3.0, 1.0, 1.0]);
        let mut moved = reference;
        moved.affine.origin_mm[2] += 8.9;
        assert!(moved.overlaps(&reference) && reference.overlaps(&moved));
        moved.affine.origin_mm[2] += 0.2;
        assert!(!moved.overlaps(&reference) && !reference.overlaps(&moved));
    }

    #[test]
    fn a_nan_affine_never_matches() {
        let reference = Grid::with_spacing([4, 5, 6], [1.0; 3]);
        let mut broken = reference;
        broken.affine.origin_mm[0] = f64::NAN;
        assert!(broken.check_matches(&reference, 1e9).is_err());
    }
}
