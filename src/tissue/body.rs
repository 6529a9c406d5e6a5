//! The body and the inside of its wall, from a CT without a network.
//!
//! Works on a copy of the CT averaged to cells of about 3 mm and turned to RAS+, axial slice by slice:
//!
//! 1. Body: above -300 HU, opened by 6 mm (the table comes off), the largest piece, gas inside filled.
//! 2. Lean tissue: what is no fat (above -30 HU, or gas) deeper than 6 mm below the skin, in pieces of at
//!    least 300 mm²; smaller ones are vessels and strands in the subcutaneous fat.
//! 3. Wall: lean tissue closed by 12 mm, which spans the gaps between the muscles of the abdominal wall,
//!    then filled: all that it encloses is inside of the wall.
//!
//! The steps are those usual in threshold-based body composition (largest component, closing and filling
//! of the muscle wall); the lengths were chosen on one abdominal CT with tissue masks, where they matter
//! little: 8 to 20 mm of closing change the subcutaneous Dice by 0.003 (docs/measurements/tissue.md).

use super::{Error, FatWindow, Input};
use crate::geometry::distance::near_to;
use crate::geometry::orientation::Turn;
use crate::topology::components::TooManyRuns;
use crate::topology::{Connectivity, label_components, largest_component};
use ndarray::{Array3, ArrayView1, ArrayView3, Axis, s};
use rayon::prelude::*;
use std::ops::Range;

const CELL_MM: f64 = 3.0;
/// Below this nothing is tissue.
pub(super) const AIR_HU: f64 = -300.0;
const OPENING_MM: f64 = 6.0;
const SKIN_MM: f64 = 6.0;
const LEAST_LEAN_MM2: f64 = 300.0;
const CLOSING_MM: f64 = 12.0;

/// Outside of the body, below the skin, or inside of the body wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    Outside = 0,
    BelowSkin = 1,
    InsideWall = 2,
}

impl Place {
    fn of(number: &u8) -> Self {
        match number {
            1 => Self::BelowSkin,
            2 => Self::InsideWall,
            _ => Self::Outside,
        }
    }
}

/// The compartments of a body, in cells of the volume.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// [`Place`] of every cell, in the axes of the volume.
    cells: Array3<u8>,
    /// Voxels along a cell.
    factor: [usize; 3],
}

impl Body {
    /// Finds body and wall.
    ///
    /// # Errors
    /// [`Error::NoBody`] where nothing is as large as a body.
    pub(super) fn find(input: &Input<'_>, image: ArrayView3<'_, f32>) -> Result<Self, Error> {
        let turn = Turn::to_canonical(&input.grid.affine).map_err(|_| Error::Singular)?;
        let [x, y, z] = input.grid.affine.column_norms_mm();
        let spacing = [z, y, x];
        let factor = spacing.map(|mm| ((CELL_MM / mm).round() as usize).max(1));
        let averaged = turn.array(average(image, factor).view());
        let cell_mm = turned_lengths(turn, spacing, factor);
        let body = body(&averaged, cell_mm)?;
        if !body.iter().any(|&inside| inside) {
            return Err(Error::NoBody);
        }
        let slices: Vec<Array3<u8>> = (0..averaged.len_of(Axis(0)))
            .into_par_iter()
            .map(|z| {
                slice(
                    averaged.slice(s![z..=z, .., ..]),
                    body.slice(s![z..=z, .., ..]),
                    cell_mm,
                )
            })
            .collect::<Result<_, _>>()?;
        let mut places = Array3::zeros(averaged.dim());
        for (mut target, slice) in places.axis_iter_mut(Axis(0)).zip(&slices) {
            target.assign(&slice.index_axis(Axis(0), 0));
        }
        Ok(Self {
            cells: turn.inverse().array(places.view()),
            factor,
        })
    }

