//! Surfaces of label maps: smooth, closed, manifold, true to volume, one per label, sharing their borders.
//!
//! 1. **Net.** Every unit square between voxels of different labels becomes one quad, every corner on such a square one
//!    vertex. All labels are made at once, so two that touch share their border to the last bit. Beyond the image edge lies
//!    background: whatever reaches the edge is closed there.
//! 2. **Smoothing** removes the stairs with a momentum bi-Laplacian, each vertex clamped to a voxel-sized box around its corner,
//!    so no structure can vanish or move further than half a voxel.
//! 3. **Volume restoration** gives every connected piece back the volume of its voxels by moving shared borders as a whole.
//! 4. **Surfaces.** Where a label touches itself along an edge or at a corner the sheets are separated, so that every mesh is
//!    manifold by construction. Positions are millimetres, RAS+ unless asked otherwise; triangles turn anticlockwise as seen
//!    from outside, for left-handed affines too.
//!
//! Everything is parallel over layers, blocks of vertices or labels, without hash maps or atomics, and gives the same bytes for any
//! number of threads. Cost: time linear in the surface plus one fast pass over the voxels; memory about 110 bytes per
//! vertex plus half a byte per voxel.
//!
//! ```
//! use medseg::mesh::{Options, SurfaceNet};
//! use medseg::progress::Silent;
//! use medseg::volume::{Grid, LabelMap, LabelTable};
//!
//! let grid = Grid::with_spacing([8, 8, 8], [2.0, 1.0, 1.0]);
//! let ball = ndarray::Array3::from_shape_fn([8, 8, 8], |(z, y, x)| {
//!     let distance = [z, y, x].map(|i| (i as f64 - 3.5).powi(2)).iter().sum::<f64>();
//!     u16::from(distance < 9.0)
//! });
//! let map = LabelMap::new(ball, grid, LabelTable::default())?;
//! let net = SurfaceNet::build(&map, &Options::default(), &Silent)?;
//! let surface = net.surface(1);
//! let report = net.report(&surface);
//! assert_eq!((report.shells, report.genus), (1, 0));
//! assert!((report.volume_out_ml / report.volume_in_ml - 1.0).abs() < 0.001);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod assemble;
mod bend;
mod bridge;
pub mod check;
mod cracks;
mod fans;
mod lattice;
mod net;
mod options;
mod quad;
mod regions;
mod report;
mod select;
mod simplify;
mod smoothing;
mod surface;
mod unfold;
mod volume;
pub mod write;

pub use options::{Cleaning, Frame, Iterations, Options, Simplification, VolumeRule};
pub use report::SurfaceReport;
pub use surface::{Measures, Surface};

use crate::progress::Progress;
use crate::volume::{Affine, LabelMap};
use assemble::Assembler;
use net::Net;
use rayon::prelude::*;
use smoothing::{Offset, Steps};
use std::borrow::Cow;

/// Why no surface can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The affine does not place voxels in space.
    #[error("the affine is singular or not finite: voxels have no place in millimetres")]
    Affine,
    /// A label was asked for that no voxel has.
    #[error("label {label} does not occur: the map holds {}", list(found))]
    LabelAbsent {
        /// The label asked for.
        label: u16,
        /// The labels that occur.
        found: Vec<u16>,
    },
    /// An option is out of its range.
    #[error("{0}")]
    Parameter(String),
    /// More than the indices can number.
    #[error(
        "a map of {shape:?} voxels (z, y, x) is too large: axes may have 65534 voxels, surfaces 4294967295 vertices"
    )]
    TooLarge {
        /// Shape of the map, `[z, y, x]`.
        shape: [usize; 3],
    },
    /// More than the memory limit.
    #[error("surfaces of {vertices} vertices need {:.2} GiB, limit {:.2} GiB", gib(*needed_bytes), gib(*limit_bytes))]
    Memory {
        /// Vertices of the net.
        vertices: usize,
        /// What they and the map take.
        needed_bytes: u64,
        /// [`Options::limit_bytes`].
        limit_bytes: u64,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

/// What the net takes per voxel (the map itself included) and per vertex, in bytes. Measured: 458 MB for 79 M voxels with 2.4 M
/// vertices, the text of the files being written included.
const VOXEL_BYTES: f64 = 2.5;
const VERTEX_BYTES: f64 = 110.0;

/// The least memory that surfaces of a map of `voxels` voxels take, the map included, in bytes. Vertices come on top: how many there
/// are is known once the map is read ([`Options::limit_bytes`]).
pub fn least_bytes(voxels: u64, cleaning: &Cleaning) -> u64 {
    let edited = match cleaning {
        cleaning if cleaning.is_none() => 0.0,
        Cleaning { bridge: true, .. } => 6.0,
        _ => 2.0,
    };
    ((VOXEL_BYTES + edited) * voxels as f64) as u64
}

fn list(labels: &[u16]) -> String {
    match labels {
        [] => "background only".to_owned(),
        _ => {
            let shown: Vec<String> = labels.iter().take(20).map(u16::to_string).collect();
            let rest = if labels.len() > 20 { ", …" } else { "" };
            format!("{}{rest}", shown.join(", "))
        }
    }
}

/// The smoothed net of a label map, from which the surface of each label is taken.
pub struct SurfaceNet<'a> {
    map: &'a LabelMap,
    labels: Cow<'a, [u16]>,
    affine: Affine,
    /// `None` for a map without foreground.
    net: Option<(Net, Vec<Offset>)>,
    /// Voxels of every label that has a surface, ascending.
    voxels: Vec<(u16, u64)>,
    /// Quads of every label in `voxels`.
    quads: Vec<Vec<u32>>,
    simplification: Option<Simplification>,
    normals: bool,
}

