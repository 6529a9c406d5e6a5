//! Values of a volume at points of the world.

use crate::volume::{Affine, Grid};
use ndarray::ArrayView3;

/// Reads a volume at world positions.
///
/// Between voxels values are trilinear; beyond the outermost voxel centres they continue as the
/// nearest voxel's.
#[derive(Debug, Clone)]
pub struct PointSampler<'a, T> {
    volume: ArrayView3<'a, T>,
    to_voxel: Affine,
}

impl<'a, T: Copy + Into<f64>> PointSampler<'a, T> {
    /// A sampler of `volume` (`[z, y, x]`, at least one voxel along each axis) placed by `grid`;
    /// `None` for an empty volume or an affine without inverse.
    pub fn new(volume: ArrayView3<'a, T>, grid: &Grid) -> Option<Self> {
        let to_voxel = grid.affine.inverse().filter(|_| !volume.is_empty())?;
        Some(Self { volume, to_voxel })
    }

    /// The voxel `[z, y, x]` nearest to a world position, or `None` outside of the volume.
    pub fn nearest(&self, world_mm: [f64; 3]) -> Option<[usize; 3]> {
        let [x, y, z] = self.to_voxel.apply(world_mm);
        let shape: [usize; 3] = self.volume.dim().into();
        let mut voxel = [0; 3];
        for ((index, at), n) in voxel.iter_mut().zip([z, y, x]).zip(shape) {
            *index = nearest_index(at, n as f64)?;
        }
        Some(voxel)
    }

    /// No more than this many voxels, `[z, y, x]`, lie between those nearest to two points that are at most
    /// `length_mm` apart.
    pub fn steps_within(&self, length_mm: f64) -> [usize; 3] {
        let [x, y, z] = self.to_voxel.linear.map(|row| {
            let steepest = row.iter().map(|part| part * part).sum::<f64>().sqrt();
            // One more for what rounding adds.
            (steepest * length_mm).ceil() as usize + 1
        });
        [z, y, x]
    }

    /// The value of the nearest voxel, or `None` outside of the volume.
    pub fn nearest_value(&self, world_mm: [f64; 3]) -> Option<T> {
        self.volume.get(self.nearest(world_mm)?).copied()
    }

    /// The trilinear value at a world position.
    pub fn linear(&self, world_mm: [f64; 3]) -> f64 {
        let [x, y, z] = self.to_voxel.apply(world_mm);
        let shape: [usize; 3] = self.volume.dim().into();
        let mut low = [0_usize; 3];
        let mut fraction = [0.0; 3];
        for (axis, at) in [z, y, x].into_iter().enumerate() {
            let last = shape[axis] - 1;
            let inside = at.clamp(0.0, last as f64);
            low[axis] = (inside as usize).min(last.saturating_sub(1));
            fraction[axis] = inside - low[axis] as f64;
        }
        let high: [usize; 3] = std::array::from_fn(|axis| (low[axis] + 1).min(shape[axis] - 1));
        let row = |z: usize, y: usize| {
            let a: f64 = self.volume[[z, y, low[2]]].into();
            let b: f64 = self.volume[[z, y, high[2]]].into();
            a + (b - a) * fraction[2]
        };
        let plane = |z: usize| {
            let (a, b) = (row(z, low[1]), row(z, high[1]));
            a + (b - a) * fraction[1]
        };
        let (a, b) = (plane(low[0]), plane(high[0]));
        a + (b - a) * fraction[0]
    }
}

