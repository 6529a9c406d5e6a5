//! `medseg fat`: perirenal fat from a label map and, with it, the CT.

use crate::bridges::{label_number, label_numbers};
use crate::context::Context;
use crate::label_cases::{self, Case, Made, rounded};
use crate::outcome::{Outcome, Usage};
use medseg::tissue::{FatMap, FatWindow, Input, Perirenal, perirenal_fat};
use medseg::volume::LabelTable;
use serde_json::{Map, Value, json};

/// Mark the fat around the kidneys
#[derive(clap::Args)]
#[command(after_help = "\
Fat is written on background only; every label of the input stays. Without --image the perirenal
space is the one that is expected around the kidneys, and the report says so (mode geometric).

Examples:
  medseg fat -i organs.nii.gz --image ct.nii.gz -o fat.nii.gz --report fat.json
  medseg fat -i organs.nii.gz -o fat.nii.gz --kidney kidney_right,kidney_left --tumor 3 --fat-label 12")]
pub struct Args {
    #[command(flatten)]
    io: label_cases::Args,
    /// The kidneys: numbers or names with commas between [default: kidney_right,kidney_left]
    #[arg(
        long,
        value_name = "LABELS",
        value_delimiter = ',',
        default_value = "kidney_right,kidney_left",
        hide_default_value = true
    )]
    kidney: Vec<String>,
    /// Tumours and cysts, which belong to the kidney that they touch [default: tumor,cyst where the table has them]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    tumor: Option<Vec<String>>,
    /// Label to write: a number or a name [default: fat]
    #[arg(long, value_name = "LABEL")]
    fat_label: Option<String>,
    /// Lowest and highest HU of fat [default: -190,-30]
    #[arg(
        long,
        value_name = "LOW,HIGH",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true
    )]
    hu: Option<Vec<f64>>,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let window = window(args.hu.as_deref())?;
    label_cases::run(&args.io, cx, 4, |case| make(args, window, case))
}

fn window(hu: Option<&[f64]>) -> Result<FatWindow, Usage> {
    match hu {
        None => Ok(FatWindow::default()),
        Some(&[low_hu, high_hu]) if low_hu < high_hu => Ok(FatWindow { low_hu, high_hu }),
        Some(found) => Err(Usage(format!(
            "--hu {found:?}: expected the lowest and the highest value with a comma between"
        ))),
    }
}

fn make(args: &Args, window: FatWindow, mut case: Case) -> anyhow::Result<Made> {
    let kidneys = label_numbers(&args.kidney, &case.names)?;
    let tumors = match &args.tumor {
        Some(tumors) => label_numbers(tumors, &case.names)?,
        None => ["tumor", "cyst"]
            .iter()
            .filter_map(|name| case.names.number_of(name))
            .collect(),
    };
    let label = label_number(args.fat_label.as_deref().unwrap_or("fat"), &case.names)?;
    let input = Input {
        map: case.map.volume.data().view(),
        image: case.image.as_ref().map(|image| image.data().view()),
        grid: case.map.grid(),
    };
    input.check()?;
    let mut fat = FatMap::zeros(case.map.grid().shape);
    let sides = perirenal_fat(&input, &kidneys, &tumors, window, &mut fat)?;
    let voxel_ml = case.map.grid().affine.determinant().abs() / 1000.0;
    let fields = fields(&sides, case.image.is_some(), voxel_ml, &case.names);
    for (target, &kind) in case.map.volume.as_slice_mut().iter_mut().zip(&fat) {
        if kind != 0 {
            *target = label;
        }
    }
    let total: u64 = sides.iter().map(|side| side.fat_voxels).sum();
    Ok(Made {
        map: case.map,
        summary: format!(
            "{:.1} mL of perirenal fat around {} kidneys",
            total as f64 * voxel_ml,
            sides.len()
        ),
        warnings: Vec::new(),
        fields,
    })
}

fn fields(
    sides: &[Perirenal],
    has_image: bool,
    voxel_ml: f64,
    names: &LabelTable,
) -> Map<String, Value> {
    let sides: Vec<Value> = sides
        .iter()
        .map(|side| {
            json!({
                "label": side.label,
                "name": names.name_of(side.label),
                "perirenal_ml": rounded(side.fat_voxels as f64 * voxel_ml, 3),
                "mean_hu": side.mean_hu.map(|hu| rounded(hu, 2)),
                "fascia_share": side.fascia_share.map(|share| rounded(share, 4)),
                "organ_share": side.organ_share.map(|share| rounded(share, 4)),
            })
        })
        .collect();
    let mut fields = Map::new();
    fields.insert(
        "mode".to_owned(),
        json!(if has_image { "ct" } else { "geometric" }),
    );
    fields.insert("sides".to_owned(), Value::Array(sides));
    fields
}
