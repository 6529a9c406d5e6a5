//! Ureters: bridges between kidney and bladder that never cross the midline.
//!
//! The engine is the one for vessels; bladder and kidneys are bodies at which an open end may end, gaps may be
//! longer, and bends towards the side of another piece cost more. World axes decide what is left, right, up
//! and down, never the order of the array:
//!
//! - Every piece and kidney has a side by its centre's distance from the midline, which lies between the
//!   kidneys (one kidney or none: at the bladder; neither: in the middle of the map). What lies within 5 mm of it
//!   has no side until it is joined to something that has one. Left is never joined to right.
//! - A kidney is reached from the upper half of a piece, the bladder from the lower half. A way costs more the
//!   further it ends from the place where ureters end: the hilum, which opens medially, to the front and a little
//!   below the middle of the kidney, and the posterolateral wall of the bladder low on the piece's side. The kidneys lie behind the
//!   bladder, which tells back from front; without a kidney it is the world's y.
//! - What is missing is said: [`UreterRepair::notes`].

use super::{ConnectError, ConnectOptions, Ends, Piece, Repair, connect_with};
use crate::topology::foreground::Foreground;
use crate::topology::vector::{add, distance};
use crate::volume::Grid;
use ndarray::ArrayView3;
use std::collections::BTreeSet;

/// The labels of the urinary tract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UreterLabels {
    /// What is repaired.
    pub ureter: u16,
    /// Where ureters end.
    pub bladder: u16,
    /// Where they begin: both kidneys, or one label for both.
    pub kidneys: Vec<u16>,
}

/// A side of the patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The patient's right: larger x in RAS+.
    Right,
    /// The patient's left.
    Left,
}

/// A repair of ureters.
#[derive(Debug, Clone, Default)]
pub struct UreterRepair {
    /// Bridges and pieces.
    pub repair: Repair,
    /// Side of every piece before the repair; `None` near the midline.
    pub sides: Vec<Option<Side>>,
    /// World x of the midline in mm, RAS+.
    pub midline_mm: f64,
    /// What a reader must know: missing organs, one kidney, a horseshoe kidney, ureters left incomplete.
    pub notes: Vec<String>,
}

/// Settings for ureters: gaps of up to 60 mm, and a side of a vessel is reached only nearly straight.
pub fn ureter_options() -> ConnectOptions {
    ConnectOptions {
        max_gap_mm: 60.0,
        body_bend_weight: 9.0,
        ..ConnectOptions::default()
    }
}

/// What lies within this distance of the midline has no side, in mm.
const NEAR_MIDLINE_MM: f64 = 5.0;
/// Organ pieces below this size are specks, in mm³.
const LEAST_ORGAN_MM3: f64 = 500.0;

/// How much farther a way may be, in mm, to end 1 mm nearer to the expected place. A ureter passes the lower pole of
/// the kidney closely on its way to the hilum, so the nearest place of the kidney is seldom the right one.
const HILUM_WEIGHT: f64 = 1.5;
const BLADDER_WEIGHT: f64 = 0.7;
/// Kidneys at least this far behind or before the bladder, in mm, tell back from front.
const SURE_DEPTH_MM: f64 = 10.0;

struct Organ {
    is_bladder: bool,
    center_mm: [f64; 3],
    /// Smallest and largest world coordinates.
    box_mm: [[f64; 3]; 2],
    mm3: f64,
}

impl Organ {
    /// A place in the box around the organ: from -1 to 1 along each world axis, 0 in the middle.
    fn at(&self, place: [f64; 3]) -> [f64; 3] {
        let [low, high] = self.box_mm;
        std::array::from_fn(|axis| {
            0.5 * (low[axis] + high[axis] + place[axis] * (high[axis] - low[axis]))
        })
    }
}

