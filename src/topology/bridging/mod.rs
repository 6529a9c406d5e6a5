//! Reconnecting the pieces of an interrupted tree, without inventing anatomy.
//!
//! 1. The structure is split into 26-connected pieces. Specks are islands ([`Eligibility`]): nothing is
//!    ever joined to them.
//! 2. Its centre lines ([`thin`](super::thin)) give the open ends: where they are, where they point, how thick
//!    the vessel is. Ends at the border of the volume are no gaps: the vessel leaves the field of view.
//! 3. Candidates: two ends that face each other, an end that faces the side of a vessel at least as thick, and
//!    thick pieces that end bluntly close together. Each has a cost in mm that grows with the gap, with bends
//!    and with unequal radii. Pieces that run side by side are separate vessels and no candidates.
//! 4. Candidates are tried from the cheapest up (Kruskal, "On the shortest spanning subtree of a graph", Proc.
//!    AMS 7, 1956): each end is used once, and two pieces that hang together already are left alone, so
//!    no loop is made.
//! 5. A bridge follows a cubic Hermite curve, or the cheapest way round other labels (Dijkstra), and is drawn
//!    as a tapered tube on background only. See `draw.rs` for why it cannot touch anything else.
//!
//! The result is the same for any number of threads: every stage is a map over tips or voxels, and ties are
//! broken by position. Nothing is written: a [`Repair`] lists voxels, and [`Repair::apply`] puts them in.

mod candidates;
mod chains;
mod draw;
mod intensity;
mod path;
mod pieces;
pub mod ureter;

use super::foreground::{Foreground, TooLarge};
use super::graph::SkeletonGraph;
use super::vector::{add, polyline_length, scale, sub, unit};
use candidates::{Anchors, Candidate, Search, heading};
use chains::Chains;
use draw::{Canvas, tapered};
use ndarray::{ArrayView3, ArrayViewMut3};
use pieces::Anatomy;
pub use pieces::{COARSE_MM3, Eligibility, Piece};
use rayon::prelude::*;
use std::collections::HashMap;

/// What a bridge joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Two open ends that face each other.
    TipTip,
    /// An open end and the side of another piece.
    TipBody,
    /// Two thick pieces that end bluntly.
    Blunt,
    /// An open end and an organ.
    TipAnchor,
    /// Two open ends of one chain of pieces: a loop is closed. Only with [`ConnectOptions::close_loops`].
    Loop,
}

/// How a bridge runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Course {
    /// A smooth curve.
    Spline,
    /// Around what is in the way.
    Detour,
}

/// What a repair may do. Lengths in mm.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectOptions {
    /// Longest gap between two surfaces.
    pub max_gap_mm: f64,
    /// Bridges below this confidence (0 to 1) are reported, not made.
    pub min_confidence: f64,
    /// Which pieces are parts of the tree.
    pub eligibility: Eligibility,
    /// How much a bend costs between two ends.
    pub bend_weight: f64,
    /// How much a bend costs from an end to the side of a vessel.
    pub body_bend_weight: f64,
    /// Widest angle, in degrees, between an end and the way to another end.
    pub widest_angle_deg: f64,
    /// Widest angle, in degrees, between an end and the way to the side of a vessel.
    pub widest_body_angle_deg: f64,
    /// Pieces whose surfaces run within this distance of each other may be companions; `None` turns the
    /// rule off.
    pub company_reach_mm: Option<f64>,
    /// Share of the shorter piece's length that two companions run side by side.
    pub company_fraction: f64,
    /// Labels that a bridge may pass through without overwriting them.
    pub passable: Vec<u16>,
    /// Whether two ends of one piece, or of pieces that hang together already, are joined too: last, when both
    /// are still free, face each other within 45 degrees and reach [`LOOP_CONFIDENCE`].
    pub close_loops: bool,
}

/// Least confidence of a bridge that closes a loop: trees have few.
pub const LOOP_CONFIDENCE: f64 = 0.5;

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            max_gap_mm: 20.0,
            min_confidence: 0.2,
            eligibility: Eligibility::default(),
            bend_weight: 3.0,
            body_bend_weight: 6.0,
            widest_angle_deg: 65.0,
            widest_body_angle_deg: 50.0,
            company_reach_mm: Some(4.5),
            company_fraction: 0.2,
            passable: Vec::new(),
            close_loops: false,
        }
    }
}