    /// Where a voxel, `[z, y, x]`, lies.
    pub(super) fn place(&self, voxel: [usize; 3]) -> Place {
        let cell: [usize; 3] = std::array::from_fn(|axis| voxel[axis] / self.factor[axis]);
        self.cells.get(cell).map_or(Place::Outside, Place::of)
    }

    /// Where the voxels of row `[z, y]` of the volume lie, cell by cell: their place, and their indices along x,
    /// which go beyond the volume where its end divides a cell.
    pub(super) fn row(&self, [z, y]: [usize; 2]) -> impl Iterator<Item = (Place, Range<usize>)> {
        let [depth, height, along] = self.factor;
        let cells = self.cells.slice(s![z / depth, y / height, ..]).into_iter();
        let stretch = move |cell| cell * along..(cell + 1) * along;
        (cells.map(Place::of).enumerate()).map(move |(cell, place)| (place, stretch(cell)))
    }
}

/// Lengths of a cell along the turned axes.
fn turned_lengths(turn: Turn, spacing: [f64; 3], factor: [usize; 3]) -> [f64; 3] {
    let mut grid = crate::volume::Grid::with_spacing([1; 3], [1.0; 3]);
    grid.spacing_mm = std::array::from_fn(|axis| spacing[axis] * factor[axis] as f64);
    turn.grid(&grid).spacing_mm
}

/// Mean of every block of `factor` voxels; the last block of an axis may be smaller. NaN counts as air.
fn average(image: ArrayView3<'_, f32>, factor: [usize; 3]) -> Array3<f32> {
    let shape: [usize; 3] = image.dim().into();
    let cells: [usize; 3] = std::array::from_fn(|axis| shape[axis].div_ceil(factor[axis]));
    let mut averaged = Array3::<f32>::zeros(cells);
    let planes: Vec<_> = averaged.axis_iter_mut(Axis(0)).collect();
    planes
        .into_par_iter()
        .enumerate()
        .for_each(|(z, mut plane)| {
            let depth = z * factor[0]..((z + 1) * factor[0]).min(shape[0]);
            let mut sums = vec![0.0_f32; cells[2]];
            for (y, mut row) in plane.outer_iter_mut().enumerate() {
                let height = y * factor[1]..((y + 1) * factor[1]).min(shape[1]);
                let lines = depth.len() * height.len();
                sums.fill(0.0);
                for sz in depth.clone() {
                    for sy in height.clone() {
                        add_blocks(image.slice(s![sz, sy, ..]), factor[2], &mut sums);
                    }
                }
                for (x, (value, sum)) in row.iter_mut().zip(&sums).enumerate() {
                    let width = factor[2].min(shape[2] - x * factor[2]);
                    *value = sum / (lines * width) as f32;
                }
            }
        });
    averaged
}

/// Adds every `width` values of a row to one sum.
fn add_blocks(row: ArrayView1<'_, f32>, width: usize, sums: &mut [f32]) {
    let finite = |hu: f32| if hu.is_finite() { hu } else { -1000.0 };
    if let Some(row) = row.as_slice() {
        for (sum, block) in sums.iter_mut().zip(row.chunks(width)) {
            *sum = block.iter().fold(*sum, |sum, &hu| sum + finite(hu));
        }
    } else {
        for (x, &hu) in row.iter().enumerate() {
            sums[x / width] += finite(hu);
        }
    }
}

/// The largest piece above air after an opening.
fn body(image: &Array3<f32>, cell_mm: [f64; 3]) -> Result<Array3<bool>, TooManyRuns> {
    let tissue = image.mapv(|hu| f64::from(hu) > AIR_HU);
    let rim = near_to(tissue.view(), cell_mm, OPENING_MM, |&inside| !inside);
    let core = largest_component(rim.mapv(|rim| !rim).view(), Connectivity::Six)?;
    let around = near_to(core.view(), cell_mm, OPENING_MM + CELL_MM, |&inside| inside);
    let mut body = tissue;
    body.zip_mut_with(&around, |inside, around| *inside &= around);
    Ok(body)
}

