//! Known motions of a made-up body, in another contrast, must be found.

use super::*;
use crate::geometry::resample::resample_to_grid;
use crate::progress::{Cancel, Silent};
use crate::volume::Grid;
use ndarray::Array3;

/// A body with a spine, two kidneys, a liver and some texture, in HU; `late` changes the contrast of what takes it up.
fn body(shape: [usize; 3], spacing_mm: [f64; 3], late: bool) -> Volume<f32> {
    // Centre and half axes as parts of the extent (z, y, x), HU early and late.
    const PARTS: [([f64; 3], [f64; 3], f64, f64); 6] = [
        ([0.5, 0.5, 0.5], [0.9, 0.34, 0.42], 40.0, 55.0),
        ([0.5, 0.72, 0.5], [0.9, 0.06, 0.05], 420.0, 400.0),
        ([0.45, 0.62, 0.3], [0.2, 0.07, 0.06], 190.0, 120.0),
        ([0.5, 0.6, 0.7], [0.18, 0.06, 0.07], 180.0, 130.0),
        ([0.65, 0.42, 0.32], [0.25, 0.16, 0.17], 65.0, 110.0),
        ([0.4, 0.38, 0.62], [0.12, 0.08, 0.1], -80.0, -85.0),
    ];
    let grid = Grid::with_spacing(shape, spacing_mm);
    let data = Array3::from_shape_fn(shape, |(z, y, x)| {
        let at = [z, y, x];
        let part: [f64; 3] = std::array::from_fn(|axis| at[axis] as f64 / shape[axis] as f64);
        let mut hu = -1000.0;
        // Between two vertebrae, and between two ribs.
        let is_gap = (part[0] * 240.0) % 30.0 < 9.0;
        for (centre, half, early, after) in PARTS {
            let off = |axis: usize| ((part[axis] - centre[axis]) / half[axis]).powi(2);
            if off(0) + off(1) + off(2) < 1.0 {
                hu = if late { after } else { early };
                hu = if hu > 300.0 && is_gap { 90.0 } else { hu };
            }
        }
        let wall = ((part[1] - 0.5) / 0.3).powi(2) + ((part[2] - 0.5) / 0.38).powi(2);
        if (1.0..1.2).contains(&wall) && !is_gap && hu > 0.0 {
            hu = 350.0;
        }
        let noise = ((z * 7919 + y * 104_729 + x * 1_299_709 + usize::from(late)) % 97) as f64;
        (hu + noise / 4.0 - 12.0) as f32
    });
    Volume::new(data, grid).unwrap()
}

/// `image` as if its patient had moved by `motion`: same voxels, other places.
fn moved(image: Volume<f32>, motion: &Affine) -> Volume<f32> {
    let mut grid = *image.grid();
    grid.affine = motion.after(&grid.affine);
    Volume::new(image.into_parts().0, grid).unwrap()
}

