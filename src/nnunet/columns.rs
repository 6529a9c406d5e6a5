//! Columns: boxes in y and x that are predicted one after the other, each through all slices.
//!
//! The sums of tiles that are not final yet take `classes * patch depth * height * width` values. Where
//! that is too much, the image is cut into columns and the sliding window runs over one after the other:
//! every tile that touches a column is run for it, in the order of the whole image, and only the voxels of
//! the column are kept. A voxel sees the same additions in the same order whatever the columns, so the
//! result does not depend on them; tiles that reach over a cut run once per side.
//!
//! Cuts lie at the first voxels of tiles, where the fewest tiles reach over.

use super::window_grid::WindowGrid;
use crate::geometry::resample::LinearResampler;
use std::ops::Range;

/// A box in y and x through all slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Rows and columns of the cropped image that it decides. The targets of all columns partition the
    /// image.
    pub target: [Range<usize>; 2],
    /// Rows and columns at the network's resolution that this takes. Neighbours share a row where
    /// logits are interpolated.
    pub source: [Range<usize>; 2],
}

impl Column {
    /// Number of voxels of a slice at the network's resolution.
    pub fn source_plane(&self) -> usize {
        self.source[0].len() * self.source[1].len()
    }

    /// Number of voxels of a slice of the image.
    pub fn target_plane(&self) -> usize {
        self.target[0].len() * self.target[1].len()
    }

    /// The tiles along y and x that it takes, as indices of [`WindowGrid::starts`].
    pub fn tiles(&self, window: &WindowGrid) -> [Range<usize>; 2] {
        [
            window.covering(1, &self.source[0]),
            window.covering(2, &self.source[1]),
        ]
    }

    /// Number of tiles that it takes, all slices counted.
    pub fn tile_count(&self, window: &WindowGrid) -> usize {
        let [rows, columns] = self.tiles(window);
        window.starts(0).len() * rows.len() * columns.len()
    }
}

/// Cuts an image into at most `counts` columns along y and x. `resampler` brings logits from the
/// window's image to the cropped image; without one the two are the same. Fewer columns come back where
/// there are fewer tiles.
pub fn cut(
    window: &WindowGrid,
    resampler: Option<&LinearResampler>,
    counts: [usize; 2],
) -> Vec<Column> {
    let [rows, columns] = [0, 1].map(|axis| pieces(window, resampler, axis, counts[axis]));
    rows.iter()
        .flat_map(|rows| {
            columns.iter().map(move |columns| {
                let target = [rows.clone(), columns.clone()];
                let source = match resampler {
                    Some(resampler) => resampler.part(&target).1,
                    None => target.clone(),
                };
                Column { target, source }
            })
        })
        .collect()
}

/// The pieces of the target along one axis in the plane.
fn pieces(
    window: &WindowGrid,
    resampler: Option<&LinearResampler>,
    axis: usize,
    count: usize,
) -> Vec<Range<usize>> {
    let source = window.image()[axis + 1];
    let target = resampler.map_or(source, |resampler| resampler.target_shape()[axis + 1]);
    let starts = window.starts(axis + 1);
    let before = window.pad_before()[axis + 1];
    let mut cuts = vec![0];
    for index in 1..count {
        let even = index * source / count + before;
        let nearest = starts.iter().min_by_key(|&&start| start.abs_diff(even));
        let Some(start) = nearest.map(|&start| start.saturating_sub(before)) else {
            continue;
        };
        let place = match resampler {
            None => start,
            Some(resampler) => (0..target)
                .find(|&out| resampler.part_of_axis(axis + 1, out..out + 1).start >= start)
                .unwrap_or(target),
        };
        if cuts.last().is_some_and(|&last| last < place) && place < target {
            cuts.push(place);
        }
    }
    cuts.push(target);
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_column_is_the_whole_image() {
        let window = WindowGrid::new([5, 30, 20], [8; 3], 3, 0.5).unwrap();
        let whole = cut(&window, None, [1, 1]);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].source, [0..30, 0..20]);
        assert_eq!(whole[0].tile_count(&window), window.tile_count());
    }

    #[test]
    fn cuts_lie_at_tiles_and_the_tiles_before_them_run_twice() {
        let window = WindowGrid::new([8, 32, 8], [8; 3], 3, 0.5).unwrap();
        let columns = cut(&window, None, [2, 2]);
        assert_eq!(columns.len(), 2, "there is one tile along x");
        assert_eq!(columns[0].target[0], 0..16);
        assert_eq!(columns[1].target[0], 16..32);
        // Tiles at 0, 4, ..., 24: those at 0 to 12 and at 12 to 24.
        assert_eq!(columns[0].tiles(&window)[0], 0..4);
        assert_eq!(columns[1].tiles(&window)[0], 3..7);
    }

    #[test]
    fn targets_partition_the_image_and_sources_hold_what_they_read() {
        for (source, target) in [(40, 61), (61, 40), (33, 33), (20, 200)] {
            let window = WindowGrid::new([8, source, 24], [8; 3], 3, 0.5).unwrap();
            let resampler = LinearResampler::new([8, source, 24], [8, target, 24]).unwrap();
            for count in 1..12 {
                let columns = cut(&window, Some(&resampler), [count, 1]);
                let mut next = 0;
                for column in &columns {
                    assert_eq!(column.target[0].start, next);
                    next = column.target[0].end;
                    assert!(column.source[0].end <= source);
                    assert!(!column.source[0].is_empty());
                }
                assert_eq!(next, target);
            }
        }
    }
}
