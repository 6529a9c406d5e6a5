//! `medseg ureter-connect`: restores each ureter between its kidney and the bladder.

use crate::bridges::{self, Found, explain, label_number, label_numbers};
use crate::context::Context;
use crate::label_cases::Case;
use crate::outcome::Outcome;
use medseg::topology::bridging::ureter::{Side, UreterLabels, connect_ureters, ureter_options};
use medseg::topology::bridging::{ConnectOptions, Eligibility};
use serde_json::{Value, json};

/// Restore each ureter between kidney and bladder
#[derive(clap::Args)]
#[command(after_help = "\
Left and right are told apart in world coordinates and never joined. A missing kidney or bladder
is said and worked around.

Examples:
  medseg ureter-connect -i organs.nii.gz -o repaired.nii.gz --ureter ureter --kidneys 1,2
  medseg ureter-connect -i masks/ -o repaired/ --ureter 7 --bladder 8 --kidneys 1,2")]
pub struct Args {
    #[command(flatten)]
    io: bridges::Args,
    /// The ureters: a number or a name [default: ureter]
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "ureter",
        hide_default_value = true
    )]
    ureter: String,
    /// The bladder: a number or a name [default: bladder]
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "bladder",
        hide_default_value = true
    )]
    bladder: String,
    /// Both kidneys: numbers or names with commas between [default: kidney_right,kidney_left]
    #[arg(
        long,
        value_name = "LABELS",
        value_delimiter = ',',
        default_value = "kidney_right,kidney_left",
        hide_default_value = true
    )]
    kidneys: Vec<String>,
    /// Longest gap to bridge, in mm [default: 60]
    #[arg(
        long,
        value_name = "MM",
        default_value_t = 60.0,
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
    let labels = UreterLabels {
        ureter: label_number(&args.ureter, &case.names)?,
        bladder: label_number(&args.bladder, &case.names)?,
        kidneys: label_numbers(&args.kidneys, &case.names)?,
    };
    let options = ConnectOptions {
        max_gap_mm: args.max_gap_mm,
        min_confidence: args.io.min_confidence,
        eligibility: Eligibility {
            least_voxels: args.io.min_island_voxels,
            ..Eligibility::default()
        },
        close_loops: args.io.close_loops,
        passable: label_numbers(&args.io.allow_through, &case.names)?,
        ..ureter_options()
    };
    let volume = &case.map.volume;
    let image = case.image.as_ref().map(|image| image.data().view());
    let found = connect_ureters(
        volume.data().view(),
        volume.grid(),
        &labels,
        &options,
        image,
    )
    .map_err(|error| explain(error, &case.names))?;
    let sides = found.sides.iter().map(|side| match side {
        Some(Side::Right) => json!("right"),
        Some(Side::Left) => json!("left"),
        None => Value::Null,
    });
    let extra = json!({"midline_x_mm": found.midline_mm, "piece_sides": sides.collect::<Vec<_>>()});
    Ok(Found {
        label: labels.ureter,
        repair: found.repair,
        extra: extra.as_object().cloned().unwrap_or_default(),
        notes: found.notes,
    })
}
