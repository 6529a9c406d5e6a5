//! Bridges in voxels.
//!
//! A bridge is a chain of voxels that share faces, from the last voxel that touches one side to the first
//! that touches the other, thickened to a tapered tube. Only background becomes structure. The chain may touch
//! nothing but its two sides; the tube grows from the chain by simple points only
//! ([`is_simple`]), so thickening joins nothing, closes no loop and encloses no hole: islands and passing
//! vessels stay apart by construction.

use super::candidates::Anchors;
use super::path::face_connected;
use super::pieces::{Anatomy, least};
use crate::topology::foreground::STEPS;
use crate::topology::thinning::{bits_around, is_simple};
use crate::topology::vector::{Vector, between, distance};
use ndarray::ArrayView3;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a voxel holds while bridges are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// Free to become structure.
    Free,
    /// Part of a piece or an anchor organ: its group.
    Group(u32),
    /// Another label, or outside of the volume.
    Blocked,
}

/// The label map with the bridges drawn so far.
pub(super) struct Canvas<'a> {
    pub labels: ArrayView3<'a, u16>,
    pub anatomy: &'a Anatomy,
    pub anchors: Option<&'a Anchors<'a>>,
    /// Labels other than background that bridges may run through; they are not overwritten.
    pub passable: &'a [u16],
    /// Voxels of bridges and a group that each belongs to.
    pub added: HashMap<[isize; 3], u32>,
    /// Parents of the union-find over groups.
    pub parents: Vec<u32>,
    /// Pieces on the other side of the patient than the bridge at hand: not to be touched, although both may
    /// end at the bladder and so be one group.
    pub opposed: Vec<bool>,
}

