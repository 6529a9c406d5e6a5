//! What commands share that make a label map from a label map, perhaps with its CT: reading, writing and the
//! report, case by case.

use crate::cases::{Cases, Clock};
use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::label_output::LabelFormat;
use crate::outcome::{Outcome, Usage};
use medseg::io::atomic::Plan;
use medseg::io::batch::{self, Job};
use medseg::io::{Overwrite, atomic, display_name, labels};
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::volume::{LabelMap, LabelTable, Volume};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Flags of these commands.
#[derive(clap::Args)]
pub struct Args {
    /// Label map, a folder of them, or - for standard input; can be given several times
    #[arg(short, long = "input", value_name = "MASK", required = true)]
    input: Vec<PathBuf>,
    /// Label map to write, a folder for several cases, or - for an uncompressed NIfTI stream; not needed with --dry-run
    #[arg(short, long, value_name = "PATH", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// CT in Hounsfield units on the grid of the label map; for several cases a folder with files of the same names
    #[arg(long, value_name = "CT")]
    image: Option<PathBuf>,
    /// Table with the names of labels: a built-in scheme or a file [default: the table in the file, else abdomen]
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    format: LabelFormat,
    /// Compute and report, but write no label map
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

impl Args {
    /// The rule for further outputs; `None` where nothing is to be written.
    pub fn overwrite(&self) -> Option<Overwrite> {
        (!self.dry_run).then(|| self.existing.overwrite())
    }

