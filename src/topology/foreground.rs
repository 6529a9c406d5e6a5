//! The voxels of a thin structure as a list.
//!
//! A vessel tree fills a few thousandths of its volume. Everything that follows one (depth, components,
//! thinning, bridging) therefore works on the list of its voxels, in scan order, with a lookup table over
//! the box around them that gives the list position of a voxel. The table is zeroed memory: pages that no
//! voxel touches are never made, so it costs less than it measures.

use super::Connectivity;
use super::runs::{Run, join_runs};
use ndarray::{ArrayView3, Axis};
use rayon::prelude::*;
use std::sync::OnceLock;

/// The 26 steps to the voxels around one, `[z, y, x]`, in scan order.
pub(super) const STEPS: [[isize; 3]; 26] = {
    let mut steps = [[0; 3]; 26];
    let (mut code, mut at) = (0, 0);
    while code < 27 {
        if code != 13 {
            steps[at] = [
                code as isize / 9 - 1,
                code as isize / 3 % 3 - 1,
                code as isize % 3 - 1,
            ];
            at += 1;
        }
        code += 1;
    }
    steps
};

/// More voxels in the box around a structure than 32 bits can number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the box around the structure holds {shape:?} voxels (z, y, x), more than 32 bits can number"
)]
pub struct TooLarge {
    /// Shape of the box, `[z, y, x]`.
    pub shape: [usize; 3],
}

/// The voxels of a structure in scan order (x fastest), numbered from 0.
///
/// The outside of the volume counts as background.
#[derive(Debug, Clone)]
pub struct Foreground {
    /// Volume index of the first voxel of the padded box, minus one voxel of padding.
    start: [usize; 3],
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    /// Over the padded box: 0 for background, else list position plus one.
    table: Vec<u32>,
    /// Position of every voxel in the padded box.
    cells: Vec<u32>,
    /// Which bricks of [`BRICK`]³ cells of the padded box hold voxels: what is empty is passed over.
    bricks: Vec<bool>,
    /// Made when first asked for.
    around: OnceLock<Vec<Around>>,
}

/// The voxels of a structure in the cube of 27 around one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// Bit `9 (dz + 1) + 3 (dy + 1) + dx + 1` for each, the one in the middle included.
    pub bits: u32,
    /// Number of the first voxel in each of the nine rows; the others of a row follow it in the list.
    firsts: [u32; 9],
}

impl Around {
    /// Calls `found(bit, index)` for every voxel of `bits`, which must be a part of [`Self::bits`].
    pub fn for_each(&self, bits: u32, mut found: impl FnMut(u32, u32)) {
        let mut left = bits;
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            let row = bit / 3;
            // At most two come before it in its row.
            let before = self.bits >> (3 * row) & ((1 << (bit % 3)) - 1);
            found(
                bit,
                self.firsts[row as usize] + (before & 1) + (before >> 1),
            );
        }
    }
}

/// Edge of a brick in voxels.
const BRICK: usize = 8;

/// The groups of voxels in a brick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrickGroup {
    /// No voxel at all.
    None,
    /// Voxels of this group only.
    One(u32),
    /// Voxels of more than one.
    Several,
}

