//! Bridging through the public API: what is closed, what is left alone, and that nothing else changes.

use medseg::topology::bridging::ureter::{UreterLabels, connect_ureters, ureter_options};
use medseg::topology::bridging::{Bridge, ConnectError, ConnectOptions, Kind, Repair, connect};
use medseg::topology::{Connectivity, label_components};
use medseg::volume::Grid;
use ndarray::Array3;
use proptest::prelude::*;

const SPACING_MM: [f64; 3] = [1.0; 3];

/// Fills the ball of `radius` voxels around `[z, y, x]` with `label`, on background only.
fn ball(map: &mut Array3<u16>, center: [f64; 3], radius: f64, label: u16) {
    for ((z, y, x), value) in map.indexed_iter_mut() {
        let squared: f64 = [z, y, x]
            .iter()
            .zip(center)
            .map(|(&at, c)| (at as f64 - c).powi(2))
            .sum();
        if squared <= radius * radius && *value == 0 {
            *value = label;
        }
    }
}

/// A round tube from `from` to `to`.
fn tube(map: &mut Array3<u16>, from: [f64; 3], to: [f64; 3], radius: f64, label: u16) {
    for step in 0..=80 {
        let t = f64::from(step) / 80.0;
        let center = std::array::from_fn(|axis| from[axis] + t * (to[axis] - from[axis]));
        ball(map, center, radius, label);
    }
}

fn pieces(map: &Array3<u16>, label: u16) -> usize {
    let mask = map.mapv(|value| value == label);
    label_components(mask.view(), Connectivity::TwentySix)
        .unwrap()
        .len()
}

fn repaired(map: &Array3<u16>, repair: &Repair, label: u16) -> Array3<u16> {
    let mut after = map.clone();
    repair.apply(after.view_mut(), label);
    for (before, after) in map.iter().zip(&after) {
        assert!(
            before == after || (*before == 0 && *after == label),
            "only background changes"
        );
    }
    after
}

/// A line of voxels with a gap of two: two pieces of twelve voxels.
fn line() -> Array3<u16> {
    let mut map = Array3::zeros([9, 9, 40]);
    for x in (6..18).chain(20..32) {
        map[[4, 4, x]] = 1;
    }
    map
}

#[test]
fn few_large_voxels_are_a_vessel_and_few_small_ones_an_island() {
    let bridges = |mm: f64| {
        let repair = connect(line().view(), [mm; 3], 1, &ConnectOptions::default(), None).unwrap();
        let parts = repair.pieces.iter().filter(|piece| piece.is_eligible);
        (parts.count(), repair.bridges.len())
    };
    assert_eq!(bridges(1.0), (0, 0));
    assert_eq!(bridges(3.0), (2, 1));
}

#[test]
fn a_speck_on_thick_slices_is_no_tube() {
    // Along z, slices 4 mm apart.
    let is_part = |half_length: f64, radius: f64| {
        let mut map = Array3::zeros([24, 24, 24]);
        let [low, high] = [-half_length, half_length].map(|z| [12.0 + z, 12.0, 12.0]);
        tube(&mut map, low, high, radius, 1);
        let repair = connect(
            map.view(),
            [4.0, 0.8, 0.8],
            1,
            &ConnectOptions::default(),
            None,
        );
        let [piece] = &repair.unwrap().pieces[..] else {
            panic!("one piece")
        };
        assert!(
            (20..48).contains(&piece.voxels) && piece.elongation > 3.0,
            "{piece:?}"
        );
        piece.is_eligible
    };
    assert!(!is_part(0.0, 2.0), "33 voxels, 5 slices");
    assert!(is_part(3.0, 1.0), "37 voxels, 9 slices");
}

/// A tube along x with a gap of 7 voxels.
fn gap() -> Array3<u16> {
    let mut map = Array3::zeros([24, 24, 60]);
    tube(&mut map, [12.0, 12.0, 8.0], [12.0, 12.0, 25.0], 2.5, 1);
    tube(&mut map, [12.0, 12.0, 36.0], [12.0, 12.0, 52.0], 2.5, 1);
    map
}

