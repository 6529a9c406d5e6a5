//! Fat inside of the renal fascia.

use super::fascia::{self, Fascia};
use super::kidney::{Kidney, find_kidneys};
use super::sphere::Sphere;
use super::{Error, FatKind, FatMap, FatWindow, Input};
use crate::geometry::points::PointSampler;
use ndarray::{Axis, s};
use rayon::prelude::*;

/// What was found around one kidney.
#[derive(Debug, Clone, PartialEq)]
pub struct Perirenal {
    /// The kidney's label.
    pub label: u16,
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

/// Marks perirenal fat in `fat` (of the grid's shape) around every kidney of the labels `kidneys`, with
/// the tumours of labels `tumors` that touch it. One label may hold both kidneys.
///
/// With an image fat is what lies inside of the fitted fascia and in the window; without, all unlabelled
/// voxels inside of the expected one. Voxels that `fat` holds already are left alone.
///
/// Cost: some million samples of the image per kidney, then one pass over the boxes around the kidneys;
/// memory: one byte per voxel of these boxes.
///
/// # Errors
/// Those of [`Input::check`], [`Error::NoKidney`], [`Error::TooManyRuns`].
pub fn perirenal_fat(
    input: &Input<'_>,
    kidneys: &[u16],
    tumors: &[u16],
    window: FatWindow,
    fat: &mut FatMap,
) -> Result<Vec<Perirenal>, Error> {
    let sphere = Sphere::new();
    let found = find_kidneys(input.map, input.grid, kidneys, tumors)?;
    if found.is_empty() {
        return Err(Error::NoKidney {
            labels: kidneys.to_vec(),
        });
    }
    let image = match input.image {
        Some(image) => Some(PointSampler::new(image, input.grid).ok_or(Error::Singular)?),
        None => None,
    };
    let limits: Vec<Fascia> = (found.iter())
        .map(|kidney| {
            let hull = kidney.hull_mm(&input.grid.affine, &sphere);
            match &image {
                Some(image) => fascia::fit(input, image, kidney, &hull, &sphere, window),
                None => fascia::expected(&hull, &sphere),
            }
        })
        .collect();
    Ok(found
        .iter()
        .zip(limits)
        .map(|(kidney, fascia)| mark(input, kidney, &fascia, &sphere, window, fat))
        .collect())
}

/// Marks the fat inside of one limit.
fn mark(
    input: &Input<'_>,
    kidney: &Kidney,
    fascia: &Fascia,
    sphere: &Sphere,
    window: FatWindow,
    fat: &mut FatMap,
) -> Perirenal {
    let affine = &input.grid.affine;
    let ([z0, y0, x0], [z1, y1, x1]) = (kidney.bounds.start, kidney.bounds.end);
    let farthest = fascia.limit_mm.iter().copied().fold(0.0, f64::max);
    let step = affine.apply_vector([1.0, 0.0, 0.0]);
    let mut target = fat.slice_mut(s![z0..z1, y0..y1, x0..x1]);
    let slices: Vec<_> = target.axis_iter_mut(Axis(0)).collect();
    let per_slice: Vec<(u64, f64)> = slices
        .into_par_iter()
        .enumerate()
        .map(|(z, mut slice)| {
            let (mut voxels, mut hu) = (0_u64, 0.0);
            for (y, mut row) in slice.outer_iter_mut().enumerate() {
                let start = kidney.world_mm(affine, [z, y, 0]);
                for (x, value) in row.iter_mut().enumerate() {
                    let at = [z + z0, y + y0, x + x0];
                    if *value != 0 || input.map[at] != 0 {
                        continue;
                    }
                    let here = input.image.as_ref().map(|image| f64::from(image[at]));
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
                    if squared.sqrt() <= sphere.value(&fascia.limit_mm, away) || squared == 0.0 {
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
        centre_mm: kidney.centre_mm,
        kidney_voxels: kidney.voxels,
        is_cut: kidney.is_cut,
        fat_voxels: voxels,
        mean_hu: (input.image.is_some() && voxels > 0).then(|| hu / voxels as f64),
        fascia_share: fascia.found_share,
        organ_share: fascia.organ_share,
    }
}
