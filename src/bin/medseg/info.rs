//! `medseg info`: what a volume, model folder or model file holds.
//!
//! Everything is parsed whole, so that a broken file is refused here and not at 3 a.m. in a batch; `--header` stops
//! after the header of a volume, which is instant for files of any size. `--tasks` lists what `infer --task` can do,
//! `--devices` what its networks can run on.

mod devices;
mod task_list;

use crate::context::{Context, print_json, print_text};
use crate::model;
use crate::model_store::ModelFolder;
use crate::outcome::Outcome;
use medseg::dicom;
use medseg::geometry::orientation::Orientation;
use medseg::io::nifti::{self, Header, NiftiImage, Voxels};
use medseg::io::{display_name, labels};
use medseg::nnunet::describe;
use medseg::volume::LabelTable;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Show what a volume, a model folder, plans.json, dataset.json, .pth or .safetensors file holds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg info ct.nii.gz
  medseg info --header --json ct.nii.gz
  medseg info --tasks
  medseg info --tasks totalseg:fast --json
  medseg info --devices
  medseg info nnUNetTrainer__nnUNetPlans__3d_fullres
  medseg phantom --size 64,64,40 -o - | medseg info -")]
pub struct Args {
    /// Volume, model folder or model file; - reads a volume from standard input
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Same as PATH
    #[arg(
        short,
        long,
        value_name = "PATH",
        conflicts_with = "path",
        required_unless_present_any = ["path", "tasks", "devices"]
    )]
    input: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// List the tasks of `infer --task`, or show the one that PATH names
    #[arg(long)]
    tasks: bool,
    /// List what networks can run on: the processor, and GPUs with their memory or why they cannot be used
    #[arg(long, conflicts_with_all = ["path", "input", "tasks", "header"])]
    devices: bool,
    #[command(flatten)]
    models: ModelFolder,
    /// Read the header of a volume only; its voxels are not verified
    #[arg(long)]
    header: bool,
}

/// Most distinct values that are listed as labels.
const MOST_LABELS: usize = 256;

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let path = args.path.as_deref().or(args.input.as_deref());
    if args.tasks {
        return task_list::run(path, args.models.model_dir.as_deref(), args.json);
    }
    if args.devices {
        return devices::run(args.json, cx);
    }
    let path = path.unwrap_or(Path::new("-"));
    let description = describe_path(path, args.header, cx)?;
    if args.json {
        print_json(&description)?;
    } else {
        print_text(&as_lines(&description))?;
    }
    Ok(Outcome::Done)
}

fn describe_path(path: &Path, header_only: bool, cx: &Context) -> anyhow::Result<Value> {
    if path.is_dir() && !dicom::is_study(path) {
        return model::describe_folder(path);
    }
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    match ending.as_str() {
        "json" => {
            let bytes = model::read_settings(path)?;
            let description = describe::describe_json(&bytes, &display_name(path))?;
            Ok(serde_json::to_value(description)?)
        }
        "pth" | "pt" | "safetensors" => model::describe_weights(path),
        _ => describe_volume(path, header_only, cx),
    }
}

fn describe_volume(path: &Path, header_only: bool, cx: &Context) -> anyhow::Result<Value> {
    if header_only {
        let reader = cx.open(path)?;
        return Ok(header_json(path, reader.header(), reader.extensions()));
    }
    let image = cx.open(path)?.into_image()?;
    let mut description = header_json(path, &image.header, &image.extensions);
    let table = labels::table_in_extensions(&image.extensions).unwrap_or_default();
    if let Value::Object(fields) = &mut description {
        fields.insert("values".to_owned(), values_json(&image)?);
        if let Some(found) = labels_json(&image, &table) {
            fields.insert("labels".to_owned(), found);
        }
    }
    Ok(description)
}

