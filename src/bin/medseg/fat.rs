//! `medseg fat`: perirenal, visceral and subcutaneous fat from a label map and the CT.

use crate::bridges::{label_number, label_numbers};
use crate::context::Context;
use crate::label_cases::{self, Case, Made, rounded};
use crate::outcome::{Outcome, Usage};
use medseg::tissue::{
    Amount, Error, FatKind, FatWindow, Found, Input, Options, Perirenal, Side, Thickness, find_fat,
};
use medseg::volume::{Label, LabelTable};
use serde_json::{Map, Value, json};

/// Mark perirenal, visceral or subcutaneous fat
#[derive(clap::Args)]
#[command(after_help = "\
Fat is written on background only; every label of the input stays. With --kind all perirenal fat
gets the fat label, visceral and subcutaneous fat the next two numbers. Without --image perirenal
fat is what lies where the fascia is expected, and the report says so (mode geometric).

Examples:
  medseg fat -i organs.nii.gz --image ct.nii.gz -o fat.nii.gz --allow-cut --report fat.json
  medseg fat -i organs.nii.gz -o fat.nii.gz --kidney 1,2 --tumor 3 --fat-label 12 --allow-cut
  medseg fat -i organs.nii.gz --image ct.nii.gz -o fat.nii.gz --kind all --fat-label 50 --allow-cut")]
pub struct Args {
    #[command(flatten)]
    io: label_cases::Args,
    /// The kidneys: numbers or names with commas between; one label may hold both [default: kidney_right,kidney_left]
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
    /// Veins: show at which height thickness is measured [default: vein where the table has it]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    vein: Option<Vec<String>>,
    /// Label to write: a number or a name [default: fat, number 12 where the table has no such name]
    #[arg(long, value_name = "LABEL")]
    fat_label: Option<String>,
    /// Which fat to write [default: perirenal]
    #[arg(long, value_enum, default_value_t = Kind::Perirenal, hide_default_value = true)]
    kind: Kind,
    /// Lowest and highest HU of fat [default: -190,-30]
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true)]
    hu: Option<String>,
    /// Go on when a kidney reaches the border of the volume, where the fat around it is incomplete
    #[arg(long)]
    allow_cut: bool,
}

/// Which fat is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Inside of the renal fascia.
    Perirenal,
    /// Inside of the body wall, but not perirenal.
    Visceral,
    /// Between body wall and skin.
    Subcutaneous,
    /// All three, as three labels.
    All,
}

impl Kind {
    /// The label of a kind of fat, where it is written.
    fn label(self, found: FatKind, fat_label: u16) -> Option<u16> {
        match (self, found) {
            (Self::All, _) => fat_label.checked_add(found as u16 - 1),
            (Self::Perirenal, FatKind::Perirenal)
            | (Self::Visceral, FatKind::Visceral)
            | (Self::Subcutaneous, FatKind::Subcutaneous) => Some(fat_label),
            _ => None,
        }
    }
}

const KINDS: [(FatKind, &str); 3] = [
    (FatKind::Perirenal, "perirenal_fat"),
    (FatKind::Visceral, "visceral_fat"),
    (FatKind::Subcutaneous, "subcutaneous_fat"),
];

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let window = window(args.hu.as_deref())?;
    // Kind of fat, boxes around the kidneys, cells of the body.
    label_cases::run(&args.io, cx, 4, |case| make(args, window, case))
}

fn window(hu: Option<&str>) -> Result<FatWindow, Usage> {
    let Some(text) = hu else {
        return Ok(FatWindow::default());
    };
    let parts = text
        .split_once(',')
        .map(|(low, high)| (low.trim().parse(), high.trim().parse()));
    match parts {
        Some((Ok(low_hu), Ok(high_hu))) if low_hu < high_hu => Ok(FatWindow { low_hu, high_hu }),
        _ => Err(Usage(format!(
            "--hu {text}: expected the lowest and the highest value with a comma between, such as -190,-30"
        ))),
    }
}

