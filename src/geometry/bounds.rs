//! Boxes of voxels: finding, growing, cutting out, padding and pasting back.

use crate::volume::{Grid, LabelSet, Volume};
use ndarray::{Array3, ArrayView1, ArrayView3, ArrayViewMut3, Axis, s};
use rayon::prelude::*;
use std::ops::Range;

/// A half-open box of voxel indices, `[z, y, x]`: index `i` is inside when `start <= i < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BoundingBox {
    /// First index inside, per axis.
    pub start: [usize; 3],
    /// First index beyond, per axis; not below `start`.
    pub end: [usize; 3],
}

/// A box that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// The box leaves the volume, or ends before it starts.
    #[error("box {start:?}..{end:?} does not fit a volume of {shape:?} voxels (z, y, x)")]
    Outside {
        /// Start of the box.
        start: [usize; 3],
        /// End of the box.
        end: [usize; 3],
        /// Shape of the volume.
        shape: [usize; 3],
    },
    /// What is pasted has another shape than the box.
    #[error("a piece of {found:?} voxels does not fit a box of {expected:?} (z, y, x)")]
    Piece {
        /// Shape of the piece.
        found: [usize; 3],
        /// Shape of the box.
        expected: [usize; 3],
    },
    /// Padding that makes an axis longer than an index can count.
    #[error("padding {shape:?} voxels by {before:?} and {after:?} (z, y, x) is too large")]
    TooLarge {
        /// Shape of the volume.
        shape: [usize; 3],
        /// Voxels added before the first.
        before: [usize; 3],
        /// Voxels added after the last.
        after: [usize; 3],
    },
}

impl BoundingBox {
    /// The box of a whole volume.
    pub fn whole(shape: [usize; 3]) -> Self {
        Self {
            start: [0; 3],
            end: shape,
        }
    }

    /// The smallest box around all voxels of `volume` for which `inside` holds, or `None` when there
    /// is none. Slices in parallel. Cost: each row is read from both ends only as far as it can still
    /// widen the box, the whole volume at worst.
    pub fn of<T: Sync>(
        volume: ArrayView3<'_, T>,
        inside: impl Fn(&T) -> bool + Sync,
    ) -> Option<Self> {
        Self::of_rows(volume, |row, known_end| {
            let first = row.iter().position(&inside)?;
            // Only voxels beyond the known end can still change it.
            let known_end = known_end.max(first + 1);
            let last = (known_end..row.len()).rev().find(|&x| inside(&row[x]));
            Some(first..last.map_or(known_end, |x| x + 1))
        })
    }

    /// The smallest box around all voxels of `map` whose label is in `labels`, or `None` when there is none. As
    /// [`of`](Self::of), and background costs next to nothing.
    pub fn of_labels(map: ArrayView3<'_, u16>, labels: &LabelSet) -> Option<Self> {
        Self::of_rows(map, |row, _| {
            let mut places = labels.places(row);
            let first = places.next()?;
            Some(first..places.next_back().unwrap_or(first) + 1)
        })
    }

