//! Distance-ordered homotopic thinning: the centre lines of a tubular structure.
//!
//! Voxels are taken away from the outside in, in the order of their distance to the background in
//! millimetres, each only when that changes no connection, tunnel or cavity (it is a *simple point*) and
//! does not shorten a line. What is left is thin, has exactly the components, tunnels and cavities of the
//! structure, and runs along its middle whatever the voxel size: thinning in order of distance is Pudney's
//! ("Distance-Ordered Homotopic Thinning: A Skeletonization Algorithm for 3D Digital Images", Computer
//! Vision and Image Understanding 72, 1998). Voxels of equal distance go in rounds of six directions, as in
//! Lee, Kashyap and Chu (CVGIP 56, 1994), and within one direction in eight classes of voxels that do not
//! touch each other (subfields; Bertrand and Aktouf, SPIE 2356, 1994): a plateau is peeled from all sides, and
//! a ribbon of even width is not eaten from the end that comes first in memory.
//!
//! A simple point of a (26, 6) image is one whose 26-neighbourhood holds exactly one 26-component of the
//! structure, and whose 18-neighbourhood holds exactly one 6-component of background that touches it
//! (Bertrand and Malandain, Pattern Recognition Letters 15, 1994). The test here is that definition.

use super::foreground::{Foreground, STEPS};
use rayon::prelude::*;

/// Bit `9 (dz + 1) + 3 (dy + 1) + dx + 1` stands for the voxel one step away.
const CENTER: u32 = 1 << 13;
const FACES: u32 = 1 << 4 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 16 | 1 << 22;
/// Everything but the eight corners.
const WITHIN_18: u32 = {
    let corners = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 18 | 1 << 20 | 1 << 24 | 1 << 26;
    ((1 << 27) - 1) & !corners & !CENTER
};
/// Bits whose step along an axis is not -1 (`UP`) or not +1 (`DOWN`), for axes x, y and z: those that a shift
/// towards smaller or larger steps keeps within the cube.
const fn within_cube(stride: usize, edge: usize) -> u32 {
    let mut bits = 0;
    let mut bit = 0;
    while bit < 27 {
        if bit / stride % 3 != edge {
            bits |= 1 << bit;
        }
        bit += 1;
    }
    bits
}
const STRIDES: [usize; 3] = [1, 3, 9];
const UP: [u32; 3] = [within_cube(1, 2), within_cube(3, 2), within_cube(9, 2)];
const DOWN: [u32; 3] = [within_cube(1, 0), within_cube(3, 0), within_cube(9, 0)];

/// The bits next to `bits` along one axis.
fn beside(bits: u32, axis: usize) -> u32 {
    (bits & UP[axis]) << STRIDES[axis] | (bits & DOWN[axis]) >> STRIDES[axis]
}

/// All bits of `within` that can be reached from `seed` over shared faces, edges or corners.
fn flood_26(seed: u32, within: u32) -> u32 {
    let mut reached = seed;
    loop {
        let mut grown = reached;
        for axis in 0..3 {
            grown |= beside(grown, axis);
        }
        grown &= within;
        if grown == reached {
            return reached;
        }
        reached = grown;
    }
}

/// All bits of `within` that can be reached from `seed` over shared faces.
fn flood_6(seed: u32, within: u32) -> u32 {
    let mut reached = seed;
    loop {
        let around = beside(reached, 0) | beside(reached, 1) | beside(reached, 2);
        let grown = (reached | around) & within;
        if grown == reached {
            return reached;
        }
        reached = grown;
    }
}

/// Whether a voxel can join or leave a structure without changing its 26-connected components, its tunnels
/// or the 6-connected components of its background: the exact simple-point test of (26, 6) topology.
///
/// `around` tells of the 26 voxels around it which belong to the structure: bit
/// `9 (dz + 1) + 3 (dy + 1) + dx + 1`; the bit of the voxel itself (13) and bits above 26 do not matter.
/// An isolated voxel and one in the interior are not simple.
pub fn is_simple(around: u32) -> bool {
    let structure = around & ((1 << 27) - 1) & !CENTER;
    let background = !around & WITHIN_18;
    let faces = background & FACES;
    if structure == 0 || faces == 0 {
        return false;
    }
    let lowest = |bits: u32| bits & bits.wrapping_neg();
    flood_26(lowest(structure), structure) == structure
        && faces & !flood_6(lowest(faces), background) == 0
}

