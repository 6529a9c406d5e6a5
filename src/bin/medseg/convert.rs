//! `medseg convert`: volumes between formats and orientations, models to safetensors.

use crate::cases::{self, Cases};
use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::label_output::LabelFormat;
use crate::labels::read_table;
use crate::model;
use crate::outcome::{Outcome, Usage};
use medseg::dicom;
use medseg::geometry::orientation::{Orientation, Turn};
use medseg::io::Overwrite;
use medseg::io::atomic::{self, Plan};
use medseg::io::batch::{self, Case, Job};
use medseg::io::display_name;
use medseg::io::nifti::{self, Geometry, Sample, Voxels};
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::volume::{Grid, Volume};
use std::path::{Path, PathBuf};

/// Convert a volume between formats and orientations, or a model to safetensors
#[derive(clap::Args)]
#[command(after_help = "\
The voxel type is kept. A file with scl_slope is written as float32 with the scaling applied.

Examples:
  medseg convert -i ct.nii.gz -o ct.nii
  medseg convert -i images/ -o nrrd/ --to nrrd --skip-existing
  medseg convert -i labels.nii.gz -o labels.seg.nrrd
  medseg convert -i ct.nii.gz -o ct_ras.nii.gz --orientation RAS
  medseg convert -i STUDY/ -o scan.nii.gz --sidecar
  medseg convert -i labels.nii.gz -o labels.dcm --reference STUDY/ --labels abdomen
  medseg convert -i labels.nii.gz -o contours.dcm --to rtstruct --reference STUDY/
  medseg convert --model nnUNetTrainer__nnUNetPlans__3d_fullres -o model_safetensors")]
pub struct Args {
    /// Volume, DICOM series, folder of volumes, or - for standard input; can be given several times
    #[arg(short, long, value_name = "PATH", required_unless_present = "model")]
    input: Vec<PathBuf>,
    /// Model folder whose checkpoints become safetensors
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    model: Option<PathBuf>,
    /// Volume (.nii, .nii.gz, .nrrd, .mha or -), label map (also .dcm), folder for several, or model folder to write
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
    /// Say which file goes where, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    args.run.check(&args.output)?;
    let jobs = args.jobs()?;
    let target = args
        .orientation
        .as_deref()
        .map(parse_orientation)
        .transpose()?;
    let is_folder = jobs.iter().any(|job| job.output != args.output);
    if !is_folder && args.model.is_none() {
        args.format.check_name(&args.output)?;
    }
    for job in &jobs {
        atomic::check_distinct(job.input(), &job.output)?;
    }
    let plans = match &args.model {
        Some(_) => vec![args.existing.plan_in(&args.output, "dataset.json")?],
        None => args.existing.plan_jobs(&jobs, &args.output)?,
    };
    if args.dry_run {
        for (job, plan) in jobs.iter().zip(plans) {
            cx.say(&cases::planned(plan, &display_name(&job.output)));
        }
        return Ok(Outcome::Done);
    }
    if is_folder {
        atomic::create_folder(&args.output)?;
    }
    let mut cases = Cases::new(cx, &args.run, jobs.len());
    for (job, plan) in jobs.iter().zip(plans) {
        let name = job.case.id.to_string_lossy();
        if plan == Plan::Skip {
            cases.skip(&name, &display_name(&job.output));
        } else {
            cases.run(&name, || convert(job, target, args, cx));
        }
    }
    cases.finish()
}

impl Args {
    /// What becomes what.
    fn jobs(&self) -> anyhow::Result<Vec<Job>> {
        let Some(model) = &self.model else {
            let cases = batch::find_cases(&self.input, Some(1))?;
            return Ok(cases.jobs(&self.output, self.format.ending())?);
        };
        Ok(vec![Job {
            case: Case {
                id: batch::case_name(model),
                channels: vec![model.clone()],
            },
            output: self.output.clone(),
        }])
    }
}

fn convert(
    job: &Job,
    target: Option<Orientation>,
    args: &Args,
    cx: &Context,
) -> anyhow::Result<CaseRecord> {
    let input = job.input();
    let overwrite = args.existing.overwrite();
    let mut record = CaseRecord::new(job.case.id.to_string_lossy(), Status::Done);
    record.outputs.push(display_name(&job.output));
    record
        .inputs
        .push(InputFile::named(input, args.run.is_wanted())?);
    if args.model.is_some() {
        model::convert_model(input, &job.output, overwrite, cx)?;
        return Ok(record);
    }
    if args.format.is_for_labels(&job.output) {
        save_labels(job, args, cx)?;
        return Ok(record);
    }
    let sidecar = sidecar(job, args, cx)?;
    let image = cx.open(input)?.into_image()?;
    for warning in &image.header.warnings {
        cx.warn("header", &format!("{}: {warning}", display_name(input)));
    }
    // The volume comes last: where it is, everything of the case is.
    if let Some((path, text)) = sidecar {
        atomic::write(&path, overwrite, &text)?;
        record.outputs.push(display_name(&path));
    }
    let geometry = image.geometry().clone();
    let out = Output {
        path: &job.output,
        overwrite,
        grid: *image.grid(),
        geometry: &geometry,
        extensions: &image.extensions,
        target,
    };
    if image.header.scaling.is_some() {
        out.save(image.to_f32()?)?;
    } else {
        save_stored(&out, image.voxels)?;
    }
    Ok(record)
}

/// Name and content of the sidecar, where one is asked for.
fn sidecar(job: &Job, args: &Args, cx: &Context) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    if !args.sidecar {
        return Ok(None);
    }
    if job.output == Path::new("-") || !dicom::is_study(job.input()) {
        return Err(Usage("--sidecar needs a DICOM series and a file to write".to_owned()).into());
    }
    let mut name = batch::case_name(&job.output);
    name.push(".json");
    let path = job.output.with_file_name(name);
    atomic::check_output(&path, args.existing.overwrite())?;
    let mut text = serde_json::to_vec_pretty(&cx.facts(job.input())?)?;
    text.push(b'\n');
    Ok(Some((path, text)))
}

/// Writes a label map as a DICOM object or a picture.
fn save_labels(job: &Job, args: &Args, cx: &Context) -> anyhow::Result<()> {
    if args.orientation.is_some() {
        return Err(Usage(
            "--orientation: a DICOM object has the axes of its series, and a picture has none"
                .to_owned(),
        )
        .into());
    }
    let target = args.format.target(&job.output, &job.case.id, &[], cx)?;
    let reader = cx.open(job.input())?;
    target.check(&job.output, &reader.header().grid)?;
    let extensions = reader.extensions().to_vec();
    let table = args.labels.as_deref().map(read_table).transpose()?;
    let (map, header) = reader.into_label_map(table.unwrap_or_default())?;
    for warning in &header.warnings {
        let shown = display_name(job.input());
        cx.warn("header", &format!("{shown}: {warning}"));
    }
    let overwrite = args.existing.overwrite();
    target.save(&job.output, &map, &header.geometry, &extensions, overwrite)
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

    /// Cuts stored values into channels and saves them. A single channel is not copied.
    fn save_values<T: Sample>(&self, values: Vec<T>) -> anyhow::Result<()> {
        if values.len() == self.grid.voxel_count() {
            let array = ndarray::Array3::from_shape_vec(self.grid.shape, values)?;
            return self.save(vec![Volume::new(array, self.grid)?]);
        }
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

fn save_stored(out: &Output, voxels: Voxels) -> anyhow::Result<()> {
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
