//! Sets of labels.

use ndarray::{ArrayView1, Axis};

/// Labels of a row that are looked at together: most of a volume is background.
const BLOCK: usize = 64;

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// A set of labels that is quick to ask, voxel after voxel. Background is never in it.
#[derive(Debug, Clone)]
pub struct LabelSet {
    /// One bit per label. The length is part of the type, so that no label can lie outside.
    words: Box<[u64; WORDS]>,
}

impl LabelSet {
    /// The set of `labels`; 0 among them is left out.
    pub fn new<'a>(labels: impl IntoIterator<Item = &'a u16>) -> Self {
        let mut words = Box::new([0; WORDS]);
        for &label in labels.into_iter().filter(|&&label| label != 0) {
            words[usize::from(label) / 64] |= 1 << (label % 64);
        }
        Self { words }
    }

    /// Whether the label is in the set.
    pub fn holds(&self, label: u16) -> bool {
        self.words[usize::from(label) / 64] >> (label % 64) & 1 == 1
    }

    /// The indices of a row at which a label of the set stands, ascending. Cost: blocks of background are passed
    /// over at the speed of memory.
    pub fn places<'a>(
        &'a self,
        row: ArrayView1<'a, u16>,
    ) -> impl DoubleEndedIterator<Item = usize> + 'a {
        let length = row.len();
        (0..length.div_ceil(BLOCK))
            .map(move |block| block * BLOCK..((block + 1) * BLOCK).min(length))
            .filter(move |block| {
                let labels = row.slice_axis(Axis(0), block.clone().into());
                labels.fold(0, |any, &label| any | label) != 0
            })
            .flatten()
            .filter(move |&x| self.holds(row[x]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, s};

    #[test]
    fn a_set_holds_its_labels_and_no_background() {
        let set = LabelSet::new(&[0, 1, 64, 65535]);
        let found: Vec<u16> = (0..=u16::MAX).filter(|&label| set.holds(label)).collect();
        assert_eq!(found, [1, 64, 65535]);
    }

    #[test]
    fn places_are_found_in_any_block_and_any_layout() {
        let mut row = Array1::<u16>::zeros(3 * BLOCK + 5);
        let expected = [0, 7, BLOCK - 1, BLOCK, 3 * BLOCK + 4];
        for at in expected {
            row[at] = 3;
        }
        row[2 * BLOCK] = 9;
        let set = LabelSet::new(&[3]);
        assert!(set.places(row.view()).eq(expected));
        assert!(set.places(row.view()).rev().eq(expected.into_iter().rev()));
        // Every second of a row twice as long.
        let mut wide = Array1::<u16>::from_elem(2 * row.len(), 3);
        wide.slice_mut(s![..;2]).assign(&row);
        assert!(set.places(wide.slice(s![..;2])).eq(expected));
        assert_eq!(set.places(row.slice(s![..0])).next(), None);
    }
}