    /// The union of what `extent` says of every row; its second argument is the largest end that is known.
    fn of_rows<T: Sync>(
        volume: ArrayView3<'_, T>,
        extent: impl Fn(ArrayView1<'_, T>, usize) -> Option<Range<usize>> + Sync,
    ) -> Option<Self> {
        let per_slice: Vec<Option<Self>> = (0..volume.len_of(Axis(0)))
            .into_par_iter()
            .map(|z| {
                let mut found: Option<Self> = None;
                for (y, row) in volume.index_axis(Axis(0), z).outer_iter().enumerate() {
                    let known_end = found.map_or(0, |known| known.end[2]);
                    let Some(x) = extent(row, known_end) else {
                        continue;
                    };
                    let this = Self {
                        start: [z, y, x.start],
                        end: [z + 1, y + 1, x.end],
                    };
                    found = Some(found.map_or(this, |known| known.union(&this)));
                }
                found
            })
            .collect();
        per_slice.into_iter().flatten().reduce(|a, b| a.union(&b))
    }

    /// Number of voxels along each axis.
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.end[axis].saturating_sub(self.start[axis]))
    }

    /// Number of voxels.
    pub fn voxel_count(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether voxel `[z, y, x]` is inside.
    pub fn contains(&self, voxel: [usize; 3]) -> bool {
        (0..3).all(|axis| (self.start[axis]..self.end[axis]).contains(&voxel[axis]))
    }

    /// The smallest box that holds both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            start: std::array::from_fn(|axis| self.start[axis].min(other.start[axis])),
            end: std::array::from_fn(|axis| self.end[axis].max(other.end[axis])),
        }
    }

    /// What both have in common, or `None`.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let common = Self {
            start: std::array::from_fn(|axis| self.start[axis].max(other.start[axis])),
            end: std::array::from_fn(|axis| self.end[axis].min(other.end[axis])),
        };
        (0..3)
            .all(|axis| common.start[axis] < common.end[axis])
            .then_some(common)
    }

    /// The box grown by `margin` voxels per axis on both sides, cut at the borders of a volume of
    /// `shape`.
    #[must_use]
    pub fn expanded(&self, margin: [usize; 3], shape: [usize; 3]) -> Self {
        Self {
            start: std::array::from_fn(|axis| self.start[axis].saturating_sub(margin[axis])),
            end: std::array::from_fn(|axis| {
                self.end[axis].saturating_add(margin[axis]).min(shape[axis])
            }),
        }
    }

    /// [`expanded`](Self::expanded) by a length: per axis the number of whole voxels of `spacing_mm`
    /// that cover `margin_mm` (rounded up). A margin that is not positive expands nothing.
    #[must_use]
    pub fn expanded_mm(&self, margin_mm: f64, spacing_mm: [f64; 3], shape: [usize; 3]) -> Self {
        // `as` saturates: NaN and negative margins are 0, infinite ones reach the border.
        let margin = spacing_mm.map(|mm| (margin_mm / mm).ceil() as usize);
        self.expanded(margin, shape)
    }

    fn check(&self, shape: [usize; 3]) -> Result<(), BoundsError> {
        let fits =
            (0..3).all(|axis| self.start[axis] <= self.end[axis] && self.end[axis] <= shape[axis]);
        if fits {
            Ok(())
        } else {
            Err(BoundsError::Outside {
                start: self.start,
                end: self.end,
                shape,
            })
        }
    }

    /// View of the box inside `volume`.
    ///
    /// # Errors
    /// [`BoundsError::Outside`].
    pub fn view<'a, T>(
        &self,
        volume: &'a ArrayView3<'a, T>,
    ) -> Result<ArrayView3<'a, T>, BoundsError> {
        self.check(volume.dim().into())?;
        let ([z0, y0, x0], [z1, y1, x1]) = (self.start, self.end);
        Ok(volume.slice(s![z0..z1, y0..y1, x0..x1]))
    }

    /// Writes `piece` (of the box's shape) into the box inside `target`: the inverse of cutting out.
    ///
    /// # Errors
    /// [`BoundsError::Outside`], [`BoundsError::Piece`].
    pub fn paste<T: Clone>(
        &self,
        piece: ArrayView3<'_, T>,
        target: &mut ArrayViewMut3<'_, T>,
    ) -> Result<(), BoundsError> {
        self.check(target.dim().into())?;
        let found: [usize; 3] = piece.dim().into();
        if found != self.shape() {
            return Err(BoundsError::Piece {
                found,
                expected: self.shape(),
            });
        }
        let ([z0, y0, x0], [z1, y1, x1]) = (self.start, self.end);
        target.slice_mut(s![z0..z1, y0..y1, x0..x1]).assign(&piece);
        Ok(())
    }
}

/// `grid` after its voxel `first` (`[z, y, x]`, possibly negative) became voxel (0, 0, 0) and its
/// shape became `shape`. Every voxel keeps its world position.
pub fn shifted_grid(grid: &Grid, first: [i64; 3], shape: [usize; 3]) -> Grid {
    let [z, y, x] = first.map(|index| index as f64);
    let mut shifted = *grid;
    shifted.shape = shape;
    if first != [0; 3] {
        shifted.affine.origin_mm = grid.affine.apply([x, y, z]);
    }
    shifted
}