#[test]
fn a_straight_gap_is_closed_with_the_right_calibre() {
    let map = gap();
    let repair = connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap();
    let [bridge] = &repair.bridges[..] else {
        panic!("{:?}", repair.bridges);
    };
    assert_eq!(bridge.kind, Kind::TipTip);
    assert!(bridge.confidence > 0.8, "{bridge:?}");
    let after = repaired(&map, &repair, 1);
    assert_eq!(pieces(&after, 1), 1);
    let section = after
        .slice(ndarray::s![.., .., 30])
        .iter()
        .filter(|&&v| v == 1)
        .count();
    assert!(
        (13..=29).contains(&section),
        "{section} voxels across, 21 in the tube"
    );
}

#[test]
fn a_branch_that_came_off_its_root_is_put_back() {
    let mut map = Array3::zeros([40, 30, 60]);
    tube(&mut map, [8.0, 15.0, 6.0], [8.0, 15.0, 54.0], 4.0, 1);
    tube(&mut map, [17.0, 15.0, 30.0], [34.0, 15.0, 30.0], 2.0, 1);
    let repair = connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap();
    assert_eq!(repair.bridges.len(), 1);
    assert_eq!(repair.bridges[0].kind, Kind::TipBody);
    assert_eq!(pieces(&repaired(&map, &repair, 1), 1), 1);
}

#[test]
fn islands_and_companions_stay_apart() {
    let mut map = gap();
    // A speck in the gap, beside the way across, and a separate vessel that runs alongside.
    ball(&mut map, [12.0, 17.0, 30.0], 1.5, 1);
    tube(&mut map, [12.0, 4.0, 10.0], [12.0, 4.0, 50.0], 1.6, 1);
    let repair = connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap();
    assert_eq!(repair.bridges.len(), 1, "{:?}", repair.bridges);
    let after = repaired(&map, &repair, 1);
    assert_eq!(pieces(&after, 1), 3, "tree, companion, island");
}

#[test]
fn a_wall_of_another_label_is_walked_round_and_never_overwritten() {
    let mut map = gap();
    for z in 8..=16 {
        for y in 10..=14 {
            map[[z, y, 30]] = 9;
        }
    }
    let repair = connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap();
    let after = repaired(&map, &repair, 1);
    assert_eq!(pieces(&after, 1), 1, "{:?}", repair.refused);
}

#[test]
fn a_vessel_that_leaves_the_volume_is_not_continued() {
    let mut map = Array3::zeros([20, 40, 60]);
    tube(&mut map, [10.0, 10.0, 0.0], [10.0, 10.0, 25.0], 2.0, 1);
    tube(&mut map, [10.0, 17.0, 0.0], [10.0, 22.0, 25.0], 2.0, 1);
    let repair = connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap();
    assert_eq!(repair.border_tips, 2);
    assert!(
        repair
            .bridges
            .iter()
            .all(|bridge| bridge.ends_mm[0][2] > 5.0)
    );
}

#[test]
fn an_image_with_bone_in_between_forbids_the_bridge() {
    let map = gap();
    let mut image = map.mapv(|value| if value == 1 { 200.0_f32 } else { -80.0 });
    let options = ConnectOptions::default();
    for x in 26..=35 {
        image.slice_mut(ndarray::s![.., .., x]).fill(200.0);
    }
    let alike = connect(map.view(), SPACING_MM, 1, &options, Some(image.view())).unwrap();
    assert_eq!(alike.bridges.len(), 1);
    for x in 26..=35 {
        image.slice_mut(ndarray::s![.., .., x]).fill(900.0);
    }
    let bone = connect(map.view(), SPACING_MM, 1, &options, Some(image.view())).unwrap();
    assert!(bone.bridges.is_empty());
}

