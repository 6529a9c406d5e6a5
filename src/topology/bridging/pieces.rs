//! The pieces of an interrupted tree, which of them take part, and their open ends.

use crate::topology::foreground::{BrickGroup, Foreground};
use crate::topology::graph::SkeletonGraph;
use crate::topology::vector::{
    Vector, add, cosine, distance, dot, norm, principal_axes, quantile, scale, sub,
};

/// One 26-connected piece of the structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Number of voxels.
    pub voxels: usize,
    /// Its first voxel in scan order, `[z, y, x]`.
    pub first_voxel: [usize; 3],
    /// Centre of mass in mm from the centre of the volume's first voxel, `[z, y, x]`.
    pub center_mm: [f64; 3],
    /// Length of a uniform rod of the same spread along the main axis, in mm.
    pub length_mm: f64,
    /// Spread along the main axis over spread across it.
    pub elongation: f64,
    /// Largest distance to the background, in mm.
    pub radius_mm: f64,
    /// Whether it is taken for a part of the tree; islands are not, and nothing ever touches them.
    pub is_eligible: bool,
}

/// An open end of a piece.
#[derive(Debug, Clone)]
pub(super) struct Tip {
    pub piece: u32,
    /// Where the surface is reached along the tangent.
    pub surface: Vector,
    /// A point of the centre line about one radius inside.
    pub base: Vector,
    /// Unit vector that points out of the piece.
    pub tangent: Vector,
    pub radius_mm: f64,
    /// How far the tangent can be trusted, 0 to 1: a long straight end gives 1.
    pub trust: f64,
    /// The last radius of the centre line, from the tip inward.
    pub heal: Vec<Vector>,
}

/// Everything known about the structure before bridges are sought.
pub(super) struct Anatomy {
    pub foreground: Foreground,
    pub piece_of: Vec<u32>,
    pub pieces: Vec<Piece>,
    pub tips: Vec<Tip>,
    pub graph: SkeletonGraph,
    /// Radius of the tube around each point of the graph, smoothed along it, in mm.
    pub radius_at: Vec<f64>,
    /// Tips that were left out because the vessel runs out of the volume there.
    pub border_tips: usize,
}

/// What makes a piece a part of the tree; see [`Piece::is_eligible`].
///
/// Numbers of voxels hold for voxels of up to [`COARSE_MM3`]; larger ones count for more, so that a piece of a
/// given size in mm³ does not become an island where voxels are coarse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eligibility {
    /// Fewest voxels.
    pub least_voxels: usize,
    /// Pieces of fewer voxels than this must be unmistakable tubes: [`least_tube_elongation`](Self::least_tube_elongation)
    /// times as long as wide and round across.
    pub firm_voxels: usize,
    /// Least elongation of pieces of fewer than [`firm_voxels`](Self::firm_voxels).
    pub least_tube_elongation: f64,
    /// Largest width over thickness of such pieces.
    pub most_flatness: f64,
    /// Least length in mm.
    pub least_length_mm: f64,
    /// Pieces of this many voxels need no elongation.
    pub sure_voxels: usize,
    /// Pieces of this length in mm need no elongation.
    pub sure_length_mm: f64,
    /// Least elongation of all others.
    pub least_elongation: f64,
    /// Wherever an elongation is asked for, a piece must have it in voxels as well as in mm, or be this many times as
    /// long as thick in voxels. A speck of noise is a ball of voxels, but a tube in mm where slices lie far apart; a
    /// vessel within thick slices is flat in voxels. Where voxels are cubes this changes nothing.
    pub least_voxel_slenderness: f64,
}

/// Size from which one voxel counts as several, in mm³: specks of noise have few voxels whatever these measure, but a
/// vessel of few large voxels is no speck. 20 voxels of this size are 100 mm³.
pub const COARSE_MM3: f64 = 5.0;

impl Default for Eligibility {
    fn default() -> Self {
        Self {
            least_voxels: 20,
            firm_voxels: 48,
            least_tube_elongation: 3.0,
            most_flatness: 1.2,
            least_length_mm: 5.0,
            sure_voxels: 100,
            sure_length_mm: 16.0,
            least_elongation: 2.0,
            least_voxel_slenderness: 4.0,
        }
    }
}

