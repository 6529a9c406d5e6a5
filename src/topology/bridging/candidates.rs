//! Every join worth considering, with its cost.
//!
//! Three kinds: two tips that face each other; a tip that faces the side of another piece (a branch that came
//! off at its root); and two thick pieces that end bluntly close together. A fourth, a tip that faces an
//! anchor organ, exists for ureters. The cost is a length in mm: the gap between the surfaces, made longer by
//! bends and by unequal radii. A gap that is short against the calibre is the likelier one, so candidates are
//! taken in the order of cost over radius.

use super::pieces::{Anatomy, Piece, Tip, company, for_each_within};
use super::{ConnectOptions, Kind};
use crate::topology::foreground::Foreground;
use crate::topology::vector::{Vector, add, cosine, distance, dot, norm, scale, sub};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Organs that a tip may end at; see `Ends` for the fields.
pub(super) struct Anchors<'a> {
    pub foreground: Foreground,
    pub organ_of: Vec<u32>,
    pub organ_sides: Vec<Option<bool>>,
    pub piece_sides: Vec<Option<bool>>,
    pub may_end: &'a (dyn Fn(&Piece, [f64; 3], u32) -> bool + Sync),
    pub place_cost: &'a (dyn Fn(u32, [f64; 3], [f64; 3]) -> f64 + Sync),
}

/// Where a bridge begins or ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Piece, or number of pieces plus anchor organ.
    pub group: u32,
    pub tip: Option<u32>,
    pub point: Vector,
    pub radius_mm: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub kind: Kind,
    pub ends: [End; 2],
    pub gap_mm: f64,
    pub cosines: [Option<f64>; 2],
    pub cost: f64,
}

impl Candidate {
    /// Cost against calibre: the order in which candidates are tried.
    pub fn rank(&self, fine_mm: f64) -> f64 {
        let radius = match self.kind {
            Kind::TipTip | Kind::Blunt | Kind::Loop => {
                self.ends[0].radius_mm.min(self.ends[1].radius_mm)
            }
            Kind::TipBody | Kind::TipAnchor => self.ends[0].radius_mm,
        };
        self.cost / radius.max(fine_mm)
    }
}

/// Ends that close a loop face each other within 45 degrees.
const LOOP_COSINE: f64 = std::f64::consts::FRAC_1_SQRT_2;

pub(super) struct Search<'a> {
    pub anatomy: &'a Anatomy,
    pub options: &'a ConnectOptions,
    pub anchors: Option<&'a Anchors<'a>>,
    fine: f64,
    /// Pieces that run side by side.
    companions: BTreeMap<(u32, u32), f64>,
    /// Point of the graph that each voxel belongs to.
    owner: Vec<u32>,
    thickest_tip: BTreeMap<u32, f64>,
}

impl<'a> Search<'a> {
    pub fn new(
        anatomy: &'a Anatomy,
        options: &'a ConnectOptions,
        anchors: Option<&'a Anchors<'a>>,
    ) -> Self {
        let fine = anatomy.fine_mm();
        let mut thickest_tip = BTreeMap::new();
        for tip in &anatomy.tips {
            let known = thickest_tip.entry(tip.piece).or_insert(tip.radius_mm);
            *known = tip.radius_mm.max(*known);
        }
        let company_of_all = || match options.company_reach_mm {
            Some(reach) => company(anatomy, reach),
            None => BTreeMap::new(),
        };
        // One piece often holds most voxels, which are walked through one by one: another thread has time.
        let (owner, companions) = rayon::join(|| anatomy.owners(), company_of_all);
        Self {
            anatomy,
            options,
            anchors,
            fine,
            companions,
            owner,
            thickest_tip,
        }
    }

    /// All candidates, in no particular order; see [`sort`].
    pub fn run(&self) -> Vec<Candidate> {
        let of_tips = || -> Vec<Candidate> {
            (0..self.anatomy.tips.len())
                .into_par_iter()
                .flat_map_iter(|number| {
                    let mut found = self.tip_to_tips(number);
                    found.extend(self.tip_to_bodies(number));
                    found.extend(self.tip_to_anchors(number));
                    found
                })
                .collect()
        };
        let (mut found, blunt) = rayon::join(of_tips, || self.blunt_pairs());
        found.extend(blunt);
        found
    }

    /// Whether `piece` runs beside `other` rather than towards it.
    fn is_companion(&self, piece: u32, other: u32) -> bool {
        let along = |a, b| self.companions.get(&(a, b)).copied().unwrap_or(0.0);
        let shorter = self.anatomy.pieces[piece as usize]
            .length_mm
            .min(self.anatomy.pieces[other as usize].length_mm);
        // Both must: a branch that stands on a thick vessel has it ahead, not beside.
        along(piece, other).min(along(other, piece))
            > (self.options.company_fraction * shorter).max(8.0 * self.fine)
    }

