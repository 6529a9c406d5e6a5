//! `vessel-connect`, `ureter-connect` and `skeleton` as a user meets them: folders, pipes, reports, refusals.

use super::{bytes, code, folder, medseg, names, refuse, run, stderr, succeed};
use medseg::io::nifti::{self, Geometry, Sample};
use medseg::io::{Limits, Overwrite};
use medseg::volume::{Grid, LabelMap, LabelTable, Volume};
use ndarray::Array3;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;

const SHAPE: [usize; 3] = [24, 24, 60];

fn tube(
    map: &mut Array3<u16>,
    along_x: std::ops::Range<usize>,
    radius: f64,
    center: [f64; 2],
    label: u16,
) {
    for ((z, y, x), value) in map.indexed_iter_mut() {
        let off = (z as f64 - center[0]).hypot(y as f64 - center[1]);
        if along_x.contains(&x) && off <= radius {
            *value = label;
        }
    }
}

/// An artery (5) with a gap of 8 voxels, an island of 27 voxels, a vein (6) beside.
fn broken() -> Array3<u16> {
    let mut map = Array3::zeros(SHAPE);
    tube(&mut map, 6..26, 2.5, [12.0, 12.0], 5);
    tube(&mut map, 34..54, 2.5, [12.0, 12.0], 5);
    tube(&mut map, 6..54, 1.5, [12.0, 19.0], 6);
    map.slice_mut(ndarray::s![2..5, 2..5, 40..43]).fill(5);
    map
}

fn save(path: &Path, map: &Array3<u16>, grid: &Grid) {
    let map = LabelMap::new(map.clone(), *grid, LabelTable::default()).unwrap();
    let geometry = Geometry::from_grid(grid);
    nifti::save_label_map(path, &map, &geometry, Vec::new(), Overwrite::Refuse).unwrap();
}

fn save_as<T: Sample>(path: &Path, volumes: &[Volume<T>]) {
    let geometry = Geometry::from_grid(volumes[0].grid());
    let volumes: Vec<&Volume<T>> = volumes.iter().collect();
    nifti::save_volume(path, &volumes, &geometry, Vec::new(), Overwrite::Refuse).unwrap();
}

fn load(path: &Path) -> Array3<u16> {
    let (map, _) = nifti::read_label_map(path, LabelTable::default(), &Limits::detect()).unwrap();
    map.volume.data().clone()
}

