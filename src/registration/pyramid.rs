//! Coarse versions of an image.

use crate::volume::{Affine, Grid, Volume};
use ndarray::{Array3, s};
use rayon::prelude::*;

/// Means of blocks that are about `edge_mm` long, a voxel at least; a rest at the end of an axis makes no block. The same bytes for
/// any number of threads. NaN and infinite intensities count as the lowest finite one, `lowest`.
pub(super) fn coarse(image: &Volume<f32>, edge_mm: f64, lowest: f32) -> Volume<f32> {
    let grid = image.grid();
    let block: [usize; 3] = std::array::from_fn(|axis| {
        let fits = (edge_mm / grid.spacing_mm[axis]).round() as usize;
        fits.clamp(1, grid.shape[axis].max(1))
    });
    let shape: [usize; 3] = std::array::from_fn(|axis| grid.shape[axis] / block[axis]);
    let per_block = block.iter().product::<usize>() as f64;
    let data = image.data();
    let slices: Vec<Vec<f32>> = (0..shape[0])
        .into_par_iter()
        .map(|z| {
            let mut sums = vec![0.0_f64; shape[1] * shape[2]];
            let slices = data.slice(s![z * block[0]..(z + 1) * block[0], .., ..]);
            for slice in slices.outer_iter() {
                let rows = slice.outer_iter().take(shape[1] * block[1]);
                for (y, row) in rows.enumerate() {
                    let sums = &mut sums[y / block[1] * shape[2]..][..shape[2]];
                    for (x, value) in row.iter().take(shape[2] * block[2]).enumerate() {
                        let value = if value.is_finite() { *value } else { lowest };
                        sums[x / block[2]] += f64::from(value);
                    }
                }
            }
            sums.into_iter()
                .map(|sum| (sum / per_block) as f32)
                .collect()
        })
        .collect();
    let values = Array3::from_shape_vec(shape, slices.concat()).expect("a value per block");
    Volume::new(values, coarse_grid(grid, block, shape)).expect("made with the grid's shape")
}

fn coarse_grid(grid: &Grid, block: [usize; 3], shape: [usize; 3]) -> Grid {
    let [z, y, x] = block.map(|n| n as f64);
    let per_axis = [x, y, z];
    // The centre of the first block.
    let origin_mm = grid.affine.apply(per_axis.map(|n| (n - 1.0) / 2.0));
    let linear = grid
        .affine
        .linear
        .map(|row| std::array::from_fn(|axis| row[axis] * per_axis[axis]));
    Grid {
        shape,
        spacing_mm: std::array::from_fn(|axis| grid.spacing_mm[axis] * block[axis] as f64),
        affine: Affine { linear, origin_mm },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_mean_and_the_centre_of_their_voxels() {
        let grid = Grid::with_spacing([3, 4, 7], [3.0, 1.0, 1.0]);
        let values = Array3::from_shape_fn([3, 4, 7], |(z, y, x)| (100 * z + 10 * y + x) as f32);
        let found = coarse(&Volume::new(values, grid).unwrap(), 2.0, 0.0);
        assert_eq!(found.shape(), [3, 2, 3]);
        assert_eq!(found.grid().spacing_mm, [3.0, 2.0, 2.0]);
        assert_eq!(found.data()[[1, 1, 2]], 100.0 + 25.0 + 4.5);
        let place = found.grid().affine.apply([2.0, 1.0, 1.0]);
        assert_eq!(place, grid.affine.apply([4.5, 2.5, 1.0]));
    }

    #[test]
    fn nan_counts_as_the_lowest() {
        let grid = Grid::with_spacing([1, 1, 2], [1.0; 3]);
        let values = Array3::from_shape_vec([1, 1, 2], vec![f32::NAN, 10.0]).unwrap();
        let found = coarse(&Volume::new(values, grid).unwrap(), 2.0, -20.0);
        assert_eq!(found.as_slice(), [-5.0]);
    }
}
