//! Geometry and topology against the tools they must agree with: nnU-Net, scikit-image, SciPy,
//! PyTorch, cc3d and nibabel. Numbers, versions and seed: `testdata/parity/geometry/make.py`.

use half::f16;
use medseg::geometry::distance::distance_to;
use medseg::geometry::orientation::{Orientation, Turn};
use medseg::geometry::resample::{
    Interpolation, LinearResampler, ResampleOptions, SeparateAxis, resample_labels,
    resample_to_shape, resize, separate_axis, zoom_to_shape,
};
use medseg::topology::{Connectivity, fill_holes, label_components};
use medseg::volume::{Affine, Grid, Volume};
use ndarray::{Array3, s};
use serde_json::Value;

fn cases(file: &str) -> Vec<Value> {
    let path = format!(
        "{}/testdata/parity/geometry/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect(&path);
    let content: Value = serde_json::from_str(&text).expect(&path);
    content["cases"]
        .as_array()
        .expect("a list of cases")
        .clone()
}

fn numbers(value: &Value) -> Vec<i64> {
    let list = value.as_array().expect("a list of numbers");
    list.iter()
        .map(|n| n.as_i64().expect("an integer"))
        .collect()
}

fn floats(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list of numbers");
    list.iter().map(|n| n.as_f64().expect("a number")).collect()
}

fn triple<T: Copy>(values: &[T]) -> [T; 3] {
    [values[0], values[1], values[2]]
}

fn shape(value: &Value) -> [usize; 3] {
    triple(&numbers(value)).map(|n| usize::try_from(n).expect("a size"))
}

fn array<T>(shape: [usize; 3], values: impl Iterator<Item = T>) -> Array3<T> {
    Array3::from_shape_vec(shape, values.collect()).expect("as many values as voxels")
}

fn f32_bits(value: &Value) -> Vec<f32> {
    numbers(value)
        .into_iter()
        .map(|bits| f32::from_bits(bits as u32))
        .collect()
}

/// One entry of `resample.json`.
struct Resampling {
    case: Value,
    target: [usize; 3],
    current_mm: [f64; 3],
    new_mm: [f64; 3],
    eighths: Array3<i32>,
    image: Array3<f32>,
    labels: Array3<i16>,
}

fn resamplings() -> Vec<Resampling> {
    cases("resample.json")
        .into_iter()
        .map(|case| {
            let source = shape(&case["shape"]);
            let eighths = array(
                source,
                numbers(&case["image_eighths"])
                    .into_iter()
                    .map(|n| n as i32),
            );
            Resampling {
                target: shape(&case["target"]),
                current_mm: triple(&floats(&case["current_mm"])),
                new_mm: triple(&floats(&case["new_mm"])),
                image: eighths.mapv(|n| n as f32 / 8.0),
                labels: array(
                    source,
                    numbers(&case["labels"]).into_iter().map(|n| n as i16),
                ),
                eighths,
                case,
            }
        })
        .collect()
}

const ORDERS: [(&str, Interpolation); 3] = [
    ("0", Interpolation::Nearest),
    ("1", Interpolation::Linear),
    ("3", Interpolation::Cubic),
];

/// Cubic results differ by rounding in f64 (2e-12 on this range of 2048), which can move an f32 to its
/// neighbour (1.2e-4 near 2048). Nearest and linear must not differ at all.
fn assert_volumes_agree(found: &Array3<f32>, expected: &[f32], interpolation: Interpolation) {
    let tolerance = match interpolation {
        Interpolation::Cubic => 1.3e-4,
        _ => 0.0,
    };
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "voxel {index}: {found} instead of {expected} ({interpolation:?})"
        );
    }
}

#[test]
fn images_resample_as_in_nnunet() {
    for entry in resamplings() {
        for (order, interpolation) in ORDERS {
            let options = ResampleOptions {
                interpolation,
                ..ResampleOptions::IMAGE
            };
            let found = resample_to_shape(
                entry.image.view(),
                entry.target,
                entry.current_mm,
                entry.new_mm,
                options,
            )
            .unwrap();
            let expected = f32_bits(&entry.case[format!("image_order_{order}_bits")]);
            assert_volumes_agree(&found, &expected, interpolation);
        }
        for (order_z, along_separate_axis) in &ORDERS[1..] {
            let expected = &entry.case[format!("image_order_3_z_{order_z}_bits")];
            if expected.is_null() {
                continue; // no axis is handled apart
            }
            let options = ResampleOptions {
                along_separate_axis: *along_separate_axis,
                ..ResampleOptions::IMAGE
            };
            let found = resample_to_shape(
                entry.image.view(),
                entry.target,
                entry.current_mm,
                entry.new_mm,
                options,
            )
            .unwrap();
            assert_volumes_agree(&found, &f32_bits(expected), Interpolation::Cubic);
        }
    }
}