/// Why nothing could be repaired.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConnectError {
    /// The label does not occur.
    #[error("label {label} does not occur; the map holds {present:?}")]
    Absent {
        /// What was asked for.
        label: u16,
        /// Labels that occur.
        present: Vec<u16>,
    },
    /// No organ occurs that a ureter could end at.
    #[error(
        "neither the bladder ({bladder}) nor a kidney ({kidneys:?}) occurs; the map holds {present:?}"
    )]
    NoOrgans {
        /// Label of the bladder.
        bladder: u16,
        /// Labels of the kidneys.
        kidneys: Vec<u16>,
        /// Labels that occur.
        present: Vec<u16>,
    },
    /// The label fills most of the volume.
    #[error("label {label} fills {percent:.0} % of the volume: it is not tubular")]
    NotTubular {
        /// What was asked for.
        label: u16,
        /// Its share.
        percent: f64,
    },
    /// A spacing of 0, NaN or infinity.
    #[error("the voxel size {spacing_mm:?} mm (z, y, x) is not positive and finite")]
    Spacing {
        /// What was found.
        spacing_mm: [f64; 3],
    },
    /// The image has another shape than the label map.
    #[error("the image is {found:?} but the label map is {expected:?} (z, y, x)")]
    Image {
        /// Shape of the image.
        found: [usize; 3],
        /// Shape of the label map.
        expected: [usize; 3],
    },
    /// The box around the structure is too large to index.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// A bridge that was made or refused. Positions are in mm from the centre of the volume's first voxel along
/// its axes, `[z, y, x]`; divide by the spacing for voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct Bridge {
    /// What it joins.
    pub kind: Kind,
    /// How it runs.
    pub course: Course,
    /// The pieces joined, as positions in [`Repair::pieces`]; numbers beyond are anchor organs.
    pub groups: [u32; 2],
    /// Where it begins and ends.
    pub ends_mm: [[f64; 3]; 2],
    /// Distance between the ends.
    pub gap_mm: f64,
    /// Length of the bridge.
    pub length_mm: f64,
    /// Radius at both ends.
    pub radius_mm: [f64; 2],
    /// Angles in degrees between each end and the way across; `None` where the side of a vessel has none.
    pub angle_deg: [Option<f64>; 2],
    /// Cost of the join in mm.
    pub cost_mm: f64,
    /// 0 to 1: `exp(-cost / (25 radius))`, less where another way for the same end costs about the same.
    pub confidence: f64,
    /// Other candidates for one of its ends that cost at most 1.2 times as much: where several vessels run side
    /// by side, the other ways that it could go.
    pub rivals: Vec<Rival>,
    /// Voxels added.
    pub voxels: usize,
    /// Why it was not made; `None` for those that were.
    pub refused: Option<&'static str>,
}

/// Another candidate for an end of a bridge.
#[derive(Debug, Clone, PartialEq)]
pub struct Rival {
    /// What it would join.
    pub kind: Kind,
    /// As in [`Bridge::groups`].
    pub groups: [u32; 2],
    /// As in [`Bridge::ends_mm`].
    pub ends_mm: [[f64; 3]; 2],
    /// Its cost over that of the bridge.
    pub cost_ratio: f64,
}

/// What a repair would change, and what was found on the way.
#[derive(Debug, Clone, Default)]
pub struct Repair {
    /// Bridges made, in the order in which they were made.
    pub bridges: Vec<Bridge>,
    /// Bridges refused although both sides were still apart.
    pub refused: Vec<Bridge>,
    /// The pieces before.
    pub pieces: Vec<Piece>,
    /// For every piece the first of those that it hangs together with after the repair, organs left out.
    pub chain_of: Vec<u32>,
    /// Number of 26-connected pieces after, islands included.
    pub pieces_after: usize,
    /// Open ends at the border of the volume, where the structure leaves it.
    pub border_tips: usize,
    /// The skeleton before, without spurs.
    pub skeleton: SkeletonGraph,
    /// Voxels that become structure, `[z, y, x]`, ascending.
    pub voxels: Vec<[usize; 3]>,
    /// Voxels of the islands, `[z, y, x]`, ascending.
    pub islands: Vec<[usize; 3]>,
}

impl Repair {
    /// Writes `label` into the voxels of the bridges. Voxels outside of `labels` are left out.
    pub fn apply(&self, mut labels: ArrayViewMut3<'_, u16>, label: u16) {
        for &voxel in &self.voxels {
            if let Some(value) = labels.get_mut(voxel) {
                *value = label;
            }
        }
    }

