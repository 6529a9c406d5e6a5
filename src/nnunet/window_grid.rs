//! Where the tiles of a sliding window lie.

use super::predict_error::PredictError;
use std::ops::Range;

/// Tiles of one patch size over one image, in nnU-Net's places and order.
///
/// An image smaller than the patch is padded in the middle; tiles then start at multiples of at most
/// `step` patches, evenly spread so that the last one ends with the image (`nnunetv2` 2.8.1,
/// `compute_steps_for_sliding_window`). A 2-D network has patches of `[1, y, x]` and tiles every slice by
/// itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowGrid {
    spatial_dims: usize,
    image: [usize; 3],
    patch: [usize; 3],
    padded: [usize; 3],
    pad_before: [usize; 3],
    starts: [Vec<usize>; 3],
}

impl WindowGrid {
    /// Lays tiles of `patch` voxels over an image of `image` voxels (both `[z, y, x]`, all positive),
    /// at most `step` patches apart (nnU-Net's default: 0.5). `spatial_dims` is that of the network: 3,
    /// or 2 with a patch of one slice.
    ///
    /// # Errors
    /// [`PredictError::Step`] for a step outside (0, 1]; [`PredictError::EmptyImage`] for an empty image
    /// or patch.
    pub fn new(
        image: [usize; 3],
        patch: [usize; 3],
        spatial_dims: usize,
        step: f64,
    ) -> Result<Self, PredictError> {
        if !(step > 0.0 && step <= 1.0) {
            return Err(PredictError::Step { step });
        }
        if let Some(shape) = [image, patch].into_iter().find(|shape| shape.contains(&0)) {
            return Err(PredictError::EmptyImage { shape });
        }
        let padded: [usize; 3] = std::array::from_fn(|axis| image[axis].max(patch[axis]));
        Ok(Self {
            spatial_dims,
            image,
            patch,
            padded,
            pad_before: std::array::from_fn(|axis| (padded[axis] - image[axis]) / 2),
            starts: std::array::from_fn(|axis| {
                if axis + spatial_dims < 3 {
                    (0..padded[axis]).collect()
                } else {
                    starts(padded[axis], patch[axis], step)
                }
            }),
        })
    }

    /// Number of axes along which tiles overlap: 3, or 2 for networks of single slices.
    pub fn spatial_dims(&self) -> usize {
        self.spatial_dims
    }

    /// Shape of the image without padding, `[z, y, x]`.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// Shape of a tile, `[z, y, x]`.
    pub fn patch(&self) -> [usize; 3] {
        self.patch
    }

    /// Shape with padding, `[z, y, x]`.
    pub fn padded(&self) -> [usize; 3] {
        self.padded
    }

    /// Voxels of padding before the image's first voxel, `[z, y, x]`.
    pub fn pad_before(&self) -> [usize; 3] {
        self.pad_before
    }

    /// First voxels of the tiles along one axis, ascending, in the padded image. Tiles are visited
    /// with axis 0 outermost and axis 2 innermost.
    pub fn starts(&self, axis: usize) -> &[usize] {
        &self.starts[axis]
    }

    /// Number of tiles.
    pub fn tile_count(&self) -> usize {
        self.starts.iter().map(Vec::len).product()
    }

    /// The tiles, as indices of [`starts`](Self::starts), that touch voxels `range` of the image (not empty)
    /// along `axis`.
    pub fn covering(&self, axis: usize, range: &Range<usize>) -> Range<usize> {
        let before = self.pad_before[axis];
        let starts = &self.starts[axis];
        let first =
            starts.partition_point(|start| start + self.patch[axis] <= range.start + before);
        let end = starts.partition_point(|&start| start < range.end + before);
        first..end
    }

    /// Levels, as indices of `starts(0)`, whose tiles reach slice `next` of the image or slices above.
    pub fn levels_from(&self, next: usize) -> Range<usize> {
        let next = next + self.pad_before[0];
        let starts = &self.starts[0];
        let first = starts.partition_point(|start| start + self.patch[0] <= next);
        first..starts.len()
    }

    /// Slices of the image that the tiles of `level` see.
    pub fn seen_slices(&self, level: usize) -> Range<usize> {
        let start = self.starts[0][level];
        let before = self.pad_before[0];
        let end = (start + self.patch[0]).saturating_sub(before);
        start.saturating_sub(before)..end.min(self.image[0])
    }

    /// Slices of the padded image that no tile after those of `level` (an index into
    /// `starts(0)`) covers, and that were not final before.
    pub fn final_slices(&self, level: usize) -> std::ops::Range<usize> {
        let z_starts = &self.starts[0];
        z_starts[level]..z_starts.get(level + 1).copied().unwrap_or(self.padded[0])
    }

    /// Index in the image of slice `z` of the padded image; `None` in the padding.
    pub fn image_slice(&self, z: usize) -> Option<usize> {
        z.checked_sub(self.pad_before[0])
            .filter(|&z| z < self.image[0])
    }
}

fn starts(image: usize, patch: usize, step: f64) -> Vec<usize> {
    let room = (image - patch) as f64;
    let count = (room / (patch as f64 * step)).ceil() as usize + 1;
    let stride = if count > 1 {
        room / (count - 1) as f64
    } else {
        0.0
    };
    (0..count)
        .map(|index| (stride * index as f64).round_ties_even() as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_of_nnunet() {
        // 110 voxels, patch 64, step 0.5: three tiles at 0, 23 and 46.
        assert_eq!(starts(110, 64, 0.5), [0, 23, 46]);
        assert_eq!(starts(64, 64, 0.5), [0]);
        // Halves round to even: 2.5 becomes 2, 7.5 becomes 8.
        assert_eq!(starts(14, 4, 0.75), [0, 2, 5, 8, 10]);
    }

    #[test]
    fn reference_case_a() {
        let grid = WindowGrid::new([168, 152, 183], [40, 80, 80], 3, 0.5).unwrap();
        assert_eq!(grid.starts(0), [0, 18, 37, 55, 73, 91, 110, 128]);
        assert_eq!(grid.starts(1), [0, 36, 72]);
        assert_eq!(grid.starts(2), [0, 34, 69, 103]);
        assert_eq!(grid.tile_count(), 96);
    }

    #[test]
    fn small_images_are_padded_with_the_larger_half_behind() {
        let grid = WindowGrid::new([3, 10, 8], [8, 8, 8], 3, 0.5).unwrap();
        assert_eq!(grid.padded(), [8, 10, 8]);
        assert_eq!(grid.pad_before(), [2, 0, 0]);
        assert_eq!(grid.image_slice(1), None);
        assert_eq!(grid.image_slice(2), Some(0));
        assert_eq!(grid.image_slice(4), Some(2));
        assert_eq!(grid.image_slice(5), None);
    }

    #[test]
    fn every_slice_becomes_final_once() {
        let grid = WindowGrid::new([30, 8, 8], [8, 8, 8], 3, 0.5).unwrap();
        let all: Vec<_> = (0..grid.starts(0).len())
            .flat_map(|level| grid.final_slices(level))
            .collect();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn two_dimensional_patches_visit_every_slice() {
        let grid = WindowGrid::new([5, 20, 20], [1, 16, 16], 2, 0.5).unwrap();
        assert_eq!(grid.starts(0), [0, 1, 2, 3, 4]);
        assert_eq!(grid.tile_count(), 5 * 4);
    }

    #[test]
    fn steps_that_are_none_are_refused() {
        for step in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(WindowGrid::new([8; 3], [8; 3], 3, step).is_err());
        }
        assert!(WindowGrid::new([8, 0, 8], [8; 3], 3, 0.5).is_err());
    }
}
