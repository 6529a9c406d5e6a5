//! The surface net: vertices at corners, one quad per crack face.
//!
//! A vertex exists at every corner whose eight voxels are not all equal. A quad separates exactly two regions and is shared by
//! both, so that touching labels share their border by construction. Vertices are numbered in scan order; the quads of a
//! corner layer follow those of the layer before, which lets layers be worked on in parallel.

use super::Error;
use super::cracks::Cracks;
use super::lattice::{Bitmap, Lattice, Ranked, set_bits, split_by_lengths};
use super::regions::{OUTSIDE, Regions};
use rayon::prelude::*;

/// Bits of [`Vertices::kind`] that say in which of the directions -x, +x, -y, +y, -z, +z a vertex has neighbours to average.
pub(super) const DIRECTIONS: u8 = 0b11_1111;
/// Bit of [`Vertices::kind`]: an edge with three or four quads ends here.
pub(super) const AT_JUNCTION: u8 = 1 << 6;
/// Bit of [`Vertices::kind`]: a label may have more than one sheet of surface here.
pub(super) const COMPLEX: u8 = 1 << 7;

/// Bit of [`Quads::shape`]: the quad has a vertex in its middle.
const BENT: u8 = 1 << 2;

/// The net of a label map.
pub(super) struct Net {
    pub lattice: Lattice,
    pub vertices: Vertices,
    pub quads: Quads,
    pub regions: Regions,
}

/// Vertices, in scan order of their corners.
pub(super) struct Vertices {
    /// Corner `(i, j, k)` of each vertex; voxel position minus 0.5.
    pub corner: Vec<[u16; 3]>,
    /// [`DIRECTIONS`], [`AT_JUNCTION`] and [`COMPLEX`].
    pub kind: Vec<u8>,
    /// Neighbours towards -y, +y, -z, +z, or the vertex itself where there is none to average. Neighbours along x are
    /// the previous and the next vertex.
    pub links: Vec<[u32; 4]>,
    /// Vertices in each corner layer.
    pub per_layer: Vec<usize>,
}

/// Quads between two regions.
pub(super) struct Quads {
    /// Vertices, anticlockwise as seen from the positive side of the normal axis; the first is the lowest corner.
    pub vertices: Vec<[u32; 4]>,
    /// Normal axis: 0 x, 1 y, 2 z, and whether the quad is [`BENT`].
    shape: Vec<u8>,
    /// Regions on the negative and the positive side.
    pub regions: Vec<[u32; 2]>,
    /// Quads in each corner layer.
    pub per_layer: Vec<usize>,
}

impl Net {
    /// Builds the net of `labels` (x fastest, `[z, y, x]` of `shape`, none of which is 0). `room` is told the number of vertices before
    /// they are made.
    ///
    /// # Errors
    /// That of `room`; [`Error::TooLarge`] when an axis is longer than 65534 voxels or there are more than `u32::MAX` vertices.
    pub fn build(
        labels: &[u16],
        shape: [usize; 3],
        room: &dyn Fn(usize) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let too_large = || Error::TooLarge { shape };
        if shape.iter().any(|&n| n >= usize::from(u16::MAX)) {
            return Err(too_large());
        }
        let cracks = Cracks::find(labels, Lattice::new(shape));
        let corners = Ranked::new(active_corners(&cracks)).ok_or_else(too_large)?;
        room(corners.bits.layer_counts().iter().sum())?;
        let per_layer = quads_per_layer(&cracks);
        // Finding regions takes one thread.
        let (vertices, regions) = rayon::join(
            || Vertices::build(&cracks, &corners),
            || Regions::find(labels, cracks.faces[0].clone()),
        );
        let regions = regions.ok_or_else(too_large)?;
        let [_, faces_y, faces_z] = cracks.faces;
        let quads = Quads::build(&regions, &faces_y, &faces_z, &corners, per_layer);
        Ok(Self {
            lattice: corners.bits.lattice,
            vertices,
            quads,
            regions,
        })
    }
}

/// Corners whose eight voxels are not all equal: those with any edge that carries faces.
fn active_corners(cracks: &Cracks) -> Bitmap {
    let lattice = cracks.lattice();
    let mut active = Bitmap::new(lattice);
    active
        .words
        .par_chunks_mut(lattice.layer_words())
        .enumerate()
        .for_each(|(k, layer)| {
            for (j, row) in layer.chunks_mut(lattice.words).enumerate() {
                for (w, word) in row.iter_mut().enumerate() {
                    let edges = cracks.edges_around(j, k, w);
                    *word = edges.iter().fold(0, |bits, edge| bits | edge.any);
                }
            }
        });
    active
}

