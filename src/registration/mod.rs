//! Rigid registration: where one image of a patient lies in another.
//!
//! Two phases of a study differ in contrast and, where the patient moved between them, in position. [`register`] looks for the
//! rotation and translation under which intensities of the one say most of the other's, their mutual information (Mattes et al.,
//! PET-CT image registration in the chest using free-form deformations, IEEE TMI 2003; Wells et al., Multi-modal volume
//! registration by maximization of mutual information, Medical Image Analysis 1996). Images are compared at sampled places,
//! on block means of 8, 4 and 2 mm one after the other; at 8 mm the search starts at several rotations, so that it is not caught in the
//! nearest maximum. Every maximum is found by Powell's method.
//!
//! A motion is only believed where it is worth it: see [`Verdict`].

mod information;
mod powell;
mod pyramid;

use crate::progress::Progress;
use crate::volume::{Affine, Volume};
use information::{Comparison, Information};
use serde::Serialize;

/// Block lengths in mm, samples, and how closely the maximum is looked for in mm.
const LEVELS: [(f64, usize, f64); 3] = [
    (8.0, 1 << 14, 1.0),
    (4.0, 1 << 16, 0.1),
    (2.0, 1 << 17, 0.02),
];
/// Rotations about x, y and z at which the search starts besides none, in degrees.
const START_DEGREES: f64 = 12.0;
/// First step of the search on each level, in block lengths.
const FIRST_STEP: f64 = 1.0;
/// Radians of a rotation that count as one millimetre: what it moves at 100 mm from the centre.
const RADIANS_PER_MM: f64 = 0.01;
/// Least part of the smaller image that motions leave in the other: while they are looked for, and of one that is believed.
const LEAST_OVERLAP: [f64; 2] = [0.3, 0.5];
/// Least mutual information of images of one body, in nats. Images of two bodies have had up to 0.27, phases of one 0.8 and more.
const LEAST_INFORMATION: f64 = 0.3;
/// Least gain of information over images as they are, relative. Contrasts that lie in place gain up to 0.014.
const LEAST_GAIN: f64 = 0.02;
/// What no patient on a table does, in degrees and mm.
const MOST_DEGREES: f64 = 45.0;
const MOST_DISPLACEMENT_MM: f64 = 100.0;

/// Why images cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// An image without voxels or without extent.
    #[error("image of shape {0:?} without a place in the patient, expected a volume")]
    NoVolume([usize; 3]),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What is made of the motion that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The images say clearly more of each other under the motion: use it.
    Moved,
    /// They do not, or the motion is smaller than a tenth of a voxel: they lie where they should.
    InPlace,
    /// They say little of each other wherever they lie, or only under a motion that no patient makes: not the same body, or nothing
    /// in common. Do not use it.
    Unrelated,
}

/// Where the moving image lies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registration {
    /// Whether the motion is to be used.
    pub verdict: Verdict,
    /// From places in the fixed image to the same tissue in the moving one, both in RAS+ mm: what
    /// [`resample_to_grid`](crate::geometry::resample::resample_to_grid) takes. Rows of the 3 x 4 matrix.
    pub matrix: [[f64; 4]; 3],
    /// Angle of the rotation in degrees.
    pub rotation_degrees: f64,
    /// How far the centre of the fixed image moves, in mm.
    pub translation_mm: [f64; 3],
    /// Mean distance by which places of the fixed image move, in mm.
    pub mean_displacement_mm: f64,
    /// Mutual information of the images as they are, in nats.
    pub information_before: f64,
    /// Under the motion.
    pub information_after: f64,
    /// Part of the smaller image that lies in the other under the motion, 0 to about 1.
    pub overlap: f64,
}

impl Registration {
    /// The motion to use: that found, or none.
    pub fn motion(&self) -> Affine {
        if self.verdict != Verdict::Moved {
            return Affine::IDENTITY;
        }
        let rows = self.matrix;
        Affine {
            linear: rows.map(|[a, b, c, _]| [a, b, c]),
            origin_mm: rows.map(|[_, _, _, d]| d),
        }
    }
}

/// Finds the rigid motion of `moving` against `fixed`, whatever their grids. Up to 20 mm and 15 degrees are found reliably.
///
/// Reports the phase `register` (levels). The same bits for any number of threads. Time: some hundred passes over at most 131 072
/// samples, and one over either image. Memory: both images at 2 mm, 4 bytes per voxel.
///
/// # Errors
/// [`RegistrationError`].
pub fn register(
    fixed: &Volume<f32>,
    moving: &Volume<f32>,
    progress: &dyn Progress,
) -> Result<Registration, RegistrationError> {
    for image in [fixed, moving] {
        if image.as_slice().is_empty() || image.grid().affine.inverse().is_none() {
            return Err(RegistrationError::NoVolume(image.shape()));
        }
    }
    progress.begin("register", LEVELS.len() as u64);
    let lowest = [fixed, moving].map(lowest);
    let centre = centre_mm(fixed);
    let mut best = [0.0; 6];
    let mut outcome = None;
    for (number, (edge_mm, samples, tolerance_mm)) in LEVELS.into_iter().enumerate() {
        if progress.interrupted() {
            return Err(RegistrationError::Interrupted);
        }
        let fixed = pyramid::coarse(fixed, edge_mm, lowest[0]);
        let moving = pyramid::coarse(moving, edge_mm, lowest[1]);
        let comparison = Comparison::new(&fixed, &moving, samples)
            .ok_or(RegistrationError::NoVolume(moving.shape()))?;
        let starts = match number {
            0 => first_starts(),
            _ => vec![best],
        };
        let mut cost = |parameters: [f64; 6]| {
            let found = comparison.under(&motion(parameters, centre));
            if found.overlap < LEAST_OVERLAP[0] {
                return 1.0 - found.overlap;
            }
            -found.mutual
        };
        let mut least = f64::INFINITY;
        for start in starts {
            let step = FIRST_STEP * edge_mm;
            let (found, value) = powell::minimum(start, step, tolerance_mm, &mut cost);
            if value < least {
                (best, least) = (found, value);
            }
        }
        let before = comparison.under(&Affine::IDENTITY);
        let after = comparison.under(&motion(best, centre));
        outcome = Some((
            before,
            after,
            displacement_mm(&comparison, &motion(best, centre)),
        ));
        progress.advance(1);
    }
    let (before, after, displacement_mm) =
        outcome.ok_or(RegistrationError::NoVolume(fixed.shape()))?;
    Ok(registration(
        best,
        centre,
        before,
        after,
        displacement_mm,
        fixed,
    ))
}