/// Numbers of the voxels of `foreground` that make its skeleton, ascending; `depth_mm` is
/// [`Foreground::depth_mm`].
///
/// The skeleton has the structure's topology exactly; every component keeps at least one voxel. Ends of
/// lines (voxels with one neighbour) stay. Cost: O(voxels), large layers looked through in parallel; memory: 26
/// bytes per voxel. The result depends on nothing but the input.
pub fn thin(foreground: &Foreground, depth_mm: &[f64]) -> Vec<u32> {
    let mut thinning = Thinning::new(foreground);
    // Distances are not negative, so their bits are ordered as they are.
    let mut order: Vec<(u64, u32)> = (depth_mm.par_iter().enumerate())
        .map(|(index, depth)| (depth.to_bits(), index as u32))
        .collect();
    order.par_sort_unstable();
    let mut ranks = vec![0_u32; order.len()];
    let mut layers: Vec<&[(u64, u32)]> = Vec::new();
    for layer in order.chunk_by(|a, b| a.0 == b.0) {
        for &(_, index) in layer {
            ranks[index as usize] = layers.len() as u32;
        }
        layers.push(layer);
    }
    for (rank, layer) in layers.iter().enumerate() {
        let layer = layer.iter().map(|&(_, index)| index).collect();
        thinning.peel(layer, &ranks, rank as u32);
    }
    (0..foreground.len() as u32)
        .filter(|&index| is_present(thinning.around[index as usize]))
        .collect()
}

struct Thinning<'a> {
    foreground: &'a Foreground,
    offsets: [isize; 26],
    /// Which of the 26 voxels around each are still there, as [`is_simple`] takes it; the bit of the voxel itself
    /// says whether it is.
    around: Vec<u32>,
    /// Voxels of one class do not touch each other.
    classes: Vec<u8>,
    /// Whether a voxel is on the list of the next round.
    listed: Vec<bool>,
}

fn is_present(around: u32) -> bool {
    around & CENTER != 0
}

/// The bit of a step of [`STEPS`]; the centre is no step.
fn bit_of(step: usize) -> u32 {
    1 << (step + usize::from(step >= 13))
}

/// Simple, and not the end of a line.
fn can_go(around: u32) -> bool {
    (around & !CENTER).count_ones() > 1 && is_simple(around)
}

impl<'a> Thinning<'a> {
    fn new(foreground: &'a Foreground) -> Self {
        let offsets = foreground.offsets();
        let table = foreground.table();
        let around = |&cell: &u32| {
            (offsets.iter().enumerate()).fold(CENTER, |bits, (step, offset)| {
                let is_there = table[(cell as isize + offset) as usize] > 0;
                bits | if is_there { bit_of(step) } else { 0 }
            })
        };
        let class = |index: usize| {
            let [z, y, x] = foreground.voxel(index);
            ((z & 1) << 2 | (y & 1) << 1 | x & 1) as u8
        };
        Self {
            foreground,
            offsets,
            around: foreground.cells().par_iter().map(around).collect(),
            classes: (0..foreground.len()).into_par_iter().map(class).collect(),
            listed: vec![false; foreground.len()],
        }
    }

    /// Takes one voxel away and tells those around it.
    fn remove(&mut self, index: u32) {
        let cell = self.foreground.cells()[index as usize] as isize;
        self.around[index as usize] &= !CENTER;
        for (step, offset) in self.offsets.iter().enumerate() {
            let number = self.foreground.table()[(cell + offset) as usize];
            if number > 0 {
                // Seen from there it lies the opposite way.
                self.around[number as usize - 1] &= !bit_of(25 - step);
            }
        }
    }

    /// Those of `active` whose face in `direction` is free and that can go.
    fn open_to(&self, direction: u32, active: &[u32], found: &mut Vec<u32>) {
        /// Fewer are looked through faster than they are handed out.
        const WORTH_SHARING: usize = 4096;
        let is_open = |index: &u32| {
            let around = self.around[*index as usize];
            is_present(around) && around >> direction & 1 == 0 && can_go(around)
        };
        found.clear();
        if active.len() < WORTH_SHARING {
            found.extend(active.iter().copied().filter(is_open));
        } else {
            found.par_extend(active.par_iter().copied().filter(is_open));
        }
    }

