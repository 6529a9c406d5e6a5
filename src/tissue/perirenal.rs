//! Fat inside of the renal fascia.

use super::body::{Body, Place};
use super::fascia::{self, Fascia};
use super::kidney::{Kidney, find_kidneys, place_mm};
use super::sphere::Sphere;
use super::thickness::{self, Thickness};
use super::{Error, FatKind, FatMap, FatWindow, Input, Options};
use crate::geometry::points::PointSampler;
use ndarray::{Axis, s};
use rayon::prelude::*;

/// What was found around one kidney.
#[derive(Debug, Clone, PartialEq)]
pub struct Perirenal {
    /// The kidney's label.
    pub label: u16,
    /// The patient's side.
    pub side: Side,
    /// Thickness of the fat behind and beside the kidney; `None` without CT.
    pub thickness: Option<Thickness>,
    /// Centre of kidney and tumour, RAS+ mm.
    pub centre_mm: [f64; 3],
    /// Voxels of kidney and tumour.
    pub kidney_voxels: u64,
    /// Whether kidney or tumour reach the border of the volume.
    pub is_cut: bool,
    /// Voxels of perirenal fat.
    pub fat_voxels: u64,
    /// Mean HU of that fat; `None` without CT or fat.
    pub mean_hu: Option<f64>,
    /// Part of the directions, 0 to 1, in which the fascia is seen, among those that no organ ends before
    /// it; `None` without CT.
    pub fascia_share: Option<f64>,
    /// Part of the directions, 0 to 1, that end at an organ or at the border; `None` without CT.
    pub organ_share: Option<f64>,
}

/// Which side of the patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The patient's right: larger x in RAS+.
    Right,
    /// The patient's left.
    Left,
}

/// Marks perirenal fat in `fat` around every kidney; voxels that `fat` holds already are left alone.
pub(super) fn perirenal_fat(
    input: &Input<'_>,
    options: &Options,
    body: Option<&Body>,
    fat: &mut FatMap,
) -> Result<Vec<Perirenal>, Error> {
    let sphere = Sphere::new();
    let found = find_kidneys(input.map, input.grid, &options.kidneys, &options.tumors)?;
    if found.is_empty() && !options.may_lack_kidneys {
        return Err(Error::NoKidney {
            labels: options.kidneys.clone(),
        });
    }
    if let Some(cut) = found
        .iter()
        .find(|kidney| kidney.is_cut && !options.may_be_cut)
    {
        return Err(Error::CutKidney { label: cut.label });
    }
    let sampler = |image| PointSampler::new(image, input.grid).ok_or(Error::Singular);
    let image = input.image.map(sampler).transpose()?;
    let labels = PointSampler::new(input.map, input.grid).ok_or(Error::Singular)?;
    let midline = midline_mm(input, &found);
    let mut sides = Vec::new();
    for kidney in &found {
        let hull = kidney.hull_mm(&input.grid.affine, &sphere);
        let fascia = match &image {
            Some(image) => {
                fascia::fit(input, image, kidney, &hull, &sphere, (options.window, body))
            }
            None => fascia::expected(&hull, &sphere, fascia::GEOMETRIC),
        };
        let mut side = mark(input, kidney, &fascia, &sphere, (options.window, body), fat);
        let outward = if kidney.centre_mm[0] >= midline {
            side.side = Side::Right;
            1.0
        } else {
            -1.0
        };
        side.thickness = image.as_ref().map(|image| {
            let level = thickness::level(input, kidney, &hull, &sphere, &options.veins);
            let affine = &input.grid.affine;
            thickness::measure(
                (image, &labels),
                affine,
                kidney,
                level,
                outward,
                options.window,
            )
        });
        sides.push(side);
    }
    Ok(sides)
}

/// World x between the sides: between the kidneys, else the middle of the volume.
fn midline_mm(input: &Input<'_>, kidneys: &[Kidney]) -> f64 {
    if kidneys.len() > 1 {
        return kidneys
            .iter()
            .map(|kidney| kidney.centre_mm[0])
            .sum::<f64>()
            / kidneys.len() as f64;
    }
    let [z, y, x] = input.grid.shape.map(|n| 0.5 * (n as f64 - 1.0));
    input.grid.affine.apply([x, y, z])[0]
}

