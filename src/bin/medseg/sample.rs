//! `medseg sample`: a whole label map from a patient's kidneys, by fitting a template.

use crate::bridges::{label_number, label_numbers};
use crate::context::Context;
use crate::label_cases::{self, Case, Made, rounded};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use medseg::io::{display_name, labels, nifti};
use medseg::phantom::{Options, Phantom};
use medseg::template::{
    Confidence, Error, Fit, Fitted, Input, Method, Patient, Template, fit_template,
};
use medseg::volume::{LabelMap, LabelTable};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Make a whole label map from a patient's kidneys by fitting a template
#[derive(clap::Args)]
#[command(after_help = "\
Only kidneys and tumours are read from the input, and they come out unchanged; everything else is
the template's, moved, scaled and bent. With --image the patient's bones take part. The template
`builtin` is a synthetic abdomen in the abdomen scheme. A guess, not a segmentation.

Examples:
  medseg sample -i organs.nii.gz --template builtin -o guess.nii.gz --report guess.json
  medseg sample -i organs.nii.gz --template labels.nii.gz -o guess.nii.gz --kidneys 1,2 --tumor 3
  medseg sample -i organs.nii.gz --template builtin --image ct.nii.gz -o guess.nii.gz")]
pub struct Args {
    #[command(flatten)]
    io: label_cases::Args,
    /// Label map of a whole body or trunk, or `builtin`
    #[arg(long, value_name = "FILE|builtin", default_value = "builtin")]
    template: PathBuf,
    /// Names of the template's labels: a built-in scheme or a file [default: the table in it, else that of the input]
    #[arg(long, value_name = "TABLE")]
    template_labels: Option<PathBuf>,
    /// The patient's kidneys, right and left: numbers or names with a comma between [default: kidney_right,kidney_left]
    #[arg(
        long,
        value_name = "LABELS",
        value_delimiter = ',',
        default_value = "kidney_right,kidney_left",
        hide_default_value = true
    )]
    kidneys: Vec<String>,
    /// The template's kidneys in the same order [default: as --kidneys; 1,2 for builtin]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    template_kidneys: Option<Vec<String>>,
    /// Tumours and cysts of the patient, which are kept [default: tumor,cyst where the table has them]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    tumor: Option<Vec<String>>,
    /// The template's bones, used with --image [default: labels named bone, vertebrae, rib, sacrum, hip, femur, sternum]
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    template_bones: Option<Vec<String>>,
    /// How to fit [default: smooth; scale with one kidney]
    #[arg(long, value_enum)]
    method: Option<MethodName>,
}

/// `--method`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum MethodName {
    /// Affine and a smooth deformation.
    Smooth,
    /// The affine part alone.
    Affine,
    /// Uniform scale and translation.
    Scale,
    /// Translation.
    Translate,
}

/// A template in memory.
struct Loaded {
    map: LabelMap,
    names: LabelTable,
    is_builtin: bool,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let template = load(args, cx)?;
    // The result, and a mask of bones.
    label_cases::run(&args.io, cx, 3, |case| make(args, &template, &case))
}

fn load(args: &Args, cx: &Context) -> anyhow::Result<Loaded> {
    if args.template == Path::new("builtin") {
        let map = builtin()?;
        return Ok(Loaded {
            names: map.table.clone(),
            map,
            is_builtin: true,
        });
    }
    let reader = nifti::Reader::open(&args.template, &cx.limits)?;
    let own = labels::table_in_extensions(reader.extensions());
    let (map, _) = reader
        .into_label_map(LabelTable::default())
        .with_context(|| format!("template {}", display_name(&args.template)))?;
    let names = match (&args.template_labels, own) {
        (Some(table), _) => crate::labels::read_table(table)?,
        (None, own) => own.unwrap_or_default(),
    };
    Ok(Loaded {
        map,
        names,
        is_builtin: false,
    })
}

