//! Joining what touches only along an edge or at a corner.

use crate::topology::components::TooManyRuns;
use crate::topology::{Connectivity, label_components};
use ndarray::Array3;

/// A step between two voxels, `[z, y, x]`.
type Step = [isize; 3];

/// Half of the diagonal steps: the others are these backwards.
const ALONG_EDGES: [Step; 6] = [
    [0, 1, 1],
    [0, 1, -1],
    [1, 0, 1],
    [1, 0, -1],
    [1, 1, 0],
    [1, -1, 0],
];
const AT_CORNERS: [Step; 4] = [[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]];
const FACES: [Step; 6] = [
    [-1, 0, 0],
    [0, -1, 0],
    [0, 0, -1],
    [0, 0, 1],
    [0, 1, 0],
    [1, 0, 0],
];
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// Fills background so that pieces of a label that touch along an edge or at a corner touch at faces, for the labels for which
/// `chosen` holds. Returns how many voxels were filled.
///
/// Only contacts of the map as it came count, not those that a filled voxel makes. One voxel joins two pieces across an edge, one or two across a corner. Contacts across edges come first, each in scan order, and
/// only those between pieces that are not yet joined, so no more is filled than joining takes. Where other labels leave no way the
/// pieces stay apart. Cost: the components of the map, 4 bytes per voxel, and one look around every voxel of the labels.
///
/// # Errors
/// [`TooManyRuns`] when there are more pieces than 32 bits can number.
pub(super) fn bridge(
    labels: &mut Array3<u16>,
    chosen: &dyn Fn(u16) -> bool,
) -> Result<u64, TooManyRuns> {
    let components = label_components(labels.view(), Connectivity::Six)?;
    let pieces = components.numbers();
    let joined = (0..=components.len() as u32).collect();
    let mut bridger = Bridger {
        labels,
        pieces,
        joined,
        filled: 0,
    };
    for steps in [&ALONG_EDGES[..], &AT_CORNERS[..]] {
        bridger.pass(steps, chosen);
    }
    Ok(bridger.filled)
}

/// Bit of a piece's number. Pieces are fewer: each takes 16 bytes and more before it comes here.
const FILLED: u32 = 1 << 31;

struct Bridger<'a> {
    labels: &'a mut Array3<u16>,
    /// Number of each voxel's piece, 0 for background; with [`FILLED`] where it was background.
    pieces: Array3<u32>,
    /// Forest of joined pieces.
    joined: Vec<u32>,
    filled: u64,
}

impl Bridger<'_> {
    fn pass(&mut self, steps: &[Step], chosen: &dyn Fn(u16) -> bool) {
        let (layers, rows, columns) = self.labels.dim();
        for z in 0..layers {
            for y in 0..rows {
                for x in 0..columns {
                    let label = self.labels[[z, y, x]];
                    if label == 0 || self.is_filled([z, y, x]) || !chosen(label) {
                        continue;
                    }
                    for &step in steps {
                        self.join([z, y, x], step, label);
                    }
                }
            }
        }
    }

    /// Joins a voxel with that a diagonal step away, if both are `label` and of pieces that are apart.
    fn join(&mut self, from: [usize; 3], step: Step, label: u16) {
        let Some(to) = moved(from, step) else {
            return;
        };
        if self.labels.get(to) != Some(&label)
            || self.is_filled(to)
            || self.root(from) == self.root(to)
        {
            return;
        }
        let ways = ORDERS
            .iter()
            .filter_map(|order| self.voxels_to_fill(from, step, *order, label));
        let Some(way) = ways.min_by_key(Vec::len) else {
            return;
        };
        for voxel in way {
            self.labels[voxel] = label;
            self.pieces[voxel] = self.pieces[from] | FILLED;
            self.filled += 1;
            for face in FACES {
                let Some(next) = moved(voxel, face) else {
                    continue;
                };
                if self.labels.get(next) == Some(&label) {
                    self.unite(voxel, next);
                }
            }
        }
    }

    /// The background on the way of single steps in that order; none if another label is on it.
    fn voxels_to_fill(
        &self,
        from: [usize; 3],
        step: Step,
        order: [usize; 3],
        label: u16,
    ) -> Option<Vec<[usize; 3]>> {
        let mut at = from;
        let mut way = Vec::new();
        for axis in order.into_iter().filter(|&axis| step[axis] != 0) {
            at[axis] = at[axis].checked_add_signed(step[axis])?;
            match self.labels.get(at)? {
                0 => way.push(at),
                &other if other == label => {}
                _ => return None,
            }
        }
        Some(way)
    }

    fn is_filled(&self, voxel: [usize; 3]) -> bool {
        self.pieces[voxel] & FILLED != 0
    }

    fn root(&mut self, voxel: [usize; 3]) -> u32 {
        super::surface::root(&mut self.joined, self.pieces[voxel] & !FILLED)
    }

    fn unite(&mut self, a: [usize; 3], b: [usize; 3]) {
        let (a, b) = (self.root(a), self.root(b));
        self.joined[a.max(b) as usize] = a.min(b);
    }
}

