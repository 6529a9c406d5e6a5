//! Results must not depend on the number of threads: the same bytes from one, two and five.

use half::f16;
use medseg::geometry::bounds::BoundingBox;
use medseg::geometry::distance::distance_to;
use medseg::geometry::resample::{
    Interpolation, ResampleOptions, resample_labels, resample_to_shape, resize, zoom_to_shape,
};
use medseg::metrics::overlap::{compare_labels, compare_values};
use medseg::topology::{Connectivity, fill_holes, label_components};
use ndarray::Array3;

const SHAPE: [usize; 3] = [70, 33, 41];
const TARGET: [usize; 3] = [97, 40, 29];

/// Smooth and irregular, without a random generator.
fn image() -> Array3<f32> {
    Array3::from_shape_fn(SHAPE, |(z, y, x)| {
        let (z, y, x) = (z as f32, y as f32, x as f32);
        900.0 * (0.31 * z).sin() * (0.17 * y + 0.05 * z).cos() + 300.0 * (0.9 * x + 0.2 * y).sin()
    })
}

fn assert_same_for_any_threads<R: PartialEq + Send>(name: &str, work: impl Fn() -> R + Sync) {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(&work)
    };
    let one = run(1);
    assert!(run(2) == one, "{name}: two threads");
    assert!(run(5) == one, "{name}: five threads");
}

#[test]
fn resampling() {
    let image = image();
    let logits = image.mapv(|value| f16::from_f32(value / 64.0));
    let labels = image.mapv(|value| (value / 300.0).round() as i16);
    for interpolation in [
        Interpolation::Nearest,
        Interpolation::Linear,
        Interpolation::Cubic,
    ] {
        assert_same_for_any_threads("resize", || {
            resize::<f32, f64>(image.view(), TARGET, interpolation).unwrap()
        });
        assert_same_for_any_threads("zoom", || {
            zoom_to_shape::<f32, i32>(image.view(), TARGET, interpolation).unwrap()
        });
        let options = ResampleOptions {
            interpolation,
            ..ResampleOptions::IMAGE
        };
        for current_mm in [[1.0; 3], [5.0, 1.0, 1.0], [1.0, 1.0, 5.0]] {
            assert_same_for_any_threads("logits", || {
                resample_to_shape(logits.view(), TARGET, current_mm, [1.0; 3], options).unwrap()
            });
            assert_same_for_any_threads("labels", || {
                resample_labels(labels.view(), TARGET, current_mm, [1.0; 3], options).unwrap()
            });
        }
    }
    assert_same_for_any_threads("torch", || {
        resample_to_shape(
            image.view(),
            TARGET,
            [9.0, 1.0, 1.0],
            [3.0, 1.0, 1.0],
            ResampleOptions::TORCH,
        )
        .unwrap()
    });
}

#[test]
fn components_holes_distances_and_boxes() {
    let image = image();
    let labels = image.mapv(|value| {
        if value > 200.0 {
            (value / 200.0) as u16
        } else {
            0
        }
    });
    let mask = labels.mapv(|label| label > 0);
    for connectivity in [
        Connectivity::Six,
        Connectivity::Eighteen,
        Connectivity::TwentySix,
    ] {
        assert_same_for_any_threads("components", || {
            let components = label_components(labels.view(), connectivity).unwrap();
            (components.numbers(), components.list().to_vec())
        });
    }
    assert_same_for_any_threads("holes", || fill_holes(mask.view()).unwrap());
    assert_same_for_any_threads("distance", || {
        distance_to(mask.view(), [3.0, 0.8, 0.7], |&voxel| voxel)
    });
    assert_same_for_any_threads("bounds", || BoundingBox::of(image.view(), |&v| v > 1100.0));
}

#[test]
fn agreement() {
    let image = image();
    let other = image.mapv(|value| value * 1.01);
    let labels = |image: &Array3<f32>| image.mapv(|value| (value / 100.0).abs() as u16);
    let (a, b) = (labels(&image), labels(&other));
    assert_same_for_any_threads("labels", || compare_labels(a.view(), b.view()).unwrap());
    assert_same_for_any_threads("values", || {
        compare_values(image.view(), other.view(), 1.0).unwrap()
    });
}
