//! Surfaces of random and degenerate label maps: closed, manifold, outward, in agreement with their neighbours, and the same
//! for any number of threads.

use medseg::mesh::write::{ObjStyle, Part, write_obj};
use medseg::mesh::{
    Cleaning, Error, Frame, Iterations, Options, Simplification, Surface, SurfaceNet,
};
use medseg::progress::{Cancel, Silent};
use medseg::volume::{Affine, Grid, LabelMap, LabelTable};
use ndarray::Array3;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn label_map(shape: [usize; 3], labels: Vec<u16>, affine: Affine) -> LabelMap {
    let [x, y, z] = affine.column_norms_mm();
    let grid = Grid {
        shape,
        spacing_mm: [z, y, x],
        affine,
    };
    let data = Array3::from_shape_vec(shape, labels).unwrap();
    LabelMap::new(data, grid, LabelTable::default()).unwrap()
}

fn unit() -> Affine {
    Affine::from_spacing([1.0; 3], [0.0; 3])
}

fn surfaces(map: &LabelMap, options: &Options) -> Vec<Surface> {
    let net = SurfaceNet::build(map, options, &Silent).unwrap();
    net.labels().map(|label| net.surface(label)).collect()
}

/// Every directed edge once, its reverse once, every vertex with a single fan, no triangle twice.
fn check_manifold(surface: &Surface) -> Result<(), String> {
    let mut edges = BTreeMap::new();
    for &[a, b, c] in &surface.triangles {
        if a == b || b == c || c == a {
            return Err(format!("triangle {a} {b} {c} repeats a vertex"));
        }
        for (from, to, apex) in [(a, b, c), (b, c, a), (c, a, b)] {
            if edges.insert((from, to), apex).is_some() {
                return Err(format!("edge {from}-{to} is used twice in one direction"));
            }
        }
    }
    let mut degree = vec![0; surface.positions.len()];
    for &(from, to) in edges.keys() {
        if !edges.contains_key(&(to, from)) {
            return Err(format!("edge {from}-{to} is open"));
        }
        degree[from as usize] += 1;
    }
    // Turning around a vertex from any of its edges must meet all of them.
    for (vertex, &degree) in degree.iter().enumerate() {
        let vertex = vertex as u32;
        let Some((&(_, start), _)) = edges.range((vertex, 0)..=(vertex, u32::MAX)).next() else {
            return Err(format!("vertex {vertex} is in no triangle"));
        };
        let (mut turned, mut next) = (0, start);
        while turned <= degree {
            next = edges[&(vertex, next)];
            turned += 1;
            if next == start {
                break;
            }
        }
        if turned != degree {
            return Err(format!("vertex {vertex} joins several fans"));
        }
    }
    Ok(())
}

fn check_all(map: &LabelMap, options: &Options) {
    let net = SurfaceNet::build(map, options, &Silent).unwrap();
    for (label, voxels) in map.counts().into_iter().filter(|&(label, _)| label > 0) {
        let surface = net.surface(label);
        if let Err(problem) = check_manifold(&surface) {
            panic!("label {label}: {problem}");
        }
        let report = net.report(&surface);
        assert_eq!(report.voxels, voxels);
        assert!(
            report.volume_out_ml > 0.0,
            "label {label} is inside out: {report:?}"
        );
    }
}

fn affines() -> impl Strategy<Value = Affine> {
    let oblique = Affine {
        linear: [[0.0, -0.8, 0.1], [0.7, 0.0, 0.2], [0.05, 0.0, 3.0]],
        origin_mm: [12.0, -4.0, 900.0],
    };
    let mirrored = Affine::from_spacing([-0.75, -0.75, -1.5], [192.0, 192.0, -150.0]);
    let thick = Affine::from_spacing([-0.5, 0.5, 5.0], [0.0; 3]);
    prop::sample::select(vec![unit(), oblique, mirrored, thick])
}

