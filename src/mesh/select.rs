//! Edits of the label map before its surfaces are made.

use super::{Cleaning, Error, bridge};
use crate::geometry::bounds::BoundingBox;
use crate::topology::{Connectivity, fill_holes, label_components};
use crate::volume::LabelMap;
use ndarray::{Array3, s};

/// The labels of `map` cleaned as asked, for the labels for which `chosen` holds. Cost: the components of the map, one copy of
/// it, for hole filling one mask per label's box, and for bridging 4 bytes per voxel.
///
/// # Errors
/// [`Error::TooLarge`] when there are more pieces than 32 bits can number.
pub(super) fn clean(
    map: &LabelMap,
    cleaning: &Cleaning,
    chosen: &dyn Fn(u16) -> bool,
) -> Result<Array3<u16>, Error> {
    let too_large = |_| Error::TooLarge {
        shape: map.volume.shape(),
    };
    let components =
        label_components(map.volume.data().view(), Connectivity::TwentySix).map_err(too_large)?;
    let voxel_mm3 = map.grid().affine.determinant().abs();
    let labels = usize::from(map.max_label()) + 1;
    // Largest piece of each label, the first of equals.
    let mut largest = vec![(0_u64, 0_usize); labels];
    for (index, piece) in components.list().iter().enumerate() {
        let best = &mut largest[usize::from(piece.value)];
        if piece.voxels > best.0 {
            *best = (piece.voxels, index);
        }
    }
    let mut cleaned = components.retained(|index, piece| {
        !chosen(piece.value)
            || ((!cleaning.largest_only || largest[usize::from(piece.value)].1 == index)
                && piece.voxels as f64 * voxel_mm3 >= cleaning.least_island_mm3)
    });
    if cleaning.fill_holes {
        let mut boxes: Vec<Option<BoundingBox>> = vec![None; labels];
        for piece in components.list() {
            let known = &mut boxes[usize::from(piece.value)];
            let union = known.map_or(piece.bounds, |known| BoundingBox {
                start: std::array::from_fn(|axis| known.start[axis].min(piece.bounds.start[axis])),
                end: std::array::from_fn(|axis| known.end[axis].max(piece.bounds.end[axis])),
            });
            *known = Some(union);
        }
        for (label, bounds) in (0..).zip(boxes) {
            let Some(bounds) = bounds.filter(|_| chosen(label)) else {
                continue;
            };
            let (from, to) = (bounds.start, bounds.end);
            let mut part = cleaned.slice_mut(s![from[0]..to[0], from[1]..to[1], from[2]..to[2]]);
            let filled = fill_holes(part.mapv(|voxel| voxel == label).view()).map_err(too_large)?;
            part.zip_mut_with(&filled, |voxel, &inside| {
                if inside && *voxel == 0 {
                    *voxel = label;
                }
            });
        }
    }
    if cleaning.bridge {
        bridge::bridge(&mut cleaned, chosen).map_err(too_large)?;
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Grid, LabelTable};

    fn row(labels: &[u16]) -> LabelMap {
        let shape = [1, 1, labels.len()];
        let data = Array3::from_shape_vec(shape, labels.to_vec()).unwrap();
        LabelMap::new(
            data,
            Grid::with_spacing(shape, [2.0, 1.0, 1.0]),
            LabelTable::default(),
        )
        .unwrap()
    }

    #[test]
    fn islands_go_by_volume_and_only_of_chosen_labels() {
        let map = row(&[1, 1, 1, 0, 1, 0, 2]);
        let cleaning = Cleaning {
            least_island_mm3: 4.0,
            ..Cleaning::default()
        };
        let cleaned = clean(&map, &cleaning, &|label| label == 1).unwrap();
        assert_eq!(cleaned.as_slice().unwrap(), [1, 1, 1, 0, 0, 0, 2]);
    }

    #[test]
    fn of_equal_pieces_the_first_stays() {
        let map = row(&[0, 3, 0, 3, 2, 2, 0]);
        let cleaning = Cleaning {
            largest_only: true,
            ..Cleaning::default()
        };
        let cleaned = clean(&map, &cleaning, &|_| true).unwrap();
        assert_eq!(cleaned.as_slice().unwrap(), [0, 3, 0, 0, 2, 2, 0]);
    }

    #[test]
    fn holes_are_filled_around_other_labels() {
        let mut data = Array3::from_elem([3, 3, 5], 4_u16);
        data[[1, 1, 1]] = 0;
        data[[1, 1, 3]] = 9;
        let grid = Grid::with_spacing([3, 3, 5], [1.0; 3]);
        let map = LabelMap::new(data, grid, LabelTable::default()).unwrap();
        let cleaning = Cleaning {
            fill_holes: true,
            ..Cleaning::default()
        };
        let cleaned = clean(&map, &cleaning, &|_| true).unwrap();
        assert_eq!((cleaned[[1, 1, 1]], cleaned[[1, 1, 3]]), (4, 9));
    }
}