/// The built-in template: a phantom on a coarse grid, another one than the demonstration's.
pub fn builtin() -> anyhow::Result<LabelMap> {
    let options = Options {
        size_xyz: [128, 128, 100],
        spacing_mm_xyz: [3.2, 3.2, 3.0],
        seed: 100,
    };
    Ok(Phantom::new(&options)?.label_map())
}

fn make(args: &Args, template: &Loaded, case: &Case) -> anyhow::Result<Made> {
    let kidneys = label_numbers(&args.kidneys, &case.names)?;
    let tumors = match &args.tumor {
        Some(tumors) => label_numbers(tumors, &case.names)?,
        None => ["tumor", "cyst"]
            .iter()
            .filter_map(|name| case.names.number_of(name))
            .collect(),
    };
    let names = if template.names.is_empty() {
        &case.names
    } else {
        &template.names
    };
    let theirs = match &args.template_kidneys {
        Some(given) => label_numbers(given, names)?,
        None if template.is_builtin => vec![
            label_number("kidney_right", names)?,
            label_number("kidney_left", names)?,
        ],
        None => kidneys.clone(),
    };
    if theirs.len() != kidneys.len() {
        return Err(Usage(format!(
            "{} kidneys of the patient and {} of the template: name as many with --template-kidneys",
            kidneys.len(),
            theirs.len()
        ))
        .into());
    }
    let mut lesions: Vec<u16> = ["tumor", "cyst"]
        .iter()
        .filter_map(|name| names.number_of(name))
        .collect();
    lesions.extend(&tumors);
    let present: Vec<u16> = template
        .map
        .counts()
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    if theirs.iter().any(|kidney| present.contains(kidney)) {
        let given = [&kidneys[..], &tumors[..]].concat();
        check_numbers(
            &present,
            names,
            &given,
            &[&theirs[..], &lesions[..]].concat(),
        )?;
    }
    let bones = bones(args, names)?;
    let patient = Patient {
        input: Input {
            map: case.map.volume.data().view(),
            grid: case.map.grid(),
        },
        kidneys: &kidneys,
        tumors: &tumors,
        image: case.image.as_ref().map(|image| image.data().view()),
    };
    let described = Template {
        input: Input {
            map: template.map.volume.data().view(),
            grid: template.map.grid(),
        },
        kidneys: &theirs,
        lesions: &lesions,
        bones: &bones,
    };
    let method = args.method.map(|name| match name {
        MethodName::Smooth => Method::Smooth,
        MethodName::Affine => Method::Affine,
        MethodName::Scale => Method::Scale,
        MethodName::Translate => Method::Translation,
    });
    let Fitted { map, fit } =
        fit_template(&patient, &described, method).map_err(|error| explain(error, case, args))?;
    let mut table = LabelTable::default();
    for (number, label) in names.iter() {
        table.insert(number, label.clone());
    }
    for &number in kidneys.iter().chain(&tumors) {
        if let Some(label) = case.names.get(number) {
            table.insert(number, label.clone());
        }
    }
    let table = if template.names.is_empty() && !case.has_table {
        LabelTable::default()
    } else {
        table
    };
    Ok(Made {
        notes: Vec::new(),
        map: LabelMap::new(map, *case.map.grid(), table)?,
        summary: summary(&fit),
        warnings: warnings(&fit, case.image.is_some(), bones.is_empty()),
        fields: fields(&fit),
    })
}

/// A given label must not be an organ of the template.
fn check_numbers(
    present: &[u16],
    names: &LabelTable,
    given: &[u16],
    dropped: &[u16],
) -> anyhow::Result<()> {
    let taken = (present.iter()).find(|number| given.contains(number) && !dropped.contains(number));
    match taken {
        None => Ok(()),
        Some(number) => Err(Usage(format!(
            "label {number} is a kidney or tumour of the patient but {} in the template: use another number for one of them",
            names.name_of(*number)
        ))
        .into()),
    }
}

