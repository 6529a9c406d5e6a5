//! From the net to the triangles of one label.
//!
//! A label's surface is made of the quads that have it on exactly one side, each cut into triangles ([`super::quad`]). Every fan of
//! quads at a vertex ([`super::fans`]) gets its own copy of the vertex. Where the label touches itself along an edge whose two copies
//! still share both ends, the edge itself would have four triangles: each copy then gets a vertex in its middle. Copies are
//! moved by 2 % towards the middle of their own quads, so that sheets do not touch.
//!
//! Vertices are numbered without hash maps: ordinary ones by their rank in a bitmap, copies and middles by their place
//! in a sorted list.

use super::fans::{FANS, Fans, around};
use super::net::{COMPLEX, Net};
use super::quad::{LocalQuad, mean};
use super::smoothing::Offset;
use super::surface::Surface;
use crate::volume::Affine;
use rayon::prelude::*;

/// How far copies of a vertex move towards the middle of their quads.
const NUDGE: f32 = 0.02;
/// Quads cut at a time.
const BLOCK: usize = 1 << 14;

/// What every label's surface is made from.
pub(super) struct Assembler<'a> {
    pub net: &'a Net,
    /// The label map, x fastest.
    pub labels: &'a [u16],
    pub offsets: &'a [Offset],
    /// Voxel index to millimetres in the frame of the output.
    pub affine: Affine,
}

/// The copy of a vertex that belongs to one fan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct VertexCopy {
    vertex: u32,
    fan: u8,
}

/// The vertex in the middle of one copy of an edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Middle {
    low: u32,
    high: u32,
    /// The label's voxel that has this copy, as numbered in the block of `low`.
    voxel: u8,
}

/// A quad at a vertex where its label may have several fans.
struct Detail {
    /// The vertex copy per corner, `None` for an ordinary vertex.
    copies: [Option<VertexCopy>; 4],
    /// Middle of the side from corner `n` to corner `n + 1`, where it needs one.
    middles: [Option<Middle>; 4],
}

impl Detail {
    const PLAIN: Self = Self {
        copies: [None; 4],
        middles: [None; 4],
    };
}

/// The vertices of one label.
pub(super) struct Numbering {
    /// First vertex of the net that the bitmap covers.
    base: u32,
    ordinary: Vec<u64>,
    before: Vec<u32>,
    /// Sorted, without repetitions.
    copies: Vec<VertexCopy>,
    middles: Vec<Middle>,
    /// Quads with a vertex in their middle, ascending.
    bent: Vec<u32>,
    ordinary_count: u32,
}