fn random_maps() -> impl Strategy<Value = ([usize; 3], Vec<u16>)> {
    (1_usize..7, 1_usize..7, 1_usize..7, 1_u16..5).prop_flat_map(|(z, y, x, most)| {
        prop::collection::vec(0..=most, z * y * x).prop_map(move |labels| ([z, y, x], labels))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_maps_give_manifold_outward_surfaces(
        (shape, labels) in random_maps(),
        affine in affines(),
        iterations in prop::sample::select(vec![Iterations::Auto, Iterations::Fixed(0), Iterations::Fixed(3)]),
    ) {
        let options = Options { iterations, ..Options::default() };
        check_all(&label_map(shape, labels, affine), &options);
    }

    #[test]
    fn simplified_random_maps_stay_manifold(
        (shape, labels) in random_maps(),
        affine in affines(),
        simplification in prop::sample::select(vec![
            Simplification::Tolerance { mm: 0.1 },
            Simplification::Tolerance { mm: 2.0 },
            Simplification::Ratio(0.2),
        ]),
    ) {
        let options = Options { simplification: Some(simplification), ..Options::default() };
        check_all(&label_map(shape, labels, affine), &options);
    }

    #[test]
    fn voxel_faces_enclose_exactly_the_voxels((shape, labels) in random_maps(), affine in affines()) {
        // Copies are moved by 2 % of half a voxel at most, and middles likewise.
        let options = Options { iterations: Iterations::Fixed(0), ..Options::default() };
        let map = label_map(shape, labels, affine);
        let net = SurfaceNet::build(&map, &options, &Silent).unwrap();
        for label in net.labels() {
            let report = net.report(&net.surface(label));
            let error = report.volume_out_ml / report.volume_in_ml - 1.0;
            prop_assert!(error.abs() < 0.06, "label {}: {}", label, error);
        }
    }
}

#[test]
fn a_long_random_map_crosses_words_of_the_bitmaps() {
    let shape = [3, 4, 200];
    let labels = (0..2400_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 29) as u16 % 4)
        .collect();
    check_all(&label_map(shape, labels, unit()), &Options::default());
}

#[test]
fn degenerate_maps_do_not_panic() {
    let full = vec![1; 27];
    check_all(&label_map([3, 3, 3], full, unit()), &Options::default());
    check_all(
        &label_map([1, 1, 1], vec![65535], unit()),
        &Options::default(),
    );
    for (shape, labels) in [
        ([2, 2, 2], vec![0; 8]),
        ([0, 3, 3], vec![]),
        ([1, 0, 1], vec![]),
    ] {
        let map = label_map(shape, labels, unit());
        let net = SurfaceNet::build(&map, &Options::default(), &Silent).unwrap();
        assert_eq!(net.labels().len(), 0);
        assert!(net.surface(1).triangles.is_empty());
    }
}

#[test]
fn a_hundred_labels_at_once() {
    let shape = [12, 12, 12];
    let labels = (0..12_usize.pow(3))
        .map(|i| {
            let (z, y, x) = (i / 144, i / 12 % 12, i % 12);
            (z / 3 * 16 + y / 3 * 4 + x / 3) as u16 + 60
        })
        .collect();
    let map = label_map(shape, labels, unit());
    let found = surfaces(&map, &Options::default());
    assert_eq!(found.len(), 64);
    check_all(&map, &Options::default());
}

#[test]
fn touching_labels_share_their_border_to_the_last_bit() {
    let shape = [8, 8, 9];
    let labels = (0..8 * 8 * 9)
        .map(|i| {
            let (z, y, x) = (i / 72, i / 9 % 8, i % 9);
            let inside = [(z, 4), (y, 4), (x, 4)]
                .iter()
                .map(|&(a, b): &(i32, i32)| (a - b).pow(2))
                .sum::<i32>()
                < 16;
            if !inside {
                0
            } else if x < 4 {
                1
            } else {
                2
            }
        })
        .collect();
    let found = surfaces(&label_map(shape, labels, unit()), &Options::default());
    let triangles = |surface: &Surface, flip: bool| {
        let mut list: Vec<Vec<[u64; 3]>> = surface
            .triangles
            .iter()
            .map(|triangle| {
                let mut corners = triangle
                    .map(|v| surface.positions[v as usize].map(f64::to_bits))
                    .to_vec();
                if flip {
                    corners.reverse();
                }
                let first = corners
                    .iter()
                    .enumerate()
                    .min_by_key(|entry| *entry.1)
                    .unwrap()
                    .0;
                corners.rotate_left(first);
                corners
            })
            .collect();
        list.sort();
        list
    };
    let (a, b) = (triangles(&found[0], false), triangles(&found[1], true));
    let shared = a
        .iter()
        .filter(|triangle| b.binary_search(triangle).is_ok())
        .count();
    // The disc between them: about pi * 4 * 4 voxel faces of two triangles.
    assert!(shared >= 80, "{shared} shared triangles");
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let shape = [20, 21, 70];
    let labels: Vec<u16> = (0..20 * 21 * 70)
        .map(|i| {
            let (z, y, x) = (i / 1470, i / 70 % 21, i % 70);
            let wave = (f64::from(x) * 0.3).sin() * 3.0 + f64::from(y) - 10.0;
            u16::from(wave > 0.0)
                + u16::from(z > 9 && wave > 0.0)
                + u16::from((x * y * z) % 97 == 0) * 3
        })
        .collect();
    let map = label_map(
        shape,
        labels,
        Affine::from_spacing([0.7, 0.7, 2.0], [1.0, 2.0, 3.0]),
    );
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let options = Options {
                normals: true,
                ..Options::default()
            };
            let mut out = Vec::new();
            for surface in surfaces(&map, &options) {
                let part = Part {
                    surface: &surface,
                    name: "a",
                    rgb: [0; 3],
                };
                write_obj(
                    &mut out,
                    &[part],
                    &ObjStyle {
                        decimals: 9,
                        ..ObjStyle::default()
                    },
                )
                .unwrap();
            }
            out
        })
    };
    let one = bytes(1);
    assert!(one.len() > 100_000);
    assert!(one == bytes(2) && one == bytes(4));
}