fn grid() -> Grid {
    Grid::with_spacing(SHAPE, [1.0; 3])
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

#[test]
fn the_report_says_where_each_bridge_is_in_the_world() {
    let here = folder();
    let mut grid = grid();
    // Flipped axes and an offset, as scanners have them.
    grid.affine.linear[0][0] = -1.0;
    grid.affine.linear[1][1] = -1.0;
    grid.affine.origin_mm = [100.0, -50.0, 7.0];
    save(&here.path().join("a.nii.gz"), &broken(), &grid);
    succeed(
        here.path(),
        "vessel-connect -i a.nii.gz -o b.nii.gz --label artery --report r.json -q",
    );
    let report = json(&here.path().join("r.json"));
    let case = &report["cases"][0];
    assert_eq!(case["status"], "done");
    assert_eq!(
        (&case["pieces_before"], &case["pieces_after"]),
        (&3.into(), &2.into())
    );
    assert_eq!(case["islands"][0]["voxels"], 27);
    assert_eq!(
        case["islands"][0]["first_voxel_xyz"],
        serde_json::json!([40, 2, 2])
    );
    assert!(case["inputs"][0]["sha256"].is_string(), "{case}");
    let [bridge] = &case["bridges"].as_array().unwrap()[..] else {
        panic!("{case}");
    };
    assert_eq!(
        (&bridge["kind"], &bridge["path"]),
        (&"tip-tip".into(), &"spline".into())
    );
    let mut x: Vec<f64> = ["from_mm", "to_mm"]
        .iter()
        .map(|end| bridge[*end][0].as_f64().unwrap())
        .collect();
    x.sort_by(f64::total_cmp);
    assert!(
        (x[0] - (100.0 - 34.0)).abs() < 1.5 && (x[1] - (100.0 - 25.0)).abs() < 1.5,
        "{x:?}"
    );
    for (axis, expected) in [(1, -50.0 - 12.0), (2, 7.0 + 12.0)] {
        assert!(
            (bridge["from_mm"][axis].as_f64().unwrap() - expected).abs() < 1.0,
            "{bridge}"
        );
    }
    let length = bridge["length_mm"].as_f64().unwrap();
    assert!((7.0..11.0).contains(&length), "{bridge}");
    assert!(
        bridge["confidence"].as_f64().unwrap() > 0.8
            && bridge["rivals"].as_array().unwrap().is_empty()
    );
    let after = load(&here.path().join("b.nii.gz"));
    let mut changed = 0;
    for (before, after) in broken().iter().zip(&after) {
        assert!(before == after || (*before, *after) == (0, 5));
        changed += usize::from(before != after);
    }
    assert_eq!(case["voxels_added"], changed);
    assert_eq!(bridge["voxels_added"], changed);
}

#[test]
fn a_dry_run_writes_the_report_only() {
    let here = folder();
    save(&here.path().join("a.nii.gz"), &broken(), &grid());
    succeed(
        here.path(),
        "vessel-connect -i a.nii.gz -o b.nii.gz --dry-run --report r.json",
    );
    assert_eq!(names(here.path()), ["a.nii.gz", "r.json"]);
    let report = json(&here.path().join("r.json"));
    assert_eq!(report["cases"][0]["dry_run"], true);
    assert_eq!(report["cases"][0]["bridges"].as_array().unwrap().len(), 1);
}

#[test]
fn a_folder_goes_on_after_a_broken_case_and_resumes() {
    let here = folder();
    std::fs::create_dir(here.path().join("in")).unwrap();
    save(&here.path().join("in/a.nii.gz"), &broken(), &grid());
    let damaged = here.path().join("in/b.nii.gz");
    medseg::io::atomic::write(&damaged, medseg::io::Overwrite::Refuse, b"no volume").unwrap();
    save(&here.path().join("in/c.v1.nii"), &broken(), &grid());
    let output = run(here.path(), "vessel-connect -i in -o out --report r.json");
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert_eq!(names(&here.path().join("out")), ["a.nii.gz", "c.v1.nii.gz"]);
    let report = json(&here.path().join("r.json"));
    let states: Vec<&str> = report["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| case["status"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["done", "failed", "done"]);
    assert!(
        stderr(&output).contains("b.nii.gz") && stderr(&output).contains("1 of 3 cases failed")
    );
    // The single run gives the same bytes, and what exists is left alone.
    succeed(
        here.path(),
        "vessel-connect -i in/a.nii.gz -o single.nii.gz",
    );
    assert_eq!(
        bytes(here.path().join("single.nii.gz")),
        bytes(here.path().join("out/a.nii.gz"))
    );
    let again = run(here.path(), "vessel-connect -i in -o out --skip-existing");
    assert_eq!(code(&again), 3);
    assert!(
        stderr(&again).contains("out/a.nii.gz: exists, skipped"),
        "{}",
        stderr(&again)
    );
    assert!(
        refuse(
            here.path(),
            "vessel-connect -i in/a.nii.gz -o single.nii.gz"
        )
        .contains("single.nii.gz")
    );
}

#[test]
fn pipes_carry_the_map_both_ways() {
    let here = folder();
    save(&here.path().join("a.nii"), &broken(), &grid());
    succeed(here.path(), "vessel-connect -i a.nii -o b.nii");
    let output = medseg(here.path())
        .args(["vessel-connect", "-i", "-", "-o", "-"])
        .stdin(Stdio::from(
            std::fs::File::open(here.path().join("a.nii")).unwrap(),
        ))
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        output.stdout == bytes(here.path().join("b.nii")),
        "the stream is the file"
    );
}

#[test]
fn any_number_of_threads_gives_the_same_files() {
    let here = folder();
    succeed(here.path(), "phantom -o case --size 96,90,70 --damaged -q");
    for (command, flags) in [
        ("vessel-connect", "--label artery"),
        ("ureter-connect", ""),
        (
            "vessel-connect",
            "--label vein --close-loops --min-confidence 0 --image case/ct.nii.gz",
        ),
        ("skeleton", "--label artery"),
    ] {
        let ending = if command == "skeleton" {
            "json"
        } else {
            "nii.gz"
        };
        let made: Vec<Vec<u8>> = [1, 2, 4].iter().map(|threads| {
            succeed(here.path(), &format!(
                "{command} -i case/pred.nii.gz -o out.{ending} --force {flags} --threads {threads} -q"
            ));
            bytes(here.path().join(format!("out.{ending}")))
        }).collect();
        assert!(
            made[0] == made[1] && made[0] == made[2],
            "{command} {flags}"
        );
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let here = folder();
    let path = |name: &str| here.path().join(name);
    save(&path("good.nii.gz"), &broken(), &grid());
    save(&path("empty.nii.gz"), &Array3::zeros(SHAPE), &grid());
    save(&path("full.nii.gz"), &Array3::from_elem(SHAPE, 5), &grid());
    let mut sheared = grid();
    sheared.affine.linear[0][1] = 0.3;
    save(&path("sheared.nii.gz"), &broken(), &sheared);
    let fractions = Volume::new(broken().mapv(|v| f32::from(v) + 0.25), grid()).unwrap();
    save_as(&path("fractions.nii.gz"), &[fractions]);
    let whole = Volume::new(broken().mapv(f32::from), grid()).unwrap();
    save_as(&path("two.nii.gz"), &[whole.clone(), whole.clone()]);
    let small = Volume::new(
        Array3::<f32>::zeros([4, 4, 4]),
        Grid::with_spacing([4; 3], [1.0; 3]),
    )
    .unwrap();
    save_as(&path("small_ct.nii.gz"), &[small]);
    let before = names(here.path());
    for (arguments, exit, said) in [
        (
            "-i good.nii.gz --label 9",
            2,
            &["label 9 (liver)", "5 artery, 6 vein"][..],
        ),
        ("-i good.nii.gz --label kidny", 2, &["kidny"]),
        ("-i good.nii.gz --label 0", 2, &["\"0\""]),
        ("-i empty.nii.gz", 2, &["nothing but background"]),
        ("-i full.nii.gz", 1, &["label 5", "100 %", "not tubular"]),
        ("-i sheared.nii.gz", 1, &["sheared.nii.gz", "right angles"]),
        ("-i fractions.nii.gz", 1, &["fractions.nii.gz"]),
        ("-i two.nii.gz", 1, &["two.nii.gz", "2"]),
        (
            "-i good.nii.gz --image small_ct.nii.gz",
            1,
            &["small_ct.nii.gz"],
        ),
        (
            "-i good.nii.gz --bridge-label 6",
            2,
            &["--bridge-label 6", "vein"],
        ),
        ("-i good.nii.gz --bridge-label 0", 2, &["bridge-label"]),
        (
            "-i good.nii.gz --min-confidence 1.5",
            2,
            &["--min-confidence"],
        ),
        ("-i good.nii.gz --max-gap-mm 0", 2, &["--max-gap-mm"]),
        (
            "-i good.nii.gz --skeleton lines.txt",
            2,
            &["lines.txt", ".vtp"],
        ),
        ("-i absent.nii.gz", 1, &["absent.nii.gz"]),
    ] {
        let output = run(
            here.path(),
            &format!("vessel-connect -o out.nii.gz {arguments}"),
        );
        let text = stderr(&output);
        assert_eq!(code(&output), exit, "{arguments}: {text}");
        for part in said {
            assert!(text.contains(part), "{arguments}: {text}");
        }
        assert_eq!(names(here.path()), before, "{arguments}");
    }
    let mut ureters = broken();
    ureters.mapv_inplace(|value| if value == 5 { 7 } else { value });
    save(&path("alone.nii.gz"), &ureters, &grid());
    let output = run(here.path(), "ureter-connect -i alone.nii.gz -o out.nii.gz");
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(
        stderr(&output).contains(
            "neither bladder (8) nor kidneys (1, 2) occur; the map holds 6 vein, 7 ureter"
        )
    );
    let output = run(here.path(), "ureter-connect -i good.nii.gz -o out.nii.gz");
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(!path("out.nii.gz").exists());
}

#[test]
fn islands_go_and_bridges_get_their_own_label_when_asked() {
    let here = folder();
    save(&here.path().join("a.nii.gz"), &broken(), &grid());
    let said = run(
        here.path(),
        "vessel-connect -i a.nii.gz -o b.nii.gz --drop-islands --bridge-label 99 --report r.json",
    );
    assert_eq!(code(&said), 0);
    assert!(
        stderr(&said).contains("1 islands removed"),
        "{}",
        stderr(&said)
    );
    let (before, after) = (broken(), load(&here.path().join("b.nii.gz")));
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(a, b)| a == b || (*a, *b) == (0, 99) || (*a, *b) == (5, 0))
    );
    let gone = before
        .iter()
        .zip(&after)
        .filter(|(a, b)| (**a, **b) == (5, 0))
        .count();
    assert_eq!(gone, 27);
    assert_eq!(after[[3, 3, 41]], 0);
    assert_eq!(after[[12, 12, 30]], 99);
    let report = json(&here.path().join("r.json"));
    assert_eq!(report["cases"][0]["islands_removed"], true);
    assert_eq!(report["cases"][0]["bridge_label"], 99);
}