impl Anatomy {
    pub fn new(foreground: Foreground, rule: Eligibility, volume_shape: [usize; 3]) -> Self {
        let (depth, (piece_of, count)) =
            rayon::join(|| foreground.depth_mm(), || foreground.components());
        let (graph, pieces) = rayon::join(
            || SkeletonGraph::of(&foreground, &depth),
            || pieces(&foreground, &piece_of, count, &depth, rule),
        );
        let radius_at = smooth_radii(&graph);
        let mut anatomy = Self {
            foreground,
            piece_of,
            pieces,
            tips: Vec::new(),
            graph,
            radius_at,
            border_tips: 0,
        };
        anatomy.find_tips(volume_shape);
        anatomy
    }

    /// Point of the graph that each voxel belongs to.
    pub fn owners(&self) -> Vec<u32> {
        self.graph.owners(&self.foreground, &self.piece_of)
    }

    pub fn fine_mm(&self) -> f64 {
        least(self.foreground.spacing_mm())
    }

    fn find_tips(&mut self, volume_shape: [usize; 3]) {
        for line in self.graph.tips() {
            let piece = self.piece_of[self.graph.points[line[0] as usize].index as usize];
            if !self.pieces[piece as usize].is_eligible {
                continue;
            }
            let tip = self.tip(&line, piece);
            let runs_out = (0..3).any(|axis| {
                let spacing = self.foreground.spacing_mm()[axis];
                let last = (volume_shape[axis] as f64 - 1.0) * spacing;
                let margin = (1.5 * tip.radius_mm).min(3.0 * spacing).max(spacing);
                // A volume of one slice has no inside along that axis.
                volume_shape[axis] > 1
                    && (tip.surface[axis] < margin && tip.tangent[axis] < 0.2
                        || tip.surface[axis] > last - margin && tip.tangent[axis] > -0.2)
            });
            if runs_out {
                self.border_tips += 1;
            } else {
                self.tips.push(tip);
            }
        }
    }

    /// The end of a centre line: its direction from the main axis of the last four radii.
    fn tip(&self, line: &[u32], piece: u32) -> Tip {
        let fine = self.fine_mm();
        let place = |point: &u32| self.graph.points[*point as usize].position_mm;
        let radius = |point: &u32| self.graph.points[*point as usize].radius_mm;
        let mut end = 1;
        let mut walked = 0.0;
        while end < line.len() {
            walked += distance(place(&line[end - 1]), place(&line[end]));
            end += 1;
            let r = quantile(line[..end].iter().map(radius), 0.5);
            if walked > (4.0 * r).max(8.0 * fine) {
                break;
            }
        }
        let walk = &line[..end];
        let radius_mm = quantile(walk.iter().map(radius), 0.75);
        let positions: Vec<Vector> = walk.iter().map(place).collect();
        let skip = (0.3 * radius_mm / fine) as usize;
        let straight = if positions.len() >= skip + 3 {
            &positions[skip..]
        } else {
            &positions[..]
        };
        let (tangent, trust) = match (straight.first(), straight.last()) {
            (Some(&first), Some(&last)) if straight.len() > 1 => {
                let (_, axis) = principal_axes(straight.iter().copied());
                let sign = if dot(axis, sub(first, last)) < 0.0 {
                    -1.0
                } else {
                    1.0
                };
                (scale(axis, sign), (walked / (2.5 * radius_mm)).min(1.0))
            }
            _ => ([0.0; 3], 0.0),
        };
        let base = positions.first().copied().unwrap_or_default();
        let back = (radius_mm / fine) as usize + 1;
        Tip {
            piece,
            surface: self.surface_along(base, tangent),
            base,
            tangent,
            radius_mm,
            trust,
            heal: positions.into_iter().take(back).collect(),
        }
    }

