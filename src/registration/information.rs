//! Mutual information of two images at sampled places.

use crate::geometry::resample::trilinear;
use crate::volume::{Affine, Grid, Volume};
use rayon::prelude::*;

/// Bins of either image.
const BINS: usize = 32;
/// A cubic B-spline reaches over four bins.
const COLUMNS: usize = BINS + 3;
/// Samples that are summed together.
const CHUNK: usize = 4096;
/// Intensities that decide the bins.
const MOST_RANKED: usize = 1 << 17;

/// Bins with about the same number of voxels in each, so that soft tissue counts as much as bone and air.
#[derive(Debug)]
struct Scale {
    /// Ascending, without repetitions; at least one.
    edges: Vec<f32>,
}

impl Scale {
    fn new(image: &Volume<f32>) -> Self {
        let values = image.as_slice();
        let step = values.len().div_ceil(MOST_RANKED).max(1);
        let mut ranked: Vec<f32> = values.iter().copied().step_by(step).collect();
        ranked.sort_unstable_by(f32::total_cmp);
        let ranked = capped(&ranked);
        let last = ranked.len().saturating_sub(1);
        let mut edges: Vec<f32> = (0..=BINS - 1)
            .filter_map(|bin| ranked.get(last * bin / (BINS - 1)).copied())
            .collect();
        edges.dedup();
        Self { edges }
    }

    /// From 0 to [`BINS`] - 1: which edges a value lies between, and where.
    fn place(&self, value: f32) -> f32 {
        let above = self.edges.partition_point(|edge| *edge <= value);
        match above.checked_sub(1) {
            None => 0.0,
            Some(below) => match (self.edges.get(below), self.edges.get(above)) {
                (Some(low), Some(high)) => below as f32 + (value - low) / (high - low),
                _ => below as f32,
            },
        }
    }
}

/// Sorted values without most of those that fill more than a bin: a background of one value says as much with less.
fn capped(sorted: &[f32]) -> Vec<f32> {
    let most = (sorted.len() / BINS).max(1);
    let runs = sorted.chunk_by(|a, b| a == b);
    runs.flat_map(|run| run.iter().take(most))
        .copied()
        .collect()
}

/// Mutual information in nats, and the part of the smaller image that lies in both, 0 to about 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Information {
    pub mutual: f64,
    pub overlap: f64,
}

/// A fixed image at sampled places, and the moving image that is compared with it.
pub(super) struct Comparison<'a> {
    /// Places in RAS+ mm, in the order of the fixed image's voxels, and bins of the fixed image.
    samples: Vec<([f64; 3], u8)>,
    moving: &'a Volume<f32>,
    to_voxels: Affine,
    scale: Scale,
    /// Samples that lie in both images where one lies in the other.
    most_inside: f64,
}

impl<'a> Comparison<'a> {
    /// Up to `count` samples spread evenly over the fixed image, off the voxel centres: samples on both grids at once
    /// would prefer motions that keep them there (Tsao, Interpolation artifacts in multimodality image registration, 2003). `None`
    /// for a moving image whose affine has no inverse.
    pub fn new(fixed: &Volume<f32>, moving: &'a Volume<f32>, count: usize) -> Option<Self> {
        let to_voxels = moving.grid().affine.inverse()?;
        let scale = Scale::new(fixed);
        let grid = fixed.grid();
        let count = count.min(4 * grid.voxel_count());
        let mut places: Vec<[f64; 3]> = (0..count).map(|number| spread(number, grid)).collect();
        // Neighbours after each other: their voxels are in the cache.
        places.sort_unstable_by(|a, b| {
            let key = |at: &[f64; 3]| [at[2], at[1]].map(f64::floor);
            let (a_key, b_key) = (key(a), key(b));
            a_key[0]
                .total_cmp(&b_key[0])
                .then(a_key[1].total_cmp(&b_key[1]))
                .then(a[0].total_cmp(&b[0]))
                .then(a[1].total_cmp(&b[1]))
        });
        let samples = places.into_par_iter().filter_map(|place| {
            let value = trilinear(fixed.as_slice(), fixed.shape(), place)?;
            let bin = scale.place(value) as u8;
            Some((grid.affine.apply(place), bin))
        });
        let samples: Vec<([f64; 3], u8)> = samples.collect();
        let volume_mm3 = |grid: &Grid| grid.voxel_count() as f64 * grid.voxel_volume_mm3();
        let part = volume_mm3(moving.grid()) / volume_mm3(grid);
        Some(Self {
            most_inside: (samples.len() as f64 * part.min(1.0)).max(1.0),
            samples,
            moving,
            to_voxels,
            scale: Scale::new(moving),
        })
    }

    /// The places in RAS+ mm.
    pub fn places(&self) -> impl Iterator<Item = [f64; 3]> {
        self.samples.iter().map(|(place, _)| *place)
    }