    /// Turns the islands into background.
    pub fn drop_islands(&self, mut labels: ArrayViewMut3<'_, u16>) {
        for &voxel in &self.islands {
            if let Some(value) = labels.get_mut(voxel) {
                *value = 0;
            }
        }
    }
}

/// Organs that a structure ends at, and what may be joined to what.
struct Ends<'a> {
    foreground: Foreground,
    /// Organ of every voxel, counted from 0.
    organ_of: Vec<u32>,
    /// Side of every organ; structures of different sides are never joined.
    organ_sides: Vec<Option<bool>>,
    side_of: &'a (dyn Fn(&Piece) -> Option<bool> + Sync),
    /// Whether the tip (mm) of a piece may end at an organ.
    may_end: &'a (dyn Fn(&Piece, [f64; 3], u32) -> bool + Sync),
    /// What ending at a place (mm) of an organ costs, in mm, for the tip at the last place.
    place_cost: &'a (dyn Fn(u32, [f64; 3], [f64; 3]) -> f64 + Sync),
}

/// Reconnects the pieces of `label` in `labels` (`[z, y, x]`, `spacing_mm` likewise).
///
/// Voxels of other labels are never written and voxels of `label` never removed. A structure in one piece, or
/// without a believable gap, gives a repair without bridges. `image` (HU, of the same shape) makes bridges
/// through other tissue dearer and rules out those through bone and air.
///
/// Cost: one pass over the volume, then the box around the structure; memory: about 60 bytes per voxel of the
/// structure and 4 per voxel of the box, of which only touched pages exist.
///
/// # Errors
/// [`ConnectError`]: the label is absent or fills over half of the volume, the spacing is unusable, or the
/// image has another shape.
pub fn connect(
    labels: ArrayView3<'_, u16>,
    spacing_mm: [f64; 3],
    label: u16,
    options: &ConnectOptions,
    image: Option<ArrayView3<'_, f32>>,
) -> Result<Repair, ConnectError> {
    connect_with(labels, spacing_mm, label, None, options, image)
}

fn check_spacing(spacing_mm: [f64; 3]) -> Result<(), ConnectError> {
    if spacing_mm.iter().all(|mm| mm.is_finite() && *mm > 0.0) {
        Ok(())
    } else {
        Err(ConnectError::Spacing { spacing_mm })
    }
}

/// The labels that occur, ascending, without background.
fn present(labels: ArrayView3<'_, u16>) -> Vec<u16> {
    let mut occurs = vec![false; 1 << 16];
    for &value in labels {
        occurs[usize::from(value)] = true;
    }
    (1..=u16::MAX)
        .filter(|&value| occurs[usize::from(value)])
        .collect()
}

fn connect_with(
    labels: ArrayView3<'_, u16>,
    spacing_mm: [f64; 3],
    label: u16,
    ends: Option<Ends<'_>>,
    options: &ConnectOptions,
    image: Option<ArrayView3<'_, f32>>,
) -> Result<Repair, ConnectError> {
    check_spacing(spacing_mm)?;
    if let Some(image) = &image
        && image.dim() != labels.dim()
    {
        return Err(ConnectError::Image {
            found: image.dim().into(),
            expected: labels.dim().into(),
        });
    }
    let foreground = Foreground::of(labels, spacing_mm, |value| value == label)?;
    if foreground.is_empty() || label == 0 {
        let present = present(labels);
        return Err(ConnectError::Absent { label, present });
    }
    let share = foreground.len() as f64 / labels.len() as f64;
    if share > 0.5 {
        let percent = 100.0 * share;
        return Err(ConnectError::NotTubular { label, percent });
    }
    let anatomy = Anatomy::new(foreground, options.eligibility, labels.dim().into());
    let ends = ends.map(|ends| Anchors {
        foreground: ends.foreground,
        organ_of: ends.organ_of,
        organ_sides: ends.organ_sides,
        piece_sides: anatomy.pieces.iter().map(ends.side_of).collect(),
        may_end: ends.may_end,
        place_cost: ends.place_cost,
    });
    let repairing = Repairing {
        labels,
        anatomy: &anatomy,
        anchors: ends.as_ref(),
        options,
        image,
    };
    Ok(repairing.run())
}

struct Repairing<'a> {
    labels: ArrayView3<'a, u16>,
    anatomy: &'a Anatomy,
    anchors: Option<&'a Anchors<'a>>,
    options: &'a ConnectOptions,
    image: Option<ArrayView3<'a, f32>>,
}