impl<'a> SurfaceNet<'a> {
    /// Extracts, smooths and restores the net of `map`.
    ///
    /// A map of background only, or without voxels, has no labels and no surfaces; that is no error.
    ///
    /// # Errors
    /// [`Error`] for a singular affine, a label that does not occur, an option out of range, a map too large to index, or
    /// when `progress` asks to stop.
    pub fn build(
        map: &'a LabelMap,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        let affine = checked_affine(map, options)?;
        let present = map.counts();
        let chosen = chosen_labels(&present, options)?;
        let is_chosen = |label: u16| chosen.binary_search(&label).is_ok();
        progress.begin("extract", 0);
        let labels: Cow<[u16]> = if options.cleaning.is_none() {
            Cow::Borrowed(map.volume.as_slice())
        } else {
            let cleaned = select::clean(map, &options.cleaning, &is_chosen)?;
            Cow::Owned(cleaned.into_raw_vec_and_offset().0)
        };
        if chosen.is_empty() {
            return Ok(Self {
                map,
                labels,
                affine,
                net: None,
                voxels: Vec::new(),
                quads: Vec::new(),
                simplification: options.simplification,
                normals: options.normals,
            });
        }
        let least = least_bytes(labels.len() as u64, &options.cleaning);
        let room = move |vertices: usize| {
            let needed_bytes = least + (VERTEX_BYTES * vertices as f64) as u64;
            if needed_bytes <= options.limit_bytes {
                return Ok(());
            }
            Err(Error::Memory {
                vertices,
                needed_bytes,
                limit_bytes: options.limit_bytes,
            })
        };
        let mut net = Net::build(&labels, map.volume.shape(), &room)?;
        let iterations = options
            .iterations
            .count(map.grid().affine.column_norms_mm());
        let offsets = displace(&mut net, iterations, options, progress)?;
        let (voxels, quads) = net.quads_by_label(&is_chosen);
        Ok(Self {
            map,
            labels,
            affine,
            net: Some((net, offsets)),
            voxels,
            quads,
            simplification: options.simplification,
            normals: options.normals,
        })
    }

    /// The labels that have a surface, ascending: those chosen that have voxels after cleaning.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.voxels.iter().map(|&(label, _)| label)
    }

    /// The same labels, those with the largest surface first: the order in which to make them so that no thread is left
    /// with a large one at the end.
    pub fn labels_by_size(&self) -> Vec<u16> {
        let mut sizes: Vec<(usize, u16)> =
            self.quads.iter().map(Vec::len).zip(self.labels()).collect();
        sizes.sort_unstable_by_key(|&(quads, label)| (std::cmp::Reverse(quads), label));
        sizes.into_iter().map(|(_, label)| label).collect()
    }

    /// The corners of the box around all surfaces, before simplification, in the frame asked for; `None` without surfaces.
    /// Cost: one pass over their quads.
    pub fn bounds_mm(&self) -> Option<[[f64; 3]; 2]> {
        let (net, offsets) = self.net.as_ref()?;
        let assembler = self.assembler(net, offsets);
        let empty = [[f64::INFINITY; 3], [f64::NEG_INFINITY; 3]];
        let union = |[low, high]: [[f64; 3]; 2], [other_low, other_high]: [[f64; 3]; 2]| {
            [
                std::array::from_fn(|axis| f64::min(low[axis], other_low[axis])),
                std::array::from_fn(|axis| f64::max(high[axis], other_high[axis])),
            ]
        };
        let bounds = self
            .quads
            .par_iter()
            .flatten()
            .flat_map_iter(|&quad| net.quads.vertices[quad as usize])
            .map(|vertex| [assembler.position(vertex); 2])
            .reduce(|| empty, union);
        (bounds != empty).then_some(bounds)
    }

    fn assembler<'b>(&'b self, net: &'b Net, offsets: &'b [Offset]) -> Assembler<'b> {
        Assembler {
            net,
            labels: &self.labels,
            offsets,
            affine: self.affine,
        }
    }

    /// The surface of `label`; empty for a label that is not in [`SurfaceNet::labels`]. Cost: linear in its quads.
    pub fn surface(&self, label: u16) -> Surface {
        let empty = Surface {
            label,
            ..Surface::default()
        };
        let Some((net, offsets)) = &self.net else {
            return empty;
        };
        let Ok(place) = self.voxels.binary_search_by_key(&label, |entry| entry.0) else {
            return empty;
        };
        let assembler = self.assembler(net, offsets);
        let quads = &self.quads[place];
        let (mut surface, numbering) = assembler.surface(label, quads);
        if let Some(wanted) = self.simplification {
            let locked = assembler.locked_vertices(label, quads, &numbering);
            surface = simplify::simplify(surface, locked, wanted);
        }
        if self.normals {
            surface.compute_normals();
        }
        surface
    }

    /// What `surface`, which this net gave, looks like in numbers.
    pub fn report(&self, surface: &Surface) -> SurfaceReport {
        let voxels = self
            .voxels
            .binary_search_by_key(&surface.label, |entry| entry.0)
            .map_or(0, |place| self.voxels[place].1);
        let measures = surface.measures();
        let mut report = SurfaceReport {
            label: surface.label,
            name: self.map.table.name_of(surface.label),
            voxels,
            volume_in_ml: voxels as f64 * self.affine.determinant().abs() / 1000.0,
            volume_out_ml: measures.volume_mm3 / 1000.0,
            area_cm2: measures.area_mm2 / 100.0,
            vertices: surface.positions.len(),
            triangles: surface.triangles.len(),
            shells: measures.shells,
            genus: measures.genus,
            warnings: Vec::new(),
        };
        report.warnings = report.notable();
        report
    }
}