    fn end(&self, number: usize) -> End {
        let tip = &self.anatomy.tips[number];
        End {
            group: tip.piece,
            tip: Some(number as u32),
            point: tip.surface,
            radius_mm: tip.radius_mm,
        }
    }

    fn tip_to_tips(&self, number: usize) -> Vec<Candidate> {
        let a = &self.anatomy.tips[number];
        let o = self.options;
        let limit = o.widest_angle_deg.to_radians().cos();
        let mut found = Vec::new();
        for (other, b) in self.anatomy.tips.iter().enumerate().skip(number + 1) {
            let gap = distance(a.surface, b.surface);
            let is_own = a.piece == b.piece;
            if gap > o.max_gap_mm || is_own && !o.close_loops || self.is_companion(a.piece, b.piece)
            {
                continue;
            }
            // Angles against the line between the bases hold even where the tips touch.
            let line = sub(b.base, a.base);
            let (ca, cb) = (cosine(a.tangent, line), -cosine(b.tangent, line));
            let ratio = (a.radius_mm / b.radius_mm).ln().abs();
            if a.trust > 0.5 && ca < limit || b.trust > 0.5 && cb < limit || ratio > 3.0_f64.ln() {
                continue;
            }
            let w = o.bend_weight;
            let open = effective_gap(gap, a.radius_mm + b.radius_mm, self.fine);
            let cost = open
                * (1.0 + w * (1.0 - ca) * a.trust + w * (1.0 - cb) * b.trust)
                * (1.0 + 0.8 * ratio)
                + w * 0.5 * self.fine * ((1.0 - ca) + (1.0 - cb));
            let candidate = |kind| Candidate {
                kind,
                ends: [self.end(number), self.end(other)],
                gap_mm: gap,
                cosines: [Some(ca), Some(cb)],
                cost,
            };
            if !is_own {
                found.push(candidate(Kind::TipTip));
            }
            if o.close_loops && ca.min(cb) >= LOOP_COSINE {
                found.push(candidate(Kind::Loop));
            }
        }
        found
    }

    /// The cheapest place on every other piece that the tip faces.
    fn tip_to_bodies(&self, number: usize) -> Vec<Candidate> {
        let a = &self.anatomy.tips[number];
        let anatomy = self.anatomy;
        let o = self.options;
        let limit = o.widest_body_angle_deg.to_radians().cos();
        // A branch hangs by its thick end.
        let thickest = self
            .thickest_tip
            .get(&a.piece)
            .copied()
            .unwrap_or(a.radius_mm);
        let thin_end = 1.0 + 2.0 * (1.0 - a.radius_mm / thickest).max(0.0);
        let mut best: BTreeMap<u32, Candidate> = BTreeMap::new();
        let spacing = anatomy.foreground.spacing_mm();
        let reach = 0.75 * o.max_gap_mm;
        for_each_within(
            &anatomy.foreground,
            spacing,
            a.surface,
            reach,
            |index, offset, gap| {
                let other = anatomy.piece_of[index];
                if other == a.piece
                    || !anatomy.pieces[other as usize].is_eligible
                    || !anatomy.foreground.is_surface(index)
                {
                    return;
                }
                let point = add(a.surface, offset);
                let ca = cosine(a.tangent, sub(point, a.base));
                if gap > 2.0 * self.fine && ca < limit {
                    return;
                }
                // It hangs on a vessel at least as thick as itself.
                let owner = self.owner[index];
                let body = anatomy
                    .radius_at
                    .get(owner as usize)
                    .copied()
                    .unwrap_or(0.0);
                if a.radius_mm > 1.25 * body + 0.3 * self.fine {
                    return;
                }
                let open = effective_gap(gap, a.radius_mm, self.fine);
                let cost = open * (1.0 + o.body_bend_weight * (1.0 - ca)) * thin_end;
                let cost = 2.0 * cost + 1.5 * self.fine;
                if best.get(&other).is_none_or(|known| cost < known.cost) {
                    best.insert(
                        other,
                        Candidate {
                            kind: Kind::TipBody,
                            ends: [
                                self.end(number),
                                End {
                                    group: other,
                                    tip: None,
                                    point,
                                    radius_mm: a.radius_mm,
                                },
                            ],
                            gap_mm: gap,
                            cosines: [Some(ca), None],
                            cost,
                        },
                    );
                }
            },
        );
        best.into_values()
            .filter(|candidate| !self.is_companion(a.piece, candidate.ends[1].group))
            .collect()
    }