/// Restores the ureters of a label map on `grid`; see the module for the rules.
///
/// A missing bladder or kidney is no error: pieces are joined with each other and with what is there.
///
/// # Errors
/// As [`connect`](super::connect), and [`ConnectError::NoOrgans`] without any kidney and bladder.
pub fn connect_ureters(
    labels: ArrayView3<'_, u16>,
    grid: &Grid,
    names: &UreterLabels,
    options: &ConnectOptions,
    image: Option<ArrayView3<'_, f32>>,
) -> Result<UreterRepair, ConnectError> {
    let spacing = grid.spacing_mm;
    super::check_spacing(spacing)?;
    let is_organ = |value: u16| value == names.bladder || names.kidneys.contains(&value);
    let foreground = Foreground::of(labels, spacing, |value| {
        value != 0 && value != names.ureter && is_organ(value)
    })?;
    if foreground.is_empty() {
        return Err(ConnectError::NoOrgans {
            bladder: names.bladder,
            kidneys: names.kidneys.clone(),
            present: super::present(labels),
        });
    }
    let (organ_of, organs) = organs(labels, grid, names, &foreground);
    let mut notes = Vec::new();
    let midline_mm = midline(&organs, grid, &mut notes);
    let side_of = |x_mm: f64| match x_mm - midline_mm {
        off if off > NEAR_MIDLINE_MM => Some(Side::Right),
        off if off < -NEAR_MIDLINE_MM => Some(Side::Left),
        _ => None,
    };
    let world = |place: [f64; 3]| world_of(grid, place);
    let straddles =
        |organ: &Organ| organ.box_mm[0][0] < midline_mm && organ.box_mm[1][0] > midline_mm;
    let organ_side = |organ: &Organ| {
        let side = side_of(organ.center_mm[0]);
        if organ.is_bladder || straddles(organ) {
            None
        } else {
            side
        }
    };
    let may_end = |piece: &Piece, tip: [f64; 3], organ: u32| {
        let organ = &organs[organ as usize];
        // A short piece has no upper and lower half worth telling apart.
        let above = world(tip)[2] - world(piece.center_mm)[2];
        organ.mm3 >= LEAST_ORGAN_MM3
            && (piece.length_mm < 15.0
                || if organ.is_bladder {
                    above < 0.0
                } else {
                    above > 0.0
                })
    };
    let behind = behind(&organs);
    let place_cost = |organ: u32, point: [f64; 3], tip: [f64; 3]| {
        let organ = &organs[organ as usize];
        let lateral = (world(tip)[0] - midline_mm).signum();
        let (expected, weight) = if organ.is_bladder {
            let insertion = organ.at([0.6 * lateral, 0.6 * behind, -0.35]);
            (insertion, BLADDER_WEIGHT)
        } else if straddles(organ) {
            // The ureters of a horseshoe kidney leave in front, anywhere.
            return 0.0;
        } else {
            let hilum = organ.at([-0.9 * lateral, -0.3 * behind, -0.15]);
            (hilum, HILUM_WEIGHT)
        };
        weight * distance(world(point), expected)
    };
    let sides = |piece: &Piece| side_of(world(piece.center_mm)[0]).map(|s| s == Side::Right);
    let ends = Ends {
        foreground,
        organ_of,
        organ_sides: (organs.iter())
            .map(|organ| organ_side(organ).map(|side| side == Side::Right))
            .collect(),
        side_of: &sides,
        may_end: &may_end,
        place_cost: &place_cost,
    };
    let repair = connect_with(labels, spacing, names.ureter, Some(ends), options, image)?;
    let sides = (repair.pieces.iter())
        .map(|piece| side_of(world(piece.center_mm)[0]))
        .collect::<Vec<_>>();
    note_rest(&repair, &sides, &organs, &mut notes);
    Ok(UreterRepair {
        repair,
        sides,
        midline_mm,
        notes,
    })
}

/// World position of a place in mm along the volume's axes, `[z, y, x]`.
fn world_of(grid: &Grid, place: [f64; 3]) -> [f64; 3] {
    let [z, y, x] = std::array::from_fn(|axis| place[axis] / grid.spacing_mm[axis]);
    grid.affine.apply([x, y, z])
}

/// The connected pieces of kidneys and bladder; a kidney that touches the bladder would be one with it, so
/// pieces are told apart by label first.
fn organs(
    labels: ArrayView3<'_, u16>,
    grid: &Grid,
    names: &UreterLabels,
    foreground: &Foreground,
) -> (Vec<u32>, Vec<Organ>) {
    let (pieces, count) = foreground.components();
    let mut organ_of = pieces;
    let mut numbers = vec![[u32::MAX; 2]; count];
    let mut organs: Vec<Organ> = Vec::new();
    for (index, number) in organ_of.iter_mut().enumerate() {
        let voxel = foreground.voxel(index);
        let is_bladder = labels[voxel] == names.bladder;
        let known = &mut numbers[*number as usize][usize::from(is_bladder)];
        if *known == u32::MAX {
            *known = organs.len() as u32;
            organs.push(Organ {
                is_bladder,
                center_mm: [0.0; 3],
                box_mm: [[f64::INFINITY; 3], [f64::NEG_INFINITY; 3]],
                mm3: 0.0,
            });
        }
        *number = *known;
        let organ = &mut organs[*known as usize];
        let place = world_of(grid, foreground.position_mm(index));
        organ.center_mm = add(organ.center_mm, place);
        let [low, high] = organ.box_mm;
        organ.box_mm = [
            std::array::from_fn(|axis| low[axis].min(place[axis])),
            std::array::from_fn(|axis| high[axis].max(place[axis])),
        ];
        organ.mm3 += 1.0;
    }
    let voxel_mm3 = grid.spacing_mm.iter().product::<f64>();
    for organ in &mut organs {
        organ.center_mm = organ.center_mm.map(|sum| sum / organ.mm3);
        organ.mm3 *= voxel_mm3;
    }
    (organ_of, organs)
}