fn registration(
    best: [f64; 6],
    centre: [f64; 3],
    before: Information,
    after: Information,
    mean_displacement_mm: f64,
    fixed: &Volume<f32>,
) -> Registration {
    let motion = motion(best, centre);
    let voxel_mm = fixed
        .grid()
        .spacing_mm
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    let most = before.mutual.max(after.mutual);
    let rotation_degrees = best[3..].iter().map(|part| part * part).sum::<f64>().sqrt();
    let rotation_degrees = (rotation_degrees * RADIANS_PER_MM).to_degrees();
    let verdict = if most < LEAST_INFORMATION
        || after.overlap < LEAST_OVERLAP[1]
        || rotation_degrees > MOST_DEGREES
        || mean_displacement_mm > MOST_DISPLACEMENT_MM
    {
        Verdict::Unrelated
    } else if after.mutual < before.mutual * (1.0 + LEAST_GAIN)
        || mean_displacement_mm < 0.1 * voxel_mm
    {
        Verdict::InPlace
    } else {
        Verdict::Moved
    };
    let moved = motion.apply(centre);
    let origin = motion.origin_mm;
    let row = |axis: usize| {
        let [a, b, c] = motion.linear[axis];
        [a, b, c, origin[axis]]
    };
    Registration {
        verdict,
        matrix: [row(0), row(1), row(2)],
        rotation_degrees,
        translation_mm: std::array::from_fn(|axis| moved[axis] - centre[axis]),
        mean_displacement_mm,
        information_before: before.mutual,
        information_after: after.mutual,
        overlap: after.overlap,
    }
}

/// No rotation, and both ways about every axis.
fn first_starts() -> Vec<[f64; 6]> {
    let turned = START_DEGREES.to_radians() / RADIANS_PER_MM;
    let mut starts = vec![[0.0; 6]];
    for axis in 3..6 {
        for angle in [turned, -turned] {
            let mut start = [0.0; 6];
            start[axis] = angle;
            starts.push(start);
        }
    }
    starts
}

/// Three translations in mm and a rotation vector in [`RADIANS_PER_MM`], about `centre`.
fn motion(parameters: [f64; 6], centre: [f64; 3]) -> Affine {
    let [x, y, z, a, b, c] = parameters;
    let turn = [a, b, c].map(|part| part * RADIANS_PER_MM);
    let angle = turn.iter().map(|part| part * part).sum::<f64>().sqrt();
    let linear = rotation(turn, angle);
    let still = Affine {
        linear,
        origin_mm: [0.0; 3],
    };
    let turned = still.apply(centre);
    let shift = [x, y, z];
    Affine {
        linear,
        origin_mm: std::array::from_fn(|axis| centre[axis] - turned[axis] + shift[axis]),
    }
}

/// Rodrigues' formula.
fn rotation([a, b, c]: [f64; 3], angle: f64) -> [[f64; 3]; 3] {
    let (one, two) = if angle < 1e-9 {
        (1.0, 0.5)
    } else {
        (angle.sin() / angle, (1.0 - angle.cos()) / (angle * angle))
    };
    let cross = [[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]];
    std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let square: f64 = (0..3).map(|k| cross[row][k] * cross[k][column]).sum();
            f64::from(u8::from(row == column)) + one * cross[row][column] + two * square
        })
    })
}

/// Mean distance by which the sampled places move.
fn displacement_mm(comparison: &Comparison<'_>, motion: &Affine) -> f64 {
    let (mut sum, mut count) = (0.0, 0_usize);
    for place in comparison.places() {
        let moved = motion.apply(place);
        let square: f64 = (0..3).map(|axis| (moved[axis] - place[axis]).powi(2)).sum();
        sum += square.sqrt();
        count += 1;
    }
    sum / count.max(1) as f64
}

fn centre_mm(image: &Volume<f32>) -> [f64; 3] {
    let [z, y, x] = image.grid().shape.map(|n| (n as f64 - 1.0) / 2.0);
    image.grid().affine.apply([x, y, z])
}

/// The lowest finite intensity, 0 where there is none.
fn lowest(image: &Volume<f32>) -> f32 {
    let finite = image
        .as_slice()
        .iter()
        .copied()
        .filter(|value| value.is_finite());
    let lowest = finite.fold(f32::INFINITY, f32::min);
    if lowest.is_finite() { lowest } else { 0.0 }
}

#[cfg(test)]
mod tests;