#[test]
fn wrong_input_is_named() {
    let map = gap();
    let options = ConnectOptions::default();
    let error = connect(map.view(), SPACING_MM, 7, &options, None).unwrap_err();
    assert_eq!(
        error,
        ConnectError::Absent {
            label: 7,
            present: vec![1]
        }
    );
    let error = connect(map.view(), [0.0, 1.0, 1.0], 1, &options, None).unwrap_err();
    assert!(matches!(error, ConnectError::Spacing { .. }));
    let full = Array3::from_elem([4, 4, 4], 1);
    let error = connect(full.view(), SPACING_MM, 1, &options, None).unwrap_err();
    assert!(matches!(error, ConnectError::NotTubular { .. }));
    let image = Array3::zeros([1, 1, 1]);
    let error = connect(map.view(), SPACING_MM, 1, &options, Some(image.view())).unwrap_err();
    assert!(matches!(error, ConnectError::Image { .. }));
}

/// Two kidneys, a bladder and two ureters with a gap each, in a map whose x runs to the patient's right.
fn urinary() -> (Array3<u16>, Grid) {
    let mut map = Array3::zeros([80, 30, 70]);
    ball(&mut map, [10.0, 15.0, 35.0], 8.0, 7);
    for (kidney, x) in [(3, 55.0), (4, 15.0)] {
        ball(&mut map, [66.0, 15.0, x], 9.0, kidney);
        let near = 35.0 + (x - 35.0) * 0.3;
        tube(
            &mut map,
            [60.0, 15.0, x * 0.7 + near * 0.3],
            [44.0, 15.0, near],
            1.6,
            6,
        );
        tube(&mut map, [36.0, 15.0, near], [16.0, 15.0, near], 1.6, 6);
    }
    let grid = Grid::with_spacing([80, 30, 70], SPACING_MM);
    (map, grid)
}

fn names() -> UreterLabels {
    UreterLabels {
        ureter: 6,
        bladder: 7,
        kidneys: vec![3, 4],
    }
}

#[test]
fn each_ureter_is_restored_on_its_own_side() {
    let (map, grid) = urinary();
    let options = ureter_options();
    let found = connect_ureters(map.view(), &grid, &names(), &options, None).unwrap();
    assert_eq!(found.repair.bridges.len(), 2, "{:?}", found.repair.bridges);
    assert!((found.midline_mm - 35.0).abs() < 1.0);
    for bridge in &found.repair.bridges {
        let [a, b] = bridge.groups.map(|group| found.sides[group as usize]);
        assert!(a.is_some() && a == b, "{bridge:?}");
    }
    assert_eq!(pieces(&repaired(&map, &found.repair, 6), 6), 2);
}

#[test]
fn missing_organs_are_said() {
    let (mut map, grid) = urinary();
    map.mapv_inplace(|value| if value == 7 || value == 4 { 0 } else { value });
    let found = connect_ureters(map.view(), &grid, &names(), &ureter_options(), None).unwrap();
    assert!(
        found.notes.iter().any(|note| note.contains("no bladder")),
        "{:?}",
        found.notes
    );
    assert!(
        found.notes.iter().any(|note| note.contains("one kidney")),
        "{:?}",
        found.notes
    );
}

#[test]
fn any_number_of_threads_gives_the_same_repair() {
    let mut map = gap();
    tube(&mut map, [4.0, 5.0, 8.0], [18.0, 7.0, 50.0], 1.6, 1);
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| {
                connect(map.view(), SPACING_MM, 1, &ConnectOptions::default(), None).unwrap()
            })
    };
    let one = run(1);
    for threads in [2, 4] {
        let other = run(threads);
        assert_eq!((&one.bridges, &one.voxels), (&other.bridges, &other.voxels));
    }
}