    /// Of the fixed image with the moving image at `motion` of every place. Samples outside of the moving image are left
    /// out. Sums have a fixed order: the same bits for any number of threads.
    ///
    /// Parzen windows of Mattes et al., PET-CT image registration in the chest using free-form deformations, 2003: a box for the
    /// fixed image, a cubic B-spline for the moving one.
    pub fn under(&self, motion: &Affine) -> Information {
        let to_moving = self.to_voxels.after(motion);
        let parts: Vec<(Vec<f32>, usize)> = self
            .samples
            .par_chunks(CHUNK)
            .map(|samples| {
                let mut joint = vec![0.0_f32; BINS * COLUMNS];
                let mut inside = 0;
                for (place, bin) in samples {
                    let place = to_moving.apply(*place);
                    let found = trilinear(self.moving.as_slice(), self.moving.shape(), place);
                    let Some(value) = found else {
                        continue;
                    };
                    inside += 1;
                    let at = self.scale.place(value);
                    let first = usize::from(*bin) * COLUMNS + at as usize;
                    let weights = window(at - at.floor());
                    for (sum, weight) in joint[first..first + 4].iter_mut().zip(weights) {
                        *sum += weight;
                    }
                }
                (joint, inside)
            })
            .collect();
        let mut joint = vec![0.0_f64; BINS * COLUMNS];
        let mut inside = 0;
        for (part, count) in parts {
            inside += count;
            for (sum, value) in joint.iter_mut().zip(part) {
                *sum += f64::from(value);
            }
        }
        Information {
            mutual: mutual(&joint),
            overlap: inside as f64 / self.most_inside,
        }
    }
}

/// Cubic B-spline weights of four neighbouring bins for a value `t` behind the second.
fn window(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    [
        s * s * s / 6.0,
        (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0,
        (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0,
        t * t * t / 6.0,
    ]
}

/// Of a joint histogram `[BINS][COLUMNS]`, in nats; 0 for an empty one.
fn mutual(joint: &[f64]) -> f64 {
    let total: f64 = joint.iter().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let mut columns = [0.0; COLUMNS];
    for row in joint.chunks_exact(COLUMNS) {
        for (sum, value) in columns.iter_mut().zip(row) {
            *sum += value;
        }
    }
    let mut sum = 0.0;
    for row in joint.chunks_exact(COLUMNS) {
        let whole: f64 = row.iter().sum();
        for (value, column) in row.iter().zip(columns) {
            if *value > 0.0 {
                sum += value * (value * total / (whole * column)).ln();
            }
        }
    }
    sum / total
}

/// Voxel coordinates (x, y, z) of sample `number`: the additive recurrence of the root of `x^4 = x + 1`, which covers a cube more
/// evenly than random places do (Roberts, The unreasonable effectiveness of quasirandom sequences, 2018).
fn spread(number: usize, grid: &Grid) -> [f64; 3] {
    const ROOT: f64 = 1.220_744_084_605_759_5;
    let [depth, height, width] = grid.shape.map(|n| n as f64);
    let powers = [1.0 / ROOT, 1.0 / (ROOT * ROOT), 1.0 / (ROOT * ROOT * ROOT)];
    let part = |power: f64| (0.5 + (number + 1) as f64 * power).fract();
    [
        part(powers[0]) * width - 0.5,
        part(powers[1]) * height - 0.5,
        part(powers[2]) * depth - 0.5,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    fn volume(value: impl Fn(usize, usize, usize) -> f32) -> Volume<f32> {
        let shape = [12, 13, 14];
        let values = Array3::from_shape_fn(shape, |(z, y, x)| value(z, y, x));
        Volume::new(values, Grid::with_spacing(shape, [2.0, 1.0, 1.0])).unwrap()
    }

    #[test]
    fn windows_sum_to_one() {
        for step in 0..=10 {
            let sum: f32 = window(step as f32 / 10.0).iter().sum();
            assert!((sum - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn information_of_independent_and_of_equal_halves() {
        // Two equally frequent values that say everything, or nothing, of each other.
        let mut joint = vec![0.0; BINS * COLUMNS];
        joint[3] = 50.0;
        joint[5 * COLUMNS + 9] = 50.0;
        assert!((mutual(&joint) - std::f64::consts::LN_2).abs() < 1e-12);
        joint[9] = 50.0;
        joint[5 * COLUMNS + 3] = 50.0;
        assert!(mutual(&joint).abs() < 1e-12);
        assert_eq!(mutual(&vec![0.0; BINS * COLUMNS]), 0.0);
    }

    #[test]
    fn an_image_tells_most_of_itself_in_place_whatever_its_contrast() {
        let blob = |z: usize, y: usize, x: usize| {
            let off = |n: usize, middle: f32| (n as f32 - middle).powi(2);
            (-(off(z, 6.0) + off(y, 5.0) + off(x, 8.0)) / 12.0).exp()
        };
        let fixed = volume(blob);
        let moving = volume(|z, y, x| 7.0 - 3.0 * blob(z, y, x).powi(2));
        let comparison = Comparison::new(&fixed, &moving, 8000).unwrap();
        let moved = |x: f64| Affine {
            origin_mm: [x, 0.0, 0.0],
            ..Affine::IDENTITY
        };
        let best = comparison.under(&Affine::IDENTITY);
        assert_eq!(best.overlap, 1.0);
        for shift in [-2.0, -0.5, 0.5, 2.0] {
            let other = comparison.under(&moved(shift));
            assert!(
                other.mutual < best.mutual && other.overlap < 1.0,
                "{other:?} {best:?}"
            );
        }
        assert_eq!(comparison.under(&moved(1e6)).overlap, 0.0);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        assert_eq!(
            pool.install(|| comparison.under(&moved(0.5))),
            comparison.under(&moved(0.5))
        );
    }

    #[test]
    fn samples_lie_everywhere_in_the_image() {
        let fixed = volume(|_, _, x| x as f32);
        let comparison = Comparison::new(&fixed, &fixed, 1000).unwrap();
        let mut octants = [0; 8];
        for [x, y, z] in comparison.places() {
            let half = [x > 6.5, y > 6.0, z > 11.0];
            octants[half
                .iter()
                .fold(0, |at, &is_far| 2 * at + usize::from(is_far))] += 1;
        }
        assert!(
            octants.iter().all(|&count| (110..=140).contains(&count)),
            "{octants:?}"
        );
    }
}