#[test]
fn bridges_below_the_least_confidence_are_reported_only() {
    let here = folder();
    save(&here.path().join("a.nii.gz"), &broken(), &grid());
    succeed(
        here.path(),
        "vessel-connect -i a.nii.gz -o b.nii.gz --min-confidence 1 --report r.json",
    );
    assert_eq!(load(&here.path().join("b.nii.gz")), broken());
    let report = json(&here.path().join("r.json"));
    let refused = &report["cases"][0]["refused"][0];
    assert_eq!(refused["accepted"], false);
    assert_eq!(refused["reason"], "below the least confidence");
}

#[test]
fn a_loop_is_closed_only_when_asked() {
    let here = folder();
    let mut ring = Array3::zeros([15, 60, 60]);
    for ((z, y, x), value) in ring.indexed_iter_mut() {
        let (dz, dy, dx) = (z as f64 - 7.0, y as f64 - 30.0, x as f64 - 30.0);
        let is_cut = dx > 0.0 && dy.abs() < 4.0;
        *value = u16::from(dz.hypot(dy.hypot(dx) - 22.0) <= 2.5 && !is_cut);
    }
    save(
        &here.path().join("a.nii.gz"),
        &ring,
        &Grid::with_spacing([15, 60, 60], [1.0; 3]),
    );
    let connect = "vessel-connect -i a.nii.gz --label 1 --force --report r.json";
    succeed(here.path(), &format!("{connect} -o open.nii.gz"));
    assert_eq!(load(&here.path().join("open.nii.gz")), ring);
    succeed(
        here.path(),
        &format!("{connect} -o closed.nii.gz --close-loops"),
    );
    let report = json(&here.path().join("r.json"));
    let bridges = report["cases"][0]["bridges"].as_array().unwrap();
    assert_eq!(bridges.len(), 1, "{report}");
    assert_eq!(bridges[0]["kind"], "loop");
    assert_eq!(load(&here.path().join("closed.nii.gz"))[[7, 30, 52]], 1);
    // The skeleton of the closed one is a loop.
    succeed(
        here.path(),
        "skeleton -i closed.nii.gz -o loop.csv --label 1",
    );
    let table = String::from_utf8(bytes(here.path().join("loop.csv"))).unwrap();
    assert!(table.contains(",loop,loop,"), "{table}");
}