/// Cuts `bounds` out of `volume`; voxels keep their world positions. Cost: a copy of the box.
///
/// # Errors
/// [`BoundsError::Outside`].
#[expect(
    clippy::missing_panics_doc,
    reason = "the box was checked and sets both shapes"
)]
pub fn crop<T: Clone>(volume: &Volume<T>, bounds: BoundingBox) -> Result<Volume<T>, BoundsError> {
    let data = bounds.view(&volume.data().view())?.to_owned();
    let grid = shifted_grid(
        volume.grid(),
        bounds.start.map(|index| index as i64),
        bounds.shape(),
    );
    Ok(Volume::new(data, grid).expect("array and grid were given the same shape"))
}

/// Adds `before` and `after` voxels (`[z, y, x]`) of `value` around `volume`; voxels keep their world
/// positions. [`crop`] with a box starting at `before` undoes it. Cost: one volume of the new size.
///
/// # Errors
/// [`BoundsError::TooLarge`].
#[expect(
    clippy::missing_panics_doc,
    reason = "the padded shape sets both shapes"
)]
pub fn pad<T: Clone>(
    volume: &Volume<T>,
    before: [usize; 3],
    after: [usize; 3],
    value: T,
) -> Result<Volume<T>, BoundsError> {
    let shape = volume.shape();
    let too_large = BoundsError::TooLarge {
        shape,
        before,
        after,
    };
    let mut padded = [0_usize; 3];
    for (axis, size) in padded.iter_mut().enumerate() {
        *size = shape[axis]
            .checked_add(before[axis])
            .and_then(|size| size.checked_add(after[axis]))
            .filter(|&size| i64::try_from(size).is_ok())
            .ok_or(too_large)?;
    }
    let bytes = padded
        .iter()
        .try_fold(size_of::<T>().max(1), |product, &size| {
            product.checked_mul(size)
        });
    if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(too_large);
    }
    let mut data = Array3::from_elem(padded, value);
    let inner = BoundingBox {
        start: before,
        end: std::array::from_fn(|axis| before[axis] + shape[axis]),
    };
    inner.paste(volume.data().view(), &mut data.view_mut())?;
    let grid = shifted_grid(volume.grid(), before.map(|n| -(n as i64)), padded);
    Ok(Volume::new(data, grid).expect("array and grid were given the same shape"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Affine;
    use proptest::prelude::*;

    fn oblique(shape: [usize; 3]) -> Volume<u16> {
        let affine = Affine {
            linear: [[0.0, -0.75, 0.5], [0.5, 0.0, 0.25], [0.125, 0.0, 3.0]],
            origin_mm: [12.0, -4.0, 900.0],
        };
        let grid = Grid {
            shape,
            spacing_mm: [3.0, 0.75, 0.5],
            affine,
        };
        let data = Array3::from_shape_fn(shape, |(z, y, x)| (z * 100 + y * 10 + x) as u16);
        Volume::new(data, grid).unwrap()
    }

    #[test]
    fn the_box_of_two_voxels() {
        let mut mask = Array3::<u8>::zeros([4, 5, 6]);
        assert_eq!(BoundingBox::of(mask.view(), |&v| v > 0), None);
        mask[[1, 4, 2]] = 1;
        mask[[2, 0, 5]] = 1;
        let found = BoundingBox::of(mask.view(), |&v| v > 0).unwrap();
        assert_eq!(found.start, [1, 0, 2]);
        assert_eq!(found.end, [3, 5, 6]);
        assert_eq!(found.voxel_count(), 40);
        assert!(found.contains([1, 0, 2]) && !found.contains([3, 0, 2]));
    }

    #[test]
    fn growing_stops_at_the_border() {
        let bounds = BoundingBox {
            start: [1, 3, 0],
            end: [2, 4, 9],
        };
        let grown = bounds.expanded([2, 1, 5], [9, 9, 9]);
        assert_eq!((grown.start, grown.end), ([0, 2, 0], [4, 5, 9]));
        let by_length = bounds.expanded_mm(2.0, [3.0, 0.75, 1.0], [9, 9, 9]);
        assert_eq!((by_length.start, by_length.end), ([0, 0, 0], [3, 7, 9]));
        assert_eq!(bounds.expanded_mm(f64::NAN, [1.0; 3], [9; 3]), bounds);
        assert_eq!(
            bounds.expanded_mm(f64::INFINITY, [1.0; 3], [9; 3]),
            BoundingBox::whole([9; 3])
        );
    }

    #[test]
    fn a_crop_keeps_voxels_in_place() {
        let volume = oblique([4, 5, 6]);
        let bounds = BoundingBox {
            start: [1, 2, 3],
            end: [4, 4, 6],
        };
        let piece = crop(&volume, bounds).unwrap();
        assert_eq!(piece.shape(), [3, 2, 3]);
        assert_eq!(piece.data()[[0, 0, 0]], 123);
        // Exact in binary: the affine's entries are short fractions.
        assert_eq!(
            piece.grid().affine.apply([0.0, 1.0, 2.0]),
            volume.grid().affine.apply([3.0, 3.0, 3.0])
        );
        assert_eq!(piece.grid().spacing_mm, volume.grid().spacing_mm);
    }

    #[test]
    fn boxes_that_do_not_fit_are_refused() {
        let volume = oblique([4, 5, 6]);
        let beyond = BoundingBox {
            start: [0; 3],
            end: [4, 6, 6],
        };
        assert!(matches!(
            crop(&volume, beyond),
            Err(BoundsError::Outside { .. })
        ));
        let reversed = BoundingBox {
            start: [3, 0, 0],
            end: [1, 2, 2],
        };
        assert!(crop(&volume, reversed).is_err());
        assert!(matches!(
            pad(&volume, [usize::MAX, 0, 0], [0; 3], 0),
            Err(BoundsError::TooLarge { .. })
        ));
        assert!(pad(&volume, [1 << 40, 1 << 40, 0], [0; 3], 0).is_err());
    }

    #[test]
    fn an_empty_box_is_an_empty_volume() {
        let bounds = BoundingBox {
            start: [2; 3],
            end: [2, 4, 4],
        };
        assert_eq!(
            crop(&oblique([4, 5, 6]), bounds).unwrap().shape(),
            [0, 2, 2]
        );
    }

    proptest! {
        #[test]
        fn a_crop_undoes_a_pad(
            before in [0_usize..4, 0_usize..4, 0_usize..4],
            after in [0_usize..4, 0_usize..4, 0_usize..4],
        ) {
            let volume = oblique([2, 3, 4]);
            let padded = pad(&volume, before, after, 777).unwrap();
            let inner = BoundingBox {
                start: before,
                end: std::array::from_fn(|axis| before[axis] + volume.shape()[axis]),
            };
            let back = crop(&padded, inner).unwrap();
            prop_assert_eq!(&back, &volume);
        }

        #[test]
        fn the_box_is_tight(voxels in prop::collection::vec(prop::bool::weighted(0.1), 60)) {
            let mask = Array3::from_shape_vec([3, 4, 5], voxels).unwrap();
            let inside: Vec<[usize; 3]> = mask
                .indexed_iter()
                .filter(|(_, voxel)| **voxel)
                .map(|((z, y, x), _)| [z, y, x])
                .collect();
            let found = BoundingBox::of(mask.view(), |&voxel| voxel);
            prop_assert_eq!(found.is_none(), inside.is_empty());
            let map = mask.mapv(|voxel| if voxel { 5 } else { 0 });
            prop_assert_eq!(BoundingBox::of_labels(map.view(), &LabelSet::new(&[5])), found);
            if let Some(found) = found {
                for axis in 0..3 {
                    prop_assert_eq!(Some(found.start[axis]), inside.iter().map(|v| v[axis]).min());
                    prop_assert_eq!(Some(found.end[axis] - 1), inside.iter().map(|v| v[axis]).max());
                }
            }
        }
    }
}