impl Repairing<'_> {
    fn run(&self) -> Repair {
        let pieces = &self.anatomy.pieces;
        let mut candidates = Search::new(self.anatomy, self.options, self.anchors).run();
        if let Some(image) = &self.image {
            candidates = candidates
                .into_par_iter()
                .filter_map(|mut candidate| {
                    candidate.cost *= intensity::factor(&candidate, self.anatomy, image)?;
                    Some(candidate)
                })
                .collect();
        }
        candidates::sort(&mut candidates, self.anatomy.fine_mm());
        let organs = self.anchors.map_or(0, |anchors| anchors.organ_sides.len());
        let groups = pieces.len() + organs;
        let mut canvas = Canvas {
            labels: self.labels,
            anatomy: self.anatomy,
            anchors: self.anchors,
            passable: &self.options.passable,
            added: HashMap::new(),
            opposed: Vec::new(),
            parents: (0..groups as u32).collect(),
        };
        let mut chains = Chains::new(pieces.len(), self.anchors);
        self.join_touching(&mut canvas, &mut chains);
        let mut used = vec![false; self.anatomy.tips.len()];
        let mut repair = Repair {
            pieces: pieces.clone(),
            border_tips: self.anatomy.border_tips,
            skeleton: self.anatomy.graph.clone(),
            ..Repair::default()
        };
        // Loops come last: what joins pieces has the first claim on every end.
        let (loops, joins): (Vec<_>, Vec<_>) =
            (candidates.iter()).partition(|candidate| candidate.kind == Kind::Loop);
        for candidate in joins.into_iter().chain(loops) {
            let [a, b] = candidate.ends.map(|end| end.group);
            let tips = candidate.ends.iter().filter_map(|end| end.tip);
            let hang_together = chains.hang_together(a, b);
            if tips.clone().any(|tip| used[tip as usize])
                || hang_together != (candidate.kind == Kind::Loop)
            {
                continue;
            }
            let mut bridge = self.build(candidate, &candidates, &mut canvas, &chains);
            if bridge.refused.is_some() {
                bridge.voxels = 0;
                repair.refused.push(bridge);
            } else {
                chains.join(a, b);
                tips.for_each(|tip| used[tip as usize] = true);
                repair.bridges.push(bridge);
            }
        }
        repair.chain_of = (0..pieces.len())
            .map(|piece| chains.root(piece as u32))
            .collect();
        repair.pieces_after = (repair.chain_of.iter().zip(0_u32..))
            .filter(|&(&chain, piece)| chain == piece)
            .count();
        let mut voxels: Vec<[usize; 3]> = canvas
            .added
            .keys()
            .map(|voxel| voxel.map(|index| index as usize))
            .collect();
        voxels.sort_unstable();
        repair.voxels = voxels;
        let foreground = &self.anatomy.foreground;
        repair.islands = (0..foreground.len())
            .filter(|&index| !pieces[self.anatomy.piece_of[index] as usize].is_eligible)
            .map(|index| foreground.voxel(index))
            .collect();
        repair
    }

    /// Pieces that touch an organ hang together with it already.
    fn join_touching(&self, canvas: &mut Canvas<'_>, chains: &mut Chains) {
        let Some(anchors) = self.anchors else { return };
        for index in 0..self.anatomy.foreground.len() {
            let [z, y, x] = self.anatomy.foreground.voxel(index).map(|v| v as isize);
            let low = [z - 1, y - 1, x - 1];
            anchors
                .foreground
                .for_each_in(low, [z + 1, y + 1, x + 1], |_, organ| {
                    let organ = self.anatomy.pieces.len() as u32 + anchors.organ_of[organ];
                    canvas.join(self.anatomy.piece_of[index], organ);
                    chains.touch(self.anatomy.piece_of[index], organ);
                });
        }
    }

    /// Finds the way across and draws it, unless something forbids it.
    fn build(
        &self,
        candidate: &Candidate,
        all: &[Candidate],
        canvas: &mut Canvas<'_>,
        chains: &Chains,
    ) -> Bridge {
        let spacing = self.anatomy.foreground.spacing_mm();
        let fine = self.anatomy.fine_mm();
        let [from, to] = candidate.ends;
        let rivals = rivals(candidate, all);
        let confidence = confidence(candidate.rank(fine), &rivals);
        let mut bridge = Bridge {
            kind: candidate.kind,
            course: Course::Spline,
            groups: [from.group, to.group],
            ends_mm: [from.point, to.point],
            gap_mm: candidate.gap_mm,
            length_mm: candidate.gap_mm,
            radius_mm: [from.radius_mm, to.radius_mm],
            angle_deg: candidate.cosines.map(|c| c.map(|c| c.acos().to_degrees())),
            cost_mm: candidate.cost,
            confidence,
            rivals,
            voxels: 0,
            refused: None,
        };
        if confidence < self.options.min_confidence
            || candidate.kind == Kind::Loop && confidence < LOOP_CONFIDENCE
        {
            bridge.refused = Some("below the least confidence");
            return bridge;
        }
        if !chains.may_join(from.group, to.group) {
            bridge.refused = Some("would join left and right");
            return bridge;
        }
        canvas.opposed = chains.opposed_to(from.group);
        let tip = |end: Option<u32>| end.map(|tip| &self.anatomy.tips[tip as usize]);
        let (a, b) = (tip(from.tip), tip(to.tip));
        let across = sub(to.point, from.point);
        let leaving = heading(a, across);
        let entering = match b {
            Some(b) => scale(heading(Some(b), across), -1.0),
            // An organ's wall says little about the direction in which it is entered.
            None if candidate.kind == Kind::TipAnchor => scale(heading(None, across), 0.5),
            None => heading(None, across),
        };
        let mut line = path::hermite(from.point, leaving, to.point, entering, 0.4 * fine);
        let sides = [from.group, to.group].map(|group| canvas.root(group));
        let is_blocked = path::face_connected(&line, spacing)
            .into_iter()
            .any(|voxel| canvas.blocks(voxel, sides));
        if is_blocked {
            bridge.course = Course::Detour;
            let radius = from.radius_mm;
            match path::detour(&line, radius, spacing, |voxel| canvas.blocks(voxel, sides)) {
                Some(way) => line = way,
                None => {
                    bridge.refused = Some("no way round what lies between");
                    return bridge;
                }
            }
        }
        // Begin and end inside, so that the tube is fused with both sides.
        let inward = scale(unit(across), 0.6 * from.radius_mm);
        let start = a.map_or_else(|| sub(from.point, inward), |tip| tip.base);
        let end = b.map_or_else(|| add(to.point, inward), |tip| tip.base);
        let mut tube = tapered(&line, bridge.radius_mm, spacing);
        for tip in [a, b].into_iter().flatten() {
            // Eroded ends are filled up to nearly their full radius.
            tube.extend(tip.heal.iter().map(|&place| (place, 0.92 * tip.radius_mm)));
        }
        line.insert(0, start);
        line.push(end);
        bridge.length_mm = polyline_length(&line[1..line.len() - 1]);
        match canvas.draw(&line, &tube, bridge.groups) {
            Ok(voxels) => bridge.voxels = voxels,
            Err(reason) => bridge.refused = Some(reason),
        }
        bridge
    }
}

