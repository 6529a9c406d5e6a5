//! Directions in space, and smooth functions of them.
//!
//! Directions are the nodes of a grid on the six faces of a cube. A value at any direction is bilinear
//! between the nodes of one face and needs no trigonometry; nodes on shared edges exist once per face
//! with the same value, so the function is continuous.

use std::f64::consts::PI;

/// Cells along an edge of the cube: about 4.5 degrees each.
const CELLS: usize = 20;

/// Directions spread over the sphere, with the part of the sphere that each stands for.
#[derive(Debug, Clone)]
pub(super) struct Sphere {
    /// Unit vectors in the order face, row, column.
    pub(super) directions: Vec<[f64; 3]>,
    /// Solid angle of each; together 4 pi.
    pub(super) weights: Vec<f64>,
}

/// The axis of a face and the two that span it.
const AXES: [[usize; 3]; 3] = [[0, 1, 2], [1, 2, 0], [2, 0, 1]];

impl Sphere {
    pub(super) fn new() -> Self {
        let mut directions = Vec::new();
        let mut weights = Vec::new();
        let node = |index: usize| 2.0 * index as f64 / CELLS as f64 - 1.0;
        let width = |index: usize| {
            if index == 0 || index == CELLS {
                0.5
            } else {
                1.0
            }
        };
        for face in 0..6 {
            let [major, first, second] = AXES[face / 2];
            let sign = if face % 2 == 0 { 1.0 } else { -1.0 };
            for row in 0..=CELLS {
                for column in 0..=CELLS {
                    let (u, v) = (node(row), node(column));
                    let length = (1.0 + u * u + v * v).sqrt();
                    let mut direction = [0.0; 3];
                    direction[major] = sign / length;
                    direction[first] = u / length;
                    direction[second] = v / length;
                    directions.push(direction);
                    weights.push(width(row) * width(column) / length.powi(3));
                }
            }
        }
        let total: f64 = weights.iter().sum();
        for weight in &mut weights {
            *weight *= 4.0 * PI / total;
        }
        Self {
            directions,
            weights,
        }
    }

    /// Number of directions.
    pub(super) fn len(&self) -> usize {
        self.directions.len()
    }

    /// The value, between those at the nodes, in the direction of `vector` (any length above 0).
    pub(super) fn value(&self, values: &[f64], vector: [f64; 3]) -> f64 {
        let size = vector.map(f64::abs);
        let axis = if size[0] >= size[1] && size[0] >= size[2] {
            0
        } else if size[1] >= size[2] {
            1
        } else {
            2
        };
        let [major, first, second] = AXES[axis];
        let face = 2 * axis + usize::from(vector[major] < 0.0);
        let split = |part: f64| {
            let at = ((part / size[major] + 1.0) * 0.5 * CELLS as f64).clamp(0.0, CELLS as f64);
            let low = (at as usize).min(CELLS - 1);
            (low, at - low as f64)
        };
        let (row, along_rows) = split(vector[first]);
        let (column, along_columns) = split(vector[second]);
        let node =
            |row: usize, column: usize| values[(face * (CELLS + 1) + row) * (CELLS + 1) + column];
        let near =
            node(row, column) * (1.0 - along_columns) + node(row, column + 1) * along_columns;
        let far = node(row + 1, column) * (1.0 - along_columns)
            + node(row + 1, column + 1) * along_columns;
        near + (far - near) * along_rows
    }
}

/// The real spherical harmonics up to `degree` at a unit vector, orthonormal over the sphere, in the
/// order (0,0), (1,-1), (1,0), (1,1), (2,-2), ...
pub(super) fn harmonics(direction: [f64; 3], degree: usize) -> Vec<f64> {
    let [x, y, z] = direction;
    // (x + iy)^m, so that no angle is needed; Legendre functions come without their sin^m.
    let mut cosines = vec![1.0];
    let mut sines = vec![0.0];
    for m in 0..degree {
        cosines.push(x * cosines[m] - y * sines[m]);
        sines.push(x * sines[m] + y * cosines[m]);
    }
    let mut found = vec![0.0; (degree + 1) * (degree + 1)];
    for m in 0..=degree {
        // P_m^m = (2m - 1)!!, then upwards in the degree.
        let mut previous = 0.0;
        let mut current: f64 = (0..m).map(|k| 2.0 * k as f64 + 1.0).product();
        for l in m..=degree {
            if l > m {
                let next = ((2 * l - 1) as f64 * z * current - (l + m - 1) as f64 * previous)
                    / (l - m) as f64;
                previous = current;
                current = next;
            }
            let factorials: f64 = (l - m + 1..=l + m).map(|k| k as f64).product();
            let norm = ((2 * l + 1) as f64 / (4.0 * PI * factorials)).sqrt();
            let middle = l * l + l;
            if m == 0 {
                found[middle] = norm * current;
            } else {
                found[middle + m] = norm * 2.0_f64.sqrt() * current * cosines[m];
                found[middle - m] = norm * 2.0_f64.sqrt() * current * sines[m];
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn harmonics_are_orthonormal_over_the_sphere() {
        let sphere = Sphere::new();
        let values: Vec<Vec<f64>> = sphere.directions.iter().map(|&d| harmonics(d, 5)).collect();
        for a in 0..36 {
            for b in 0..=a {
                let product: f64 = values
                    .iter()
                    .zip(&sphere.weights)
                    .map(|(value, weight)| value[a] * value[b] * weight)
                    .sum();
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 0.02, "{a} {b}: {product}");
            }
        }
    }

    #[test]
    fn values_at_the_nodes_are_the_nodes_own() {
        let sphere = Sphere::new();
        let values: Vec<f64> = sphere
            .directions
            .iter()
            .map(|d| d[0] + 2.0 * d[1] * d[2])
            .collect();
        for (direction, value) in sphere.directions.iter().zip(&values) {
            let found = sphere.value(&values, direction.map(|part| part * 37.0));
            assert!((found - value).abs() < 1e-12, "{direction:?}");
        }
    }

    proptest! {
        #[test]
        fn smooth_functions_are_read_well(x in -1.0..1.0_f64, y in -1.0..1.0_f64, z in -1.0..1.0_f64) {
            let length = (x * x + y * y + z * z).sqrt();
            prop_assume!(length > 1e-3);
            let sphere = Sphere::new();
            let smooth = |d: [f64; 3]| 3.0 * d[0] - d[1] * d[1] + d[0] * d[2];
            let values: Vec<f64> = sphere.directions.iter().map(|&d| smooth(d)).collect();
            let expected = smooth([x / length, y / length, z / length]);
            // Bilinear error: h^2 / 8 (max |f_uu| + max |f_vv|) with cells of h = 0.1 in face coordinates,
            // where this function has 5.15 and 3.57.
            prop_assert!((sphere.value(&values, [x, y, z]) - expected).abs() < 0.011);
        }
    }
}