/// Sign of world y towards the back of the patient.
fn behind(organs: &[Organ]) -> f64 {
    let middle = |is_bladder: bool| {
        let sizable = organs
            .iter()
            .filter(|organ| organ.is_bladder == is_bladder && organ.mm3 >= LEAST_ORGAN_MM3);
        let (sum, mm3) = sizable.fold((0.0, 0.0), |(sum, mm3), organ| {
            (sum + organ.center_mm[1] * organ.mm3, mm3 + organ.mm3)
        });
        sum / mm3
    };
    // Not a number without kidney or bladder.
    let depth = middle(false) - middle(true);
    if depth > SURE_DEPTH_MM { 1.0 } else { -1.0 }
}

/// World x between left and right.
fn midline(organs: &[Organ], grid: &Grid, notes: &mut Vec<String>) -> f64 {
    let largest = |is_bladder: bool| {
        let mut found: Vec<&Organ> = organs
            .iter()
            .filter(|organ| organ.is_bladder == is_bladder && organ.mm3 >= LEAST_ORGAN_MM3)
            .collect();
        found.sort_by(|a, b| b.mm3.total_cmp(&a.mm3));
        found
    };
    let (kidneys, bladders) = (largest(false), largest(true));
    if bladders.is_empty() {
        notes.push("no bladder: lower ends stay open".to_owned());
    }
    let bladder_x = bladders.first().map(|bladder| bladder.center_mm[0]);
    match kidneys[..] {
        [a, b, ..] => 0.5 * (a.center_mm[0] + b.center_mm[0]),
        [one] => {
            let across = bladder_x.unwrap_or(one.center_mm[0]);
            let is_horseshoe = one.box_mm[0][0] < across - 20.0 && one.box_mm[1][0] > across + 20.0;
            notes.push(if is_horseshoe {
                "one kidney on both sides (horseshoe): it takes ureters of both".to_owned()
            } else {
                "one kidney: only its side can be completed".to_owned()
            });
            if is_horseshoe {
                one.center_mm[0]
            } else {
                bladder_x.unwrap_or_else(|| middle_x(grid))
            }
        }
        [] => {
            notes.push("no kidney: upper ends stay open".to_owned());
            bladder_x.unwrap_or_else(|| middle_x(grid))
        }
    }
}

fn middle_x(grid: &Grid) -> f64 {
    let [z, y, x] = grid.shape.map(|n| 0.5 * (n as f64 - 1.0));
    grid.affine.apply([x, y, z])[0]
}

/// Says which sides are still in several pieces, or have more than one ureter.
fn note_rest(repair: &Repair, sides: &[Option<Side>], organs: &[Organ], notes: &mut Vec<String>) {
    let first = repair.pieces.len() as u32;
    for side in [Side::Right, Side::Left] {
        let mut chains: BTreeSet<u32> = BTreeSet::new();
        let mut kidney_ends = 0;
        for (piece, own) in sides.iter().enumerate() {
            if *own == Some(side) && repair.pieces[piece].is_eligible {
                chains.insert(repair.chain_of[piece]);
            }
        }
        for bridge in &repair.bridges {
            let [piece, organ] = bridge.groups;
            if organ >= first && sides[piece as usize] == Some(side) {
                kidney_ends += usize::from(!organs[(organ - first) as usize].is_bladder);
            }
        }
        let name = if side == Side::Right { "right" } else { "left" };
        if chains.len() > 1 {
            let count = chains.len();
            notes.push(format!(
                "{name}: {count} separate ureter pieces remain (a gap that was not bridged, or a second ureter)"
            ));
        }
        if kidney_ends > 1 {
            notes.push(format!(
                "{name}: {kidney_ends} ends lead to the kidney: a duplicated ureter?"
            ));
        }
    }
}
