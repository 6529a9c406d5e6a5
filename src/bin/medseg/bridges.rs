//! What `vessel-connect` and `ureter-connect` share: a repaired label map, and the report on bridges.

use crate::context::Context;
use crate::label_cases::{self, Case, Made};
use crate::outcome::{Outcome, Usage};
use crate::skeleton::{self, Skeleton};
use medseg::io::atomic;
use medseg::topology::bridging::{Bridge, ConnectError, Kind, Repair};
use medseg::volume::{Grid, LabelTable};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Flags of both commands.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    io: label_cases::Args,
    /// Least confidence of a bridge, 0 to 1 [default: 0.2]
    #[arg(
        long,
        value_name = "C",
        default_value_t = 0.2,
        hide_default_value = true
    )]
    pub min_confidence: f64,
    /// Smaller pieces are islands and never joined, in voxels [default: 20]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        hide_default_value = true
    )]
    pub min_island_voxels: usize,
    /// Labels that bridges may cross without overwriting them, numbers or names with commas between
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub allow_through: Vec<String>,
    /// Write bridges as this label, a number that the map does not hold [default: the structure's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    bridge_label: Option<u16>,
    /// Also join two ends of one piece that face each other: closes loops
    #[arg(long)]
    pub close_loops: bool,
    /// Remove the islands instead of leaving them alone
    #[arg(long)]
    drop_islands: bool,
    /// Also write the centre lines after the repair: .csv table, .json graph, .vtp or .obj lines; one case only
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    skeleton: Option<PathBuf>,
}

/// What a command found in a case.
pub struct Found {
    /// Label that bridges get.
    pub label: u16,
    /// Bridges and pieces.
    pub repair: Repair,
    /// Further fields of the report.
    pub extra: Map<String, Value>,
    /// What a person must know.
    pub notes: Vec<String>,
}

/// Runs `repair` on every case and writes maps and the report.
pub fn run(
    args: &Args,
    cx: &Context,
    repair: impl Fn(&Case) -> anyhow::Result<Found>,
) -> anyhow::Result<Outcome> {
    if !(0.0..=1.0).contains(&args.min_confidence) {
        return Err(Usage("--min-confidence must lie between 0 and 1".to_owned()).into());
    }
    if let Some(path) = &args.skeleton {
        skeleton::check_name(path)?;
        if args.io.count()? > 1 {
            return Err(Usage(
                "--skeleton belongs to one case; see medseg skeleton for folders".to_owned(),
            )
            .into());
        }
        if let Some(overwrite) = args.io.overwrite() {
            atomic::check_output(path, overwrite)?;
        }
    }
    // Which piece, distances, the box around the structure.
    label_cases::run(&args.io, cx, 3, |case| make(args, case, &repair))
}

fn make(
    args: &Args,
    mut case: Case,
    repair: impl Fn(&Case) -> anyhow::Result<Found>,
) -> anyhow::Result<Made> {
    check_axes(case.map.grid())?;
    if let Some(number) = args.bridge_label {
        check_bridge_label(number, &case)?;
    }
    let found = repair(&case)?;
    let repaired = &found.repair;
    let islands = repaired.pieces.iter().filter(|piece| !piece.is_eligible);
    let summary = format!(
        "{} bridges, {} voxels; {} refused; {} pieces before, {} after, {} islands {}",
        repaired.bridges.len(),
        repaired.voxels.len(),
        repaired.refused.len(),
        repaired.pieces.len(),
        repaired.pieces_after,
        islands.count(),
        if args.drop_islands {
            "removed"
        } else {
            "left alone"
        },
    );
    let label = args.bridge_label.unwrap_or(found.label);
    repaired.apply(case.map.volume.data_mut(), label);
    if args.drop_islands {
        repaired.drop_islands(case.map.volume.data_mut());
    }
    // The label map comes last: where it is, everything of the case is.
    if let (Some(path), Some(overwrite)) = (&args.skeleton, args.io.overwrite()) {
        Skeleton::of(&case.map, &[found.label, label])?.write(path, overwrite)?;
    }
    let mut fields = describe(repaired, case.map.grid());
    fields.insert("label".to_owned(), found.label.into());
    fields.insert("bridge_label".to_owned(), label.into());
    fields.insert("islands_removed".to_owned(), args.drop_islands.into());
    fields.insert("notes".to_owned(), found.notes.clone().into());
    fields.extend(found.extra);
    Ok(Made {
        map: case.map,
        summary,
        notes: found.notes,
        warnings: Vec::new(),
        fields,
    })
}

/// Lengths are measured along the voxel axes, so these must be at right angles.
///
/// # Errors
/// When they are not.
pub fn check_axes(grid: &Grid) -> anyhow::Result<()> {
    let m = grid.affine.linear;
    let norms = grid.affine.column_norms_mm();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let product: f64 = m.iter().map(|row| row[a] * row[b]).sum();
        let cosine = product / (norms[a] * norms[b]);
        // Also refuses NaN.
        anyhow::ensure!(
            cosine.abs() < 1e-3,
            "the voxel axes are not at right angles (cosine {cosine:.4}): resample the map first"
        );
    }
    Ok(())
}