    fn tip_to_anchors(&self, number: usize) -> Vec<Candidate> {
        let Some(anchors) = self.anchors else {
            return Vec::new();
        };
        let a = &self.anatomy.tips[number];
        let limit = 70.0_f64.to_radians().cos();
        let first = self.anatomy.pieces.len() as u32;
        let mut best: BTreeMap<u32, Candidate> = BTreeMap::new();
        let spacing = anchors.foreground.spacing_mm();
        let reach = self.options.max_gap_mm;
        for_each_within(
            &anchors.foreground,
            spacing,
            a.surface,
            reach,
            |index, offset, gap| {
                if !anchors.foreground.is_surface(index) {
                    return;
                }
                let point = add(a.surface, offset);
                let ca = cosine(a.tangent, sub(point, a.base));
                if gap > 3.0 * self.fine && ca < limit {
                    return;
                }
                let organ = anchors.organ_of[index];
                if !(anchors.may_end)(&self.anatomy.pieces[a.piece as usize], a.surface, organ) {
                    return;
                }
                let cost = 1.1 * gap * (2.0 - ca) + (anchors.place_cost)(organ, point, a.surface);
                let organ = first + organ;
                if best.get(&organ).is_none_or(|known| cost < known.cost) {
                    best.insert(
                        organ,
                        Candidate {
                            kind: Kind::TipAnchor,
                            ends: [
                                self.end(number),
                                End {
                                    group: organ,
                                    tip: None,
                                    point,
                                    radius_mm: a.radius_mm,
                                },
                            ],
                            gap_mm: gap,
                            cosines: [Some(ca), None],
                            cost,
                        },
                    );
                }
            },
        );
        best.into_values().collect()
    }

    /// Facing surfaces of thick pieces: these are often too short to own a centre line with a tip.
    fn blunt_pairs(&self) -> Vec<Candidate> {
        let anatomy = self.anatomy;
        let pieces = &anatomy.pieces;
        let mut surfaces: Vec<Vec<u32>> = vec![Vec::new(); pieces.len()];
        for index in 0..anatomy.foreground.len() {
            let piece = anatomy.piece_of[index] as usize;
            let thick = pieces[piece].radius_mm >= 2.4 * self.fine;
            if pieces[piece].is_eligible && thick && anatomy.foreground.is_surface(index) {
                surfaces[piece].push(index as u32);
            }
        }
        (0..pieces.len())
            .into_par_iter()
            .flat_map_iter(|piece| self.blunt_ends_of(piece as u32, &surfaces))
            .collect()
    }

    /// Pairs of `piece` with every piece that has more surface.
    fn blunt_ends_of(&self, piece: u32, surfaces: &[Vec<u32>]) -> Vec<Candidate> {
        let anatomy = self.anatomy;
        let foreground = &anatomy.foreground;
        let spacing = foreground.spacing_mm();
        let own = &surfaces[piece as usize];
        let reach = (2.0 * anatomy.pieces[piece as usize].radius_mm + self.fine)
            .min(0.5 * self.options.max_gap_mm);
        let rival = |owner: u32| (surfaces[owner as usize].len(), owner) > (own.len(), piece);
        // Only what is near the box of all larger pieces within reach is looked at closely.
        let Some(near) = self.box_of_rivals(own, reach, rival) else {
            return Vec::new();
        };
        // Nearest surface voxels of the two, per other piece.
        let mut nearest: BTreeMap<u32, (f64, usize, usize)> = BTreeMap::new();
        for &index in own {
            let here = foreground.position_mm(index as usize);
            if (0..3).any(|axis| {
                here[axis] < near[0][axis] - reach || here[axis] > near[1][axis] + reach
            }) {
                continue;
            }
            for_each_within(foreground, spacing, here, reach, |other, _, gap| {
                let owner = anatomy.piece_of[other];
                if rival(owner) && nearest.get(&owner).is_none_or(|known| gap < known.0) {
                    nearest.insert(owner, (gap, index as usize, other));
                }
            });
        }
        nearest
            .into_iter()
            .filter(|(other, _)| !self.is_companion(piece, *other))
            .filter_map(|(other, (gap, from, to))| self.blunt(piece, other, gap, from, to))
            .collect()
    }