#[test]
fn two_equal_ways_are_reported_and_trusted_half() {
    let mut map = Array3::zeros([24, 32, 64]);
    tube(&mut map, [12.0, 16.0, 6.0], [12.0, 16.0, 26.0], 2.2, 1);
    for y in [11.0, 21.0] {
        tube(&mut map, [12.0, y, 36.0], [12.0, y, 58.0], 2.2, 1);
    }
    let options = ConnectOptions::default();
    let repair = connect(map.view(), SPACING_MM, 1, &options, None).unwrap();
    let bridge = &repair.bridges[0];
    assert_eq!(bridge.rivals.len(), 1, "{bridge:?}");
    let rival = &bridge.rivals[0];
    assert!((0.8..=1.2).contains(&rival.cost_ratio), "{rival:?}");
    let sure = (-bridge.cost_mm / bridge.radius_mm[0].min(bridge.radius_mm[1]) / 25.0).exp();
    assert!(bridge.confidence < 0.8 * sure, "{bridge:?}");
    // Asking for more confidence leaves the choice to a person.
    let careful = ConnectOptions {
        min_confidence: 0.8 * sure,
        ..options
    };
    let careful = connect(map.view(), SPACING_MM, 1, &careful, None).unwrap();
    let is_same = |other: &Bridge| other.ends_mm == bridge.ends_mm && other.kind == bridge.kind;
    assert!(!careful.bridges.iter().any(is_same) && careful.refused.iter().any(is_same));
}

/// The upper ends of the kidneys and the bladder as ellipsoids, x to the right, and one right ureter from `from` to
/// `to`.
fn one_ureter(from: [f64; 3], to: [f64; 3]) -> (Array3<u16>, Grid) {
    let shape = [100, 44, 80];
    let mut map = Array3::zeros(shape);
    for ((z, y, x), value) in map.indexed_iter_mut() {
        let within = |center: [f64; 3], half: [f64; 3]| {
            let at = [z, y, x].map(|v| v as f64);
            (0..3)
                .map(|axis| ((at[axis] - center[axis]) / half[axis]).powi(2))
                .sum::<f64>()
                <= 1.0
        };
        *value = match () {
            () if within([70.0, 12.0, 62.0], [20.0, 8.0, 8.0]) => 3,
            () if within([70.0, 12.0, 18.0], [20.0, 8.0, 8.0]) => 4,
            () if within([14.0, 28.0, 40.0], [9.0, 9.0, 12.0]) => 7,
            () => 0,
        };
    }
    tube(&mut map, from, to, 1.8, 6);
    (map, Grid::with_spacing(shape, SPACING_MM))
}

fn ureters(map: &Array3<u16>, grid: &Grid) -> medseg::topology::bridging::ureter::UreterRepair {
    connect_ureters(map.view(), grid, &names(), &ureter_options(), None).unwrap()
}

#[test]
fn a_kidney_is_reached_at_its_hilum() {
    let (map, grid) = one_ureter([20.0, 20.0, 51.0], [45.0, 13.0, 51.0]);
    let found = ureters(&map, &grid);
    let bridge = found
        .repair
        .bridges
        .iter()
        .find(|bridge| bridge.ends_mm[1][0] > 40.0)
        .unwrap();
    let [z, _, x] = bridge.ends_mm[1];
    // The lower pole is at 50 and nearer; the medial border at 54.
    assert!(z >= 56.0 && x <= 58.0, "{bridge:?}");
}

#[test]
fn the_bladder_is_reached_at_its_back_on_the_ureters_side() {
    let (map, grid) = one_ureter([34.0, 24.0, 48.0], [70.0, 14.0, 53.0]);
    let found = ureters(&map, &grid);
    let [bridge] = &found.repair.bridges[..] else {
        panic!("{:?}", found.repair.bridges);
    };
    let [_, y, x] = bridge.ends_mm[1];
    // Without the rule it ends at y 27 and x 45, which is nearer. Behind is where the kidneys are.
    assert!(y <= 25.0 && x >= 46.0, "{bridge:?}");
}

