//! Resampling onto a grid that lies anywhere in the patient.

use super::ResampleError;
use crate::volume::{Affine, Grid, Volume};
use ndarray::Array3;
use rayon::prelude::*;

/// `volume` on `grid`, linearly interpolated: every voxel of `grid` takes the value at `motion` of its place,
/// both in RAS+ millimetres ([`Affine::IDENTITY`] for images of one position). Places up to half a voxel
/// outside of the outermost voxel centres take the value at the border, further ones take `outside`. The same
/// bytes for any number of threads. Cost: O(voxels of `grid`).
///
/// # Errors
/// [`ResampleError::Singular`] for a volume whose affine has no inverse, [`ResampleError::EmptySource`].
pub fn resample_to_grid(
    volume: &Volume<f32>,
    grid: &Grid,
    motion: &Affine,
    outside: f32,
) -> Result<Volume<f32>, ResampleError> {
    let inverse = volume.grid().affine.inverse();
    let inverse = inverse.ok_or(ResampleError::Singular)?;
    super::check_shapes(volume.shape(), grid.shape)?;
    let to_source = inverse.after(&motion.after(&grid.affine));
    let [_, height, width] = grid.shape;
    let source = volume.as_slice();
    let shape = volume.shape();
    let mut values = vec![outside; grid.voxel_count()];
    values
        .par_chunks_mut((height * width).max(1))
        .enumerate()
        .for_each(|(z, slice)| {
            for (at, value) in slice.iter_mut().enumerate() {
                let place = to_source.apply([(at % width) as f64, (at / width) as f64, z as f64]);
                if let Some(found) = trilinear(source, shape, place) {
                    *value = found;
                }
            }
        });
    let data = Array3::from_shape_vec(grid.shape, values).expect("one value per voxel");
    Ok(Volume::new(data, *grid).expect("made with the grid's shape"))
}

/// The value at the voxel coordinates `place` (x, y, z), or `None` further than half a voxel outside.
pub(crate) fn trilinear(source: &[f32], shape: [usize; 3], place: [f64; 3]) -> Option<f32> {
    let mut index = [[0_usize; 2]; 3];
    let mut weight = [0.0_f64; 3];
    for axis in 0..3 {
        let (n, at) = (shape[axis], place[2 - axis]);
        let last = n.saturating_sub(1) as f64;
        if n == 0 || !(-0.5..=last + 0.5).contains(&at) {
            return None;
        }
        let at = at.clamp(0.0, last);
        let low = at.floor();
        index[axis] = [low as usize, (low as usize + 1).min(n - 1)];
        weight[axis] = at - low;
    }
    let [[z0, z1], [y0, y1], [x0, x1]] = index;
    let at = |z: usize, y: usize, x: usize| f64::from(source[(z * shape[1] + y) * shape[2] + x]);
    let [wz, wy, wx] = weight;
    let row = |z: usize, y: usize| mix(at(z, y, x0), at(z, y, x1), wx);
    let plane = |z: usize| mix(row(z, y0), row(z, y1), wy);
    Some(mix(plane(z0), plane(z1), wz) as f32)
}

/// Exact at both ends and for equal values.
fn mix(a: f64, b: f64, weight: f64) -> f64 {
    if weight == 0.0 {
        a
    } else {
        a + (b - a) * weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A linear function of the place in the patient, which interpolation reproduces.
    fn ramp(grid: Grid) -> Volume<f32> {
        let data = Array3::from_shape_fn(grid.shape, |(z, y, x)| {
            let [x, y, z] = grid.affine.apply([x as f64, y as f64, z as f64]);
            (2.0 * x - 3.0 * y + 0.5 * z) as f32
        });
        Volume::new(data, grid).unwrap()
    }

    #[test]
    fn a_linear_function_survives_another_grid_and_a_motion() {
        let mut source = Grid::with_spacing([12, 14, 16], [2.0, 1.5, 1.0]);
        source.affine.linear = [[0.8, 0.9, 0.0], [-0.6, 1.2, 0.0], [0.0, 0.0, 2.0]];
        source.affine.origin_mm = [-3.0, 4.0, 5.0];
        let mut target = Grid::with_spacing([5, 4, 6], [1.0, 1.2, 0.7]);
        target.affine.origin_mm = [4.0, 6.0, 9.0];
        let motion = Affine {
            origin_mm: [1.0, -0.5, 2.0],
            ..Affine::IDENTITY
        };
        let found = resample_to_grid(&ramp(source), &target, &motion, f32::NAN).unwrap();
        let expected = ramp(target);
        let shift = 2.0 * 1.0 + 3.0 * 0.5 + 0.5 * 2.0;
        for (found, expected) in found.as_slice().iter().zip(expected.as_slice()) {
            assert!(
                (found - expected - shift).abs() < 1e-4,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn outside_and_the_same_grid() {
        let grid = Grid::with_spacing([2, 2, 2], [1.0; 3]);
        let volume = ramp(grid);
        let same = resample_to_grid(&volume, &grid, &Affine::IDENTITY, -9.0).unwrap();
        assert_eq!(same, volume);
        let mut far = grid;
        far.affine.origin_mm = [1.4, 0.0, 0.0];
        let moved = resample_to_grid(&volume, &far, &Affine::IDENTITY, -9.0).unwrap();
        // 1.4 is within half a voxel of the last centre, 2.4 is not.
        assert_eq!(moved.as_slice()[..2], [volume.as_slice()[1], -9.0]);
    }
}