    /// Takes voxels away in rounds until none of those of at most `rank` can go.
    fn peel(&mut self, mut active: Vec<u32>, ranks: &[u32], rank: u32) {
        const DIRECTIONS: [u32; 6] = [4, 22, 10, 16, 12, 14];
        let mut candidates = Vec::new();
        let mut gone = Vec::new();
        while !active.is_empty() {
            gone.clear();
            for direction in DIRECTIONS {
                self.open_to(direction, &active, &mut candidates);
                for class in 0..8 {
                    for &index in &candidates {
                        // Others of this direction have gone since.
                        if self.classes[index as usize] == class
                            && can_go(self.around[index as usize])
                        {
                            self.remove(index);
                            gone.push(index);
                        }
                    }
                }
            }
            active.clear();
            for &index in &gone {
                for neighbor in self.foreground.neighbors(index as usize) {
                    if is_present(self.around[neighbor])
                        && !self.listed[neighbor]
                        && ranks[neighbor] <= rank
                    {
                        self.listed[neighbor] = true;
                        active.push(neighbor as u32);
                    }
                }
            }
            for &index in &active {
                self.listed[index as usize] = false;
            }
            active.sort_unstable();
        }
    }
}

/// [`is_simple`]'s bits for the voxels around one, from a test of each step `[z, y, x]`.
pub(super) fn bits_around(mut is_set: impl FnMut([isize; 3]) -> bool) -> u32 {
    let mut bits = 0;
    for (step, &offset) in STEPS.iter().enumerate() {
        if is_set(offset) {
            bits |= bit_of(step);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Connectivity, label_components};
    use ndarray::{Array3, s};
    use proptest::prelude::*;

    fn skeleton(mask: &Array3<bool>, spacing_mm: [f64; 3]) -> Array3<bool> {
        let foreground = Foreground::of(mask.view(), spacing_mm, |v| v).unwrap();
        let mut thinned = Array3::default(mask.dim());
        for index in thin(&foreground, &foreground.depth_mm()) {
            thinned[foreground.voxel(index as usize)] = true;
        }
        thinned
    }

    /// Components, tunnels and cavities: tunnels from the Euler characteristic of the cubical complex.
    fn betti(mask: &Array3<bool>) -> [i64; 3] {
        let shape: [usize; 3] = mask.dim().into();
        let mut padded = Array3::<bool>::default(shape.map(|n| n + 2));
        padded
            .slice_mut(s![1..=shape[0], 1..=shape[1], 1..=shape[2]])
            .assign(mask);
        let background = padded.mapv(|v| !v);
        let count = |mask: &Array3<bool>, connectivity| {
            label_components(mask.view(), connectivity).unwrap().len() as i64
        };
        let components = count(&padded, Connectivity::TwentySix);
        let cavities = count(&background, Connectivity::Six) - 1;
        // Cells of the closed cubes: a corner, edge, face or cube is there when a voxel at it is.
        let mut euler = 0_i64;
        for (z, y, x) in ndarray::indices(padded.dim()) {
            for cell in 0..8_usize {
                let extent = [cell >> 2 & 1, cell >> 1 & 1, cell & 1];
                let there = (0..8_usize).any(|corner| {
                    let back = [corner >> 2 & 1, corner >> 1 & 1, corner & 1];
                    (0..3).all(|axis| extent[axis] == 0 || back[axis] == 0)
                        && [z, y, x].iter().zip(back).all(|(&at, b)| at >= b)
                        && padded[[z - back[0], y - back[1], x - back[2]]]
                });
                let dimension: usize = extent.iter().sum();
                euler += i64::from(there) * if dimension.is_multiple_of(2) { 1 } else { -1 };
            }
        }
        [components, components + cavities - euler, cavities]
    }

    #[test]
    fn simple_points_by_hand() {
        // Bits of single steps.
        let [right, left, below, below_right] = [14, 12, 16, 17].map(|bit| 1_u32 << bit);
        assert!(!is_simple(0), "isolated");
        assert!(!is_simple(u32::MAX), "interior");
        assert!(is_simple(right), "end of a line");
        assert!(!is_simple(right | left), "middle of a line");
        assert!(is_simple(right | below), "a corner of a line");
        assert!(is_simple(!right), "a flat surface");
        assert!(!is_simple(!below_right), "behind an edge");
        assert!(!is_simple(!right & !left), "a plug");
    }

    #[test]
    fn a_tube_becomes_its_axis() {
        let tube = Array3::from_shape_fn([9, 9, 30], |(z, y, x)| {
            let (dz, dy) = (z as f64 - 4.0, y as f64 - 4.0);
            dz * dz + dy * dy <= 9.5 && (1..29).contains(&x)
        });
        let line = skeleton(&tube, [1.0; 3]);
        let found: Vec<_> = line
            .indexed_iter()
            .filter(|(_, v)| **v)
            .map(|(at, _)| at)
            .collect();
        assert!(found.iter().all(|&(z, y, _)| (z, y) == (4, 4)), "{found:?}");
        assert!(found.len() >= 22, "{found:?}");
    }

    #[test]
    fn a_tube_of_even_width_is_not_eaten_from_its_end() {
        let mut tube = Array3::default([40, 6, 6]);
        tube.slice_mut(s![.., 2..4, 2..4]).fill(true);
        let line = skeleton(&tube, [1.0; 3]);
        let voxels = line.iter().filter(|&&v| v).count();
        assert!((36..=42).contains(&voxels), "{voxels}");
    }

    #[test]
    fn blocks_keep_a_voxel() {
        for shape in [[1, 1, 1], [2, 2, 2], [4, 4, 4], [3, 1, 2], [16, 16, 16]] {
            let line = skeleton(&Array3::from_elem(shape, true), [1.0; 3]);
            assert!(line.iter().any(|&v| v), "{shape:?}");
        }
    }

    #[test]
    fn thick_slices_do_not_move_the_axis() {
        // A round tube of 6 mm radius along x, slices (z) of 3 mm.
        let tube = Array3::from_shape_fn([7, 19, 40], |(z, y, x)| {
            let (dz, dy) = (3.0 * (z as f64 - 3.0), y as f64 - 9.0);
            dz * dz + dy * dy <= 36.5 && (1..39).contains(&x)
        });
        let line = skeleton(&tube, [3.0, 1.0, 1.0]);
        for ((z, y, _), _) in line.indexed_iter().filter(|(_, v)| **v) {
            // A ridge of the stairs may stay as a spur within half the radius.
            assert!((2..=4).contains(&z) && (6..=12).contains(&y), "{z} {y}");
        }
    }

    proptest! {
        #[test]
        fn topology_is_kept(
            shape in [1_usize..7, 1_usize..7, 1_usize..7],
            density in 0.3..0.9_f64,
            seed in prop::collection::vec(0.0..1.0_f64, 343),
            spacing in [0.5..3.0_f64, 0.5..3.0_f64, 0.5..3.0_f64],
        ) {
            let mut values = seed.into_iter();
            let mask = Array3::from_shape_fn(shape, |_| values.next().unwrap() < density);
            let line = skeleton(&mask, spacing);
            prop_assert!(line.iter().zip(&mask).all(|(thin, thick)| !thin || *thick));
            prop_assert_eq!(betti(&line), betti(&mask));
        }

        #[test]
        fn the_quick_test_is_the_definition(around in 0_u32..1 << 27) {
            // Both by flooding step by step over a table of positions.
            let is_set = |bit: usize| around >> bit & 1 == 1;
            let distance = |a: usize, b: usize| -> [usize; 3] {
                [9, 3, 1].map(|stride| (a / stride % 3).abs_diff(b / stride % 3))
            };
            let steps = |a, b| distance(a, b).iter().sum::<usize>();
            let components = |voxels: &[usize], touching: &dyn Fn(usize, usize) -> bool| {
                let mut left = voxels.to_vec();
                let mut found = Vec::new();
                while let Some(first) = left.pop() {
                    let mut component = vec![first];
                    let mut open = 0;
                    while let Some(&at) = component.get(open) {
                        let (near, far) = left.iter().partition(|&&other| touching(at, other));
                        left = far;
                        component.extend::<Vec<usize>>(near);
                        open += 1;
                    }
                    found.push(component);
                }
                found
            };
            let others = (0..27).filter(|&bit| bit != 13);
            let structure: Vec<usize> = others.clone().filter(|&bit| is_set(bit)).collect();
            let background: Vec<usize> =
                others.filter(|&bit| !is_set(bit) && steps(bit, 13) <= 2).collect();
            let touching_26 = |a, b| distance(a, b).iter().all(|&step| step <= 1);
            let touching_6 = |a, b| steps(a, b) == 1;
            let outside = components(&background, &touching_6);
            let at_a_face = outside.iter().filter(|c| c.iter().any(|&bit| steps(bit, 13) == 1));
            let expected = components(&structure, &touching_26).len() == 1 && at_a_face.count() == 1;
            prop_assert_eq!(is_simple(around), expected);
        }

        #[test]
        fn a_simple_point_changes_no_number(around in 0_u32..1 << 27) {
            let block = |center: bool| Array3::from_shape_fn([3, 3, 3], |(z, y, x)| {
                let bit = 9 * z + 3 * y + x;
                if bit == 13 { center } else { around >> bit & 1 == 1 }
            });
            let same = betti(&block(true)) == betti(&block(false));
            // Within 3x3x3 equal numbers can hide two changes that cancel; a simple point never changes one.
            prop_assert!(!is_simple(around) || same);
        }
    }
}