#[test]
fn volumes_resize_as_in_scikit_image() {
    let mut compared = 0;
    for entry in resamplings() {
        for (order, interpolation) in ORDERS {
            let expected = &entry.case[format!("skimage_order_{order}_bits")];
            if expected.is_null() {
                continue; // the same numbers as nnU-Net's
            }
            let found = resize(entry.image.view(), entry.target, interpolation).unwrap();
            assert_volumes_agree(&found, &f32_bits(expected), interpolation);
            compared += 1;
        }
    }
    assert_eq!(compared, 15);
}

/// Bit for bit in f16, as a volume and slice by slice.
#[test]
fn logits_resample_as_in_nnunet() {
    for entry in resamplings() {
        let logits = array(
            shape(&entry.case["shape"]),
            numbers(&entry.case["logits_bits"])
                .into_iter()
                .map(|bits| f16::from_bits(bits as u16)),
        );
        let expected: Vec<u16> = numbers(&entry.case["logits_order_1_bits"])
            .into_iter()
            .map(|bits| bits as u16)
            .collect();
        let whole = resample_to_shape(
            logits.view(),
            entry.target,
            entry.current_mm,
            entry.new_mm,
            ResampleOptions::LOGITS,
        )
        .unwrap();
        let found: Vec<u16> = whole.iter().map(|value| value.to_bits()).collect();
        assert_eq!(found, expected);

        let apart = separate_axis(SeparateAxis::Automatic, entry.current_mm, entry.new_mm).unwrap();
        let resampler = LinearResampler::new(shape(&entry.case["shape"]), entry.target)
            .unwrap()
            .with_nearest_axis(apart);
        let mut streamed = Array3::<f16>::default(entry.target);
        for z in 0..entry.target[0] {
            resampler.slice(
                |z| logits.slice(s![z, .., ..]),
                z,
                streamed.slice_mut(s![z, .., ..]),
            );
        }
        assert_eq!(streamed, whole);
    }
}

#[test]
fn label_maps_resample_as_in_nnunet() {
    for entry in resamplings() {
        let resampled = |options| {
            resample_labels(
                entry.labels.view(),
                entry.target,
                entry.current_mm,
                entry.new_mm,
                options,
            )
            .unwrap()
            .iter()
            .map(|&label| i64::from(label))
            .collect::<Vec<_>>()
        };
        for (order, interpolation) in ORDERS {
            let options = ResampleOptions {
                interpolation,
                ..ResampleOptions::LOGITS
            };
            let expected = numbers(&entry.case[format!("labels_order_{order}")]);
            assert_eq!(resampled(options), expected, "order {order}");
        }
        let options = ResampleOptions {
            along_separate_axis: Interpolation::Linear,
            ..ResampleOptions::LOGITS
        };
        let expected = numbers(&entry.case["labels_order_1_z_1"]);
        assert_eq!(resampled(options), expected, "order 1, order_z 1");
    }
}

/// Tolerance: PyTorch computes positions and sums in f32, partly with fused multiply-adds. Positions
/// are off by up to an ulp of the axis length (4e-6 at 70), times a step of up to 2048 between
/// neighbours.
#[test]
fn torch_resampling_agrees_to_single_precision() {
    for entry in resamplings() {
        let found = resample_to_shape(
            entry.image.view(),
            entry.target,
            entry.current_mm,
            entry.new_mm,
            ResampleOptions::TORCH,
        )
        .unwrap();
        for (found, expected) in found.iter().zip(f32_bits(&entry.case["torch_bits"])) {
            assert!((found - expected).abs() < 8e-3, "{found} {expected}");
        }
    }
}

/// nnU-Net's `resample_torch_fornnunet` of label maps, from `make_torch.py`.
#[test]
fn torch_label_maps_resample_as_in_nnunet() {
    let path = format!(
        "{}/testdata/parity/geometry/torch_labels.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let choices = [
        ("automatic", SeparateAxis::Automatic),
        ("always", SeparateAxis::Always),
        ("never", SeparateAxis::Never),
    ];
    let entries = resamplings();
    assert_eq!(entries.len(), cases.len());
    for (entry, case) in entries.iter().zip(&cases) {
        for (name, separate_axis) in choices {
            let options = ResampleOptions {
                separate_axis,
                ..ResampleOptions::TORCH
            };
            let (from, to) = (entry.current_mm, entry.new_mm);
            let found =
                resample_labels(entry.labels.view(), entry.target, from, to, options).unwrap();
            let found: Vec<i64> = found.iter().map(|&label| i64::from(label)).collect();
            assert_eq!(found, numbers(&case[name]), "{name} {:?}", entry.target);
        }
    }
}