#[test]
fn a_horseshoe_kidney_takes_the_ureters_of_both_sides() {
    let (mut map, grid) = urinary();
    map.mapv_inplace(|value| if value == 4 { 3 } else { value });
    tube(&mut map, [70.0, 15.0, 15.0], [70.0, 15.0, 55.0], 4.0, 3);
    let found = ureters(&map, &grid);
    assert!(
        found.notes.iter().any(|note| note.contains("horseshoe")),
        "{:?}",
        found.notes
    );
    assert_eq!(found.repair.bridges.len(), 2);
    for bridge in &found.repair.bridges {
        let [a, b] = bridge.groups.map(|group| found.sides[group as usize]);
        assert!(a.is_some() && a == b, "{bridge:?}");
    }
}

#[test]
fn a_second_ureter_stays_and_is_said() {
    let (mut map, grid) = urinary();
    // From the right kidney to the bladder, lateral of the first and whole.
    tube(&mut map, [60.0, 15.0, 58.0], [40.0, 15.0, 50.0], 1.6, 6);
    tube(&mut map, [40.0, 15.0, 50.0], [14.0, 15.0, 41.0], 1.6, 6);
    let found = ureters(&map, &grid);
    let said = |text: &str| found.notes.iter().any(|note| note.contains(text));
    assert!(
        said("right: 2 separate ureter pieces remain"),
        "{:?}",
        found.notes
    );
    assert!(!said("left:"), "{:?}", found.notes);
    assert_eq!(found.repair.bridges.len(), 2);
}

#[test]
fn without_any_organ_there_is_nothing_to_lead_to() {
    let (mut map, grid) = urinary();
    map.mapv_inplace(|value| if value == 6 { 6 } else { 0 });
    let error = connect_ureters(map.view(), &grid, &names(), &ureter_options(), None).unwrap_err();
    assert!(
        matches!(error, ConnectError::NoOrgans { bladder: 7, .. }),
        "{error}"
    );
}

#[test]
fn left_and_right_stay_apart_however_close_they_come() {
    // Two half ureters whose open ends meet at the midline above the bladder.
    let (mut map, grid) = urinary();
    map.mapv_inplace(|value| if value == 6 { 0 } else { value });
    tube(&mut map, [57.0, 15.0, 50.0], [34.0, 15.0, 39.0], 1.6, 6);
    tube(&mut map, [57.0, 15.0, 20.0], [34.0, 15.0, 31.0], 1.6, 6);
    let found = ureters(&map, &grid);
    let after = repaired(&map, &found.repair, 6);
    assert_eq!(pieces(&after, 6), 2, "{:?}", found.repair.bridges);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn noise_neither_panics_nor_changes_anything_but_background(
        shape in [1_usize..14, 1_usize..14, 1_usize..14],
        values in prop::collection::vec(0_u16..6, 14 * 14 * 14),
        spacing in [0.3..4.0_f64, 0.3..4.0_f64, 0.3..4.0_f64],
    ) {
        let count = shape.iter().product();
        let map = Array3::from_shape_vec(shape, values[..count].to_vec()).unwrap()
            .mapv(|value| if value > 3 { 0 } else { value });
        let options = ConnectOptions { min_confidence: 0.0, ..ConnectOptions::default() };
        if let Ok(repair) = connect(map.view(), spacing, 1, &options, None) {
            let after = repaired(&map, &repair, 1);
            prop_assert_eq!(pieces(&after, 1), repair.pieces_after);
            prop_assert_eq!(pieces(&after, 1) + repair.bridges.len(), pieces(&map, 1));
        }
        let _ = connect_ureters(
            map.view(),
            &Grid::with_spacing(shape, spacing),
            &UreterLabels { ureter: 1, bladder: 2, kidneys: vec![3] },
            &ureter_options(),
            None,
        );
    }
}