impl Assembler<'_> {
    /// The surface of `label`, given the numbers of its quads in ascending order.
    pub fn surface(&self, label: u16, quads: &[u32]) -> (Surface, Numbering) {
        let numbering = self.number_vertices(label, quads);
        let triangles: Vec<Vec<[u32; 3]>> = quads
            .par_chunks(BLOCK)
            .map(|block| {
                let mut triangles = Vec::with_capacity(2 * block.len());
                for &quad in block {
                    self.cut(label, quad as usize, &numbering, &mut triangles);
                }
                triangles
            })
            .collect();
        let surface = Surface {
            label,
            positions: self.positions(label, quads, &numbering),
            triangles: triangles.concat(),
            normals: Vec::new(),
        };
        (surface, numbering)
    }

    /// Which vertices of the surface of `label` must stay: those on borders with other labels, and copies and middles.
    pub fn locked_vertices(&self, label: u16, quads: &[u32], numbering: &Numbering) -> Vec<bool> {
        let mut locked = vec![false; numbering.len()];
        let ordinary = numbering.ordinary_count as usize;
        locked[ordinary..numbering.len() - numbering.bent.len()].fill(true);
        for &quad in quads {
            let sides = self.net.quads.regions[quad as usize];
            if sides
                .iter()
                .all(|&region| self.net.regions.label[region as usize] != 0)
            {
                let detail = self.detail(label, quad as usize);
                let vertices = self.net.quads.vertices[quad as usize];
                for (vertex, copy) in vertices.into_iter().zip(detail.copies) {
                    locked[numbering.corner(vertex, copy) as usize] = true;
                }
                if self.net.quads.is_bent(quad as usize) {
                    locked[numbering.centre(quad) as usize] = true;
                }
            }
        }
        locked
    }

    fn on_positive_side(&self, label: u16, quad: usize) -> bool {
        let [_, positive] = self.net.quads.regions[quad];
        self.net.regions.label[positive as usize] == label
    }

    fn is_plain(&self, quad: usize) -> bool {
        let kind = |vertex: u32| self.net.vertices.kind[vertex as usize];
        self.net.quads.vertices[quad]
            .iter()
            .all(|&vertex| kind(vertex) & COMPLEX == 0)
    }

    /// Which of the eight voxels around a vertex have the label, as bits.
    fn members(&self, label: u16, vertex: u32) -> usize {
        let corner = self.net.vertices.corner[vertex as usize].map(usize::from);
        let [nx, ny, nz] = self.net.lattice.voxels;
        (0..8)
            .filter(|voxel| {
                // Wraps to a huge number below 0, which is outside like everything beyond the end.
                let at = |axis: usize| (corner[axis] + (voxel >> axis & 1)).wrapping_sub(1);
                let (i, j, k) = (at(0), at(1), at(2));
                i < nx && j < ny && k < nz && self.labels[(k * ny + j) * nx + i] == label
            })
            .fold(0, |members, voxel| members | 1 << voxel)
    }

    fn detail(&self, label: u16, quad: usize) -> Detail {
        if self.is_plain(quad) {
            return Detail::PLAIN;
        }
        let vertices = self.net.quads.vertices[quad];
        let axis = self.net.quads.axis(quad);
        let (b, c) = ((axis + 1) % 3, (axis + 2) % 3);
        let members = vertices.map(|vertex| self.members(label, vertex));
        let own_side = usize::from(self.on_positive_side(label, quad)) << axis;
        // Voxel on the negative side of the quad as numbered in the block of each of its corners.
        let below = [(1, 1), (0, 1), (0, 0), (1, 0)].map(|(db, dc)| db << b | dc << c);
        let copies = std::array::from_fn(|n| {
            let fans = &FANS[members[n]];
            (fans.count > 1).then(|| VertexCopy {
                vertex: vertices[n],
                fan: fans.between(below[n], below[n] | 1 << axis),
            })
        });
        // Half edges along the sides of the quad: towards +b, +c, -b, -c.
        let sides = [2 * b + 1, 2 * c + 1, 2 * b, 2 * c];
        let middles = std::array::from_fn(|n| {
            let next = (n + 1) % 4;
            let half_edge = sides[n];
            (touches_itself(members[n], half_edge)
                && is_one_fan(members[n], half_edge)
                && is_one_fan(members[next], half_edge ^ 1))
            .then(|| {
                let (low, high) = if half_edge & 1 == 1 {
                    (n, next)
                } else {
                    (next, n)
                };
                Middle {
                    low: vertices[low],
                    high: vertices[high],
                    voxel: (below[low] | own_side) as u8,
                }
            })
        });
        Detail { copies, middles }
    }

    fn number_vertices(&self, label: u16, quads: &[u32]) -> Numbering {
        let corners = || {
            quads
                .iter()
                .flat_map(|&quad| self.net.quads.vertices[quad as usize])
        };
        let base = corners().min().unwrap_or(0) & !63;
        let last = corners().max().unwrap_or(0);
        let mut ordinary = vec![0_u64; ((last - base) / 64 + 1) as usize];
        let (mut copies, mut middles) = (Vec::new(), Vec::new());
        for &quad in quads {
            let detail = self.detail(label, quad as usize);
            let vertices = self.net.quads.vertices[quad as usize];
            for (vertex, copy) in vertices.into_iter().zip(detail.copies) {
                if let Some(copy) = copy {
                    copies.push(copy);
                } else {
                    let bit = vertex - base;
                    ordinary[bit as usize / 64] |= 1 << (bit % 64);
                }
            }
            middles.extend(detail.middles.into_iter().flatten());
        }
        copies.sort_unstable();
        copies.dedup();
        middles.sort_unstable();
        middles.dedup();
        let mut ordinary_count = 0;
        let before = ordinary
            .iter()
            .map(|word| {
                let before = ordinary_count;
                ordinary_count += word.count_ones();
                before
            })
            .collect();
        Numbering {
            base,
            ordinary,
            before,
            copies,
            middles,
            bent: quads
                .iter()
                .copied()
                .filter(|&quad| self.net.quads.is_bent(quad as usize))
                .collect(),
            ordinary_count,
        }
    }

    /// Appends the triangles of one quad.
    fn cut(&self, label: u16, quad: usize, numbering: &Numbering, out: &mut Vec<[u32; 3]>) {
        let detail = self.detail(label, quad);
        let vertices = self.net.quads.vertices[quad];
        let corners: [u32; 4] =
            std::array::from_fn(|n| numbering.corner(vertices[n], detail.copies[n]));
        let reversed = self.on_positive_side(label, quad) != (self.affine.determinant() < 0.0);
        let mut put = |a: u32, b: u32, c: u32| {
            out.push(if reversed { [a, c, b] } else { [a, b, c] });
        };
        let middle = |n: usize| detail.middles[n].map(|key| numbering.middle(key));
        if self.net.quads.is_bent(quad) {
            let centre = numbering.centre(quad as u32);
            for n in 0..4 {
                let (a, b) = (corners[n], corners[(n + 1) % 4]);
                if let Some(ab) = middle(n) {
                    put(a, ab, centre);
                    put(ab, b, centre);
                } else {
                    put(a, b, centre);
                }
            }
            return;
        }
        for triangle in LocalQuad::of(self.net, self.offsets, quad).split() {
            let [a, b, c] = triangle.map(|n| corners[n]);
            // The first two sides of either triangle are sides of the quad, the third is the diagonal.
            match (middle(triangle[0]), middle(triangle[1])) {
                (None, None) => put(a, b, c),
                (Some(ab), None) => {
                    put(a, ab, c);
                    put(ab, b, c);
                }
                (None, Some(bc)) => {
                    put(a, b, bc);
                    put(a, bc, c);
                }
                (Some(ab), Some(bc)) => {
                    put(a, ab, c);
                    put(ab, b, bc);
                    put(ab, bc, c);
                }
            }
        }
    }

    fn positions(&self, label: u16, quads: &[u32], numbering: &Numbering) -> Vec<[f64; 3]> {
        let mut positions = Vec::with_capacity(numbering.len());
        let world = |voxel: [f64; 3]| self.affine.apply(voxel);
        let ordinary = numbering.ordinary_vertices();
        ordinary
            .par_iter()
            .with_min_len(4096)
            .map(|&vertex| world(self.voxel_position(vertex)))
            .collect_into_vec(&mut positions);
        let (copies, middles) = self.nudges(label, quads, numbering);
        let moved = |[x, y, z]: [f64; 3], nudge: [f32; 4]| {
            let share = f64::from(NUDGE) / f64::from(nudge[3].max(1.0));
            let step = |sum: f32| share * f64::from(sum);
            world([x + step(nudge[0]), y + step(nudge[1]), z + step(nudge[2])])
        };
        for (copy, nudge) in numbering.copies.iter().zip(copies) {
            positions.push(moved(self.voxel_position(copy.vertex), nudge));
        }
        for (middle, nudge) in numbering.middles.iter().zip(middles) {
            let (low, high) = (
                self.voxel_position(middle.low),
                self.voxel_position(middle.high),
            );
            let between = std::array::from_fn(|axis| f64::midpoint(low[axis], high[axis]));
            positions.push(moved(between, nudge));
        }
        for &quad in &numbering.bent {
            let centre = LocalQuad::of(self.net, self.offsets, quad as usize).centre;
            let [lowest, ..] = self.net.quads.vertices[quad as usize];
            positions.push(world(
                self.voxel_position_near(lowest, centre.unwrap_or_default()),
            ));
        }
        positions
    }

    /// Where a vertex lies, in millimetres.
    pub fn position(&self, vertex: u32) -> [f64; 3] {
        self.affine.apply(self.voxel_position(vertex))
    }

    /// Voxel coordinates of a vertex: corner `i` lies half a voxel before the centre of voxel `i`.
    fn voxel_position(&self, vertex: u32) -> [f64; 3] {
        self.voxel_position_near(vertex, self.offsets[vertex as usize].xyz())
    }

    /// Voxel coordinates of the place `offset` voxels from the corner of a vertex.
    fn voxel_position_near(&self, vertex: u32, offset: [f32; 3]) -> [f64; 3] {
        let corner = self.net.vertices.corner[vertex as usize];
        std::array::from_fn(|axis| f64::from(corner[axis]) - 0.5 + f64::from(offset[axis]))
    }

    /// For every copy and every middle, the sum of the steps to the centres of its quads, and their number.
    fn nudges(
        &self,
        label: u16,
        quads: &[u32],
        numbering: &Numbering,
    ) -> (Vec<[f32; 4]>, Vec<[f32; 4]>) {
        let mut copies = vec![[0.0; 4]; numbering.copies.len()];
        let mut middles = vec![[0.0; 4]; numbering.middles.len()];
        let add = |nudge: Option<&mut [f32; 4]>, from: [f32; 3], to: [f32; 3]| {
            if let Some(nudge) = nudge {
                for axis in 0..3 {
                    nudge[axis] += to[axis] - from[axis];
                }
                nudge[3] += 1.0;
            }
        };
        for &quad in quads {
            let quad = quad as usize;
            if self.is_plain(quad) {
                continue;
            }
            let detail = self.detail(label, quad);
            let points = LocalQuad::of(self.net, self.offsets, quad).points;
            let centre = mean(&points);
            for n in 0..4 {
                if let Some(Ok(place)) =
                    detail.copies[n].map(|key| numbering.copies.binary_search(&key))
                {
                    add(copies.get_mut(place), points[n], centre);
                }
                if let Some(Ok(place)) =
                    detail.middles[n].map(|key| numbering.middles.binary_search(&key))
                {
                    let middle = mean(&[points[n], points[(n + 1) % 4]]);
                    add(middles.get_mut(place), middle, centre);
                }
            }
        }
        (copies, middles)
    }
}

