//! `medseg convert`: volumes between formats and orientations, models to safetensors.

use crate::context::Context;
use crate::flags::Existing;
use crate::label_output::LabelFormat;
use crate::labels::read_table;
use crate::model;
use crate::outcome::{Outcome, Usage};
use medseg::dicom;
use medseg::geometry::orientation::{Orientation, Turn};
use medseg::io::atomic;
use medseg::io::batch;
use medseg::io::nifti::{self, Geometry, Sample, Voxels};
use medseg::io::{Overwrite, display_name};
use medseg::volume::{Grid, Volume};
use std::path::{Path, PathBuf};

/// Convert a volume between formats and orientations, or a model to safetensors
#[derive(clap::Args)]
#[command(after_help = "\
The voxel type is kept. A file with scl_slope is written as float32 with the scaling applied.

Examples:
  medseg convert -i ct.nii.gz -o ct.nii
  medseg convert -i labels.nii.gz -o labels.seg.nrrd
  medseg convert -i ct.nii.gz -o ct_ras.nii.gz --orientation RAS
  medseg convert -i STUDY/ -o scan.nii.gz --sidecar
  medseg convert -i labels.nii.gz -o labels.dcm --reference STUDY/ --labels abdomen
  medseg convert -i labels.nii.gz -o contours.dcm --to rtstruct --reference STUDY/
  medseg convert --model nnUNetTrainer__nnUNetPlans__3d_fullres -o model_safetensors")]
pub struct Args {
    /// Volume to read; - for standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "model")]
    input: Option<PathBuf>,
    /// Model folder whose checkpoints become safetensors
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    model: Option<PathBuf>,
    /// Volume (.nii, .nii.gz, .nrrd, .mha or -), label map (also .dcm) or model folder to write
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Axis directions of the output, for example RAS; voxels keep their place [default: as the input]
    #[arg(long, value_name = "CODE", conflicts_with = "model")]
    orientation: Option<String>,
    #[command(flatten)]
    format: LabelFormat,
    /// Table with the names of labels in a DICOM output: a built-in scheme or a file [default: the table in the file]
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    /// Also write how a DICOM series was acquired beside the volume, as scan.json for scan.nii.gz, in the
    /// names and units of BIDS
    #[arg(long, conflicts_with = "model")]
    sidecar: bool,
    /// Replace outputs that exist
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let existing = Existing {
        force: args.force,
        skip_existing: false,
    };
    if let Some(model) = &args.model {
        return model::convert_model(model, &args.output, existing.overwrite(), cx);
    }
    let Some(input) = &args.input else {
        return Err(Usage("one of --input and --model is needed".to_owned()).into());
    };
    args.format.check_name(&args.output)?;
    atomic::check_distinct(input, &args.output)?;
    atomic::check_output(&args.output, existing.overwrite())?;
    let target = args
        .orientation
        .as_deref()
        .map(parse_orientation)
        .transpose()?;
    if args.format.is_dicom(&args.output) {
        return save_labels(input, args, existing.overwrite(), cx);
    }
    let sidecar = sidecar(input, args, existing.overwrite(), cx)?;
    let image = cx.open(input)?.into_image()?;
    for warning in &image.header.warnings {
        cx.warn("header", &format!("{}: {warning}", display_name(input)));
    }
    let out = Output {
        path: &args.output,
        overwrite: existing.overwrite(),
        grid: *image.grid(),
        geometry: image.geometry(),
        extensions: &image.extensions,
        target,
    };
    if image.header.scaling.is_some() {
        out.save(image.to_f32()?)?;
    } else {
        save_stored(&out, &image.voxels)?;
    }
    if let Some((path, text)) = sidecar {
        atomic::write(&path, existing.overwrite(), &text)?;
    }
    Ok(Outcome::Done)
}

