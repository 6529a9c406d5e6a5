//! Vectors of three numbers in millimetres, `[z, y, x]`, and the principal axis of a set of points.

/// A position or direction.
pub(super) type Vector = [f64; 3];

pub(super) fn add(a: Vector, b: Vector) -> Vector {
    std::array::from_fn(|axis| a[axis] + b[axis])
}

pub(super) fn sub(a: Vector, b: Vector) -> Vector {
    std::array::from_fn(|axis| a[axis] - b[axis])
}

pub(super) fn scale(a: Vector, factor: f64) -> Vector {
    a.map(|value| value * factor)
}

pub(super) fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn norm(a: Vector) -> f64 {
    dot(a, a).sqrt()
}

pub(super) fn distance(a: Vector, b: Vector) -> f64 {
    norm(sub(a, b))
}

/// `a` at length one; no direction stays none.
pub(super) fn unit(a: Vector) -> Vector {
    let length = norm(a);
    if length > 0.0 {
        scale(a, 1.0 / length)
    } else {
        [0.0; 3]
    }
}

/// Cosine of the angle between two directions; 0 when one has no length.
pub(super) fn cosine(a: Vector, b: Vector) -> f64 {
    dot(unit(a), unit(b)).clamp(-1.0, 1.0)
}

/// The point a fraction `t` of the way from `a` to `b`.
pub(super) fn between(a: Vector, b: Vector, t: f64) -> Vector {
    add(a, scale(sub(b, a), t))
}

/// Length of a line through all points.
pub(super) fn polyline_length(points: &[Vector]) -> f64 {
    points
        .windows(2)
        .map(|pair| distance(pair[0], pair[1]))
        .sum()
}

/// A Gaussian of one step along the line, ends kept.
pub(super) fn smoothed(points: &[Vector]) -> Vec<Vector> {
    const WEIGHTS: [f64; 5] = [
        0.054_488_7,
        0.244_201_3,
        0.402_619_9,
        0.244_201_3,
        0.054_488_7,
    ];
    let last = points.len().saturating_sub(1);
    (0..points.len())
        .map(|at| {
            if at == 0 || at == last {
                return points[at];
            }
            (0..5).fold([0.0; 3], |sum, k| {
                let other = (at + k).saturating_sub(2).min(last);
                add(sum, scale(points[other], WEIGHTS[k]))
            })
        })
        .collect()
}

/// Standard deviations along the principal axes of a set of points, largest first, and the first axis
/// (unit length, sign arbitrary but fixed). Jacobi's method on the covariance; no points give zeros.
pub(super) fn principal_axes(points: impl Iterator<Item = Vector> + Clone) -> ([f64; 3], Vector) {
    let mut count = 0.0;
    let mut mean = [0.0; 3];
    for point in points.clone() {
        count += 1.0;
        mean = add(mean, point);
    }
    if count == 0.0 {
        return ([0.0; 3], [0.0; 3]);
    }
    mean = scale(mean, 1.0 / count);
    let mut m = [[0.0; 3]; 3];
    for point in points {
        let d = sub(point, mean);
        for (row, a) in m.iter_mut().zip(d) {
            for (value, b) in row.iter_mut().zip(d) {
                *value += a * b / count;
            }
        }
    }
    let mut axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    // Converges quadratically: a dozen sweeps reach the last bit.
    for _ in 0..12 {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if m[p][q].abs() < 1e-300 {
                continue;
            }
            let theta = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
            let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let c = 1.0 / (t * t + 1.0).sqrt();
            let s = t * c;
            for row in &mut m {
                let (a, b) = (row[p], row[q]);
                row[p] = c * a - s * b;
                row[q] = s * a + c * b;
            }
            let (a, b) = (m[p], m[q]);
            m[p] = std::array::from_fn(|k| c * a[k] - s * b[k]);
            m[q] = std::array::from_fn(|k| s * a[k] + c * b[k]);
            for row in &mut axes {
                let (a, b) = (row[p], row[q]);
                row[p] = c * a - s * b;
                row[q] = s * a + c * b;
            }
        }
    }
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| m[b][b].total_cmp(&m[a][a]));
    let spread = order.map(|axis| m[axis][axis].max(0.0).sqrt());
    (spread, std::array::from_fn(|row| axes[row][order[0]]))
}

/// Value at fraction `q` (0 to 1) of the sorted values, the lower of two; 0 for none.
pub(super) fn quantile(values: impl Iterator<Item = f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * q) as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_principal_axis_of_a_slanted_line() {
        let points: Vec<Vector> = (0..10)
            .map(|i| scale([1.0, 2.0, 2.0], f64::from(i)))
            .collect();
        let (spread, axis) = principal_axes(points.iter().copied());
        assert!((cosine(axis, [1.0, 2.0, 2.0]).abs() - 1.0).abs() < 1e-12);
        assert!(
            (spread[0] - 3.0 * 8.25_f64.sqrt()).abs() < 1e-9 && spread[1] < 1e-6,
            "{spread:?}"
        );
        assert_eq!(principal_axes(std::iter::empty()).0, [0.0; 3]);
        assert_eq!(principal_axes(std::iter::once([1.0; 3])).0, [0.0; 3]);
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile([].into_iter(), 0.5), 0.0);
        assert_eq!(quantile([3.0, 1.0, 2.0].into_iter(), 0.5), 2.0);
        assert_eq!(quantile([3.0, 1.0].into_iter(), 0.75), 1.0);
    }
}