#[test]
fn the_skeleton_is_written_as_its_name_says() {
    let here = folder();
    save(&here.path().join("a.nii.gz"), &broken(), &grid());
    for ending in ["csv", "json", "vtp", "obj"] {
        succeed(
            here.path(),
            &format!("vessel-connect -i a.nii.gz -o b.nii.gz --force --skeleton lines.{ending}"),
        );
        succeed(
            here.path(),
            &format!("skeleton -i b.nii.gz -o same.{ending}"),
        );
        let [one, two] =
            ["lines", "same"].map(|name| bytes(here.path().join(format!("{name}.{ending}"))));
        assert!(one == two, "{ending}");
    }
    let graph = json(&here.path().join("lines.json"));
    let branches = graph["branches"].as_array().unwrap();
    let longest = branches
        .iter()
        .map(|branch| branch["length_mm"].as_f64().unwrap())
        .fold(0.0, f64::max);
    assert!((40.0..=48.0).contains(&longest), "{longest}");
    let table = succeed(here.path(), "skeleton -i a.nii.gz -o -");
    let rows: Vec<&str> = table.lines().collect();
    assert!(
        rows[0].starts_with("branch,piece,") && rows.len() >= 3,
        "{table}"
    );
    let columns = rows[0].split(',').count();
    assert!(
        rows.iter().all(|row| row.split(',').count() == columns),
        "{table}"
    );
    let output = run(here.path(), "skeleton -i a.nii.gz -o - --label liver");
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("5 artery, 6 vein"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        code(&run(here.path(), "skeleton -i a.nii.gz -o lines.txt")),
        2
    );
}
