//! Scores of tubular structures: do prediction and reference run along the same lines, and are they
//! connected alike?

use crate::geometry::bounds::BoundingBox;
use crate::topology::betti::betti_numbers;
use crate::topology::{Foreground, thin};
use ndarray::{Array3, ArrayView3};

/// Names of the scores that [`tube_scores`] makes.
pub const NAMES: [&str; 3] = ["cldice", "betti0_error", "betti1_error"];

/// Scores of a prediction of tubes, as [`NAMES`] has them; `None` where a mask is too large to number its voxels.
///
/// clDice (Shit et al., CVPR 2021, equations 1 to 3) is the harmonic mean of two shares: of the centre line
/// of the prediction that lies in the reference, and of the centre line of the reference that lies in the
/// prediction. The centre lines are those of [`thin`]. Betti errors are the differences of the numbers of
/// pieces and of tunnels over the whole volume, without sign.
///
/// `bounds` is a box around both masks, of which one holds a voxel at least. Cost: thinning of both masks.
pub fn tube_scores(
    prediction: ArrayView3<'_, u16>,
    reference: ArrayView3<'_, u16>,
    bounds: BoundingBox,
    spacing_mm: [f64; 3],
    inside: impl Fn(u16, u16) -> bool,
) -> [Option<f64>; 3] {
    let crops = [&prediction, &reference].map(|volume| bounds.view(volume));
    let [Ok(prediction), Ok(reference)] = crops else {
        return [None; 3];
    };
    let mask = |volume: &ArrayView3<'_, u16>| {
        ndarray::Zip::from(volume)
            .and(&reference)
            .map_collect(|&label, &reference| inside(label, reference))
    };
    let masks = [mask(&prediction), mask(&reference)];
    let [p, r] = [&masks[0], &masks[1]];
    let cldice = match (
        share_of_center_line(p, r, spacing_mm),
        share_of_center_line(r, p, spacing_mm),
    ) {
        (Some(precision), Some(recall)) if precision + recall > 0.0 => {
            Some(2.0 * precision * recall / (precision + recall))
        }
        (Some(_), Some(_)) => Some(0.0),
        _ => None,
    };
    let [p, r] = [p, r].map(|mask| betti_numbers(mask.view()).ok());
    let error = |count: fn(&crate::topology::betti::BettiNumbers) -> u64| {
        Some(count(p.as_ref()?).abs_diff(count(r.as_ref()?)) as f64)
    };
    [
        cldice,
        error(|numbers| numbers.pieces),
        error(|numbers| numbers.tunnels),
    ]
}

/// Which share of the centre line of `tube` lies in `other`; 0 where there is no line.
fn share_of_center_line(
    tube: &Array3<bool>,
    other: &Array3<bool>,
    spacing_mm: [f64; 3],
) -> Option<f64> {
    let voxels = Foreground::of(tube.view(), spacing_mm, |inside| inside).ok()?;
    let line = thin(&voxels, &voxels.depth_mm());
    let hits = line
        .iter()
        .filter(|&&index| other[voxels.voxel(index as usize)])
        .count();
    Some(if line.is_empty() {
        0.0
    } else {
        hits as f64 / line.len() as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores of two masks of one shape, label 1.
    fn scores(
        prediction: impl Fn([usize; 3]) -> bool,
        reference: impl Fn([usize; 3]) -> bool,
    ) -> [Option<f64>; 3] {
        let of = |inside: &dyn Fn([usize; 3]) -> bool| {
            Array3::from_shape_fn([9, 9, 30], |(z, y, x)| u16::from(inside([z, y, x])))
        };
        let (p, r) = (of(&prediction), of(&reference));
        let whole = BoundingBox::whole([9, 9, 30]);
        tube_scores(p.view(), r.view(), whole, [1.0; 3], |label, _| label == 1)
    }

    fn tube(at: [usize; 3]) -> bool {
        at[0].abs_diff(4) <= 1 && at[1].abs_diff(4) <= 1
    }

    #[test]
    fn a_thinner_tube_along_the_same_line_is_perfect() {
        let line = |at: [usize; 3]| at[0] == 4 && at[1] == 4;
        assert_eq!(scores(line, tube), [Some(1.0), Some(0.0), Some(0.0)]);
        assert_eq!(scores(tube, tube), [Some(1.0), Some(0.0), Some(0.0)]);
    }

    #[test]
    fn gaps_and_rings_are_counted() {
        let gap = |at: [usize; 3]| tube(at) && !(12..15).contains(&at[2]);
        let [cldice, pieces, tunnels] = scores(gap, tube);
        assert_eq!((pieces, tunnels), (Some(1.0), Some(0.0)));
        // All of the broken line is right; of the whole one, 3 voxels of at most 30 are missing.
        let cldice = cldice.unwrap();
        assert!((0.93..0.96).contains(&cldice), "{cldice}");
        let ring = |at: [usize; 3]| {
            at[0] == 4
                && at[1] <= 8
                && at[2] <= 8
                && [0, 8].iter().any(|edge| at[1..].contains(edge))
        };
        assert_eq!(scores(ring, ring)[0], Some(1.0));
        assert_eq!(scores(ring, tube)[2], Some(1.0));
        assert_eq!(scores(|_| false, tube), [Some(0.0), Some(1.0), Some(0.0)]);
    }
}