#[test]
fn zooming_truncates_as_in_totalsegmentator() {
    for entry in resamplings() {
        for (order, interpolation) in &ORDERS[..2] {
            let found: Array3<i32> =
                zoom_to_shape(entry.eighths.view(), entry.target, *interpolation).unwrap();
            let found: Vec<i64> = found.iter().map(|&value| value.into()).collect();
            let expected = numbers(&entry.case[format!("zoom_order_{order}")]);
            assert_eq!(found, expected, "order {order}");
        }
        let found: Array3<f32> =
            zoom_to_shape(entry.eighths.view(), entry.target, Interpolation::Cubic).unwrap();
        // The range is 16384 here: one ulp of f32 is 9.8e-4.
        for (found, expected) in found.iter().zip(f32_bits(&entry.case["zoom_order_3_bits"])) {
            assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        }
    }
}

#[test]
fn components_are_numbered_as_in_scipy_and_cc3d() {
    for case in cases("components.json") {
        let shape = shape(&case["shape"]);
        let mask = array(shape, numbers(&case["mask"]).into_iter().map(|n| n != 0));
        let labels = array(
            shape,
            numbers(&case["labels"]).into_iter().map(|n| n as u16),
        );
        for (name, connectivity) in [
            ("6", Connectivity::Six),
            ("18", Connectivity::Eighteen),
            ("26", Connectivity::TwentySix),
        ] {
            let of_mask = label_components(mask.view(), connectivity)
                .unwrap()
                .numbers();
            let of_labels = label_components(labels.view(), connectivity)
                .unwrap()
                .numbers();
            for (found, key) in [
                (of_mask, format!("scipy_{name}")),
                (of_labels, format!("cc3d_{name}")),
            ] {
                let found: Vec<i64> = found.iter().map(|&n| n.into()).collect();
                assert_eq!(found, numbers(&case[&key]), "{key} {shape:?}");
            }
        }
        let filled = fill_holes(mask.view()).unwrap();
        let filled: Vec<i64> = filled.iter().map(|&voxel| voxel.into()).collect();
        assert_eq!(filled, numbers(&case["filled"]));
    }
}

/// Tolerance: both sides compute in f64 with another order of operations; JSON decimals may lose the
/// last bit.
#[test]
fn distances_equal_scipy() {
    let mut compared = 0;
    for case in cases("components.json") {
        if case["distance_mm"].is_null() {
            continue;
        }
        let mask = array(
            shape(&case["shape"]),
            numbers(&case["mask"]).into_iter().map(|n| n != 0),
        );
        let spacing_mm = triple(&floats(&case["spacing_mm"]));
        let found = distance_to(mask.view(), spacing_mm, |&voxel| !voxel);
        for (found, expected) in found.iter().zip(floats(&case["distance_mm"])) {
            assert!(
                (found - expected).abs() <= 1e-12 * expected,
                "{found} {expected}"
            );
            compared += 1;
        }
    }
    assert!(compared > 500);
}

#[test]
fn orientation_follows_nibabel() {
    for case in cases("orientation.json") {
        let rows = floats(&case["affine"]);
        let affine = Affine {
            linear: std::array::from_fn(|row| triple(&rows[4 * row..])),
            origin_mm: std::array::from_fn(|row| rows[4 * row + 3]),
        };
        let code = case["code"].as_str().unwrap();
        assert_eq!(Orientation::of(&affine).unwrap().to_string(), code);

        // nibabel's array was 0..24 in [x, y, z] of shape (2, 3, 4).
        let grid = Grid {
            shape: [4, 3, 2],
            spacing_mm: [1.0; 3],
            affine,
        };
        let data = Array3::from_shape_fn([4, 3, 2], |(z, y, x)| (x * 12 + y * 4 + z) as i64);
        let turned = Turn::to_canonical(&affine)
            .unwrap()
            .volume(&Volume::new(data, grid).unwrap());
        let mut expected_shape = shape(&case["canonical_shape_xyz"]);
        expected_shape.reverse();
        assert_eq!(turned.shape(), expected_shape);
        assert_eq!(turned.as_slice(), numbers(&case["canonical_zyx"]));
        let expected = floats(&case["canonical_affine"]);
        let found = turned.grid().affine;
        for row in 0..3 {
            for column in 0..3 {
                assert_eq!(found.linear[row][column], expected[4 * row + column]);
            }
            // The origin is a sum of products: equal up to the order of summation.
            assert!((found.origin_mm[row] - expected[4 * row + 3]).abs() < 1e-10);
        }
    }
}