fn make(args: &Args, window: FatWindow, mut case: Case) -> anyhow::Result<Made> {
    let named = |given: &Option<Vec<String>>, names: &[&str]| match given {
        Some(given) => label_numbers(given, &case.names),
        None => Ok(names
            .iter()
            .filter_map(|name| case.names.number_of(name))
            .collect()),
    };
    let options = Options {
        kidneys: label_numbers(&args.kidney, &case.names)?,
        tumors: named(&args.tumor, &["tumor", "cyst"])?,
        veins: named(&args.vein, &["vein"])?,
        window,
        compartments: args.kind != Kind::Perirenal,
        may_lack_kidneys: matches!(args.kind, Kind::Visceral | Kind::Subcutaneous),
        may_be_cut: args.allow_cut || matches!(args.kind, Kind::Visceral | Kind::Subcutaneous),
    };
    let fat_label = fat_label(args.fat_label.as_deref(), &case.names)?;
    let input = Input {
        map: case.map.volume.data().view(),
        image: case.image.as_ref().map(|image| image.data().view()),
        grid: case.map.grid(),
    };
    let found = find_fat(&input, &options).map_err(|error| explain(error, &case))?;
    let mut warnings = warnings(&found, &case.names);
    let mut labels = [0; 4];
    for (kind, name) in KINDS {
        let Some(label) = args.kind.label(kind, fat_label) else {
            continue;
        };
        labels[kind as usize] = label;
        let name = if args.kind == Kind::All { name } else { "fat" };
        if case.names.get(label).is_none() {
            case.names.insert(
                label,
                Label {
                    name: name.to_owned(),
                    rgb: LabelTable::default_rgb(label),
                },
            );
        }
    }
    let voxel_ml = case.map.grid().affine.determinant().abs() / 1000.0;
    let fields = fields(&found, case.image.is_some(), voxel_ml, &case.names);
    let before = found.write(case.map.volume.data_mut(), labels);
    for (label, before) in labels.into_iter().zip(before) {
        if label != 0 && before > 0 {
            warnings.push((
                "label present",
                format!("label {label} occurs already ({before} voxels stay); name another with --fat-label to keep them apart"),
            ));
        }
    }
    if case.has_table {
        case.map.table = case.names;
    }
    Ok(Made {
        notes: Vec::new(),
        map: case.map,
        summary: summary(&found, voxel_ml),
        warnings,
        fields,
    })
}

/// The number to write. Without a flag: what the table calls fat, else the number of the `abdomen` scheme.
fn fat_label(given: Option<&str>, names: &LabelTable) -> anyhow::Result<u16> {
    const ABDOMEN_FAT: u16 = 12;
    if let Some(text) = given {
        return label_number(text, names);
    }
    if let Some(number) = names.number_of("fat") {
        return Ok(number);
    }
    match names.get(ABDOMEN_FAT) {
        None => Ok(ABDOMEN_FAT),
        Some(label) => Err(Usage(format!(
            "the label table has no fat, and {ABDOMEN_FAT} is {}: name the label to write with --fat-label",
            label.name
        ))
        .into()),
    }
}

/// Says which labels there are, and which flag helps.
fn explain(error: Error, case: &Case) -> anyhow::Error {
    match &error {
        Error::NoKidney { labels } => {
            let present: Vec<String> = (case.map.counts().iter())
                .filter(|(number, _)| *number > 0)
                .map(|(number, _)| format!("{number} {}", case.names.name_of(*number)))
                .collect();
            let present = if present.is_empty() {
                "nothing but background".to_owned()
            } else {
                present.join(", ")
            };
            let wanted: Vec<String> = labels.iter().map(u16::to_string).collect();
            anyhow::anyhow!(
                "no kidney: none of the labels {} occurs; the map holds {present}; name the kidneys with --kidney",
                wanted.join(", ")
            )
        }
        Error::CutKidney { label } => anyhow::anyhow!(
            "{} (label {label}) reaches the border of the volume, so the fat around it is incomplete; go on with --allow-cut",
            case.names.name_of(*label)
        ),
        Error::NeedsImage => {
            Usage("visceral and subcutaneous fat need the CT: name it with --image".to_owned())
                .into()
        }
        _ => error.into(),
    }
}

