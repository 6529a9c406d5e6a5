//! `medseg vessel-connect`: joins the detached pieces of an artery or vein tree.

use crate::bridges::{self, Found, explain, label_number, label_numbers};
use crate::context::Context;
use crate::label_cases::Case;
use crate::outcome::Outcome;
use medseg::topology::bridging::{ConnectOptions, Eligibility, connect};
use serde_json::{Map, Value};

/// Reconnect the detached pieces of a vessel tree
#[derive(clap::Args)]
#[command(after_help = "\
Only background becomes vessel: other labels are never overwritten, nothing is removed, islands
are never joined. A tree without a believable gap comes out as it went in.

Examples:
  medseg vessel-connect -i organs.nii.gz -o repaired.nii.gz --label artery --report bridges.json
  medseg vessel-connect -i masks/ -o repaired/ --label 1 --max-gap-mm 15 --skip-existing
  medseg vessel-connect -i organs.nii.gz --label 5 --image ct.nii.gz --dry-run --report bridges.json")]
pub struct Args {
    #[command(flatten)]
    io: bridges::Args,
    /// The vessel: a number or a name [default: artery]
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "artery",
        hide_default_value = true
    )]
    label: String,
    /// Longest gap to bridge, in mm [default: 20]
    #[arg(
        long,
        value_name = "MM",
        default_value_t = 20.0,
        hide_default_value = true
    )]
    max_gap_mm: f64,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    bridges::check_gap(args.max_gap_mm)?;
    bridges::run(&args.io, cx, |case| repair(args, case))
}

fn repair(args: &Args, case: &Case) -> anyhow::Result<Found> {
    let label = label_number(&args.label, &case.names)?;
    let options = ConnectOptions {
        max_gap_mm: args.max_gap_mm,
        min_confidence: args.io.min_confidence,
        eligibility: Eligibility {
            least_voxels: args.io.min_island_voxels,
            ..Eligibility::default()
        },
        close_loops: args.io.close_loops,
        passable: label_numbers(&args.io.allow_through, &case.names)?,
        ..ConnectOptions::default()
    };
    let volume = &case.map.volume;
    let image = case.image.as_ref().map(|image| image.data().view());
    let repair = connect(
        volume.data().view(),
        volume.grid().spacing_mm,
        label,
        &options,
        image,
    )
    .map_err(|error| explain(error, &case.names))?;
    Ok(Found {
        label,
        repair,
        extra: Map::<String, Value>::new(),
        notes: Vec::new(),
    })
}
