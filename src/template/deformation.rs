//! Smooth maps of space, and which of them are likely before anything is seen.
//!
//! A map is affine plus a sum of Gaussians of one width:
//!
//! `y = to + (x - from) + E (x - from) + t + sum over m of w_m exp(-|x - c_m|^2 / (2 L^2))`
//!
//! The prior is a Gaussian process (Luethi, Jud, Gerig and Vetter, Gaussian Process Morphable Models,
//! arXiv 1603.07254): bodies differ from the template in size, in size along each axis, in how they lie, and
//! locally by a smooth displacement; the place is free. The Gaussians stand on chosen centres instead of
//! everywhere (Nystroem's method).
//! The standard deviations are round numbers for adult bodies, not fitted ones. How little they matter
//! is measured in docs/measurements/tissue.md.

use crate::geometry::linear_system::solve_positive_definite;
use crate::volume::Affine;
use ndarray::{Array2, Axis, s};
use rayon::prelude::*;

/// Standard deviation of the whole body's size, and of the size along each axis on top of it.
const SIZE: f64 = 0.08;
const SIZE_PER_AXIS: f64 = 0.08;
/// Standard deviation of the turn about each axis: 5 degrees.
const TURN: f64 = 0.087;
/// Standard deviation of shear.
const SHEAR: f64 = 0.03;
/// Standard deviation of the local displacement along each axis, in mm.
const LOCAL_MM: f64 = 5.0;
/// Over this distance, in mm, local displacements are alike.
const LENGTH_MM: f64 = 40.0;
/// How well a point on a surface is known across and along it, in mm: along it nothing marks the place.
const ACROSS_MM: f64 = 1.5;
const ALONG_MM: f64 = 6.0;
/// Precision of the free translation, and what is added to the prior of the Gaussians so that close centres do no harm.
const NEARLY_FREE: f64 = 1e-9;
const JITTER: f64 = 1e-6;
/// Basis functions of the affine part: x, y, z and 1.
const AFFINE: usize = 4;
/// Rows of normal equations that are multiplied at once.
const STRIP: usize = 32;

/// A smooth map from the patient to the template, both RAS+ mm.
#[derive(Debug, Clone, PartialEq)]
pub struct Deformation {
    from_mm: [f64; 3],
    to_mm: [f64; 3],
    centres_mm: Vec<[f64; 3]>,
    /// Displacement per basis function: x, y, z, 1, then one per centre.
    weights: Vec<[f64; 3]>,
}

/// A point of the patient that belongs to a surface of the template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Match<'a> {
    /// [`Deformation::basis`] where it is in the patient.
    pub(super) basis: &'a [f64],
    /// Where in the template.
    pub(super) to_mm: [f64; 3],
    /// The template's normal there; zero counts along every direction alike.
    pub(super) normal: [f64; 3],
    /// How many independent points this one is worth.
    pub(super) weight: f64,
}

impl Deformation {
    /// The translation that takes `from_mm` to `to_mm`, with centres at which [`Self::fitted`] may bend it.
    pub(super) fn translation(
        from_mm: [f64; 3],
        to_mm: [f64; 3],
        centres_mm: Vec<[f64; 3]>,
    ) -> Self {
        Self {
            from_mm,
            to_mm,
            weights: vec![[0.0; 3]; AFFINE + centres_mm.len()],
            centres_mm,
        }
    }

    /// A map that scales alike along all axes and takes `from_mm` to `to_mm`.
    pub(super) fn scaling(scale: f64, from_mm: [f64; 3], to_mm: [f64; 3]) -> Self {
        let mut map = Self::translation(from_mm, to_mm, Vec::new());
        for axis in 0..3 {
            map.weights[axis][axis] = scale - 1.0;
        }
        map
    }

    /// The affine part alone.
    pub(super) fn without_bends(mut self) -> Self {
        self.centres_mm.clear();
        self.weights.truncate(AFFINE);
        self
    }

