//! Small dense systems of linear equations.

/// Solves `matrix * x = right` for a symmetric positive definite matrix (row-major, `n * n`) by
/// Cholesky's decomposition; `None` when the sizes do not fit or the matrix is not positive definite.
///
/// Only the lower triangle is read. Cost: `n³ / 6` multiplications; memory: as the matrix.
pub fn solve_positive_definite(matrix: &[f64], right: &[f64]) -> Option<Vec<f64>> {
    let n = right.len();
    if matrix.len() != n * n {
        return None;
    }
    // The triangle of the decomposition column after column, each in one piece: what is known of a column is summed
    // for all its rows at once, which needs no sum to wait for itself.
    let mut columns: Vec<f64> = Vec::with_capacity(n * n);
    let mut known = vec![0.0; n];
    for column in 0..n {
        known.fill(0.0);
        for earlier in columns.chunks_exact(n) {
            let factor = earlier[column];
            for (sum, value) in known[column..].iter_mut().zip(&earlier[column..]) {
                *sum += value * factor;
            }
        }
        let rest = |row: usize| matrix[row * n + column] - known[row];
        let diagonal = rest(column);
        if !(diagonal > 0.0 && diagonal.is_finite()) {
            return None;
        }
        let diagonal = diagonal.sqrt();
        columns.resize(column * n + column, 0.0);
        columns.push(diagonal);
        columns.extend((column + 1..n).map(|row| rest(row) / diagonal));
    }
    let mut x = right.to_vec();
    known.fill(0.0);
    for (row, column) in columns.chunks_exact(n.max(1)).enumerate() {
        x[row] = (x[row] - known[row]) / column[row];
        for (sum, value) in known[row + 1..].iter_mut().zip(&column[row + 1..]) {
            *sum += value * x[row];
        }
    }
    for (row, column) in columns.chunks_exact(n.max(1)).enumerate().rev() {
        let known: f64 = (row + 1..n).map(|k| column[k] * x[k]).sum();
        x[row] = (x[row] - known) / column[row];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_system_by_hand() {
        let x = solve_positive_definite(&[4.0, 2.0, 2.0, 3.0], &[10.0, 8.0]).unwrap();
        assert!(
            (x[0] - 1.75).abs() < 1e-12 && (x[1] - 1.5).abs() < 1e-12,
            "{x:?}"
        );
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert!(solve_positive_definite(&[0.0], &[1.0]).is_none());
        assert!(solve_positive_definite(&[1.0, 2.0, 2.0, 1.0], &[1.0, 1.0]).is_none());
        assert!(solve_positive_definite(&[f64::NAN], &[1.0]).is_none());
        assert!(solve_positive_definite(&[1.0, 0.0], &[1.0, 1.0]).is_none());
        assert_eq!(solve_positive_definite(&[], &[]), Some(vec![]));
    }

    proptest! {
        #[test]
        fn the_solution_solves(values in prop::collection::vec(-1.0..1.0_f64, 20)) {
            let n = 4;
            let factor = &values[..16];
            let mut matrix = vec![0.0; 16];
            for row in 0..n {
                for column in 0..n {
                    matrix[row * n + column] = (0..n)
                        .map(|k| factor[row * n + k] * factor[column * n + k])
                        .sum::<f64>()
                        + if row == column { 0.5 } else { 0.0 };
                }
            }
            let x = solve_positive_definite(&matrix, &values[16..]).unwrap();
            for row in 0..n {
                let product: f64 = (0..n).map(|k| matrix[row * n + k] * x[k]).sum();
                prop_assert!((product - values[16 + row]).abs() < 1e-9);
            }
        }
    }
}