impl Vertices {
    fn build(cracks: &Cracks, corners: &Ranked) -> Self {
        let lattice = cracks.lattice();
        let per_layer = corners.bits.layer_counts();
        let count = per_layer.iter().sum();
        let mut corner = vec![[0; 3]; count];
        let mut kind = vec![0; count];
        let mut links = vec![[0; 4]; count];
        split_by_lengths(&mut corner, &per_layer)
            .into_par_iter()
            .zip(split_by_lengths(&mut kind, &per_layer))
            .zip(split_by_lengths(&mut links, &per_layer))
            .enumerate()
            .for_each(|(k, ((corner, kind), links))| {
                let mut slots = corner.iter_mut().zip(kind).zip(links);
                let first = corners.rank_of_row(lattice.row(0, k));
                let mut vertex = first;
                for j in 0..lattice.rows_per_layer() {
                    for w in 0..lattice.words {
                        let active = corners.bits.word(j, k, w);
                        if active == 0 {
                            continue;
                        }
                        let edges = cracks.edges_around(j, k, w);
                        for bit in set_bits(active) {
                            let Some(((corner, kind), links)) = slots.next() else {
                                return;
                            };
                            let i = 64 * w + bit;
                            *corner = [i as u16, j as u16, k as u16];
                            *kind = kind_of(&edges, bit);
                            *links = links_of(corners, *kind, vertex, [i, j, k]);
                            vertex += 1;
                        }
                    }
                }
            });
        Self {
            corner,
            kind,
            links,
            per_layer,
        }
    }

    /// The neighbours that vertex `index` averages, itself in the place of those it has not.
    pub fn neighbours(&self, index: usize) -> [usize; 6] {
        let kind = usize::from(self.kind[index]);
        let [a, b, c, d] = self.links[index].map(|link| link as usize);
        [index - (kind & 1), index + (kind >> 1 & 1), a, b, c, d]
    }

    /// Number of vertices.
    pub fn len(&self) -> usize {
        self.corner.len()
    }
}

/// On a surface a vertex averages all its neighbours; on a curve where three or more regions meet (two or more junction
/// edges) only those along the curve, which keeps such curves from being dragged by the larger sheet.
fn kind_of(edges: &[super::cracks::EdgeWord; 6], bit: usize) -> u8 {
    let gather = |word: fn(&super::cracks::EdgeWord) -> u64| {
        edges
            .iter()
            .enumerate()
            .fold(0_u8, |mask, (direction, edge)| {
                mask | ((word(edge) >> bit & 1) as u8) << direction
            })
    };
    let any = gather(|edge| edge.any);
    let junction = gather(|edge| edge.junction);
    let four = gather(|edge| edge.four);
    let averaged = if junction.count_ones() >= 2 {
        junction
    } else {
        any
    };
    let complex = any.count_ones() > 4 || four != 0;
    averaged | if complex { COMPLEX } else { 0 } | if junction != 0 { AT_JUNCTION } else { 0 }
}

fn links_of(corners: &Ranked, kind: u8, vertex: u32, [i, j, k]: [usize; 3]) -> [u32; 4] {
    let lattice = corners.bits.lattice;
    let link = |direction: u8, j: usize, k: usize| {
        if kind >> direction & 1 == 1 {
            corners.rank(i, lattice.row(j, k))
        } else {
            vertex
        }
    };
    [
        link(2, j.wrapping_sub(1), k),
        link(3, j + 1, k),
        link(4, j, k.wrapping_sub(1)),
        link(5, j, k + 1),
    ]
}

fn quads_per_layer(cracks: &Cracks) -> Vec<usize> {
    let [x, y, z] = &cracks.faces;
    let (x, y, z) = (x.layer_counts(), y.layer_counts(), z.layer_counts());
    x.iter()
        .zip(y)
        .zip(z)
        .map(|((x, y), z)| x + y + z)
        .collect()
}