/// Name and content of the sidecar, where one is asked for.
fn sidecar(
    input: &Path,
    args: &Args,
    overwrite: Overwrite,
    cx: &Context,
) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    if !args.sidecar {
        return Ok(None);
    }
    if args.output == Path::new("-") || !dicom::is_study(input) {
        return Err(Usage("--sidecar needs a DICOM series and a file to write".to_owned()).into());
    }
    let mut name = batch::case_name(&args.output);
    name.push(".json");
    let path = args.output.with_file_name(name);
    atomic::check_output(&path, overwrite)?;
    let mut text = serde_json::to_vec_pretty(&cx.facts(input)?)?;
    text.push(b'\n');
    Ok(Some((path, text)))
}

/// Writes a label map as a DICOM object.
fn save_labels(
    input: &Path,
    args: &Args,
    overwrite: Overwrite,
    cx: &Context,
) -> anyhow::Result<Outcome> {
    if args.orientation.is_some() {
        return Err(
            Usage("--orientation: a DICOM object has the axes of its series".to_owned()).into(),
        );
    }
    let case = batch::case_name(input);
    let target = args.format.target(&args.output, &case, &[], cx)?;
    let reader = cx.open(input)?;
    let extensions = reader.extensions().to_vec();
    let table = args.labels.as_deref().map(read_table).transpose()?;
    let (map, header) = reader.into_label_map(table.unwrap_or_default())?;
    for warning in &header.warnings {
        cx.warn("header", &format!("{}: {warning}", display_name(input)));
    }
    target.save(&args.output, &map, &header.geometry, &extensions, overwrite)?;
    Ok(Outcome::Done)
}

struct Output<'a> {
    path: &'a Path,
    overwrite: Overwrite,
    grid: Grid,
    geometry: &'a Geometry,
    extensions: &'a [nifti::Extension],
    target: Option<Orientation>,
}

impl Output<'_> {
    /// Reorients every channel and writes them in their own type.
    fn save<T: Sample>(&self, channels: Vec<Volume<T>>) -> anyhow::Result<()> {
        let (channels, geometry) = match self.target {
            None => (channels, self.geometry.clone()),
            Some(target) => {
                let turn = Turn::between(Orientation::of(&self.grid.affine)?, target);
                let moved: Vec<_> = channels
                    .iter()
                    .map(|channel| turn.volume(channel))
                    .collect();
                let grid = moved.first().map_or(self.grid, |channel| *channel.grid());
                (moved, Geometry::from_grid(&grid))
            }
        };
        let channels: Vec<_> = channels.iter().collect();
        nifti::save_volume(
            self.path,
            &channels,
            &geometry,
            self.extensions.to_vec(),
            self.overwrite,
        )?;
        Ok(())
    }

    /// Cuts stored values into channels and saves them.
    fn save_values<T: Sample>(&self, values: &[T]) -> anyhow::Result<()> {
        let channels = values
            .chunks_exact(self.grid.voxel_count().max(1))
            .map(|channel| {
                let array = ndarray::Array3::from_shape_vec(self.grid.shape, channel.to_vec())?;
                Ok(Volume::new(array, self.grid)?)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        self.save(channels)
    }
}

fn save_stored(out: &Output, voxels: &Voxels) -> anyhow::Result<()> {
    match voxels {
        Voxels::U8(values) => out.save_values(values),
        Voxels::I8(values) => out.save_values(values),
        Voxels::I16(values) => out.save_values(values),
        Voxels::U16(values) => out.save_values(values),
        Voxels::I32(values) => out.save_values(values),
        Voxels::U32(values) => out.save_values(values),
        Voxels::I64(values) => out.save_values(values),
        Voxels::U64(values) => out.save_values(values),
        Voxels::F32(values) => out.save_values(values),
        Voxels::F64(values) => out.save_values(values),
    }
}

fn parse_orientation(code: &str) -> anyhow::Result<Orientation> {
    code.parse::<Orientation>()
        .map_err(|error| Usage(format!("--orientation {code}: {error}")).into())
}