    /// The affine part.
    pub fn affine(&self) -> Affine {
        let linear: [[f64; 3]; 3] = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                self.weights[column][row] + if row == column { 1.0 } else { 0.0 }
            })
        });
        let turned = Affine {
            linear,
            origin_mm: [0.0; 3],
        };
        let from = turned.apply_vector(self.from_mm);
        Affine {
            linear,
            origin_mm: std::array::from_fn(|axis| {
                self.to_mm[axis] + self.weights[3][axis] - from[axis]
            }),
        }
    }

    /// Where a point of the patient lies in the template.
    pub fn apply(&self, at_mm: [f64; 3]) -> [f64; 3] {
        self.mapped(&self.basis(at_mm))
    }

    /// Where a point of the patient lies in the template, given its [`Self::basis`].
    pub(super) fn mapped(&self, basis: &[f64]) -> [f64; 3] {
        let moved = self.bent(basis[AFFINE..].iter().copied());
        let affine = self.affine_mm(&basis[..AFFINE]);
        std::array::from_fn(|axis| affine[axis] + moved[axis])
    }

    fn affine_mm(&self, away: &[f64]) -> [f64; 3] {
        std::array::from_fn(|axis| {
            let linear: f64 = (0..3).map(|c| away[c] * self.weights[c][axis]).sum();
            self.to_mm[axis] + away[axis] + linear + self.weights[3][axis]
        })
    }

    /// What the Gaussians add to the affine part at a point, in mm.
    pub fn bend_mm(&self, at_mm: [f64; 3]) -> [f64; 3] {
        self.bent(
            self.centres_mm
                .iter()
                .map(|&centre| gaussian(at_mm, centre)),
        )
    }

    fn bent(&self, heights: impl Iterator<Item = f64>) -> [f64; 3] {
        let mut moved = [0.0; 3];
        for (height, weight) in heights.zip(&self.weights[AFFINE..]) {
            for (sum, part) in moved.iter_mut().zip(weight) {
                *sum += height * part;
            }
        }
        moved
    }

    /// How a small volume at a point grows; 0 or less where the map folds.
    pub(super) fn growth(&self, at_mm: [f64; 3]) -> f64 {
        let mut linear = self.affine().linear;
        for (centre, weight) in self.centres_mm.iter().zip(&self.weights[AFFINE..]) {
            let height = gaussian(at_mm, *centre) / (LENGTH_MM * LENGTH_MM);
            for (row, part) in linear.iter_mut().zip(weight) {
                for (axis, value) in row.iter_mut().enumerate() {
                    *value -= part * height * (at_mm[axis] - centre[axis]);
                }
            }
        }
        Affine {
            linear,
            origin_mm: [0.0; 3],
        }
        .determinant()
    }

    /// The basis functions at a point: x, y, z away from the patient's middle, 1, then a Gaussian per centre. They
    /// are the same for every map that is fitted from this one.
    pub(super) fn basis(&self, at_mm: [f64; 3]) -> Vec<f64> {
        let away = (0..3).map(|axis| at_mm[axis] - self.from_mm[axis]);
        let heights = self
            .centres_mm
            .iter()
            .map(|&centre| gaussian(at_mm, centre));
        away.chain([1.0]).chain(heights).collect()
    }

    /// The most probable map given matches: the maximum a posteriori estimate, which is linear least squares with the
    /// prior's precision. `None` where the numbers are not finite.
    ///
    /// Cost: some `3 n b^2` multiplications for `n` matches and `b` basis functions, and `(3 b)^3 / 6` to solve.
    pub(super) fn fitted(&self, matches: &[Match<'_>]) -> Option<Self> {
        let count = self.weights.len();
        let mut values = Vec::with_capacity(matches.len() * count);
        for found in matches {
            values.extend_from_slice(found.basis);
        }
        let basis = Array2::from_shape_vec((matches.len(), count), values).ok()?;
        let precision: Vec<[[f64; 3]; 3]> = matches.iter().map(precision).collect();
        // One block per pair of components, of which the matrix's lower triangle needs six.
        let pairs = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)];
        let blocks: Vec<Array2<f64>> = pairs
            .par_iter()
            .map(|&(row, column)| {
                let mut weighted = basis.clone();
                for (mut values, precision) in weighted.axis_iter_mut(Axis(0)).zip(&precision) {
                    values *= precision[row][column];
                }
                // Only the lower triangle is read: strips of rows as far as the diagonal.
                let mut block = Array2::zeros([count, count]);
                for start in (0..count).step_by(STRIP) {
                    let end = (start + STRIP).min(count);
                    let product =
                        (basis.slice(s![.., start..end]).t()).dot(&weighted.slice(s![.., ..end]));
                    block.slice_mut(s![start..end, ..end]).assign(&product);
                }
                block
            })
            .collect();
        let side = 3 * count;
        let mut matrix = self.prior();
        for (&(row, column), block) in pairs.iter().zip(&blocks) {
            for (a, values) in block.outer_iter().enumerate() {
                for (b, &value) in values.iter().enumerate().take(a + 1) {
                    matrix[(3 * a + row) * side + 3 * b + column] += value;
                    if row != column {
                        matrix[(3 * a + column) * side + 3 * b + row] += value;
                    }
                }
            }
        }
        let mut right = vec![0.0; side];
        for ((found, precision), values) in matches.iter().zip(&precision).zip(basis.outer_iter()) {
            let rest: [f64; 3] = std::array::from_fn(|axis| {
                found.to_mm[axis] - self.to_mm[axis] - found.basis[axis]
            });
            let pull: [f64; 3] =
                std::array::from_fn(|row| (0..3).map(|c| precision[row][c] * rest[c]).sum());
            for (sums, value) in right.chunks_exact_mut(3).zip(values) {
                for (sum, pull) in sums.iter_mut().zip(pull) {
                    *sum += value * pull;
                }
            }
        }
        let solved = solve_positive_definite(&matrix, &right)?;
        let weights = solved.chunks_exact(3).map(|w| [w[0], w[1], w[2]]).collect();
        Some(Self {
            weights,
            ..self.clone()
        })
    }

    /// The prior's precision, row-major; component `r` of basis function `b` is number `3 b + r`.
    fn prior(&self) -> Vec<f64> {
        let side = 3 * self.weights.len();
        let mut matrix = vec![0.0; side * side];
        let mut add = |a: usize, b: usize, value: f64| matrix[a * side + b] += value;
        // Entry (r, c) of the matrix E is component r of basis function c.
        let entry = |row: usize, column: usize| 3 * column + row;
        // The inverse of SIZE_PER_AXIS^2 on the diagonal plus SIZE^2 everywhere.
        let (common, own) = (SIZE * SIZE, SIZE_PER_AXIS * SIZE_PER_AXIS);
        // Turn and shear are half difference and half sum of opposite entries.
        let (turn, shear) = (0.25 / (TURN * TURN), 0.25 / (SHEAR * SHEAR));
        for row in 0..3 {
            for column in 0..3 {
                add(
                    entry(row, row),
                    entry(column, column),
                    -common / (own * (own + 3.0 * common)),
                );
                if row == column {
                    add(entry(row, row), entry(row, row), 1.0 / own);
                } else {
                    add(entry(row, column), entry(row, column), turn + shear);
                    add(entry(row, column), entry(column, row), shear - turn);
                }
            }
        }
        for axis in 0..3 {
            add(9 + axis, 9 + axis, NEARLY_FREE);
        }
        for (a, &one) in self.centres_mm.iter().enumerate() {
            for (b, &other) in self.centres_mm.iter().enumerate() {
                let jitter = if a == b { JITTER } else { 0.0 };
                let value = gaussian(one, other) / (LOCAL_MM * LOCAL_MM) + jitter;
                for axis in 0..3 {
                    add(3 * (AFFINE + a) + axis, 3 * (AFFINE + b) + axis, value);
                }
            }
        }
        matrix
    }
}

