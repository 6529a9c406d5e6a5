//! Whether a prediction lies on the grid of its reference.
//!
//! Comparing arrays without their grids is the most common silent error of evaluation scripts: a
//! prediction stored in another axis order scores 0.297 instead of 0.920 and nobody is told. Here the
//! grids decide. Equal grids are compared as they are; a grid that is the same in space but stored in
//! another axis order is turned, which moves voxels and changes none; everything else is refused with
//! the first difference and both values, unless resampling was asked for ([`resample`]).

use crate::geometry::orientation::{Orientation, Turn};
use crate::volume::{Grid, Volume};
use ndarray::Array3;
use rayon::prelude::*;

/// Largest distance, in millimetres, between corresponding corner voxels of two grids that count as
/// one: well above the rounding of headers (float32), well below any spacing.
pub const GRID_TOLERANCE_MM: f64 = 1e-3;

/// Two grids that are not the same in space.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Misaligned {
    /// Different numbers of voxels.
    #[error("the prediction has {found} voxels (x, y, z), the reference {expected}")]
    Shape {
        /// Of the prediction.
        found: String,
        /// Of the reference.
        expected: String,
    },
    /// Different voxel sizes.
    #[error("the prediction's spacing is {found} mm (x, y, z), the reference's {expected} mm")]
    Spacing {
        /// Of the prediction.
        found: String,
        /// Of the reference.
        expected: String,
    },
    /// The axes run in other directions, and turning them does not bring the grids together.
    #[error(
        "the prediction's axes point {found}, the reference's {expected}, and voxels are up to {distance_mm:.4} mm apart after turning"
    )]
    Direction {
        /// Orientation code of the prediction.
        found: String,
        /// Orientation code of the reference.
        expected: String,
        /// Largest distance between corresponding corner voxels after turning.
        distance_mm: f64,
    },
    /// Same size and orientation at another place or angle.
    #[error(
        "the prediction lies elsewhere: voxels are up to {distance_mm:.4} mm apart (tolerance {tolerance_mm} mm), first voxel at {found}, of the reference at {expected} (RAS mm)"
    )]
    Position {
        /// First voxel of the prediction.
        found: String,
        /// First voxel of the reference.
        expected: String,
        /// Largest distance between corresponding corner voxels.
        distance_mm: f64,
        /// What would have been accepted.
        tolerance_mm: f64,
    },
    /// Nothing to resample.
    #[error("the prediction and the reference have no place in common")]
    Apart,
    /// A grid without an orientation.
    #[error("the affine of the {side} is singular or not finite")]
    Singular {
        /// `prediction` or `reference`.
        side: &'static str,
    },
}

/// Brings `prediction` onto the grid of its reference by turning it where that is exact. Returns the
/// volume with its voxels in the reference's order. Cost: nothing, or one copy where it is turned.
///
/// # Errors
/// [`Misaligned`]; nothing is resampled here, see [`resample`].
pub fn align<T: Clone>(
    prediction: Volume<T>,
    reference: &Grid,
    tolerance_mm: f64,
) -> Result<Volume<T>, Misaligned> {
    let grid = *prediction.grid();
    if grid.check_matches(reference, tolerance_mm).is_ok() {
        return Ok(prediction);
    }
    let singular = |side| move |_| Misaligned::Singular { side };
    let found = Orientation::of(&grid.affine).map_err(singular("prediction"))?;
    let expected = Orientation::of(&reference.affine).map_err(singular("reference"))?;
    let turn = Turn::between(found, expected);
    let turned = turn.grid(&grid);
    if turned.check_matches(reference, tolerance_mm).is_ok() {
        return Ok(turn.volume(&prediction));
    }
    Err(difference(
        &turned,
        reference,
        tolerance_mm,
        found,
        expected,
    ))
}

/// Resamples `prediction` onto the grid of its reference: every voxel takes the label of the nearest voxel
/// (halves up), and 0 outside of the prediction. Changes scores: only on request. Cost: one pass, slices
/// in parallel, and a volume.
///
/// # Errors
/// [`Misaligned::Singular`]; [`Misaligned::Apart`] when no voxel of the reference lies in the prediction.
pub fn resample(prediction: &Volume<u16>, reference: &Grid) -> Result<Volume<u16>, Misaligned> {
    let inverse = prediction.grid().affine.inverse();
    let inverse = inverse.ok_or(Misaligned::Singular { side: "prediction" })?;
    let to_prediction = inverse.after(&reference.affine);
    let [nz, ny, nx] = reference.shape;
    let voxels = prediction.data();
    // A negative index becomes one beyond the end.
    let index = |place: f64| {
        let nearest = (place + 0.5).floor();
        if nearest < 0.0 {
            usize::MAX
        } else {
            nearest as usize
        }
    };
    let mut labels = vec![0_u16; nz * ny * nx];
    let slices = labels.par_chunks_mut((ny * nx).max(1)).enumerate();
    let inside = slices
        .map(|(z, slice)| {
            let mut inside = false;
            for (at, label) in slice.iter_mut().enumerate() {
                let place = to_prediction.apply([(at % nx) as f64, (at / nx) as f64, z as f64]);
                let [x, y, z] = place.map(index);
                if let Some(&found) = voxels.get([z, y, x]) {
                    (*label, inside) = (found, true);
                }
            }
            inside
        })
        .reduce(|| false, |a, b| a | b);
    let labels = Array3::from_shape_vec(reference.shape, labels);
    match labels
        .ok()
        .and_then(|data| Volume::new(data, *reference).ok())
    {
        Some(volume) if inside => Ok(volume),
        _ => Err(Misaligned::Apart),
    }
}