impl Foreground {
    /// Lists the voxels of `volume` (`[z, y, x]`) for which `inside` holds; `spacing_mm` is `[z, y, x]`.
    ///
    /// A volume without such voxels gives an empty list. Cost: one pass over the volume, slices in
    /// parallel; memory: 4 bytes per voxel of the list, and at most 4 per voxel of the box around them.
    ///
    /// # Errors
    /// [`TooLarge`] when the box holds more than `u32::MAX` voxels.
    pub fn of<T: Copy + Sync>(
        volume: ArrayView3<'_, T>,
        spacing_mm: [f64; 3],
        inside: impl Fn(T) -> bool + Sync,
    ) -> Result<Self, TooLarge> {
        let slices: Vec<Vec<[u32; 2]>> = (0..volume.len_of(Axis(0)))
            .into_par_iter()
            .map(|z| {
                let mut found = Vec::new();
                let mut copy = Vec::new();
                for (y, row) in volume.index_axis(Axis(0), z).outer_iter().enumerate() {
                    let row = if let Some(row) = row.to_slice() {
                        row
                    } else {
                        copy.clear();
                        copy.extend(row.iter().copied());
                        &copy
                    };
                    scan_row(row, &inside, |x| found.push([y as u32, x as u32]));
                }
                found
            })
            .collect();
        let mut bounds: Option<([usize; 3], [usize; 3])> = None;
        for (z, slice) in slices.iter().enumerate() {
            for &[y, x] in slice {
                let at = [z, y as usize, x as usize];
                let (low, high) = bounds.get_or_insert((at, at));
                for axis in 0..3 {
                    low[axis] = low[axis].min(at[axis]);
                    high[axis] = high[axis].max(at[axis]);
                }
            }
        }
        let (start, last) = bounds.unwrap_or_default();
        let shape: [usize; 3] = std::array::from_fn(|axis| last[axis] - start[axis] + 3);
        let count = shape
            .iter()
            .try_fold(1_usize, |product, &n| product.checked_mul(n))
            .filter(|&count| u32::try_from(count).is_ok())
            .ok_or(TooLarge { shape })?;
        let mut foreground = Self {
            start,
            shape,
            spacing_mm,
            table: vec![0; count],
            cells: Vec::with_capacity(slices.iter().map(Vec::len).sum()),
            bricks: vec![false; shape.map(|n| n.div_ceil(BRICK)).iter().product()],
            around: OnceLock::new(),
        };
        for (z, slice) in slices.into_iter().enumerate() {
            for [y, x] in slice {
                let at = [z, y as usize, x as usize];
                let padded = std::array::from_fn(|axis| at[axis] - start[axis] + 1);
                let (cell, brick) = (foreground.cell(padded), foreground.brick(padded));
                foreground.bricks[brick] = true;
                foreground.cells.push(cell as u32);
                foreground.table[cell] = foreground.cells.len() as u32;
            }
        }
        Ok(foreground)
    }