/// Marks the fat inside of one limit.
fn mark(
    input: &Input<'_>,
    kidney: &Kidney,
    fascia: &Fascia,
    sphere: &Sphere,
    (window, body): (FatWindow, Option<&Body>),
    fat: &mut FatMap,
) -> Perirenal {
    let affine = &input.grid.affine;
    let ([z0, y0, x0], [z1, y1, x1]) = (kidney.surroundings.start, kidney.surroundings.end);
    let farthest = fascia.limit_mm.iter().copied().fold(0.0, f64::max);
    let step = affine.apply_vector([1.0, 0.0, 0.0]);
    let dot = |a: &[f64; 3], b: &[f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    // Where a row of voxels may be inside of the ball around the limit, a voxel more on both sides.
    let reach = |start: [f64; 3]| {
        let away: [f64; 3] = std::array::from_fn(|axis| start[axis] - kidney.centre_mm[axis]);
        let middle = -dot(&away, &step) / dot(&step, &step);
        let nearest: [f64; 3] = std::array::from_fn(|axis| away[axis] + middle * step[axis]);
        let half = ((farthest * farthest - dot(&nearest, &nearest)) / dot(&step, &step)).max(0.0);
        let (from, to) = (middle - half.sqrt() - 1.0, middle + half.sqrt() + 2.0);
        let from = (from as usize).min(x1 - x0);
        // `as` stops at 0.
        from..(to as usize).clamp(from, x1 - x0)
    };
    let mut target = fat.slice_mut(s![z0..z1, y0..y1, x0..x1]);
    let slices: Vec<_> = target.axis_iter_mut(Axis(0)).collect();
    let per_slice: Vec<(u64, f64)> = slices
        .into_par_iter()
        .enumerate()
        .map(|(z, mut slice)| {
            let (mut voxels, mut hu) = (0_u64, 0.0);
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                let start = place_mm(affine, [z + z0, y + y0, x0]);
                let of_row = s![z + z0, y + y0, x0..x1];
                let map = input.map.slice(of_row);
                let image = input.image.as_ref().map(|image| image.slice(of_row));
                for x in reach(start) {
                    let value = &mut row[x];
                    if *value != 0 || map[x] != 0 {
                        continue;
                    }
                    let here = image.as_ref().map(|image| f64::from(image[x]));
                    if here.is_some_and(|hu| !window.contains(hu)) {
                        continue;
                    }
                    let away: [f64; 3] = std::array::from_fn(|axis| {
                        start[axis] + x as f64 * step[axis] - kidney.centre_mm[axis]
                    });
                    let squared = away.iter().map(|part| part * part).sum::<f64>();
                    if squared > farthest * farthest {
                        continue;
                    }
                    let is_inside =
                        squared == 0.0 || squared.sqrt() <= sphere.value(&fascia.limit_mm, away);
                    let at = [z + z0, y + y0, x + x0];
                    if is_inside && body.is_none_or(|body| body.place(at) == Place::InsideWall) {
                        *value = FatKind::Perirenal as u8;
                        voxels += 1;
                        hu += here.unwrap_or(0.0);
                    }
                }
            }
            (voxels, hu)
        })
        .collect();
    // Sums in the order of the slices: the same for any number of threads.
    let (voxels, hu) = per_slice
        .into_iter()
        .fold((0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Perirenal {
        label: kidney.label,
        side: Side::Left,
        thickness: None,
        centre_mm: kidney.centre_mm,
        kidney_voxels: kidney.voxels,
        is_cut: kidney.is_cut,
        fat_voxels: voxels,
        mean_hu: (input.image.is_some() && voxels > 0).then(|| hu / voxels as f64),
        fascia_share: fascia.found_share,
        organ_share: fascia.organ_share,
    }
}