    /// How many cases the inputs hold.
    ///
    /// # Errors
    /// Those of [`batch::find_cases`].
    pub fn count(&self) -> anyhow::Result<usize> {
        Ok(batch::find_cases(&self.input, Some(1))?.cases.len())
    }
}

/// A case in memory.
pub struct Case {
    /// The label map.
    pub map: LabelMap,
    /// Names of its labels.
    pub names: LabelTable,
    /// Whether the names come from the file or `--labels`; else they are those of the `abdomen` scheme.
    pub has_table: bool,
    /// The CT, where one was given.
    pub image: Option<Volume<f32>>,
}

/// What a command made of a case.
pub struct Made {
    /// The label map to write, on the grid of the input. Its table goes into the file unless it is empty.
    pub map: LabelMap,
    /// One line for people.
    pub summary: String,
    /// What is said of this case, whatever was said of others.
    pub notes: Vec<String>,
    /// What a person must know: kind of the warning, and its text.
    pub warnings: Vec<(&'static str, String)>,
    /// Fields of the report.
    pub fields: Map<String, Value>,
}

/// Makes a label map of every case and writes maps and report. `voxel_bytes` is what `make` needs per
/// voxel above its inputs.
pub fn run(
    args: &Args,
    cx: &Context,
    voxel_bytes: u64,
    make: impl Fn(Case) -> anyhow::Result<Made>,
) -> anyhow::Result<Outcome> {
    let nowhere = PathBuf::new();
    args.run.check(args.output.as_ref().unwrap_or(&nowhere))?;
    let jobs = plan(args)?;
    let mut cases = Cases::new(cx, &args.run, jobs.len());
    for planned in &jobs {
        let name = planned.job.case.id.to_string_lossy();
        if planned.is_skipped {
            cases.skip(&name, &display_name(&planned.job.output));
        } else {
            cases.run(&name, || {
                run_case(args, cx, planned, &name, voxel_bytes, &make)
            });
        }
    }
    cases.finish()
}

/// A case, its CT, and whether it is skipped because its output exists.
struct Planned {
    job: Job,
    image: Option<PathBuf>,
    is_skipped: bool,
}

fn plan(args: &Args) -> anyhow::Result<Vec<Planned>> {
    let cases = batch::find_cases(&args.input, Some(1))?;
    let is_batch = cases.is_batch;
    let images = match &args.image {
        Some(image) if is_batch => {
            if !image.is_dir() {
                return Err(Usage(format!(
                    "--image {}: expected a folder with one CT per case",
                    display_name(image)
                ))
                .into());
            }
            batch::find_cases(std::slice::from_ref(image), Some(1))?.cases
        }
        _ => Vec::new(),
    };
    let image_of = |case: &batch::Case| match &args.image {
        Some(_) if is_batch => images
            .iter()
            .find(|image| image.id == case.id)
            .and_then(|image| image.channels.first().cloned())
            // Named when the case is read, so that one missing CT fails one case.
            .or_else(|| args.image.as_ref().map(|folder| folder.join(&case.id))),
        image => image.clone(),
    };
    let Some(output) = args.output.as_ref().filter(|_| !args.dry_run) else {
        return Ok(cases
            .cases
            .into_iter()
            .map(|case| Planned {
                image: image_of(&case),
                job: Job {
                    case,
                    output: PathBuf::new(),
                },
                is_skipped: false,
            })
            .collect());
    };
    let jobs = cases.jobs(output, args.format.ending())?;
    let is_folder = jobs.iter().any(|job| job.output != *output);
    if !is_folder {
        args.format.check_name(output)?;
    }
    let plans = args.existing.plan_jobs(&jobs, output)?;
    if is_folder {
        atomic::create_folder(output)?;
    }
    let planned = jobs.into_iter().zip(plans).map(|(job, plan)| {
        let image = image_of(&job.case);
        if let Some(image) = &image {
            atomic::check_distinct(image, &job.output)?;
        }
        Ok(Planned {
            job,
            image,
            is_skipped: plan == Plan::Skip,
        })
    });
    planned.collect()
}

fn run_case(
    args: &Args,
    cx: &Context,
    planned: &Planned,
    name: &str,
    voxel_bytes: u64,
    make: &impl Fn(Case) -> anyhow::Result<Made>,
) -> anyhow::Result<CaseRecord> {
    let mut clock = Clock::new();
    let job = &planned.job;
    let input = job.input();
    let image = planned.image.as_deref();
    let files: Vec<&Path> = image.into_iter().chain([input]).collect();
    let target = args.format.target(&job.output, &job.case.id, &files, cx)?;
    let reader = cx.open(input)?;
    target.check(&job.output, &reader.header().grid)?;
    let extensions = reader.extensions().to_vec();
    let per_voxel = 2 + voxel_bytes + if planned.image.is_some() { 4 } else { 0 };
    let voxels = reader.header().voxel_count();
    cx.limits
        .check(&display_name(input), voxels.saturating_mul(per_voxel))?;
    let own = labels::table_in_extensions(&extensions);
    let has_table = own.is_some() || args.labels.is_some();
    let names = match (&args.labels, own) {
        (Some(table), _) => crate::labels::read_table(table)?,
        (None, Some(table)) => table,
        (None, None) => LabelTable::abdomen(),
    };
    let (map, header) = reader.into_label_map(LabelTable::default())?;
    let image = image
        .map(|path| read_image(path, &map, input, cx))
        .transpose()?;
    clock.phase("read");
    let made = make(Case {
        map,
        names,
        has_table,
        image,
    })
    .map_err(|error| error.context(display_name(input)))?;
    clock.phase("compute");
    for note in &made.notes {
        cx.say(&format!("{name}: {note}"));
    }
    for (kind, text) in &made.warnings {
        cx.warn(kind, &format!("{name}: {text}"));
    }
    cx.say(&format!("{name}: {}", made.summary));
    let mut record = CaseRecord::new(name, Status::Done);
    if !args.dry_run {
        target.save(
            &planned.job.output,
            &made.map,
            &header.geometry,
            &extensions,
            args.existing.overwrite(),
        )?;
        record.outputs.push(display_name(&planned.job.output));
        clock.phase("write");
    }
    for file in [input].into_iter().chain(planned.image.as_deref()) {
        let file = InputFile::named(file, args.run.is_wanted())?;
        record.inputs.push(file);
    }
    record.phases = clock.told(cx);
    record.fields = made.fields;
    record
        .fields
        .insert("dry_run".to_owned(), args.dry_run.into());
    let warnings: Vec<_> = made.warnings.into_iter().map(|(_, text)| text).collect();
    record.fields.insert("warnings".to_owned(), warnings.into());
    Ok(record)
}

fn read_image(
    path: &Path,
    map: &LabelMap,
    input: &Path,
    cx: &Context,
) -> anyhow::Result<Volume<f32>> {
    anyhow::ensure!(
        path != Path::new("-") || input != Path::new("-"),
        "standard input can be the label map or the CT, not both"
    );
    let (mut volumes, _) = cx.open(path)?.into_f32()?;
    anyhow::ensure!(
        volumes.len() == 1,
        "{}: has {} volumes, expected one CT",
        display_name(path),
        volumes.len()
    );
    let image = volumes.remove(0);
    image
        .grid()
        .check_matches(map.grid(), 1e-2)
        .map_err(|error| {
            anyhow::anyhow!(
                "{} is not on the grid of {}: {error}; resample it to that grid first",
                display_name(path),
                display_name(input)
            )
        })?;
    Ok(image)
}

/// `value` with so many decimals, for reports.
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let per_unit = 10_f64.powi(decimals);
    (value * per_unit).round() / per_unit
}