fn gaussian(a: [f64; 3], b: [f64; 3]) -> f64 {
    let squared: f64 = (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum();
    (-squared / (2.0 * LENGTH_MM * LENGTH_MM)).exp()
}

/// Inverse covariance of a match.
fn precision(found: &Match<'_>) -> [[f64; 3]; 3] {
    let (across, along) = (ACROSS_MM.powi(-2), ALONG_MM.powi(-2));
    std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let same = if row == column { along } else { 0.0 };
            found.weight * (same + (across - along) * found.normal[row] * found.normal[column])
        })
    })
}

/// `count` of the points far from each other: the first is nearest to the middle, every further one farthest
/// from those before (Gonzalez, Theoretical Computer Science 38, 1985).
pub(super) fn spread(points: &[[f64; 3]], count: usize) -> Vec<[f64; 3]> {
    let squared =
        |a: &[f64; 3], b: &[f64; 3]| (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>();
    let number = points.len() as f64;
    let middle = std::array::from_fn(|axis| points.iter().map(|p| p[axis]).sum::<f64>() / number);
    let first = points
        .iter()
        .min_by(|a, b| squared(a, &middle).total_cmp(&squared(b, &middle)));
    let mut chosen: Vec<[f64; 3]> = first.into_iter().copied().collect();
    let mut nearest = vec![f64::INFINITY; points.len()];
    while let Some(last) = chosen.last().filter(|_| chosen.len() < count) {
        for (nearest, point) in nearest.iter_mut().zip(points) {
            *nearest = nearest.min(squared(point, last));
        }
        let farthest = (nearest.iter().zip(points)).max_by(|a, b| a.0.total_cmp(b.0));
        match farthest {
            Some((&away, &point)) if away > 0.0 => chosen.push(point),
            _ => break,
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a box.
    fn points() -> Vec<[f64; 3]> {
        (0..343)
            .map(|index| [index % 7, index / 7 % 7, index / 49].map(|n| 20.0 * f64::from(n) - 60.0))
            .collect()
    }

    /// The map fitted to these points, with normals towards +x, +y and +z.
    fn fitted(start: &Deformation, map: impl Fn([f64; 3]) -> [f64; 3]) -> Deformation {
        let rows: Vec<Vec<f64>> = points().into_iter().map(|at| start.basis(at)).collect();
        let mut found = Vec::new();
        for (basis, at) in rows.iter().zip(points()) {
            for axis in 0..3 {
                let mut normal = [0.0; 3];
                normal[axis] = 1.0;
                found.push(Match {
                    basis,
                    to_mm: map(at),
                    normal,
                    weight: 1.0,
                });
            }
        }
        start.fitted(&found).unwrap()
    }

    #[test]
    fn a_likely_affine_is_found_and_needs_no_bends() {
        let truth = Affine {
            linear: [[1.1, 0.05, 0.0], [-0.05, 0.95, 0.02], [0.0, -0.02, 1.05]],
            origin_mm: [4.0, -7.0, 30.0],
        };
        let centres = spread(&points(), 12);
        let start = Deformation::translation([5.0, 2.0, 0.0], [0.0; 3], centres);
        let map = fitted(&start, |at| truth.apply(at));
        for at in points() {
            let (got, expected) = (map.apply(at), truth.apply(at));
            let off = (0..3).map(|axis| (got[axis] - expected[axis]).abs());
            assert!(off.sum::<f64>() < 0.3, "{at:?}: {got:?}");
        }
        let [size, ..] = map.affine().column_norms_mm();
        assert!((size - 1.1).abs() < 0.03, "{size}");
    }

    #[test]
    fn without_matches_the_translation_stays() {
        let start = Deformation::translation([5.0, 2.0, 0.0], [1.0, 1.0, 9.0], vec![[0.0; 3]]);
        let map = start.fitted(&[]).unwrap();
        assert_eq!(map.apply([6.0, 2.0, 0.0]), [2.0, 1.0, 9.0]);
        assert_eq!(map.growth([3.0; 3]), 1.0);
    }

    #[test]
    fn a_local_bend_stays_local() {
        let bump = |at: [f64; 3]| {
            let height = gaussian(at, [60.0, 0.0, 0.0]);
            [at[0], at[1] + 8.0 * height, at[2]]
        };
        let centres = vec![[60.0, 0.0, 0.0], [-60.0, 0.0, 0.0]];
        let start = Deformation::translation([0.0; 3], [0.0; 3], centres);
        let map = fitted(&start, bump);
        let moved = map.apply([60.0, 0.0, 0.0])[1];
        assert!((moved - 8.0).abs() < 0.3, "{moved}");
        let far = map.apply([-60.0, 0.0, 0.0])[1];
        assert!(far.abs() < 0.3, "{far}");
        // The analytic growth is that of finite differences.
        let at = [40.0, 10.0, -5.0];
        let column = |axis: usize| {
            let mut step = at;
            step[axis] += 1e-4;
            let (a, b) = (map.apply(at), map.apply(step));
            std::array::from_fn::<f64, 3, _>(|row| (b[row] - a[row]) / 1e-4)
        };
        let [x, y, z] = [column(0), column(1), column(2)];
        let numeric = Affine {
            linear: std::array::from_fn(|row| [x[row], y[row], z[row]]),
            origin_mm: [0.0; 3],
        };
        assert!((numeric.determinant() - map.growth(at)).abs() < 1e-4);
    }

    #[test]
    fn the_prior_is_the_inverse_of_the_stated_covariance() {
        let prior = Deformation::translation([0.0; 3], [0.0; 3], Vec::new()).prior();
        let entry = |row: usize, column: usize| 3 * column + row;
        let covariance = |a: (usize, usize), b: (usize, usize)| -> f64 {
            let diagonal = |(row, column): (usize, usize)| row == column;
            if diagonal(a) && diagonal(b) {
                SIZE * SIZE + if a == b { SIZE_PER_AXIS.powi(2) } else { 0.0 }
            } else if a == b {
                TURN * TURN + SHEAR * SHEAR
            } else if a == (b.1, b.0) {
                SHEAR * SHEAR - TURN * TURN
            } else {
                0.0
            }
        };
        let all: Vec<(usize, usize)> = (0..9).map(|n| (n / 3, n % 3)).collect();
        for &a in &all {
            for &b in &all {
                let product: f64 = (all.iter())
                    .map(|&m| prior[entry(a.0, a.1) * 12 + entry(m.0, m.1)] * covariance(m, b))
                    .sum();
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-9, "{a:?} {b:?}: {product}");
            }
        }
    }

    #[test]
    fn spread_points_are_apart() {
        let line: Vec<[f64; 3]> = (0..=100).map(|n| [f64::from(n), 0.0, 0.0]).collect();
        let chosen = spread(&line, 5);
        let mut along: Vec<f64> = chosen.iter().map(|point| point[0]).collect();
        along.sort_by(f64::total_cmp);
        assert_eq!(along, [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(spread(&[[1.0; 3]; 4], 3).len(), 1);
        assert!(spread(&[], 3).is_empty());
    }
}