#[test]
fn a_subset_gives_the_same_surface_as_the_whole() {
    let labels = vec![1, 1, 2, 1, 3, 2, 0, 3];
    let map = label_map([2, 2, 2], labels, unit());
    let all = surfaces(&map, &Options::default());
    let options = Options {
        labels: Some(vec![2]),
        ..Options::default()
    };
    assert_eq!(surfaces(&map, &options), [all[1].clone()]);
}

#[test]
fn lps_turns_the_frame_and_nothing_else() {
    let map = label_map(
        [2, 1, 3],
        vec![1, 0, 1, 1, 1, 1],
        Affine::from_spacing([1.0, 2.0, 3.0], [5.0; 3]),
    );
    let ras = surfaces(&map, &Options::default());
    let lps = surfaces(
        &map,
        &Options {
            frame: Frame::Lps,
            ..Options::default()
        },
    );
    assert_eq!(ras[0].triangles, lps[0].triangles);
    for (ras, lps) in ras[0].positions.iter().zip(&lps[0].positions) {
        assert_eq!([-ras[0], -ras[1], ras[2]], *lps);
    }
}

#[test]
fn wrong_requests_are_named() {
    let map = label_map([1, 1, 2], vec![1, 4], unit());
    let ask = |options: Options| SurfaceNet::build(&map, &options, &Silent).err().unwrap();
    let absent = ask(Options {
        labels: Some(vec![4, 9]),
        ..Options::default()
    });
    assert_eq!(
        absent.to_string(),
        "label 9 does not occur: the map holds 1, 4"
    );
    assert!(matches!(
        ask(Options {
            box_voxels: 0.7,
            ..Options::default()
        }),
        Error::Parameter(_)
    ));
    let flat = label_map(
        [1, 1, 2],
        vec![1, 4],
        Affine::from_spacing([1.0, 0.0, 1.0], [0.0; 3]),
    );
    assert_eq!(
        SurfaceNet::build(&flat, &Options::default(), &Silent).err(),
        Some(Error::Affine)
    );
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(
        SurfaceNet::build(&map, &Options::default(), &cancel).err(),
        Some(Error::Interrupted)
    );
}

#[test]
fn cleaning_may_remove_a_label() {
    let map = label_map([1, 1, 5], vec![1, 0, 2, 2, 2], unit());
    let options = Options {
        cleaning: Cleaning {
            least_island_mm3: 2.0,
            ..Cleaning::default()
        },
        ..Options::default()
    };
    let net = SurfaceNet::build(&map, &options, &Silent).unwrap();
    assert_eq!(net.labels().collect::<Vec<_>>(), [2]);
}

/// Labels 1 to 117 as boxes of 5 x 5 x 5 voxels side by side, every third with a ball of background in it.
fn totalseg_like() -> ([usize; 3], Vec<u16>) {
    let shape = [15, 25, 50];
    let labels = (0..15 * 25 * 50)
        .map(|i| {
            let (z, y, x) = (i / 1250, i / 50 % 25, i % 50);
            let label = (z / 5 * 50 + y / 5 * 10 + x / 5) as u16 + 1;
            let is_middle = [z % 5, y % 5, x % 5] == [2, 2, 2];
            if label > 117 || (label.is_multiple_of(3) && is_middle) {
                0
            } else {
                label
            }
        })
        .collect();
    (shape, labels)
}

#[test]
fn labels_1_to_117_at_once() {
    let (shape, labels) = totalseg_like();
    let oblique = Affine {
        linear: [[0.0, -0.8, 0.1], [0.7, 0.0, 0.2], [0.05, 0.0, 3.0]],
        origin_mm: [12.0, -4.0, 900.0],
    };
    let map = label_map(shape, labels, oblique);
    let found = surfaces(&map, &Options::default());
    assert_eq!(
        found
            .iter()
            .map(|surface| surface.label)
            .collect::<Vec<_>>(),
        (1..=117).collect::<Vec<_>>()
    );
    check_all(&map, &Options::default());
}

