//! Bitmaps on the corner lattice, and ranks in them.
//!
//! A map of `nx * ny * nz` voxels has `(nx + 1)(ny + 1)(nz + 1)` corners. Corner `(i, j, k)` is where voxels
//! `(i - 1, j - 1, k - 1)` to `(i, j, k)` meet: voxel position `(i, j, k) - 0.5`. A bitmap holds one bit per corner, rows along x in
//! whole words, so that questions about 64 corners are single word operations. The rank of a set bit (how many set bits come
//! before it) numbers what the bits stand for, in scan order, without a hash map.

/// Shape of the corner lattice and of the voxels that it surrounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lattice {
    /// Voxels along x, y, z.
    pub voxels: [usize; 3],
    /// Words per row of corners.
    pub words: usize,
}

impl Lattice {
    /// Lattice of a map of `[z, y, x]` voxels.
    pub fn new(shape: [usize; 3]) -> Self {
        let [z, y, x] = shape;
        Self {
            voxels: [x, y, z],
            words: (x + 1).div_ceil(64),
        }
    }

    /// Number of corner layers along z.
    pub fn layers(&self) -> usize {
        self.voxels[2] + 1
    }

    /// Number of corner rows in a layer.
    pub fn rows_per_layer(&self) -> usize {
        self.voxels[1] + 1
    }

    /// Number of corner rows.
    pub fn rows(&self) -> usize {
        self.layers() * self.rows_per_layer()
    }

    /// Number of the row `(j, k)`.
    pub fn row(&self, j: usize, k: usize) -> usize {
        k * self.rows_per_layer() + j
    }

    /// Words of a layer.
    pub fn layer_words(&self) -> usize {
        self.rows_per_layer() * self.words
    }
}

/// One bit per corner.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    pub lattice: Lattice,
    pub words: Vec<u64>,
}

impl Bitmap {
    pub fn new(lattice: Lattice) -> Self {
        Self {
            lattice,
            words: vec![0; lattice.rows() * lattice.words],
        }
    }

    /// Word `w` of the row `(j, k)`.
    pub fn word(&self, j: usize, k: usize, w: usize) -> u64 {
        self.words[self.lattice.row(j, k) * self.lattice.words + w]
    }

    /// Word `w` of the row `(j, k)` moved up by one corner: bit `i` says what corner `i - 1` holds.
    pub fn word_before(&self, j: usize, k: usize, w: usize) -> u64 {
        let carry = if w > 0 {
            self.word(j, k, w - 1) >> 63
        } else {
            0
        };
        self.word(j, k, w) << 1 | carry
    }

    /// Number of set bits of each layer.
    pub fn layer_counts(&self) -> Vec<usize> {
        self.words
            .chunks(self.lattice.layer_words())
            .map(|layer| layer.iter().map(|word| word.count_ones() as usize).sum())
            .collect()
    }
}

/// A bitmap whose set bits are numbered in scan order.
#[derive(Debug)]
pub(super) struct Ranked {
    pub bits: Bitmap,
    /// Set bits before each word.
    before: Vec<u32>,
}

impl Ranked {
    /// Numbers the bits; `None` when there are more than 32 bits can count.
    pub fn new(bits: Bitmap) -> Option<Self> {
        let mut before = Vec::with_capacity(bits.words.len());
        let mut total = 0_u32;
        for word in &bits.words {
            before.push(total);
            total = total.checked_add(word.count_ones())?;
        }
        Some(Self { bits, before })
    }

    /// Number of set bits before corner `i` of row `row`; the number of that corner if it is set.
    pub fn rank(&self, i: usize, row: usize) -> u32 {
        let index = row * self.bits.lattice.words + i / 64;
        self.before[index] + (self.bits.words[index] & ((1 << (i % 64)) - 1)).count_ones()
    }

    /// Number of set bits up to and including corner `i` of row `row`.
    pub fn rank_through(&self, i: usize, row: usize) -> u32 {
        let index = row * self.bits.lattice.words + i / 64;
        self.before[index] + (self.bits.words[index] & (u64::MAX >> (63 - i % 64))).count_ones()
    }

    /// Number of set bits before the first corner of `row`.
    pub fn rank_of_row(&self, row: usize) -> u32 {
        self.before[row * self.bits.lattice.words]
    }
}

/// Positions of the set bits of a word, ascending.
pub(super) fn set_bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            bit
        })
    })
}

/// Cuts `slice` into consecutive pieces of the given lengths.
pub(super) fn split_by_lengths<'a, T>(
    mut slice: &'a mut [T],
    lengths: &[usize],
) -> Vec<&'a mut [T]> {
    lengths
        .iter()
        .map(|&length| {
            let (piece, rest) = std::mem::take(&mut slice).split_at_mut(length);
            slice = rest;
            piece
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_across_words_and_rows() {
        let lattice = Lattice::new([1, 1, 100]);
        let mut bits = Bitmap::new(lattice);
        bits.words[0] = 1 | 1 << 63;
        bits.words[1] = 1;
        bits.words[2] = 2;
        assert_eq!(bits.layer_counts(), [4, 0]);
        assert_eq!(bits.word_before(0, 0, 1), 0b11);
        let ranked = Ranked::new(bits).unwrap();
        assert_eq!(ranked.rank(0, 0), 0);
        assert_eq!(ranked.rank(63, 0), 1);
        assert_eq!(ranked.rank_through(63, 0), 2);
        assert_eq!(ranked.rank(64, 0), 2);
        assert_eq!(ranked.rank(1, 1), 3);
        assert_eq!(ranked.rank_of_row(2), 4);
    }

    #[test]
    fn bits_come_in_ascending_order() {
        let found: Vec<_> = set_bits(1 | 1 << 5 | 1 << 63).collect();
        assert_eq!(found, [0, 5, 63]);
        assert_eq!(set_bits(0).next(), None);
    }
}