/// The bones named, or the labels whose names say that they are bones.
fn bones(args: &Args, names: &LabelTable) -> anyhow::Result<Vec<u16>> {
    const WORDS: [&str; 8] = [
        "bone", "vertebra", "rib_", "sacrum", "hip_", "femur", "sternum", "spine",
    ];
    if let Some(given) = &args.template_bones {
        return label_numbers(given, names);
    }
    Ok(names
        .iter()
        .filter(|(_, label)| WORDS.iter().any(|word| label.name.starts_with(word)))
        .map(|(number, _)| number)
        .collect())
}

fn explain(error: Error, case: &Case, args: &Args) -> anyhow::Error {
    match &error {
        Error::NoKidney { .. } => {
            let present: Vec<String> = (case.map.counts().iter())
                .filter(|(number, _)| *number > 0)
                .map(|(number, _)| format!("{number} {}", case.names.name_of(*number)))
                .collect();
            let present = if present.is_empty() {
                "nothing but background".to_owned()
            } else {
                present.join(", ")
            };
            anyhow::anyhow!("{error}; the map holds {present}; name the kidneys with --kidneys")
        }
        Error::NoTemplateKidney { .. } => anyhow::anyhow!(
            "{}: {error}; name its kidneys with --template-kidneys",
            display_name(&args.template)
        ),
        _ => error.into(),
    }
}

fn warnings(fit: &Fit, has_image: bool, lacks_bones: bool) -> Vec<(&'static str, String)> {
    let mut warnings: Vec<(&'static str, String)> = (fit.clamped.iter())
        .map(|text| ("clamped", format!("out of range: {text}")))
        .collect();
    if fit.residual_mm.len() == 1 {
        warnings.push((
            "one kidney",
            "only one kidney to fit: low confidence".to_owned(),
        ));
    }
    if has_image && fit.bone_residual_mm.is_none() {
        let why = if lacks_bones {
            "the template names no bones (--template-bones)"
        } else {
            "no bone is found in the CT"
        };
        warnings.push(("no bones", format!("the CT was not used: {why}")));
    }
    warnings
}

fn method(fit: &Fit) -> &'static str {
    match fit.method {
        Method::Smooth => "smooth",
        Method::Affine => "affine",
        Method::Scale => "scale",
        Method::Translation => "translate",
    }
}

fn confidence(fit: &Fit) -> &'static str {
    match fit.confidence {
        Confidence::High => "high",
        Confidence::Medium => "medium",
        Confidence::Low => "low",
    }
}

fn summary(fit: &Fit) -> String {
    let residuals: Vec<String> = fit
        .residual_mm
        .iter()
        .map(|mm| format!("{mm:.1}"))
        .collect();
    format!(
        "{} fit, kidneys {} mm from the template's, confidence {}",
        method(fit),
        residuals.join(" and "),
        confidence(fit)
    )
}

fn fields(fit: &Fit) -> Map<String, Value> {
    let m = &fit.to_template;
    let matrix: Vec<Vec<f64>> = (m.linear.iter().zip(m.origin_mm))
        .map(|(row, origin)| {
            row.iter()
                .map(|&v| rounded(v, 6))
                .chain([rounded(origin, 4)])
                .collect()
        })
        .collect();
    let fields = json!({
        "method": method(fit),
        "confidence": confidence(fit),
        "residual_mm": fit.residual_mm.iter().map(|&mm| rounded(mm, 3)).collect::<Vec<_>>(),
        "bone_residual_mm": fit.bone_residual_mm.map(|mm| rounded(mm, 3)),
        "patient_to_template": matrix,
        "determinant": rounded(m.determinant(), 6),
        "scale_xyz": fit.scale.map(|scale| rounded(scale, 4)),
        "largest_bend_mm": rounded(fit.largest_bend_mm, 3),
        "clamped": fit.clamped,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