/// Whether the label has exactly two of the four voxels around a half edge, diagonally.
fn touches_itself(members: usize, half_edge: usize) -> bool {
    let [a, b, c, d] = around(half_edge).map(|voxel| members >> voxel & 1);
    a == c && b == d && a != b
}

/// Whether the quads of the two diagonal voxels around a half edge are in one fan.
fn is_one_fan(members: usize, half_edge: usize) -> bool {
    let ring = around(half_edge);
    let fans: &Fans = &FANS[members];
    let first = usize::from(members >> ring[0] & 1 == 0);
    let fan = |q: usize| fans.between(ring[q], ring[(q + 1) % 4]);
    fan(first) == fan(first + 2)
}

impl Numbering {
    fn len(&self) -> usize {
        self.ordinary_count as usize + self.copies.len() + self.middles.len() + self.bent.len()
    }

    /// Number of a quad's corner.
    fn corner(&self, vertex: u32, copy: Option<VertexCopy>) -> u32 {
        let Some(copy) = copy else {
            let bit = vertex - self.base;
            let index = bit as usize / 64;
            let lower = self.ordinary[index] & ((1 << (bit % 64)) - 1);
            return self.before[index] + lower.count_ones();
        };
        self.ordinary_count + place(&self.copies, copy)
    }

    fn middle(&self, key: Middle) -> u32 {
        self.ordinary_count + self.copies.len() as u32 + place(&self.middles, key)
    }

    fn centre(&self, quad: u32) -> u32 {
        self.ordinary_count
            + (self.copies.len() + self.middles.len()) as u32
            + place(&self.bent, quad)
    }

    fn ordinary_vertices(&self) -> Vec<u32> {
        let mut vertices = Vec::with_capacity(self.ordinary_count as usize);
        for (base, &word) in (self.base..).step_by(64).zip(&self.ordinary) {
            vertices.extend(super::lattice::set_bits(word).map(|bit| base + bit as u32));
        }
        vertices
    }
}

/// Place of a key in the sorted list that it was put into.
fn place<K: Ord>(list: &[K], key: K) -> u32 {
    list.partition_point(|other| *other < key) as u32
}