fn header_json(path: &Path, header: &Header, extensions: &[nifti::Extension]) -> Value {
    let grid = &header.grid;
    let [z, y, x] = grid.shape;
    let [sz, sy, sx] = grid.spacing_mm;
    let affine: Vec<[f64; 4]> = grid
        .affine
        .linear
        .iter()
        .zip(grid.affine.origin_mm)
        .map(|([a, b, c], origin)| [*a, *b, *c, origin])
        .collect();
    json!({
        "kind": "volume",
        "file": display_name(path),
        "format": match (header.format, header.version) {
            (nifti::Format::Nifti, nifti::Version::One) => "NIfTI-1",
            (nifti::Format::Nifti, nifti::Version::Two) => "NIfTI-2",
            (nifti::Format::Nrrd, _) => "NRRD",
            (nifti::Format::MetaImage, _) => "MetaImage",
            (nifti::Format::Dicom, _) => "DICOM",
            (nifti::Format::Picture, _) => "picture",
        },
        "byte_order": match header.endian { nifti::Endian::Little => "little", nifti::Endian::Big => "big" },
        "datatype": header.datatype.name(),
        "size_xyz": [x, y, z],
        "spacing_mm_xyz": [sx, sy, sz],
        "channels": header.channels(),
        "orientation": Orientation::of(&grid.affine).ok().map(|orientation| orientation.to_string()),
        "affine_ras_mm": affine,
        "sform_code": header.geometry.sform_code,
        "qform_code": header.geometry.qform_code,
        "scaling": header.scaling.map(|s| json!({"slope": s.slope, "intercept": s.intercept})),
        "extensions": extensions.iter().map(|e| json!({"code": e.code, "bytes": e.data.len()})).collect::<Vec<_>>(),
        "warnings": header.warnings,
    })
}

/// Range and mean of the scaled values; NaN and infinite voxels are counted, not used.
fn values_json(image: &NiftiImage) -> anyhow::Result<Value> {
    let scale = |stored: f64| {
        image
            .header
            .scaling
            .map_or(stored, |scaling| scaling.apply(stored))
    };
    let (mut minimum, mut maximum, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    let (mut finite, mut nan, mut infinite) = (0_u64, 0_u64, 0_u64);
    for_each_value(&image.voxels, |stored| {
        let value = scale(stored);
        if value.is_finite() {
            finite += 1;
            sum += value;
            minimum = minimum.min(value);
            maximum = maximum.max(value);
        } else if value.is_nan() {
            nan += 1;
        } else {
            infinite += 1;
        }
    });
    anyhow::ensure!(
        finite > 0,
        "{}: none of the {} voxels holds a finite number",
        image.name,
        nan + infinite
    );
    Ok(json!({
        "minimum": minimum,
        "maximum": maximum,
        "mean": sum / finite as f64,
        "nan_voxels": nan,
        "infinite_voxels": infinite,
    }))
}

/// Voxels and volume per label, for integer files that can be label maps.
fn labels_json(image: &NiftiImage, table: &LabelTable) -> Option<Value> {
    if image.header.datatype.is_float() || image.header.channels() != 1 {
        return None;
    }
    let counts = image.to_label_map(LabelTable::default()).ok()?.counts();
    if counts.len() > MOST_LABELS {
        return None;
    }
    let voxel_ml = image.grid().voxel_volume_mm3() / 1000.0;
    let rows = counts
        .iter()
        .filter(|(label, _)| *label != 0)
        .map(|(label, voxels)| {
            json!({
                "label": label,
                "name": table.get(*label).map(|entry| entry.name.clone()),
                "voxels": voxels,
                "volume_ml": *voxels as f64 * voxel_ml,
            })
        })
        .collect();
    Some(Value::Array(rows))
}

fn for_each_value(voxels: &Voxels, mut visit: impl FnMut(f64)) {
    match voxels {
        Voxels::U8(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::I8(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::I16(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::U16(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::I32(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::U32(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::I64(values) => values.iter().for_each(|&v| visit(v as f64)),
        Voxels::U64(values) => values.iter().for_each(|&v| visit(v as f64)),
        Voxels::F32(values) => values.iter().for_each(|&v| visit(f64::from(v))),
        Voxels::F64(values) => values.iter().for_each(|&v| visit(v)),
    }
}

/// The description for people: `name: value` lines, tables indented.
pub fn as_lines(description: &Value) -> String {
    let mut text = String::new();
    push_lines(&mut text, description, 0);
    text
}

fn push_lines(text: &mut String, value: &Value, indent: usize) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let pad = " ".repeat(indent);
        match value {
            Value::Null => {}
            Value::Object(_) => {
                text.push_str(&format!("{pad}{name}:\n"));
                push_lines(text, value, indent + 2);
            }
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                text.push_str(&format!("{pad}{name}:\n"));
                for item in items {
                    text.push_str(&format!("{pad}  {}\n", one_line(item)));
                }
            }
            _ => text.push_str(&format!("{pad}{name}: {}\n", one_line(value))),
        }
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(one_line).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name} {}", one_line(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            let rounded = format!("{value:.6}");
            rounded
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
        }
        other => other.to_string(),
    }
}
