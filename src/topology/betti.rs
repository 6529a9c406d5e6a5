//! Betti numbers of a structure: its pieces, the tunnels through it and the cavities inside.
//!
//! Voxels that share a corner are connected, background that shares a face is: the (26, 6) topology of
//! [`super::thin`]. Pieces and cavities are counted as components; tunnels follow from the Euler
//! characteristic of the union of closed voxels, which is counted corner by corner from the eight voxels
//! around each (Toriwaki and Yonekura, "Euler number and connectivity indexes of a three dimensional digital
//! picture", Forma 17, 2002).

use super::components::{Connectivity, TooManyRuns, label_components};
use ndarray::{Array3, ArrayView3, s};

/// What a structure is made of, topologically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BettiNumbers {
    /// Pieces (26-connected): Betti-0.
    pub pieces: u64,
    /// Tunnels, as through a ring: Betti-1.
    pub tunnels: u64,
    /// Cavities, closed off from the outside: Betti-2.
    pub cavities: u64,
}

/// Betti numbers of `mask` (`[z, y, x]`); outside of it is background. Cost: three passes and a padded
/// copy; memory: 2 bytes per voxel and 16 per run.
///
/// # Errors
/// [`TooManyRuns`].
pub fn betti_numbers(mask: ArrayView3<'_, bool>) -> Result<BettiNumbers, TooManyRuns> {
    let (z, y, x) = mask.dim();
    let mut padded = Array3::from_elem((z + 2, y + 2, x + 2), false);
    padded.slice_mut(s![1..=z, 1..=y, 1..=x]).assign(&mask);
    let euler = euler_characteristic(padded.view());
    let pieces = label_components(padded.view(), Connectivity::TwentySix)?.len() as i64;
    padded.mapv_inplace(|inside| !inside);
    let background = label_components(padded.view(), Connectivity::Six)?.len() as i64;
    // The padding makes the outside one component.
    let cavities = background - 1;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(BettiNumbers {
        pieces: count(pieces),
        tunnels: count(pieces + cavities - euler),
        cavities: count(cavities),
    })
}

/// Vertices minus edges plus faces minus voxels of the union of closed voxels; `padded` has a border of
/// background.
fn euler_characteristic(padded: ArrayView3<'_, bool>) -> i64 {
    let corners = padded.windows([2, 2, 2]);
    corners
        .into_iter()
        .map(|around| {
            let bits = around.iter().enumerate();
            let code = bits.fold(0, |code, (bit, &inside)| code | usize::from(inside) << bit);
            i64::from(CORNER_TERMS[code])
        })
        .sum()
}

/// What a corner adds to the Euler characteristic, by the voxels around it (bit `4 dz + 2 dy + dx`): the corner
/// itself, the three edges and three faces that start here towards larger indices, and the voxel there.
const CORNER_TERMS: [i8; 256] = {
    const X: usize = 0b1010_1010;
    const Y: usize = 0b1100_1100;
    const Z: usize = 0b1111_0000;
    let mut terms = [0; 256];
    let mut code = 1;
    while code < 256 {
        let edges = (code & X != 0) as i8 + (code & Y != 0) as i8 + (code & Z != 0) as i8;
        let faces =
            (code & X & Y != 0) as i8 + (code & X & Z != 0) as i8 + (code & Y & Z != 0) as i8;
        let voxel = (code & X & Y & Z != 0) as i8;
        terms[code] = 1 - edges + faces - voxel;
        code += 1;
    }
    terms
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn of(shape: [usize; 3], inside: impl Fn([usize; 3]) -> bool) -> [u64; 3] {
        let mask = Array3::from_shape_fn(shape, |(z, y, x)| inside([z, y, x]));
        let found = betti_numbers(mask.view()).unwrap();
        [found.pieces, found.tunnels, found.cavities]
    }

    fn in_square(at: [usize; 3], center: [usize; 2], half: usize) -> bool {
        (0..2).all(|axis| at[axis + 1].abs_diff(center[axis]) <= half)
    }

    #[test]
    fn shapes_by_hand() {
        assert_eq!(of([3, 3, 3], |_| false), [0, 0, 0]);
        assert_eq!(of([1, 1, 1], |_| true), [1, 0, 0]);
        assert_eq!(of([3, 3, 3], |at| at != [1, 1, 1]), [1, 0, 1]);
        // Two voxels that touch in a corner, and two that do not touch.
        assert_eq!(of([2, 2, 2], |at| at == [0; 3] || at == [1; 3]), [1, 0, 0]);
        assert_eq!(of([1, 1, 3], |at| at[2] != 1), [2, 0, 0]);
        // A ring, two rings side by side, a figure of eight, and a shell pierced twice.
        let ring = |at: [usize; 3], x: usize| in_square(at, [2, x], 2) && !in_square(at, [2, x], 1);
        assert_eq!(of([1, 5, 5], |at| ring(at, 2)), [1, 1, 0]);
        assert_eq!(of([1, 5, 11], |at| ring(at, 2) || ring(at, 8)), [2, 2, 0]);
        assert_eq!(of([1, 5, 9], |at| ring(at, 2) || ring(at, 6)), [1, 2, 0]);
        let pierced = |at: [usize; 3]| at != [1, 1, 1] && at != [0, 1, 1] && at != [2, 1, 1];
        assert_eq!(of([3, 3, 3], pierced), [1, 1, 0]);
    }

    /// Cells of the cubical complex, each once: coordinates doubled, odd where the cell extends.
    fn euler_by_cells(mask: &Array3<bool>) -> i64 {
        let mut cells = HashSet::new();
        for ((z, y, x), _) in mask.indexed_iter().filter(|(_, inside)| **inside) {
            for step in 0..27 {
                cells.insert([2 * z + step / 9, 2 * y + step / 3 % 3, 2 * x + step % 3]);
            }
        }
        let sign = |cell: &[usize; 3]| match cell.iter().filter(|c| **c % 2 == 1).count() {
            0 | 2 => 1,
            _ => -1,
        };
        cells.iter().map(sign).sum()
    }

    proptest! {
        #[test]
        fn pieces_minus_tunnels_plus_cavities_is_what_the_cells_add_up_to(
            shape in [1_usize..6, 1_usize..6, 1_usize..6],
            voxels in prop::collection::vec(prop::bool::weighted(0.6), 125),
        ) {
            let count = shape.iter().product();
            let mask = Array3::from_shape_vec(shape, voxels[..count].to_vec()).unwrap();
            let found = betti_numbers(mask.view()).unwrap();
            let [b0, b1, b2] = [found.pieces, found.tunnels, found.cavities].map(|n| n as i64);
            prop_assert_eq!(b0 - b1 + b2, euler_by_cells(&mask));
        }
    }
}
