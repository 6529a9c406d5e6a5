//! What commands share that make a label map from a label map, perhaps with its CT: reading, writing and the
//! report, case by case.

use crate::context::Context;
use crate::flags::Existing;
use crate::label_output::LabelFormat;
use crate::outcome::{Outcome, Usage, one_line};
use medseg::io::batch::{self, Job};
use medseg::io::{Overwrite, atomic, display_name, labels};
use medseg::provenance::InputFile;
use medseg::volume::{LabelMap, LabelTable, Volume};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Write what was found in every case, and what it was made from, to this JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    format: LabelFormat,
    /// Compute and report, but write no label map
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
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
    let started = Instant::now();
    if let Some(path) = &args.report {
        atomic::check_output(path, Overwrite::Force)?;
    }
    let jobs = plan(args)?;
    let mut records = Vec::new();
    let mut failed = 0;
    for planned in &jobs {
        let name = planned.job.case.id.to_string_lossy().into_owned();
        let record = if planned.is_skipped {
            cx.say(&format!("{name}: exists, skipped"));
            json!({"case": name, "status": "skipped"})
        } else {
            match run_case(args, cx, planned, &name, voxel_bytes, &make) {
                Ok(record) => record,
                Err(error) if jobs.len() == 1 => return Err(error),
                Err(error) => {
                    failed += 1;
                    let text = one_line(&error);
                    cx.say(&format!("error: {name}: {text}"));
                    json!({"case": name, "status": "failed", "error": text})
                }
            }
        };
        records.push(record);
    }
    if failed > 0 {
        cx.say(&format!("{failed} of {} cases failed", jobs.len()));
    }
    let mut report = cx.run_report();
    report.warnings = cx.finish_warnings();
    report.wall_s = started.elapsed().as_secs_f64();
    report.memory.peak_rss_bytes = medseg::io::limits::peak_resident_bytes();
    if let Some(path) = &args.report {
        let mut report = serde_json::to_value(report)?;
        report["cases"] = Value::Array(records);
        let mut text = serde_json::to_vec_pretty(&report)?;
        text.push(b'\n');
        atomic::write(path, Overwrite::Force, &text)?;
    }
    Ok(if failed > 0 {
        Outcome::SomeFailed
    } else {
        Outcome::Done
    })
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
    if jobs.iter().any(|job| job.output != *output) {
        atomic::create_folder(output)?;
    } else {
        args.format.check_name(output)?;
    }
    let overwrite = if args.existing.skip_existing {
        Overwrite::Skip
    } else {
        args.existing.overwrite()
    };
    jobs.into_iter()
        .map(|job| {
            let image = image_of(&job.case);
            if let Some(image) = &image {
                atomic::check_distinct(image, &job.output)?;
            }
            let is_skipped = atomic::check_output(&job.output, overwrite)? == atomic::Plan::Skip;
            Ok(Planned {
                job,
                image,
                is_skipped,
            })
        })
        .collect()
}

fn run_case(
    args: &Args,
    cx: &Context,
    planned: &Planned,
    name: &str,
    voxel_bytes: u64,
    make: &impl Fn(Case) -> anyhow::Result<Made>,
) -> anyhow::Result<Value> {
    let started = Instant::now();
    let input = planned
        .job
        .case
        .channels
        .first()
        .cloned()
        .unwrap_or_default();
    let files: Vec<&Path> = [Some(&input), planned.image.as_ref()]
        .into_iter()
        .rev()
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    let job = &planned.job;
    let target = args.format.target(&job.output, &job.case.id, &files, cx)?;
    let reader = cx.open(&input)?;
    let extensions = reader.extensions().to_vec();
    let per_voxel = 2 + voxel_bytes + if planned.image.is_some() { 4 } else { 0 };
    let voxels = reader.header().voxel_count();
    cx.limits
        .check(&display_name(&input), voxels.saturating_mul(per_voxel))?;
    let own = labels::table_in_extensions(&extensions);
    let has_table = own.is_some() || args.labels.is_some();
    let names = match (&args.labels, own) {
        (Some(table), _) => crate::labels::read_table(table)?,
        (None, Some(table)) => table,
        (None, None) => LabelTable::abdomen(),
    };
    let (map, header) = reader.into_label_map(LabelTable::default())?;
    let image = planned
        .image
        .as_ref()
        .map(|path| read_image(path, &map, &input, cx))
        .transpose()?;
    let read_s = started.elapsed().as_secs_f64();
    let made = make(Case {
        map,
        names,
        has_table,
        image,
    })
    .map_err(|error| error.context(display_name(&input)))?;
    let compute_s = started.elapsed().as_secs_f64() - read_s;
    for (kind, text) in &made.warnings {
        cx.warn(kind, &format!("{name}: {text}"));
    }
    cx.say(&format!("{name}: {}", made.summary));
    cx.detail(&format!(
        "{name}: read {read_s:.3} s, computed {compute_s:.3} s"
    ));
    if !args.dry_run {
        target.save(
            &planned.job.output,
            &made.map,
            &header.geometry,
            &extensions,
            args.existing.overwrite(),
        )?;
    }
    let mut inputs = vec![described(&input, args)?];
    if let Some(image) = &planned.image {
        inputs.push(described(image, args)?);
    }
    let written_s = started.elapsed().as_secs_f64() - read_s - compute_s;
    let outputs = if args.dry_run {
        Vec::new()
    } else {
        vec![display_name(&planned.job.output)]
    };
    let mut record = json!({
        "case": name,
        "status": "done",
        "inputs": inputs,
        "outputs": outputs,
        "phases": [
            {"name": "read", "seconds": read_s},
            {"name": "compute", "seconds": compute_s},
            {"name": "write", "seconds": written_s},
        ],
        "dry_run": args.dry_run,
        "warnings": made.warnings.iter().map(|(_, text)| text).collect::<Vec<_>>(),
    });
    if let Value::Object(fields) = &mut record {
        fields.extend(made.fields);
    }
    Ok(record)
}

/// The file as the report names it; its checksum is only taken for a report.
fn described(input: &Path, args: &Args) -> anyhow::Result<InputFile> {
    Ok(if input == Path::new("-") {
        InputFile::standard_input()
    } else if args.report.is_some() {
        InputFile::of(input)?
    } else {
        InputFile {
            path: display_name(input),
            bytes: None,
            sha256: None,
        }
    })
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