/// The first difference of two grids, the prediction's already turned.
fn difference(
    turned: &Grid,
    reference: &Grid,
    tolerance_mm: f64,
    found: Orientation,
    expected: Orientation,
) -> Misaligned {
    if turned.shape != reference.shape {
        return Misaligned::Shape {
            found: xyz(turned.shape.map(|count| count as f64)),
            expected: xyz(reference.shape.map(|count| count as f64)),
        };
    }
    let apart = |axis: usize| {
        let steps = turned.shape[axis].saturating_sub(1).max(1) as f64;
        (turned.spacing_mm[axis] - reference.spacing_mm[axis]).abs() * steps > tolerance_mm
    };
    if (0..3).any(apart) {
        return Misaligned::Spacing {
            found: xyz(turned.spacing_mm),
            expected: xyz(reference.spacing_mm),
        };
    }
    let distance_mm = corner_distance_mm(turned, reference);
    if found != expected {
        return Misaligned::Direction {
            found: found.to_string(),
            expected: expected.to_string(),
            distance_mm,
        };
    }
    let place = |grid: &Grid| {
        let [x, y, z] = grid.affine.origin_mm;
        format!("({x:.4}, {y:.4}, {z:.4})")
    };
    Misaligned::Position {
        found: place(turned),
        expected: place(reference),
        distance_mm,
        tolerance_mm,
    }
}

fn corner_distance_mm(a: &Grid, b: &Grid) -> f64 {
    match a.check_matches(b, f64::NEG_INFINITY) {
        Err(crate::volume::GridMismatch::Position { distance_mm, .. }) => distance_mm,
        _ => f64::NAN,
    }
}

/// `[z, y, x]` values as text in the order people write them, x first.
fn xyz(zyx: [f64; 3]) -> String {
    // Spacings are float32 in files: six digits after the point tell everything they hold.
    let [z, y, x] = zyx.map(|value| (value * 1e6).round() / 1e6);
    format!("{x} x {y} x {z}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Affine;

    fn reference() -> Grid {
        Grid {
            shape: [4, 5, 6],
            spacing_mm: [2.0, 1.2, 1.0],
            affine: Affine {
                linear: [[-1.0, 0.0, 0.0], [0.0, -1.2, 0.0], [0.0, 0.0, 2.0]],
                origin_mm: [10.0, 20.0, -30.0],
            },
        }
    }

    fn on(grid: Grid) -> Volume<u16> {
        let data = Array3::from_shape_fn(grid.shape, |(z, y, x)| (100 * z + 10 * y + x) as u16);
        Volume::new(data, grid).unwrap()
    }

    #[test]
    fn a_turned_copy_comes_back_voxel_by_voxel() {
        let original = on(reference());
        let turn = Turn::to_canonical(&reference().affine).unwrap();
        let turned = turn.volume(&original);
        assert_ne!(turned.data(), original.data());
        let aligned = align(turned, &reference(), GRID_TOLERANCE_MM).unwrap();
        assert_eq!(aligned.data(), original.data());
    }

    #[test]
    fn resampling_takes_the_nearest_voxel() {
        let original = on(reference());
        assert_eq!(
            resample(&original, &reference()).unwrap().data(),
            original.data()
        );
        let turned = Turn::to_canonical(&reference().affine)
            .unwrap()
            .volume(&original);
        assert_eq!(
            resample(&turned, &reference()).unwrap().data(),
            original.data()
        );
        // Half the spacing along z, moved by a third of a voxel along x: the axes run towards -x.
        let mut fine = reference();
        fine.shape[0] = 8;
        fine.affine.linear[2][2] = 1.0;
        fine.affine.origin_mm[0] += 0.3;
        let found = resample(&original, &fine).unwrap();
        for (z, expected) in [
            (0, Some(0)),
            (1, Some(1)),
            (2, Some(1)),
            (6, Some(3)),
            (7, None),
        ] {
            let label = expected.map_or(0, |z: usize| original.data()[[z, 2, 3]]);
            assert_eq!(found.data()[[z, 2, 3]], label, "{z}");
        }
        fine.affine.origin_mm[0] += 1000.0;
        assert_eq!(resample(&original, &fine), Err(Misaligned::Apart));
    }

    #[test]
    fn rounding_is_accepted_and_everything_else_named() {
        let refused = |change: fn(&mut Grid)| {
            let mut grid = reference();
            change(&mut grid);
            align(on(grid), &reference(), GRID_TOLERANCE_MM).map_err(|error| error.to_string())
        };
        assert!(refused(|grid| grid.affine.origin_mm[1] += 1e-5).is_ok());
        let message = refused(|grid| grid.affine.origin_mm[1] += 0.5).unwrap_err();
        assert!(message.contains("0.5000 mm apart"), "{message}");
        let message = refused(|grid| {
            grid.spacing_mm[0] = 2.1;
            grid.affine.linear[2][2] = 2.1;
        })
        .unwrap_err();
        assert!(message.contains("1 x 1.2 x 2.1 mm"), "{message}");
        let message = refused(|grid| grid.shape[0] = 3).unwrap_err();
        assert!(message.contains("6 x 5 x 3"), "{message}");
        let message = refused(|grid| grid.affine.linear[1][1] = 1.2).unwrap_err();
        assert!(message.contains("point LAS"), "{message}");
        let message = refused(|grid| grid.affine.linear[1][1] = 0.0).unwrap_err();
        assert!(message.contains("singular"), "{message}");
    }
}