/// The voxel a step away, unless it would have a negative index.
fn moved(from: [usize; 3], step: Step) -> Option<[usize; 3]> {
    let mut to = from;
    for (at, by) in to.iter_mut().zip(step) {
        *at = at.checked_add_signed(by)?;
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(_: u16) -> bool {
        true
    }

    #[test]
    fn one_voxel_joins_an_edge_and_two_a_corner() {
        let mut edge = Array3::zeros([1, 2, 2]);
        edge[[0, 0, 0]] = 5;
        edge[[0, 1, 1]] = 5;
        assert_eq!(bridge(&mut edge, &all).unwrap(), 1);
        assert_eq!(edge.iter().filter(|&&voxel| voxel == 5).count(), 3);
        let mut corner = Array3::zeros([2, 2, 2]);
        corner[[0, 0, 0]] = 5;
        corner[[1, 1, 1]] = 5;
        assert_eq!(bridge(&mut corner, &all).unwrap(), 2);
    }

    #[test]
    fn what_is_joined_elsewhere_is_left_alone() {
        // A ring of faces with one open edge contact.
        let mut ring = Array3::from_shape_vec([1, 3, 3], vec![0, 1, 1, 1, 0, 1, 1, 1, 1]).unwrap();
        let before = ring.clone();
        assert_eq!(bridge(&mut ring, &all).unwrap(), 0);
        assert_eq!(ring, before);
    }

    #[test]
    fn other_labels_are_never_overwritten() {
        let blocked = Array3::from_shape_vec([1, 2, 2], vec![1, 2, 3, 1]).unwrap();
        let mut map = blocked.clone();
        assert_eq!(bridge(&mut map, &all).unwrap(), 0);
        assert_eq!(map, blocked);
        // Of the two ways one is free.
        let mut map = Array3::from_shape_vec([1, 2, 2], vec![1, 2, 0, 1]).unwrap();
        assert_eq!(bridge(&mut map, &|label| label == 1).unwrap(), 1);
        assert_eq!(map.as_slice().unwrap(), [1, 2, 1, 1]);
    }

    #[test]
    fn labels_that_are_not_chosen_stay() {
        let mut map = Array3::from_shape_vec([1, 2, 2], vec![1, 0, 0, 1]).unwrap();
        assert_eq!(bridge(&mut map, &|label| label == 2).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn what_touched_touches_at_faces(mask in prop::collection::vec(0..2_u16, 60)) {
            let before = Array3::from_shape_vec([3, 4, 5], mask).unwrap();
            let mut map = before.clone();
            let filled = bridge(&mut map, &all).unwrap();
            let numbers = |map: &Array3<u16>, connectivity| {
                label_components(map.view(), connectivity).unwrap().numbers()
            };
            let touching = numbers(&before, Connectivity::TwentySix);
            let joined = numbers(&map, Connectivity::Six);
            let mut surface_of = std::collections::BTreeMap::new();
            for (&piece, &surface) in touching.iter().zip(&joined).filter(|(piece, _)| **piece > 0) {
                prop_assert_eq!(*surface_of.entry(piece).or_insert(surface), surface);
            }
            let changed = map.iter().zip(&before).filter(|(a, b)| a != b).count();
            prop_assert_eq!(changed as u64, filled);
            prop_assert!(map.iter().zip(&before).all(|(after, before)| after >= before));
        }
    }
}
