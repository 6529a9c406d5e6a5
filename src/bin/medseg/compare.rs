//! `medseg compare`: do two volumes hold the same, and if not, where and how much.
//!
//! Label maps are compared label by label (Dice), other volumes value by value as 32-bit floats. The grids must be of one
//! shape; a shift, turn or scale between them counts as a difference.

use crate::context::{Context, print_json, print_text};
use crate::outcome::Outcome;
use medseg::io::nifti::NiftiImage;
use medseg::io::{display_name, labels};
use medseg::metrics::overlap::{self, LabelAgreement, ValueAgreement};
use medseg::volume::{Grid, LabelMap, LabelTable, Volume};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Compare two volumes voxel by voxel; exit code 4 when they differ
#[derive(clap::Args)]
#[command(after_help = "\
Two volumes of at most 256 different whole numbers each are taken as label maps, all others as
values.

Examples:
  medseg compare mine.nii.gz theirs.nii.gz
  medseg compare --tol 0.5 resampled.nii.gz reference.nii.gz
  medseg compare --json --label-maps prediction.nii.gz reference.nii.gz")]
pub struct Args {
    /// Volume to check
    #[arg(value_name = "A")]
    found: PathBuf,
    /// Volume it should equal
    #[arg(value_name = "B")]
    expected: PathBuf,
    /// Largest difference of two values that counts as equal, in the volumes' unit [default: 0]
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        hide_default_value = true
    )]
    tol: f64,
    /// Take both as label maps; anything but whole numbers from 0 to 65535 is an error
    #[arg(long)]
    label_maps: bool,
    /// Table with the names of labels: a built-in scheme or a file
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Voxels further apart than this lie on different grids, in mm.
const POSITION_TOLERANCE_MM: f64 = 1e-3;
/// More different values than this are no label map.
const MOST_LABELS: usize = 256;

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let found = cx.open(&args.found)?.into_image()?;
    let expected = cx.open(&args.expected)?.into_image()?;
    check_shapes(args, &found, &expected)?;
    let grid_problem = found
        .grid()
        .check_matches(expected.grid(), POSITION_TOLERANCE_MM)
        .err()
        .map(|problem| problem.to_string());
    let mut report = json!({
        "a": display_name(&args.found),
        "b": display_name(&args.expected),
        "grid": grid_problem.clone().unwrap_or_else(|| "same".to_owned()),
    });
    let differ = match label_pair(args, &found, &expected)? {
        Some((found, expected)) => {
            let agreement =
                overlap::compare_labels(found.volume.data().view(), expected.volume.data().view())?;
            merge(&mut report, labels_json(&agreement, &expected));
            agreement.different > 0
        }
        None => {
            let grid = *expected.grid();
            let mut differ = false;
            let mut channels = Vec::new();
            for (found, expected) in found.to_f32()?.iter().zip(&expected.to_f32()?) {
                let agreement = compare_channel(found, expected, args.tol)?;
                differ |= agreement.beyond_tolerance > 0;
                channels.push(values_json(&agreement, &grid));
            }
            merge(
                &mut report,
                json!({"tolerance": args.tol, "channels": channels}),
            );
            differ
        }
    };
    let differ = differ || grid_problem.is_some();
    merge(&mut report, json!({"equal": !differ}));
    if args.json {
        print_json(&report)?;
    } else {
        print_text(&crate::info::as_lines(&report))?;
    }
    Ok(if differ {
        Outcome::CheckFailed
    } else {
        Outcome::Done
    })
}

fn check_shapes(args: &Args, found: &NiftiImage, expected: &NiftiImage) -> anyhow::Result<()> {
    let size = |image: &NiftiImage| {
        let [z, y, x] = image.grid().shape;
        [x, y, z, image.header.channels()]
    };
    anyhow::ensure!(
        size(found) == size(expected),
        "{} has {:?} voxels (x, y, z, channels) but {} has {:?}: volumes of different shape cannot be compared",
        display_name(&args.found),
        size(found),
        display_name(&args.expected),
        size(expected)
    );
    Ok(())
}

/// Both as label maps, where they are or have to be.
fn label_pair(
    args: &Args,
    found: &NiftiImage,
    expected: &NiftiImage,
) -> anyhow::Result<Option<(LabelMap, LabelMap)>> {
    let table = match &args.labels {
        Some(source) => crate::labels::read_table(source)?,
        None => labels::table_in_extensions(&expected.extensions).unwrap_or_default(),
    };
    if args.label_maps || args.labels.is_some() {
        let found = found.to_label_map(LabelTable::default())?;
        return Ok(Some((found, expected.to_label_map(table)?)));
    }
    if args.tol > 0.0 || found.header.channels() != 1 {
        return Ok(None);
    }
    let pair = found
        .to_label_map(LabelTable::default())
        .and_then(|found| Ok((found, expected.to_label_map(table)?)));
    Ok(pair
        .ok()
        .filter(|(a, b)| a.counts().len() <= MOST_LABELS && b.counts().len() <= MOST_LABELS))
}

fn compare_channel(
    found: &Volume<f32>,
    expected: &Volume<f32>,
    tolerance: f64,
) -> anyhow::Result<ValueAgreement> {
    Ok(overlap::compare_values(
        found.data().view(),
        expected.data().view(),
        tolerance,
    )?)
}

fn place_json(voxel: [usize; 3], grid: &Grid) -> Value {
    let [z, y, x] = voxel;
    json!({"voxel_xyz": [x, y, z], "ras_mm": grid.affine.apply([x as f64, y as f64, z as f64])})
}

fn labels_json(agreement: &LabelAgreement, reference: &LabelMap) -> Value {
    let voxel_mm3 = reference.grid().voxel_volume_mm3();
    let rows: Vec<Value> = agreement
        .overlaps()
        .iter()
        .map(|overlap| {
            json!({
                "label": overlap.label,
                "name": reference.table.get(overlap.label).map(|label| label.name.clone()),
                "dice": overlap.dice(),
                "a_voxels": overlap.prediction_voxels(),
                "b_voxels": overlap.reference_voxels(),
                "volume_difference_ml": overlap.volume_difference_ml(voxel_mm3),
            })
        })
        .collect();
    json!({
        "compared_as": "label maps",
        "voxels": agreement.voxels,
        "different": agreement.different,
        "first_difference": agreement.first_difference.map(|voxel| place_json(voxel, reference.grid())),
        "labels": rows,
    })
}

fn values_json(agreement: &ValueAgreement, grid: &Grid) -> Value {
    // JSON has no infinity: a difference that is not finite is null, and the values beside it say why.
    let finite = |value: f64| value.is_finite().then_some(value);
    json!({
        "compared_as": "values",
        "voxels": agreement.voxels,
        "different": agreement.different,
        "beyond_tolerance": agreement.beyond_tolerance,
        "mean_difference": finite(agreement.mean_difference),
        "largest_difference": agreement.largest.map(|largest| {
            let mut place = place_json(largest.voxel, grid);
            merge(&mut place, json!({
                "difference": finite(largest.difference),
                "a": finite(largest.found),
                "b": finite(largest.expected),
            }));
            place
        }),
    })
}

/// Adds the fields of one JSON object to another.
fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