    /// The last point inside the structure on the way from `start` along `direction`.
    fn surface_along(&self, start: Vector, direction: Vector) -> Vector {
        let step = 0.25 * self.fine_mm();
        let spacing = self.foreground.spacing_mm();
        let mut at = start;
        if direction == [0.0; 3] {
            return at;
        }
        loop {
            let next = add(at, scale(direction, step));
            let voxel = std::array::from_fn(|axis| (next[axis] / spacing[axis]).round() as isize);
            if self.foreground.at(voxel).is_none() {
                return at;
            }
            at = next;
        }
    }
}

pub(super) fn least(spacing_mm: [f64; 3]) -> f64 {
    spacing_mm.into_iter().fold(f64::INFINITY, f64::min)
}

fn pieces(
    foreground: &Foreground,
    piece_of: &[u32],
    count: usize,
    depth: &[f64],
    rule: Eligibility,
) -> Vec<Piece> {
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (index, &piece) in piece_of.iter().enumerate() {
        members[piece as usize].push(index as u32);
    }
    let fine = least(foreground.spacing_mm());
    let voxel_mm3: f64 = foreground.spacing_mm().iter().product();
    let counts_as = (voxel_mm3 / COARSE_MM3).max(1.0);
    members
        .iter()
        .map(|voxels| {
            let points = voxels
                .iter()
                .map(|&index| foreground.position_mm(index as usize));
            let (spread, _) = principal_axes(points.clone());
            let sum = points.fold([0.0; 3], add);
            let length_mm = spread[0] * 12.0_f64.sqrt();
            let [width, thickness] = [1, 2].map(|axis| spread[axis].max(0.3 * fine));
            let elongation = spread[0] / width;
            let size = voxels.len() as f64 * counts_as;
            let is_sure = size >= rule.sure_voxels as f64;
            let is_elongated =
                |least: f64| elongation >= least && is_no_ball(foreground, voxels, least, rule);
            let is_tube = size >= rule.firm_voxels as f64
                || width <= rule.most_flatness * thickness
                    && is_elongated(rule.least_tube_elongation);
            Piece {
                voxels: voxels.len(),
                first_voxel: foreground.voxel(voxels[0] as usize),
                center_mm: scale(sum, 1.0 / voxels.len() as f64),
                length_mm,
                elongation,
                radius_mm: voxels
                    .iter()
                    .map(|&v| depth[v as usize])
                    .fold(0.0, f64::max),
                is_eligible: size >= rule.least_voxels as f64
                    && is_tube
                    && length_mm >= rule.least_length_mm.max(4.0 * fine)
                    && (is_sure
                        || length_mm > rule.sure_length_mm
                        || is_elongated(rule.least_elongation)),
            }
        })
        .collect()
}

/// Whether voxels, taken for cubes, are elongated or flat enough; see [`Eligibility::least_voxel_slenderness`].
fn is_no_ball(
    foreground: &Foreground,
    voxels: &[u32],
    least_elongation: f64,
    rule: Eligibility,
) -> bool {
    let places = voxels
        .iter()
        .map(|&index| foreground.voxel(index as usize).map(|at| at as f64));
    let ([long, wide, thin], _) = principal_axes(places);
    long >= least_elongation * wide.max(0.3) || long >= rule.least_voxel_slenderness * thin.max(0.3)
}

/// Median radius over the five nearest points of each branch.
fn smooth_radii(graph: &SkeletonGraph) -> Vec<f64> {
    let mut smooth: Vec<f64> = graph.points.iter().map(|point| point.radius_mm).collect();
    for branch in &graph.branches {
        for (position, &point) in branch.points.iter().enumerate() {
            let from = position.saturating_sub(2);
            let to = (position + 3).min(branch.points.len());
            let around = branch.points[from..to]
                .iter()
                .map(|&other| graph.points[other as usize].radius_mm);
            smooth[point as usize] = quantile(around, 0.5);
        }
    }
    smooth
}