/// Mean and largest distance of `found` from `truth` inside of the body.
fn error_mm(found: &Affine, truth: &Affine, fixed: &Volume<f32>) -> (f64, f64) {
    let (mut sum, mut most, mut count) = (0.0, 0.0_f64, 0.0);
    for ((z, y, x), &hu) in fixed.data().indexed_iter() {
        if hu > -300.0 && (z + y + x) % 5 == 0 {
            let place = fixed.grid().affine.apply([x as f64, y as f64, z as f64]);
            let (a, b) = (found.apply(place), truth.apply(place));
            let off: f64 = (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum();
            (sum, most, count) = (sum + off.sqrt(), most.max(off.sqrt()), count + 1.0);
        }
    }
    (sum / count, most)
}

#[test]
fn motions_up_to_fifteen_degrees_and_twenty_millimetres_are_found() {
    let fixed = body([40, 64, 72], [6.0, 5.0, 5.0], false);
    let centre = centre_mm(&fixed);
    for (shift, degrees) in [
        ([-9.0, 11.0, 14.0], [0.0, 0.0, 15.0]),
        ([16.0, -10.0, 6.0], [-6.0, 5.0, -7.0]),
    ] {
        let turn = degrees.map(|angle: f64| angle.to_radians() / RADIANS_PER_MM);
        let truth = motion(
            [shift[0], shift[1], shift[2], turn[0], turn[1], turn[2]],
            centre,
        );
        // Another grid as well.
        let moving = moved(body([60, 64, 60], [4.0, 5.0, 6.0], true), &truth);
        let found = register(&fixed, &moving, &Silent).unwrap();
        assert_eq!(found.verdict, Verdict::Moved, "{found:?}");
        let (mean, most) = error_mm(&found.motion(), &truth, &fixed);
        assert!(mean < 1.0 && most < 2.0, "{mean} {most}: {found:?}");
        assert!(found.information_after > 1.2 * found.information_before);
        assert!(found.overlap > 0.7, "{found:?}");
        // It is what resampling takes: the phases lie on each other afterwards.
        let back = resample_to_grid(&moving, fixed.grid(), &found.motion(), -1000.0).unwrap();
        let off = |image: &Volume<f32>| {
            let pairs = fixed.as_slice().iter().zip(image.as_slice());
            let inside = pairs.filter(|(hu, _)| **hu > -300.0);
            inside.filter(|(_, other)| **other < -300.0).count()
        };
        let still = resample_to_grid(&moving, fixed.grid(), &Affine::IDENTITY, -1000.0).unwrap();
        assert!(
            off(&back) * 4 < off(&still),
            "{} {}",
            off(&back),
            off(&still)
        );
    }
}

#[test]
fn phases_in_place_stay_there_whatever_their_contrast_and_grid() {
    let fixed = body([40, 64, 72], [6.0, 5.0, 5.0], false);
    let moving = body([60, 64, 60], [4.0, 5.0, 6.0], true);
    let found = register(&fixed, &moving, &Silent).unwrap();
    assert_eq!(found.verdict, Verdict::InPlace, "{found:?}");
    assert_eq!(found.motion(), Affine::IDENTITY);
}

#[test]
fn images_with_nothing_in_common_are_not_registered() {
    let fixed = body([30, 40, 40], [6.0, 6.0, 6.0], false);
    let noise = Array3::from_shape_fn([30, 40, 40], |(z, y, x)| {
        let mut state = (z * 40 + y) as u64 * 40 + x as u64;
        for _ in 0..3 {
            state = (state ^ (state >> 13)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        (state >> 40) as f32
    });
    let noise = Volume::new(noise, *fixed.grid()).unwrap();
    let flat = Volume::filled(-1000.0, *fixed.grid());
    for other in [noise, flat] {
        let found = register(&fixed, &other, &Silent).unwrap();
        assert_eq!(found.verdict, Verdict::Unrelated, "{found:?}");
        assert_eq!(found.motion(), Affine::IDENTITY);
    }
}

#[test]
fn threads_and_repetition_change_no_bit() {
    let fixed = body([24, 32, 36], [8.0, 8.0, 8.0], false);
    let truth = motion([5.0, -3.0, 4.0, 4.0, 0.0, 8.0], centre_mm(&fixed));
    let moving = moved(body([24, 32, 36], [8.0, 8.0, 8.0], true), &truth);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| register(&fixed, &moving, &Silent).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn degenerate_images_and_interruption() {
    let one = Volume::filled(3.0, Grid::with_spacing([1, 1, 1], [2.0; 3]));
    assert_eq!(
        register(&one, &one, &Silent).unwrap().verdict,
        Verdict::Unrelated
    );
    let nan = Volume::filled(f32::NAN, Grid::with_spacing([4, 4, 4], [2.0; 3]));
    let found = register(&nan, &nan, &Silent).unwrap();
    assert!(found.information_after.is_finite() && found.verdict == Verdict::Unrelated);
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = register(&one, &one, &cancel);
    assert!(matches!(stopped, Err(RegistrationError::Interrupted)));
}
