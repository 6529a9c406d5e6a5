//! The demo's damaged prediction, repaired and scored against the truth and the recorded gaps.

use medseg::metrics::overlap::compare_labels;
use medseg::phantom::{DamageRecord, Gap};
use medseg::topology::bridging::ureter::{UreterLabels, connect_ureters, ureter_options};
use medseg::topology::bridging::{ConnectOptions, connect};
use medseg::topology::{Connectivity, label_components};
use medseg::volume::{LabelMap, LabelTable};
use ndarray::Array3;

/// The structures of the phantom that bridges are made for.
const VESSELS: [&str; 2] = ["artery", "vein"];
const URETER: &str = "ureter";

/// `damaged` with its vessels and ureters repaired.
///
/// # Errors
/// When a structure is missing.
pub fn repair(damaged: &LabelMap) -> anyhow::Result<LabelMap> {
    let number = |name: &str| number_of(&damaged.table, name);
    let mut repaired = damaged.clone();
    let spacing_mm = damaged.grid().spacing_mm;
    for name in VESSELS {
        let label = number(name)?;
        let map = repaired.volume.data().view();
        let made = connect(map, spacing_mm, label, &ConnectOptions::default(), None)?;
        made.apply(repaired.volume.data_mut(), label);
    }
    let names = UreterLabels {
        ureter: number(URETER)?,
        bladder: number("bladder")?,
        kidneys: vec![number("kidney_right")?, number("kidney_left")?],
    };
    let map = repaired.volume.data().view();
    let made = connect_ureters(map, damaged.grid(), &names, &ureter_options(), None)?;
    made.repair.apply(repaired.volume.data_mut(), names.ureter);
    Ok(repaired)
}

fn number_of(table: &LabelTable, name: &str) -> anyhow::Result<u16> {
    table
        .number_of(name)
        .ok_or_else(|| anyhow::anyhow!("the phantom has no label {name}"))
}

/// A table of what the repair brought: gaps closed, pieces, Dice.
///
/// # Errors
/// When the maps do not belong together.
pub fn table(
    truth: &LabelMap,
    damaged: &LabelMap,
    repaired: &LabelMap,
    faults: &DamageRecord,
) -> anyhow::Result<String> {
    let agreement =
        |map: &LabelMap| compare_labels(map.volume.data().view(), truth.volume.data().view());
    let (before, after) = (agreement(damaged)?, agreement(repaired)?);
    let mut text = format!(
        "\n{:<14} {:>12} {:>22} {:>20}\n{:<14} {:>12} {:>22} {:>20}\n",
        "repair",
        "gaps",
        "pieces",
        "Dice",
        "label",
        "closed",
        "damaged repaired true",
        "damaged repaired"
    );
    for name in VESSELS.into_iter().chain([URETER]) {
        let label = number_of(&truth.table, name)?;
        let pieces = [damaged, repaired, truth].map(|map| pieces(map, label));
        let [broken, mended, whole] = pieces;
        let gaps: Vec<&Gap> = faults
            .gaps
            .iter()
            .filter(|gap| gap.label == label)
            .collect();
        let closed = gaps.iter().filter(|gap| is_joined(gap, &mended)).count();
        let dice = [&before, &after].map(|agreement| {
            agreement
                .overlap(label)
                .dice()
                .map_or_else(|| "-".to_owned(), |dice| format!("{dice:.4}"))
        });
        let most = |numbers: &Array3<u32>| numbers.iter().copied().max().unwrap_or(0);
        text.push_str(&format!(
            "{name:<14} {:>12} {:>13} {:>3} {:>4} {:>12} {:>7}\n",
            format!("{closed} of {}", gaps.len()),
            most(&broken),
            most(&mended),
            most(&whole),
            dice[0],
            dice[1]
        ));
    }
    Ok(text)
}

/// Component numbers of one label; none where they cannot be numbered.
fn pieces(map: &LabelMap, label: u16) -> Array3<u32> {
    let mask = map.volume.data().mapv(|value| value == label);
    label_components(mask.view(), Connectivity::TwentySix)
        .map(|components| components.numbers())
        .unwrap_or_default()
}

/// Whether a piece within two voxels of one end of the gap is also within two of the other.
fn is_joined(gap: &Gap, pieces: &Array3<u32>) -> bool {
    let near = |end: [f64; 3]| -> Vec<u32> {
        let [x, y, z] = end.map(|at| at.round() as isize);
        let mut found = Vec::new();
        for code in 0..125_isize {
            let at = [z + code / 25 - 2, y + code / 5 % 5 - 2, x + code % 5 - 2];
            let at = at.map(|at| usize::try_from(at).unwrap_or(usize::MAX));
            found.extend(pieces.get(at).copied().filter(|&piece| piece > 0));
        }
        found
    };
    let (a, b) = (near(gap.end_a_voxel_xyz), near(gap.end_b_voxel_xyz));
    a.iter().any(|piece| b.contains(piece))
}
