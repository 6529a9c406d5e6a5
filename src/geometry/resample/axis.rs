//! Where output samples fall on one source axis, and with which weights.

/// How the first and last samples of source and target line up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// The outer faces of the edge voxels coincide: output sample `o` lies at
    /// `(o + 0.5) * n_in / n_out - 0.5`. `skimage.transform.resize`,
    /// `scipy.ndimage.zoom(grid_mode=True)`, and therefore nnU-Net.
    Faces,
    /// The centres of the first and of the last voxels coincide: output sample `o` lies at
    /// `o * (n_in - 1) / (n_out - 1)`; a single output sample takes the first source sample.
    /// `scipy.ndimage.zoom` as `TotalSegmentator` calls it.
    Centres,
    /// As `Faces`, evaluated in `f32` and kept inside the first sample:
    /// `torch.nn.functional.interpolate(align_corners=False)` and its `nearest-exact`.
    Torch,
}

/// Two neighbours and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinearTap {
    pub low: usize,
    pub high: usize,
    pub weights: [f64; 2],
}

/// Four neighbours `start..start + 4` and their cubic B-spline weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CubicTap {
    pub start: usize,
    pub weights: [f64; 4],
}

/// Edge copies that SciPy adds on both sides before it solves for spline coefficients.
pub(super) const SPLINE_PADDING: usize = 12;

/// Sample positions before clamping, evaluated in SciPy's order of operations.
fn positions(n_in: usize, n_out: usize, alignment: Alignment) -> impl Iterator<Item = f64> {
    let step = match alignment {
        Alignment::Faces => n_in as f64 / n_out as f64,
        Alignment::Torch => f64::from(n_in as f32 / n_out as f32),
        Alignment::Centres if n_out > 1 => (n_in as f64 - 1.0) / (n_out as f64 - 1.0),
        Alignment::Centres => 1.0,
    };
    (0..n_out).map(move |index| match alignment {
        Alignment::Faces => (index as f64 + 0.5) * step - 0.5,
        Alignment::Centres => index as f64 * step,
        Alignment::Torch => {
            f64::from((step as f32 * (index as f32 + 0.5) - 0.5).clamp(0.0, n_in as f32 - 1.0))
        }
    })
}

fn clamped(position: f64, n_in: usize) -> f64 {
    position.max(0.0).min(n_in as f64 - 1.0)
}

/// Nearest source index of every output sample; halves go up. `n_in` is positive.
pub(super) fn nearest(n_in: usize, n_out: usize, alignment: Alignment) -> Vec<usize> {
    if alignment == Alignment::Torch {
        let step = n_in as f32 / n_out as f32;
        return (0..n_out)
            .map(|index| ((index as f32 + 0.5) * step).floor() as usize)
            .map(|index| index.min(n_in - 1))
            .collect();
    }
    positions(n_in, n_out, alignment)
        .map(|position| (clamped(position, n_in) + 0.5).floor() as usize)
        .map(|index| index.min(n_in - 1))
        .collect()
}

/// Nearest neighbours written as taps, for an axis that is copied inside a linear resampling.
pub(super) fn nearest_taps(n_in: usize, n_out: usize, alignment: Alignment) -> Vec<LinearTap> {
    nearest(n_in, n_out, alignment)
        .into_iter()
        .map(|index| LinearTap {
            low: index,
            high: index,
            weights: [1.0, 0.0],
        })
        .collect()
}

/// Linear interpolation taps. `n_in` is positive.
///
/// Beyond the edge samples SciPy repeats the neighbours, not the position: the edge value is
/// weighted by `1 - t` and by `t` and summed, which can miss it by one bit.
pub(super) fn linear(n_in: usize, n_out: usize, alignment: Alignment) -> Vec<LinearTap> {
    let last = n_in as f64 - 1.0;
    let index = |position: f64| position.max(0.0).min(last) as usize;
    positions(n_in, n_out, alignment)
        .map(|position| {
            let below = position.floor();
            let first = 1.0 - (position - below);
            LinearTap {
                low: index(below),
                high: index(below + 1.0),
                // The last weight is what is missing to one, as SciPy computes it: this may differ
                // from `position - below` in the last bit.
                weights: [first, 1.0 - first],
            }
        })
        .collect()
}

/// Cubic B-spline taps on the line extended by [`SPLINE_PADDING`] samples on both sides.
pub(super) fn cubic(n_in: usize, n_out: usize, alignment: Alignment) -> Vec<CubicTap> {
    let padded = n_in + 2 * SPLINE_PADDING;
    positions(n_in, n_out, alignment)
        .map(|position| {
            let position = clamped(position + SPLINE_PADDING as f64, padded);
            let below = position.floor();
            let t = position - below;
            let s = 1.0 - t;
            let w0 = s * s * s / 6.0;
            let w1 = (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0;
            let w2 = (s * s * (s - 2.0) * 3.0 + 4.0) / 6.0;
            CubicTap {
                // Positions stay within half a voxel of the source samples, well inside the padding.
                start: (below as usize).saturating_sub(1).min(padded - 4),
                weights: [w0, w1, w2, 1.0 - w0 - w1 - w2],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_takes_the_middle_of_pairs() {
        let taps = linear(4, 2, Alignment::Faces);
        assert_eq!(
            (taps[0].low, taps[0].high, taps[0].weights),
            (0, 1, [0.5; 2])
        );
        assert_eq!(
            (taps[1].low, taps[1].high, taps[1].weights),
            (2, 3, [0.5; 2])
        );
        // Ties go up, as floor(x + 0.5) does.
        assert_eq!(nearest(4, 2, Alignment::Faces), [1, 3]);
    }

    #[test]
    fn doubling_repeats_the_edges() {
        let taps = linear(2, 4, Alignment::Faces);
        assert_eq!((taps[0].low, taps[0].high), (0, 0));
        assert_eq!(
            (taps[1].low, taps[1].high, taps[1].weights[0]),
            (0, 1, 0.75)
        );
        assert_eq!((taps[3].low, taps[3].high), (1, 1));
    }

    #[test]
    fn centres_map_first_to_first_and_last_to_last() {
        assert_eq!(nearest(5, 3, Alignment::Centres), [0, 2, 4]);
        assert_eq!(nearest(5, 1, Alignment::Centres), [0]);
        assert_eq!(nearest(1, 3, Alignment::Centres), [0, 0, 0]);
    }

    #[test]
    fn cubic_weights_sum_to_one_and_stay_inside() {
        for alignment in [Alignment::Faces, Alignment::Centres] {
            for (n_in, n_out) in [(1, 1), (1, 7), (2, 3), (9, 4), (5, 100), (300, 2)] {
                for tap in cubic(n_in, n_out, alignment) {
                    assert!((tap.weights.iter().sum::<f64>() - 1.0).abs() < 1e-15);
                    assert!(tap.start + 4 <= n_in + 2 * SPLINE_PADDING);
                }
            }
        }
    }
}