impl Canvas<'_> {
    pub fn root(&self, mut group: u32) -> u32 {
        while self.parents[group as usize] != group {
            group = self.parents[group as usize];
        }
        group
    }

    pub fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }

    pub fn cell(&self, voxel: [isize; 3]) -> Cell {
        if let Some(index) = self.anatomy.foreground.at(voxel) {
            return Cell::Group(self.anatomy.piece_of[index]);
        }
        if let Some(&group) = self.added.get(&voxel) {
            return Cell::Group(group);
        }
        if let Some(anchors) = self.anchors
            && let Some(index) = anchors.foreground.at(voxel)
        {
            return Cell::Group(self.anatomy.pieces.len() as u32 + anchors.organ_of[index]);
        }
        let label = inside(voxel).and_then(|voxel| self.labels.get(voxel));
        match label {
            Some(0) => Cell::Free,
            _ => Cell::Blocked,
        }
    }

    /// Whether the middle of a bridge between the roots `sides` cannot lie here.
    pub fn blocks(&self, voxel: [isize; 3], sides: [u32; 2]) -> bool {
        match self.cell(voxel) {
            Cell::Free => self.touches_others(voxel, sides),
            Cell::Group(group) => !sides.contains(&self.root(group)),
            Cell::Blocked => !inside(voxel)
                .and_then(|voxel| self.labels.get(voxel))
                .is_some_and(|label| self.passable.contains(label)),
        }
    }

    /// Whether one of the 26 voxels around belongs to a group that is not on either side, or to the other half of
    /// the patient.
    fn touches_others(&self, voxel: [isize; 3], sides: [u32; 2]) -> bool {
        self.groups_at(voxel).any(|group| !sides.contains(&group)) || self.touches_opposed(voxel)
    }

    fn touches_opposed(&self, voxel: [isize; 3]) -> bool {
        !self.opposed.is_empty()
            && STEPS
                .iter()
                .any(|&step| match self.cell(moved(voxel, step)) {
                    Cell::Group(group) => {
                        self.opposed.get(group as usize).copied().unwrap_or(false)
                    }
                    _ => false,
                })
    }

    /// Roots of the groups at a voxel and around it.
    fn groups_at(&self, voxel: [isize; 3]) -> impl Iterator<Item = u32> + '_ {
        std::iter::once([0; 3])
            .chain(STEPS)
            .filter_map(move |step| match self.cell(moved(voxel, step)) {
                Cell::Group(group) => Some(self.root(group)),
                _ => None,
            })
    }

    /// Draws a bridge along `line` between two groups, or says why it cannot be. `tube` holds spheres
    /// (centre, radius in mm) to fill around it. Returns the number of voxels.
    pub fn draw(
        &mut self,
        line: &[Vector],
        tube: &[(Vector, f64)],
        groups: [u32; 2],
    ) -> Result<usize, &'static str> {
        let sides = groups.map(|group| self.root(group));
        let chain = if sides[0] == sides[1] {
            self.loop_chain(line, sides[0])?
        } else {
            self.chain(line, sides)?
        };
        let before = self.added.len();
        for voxel in chain {
            self.added.insert(voxel, groups[0]);
        }
        self.join(groups[0], groups[1]);
        self.thicken(tube, groups[0]);
        Ok(self.added.len() - before)
    }

    /// The free voxels of `line` between the last that touches the first side and the first that touches
    /// the second.
    fn chain(&self, line: &[Vector], sides: [u32; 2]) -> Result<Vec<[isize; 3]>, &'static str> {
        let voxels = face_connected(line, self.anatomy.foreground.spacing_mm());
        let touched: Vec<Vec<u32>> = voxels
            .iter()
            .map(|&v| self.groups_at(v).collect())
            .collect();
        // The line may brush its own piece once more after a bend; what counts is the last crossing.
        let start = touched.iter().position(|groups| groups.contains(&sides[0]));
        let start = start.ok_or("the path does not begin at the first piece")?;
        let end = (start..voxels.len())
            .find(|&at| touched[at].contains(&sides[1]))
            .ok_or("the path does not reach the second piece")?;
        let start = (start..=end)
            .rev()
            .find(|&at| touched[at].contains(&sides[0]))
            .unwrap_or(start);
        let mut chain = Vec::new();
        for &voxel in &voxels[start..=end] {
            match self.cell(voxel) {
                Cell::Group(_) => {}
                Cell::Blocked => return Err("another label is in the way"),
                Cell::Free if self.touches_others(voxel, sides) => {
                    return Err("a third piece is in the way");
                }
                Cell::Free => chain.push(voxel),
            }
        }
        Ok(chain)
    }

    /// The free voxels of `line` between two places on one side, of which only the first and the last few touch
    /// it.
    fn loop_chain(&self, line: &[Vector], side: u32) -> Result<Vec<[isize; 3]>, &'static str> {
        let voxels = face_connected(line, self.anatomy.foreground.spacing_mm());
        let touches: Vec<bool> = voxels
            .iter()
            .map(|&voxel| self.groups_at(voxel).any(|group| group == side))
            .collect();
        // The longest stretch that touches nothing, with the voxel before and after it.
        let mut longest = 0..0;
        let mut start = 0;
        for (at, &is_touching) in touches.iter().enumerate() {
            if is_touching {
                start = at + 1;
            } else if at + 1 - start > longest.len() {
                longest = start..at + 1;
            }
        }
        if longest.is_empty() || longest.start == 0 || longest.end == voxels.len() {
            return Err("the ends touch already");
        }
        let chain = &voxels[longest.start - 1..=longest.end];
        for &voxel in chain {
            match self.cell(voxel) {
                Cell::Free if !self.touches_others(voxel, [side; 2]) => {}
                Cell::Free => return Err("a third piece is in the way"),
                _ => return Err("another label is in the way"),
            }
        }
        Ok(chain.to_vec())
    }

    /// Adds the free voxels within the spheres, nearest to their centres first, each when it is simple;
    /// repeated until nothing more fits.
    fn thicken(&mut self, tube: &[(Vector, f64)], group: u32) {
        let spacing = self.anatomy.foreground.spacing_mm();
        let mut wanted: BTreeMap<[isize; 3], f64> = BTreeMap::new();
        for &(center, radius) in tube {
            let low: [isize; 3] = std::array::from_fn(|axis| {
                ((center[axis] - radius) / spacing[axis]).ceil() as isize
            });
            let high: [isize; 3] = std::array::from_fn(|axis| {
                ((center[axis] + radius) / spacing[axis]).floor() as isize
            });
            for z in low[0]..=high[0] {
                for y in low[1]..=high[1] {
                    for x in low[2]..=high[2] {
                        let voxel = [z, y, x];
                        let place = std::array::from_fn(|axis| voxel[axis] as f64 * spacing[axis]);
                        let off = distance(place, center);
                        // The radius is a distance to the first background voxel, which stays outside.
                        if off < radius {
                            let known = wanted.entry(voxel).or_insert(off);
                            *known = off.min(*known);
                        }
                    }
                }
            }
        }
        let mut order: Vec<([isize; 3], f64)> = wanted.into_iter().collect();
        order.retain(|(voxel, _)| self.cell(*voxel) == Cell::Free);
        order.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
        let numbers: HashMap<[isize; 3], u32> =
            order.iter().map(|entry| entry.0).zip(0_u32..).collect();
        let mut is_open = vec![true; order.len()];
        let mut round: Vec<u32> = (0..order.len() as u32).collect();
        while !round.is_empty() {
            // Only a change next to it can make a voxel simple that was not.
            let mut again = BTreeSet::new();
            for number in round {
                let (voxel, _) = order[number as usize];
                let around =
                    bits_around(|step| matches!(self.cell(moved(voxel, step)), Cell::Group(_)));
                if !is_simple(around) || self.touches_opposed(voxel) {
                    continue;
                }
                self.added.insert(voxel, group);
                is_open[number as usize] = false;
                let next = STEPS
                    .iter()
                    .filter_map(|&step| numbers.get(&moved(voxel, step)));
                again.extend(next.copied());
            }
            round = again
                .into_iter()
                .filter(|&number| is_open[number as usize])
                .collect();
        }
    }
}

/// Spheres along `line` with the radius going evenly from one value to the other.
pub(super) fn tapered(
    line: &[Vector],
    radii: [f64; 2],
    spacing_mm: [f64; 3],
) -> Vec<(Vector, f64)> {
    let step = 0.4 * least(spacing_mm);
    let total: f64 = line.windows(2).map(|pair| distance(pair[0], pair[1])).sum();
    let mut walked = 0.0;
    let mut tube = Vec::new();
    for pair in line.windows(2) {
        let length = distance(pair[0], pair[1]);
        let steps = (length / step) as usize + 1;
        for at in 0..=steps {
            let t = at as f64 / steps as f64;
            let along = if total > 0.0 {
                (walked + t * length) / total
            } else {
                0.0
            };
            tube.push((
                between(pair[0], pair[1], t),
                radii[0] + along * (radii[1] - radii[0]),
            ));
        }
        walked += length;
    }
    tube
}

fn moved(voxel: [isize; 3], step: [isize; 3]) -> [isize; 3] {
    std::array::from_fn(|axis| voxel[axis] + step[axis])
}

fn inside(voxel: [isize; 3]) -> Option<[usize; 3]> {
    let [z, y, x] = voxel.map(usize::try_from);
    Some([z.ok()?, y.ok()?, x.ok()?])
}