/// Refuses a gap that is no length.
///
/// # Errors
/// [`Usage`].
pub fn check_gap(max_gap_mm: f64) -> anyhow::Result<()> {
    if max_gap_mm > 0.0 && max_gap_mm <= 500.0 {
        return Ok(());
    }
    Err(Usage(format!(
        "--max-gap-mm {max_gap_mm}: expected more than 0 and at most 500 mm"
    ))
    .into())
}

/// The number that a flag names: a number, or a name in the table.
///
/// # Errors
/// [`Usage`] when it is neither.
pub fn label_number(text: &str, names: &LabelTable) -> anyhow::Result<u16> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| names.number_of(text))
        .filter(|&number| number > 0)
        .ok_or_else(|| {
            Usage(format!(
                "label {text:?}: neither a number from 1 to 65535 nor a name in the label table"
            ))
            .into()
        })
}

/// Several such labels.
///
/// # Errors
/// As [`label_number`].
pub fn label_numbers(texts: &[String], names: &LabelTable) -> anyhow::Result<Vec<u16>> {
    texts.iter().map(|text| label_number(text, names)).collect()
}

/// Bridges under a label that the map holds already could not be told from it.
fn check_bridge_label(number: u16, case: &Case) -> Result<(), Usage> {
    let is_held = case.map.volume.as_slice().contains(&number);
    if !is_held {
        return Ok(());
    }
    let name = case.names.name_of(number);
    Err(Usage(format!(
        "--bridge-label {number}: the map holds that label ({name}); choose a free number"
    )))
}

/// A label that does not occur, with those that do.
pub fn explain_absent(label: u16, present: &[u16], names: &LabelTable) -> anyhow::Error {
    let name = names.name_of(label);
    let present = listed(present, names);
    Usage(format!(
        "label {label} ({name}) does not occur; the map holds {present}"
    ))
    .into()
}

fn listed(present: &[u16], names: &LabelTable) -> String {
    let named = present
        .iter()
        .map(|&number| format!("{number} {}", names.name_of(number)));
    if present.is_empty() {
        "nothing but background".to_owned()
    } else {
        named.collect::<Vec<_>>().join(", ")
    }
}

/// A label that does not occur is wrong usage; the rest is wrong input.
pub fn explain(error: ConnectError, names: &LabelTable) -> anyhow::Error {
    match &error {
        ConnectError::Absent { label, present } => explain_absent(*label, present, names),
        ConnectError::NoOrgans {
            bladder,
            kidneys,
            present,
        } => {
            let kidneys: Vec<String> = kidneys.iter().map(u16::to_string).collect();
            Usage(format!(
                "neither bladder ({bladder}) nor kidneys ({}) occur; the map holds {}",
                kidneys.join(", "),
                listed(present, names)
            ))
            .into()
        }
        _ => error.into(),
    }
}

fn describe(repair: &Repair, grid: &Grid) -> Map<String, Value> {
    let islands: Vec<Value> = (repair.pieces.iter())
        .filter(|piece| !piece.is_eligible)
        .map(|piece| {
            let [z, y, x] = piece.first_voxel;
            json!({"voxels": piece.voxels, "first_voxel_xyz": [x, y, z]})
        })
        .collect();
    let fields = json!({
        "pieces_before": repair.pieces.len(),
        "pieces_after": repair.pieces_after,
        "islands": islands,
        "ends_at_the_border": repair.border_tips,
        "voxels_added": repair.voxels.len(),
        "bridges": repair.bridges.iter().map(|bridge| bridge_json(bridge, grid)).collect::<Vec<_>>(),
        "refused": repair.refused.iter().map(|bridge| bridge_json(bridge, grid)).collect::<Vec<_>>(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn bridge_json(bridge: &Bridge, grid: &Grid) -> Value {
    let world = |place: [f64; 3]| {
        let [z, y, x] = std::array::from_fn(|axis| place[axis] / grid.spacing_mm[axis]);
        grid.affine.apply([x, y, z]).map(|mm| rounded(mm, 1e2))
    };
    json!({
        "kind": kind_name(bridge.kind),
        "path": format!("{:?}", bridge.course).to_lowercase(),
        "pieces": bridge.groups,
        "from_mm": world(bridge.ends_mm[0]),
        "to_mm": world(bridge.ends_mm[1]),
        "gap_mm": rounded(bridge.gap_mm, 1e2),
        "length_mm": rounded(bridge.length_mm, 1e2),
        "radius_mm": bridge.radius_mm.map(|mm| rounded(mm, 1e2)),
        "angle_deg": bridge.angle_deg.map(|angle| angle.map(|deg| rounded(deg, 10.0))),
        "cost_mm": rounded(bridge.cost_mm, 1e2),
        "confidence": rounded(bridge.confidence, 1e3),
        "rivals": bridge.rivals.iter().map(|rival| json!({
            "kind": kind_name(rival.kind),
            "pieces": rival.groups,
            "from_mm": world(rival.ends_mm[0]),
            "to_mm": world(rival.ends_mm[1]),
            "cost_ratio": rounded(rival.cost_ratio, 1e3),
        })).collect::<Vec<_>>(),
        "voxels_added": bridge.voxels,
        "accepted": bridge.refused.is_none(),
        "reason": bridge.refused,
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::TipTip => "tip-tip",
        Kind::TipBody => "tip-body",
        Kind::Blunt => "blunt",
        Kind::TipAnchor => "tip-organ",
        Kind::Loop => "loop",
    }
}

fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}