fn warnings(found: &Found, names: &LabelTable) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    for kidney in &found.kidneys {
        let name = names.name_of(kidney.label);
        if kidney.is_cut {
            warnings.push((
                "cut kidney",
                format!("{name} reaches the border of the volume: the fat around it is incomplete"),
            ));
        }
        if kidney.fascia_share.is_some_and(|share| share < 0.12) {
            warnings.push((
                "no fascia",
                format!("{name}: hardly any fascia is seen, its usual distance is assumed"),
            ));
        }
    }
    if let [only] = &found.kidneys[..] {
        let name = names.name_of(only.label);
        warnings.push(("one kidney", format!("only one kidney, {name}")));
    }
    warnings
}

fn summary(found: &Found, voxel_ml: f64) -> String {
    let ml = |voxels: u64| voxels as f64 * voxel_ml;
    let mut parts: Vec<String> = (found.kidneys.iter())
        .map(|kidney| {
            format!(
                "{} perirenal {:.1} mL",
                side(kidney.side),
                ml(kidney.fat_voxels)
            )
        })
        .collect();
    for (amount, kind) in [
        (found.visceral, "visceral"),
        (found.subcutaneous, "subcutaneous"),
    ] {
        if let Some(amount) = amount {
            parts.push(format!("{kind} {:.1} mL", ml(amount.voxels)));
        }
    }
    parts.join(", ")
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Right => "right",
        Side::Left => "left",
    }
}

fn fields(found: &Found, has_image: bool, voxel_ml: f64, names: &LabelTable) -> Map<String, Value> {
    let hu = |hu: Option<f64>| hu.map(|hu| rounded(hu, 2));
    let share = |share: Option<f64>| share.map(|share| rounded(share, 4));
    let thickness = |thickness: &Option<Thickness>| {
        thickness.map(|thickness| {
            json!({
                "level_mm": rounded(thickness.level_mm, 1),
                "level_from": if thickness.at_vein { "renal vein" } else { "middle of the kidney" },
                "posterior_mm": thickness.posterior_mm.map(|mm| rounded(mm, 1)),
                "lateral_mm": thickness.lateral_mm.map(|mm| rounded(mm, 1)),
                "source": "posterior: as in the Mayo adhesive probability score; lateral: in the same way",
            })
        })
    };
    let kidney = |kidney: &Perirenal| {
        json!({
            "label": kidney.label,
            "name": names.name_of(kidney.label),
            "side": side(kidney.side),
            "centre_mm": kidney.centre_mm.map(|mm| rounded(mm, 2)),
            "kidney_ml": rounded(kidney.kidney_voxels as f64 * voxel_ml, 3),
            "perirenal_ml": rounded(kidney.fat_voxels as f64 * voxel_ml, 3),
            "mean_hu": hu(kidney.mean_hu),
            "fascia_share": share(kidney.fascia_share),
            "organ_share": share(kidney.organ_share),
            "is_cut": kidney.is_cut,
            "thickness": thickness(&kidney.thickness),
        })
    };
    let amount = |amount: Option<Amount>| {
        amount.map(|amount| {
            json!({"ml": rounded(amount.voxels as f64 * voxel_ml, 3), "mean_hu": hu(amount.mean_hu)})
        })
    };
    let fields = json!({
        "mode": if has_image { "ct" } else { "geometric" },
        "sides": found.kidneys.iter().map(kidney).collect::<Vec<_>>(),
        "visceral": amount(found.visceral),
        "subcutaneous": amount(found.subcutaneous),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