    /// Number of voxels.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Voxel size in mm, `[z, y, x]`.
    pub fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }

    /// Where voxel number `index` is in the volume, `[z, y, x]`.
    pub fn voxel(&self, index: usize) -> [usize; 3] {
        let cell = self.cells[index] as usize;
        let [_, height, width] = self.shape;
        let padded = [cell / (height * width), cell / width % height, cell % width];
        std::array::from_fn(|axis| padded[axis] + self.start[axis] - 1)
    }

    /// Centre of voxel number `index` in mm from the centre of the volume's first voxel, `[z, y, x]`.
    pub fn position_mm(&self, index: usize) -> [f64; 3] {
        let voxel = self.voxel(index);
        std::array::from_fn(|axis| voxel[axis] as f64 * self.spacing_mm[axis])
    }

    /// Number of the voxel at `[z, y, x]` of the volume, or `None` for background and outside.
    pub fn at(&self, voxel: [isize; 3]) -> Option<usize> {
        let mut padded = [0; 3];
        for axis in 0..3 {
            let from_start = voxel[axis] - self.start[axis] as isize + 1;
            padded[axis] = usize::try_from(from_start)
                .ok()
                .filter(|&p| p < self.shape[axis])?;
        }
        (self.table[self.cell(padded)] as usize).checked_sub(1)
    }

    /// The structure's voxels among the 26 around voxel number `index`, in scan order.
    pub fn neighbors(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let mut found = [0; 27];
        let mut count = 0;
        let around = &self.around()[index];
        around.for_each(around.bits & !(1 << 13), |_, neighbor| {
            found[count] = neighbor as usize;
            count += 1;
        });
        found.into_iter().take(count)
    }

    /// What lies around every voxel. Cost: 27 looks at the table for each, once; memory: 40 bytes for each.
    pub(super) fn around(&self) -> &[Around] {
        self.around.get_or_init(|| {
            let [slices, rows, _] = self.strides();
            let look = |&cell: &u32| {
                let mut around = Around {
                    bits: 0,
                    firsts: [0; 9],
                };
                for row in 0..9 {
                    let step = (row as isize / 3 - 1) * slices + (row as isize % 3 - 1) * rows;
                    let middle = (cell as isize + step) as usize;
                    // The first and the last cell of the padded box hold no voxel, so these are inside.
                    let numbers = &self.table[middle - 1..=middle + 1];
                    for (bit, &number) in numbers.iter().enumerate().rev() {
                        if number > 0 {
                            around.bits |= 1 << (3 * row + bit);
                            around.firsts[row] = number - 1;
                        }
                    }
                }
                around
            };
            self.cells.par_iter().map(look).collect()
        })
    }

    /// Calls `found(voxel, index)` for every voxel of the structure in the box from `low` to `high`, both
    /// included, `[z, y, x]`, in scan order.
    pub(super) fn for_each_in(
        &self,
        low: [isize; 3],
        high: [isize; 3],
        found: impl FnMut([isize; 3], usize),
    ) {
        self.for_each_in_bricks(low, high, |brick| self.bricks[brick], found);
    }

    /// As [`for_each_in`](Self::for_each_in), passing over the bricks for which `is_wanted` does not hold.
    pub(super) fn for_each_in_bricks(
        &self,
        low: [isize; 3],
        high: [isize; 3],
        is_wanted: impl Fn(usize) -> bool,
        mut found: impl FnMut([isize; 3], usize),
    ) {
        let mut from = [0; 3];
        let mut to = [0; 3];
        for axis in 0..3 {
            let start = self.start[axis] as isize - 1;
            from[axis] = low[axis].max(start);
            to[axis] = high[axis].min(start + self.shape[axis] as isize - 1);
            if from[axis] > to[axis] {
                return;
            }
        }
        // Within the padded box from here on.
        let padded = |voxel: [isize; 3]| -> [usize; 3] {
            std::array::from_fn(|axis| (voxel[axis] - self.start[axis] as isize + 1) as usize)
        };
        let (from, to) = (padded(from), padded(to));
        let start = self.start.map(|n| n as isize - 1);
        for z in from[0]..=to[0] {
            for y in from[1]..=to[1] {
                for brick in from[2] / BRICK..=to[2] / BRICK {
                    if !is_wanted(self.brick([z, y, brick * BRICK])) {
                        continue;
                    }
                    let first = from[2].max(brick * BRICK);
                    let last = to[2].min(brick * BRICK + BRICK - 1);
                    let row = &self.table[self.cell([z, y, first])..=self.cell([z, y, last])];
                    for (x, &number) in (first..).zip(row) {
                        if number > 0 {
                            let at = [z, y, x];
                            let voxel = std::array::from_fn(|axis| at[axis] as isize + start[axis]);
                            found(voxel, number as usize - 1);
                        }
                    }
                }
            }
        }
    }

    fn cell(&self, padded: [usize; 3]) -> usize {
        (padded[0] * self.shape[1] + padded[1]) * self.shape[2] + padded[2]
    }

    /// For every brick of 8 x 8 x 8 cells of the padded box whose group it holds, `group_of` being that of each voxel.
    pub(super) fn brick_groups(&self, group_of: &[u32]) -> Vec<BrickGroup> {
        let mut groups = vec![BrickGroup::None; self.bricks.len()];
        let [_, height, width] = self.shape;
        for (&cell, &group) in self.cells.iter().zip(group_of) {
            let cell = cell as usize;
            let brick = self.brick([cell / (height * width), cell / width % height, cell % width]);
            groups[brick] = match groups[brick] {
                BrickGroup::None => BrickGroup::One(group),
                BrickGroup::One(known) if known == group => BrickGroup::One(group),
                _ => BrickGroup::Several,
            };
        }
        groups
    }

    /// The brick of a cell of the padded box.
    fn brick(&self, padded: [usize; 3]) -> usize {
        let [_, height, width] = self.shape.map(|n| n.div_ceil(BRICK));
        let [z, y, x] = padded.map(|at| at / BRICK);
        (z * height + y) * width + x
    }

    fn strides(&self) -> [isize; 3] {
        let [_, height, width] = self.shape.map(|n| n as isize);
        [height * width, width, 1]
    }

    /// Whether a face of the voxel borders the background.
    pub fn is_surface(&self, index: usize) -> bool {
        let cell = self.cells[index] as isize;
        self.strides().into_iter().any(|stride| {
            self.table[(cell + stride) as usize] == 0 || self.table[(cell - stride) as usize] == 0
        })
    }

    /// Distance in mm from every voxel to the nearest background voxel, centre to centre: the exact
    /// anisotropic Euclidean distance transform, as
    /// [`distance_to`](crate::geometry::distance::distance_to) gives it for the mask with one voxel of
    /// background around it.
    ///
    /// One axis at a time; along each, a voxel looks both ways only as far as could still be nearer.
    /// Cost: O(voxels x thickness in voxels), voxels in parallel; memory: 16 bytes per voxel.
    pub fn depth_mm(&self) -> Vec<f64> {
        let [slices, rows, columns] = self.strides();
        let alone = vec![f64::INFINITY; self.len()];
        let along_x = self.lower(&alone, columns, self.spacing_mm[2]);
        let along_y = self.lower(&along_x, rows, self.spacing_mm[1]);
        let mut depth = self.lower(&along_y, slices, self.spacing_mm[0]);
        depth.par_iter_mut().for_each(|value| *value = value.sqrt());
        depth
    }

    /// Minimum over all steps `k` along one axis of the squared distance there plus the square of the way.
    fn lower(&self, squared: &[f64], stride: isize, step_mm: f64) -> Vec<f64> {
        let value = |cell: isize| match self.table[cell as usize] {
            0 => 0.0,
            number => squared[number as usize - 1],
        };
        (self.cells.par_iter().zip(squared))
            .map(|(&cell, &own)| {
                let mut best = own;
                let mut steps = 1_isize;
                loop {
                    let way = steps as f64 * step_mm;
                    let way = way * way;
                    // The padding is background, so the search ends inside the table.
                    if way >= best {
                        return best;
                    }
                    let (up, down) = (
                        cell as isize + steps * stride,
                        cell as isize - steps * stride,
                    );
                    best = best.min(way + value(up)).min(way + value(down));
                    steps += 1;
                }
            })
            .collect()
    }

    /// The 26-connected component of every voxel, counted from 0 in order of their first voxels, and
    /// their number. Stretches of voxels along x are joined as in
    /// [`label_components`](super::label_components). Cost: near-linear; memory: 4 bytes per voxel, 16 per
    /// stretch and 8 per row of the box.
    pub fn components(&self) -> (Vec<u32>, usize) {
        let [slices, height, width] = self.shape;
        let mut runs: Vec<Run> = Vec::new();
        let mut rows = Vec::with_capacity(slices * height + 1);
        let mut before = None;
        for &cell in &self.cells {
            match runs.last_mut() {
                // A row ends in padding, so neighbours in the table are neighbours in the row.
                Some(run) if before == cell.checked_sub(1) => run.end += 1,
                _ => {
                    let (row, x) = (cell as usize / width, (cell as usize % width) as u32);
                    rows.resize(row + 1, runs.len());
                    runs.push(Run {
                        start: x,
                        end: x + 1,
                        component: 0,
                    });
                }
            }
            before = Some(cell);
        }
        rows.resize(slices * height + 1, runs.len());
        let same = vec![(); runs.len()];
        join_runs(&mut runs, &same, &rows, self.shape, Connectivity::TwentySix);
        let mut count = 0;
        let mut component_of = Vec::with_capacity(self.len());
        for index in 0..runs.len() {
            let parent = runs[index].component as usize;
            runs[index].component = if parent == index {
                count += 1;
                count as u32 - 1
            } else {
                runs[parent].component
            };
            let run = runs[index];
            component_of.resize(
                component_of.len() + (run.end - run.start) as usize,
                run.component,
            );
        }
        (component_of, count)
    }
}

