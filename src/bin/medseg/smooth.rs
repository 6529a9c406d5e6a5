//! `medseg smooth`: a label map to smooth, closed, manifold, volume-true surfaces, one per label, sharing their borders.
//!
//! The method and its limits are told in `medseg::mesh` and in docs/smooth.md. Every file is written whole or not at all; in a
//! batch a failed case is reported and the rest go on.

mod case;
mod flags;
pub mod scene;

use crate::cases::Cases;
use crate::context::{Context, print_text};
use crate::flags::{Existing, Report, RunOutput};
use crate::outcome::{Outcome, Usage};
use flags::{FrameFlag, IterationsFlag, Simplify, VolumeFlag};
use medseg::io::{atomic, batch, display_name};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Turn label maps into smooth, closed surfaces, one per label
#[derive(clap::Args)]
#[command(after_help = "\
The output is a folder with <label>_<name>.obj, or label_<label>.obj where the label has no
name, and the colours in labels.mtl. With several inputs it holds one folder per case. Names and
colours come from --labels, else from the table in the file. Positions are millimetres. A label
map without foreground gives a warning and no files.

Examples:
  medseg smooth -i labels.nii.gz -o surfaces
  medseg smooth -i labels.nii.gz -o print --format stl --labels 1,2 --largest --fill-holes
  medseg smooth -i labels.nii.gz -o viewer --format glb --merge --simplify 0.1vox --normals
  medseg smooth -i labels.nii.gz -o named --labels abdomen --frame lps --json
  medseg smooth -i labels.nii.gz -o vessels --labels 5,6 --bridge --preview vessels.png")]
pub struct Args {
    /// Label maps (.nii, .nii.gz), folders of them, or - for standard input
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Same as INPUT; can be given several times
    #[arg(short, long = "input", value_name = "INPUT")]
    input: Vec<PathBuf>,
    /// Folder to write, made if it is not there
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Labels to make, by number or name (1,2,tumor), or a table: abdomen, brats, totalseg or a file; can be given twice
    #[arg(long, value_name = "LIST|TABLE")]
    labels: Vec<String>,
    /// Formats to write
    #[arg(long, value_enum, value_delimiter = ',', default_value = "obj")]
    format: Vec<flags::Format>,
    /// Write one file with all labels, labels.<format>, instead of one per label
    #[arg(long)]
    merge: bool,
    /// Axes of the positions: ras as NIfTI, lps as DICOM and ITK
    #[arg(long, value_enum, default_value_t = FrameFlag::Ras)]
    frame: FrameFlag,
    /// Smoothing steps, 0 for the voxel faces [default: auto = 40, more for thick slices]
    #[arg(
        long,
        value_name = "N",
        default_value = "auto",
        hide_default_value = true
    )]
    iterations: IterationsFlag,
    /// How far the surface may move from the voxel faces along each axis, in voxels, 0 to 0.5
    #[arg(long = "box", value_name = "VOXELS", default_value_t = 0.5)]
    box_voxels: f32,
    /// What is done about the volume that smoothing takes away
    #[arg(long, value_enum, default_value_t = VolumeFlag::Region)]
    volume: VolumeFlag,
    /// Fewer triangles: by a distance (0.1vox, 0.2mm) or to a part of them (25%) [default: keep all]
    #[arg(long, value_name = "AMOUNT")]
    simplify: Option<Simplify>,
    /// Drop pieces of a label smaller than this, in mm³ [default: 0]
    #[arg(
        long,
        value_name = "MM3",
        default_value_t = 0.0,
        hide_default_value = true
    )]
    islands: f64,
    /// Keep only the largest piece of each label
    #[arg(long)]
    largest: bool,
    /// Fill background that a label encloses
    #[arg(long)]
    fill_holes: bool,
    /// Fill a voxel or two where pieces of a label touch along an edge or at a corner only: one surface instead of several
    #[arg(long)]
    bridge: bool,
    /// Write a normal per vertex
    #[arg(long)]
    normals: bool,
    /// Draw the surfaces from four sides (.png); with several inputs a file of this name in each case's folder
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Print what was made of every label as JSON, one line per case
    #[arg(long)]
    json: bool,
    /// Write the same to this file
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
    /// Say what would be written, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    report: Report,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let inputs: Vec<PathBuf> = args.inputs.iter().chain(&args.input).cloned().collect();
    if inputs.is_empty() {
        return Err(
            Usage("no input: name a label map, a folder or - with --input".to_owned()).into(),
        );
    }
    let request = args.request(cx.limits.memory_bytes)?;
    let cases = batch::find_cases(&inputs, Some(1))?;
    args.check_preview(cases.is_batch)?;
    if let Some(path) = &args.statistics {
        atomic::check_output(path, args.existing.overwrite())?;
    }
    let run = RunOutput {
        report: args.report.clone(),
        json: false, // of this command: what was made of every label
    };
    run.check(&args.output)?;
    let mut records = Cases::new(cx, &run, cases.cases.len());
    records.report.settings = args.settings();
    let mut lines = Vec::new();
    for case in &cases.cases {
        let folder = if cases.is_batch {
            args.output.join(&case.id)
        } else {
            args.output.clone()
        };
        let preview = args.preview.as_ref().map(|name| {
            if cases.is_batch {
                folder.join(name)
            } else {
                name.clone()
            }
        });
        let output = case::Places { folder, preview };
        records.run(&display_name(case.id.as_ref()), || {
            let (record, line) = case::run(case, &output, args, &request, cx)?;
            lines.extend(line);
            Ok(record)
        });
    }
    if records.is_lost() || args.dry_run {
        return records.finish();
    }
    if args.json {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        print_text(&text)?;
    }
    if let Some(path) = &args.statistics {
        let mut text = serde_json::to_vec_pretty(&lines)?;
        text.push(b'\n');
        atomic::write(path, args.existing.overwrite(), &text)?;
    }
    records.finish()
}

impl Args {
    /// Refuses a preview that is no PNG, or one place for several cases.
    fn check_preview(&self, is_batch: bool) -> Result<(), Usage> {
        let Some(path) = &self.preview else {
            return Ok(());
        };
        let shown = display_name(path);
        let name = path.as_os_str().as_encoded_bytes();
        if !name.to_ascii_lowercase().ends_with(b".png") {
            return Err(Usage(format!(
                "--preview {shown}: expected a name ending in .png"
            )));
        }
        if is_batch && path.components().count() > 1 {
            return Err(Usage(format!(
                "--preview {shown}: with several inputs expected a plain file name, it is written into each case's folder"
            )));
        }
        Ok(())
    }

    /// What decides the result, for the run report.
    fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "labels": self.labels,
            "frame": format!("{:?}", self.frame).to_lowercase(),
            "iterations": self.iterations.to_string(),
            "box_voxels": self.box_voxels,
            "volume": format!("{:?}", self.volume).to_lowercase(),
            "simplify": self.simplify.map(|amount| amount.to_string()),
            "islands_mm3": self.islands,
            "largest": self.largest,
            "fill_holes": self.fill_holes,
            "bridge": self.bridge,
        });
        match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        }
    }
}