/// Steps after the first volume restoration, and how far they return: they smooth what moving the quads has roughened.
/// Returning less than fully lets thin tubes relax; the volume it costs is restored after.
const POLISH_ITERATIONS: usize = 5;
const POLISH_RETURN: f32 = 0.3;
const MOST_ROUNDS: usize = 4;

/// Smooths the net, restores its volumes and undoes its folds.
fn displace(
    net: &mut Net,
    iterations: usize,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Offset>, Error> {
    let box_voxels = options.box_voxels;
    let corners = vec![Offset::default(); net.vertices.len()];
    if iterations == 0 || box_voxels == 0.0 {
        return Ok(corners);
    }
    let steps = Steps {
        iterations,
        back: smoothing::FULL_RETURN,
        box_voxels,
    };
    progress.begin("smooth", iterations as u64);
    let mut offsets = smoothing::smooth(net, corners, steps, progress)?;
    let restores = options.volume == VolumeRule::PerRegion;
    let pairs = volume::Pairs::find(net);
    if restores {
        progress.begin("volume", 0);
        volume::restore(net, &pairs, &mut offsets, box_voxels, 1);
        let polish = Steps {
            iterations: POLISH_ITERATIONS.min(iterations),
            back: POLISH_RETURN,
            box_voxels,
        };
        offsets = smoothing::smooth(net, offsets, polish, progress)?;
    }
    bend::mark_bent_quads(net, &offsets);
    if restores {
        volume::restore(net, &pairs, &mut offsets, box_voxels, MOST_ROUNDS);
    }
    unfold::unfold(net, &mut offsets);
    Ok(offsets)
}

/// The voxel-to-millimetre transform in the frame asked for, and a look at the other numbers.
fn checked_affine(map: &LabelMap, options: &Options) -> Result<Affine, Error> {
    let mut affine = map.grid().affine;
    if !affine.is_finite() || affine.inverse().is_none() {
        return Err(Error::Affine);
    }
    if !(0.0..=0.5).contains(&options.box_voxels) {
        return Err(Error::Parameter(format!(
            "the box is {} voxels, expected 0 to 0.5",
            options.box_voxels
        )));
    }
    let simplification = options.simplification;
    if !simplification.is_none_or(|wanted| match wanted {
        Simplification::Tolerance { mm } => mm > 0.0 && mm.is_finite(),
        Simplification::Ratio(ratio) => ratio > 0.0 && ratio <= 1.0,
    }) {
        return Err(Error::Parameter(
            "simplification takes a tolerance above 0 mm or a ratio above 0 and up to 1".to_owned(),
        ));
    }
    if options.cleaning.least_island_mm3.is_nan() {
        return Err(Error::Parameter(
            "the island volume is not a number".to_owned(),
        ));
    }
    if options.frame == Frame::Lps {
        for row in 0..2 {
            affine.linear[row] = affine.linear[row].map(|value| -value);
            affine.origin_mm[row] = -affine.origin_mm[row];
        }
    }
    Ok(affine)
}

/// The labels to make, ascending.
fn chosen_labels(present: &[(u16, u64)], options: &Options) -> Result<Vec<u16>, Error> {
    let found: Vec<u16> = present
        .iter()
        .map(|&(label, _)| label)
        .filter(|&label| label != 0)
        .collect();
    let Some(wanted) = &options.labels else {
        return Ok(found);
    };
    let mut wanted = wanted.clone();
    wanted.sort_unstable();
    wanted.dedup();
    match wanted
        .iter()
        .find(|label| found.binary_search(label).is_err())
    {
        Some(&label) => Err(Error::LabelAbsent { label, found }),
        None => Ok(wanted),
    }
}