/// For every ordered pair of pieces the length in mm along which the first runs beside the second: its centre
/// line has the other's surface sideways (60 to 120 degrees) within `reach_mm` of its own. A detached piece
/// meets its tree with an end; a separate vessel keeps it company.
pub(super) fn company(
    anatomy: &Anatomy,
    reach_mm: f64,
) -> std::collections::BTreeMap<(u32, u32), f64> {
    use rayon::prelude::*;
    let spacing = anatomy.foreground.spacing_mm();
    let bricks = anatomy.foreground.brick_groups(&anatomy.piece_of);
    let per_branch: Vec<Vec<((u32, u32), f64)>> = anatomy
        .graph
        .branches
        .par_iter()
        .map(|branch| {
            let mut found = Vec::new();
            let place = |at: usize| anatomy.graph.points[branch.points[at] as usize].position_mm;
            let last = branch.points.len() - 1;
            let own =
                anatomy.piece_of[anatomy.graph.points[branch.points[0] as usize].index as usize];
            if !anatomy.pieces[own as usize].is_eligible {
                return found;
            }
            for at in 0..last {
                let here = place(at);
                let (from, to) = (place(at.saturating_sub(4)), place((at + 4).min(last)));
                let direction = sub(to, from);
                let step = distance(here, place(at + 1));
                let within = anatomy.radius_at[branch.points[at] as usize] + reach_mm;
                let mut beside: Vec<(u32, f64, Vector)> = Vec::new();
                let holds_others = |brick: usize| match bricks[brick] {
                    BrickGroup::None => false,
                    BrickGroup::One(piece) => piece != own,
                    BrickGroup::Several => true,
                };
                let [low, high] = box_within(spacing, here, within);
                let visit = |voxel: [isize; 3], index: usize| {
                    let other = anatomy.piece_of[index];
                    if other == own || !anatomy.pieces[other as usize].is_eligible {
                        return;
                    }
                    let (offset, d) = offset_of(voxel, spacing, here);
                    if d > within {
                        return;
                    }
                    match beside.iter_mut().find(|known| known.0 == other) {
                        Some(known) if known.1 <= d => {}
                        Some(known) => *known = (other, d, offset),
                        None => beside.push((other, d, offset)),
                    }
                };
                anatomy
                    .foreground
                    .for_each_in_bricks(low, high, holds_others, visit);
                for (other, _, offset) in beside {
                    if cosine(offset, direction).abs() <= 0.5 {
                        found.push(((own, other), step));
                    }
                }
            }
            found
        })
        .collect();
    let mut company = std::collections::BTreeMap::new();
    for (pair, step) in per_branch.into_iter().flatten() {
        *company.entry(pair).or_insert(0.0) += step;
    }
    company
}

/// Calls `found(index, offset_mm, distance_mm)` for every voxel of `foreground` within `reach_mm` of `center`.
pub(super) fn for_each_within(
    foreground: &Foreground,
    spacing_mm: [f64; 3],
    center: Vector,
    reach_mm: f64,
    mut found: impl FnMut(usize, Vector, f64),
) {
    let [low, high] = box_within(spacing_mm, center, reach_mm);
    foreground.for_each_in(low, high, |voxel, index| {
        let (offset, d) = offset_of(voxel, spacing_mm, center);
        if d <= reach_mm {
            found(index, offset, d);
        }
    });
}

/// First and last voxels of the box around what lies within `reach_mm` of `center`.
fn box_within(spacing_mm: [f64; 3], center: Vector, reach_mm: f64) -> [[isize; 3]; 2] {
    let voxel = |axis: usize, by: f64| (center[axis] + by) / spacing_mm[axis];
    [
        std::array::from_fn(|axis| voxel(axis, -reach_mm).ceil() as isize),
        std::array::from_fn(|axis| voxel(axis, reach_mm).floor() as isize),
    ]
}

/// The way from `center` to a voxel in mm, and its length.
fn offset_of(voxel: [isize; 3], spacing_mm: [f64; 3], center: Vector) -> (Vector, f64) {
    let offset = std::array::from_fn(|axis| voxel[axis] as f64 * spacing_mm[axis] - center[axis]);
    (offset, norm(offset))
}