/// Calls `found` for every x inside. Blocks are tested as a whole first: most of a volume is outside.
fn scan_row<T: Copy>(row: &[T], inside: impl Fn(T) -> bool, mut found: impl FnMut(usize)) {
    const BLOCK: usize = 32;
    for (block, values) in row.chunks(BLOCK).enumerate() {
        if values.iter().fold(false, |any, &value| any | inside(value)) {
            for (x, &value) in values.iter().enumerate() {
                if inside(value) {
                    found(block * BLOCK + x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::distance::distance_to;
    use crate::topology::{Connectivity, label_components};
    use ndarray::{Array3, s};
    use proptest::prelude::*;

    #[test]
    fn nothing_gives_an_empty_list() {
        for shape in [[0, 3, 3], [2, 2, 2]] {
            let mask = Array3::<bool>::default(shape);
            let foreground = Foreground::of(mask.view(), [1.0; 3], |v| v).unwrap();
            assert!(foreground.is_empty() && foreground.depth_mm().is_empty());
            assert_eq!(foreground.components(), (vec![], 0));
            assert_eq!(foreground.at([0, 0, 0]), None);
        }
    }

    #[test]
    fn voxels_are_found_where_they_are() {
        let mut mask = Array3::<bool>::default([3, 4, 70]);
        mask[[2, 1, 68]] = true;
        mask[[2, 2, 69]] = true;
        let foreground = Foreground::of(mask.view(), [3.0, 2.0, 1.0], |v| v).unwrap();
        assert_eq!(foreground.voxel(1), [2, 2, 69]);
        assert_eq!(foreground.position_mm(0), [6.0, 2.0, 68.0]);
        assert_eq!(foreground.at([2, 1, 68]), Some(0));
        assert_eq!(foreground.at([-5, 99, 0]), None);
        assert_eq!(foreground.neighbors(0).collect::<Vec<_>>(), [1]);
        assert!(foreground.is_surface(0));
    }

    proptest! {
        #[test]
        fn what_lies_around_a_voxel_is_what_the_mask_shows(
            shape in [1_usize..4, 1_usize..20, 1_usize..40],
            voxels in prop::collection::vec(prop::bool::weighted(0.3), 4 * 20 * 40),
            corners in [[-2_isize..42, -2_isize..42], [-2_isize..22, -2_isize..22], [-2_isize..6, -2_isize..6]],
        ) {
            let mask = Array3::from_shape_vec(shape, voxels[..shape.iter().product()].to_vec()).unwrap();
            let foreground = Foreground::of(mask.view(), [1.0; 3], |v| v).unwrap();
            for index in 0..foreground.len() {
                let voxel = foreground.voxel(index).map(|at| at as isize);
                let beside = |step: &[isize; 3]| {
                    foreground.at(std::array::from_fn(|axis| voxel[axis] + step[axis]))
                };
                let expected: Vec<usize> = STEPS.iter().filter_map(beside).collect();
                prop_assert_eq!(foreground.neighbors(index).collect::<Vec<_>>(), expected);
            }
            let [x, y, z] = corners;
            let low = [z[0].min(z[1]), y[0].min(y[1]), x[0].min(x[1])];
            let high = [z[0].max(z[1]), y[0].max(y[1]), x[0].max(x[1])];
            let mut found = Vec::new();
            foreground.for_each_in(low, high, |voxel, index| found.push((voxel, index)));
            let inside = |at: &[isize; 3]| (0..3).all(|axis| (low[axis]..=high[axis]).contains(&at[axis]));
            let expected: Vec<_> = (0..foreground.len())
                .map(|index| (foreground.voxel(index).map(|at| at as isize), index))
                .filter(|(voxel, _)| inside(voxel))
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn depth_and_components_equal_the_dense_ones(
            shape in [1_usize..6, 1_usize..8, 1_usize..40],
            voxels in prop::collection::vec(prop::bool::weighted(0.8), 6 * 8 * 40),
            spacing in [0.2..5.0_f64, 0.2..5.0_f64, 0.2..5.0_f64],
        ) {
            let count = shape.iter().product();
            let mask = Array3::from_shape_vec(shape, voxels[..count].to_vec()).unwrap();
            let foreground = Foreground::of(mask.view(), spacing, |v| v).unwrap();
            let mut padded = Array3::<bool>::default(shape.map(|n| n + 2));
            padded.slice_mut(s![1..=shape[0], 1..=shape[1], 1..=shape[2]]).assign(&mask);
            let dense = distance_to(padded.view(), spacing, |&v| !v);
            let numbers = label_components(mask.view(), Connectivity::TwentySix).unwrap().numbers();
            let (components, _) = foreground.components();
            for (index, depth) in foreground.depth_mm().into_iter().enumerate() {
                let voxel = foreground.voxel(index);
                let expected = dense[voxel.map(|v| v + 1)];
                prop_assert!((depth - expected).abs() <= 1e-12 * expected);
                prop_assert_eq!(components[index] + 1, numbers[voxel]);
            }
        }
    }
}