#[test]
fn three_labels_that_meet_in_a_line_share_it() {
    // Three sectors of a cylinder along z.
    let shape = [10, 24, 24];
    let labels: Vec<u16> = (0..10 * 24 * 24)
        .map(|i| {
            let (z, y, x) = (
                i / 576,
                f64::from(i / 24 % 24) - 11.5,
                f64::from(i % 24) - 11.5,
            );
            let inside = (1..9).contains(&z) && x * x + y * y < 100.0;
            let angle = y.atan2(x) + std::f64::consts::PI;
            u16::from(inside) * (1 + (angle / (std::f64::consts::TAU / 3.0)) as u16)
        })
        .collect();
    for spacing in [[1.0, 1.0, 1.0], [-0.7, 0.7, 2.5]] {
        let map = label_map(
            shape,
            labels.clone(),
            Affine::from_spacing(spacing, [3.0; 3]),
        );
        check_all(&map, &Options::default());
        let found = surfaces(&map, &Options::default());
        assert_eq!(found.len(), 3);
        let corners: Vec<std::collections::BTreeSet<[u64; 3]>> = found
            .iter()
            .map(|surface| {
                surface
                    .positions
                    .iter()
                    .map(|p| p.map(f64::to_bits))
                    .collect()
            })
            .collect();
        let line = corners[0]
            .iter()
            .filter(|corner| corners[1].contains(*corner) && corners[2].contains(*corner))
            .count();
        assert!(line >= 9, "{line} vertices on a line of 8 voxels");
    }
}

#[test]
fn balls_of_other_sizes_and_spacings_keep_volume_and_place() {
    for (radius_mm, spacing) in [
        (4.0, [0.5, 0.5, 0.5]),
        (7.5, [-0.9, -0.9, 0.9]),
        (12.0, [0.8, -0.8, 2.5]),
        (30.0, [2.0, 3.0, 1.5]),
    ] {
        let size: [usize; 3] =
            std::array::from_fn(|axis| (2.0 * radius_mm / f64::abs(spacing[axis])) as usize + 5);
        let [nx, ny, nz] = size;
        let affine = Affine::from_spacing(spacing, [-40.0, 25.0, 1000.0]);
        let middle = affine.apply(size.map(|n| (n - 1) as f64 / 2.0));
        let distance = |p: [f64; 3]| {
            p.iter()
                .zip(middle)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let labels = (0..nx * ny * nz)
            .map(|i| {
                let voxel = [i % nx, i / nx % ny, i / (nx * ny)].map(|at| at as f64);
                u16::from(distance(affine.apply(voxel)) < radius_mm)
            })
            .collect();
        let map = label_map([nz, ny, nx], labels, affine);
        for simplification in [None, Some(Simplification::Tolerance { mm: 0.05 })] {
            let options = Options {
                simplification,
                ..Options::default()
            };
            check_all(&map, &options);
            let net = SurfaceNet::build(&map, &options, &Silent).unwrap();
            let surface = net.surface(1);
            let report = net.report(&surface);
            let change = report.volume_out_ml / report.volume_in_ml - 1.0;
            assert!(
                change.abs() < 0.001,
                "radius {radius_mm}: volume {change:+.5}"
            );
            assert_eq!((report.shells, report.genus), (1, 0));
            let thickest = spacing.iter().fold(0.0, |most: f64, s| most.max(s.abs()));
            let worst = surface
                .positions
                .iter()
                .map(|&p| (distance(p) - radius_mm).abs())
                .fold(0.0, f64::max);
            assert!(worst < 0.6 * thickest, "radius {radius_mm}: {worst} mm off");
        }
    }
}

#[test]
fn bounds_hold_every_surface_tightly() {
    let (shape, labels) = totalseg_like();
    let map = label_map(shape, labels, unit());
    let options = Options {
        labels: Some(vec![1, 2]),
        ..Options::default()
    };
    let net = SurfaceNet::build(&map, &options, &Silent).unwrap();
    let [low, high] = net.bounds_mm().unwrap();
    let found = [1, 2].map(|label| net.surface(label));
    for axis in 0..3 {
        let values = found
            .iter()
            .flat_map(|s| s.positions.iter().map(|p| p[axis]));
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        assert!(low[axis] <= least + 1e-9 && least < low[axis] + 0.1);
        assert!(high[axis] >= most - 1e-9 && most > high[axis] - 0.1);
    }
}

#[test]
fn a_memory_limit_is_refused_with_both_numbers() {
    let map = label_map([3, 3, 3], vec![1; 27], unit());
    let options = Options {
        limit_bytes: 1000,
        ..Options::default()
    };
    let error = SurfaceNet::build(&map, &options, &Silent).err().unwrap();
    assert!(matches!(
        error,
        Error::Memory {
            vertices: 56,
            needed_bytes: 6227,
            limit_bytes: 1000
        }
    ));
}