/// The places of one axial slice (`[1, y, x]`).
fn slice(
    image: ArrayView3<'_, f32>,
    body: ArrayView3<'_, bool>,
    cell_mm: [f64; 3],
) -> Result<Array3<u8>, TooManyRuns> {
    // A margin, so that a wall at the border of the image is closed like any other.
    let margin = (0..3).map(|axis| {
        if axis == 0 {
            0
        } else {
            (CLOSING_MM / cell_mm[axis]) as usize + 2
        }
    });
    let margin: Vec<usize> = margin.collect();
    let (height, width) = (body.len_of(Axis(1)), body.len_of(Axis(2)));
    let wide = [1, height + 2 * margin[1], width + 2 * margin[2]];
    let inner = s![
        ..,
        margin[1]..margin[1] + height,
        margin[2]..margin[2] + width
    ];
    let mut inside = Array3::from_elem(wide, false);
    inside.slice_mut(inner).assign(&body);
    let inside = filled(inside)?;
    let skin = near_to(inside.view(), cell_mm, SKIN_MM, |&inside| !inside);
    let mut lean = Array3::from_elem(wide, false);
    lean.slice_mut(inner).zip_mut_with(&image, |lean, &hu| {
        let hu = f64::from(hu);
        *lean = hu > FatWindow::default().high_hu || hu < AIR_HU;
    });
    lean.zip_mut_with(&skin, |lean, skin| *lean &= !skin);
    let pieces = label_components(lean.view(), Connectivity::TwentySix)?;
    let cell_mm2 = cell_mm[1] * cell_mm[2];
    let lean = pieces.mask(|_, piece| piece.voxels as f64 * cell_mm2 >= LEAST_LEAN_MM2);
    let closed = filled(near_to(lean.view(), cell_mm, CLOSING_MM, |&lean| lean))?;
    let shell = near_to(closed.view(), cell_mm, CLOSING_MM, |&inside| !inside);
    let mut places = Array3::zeros(body.dim());
    for ((place, &inside), &shell) in places
        .iter_mut()
        .zip(inside.slice(inner))
        .zip(shell.slice(inner))
    {
        *place = match (inside, shell) {
            (false, _) => Place::Outside as u8,
            (true, true) => Place::BelowSkin as u8,
            (true, false) => Place::InsideWall as u8,
        };
    }
    Ok(places)
}

/// A slice (`[1, y, x]`) with the background that does not reach its border filled.
fn filled(mut mask: Array3<bool>) -> Result<Array3<bool>, TooManyRuns> {
    let background = mask.mapv(|inside| !inside);
    let shape: [usize; 3] = mask.dim().into();
    let holes = label_components(background.view(), Connectivity::Six)?.mask(|_, piece| {
        let bounds = piece.bounds;
        (1..3).all(|axis| bounds.start[axis] > 0 && bounds.end[axis] < shape[axis])
    });
    mask.zip_mut_with(&holes, |inside, &hole| *inside |= hole);
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_means_of_their_voxels_whatever_the_axes() {
        let hu = |(z, y, x): (usize, usize, usize)| (100 * z + 10 * y + x) as f32;
        let mut image = Array3::from_shape_fn([3, 4, 5], hu);
        image[[2, 3, 4]] = f32::NAN;
        let found = average(image.view(), [2, 2, 2]);
        assert_eq!(found.dim(), (2, 2, 3));
        assert_eq!(found[[0, 0, 0]], 55.5);
        assert_eq!(found[[0, 1, 2]], 79.0);
        assert_eq!(found[[1, 1, 2]], (224.0 - 1000.0) / 2.0);
        // The same through a view whose rows are not contiguous, for every width.
        let turned = image.view().reversed_axes();
        for width in 1..=7 {
            let found = average(image.view(), [1, 1, width]);
            assert_eq!(average(turned, [width, 1, 1]), found.reversed_axes());
        }
    }
}