impl Quads {
    fn build(
        regions: &Regions,
        faces_y: &Bitmap,
        faces_z: &Bitmap,
        corners: &Ranked,
        per_layer: Vec<usize>,
    ) -> Self {
        let lattice = corners.bits.lattice;
        let count = per_layer.iter().sum();
        let mut vertices = vec![[0; 4]; count];
        let mut axes = vec![0; count];
        let mut sides = vec![[0; 2]; count];
        let corner = |i: usize, j: usize, k: usize| corners.rank(i, lattice.row(j, k));
        let before = |i: usize, row: Option<usize>| row.map_or(OUTSIDE, |row| regions.at(i, row));
        split_by_lengths(&mut vertices, &per_layer)
            .into_par_iter()
            .zip(split_by_lengths(&mut axes, &per_layer))
            .zip(split_by_lengths(&mut sides, &per_layer))
            .enumerate()
            .for_each(|(k, ((vertices, axes), sides))| {
                let mut slots = vertices.iter_mut().zip(axes).zip(sides);
                let mut put = |axis: u8, quad: [u32; 4], beside: [u32; 2]| {
                    if let Some(((vertices, slot), sides)) = slots.next() {
                        (*vertices, *slot, *sides) = (quad, axis, beside);
                    }
                };
                for j in 0..lattice.rows_per_layer() {
                    let row = lattice.row(j, k);
                    for w in 0..lattice.words {
                        let at = |bit: usize| 64 * w + bit;
                        for i in set_bits(regions.faces_x().word(j, k, w)).map(at) {
                            let quad = [
                                corner(i, j, k),
                                corner(i, j + 1, k),
                                corner(i, j + 1, k + 1),
                                corner(i, j, k + 1),
                            ];
                            put(0, quad, regions.beside_face(i, row));
                        }
                        for i in set_bits(faces_y.word(j, k, w)).map(at) {
                            let quad = [
                                corner(i, j, k),
                                corner(i, j, k + 1),
                                corner(i + 1, j, k + 1),
                                corner(i + 1, j, k),
                            ];
                            let lower = j.checked_sub(1).map(|j| lattice.row(j, k));
                            put(1, quad, [before(i, lower), regions.at(i, row)]);
                        }
                        for i in set_bits(faces_z.word(j, k, w)).map(at) {
                            let quad = [
                                corner(i, j, k),
                                corner(i + 1, j, k),
                                corner(i + 1, j + 1, k),
                                corner(i, j + 1, k),
                            ];
                            let lower = k.checked_sub(1).map(|k| lattice.row(j, k));
                            put(2, quad, [before(i, lower), regions.at(i, row)]);
                        }
                    }
                }
            });
        Self {
            vertices,
            shape: axes,
            regions: sides,
            per_layer,
        }
    }

    /// Number of quads.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Normal axis of a quad: 0 x, 1 y, 2 z.
    pub fn axis(&self, quad: usize) -> usize {
        usize::from(self.shape[quad] & !BENT)
    }

    /// Whether a quad has a vertex in its middle.
    pub fn is_bent(&self, quad: usize) -> bool {
        self.shape[quad] & BENT != 0
    }

    /// Says which quads have a vertex in their middle.
    pub fn set_bent(&mut self, bent: &[bool]) {
        for (shape, &bent) in self.shape.iter_mut().zip(bent) {
            *shape = *shape & !BENT | if bent { BENT } else { 0 };
        }
    }
}

/// Labels with their voxels, ascending, and the quads of each.
type QuadsByLabel = (Vec<(u16, u64)>, Vec<Vec<u32>>);

impl Net {
    /// Corner layer of a quad's lowest corner.
    pub fn layer_of(&self, quad: usize) -> f64 {
        let [lowest, ..] = self.quads.vertices[quad];
        f64::from(self.vertices.corner[lowest as usize][2])
    }

    /// Voxels and quads, in order, of every label for which `chosen` holds. Cost: 4 bytes per quad and side.
    pub fn quads_by_label(&self, chosen: &dyn Fn(u16) -> bool) -> QuadsByLabel {
        let mut voxels_of = vec![0_u64; usize::from(u16::MAX) + 1];
        for (&label, voxels) in self.regions.label.iter().zip(&self.regions.voxels) {
            voxels_of[usize::from(label)] += voxels;
        }
        let labels: Vec<(u16, u64)> = (1..=u16::MAX)
            .zip(voxels_of.into_iter().skip(1))
            .filter(|&(label, voxels)| voxels > 0 && chosen(label))
            .collect();
        // Place of every region's label in the list; regions of other labels have none.
        let places: Vec<usize> = self
            .regions
            .label
            .iter()
            .map(|label| {
                labels
                    .binary_search_by_key(label, |entry| entry.0)
                    .unwrap_or(usize::MAX)
            })
            .collect();
        let mut counts = vec![0_usize; labels.len()];
        for side in self.quads.regions.iter().flatten() {
            if let Some(count) = counts.get_mut(places[*side as usize]) {
                *count += 1;
            }
        }
        let mut quads: Vec<Vec<u32>> = counts.into_iter().map(Vec::with_capacity).collect();
        for (quad, sides) in (0..).zip(&self.quads.regions) {
            for &side in sides {
                if let Some(list) = quads.get_mut(places[side as usize]) {
                    list.push(quad);
                }
            }
        }
        (labels, quads)
    }
}