/// The whole number from 0 to `count - 1` that is nearest to `at`, the larger of two; `None` where `at` is farther
/// than a half from all of them, or NaN.
#[inline]
pub fn nearest_index(at: f64, count: f64) -> Option<usize> {
    let shifted = at + 0.5;
    // Cutting the fraction off is rounding down from 0 on, and much faster; to 32 bits more so than to 64.
    (shifted >= 0.0 && shifted < count.min(f64::from(u32::MAX))).then_some(shifted as u32 as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    /// A ramp 100 z + 10 y + x on an oblique grid.
    fn ramp() -> (Array3<f32>, Grid) {
        let array = Array3::from_shape_fn([3, 4, 5], |(z, y, x)| (100 * z + 10 * y + x) as f32);
        let mut grid = Grid::with_spacing([3, 4, 5], [3.0, 2.0, 1.5]);
        grid.affine.linear[0][1] = 0.4;
        grid.affine.origin_mm = [-20.0, 7.0, 3.0];
        (array, grid)
    }

    #[test]
    fn a_ramp_is_read_exactly_between_voxels() {
        let (array, grid) = ramp();
        let sampler = PointSampler::new(array.view(), &grid).unwrap();
        for (ijk, expected) in [
            ([0.0, 0.0, 0.0], 0.0),
            ([1.25, 2.5, 0.75], 75.0 + 25.0 + 1.25),
            ([4.0, 3.0, 2.0], 234.0),
            ([9.0, 3.0, 2.0], 234.0),
            ([-3.0, 1.0, 1.0], 110.0),
        ] {
            let found = sampler.linear(grid.affine.apply(ijk));
            assert!((found - expected).abs() < 1e-9, "{ijk:?}: {found}");
        }
    }

    #[test]
    fn the_nearest_voxel_is_none_outside() {
        let (array, grid) = ramp();
        let sampler = PointSampler::new(array.view(), &grid).unwrap();
        let at = |ijk| sampler.nearest(grid.affine.apply(ijk));
        assert_eq!(at([4.4, 0.6, 1.2]), Some([1, 1, 4]));
        assert_eq!(at([4.6, 0.6, 1.2]), None);
        assert_eq!(at([f64::NAN, 0.0, 0.0]), None);
        assert_eq!(
            sampler.nearest_value(grid.affine.apply([2.0, 1.0, 1.0])),
            Some(112.0)
        );
    }

    #[test]
    fn halves_go_to_the_larger_index() {
        let found = [-0.51, -0.5, 0.49, 0.5, 2.49, 2.5, f64::NAN].map(|at| nearest_index(at, 3.0));
        let expected = [None, Some(0), Some(0), Some(1), Some(2), None, None];
        assert_eq!(found, expected);
        // The last number below a half, to which a half cannot be added without rounding up.
        assert_eq!(nearest_index(0.5_f64.next_down(), 2.0), Some(1));
        assert_eq!(nearest_index(0.5_f64.next_down(), 1.0), None);
    }

    #[test]
    fn near_points_have_near_voxels() {
        let (array, grid) = ramp();
        let sampler = PointSampler::new(array.view(), &grid).unwrap();
        assert_eq!(sampler.steps_within(0.0), [1, 1, 1]);
        let steps = sampler.steps_within(1.9);
        assert_eq!(steps, [2, 2, 3]);
        let middle = grid.affine.apply([2.0, 1.5, 1.0]);
        let from = sampler.nearest(middle).unwrap();
        for index in 0..1000 {
            let turn = f64::from(index) * 2.4;
            let height = f64::from(index) / 500.0 - 1.0;
            let flat = (1.0 - height * height).sqrt();
            let offset = [flat * turn.cos(), flat * turn.sin(), height].map(|part| 1.9 * part);
            let Some(to) = sampler.nearest(std::array::from_fn(|axis| middle[axis] + offset[axis]))
            else {
                continue;
            };
            assert!((0..3).all(|axis| to[axis].abs_diff(from[axis]) <= steps[axis]));
        }
    }

    #[test]
    fn one_voxel_is_the_same_everywhere() {
        let array = Array3::from_elem([1, 1, 1], 7.0_f32);
        let grid = Grid::with_spacing([1, 1, 1], [1.0; 3]);
        let sampler = PointSampler::new(array.view(), &grid).unwrap();
        assert_eq!(sampler.linear([50.0, -3.0, 0.2]), 7.0);
        let empty = Array3::<f32>::zeros([0, 1, 1]);
        assert!(PointSampler::new(empty.view(), &grid).is_none());
    }
}
