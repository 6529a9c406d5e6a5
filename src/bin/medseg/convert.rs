//! `medseg convert`: volumes between formats and orientations, models to safetensors.

use crate::context::Context;
use crate::flags::{Existing, check_volume_name};
use crate::model;
use crate::outcome::{Outcome, Usage};
use medseg::geometry::orientation::{Orientation, Turn};
use medseg::io::atomic;
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
  medseg convert --model nnUNetTrainer__nnUNetPlans__3d_fullres -o model_safetensors")]
pub struct Args {
    /// Volume to read; - for standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "model")]
    input: Option<PathBuf>,
    /// Model folder whose checkpoints become safetensors
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    model: Option<PathBuf>,
    /// Volume (.nii, .nii.gz, .nrrd, .mha or -) or model folder to write
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Axis directions of the output, for example RAS; voxels keep their place [default: as the input]
    #[arg(long, value_name = "CODE", conflicts_with = "model")]
    orientation: Option<String>,
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
    check_volume_name(&args.output)?;
    atomic::check_distinct(input, &args.output)?;
    atomic::check_output(&args.output, existing.overwrite())?;
    let target = args
        .orientation
        .as_deref()
        .map(parse_orientation)
        .transpose()?;
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
