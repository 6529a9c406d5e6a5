//! Thinning against scikit-image: the skeleton of every reference mask has the components, tunnels and cavities of
//! the mask, as Lee's has. Numbers, versions and script: `testdata/parity/thinning/`. The masks live outside the
//! repository: `MEDSEG_SHARED` names the folder that holds them.

use medseg::io::{Limits, nifti};
use medseg::topology::betti::betti_numbers;
use medseg::topology::{Foreground, thin};
use medseg::volume::LabelTable;
use ndarray::Array3;
use serde_json::Value;
use std::path::PathBuf;

/// Components, tunnels and cavities of a set of voxels.
fn betti(voxels: &[[usize; 3]]) -> [u64; 3] {
    let bound = |axis: usize| {
        let along = || voxels.iter().map(|voxel| voxel[axis]);
        (along().min().unwrap_or(0), along().max().unwrap_or(0))
    };
    let bounds = [bound(0), bound(1), bound(2)];
    let mut mask = Array3::from_elem(bounds.map(|(low, high)| high - low + 1), false);
    for voxel in voxels {
        mask[std::array::from_fn::<usize, 3, _>(|axis| voxel[axis] - bounds[axis].0)] = true;
    }
    let numbers = betti_numbers(mask.view()).unwrap();
    [numbers.pieces, numbers.tunnels, numbers.cavities]
}

#[test]
fn skeletons_of_the_reference_masks_keep_their_topology_as_lee_does() {
    let Some(shared) = std::env::var_os("MEDSEG_SHARED").map(PathBuf::from) else {
        println!("MEDSEG_SHARED not set: shared-data checks not run");
        return;
    };
    let text = include_str!("../testdata/parity/thinning/betti.json");
    let content: Value = serde_json::from_str(text).unwrap();
    let cases = content["cases"].as_array().unwrap();
    assert!(cases.len() > 140);
    let mut pieces_lost_by_lee = 0;
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let label = case["label"].as_u64().unwrap() as u16;
        let (map, _) =
            nifti::read_label_map(&shared.join(file), LabelTable::default(), &Limits::detect())
                .unwrap();
        let spacing = map.grid().spacing_mm;
        let foreground =
            Foreground::of(map.volume.data().view(), spacing, |value| value == label).unwrap();
        assert_eq!(case["voxels"], foreground.len(), "{file}");
        let skeleton = thin(&foreground, &foreground.depth_mm());
        let voxels: Vec<_> = (skeleton.iter())
            .map(|&index| foreground.voxel(index as usize))
            .collect();
        let ours = serde_json::json!(betti(&voxels));
        println!(
            "{file} label {label}: {} voxels, Betti {}; skeleton {} voxels {ours}; Lee {} voxels {}",
            foreground.len(),
            case["mask"],
            voxels.len(),
            case["lee_voxels"],
            case["lee"]
        );
        assert_eq!(case["mask"], ours, "{file} label {label}");
        if case["lee"] != ours {
            // scikit-image's Lee deletes some small pieces of even width whole; nothing else may differ.
            let lost = case["lee"][0].as_i64() < case["mask"][0].as_i64();
            assert!(
                lost && case["lee"][1] == case["mask"][1],
                "{file} label {label}: Lee {}",
                case["lee"]
            );
            pieces_lost_by_lee += 1;
        }
    }
    assert_eq!(pieces_lost_by_lee, 5, "of {} masks", cases.len());
}
