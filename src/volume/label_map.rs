//! Label maps: unsigned integer volumes whose numbers have names.

use super::{Grid, LabelTable, ShapeMismatch, Volume};
use ndarray::Array3;
use rayon::prelude::*;

/// A label per voxel, 0 being background, with the table of names.
///
/// Numbers are `u16`: nnU-Net writes `uint8` or `uint16`, and no published label scheme needs more.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// The numbers, `[z, y, x]`.
    pub volume: Volume<u16>,
    /// What the numbers mean; may be empty.
    pub table: LabelTable,
}

/// A voxel value that is no label number.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("voxel (x {x}, y {y}, z {z}) holds {value}: labels are whole numbers from 0 to 65535")]
pub struct LabelError {
    /// The value found.
    pub value: f64,
    /// Index along x.
    pub x: usize,
    /// Index along y.
    pub y: usize,
    /// Index along z.
    pub z: usize,
}

impl LabelMap {
    /// Joins label numbers with their grid and table.
    ///
    /// # Errors
    /// When the array does not have the grid's shape.
    pub fn new(data: Array3<u16>, grid: Grid, table: LabelTable) -> Result<Self, ShapeMismatch> {
        Ok(Self {
            volume: Volume::new(data, grid)?,
            table,
        })
    }

    /// Where the voxels are.
    pub fn grid(&self) -> &Grid {
        self.volume.grid()
    }

    /// Voxels per label, ascending, only labels that occur. Cost: one pass in parallel, 512 KiB per thread.
    pub fn counts(&self) -> Vec<(u16, u64)> {
        let empty = || vec![0_u64; usize::from(u16::MAX) + 1];
        let counts = self
            .volume
            .as_slice()
            .par_chunks(1 << 22)
            .map(|block| {
                let mut counts = empty();
                for run in block.chunks(64) {
                    let last = run.len() - 1;
                    // Most runs have one label, and comparing is many times faster than counting.
                    if run[1..] == run[..last] {
                        counts[usize::from(run[0])] += run.len() as u64;
                    } else {
                        for &label in run {
                            counts[usize::from(label)] += 1;
                        }
                    }
                }
                counts
            })
            .reduce(empty, |mut sum, counts| {
                for (sum, count) in sum.iter_mut().zip(counts) {
                    *sum += count;
                }
                sum
            });
        (0..=u16::MAX)
            .zip(counts)
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// The largest label that occurs; 0 for a map of background only.
    pub fn max_label(&self) -> u16 {
        self.volume.as_slice().iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_list_only_labels_that_occur() {
        let grid = Grid::with_spacing([1, 2, 3], [1.0; 3]);
        let data = Array3::from_shape_vec([1, 2, 3], vec![0, 9, 9, 0, 65535, 0]).unwrap();
        let map = LabelMap::new(data, grid, LabelTable::default()).unwrap();
        assert_eq!(map.counts(), [(0, 3), (9, 2), (65535, 1)]);
        assert_eq!(map.max_label(), 65535);
    }

    #[test]
    fn counts_are_right_across_runs_and_blocks() {
        let mut voxels = vec![3_u16; (1 << 22) + 130];
        voxels[63] = 4;
        voxels[1 << 22] = 5;
        *voxels.last_mut().unwrap() = 6;
        let count = voxels.len();
        let grid = Grid::with_spacing([1, 1, count], [1.0; 3]);
        let data = Array3::from_shape_vec([1, 1, count], voxels).unwrap();
        let map = LabelMap::new(data, grid, LabelTable::default()).unwrap();
        assert_eq!(
            map.counts(),
            [(3, count as u64 - 3), (4, 1), (5, 1), (6, 1)]
        );
    }
}
