//! The voxel-to-world transform.

/// Maps voxel indices `(i, j, k) = (x, y, z)` to RAS+ millimetres: `world = linear * ijk + origin_mm`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Row-major 3x3 part: column `a` is the step in millimetres along voxel axis `a` (x, y, z).
    pub linear: [[f64; 3]; 3],
    /// World position of the centre of voxel (0, 0, 0), in millimetres.
    pub origin_mm: [f64; 3],
}

impl Affine {
    /// The map that moves nothing.
    pub const IDENTITY: Self = Self {
        linear: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        origin_mm: [0.0; 3],
    };

    /// The map that applies `first` and then this one.
    #[must_use]
    pub fn after(&self, first: &Self) -> Self {
        let column =
            |axis: usize| self.apply_vector(std::array::from_fn(|row| first.linear[row][axis]));
        let columns = [column(0), column(1), column(2)];
        Self {
            linear: std::array::from_fn(|row| columns.map(|column| column[row])),
            origin_mm: self.apply(first.origin_mm),
        }
    }

    /// Axis-aligned RAS+ affine with voxel steps `spacing_mm` given in `(x, y, z)` order.
    pub fn from_spacing(spacing_mm: [f64; 3], origin_mm: [f64; 3]) -> Self {
        let mut linear = [[0.0; 3]; 3];
        for (axis, row) in linear.iter_mut().enumerate() {
            row[axis] = spacing_mm[axis];
        }
        Self { linear, origin_mm }
    }

    /// World position, in millimetres RAS+, of the (possibly fractional) voxel position `ijk`.
    pub fn apply(&self, ijk: [f64; 3]) -> [f64; 3] {
        let step = self.apply_vector(ijk);
        std::array::from_fn(|row| step[row] + self.origin_mm[row])
    }

    /// World displacement, in millimetres RAS+, of the voxel displacement `ijk`.
    pub fn apply_vector(&self, ijk: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|row| {
            self.linear[row]
                .iter()
                .zip(ijk)
                .map(|(coefficient, index)| coefficient * index)
                .sum()
        })
    }

    /// Length in millimetres of one voxel step along each axis, `(x, y, z)` order.
    pub fn column_norms_mm(&self) -> [f64; 3] {
        std::array::from_fn(|column| {
            self.linear
                .iter()
                .map(|row| row[column] * row[column])
                .sum::<f64>()
                .sqrt()
        })
    }

    /// Determinant of the linear part: the signed volume of one voxel in mm³.
    pub fn determinant(&self) -> f64 {
        let m = &self.linear;
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    }

    /// The world-to-voxel transform, or `None` when the affine is singular or not finite.
    pub fn inverse(&self) -> Option<Self> {
        let determinant = self.determinant();
        if !determinant.is_finite() || determinant == 0.0 {
            return None;
        }
        let m = &self.linear;
        let cofactor = |r: usize, c: usize| {
            let (r1, r2) = ((r + 1) % 3, (r + 2) % 3);
            let (c1, c2) = ((c + 1) % 3, (c + 2) % 3);
            m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
        };
        let linear: [[f64; 3]; 3] = std::array::from_fn(|row| {
            std::array::from_fn(|column| cofactor(column, row) / determinant)
        });
        let rotation = Self {
            linear,
            origin_mm: [0.0; 3],
        };
        let moved = rotation.apply_vector(self.origin_mm);
        Some(Self {
            linear,
            origin_mm: moved.map(|value| -value),
        })
    }

    /// Whether every entry is a finite number.
    pub fn is_finite(&self) -> bool {
        self.linear
            .iter()
            .flatten()
            .chain(&self.origin_mm)
            .all(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBLIQUE: Affine = Affine {
        linear: [[0.0, -0.8, 0.1], [0.7, 0.0, 0.2], [0.05, 0.0, 3.0]],
        origin_mm: [12.0, -4.0, 900.0],
    };

    #[test]
    fn inverse_brings_a_voxel_back() {
        let inverse = OBLIQUE.inverse().unwrap();
        let back = inverse.apply(OBLIQUE.apply([3.0, 5.0, 7.5]));
        for (found, expected) in back.into_iter().zip([3.0, 5.0, 7.5]) {
            assert!((found - expected).abs() < 1e-10, "{found} {expected}");
        }
    }

    #[test]
    fn a_flat_affine_has_no_inverse() {
        let flat = Affine::from_spacing([1.0, 0.0, 1.0], [0.0; 3]);
        assert_eq!(flat.inverse(), None);
    }

    #[test]
    fn columns_are_voxel_steps() {
        let norms = OBLIQUE.column_norms_mm();
        assert!((norms[1] - 0.8).abs() < 1e-12);
        assert_eq!(OBLIQUE.apply_vector([1.0, 0.0, 0.0]), [0.0, 0.7, 0.05]);
    }
}