    /// The box, in mm, of the voxels of rival pieces within reach of the box around `own`.
    fn box_of_rivals(
        &self,
        own: &[u32],
        reach: f64,
        rival: impl Fn(u32) -> bool,
    ) -> Option<[Vector; 2]> {
        let foreground = &self.anatomy.foreground;
        let spacing = foreground.spacing_mm();
        let grown = |known: Option<[Vector; 2]>, place: Vector| {
            let [low, high] = known.unwrap_or([place; 2]);
            Some([
                std::array::from_fn(|axis| low[axis].min(place[axis])),
                std::array::from_fn(|axis| high[axis].max(place[axis])),
            ])
        };
        let places = own
            .iter()
            .map(|&index| foreground.position_mm(index as usize));
        let [low, high] = places.fold(None, grown)?;
        if !(0..self.anatomy.pieces.len() as u32).any(&rival) {
            return None;
        }
        let voxel = |place: Vector, by: f64| -> [isize; 3] {
            std::array::from_fn(|axis| ((place[axis] + by) / spacing[axis]).round() as isize)
        };
        let mut found = None;
        foreground.for_each_in(voxel(low, -reach), voxel(high, reach), |_, index| {
            if rival(self.anatomy.piece_of[index]) {
                found = grown(found, foreground.position_mm(index));
            }
        });
        found
    }

    fn blunt(&self, a: u32, b: u32, gap: f64, from: usize, to: usize) -> Option<Candidate> {
        let foreground = &self.anatomy.foreground;
        let places = [from, to].map(|index| foreground.position_mm(index));
        let radii = [
            self.radius_near(a, places[0], gap),
            self.radius_near(b, places[1], gap),
        ];
        let smaller = radii[0].min(radii[1]);
        if gap > 2.0 * smaller + self.fine || smaller < 2.4 * self.fine {
            return None;
        }
        let centers = [
            self.facing_center(a, places[0], places[1], gap + 0.7 * radii[0]),
            self.facing_center(b, places[1], places[0], gap + 0.7 * radii[1]),
        ];
        let ends = std::array::from_fn(|side| End {
            group: [a, b][side],
            tip: None,
            // A thick vessel beside a thin one: only the nearest spot faces it.
            point: if radii[side] > 1.6 * radii[1 - side] {
                places[side]
            } else {
                centers[side]
            },
            radius_mm: smaller,
        });
        Some(Candidate {
            kind: Kind::Blunt,
            ends,
            gap_mm: gap,
            cosines: [None; 2],
            cost: 2.2 * gap + 1.5 * self.fine,
        })
    }

    /// Largest inscribed radius of a piece near a place on its surface.
    fn radius_near(&self, piece: u32, place: Vector, gap: f64) -> f64 {
        let anatomy = self.anatomy;
        let thick = anatomy.pieces[piece as usize].radius_mm;
        let reach = gap + 1.5 * thick + 2.0 * self.fine;
        let points = anatomy.graph.points.iter().filter(|point| {
            anatomy.piece_of[point.index as usize] == piece
                && distance(point.position_mm, place) < reach
        });
        let found = points.map(|point| point.radius_mm).fold(0.0, f64::max);
        if found > 0.0 { found } else { thick }
    }

    /// Centre of the surface of `piece` around `place` that lies within `reach` of `towards`.
    fn facing_center(&self, piece: u32, place: Vector, towards: Vector, reach: f64) -> Vector {
        let foreground = &self.anatomy.foreground;
        let (mut sum, mut count) = ([0.0; 3], 0.0);
        for_each_within(
            foreground,
            foreground.spacing_mm(),
            towards,
            reach,
            |index, offset, _| {
                if self.anatomy.piece_of[index] == piece && foreground.is_surface(index) {
                    sum = add(sum, add(towards, offset));
                    count += 1.0;
                }
            },
        );
        if count > 0.0 {
            scale(sum, 1.0 / count)
        } else {
            place
        }
    }
}

/// Puts candidates in the order in which they are to be tried. The order is total: equal ranks go by kind,
/// groups and tips.
pub(super) fn sort(candidates: &mut [Candidate], fine_mm: f64) {
    candidates.sort_by(|a, b| {
        let order = |c: &Candidate| (c.kind, c.ends.map(|end| (end.group, end.tip)));
        (a.rank(fine_mm).total_cmp(&b.rank(fine_mm))).then_with(|| order(a).cmp(&order(b)))
    });
}

/// What is open between two ends whose radii add up to `radii`: eroded tips lie further apart than the vessel
/// was interrupted.
fn effective_gap(gap_mm: f64, radii: f64, fine_mm: f64) -> f64 {
    (gap_mm - 0.8 * radii).max(0.3 * gap_mm).max(0.5 * fine_mm)
}

/// The direction in which a bridge leaves its first end or enters its second.
pub(super) fn heading(tip: Option<&Tip>, towards: Vector) -> Vector {
    match tip {
        Some(tip) => scale(tip.tangent, tip.trust),
        None if dot(towards, towards) > 0.0 => scale(towards, 1.0 / norm(towards)),
        None => [0.0; 3],
    }
}