/// Other candidates for one of the same ends that cost at most 1.2 times as much.
fn rivals(candidate: &Candidate, all: &[Candidate]) -> Vec<Rival> {
    let groups = candidate.ends.map(|end| end.group);
    let own: Vec<u32> = candidate.ends.iter().filter_map(|end| end.tip).collect();
    all.iter()
        .filter(|other| {
            let others = other.ends.map(|end| end.group);
            // A loop is no other way for a bridge between pieces.
            (other.kind == Kind::Loop) == (candidate.kind == Kind::Loop)
                && others != groups
                && others != [groups[1], groups[0]]
                && (other.ends.iter()).any(|end| end.tip.is_some_and(|tip| own.contains(&tip)))
                && other.cost <= 1.2 * candidate.cost
        })
        .map(|other| Rival {
            kind: other.kind,
            groups: other.ends.map(|end| end.group),
            ends_mm: other.ends.map(|end| end.point),
            cost_ratio: other.cost / candidate.cost,
        })
        .collect()
}

/// `exp(-rank / 25)`: 0.2 at a cost of 40 radii. Falls to half where a rival costs no more, and not at all
/// where none comes within 1.2 times.
fn confidence(rank: f64, rivals: &[Rival]) -> f64 {
    let alone = (-rank / 25.0).exp();
    let ratios = rivals.iter().map(|rival| rival.cost_ratio);
    let closest = ratios.fold(1.2, f64::min).max(1.0);
    alone * (0.5 + 0.5 * (closest - 1.0) / 0.2)
}
