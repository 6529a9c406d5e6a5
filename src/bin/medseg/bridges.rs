//! What `vessel-connect` and `ureter-connect` share: reading and writing label maps case by case, and the
//! report on bridges.

use crate::context::Context;
use crate::flags::Existing;
use crate::label_output::LabelFormat;
use crate::outcome::{Outcome, Usage, one_line};
use crate::skeleton::{self, Skeleton};
use medseg::io::batch::{self, Job};
use medseg::io::nifti::Header;
use medseg::io::{Overwrite, atomic, display_name, labels};
use medseg::provenance::InputFile;
use medseg::topology::bridging::{Bridge, ConnectError, Kind, Repair};
use medseg::volume::{Grid, LabelMap, LabelTable, Volume};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of both commands.
#[derive(clap::Args)]
pub struct Args {
    /// Label map to repair, a folder of them, or - for standard input; can be given several times
    #[arg(short, long = "input", value_name = "MASK", required = true)]
    input: Vec<PathBuf>,
    /// Label map to write, a folder for several cases, or - for an uncompressed NIfTI stream; not needed with --dry-run
    #[arg(short, long, value_name = "PATH", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// CT of the same grid: bridges through other tissue cost more, through bone or air there are none
    #[arg(long, value_name = "CT")]
    image: Option<PathBuf>,
    /// Table with the names of labels: a built-in scheme or a file [default: the table in the file, else abdomen]
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    /// Write every bridge with its end points (mm, RAS+), length, radius and confidence to this JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Least confidence of a bridge, 0 to 1 [default: 0.2]
    #[arg(
        long,
        value_name = "C",
        default_value_t = 0.2,
        hide_default_value = true
    )]
    pub min_confidence: f64,
    /// Smaller pieces are islands and never joined, in voxels [default: 20]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        hide_default_value = true
    )]
    pub min_island_voxels: usize,
    /// Labels that bridges may cross without overwriting them, numbers or names with commas between
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub allow_through: Vec<String>,
    /// Write bridges as this label, a number that the map does not hold [default: the structure's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    bridge_label: Option<u16>,
    /// Also join two ends of one piece that face each other: closes loops
    #[arg(long)]
    pub close_loops: bool,
    /// Remove the islands instead of leaving them alone
    #[arg(long)]
    drop_islands: bool,
    /// Also write the centre lines after the repair: .csv table, .json graph, .vtp or .obj lines; one case only
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    skeleton: Option<PathBuf>,
    #[command(flatten)]
    format: LabelFormat,
    /// Find the bridges and report them, but write no label map
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
}

/// A case in memory.
pub struct Case {
    /// The map to repair.
    pub map: LabelMap,
    /// Names of its labels.
    pub names: LabelTable,
    /// The CT, where one was given.
    pub image: Option<Volume<f32>>,
}

/// What a command found in a case.
pub struct Found {
    /// Label that bridges get.
    pub label: u16,
    /// Bridges and pieces.
    pub repair: Repair,
    /// Further fields of the report.
    pub extra: Map<String, Value>,
    /// What a person must know.
    pub notes: Vec<String>,
}

/// Runs `repair` on every case and writes maps and the report.
pub fn run(
    args: &Args,
    cx: &Context,
    repair: impl Fn(&Case) -> anyhow::Result<Found>,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    if !(0.0..=1.0).contains(&args.min_confidence) {
        return Err(Usage("--min-confidence must lie between 0 and 1".to_owned()).into());
    }
    if let Some(path) = &args.report {
        atomic::check_output(path, Overwrite::Force)?;
    }
    let jobs = plan(args)?;
    if let Some(path) = &args.skeleton {
        skeleton::check_name(path)?;
        if jobs.len() > 1 {
            return Err(Usage(
                "--skeleton belongs to one case; see medseg skeleton for folders".to_owned(),
            )
            .into());
        }
        atomic::check_output(path, args.existing.overwrite())?;
    }
    let mut cases = Vec::new();
    let mut failed = 0;
    for (job, is_skipped) in &jobs {
        let name = job.case.id.to_string_lossy().into_owned();
        let record = if *is_skipped {
            cx.say(&format!("{name}: exists, skipped"));
            json!({"case": name, "status": "skipped"})
        } else {
            match run_case(args, cx, job, &name, &repair) {
                Ok(record) => record,
                Err(error) if jobs.len() == 1 => return Err(error),
                Err(error) => {
                    failed += 1;
                    let text = one_line(&error);
                    cx.say(&format!("error: {text}"));
                    json!({"case": name, "status": "failed", "error": text})
                }
            }
        };
        cases.push(record);
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
        report["cases"] = Value::Array(cases);
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

/// The jobs, and whether each is skipped because its output exists.
fn plan(args: &Args) -> anyhow::Result<Vec<(Job, bool)>> {
    let cases = batch::find_cases(&args.input, Some(1))?;
    if args.image.is_some() && cases.cases.len() > 1 {
        return Err(Usage("--image belongs to one case; repair them one by one".to_owned()).into());
    }
    let Some(output) = args.output.as_ref().filter(|_| !args.dry_run) else {
        let nowhere = |case| Job {
            case,
            output: PathBuf::new(),
        };
        return Ok(cases
            .cases
            .into_iter()
            .map(|case| (nowhere(case), false))
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
            let is_skipped = atomic::check_output(&job.output, overwrite)? == atomic::Plan::Skip;
            Ok((job, is_skipped))
        })
        .collect()
}

fn run_case(
    args: &Args,
    cx: &Context,
    job: &Job,
    name: &str,
    repair: &impl Fn(&Case) -> anyhow::Result<Found>,
) -> anyhow::Result<Value> {
    let started = Instant::now();
    let input = job.case.channels.first().cloned().unwrap_or_default();
    let files: Vec<&Path> = [args.image.as_deref(), Some(&input)]
        .into_iter()
        .flatten()
        .collect();
    let target = args.format.target(&job.output, &job.case.id, &files, cx)?;
    let reader = cx.open(&input)?;
    let extensions = reader.extensions().to_vec();
    let own = labels::table_in_extensions(&extensions);
    let names = match (&args.labels, own) {
        (Some(table), _) => crate::labels::read_table(table)?,
        (None, Some(table)) => table,
        (None, None) => LabelTable::abdomen(),
    };
    let (map, header) = reader.into_label_map(LabelTable::default())?;
    check_axes(&header, &input)?;
    let image = args
        .image
        .as_ref()
        .map(|path| read_image(path, &map, cx))
        .transpose()?;
    let mut case = Case { map, names, image };
    let read_s = started.elapsed().as_secs_f64();
    if let Some(number) = args.bridge_label {
        check_bridge_label(number, &case)?;
    }
    let found = repair(&case)?;
    let repair_s = started.elapsed().as_secs_f64() - read_s;
    for note in &found.notes {
        cx.say(&format!("{name}: {note}"));
    }
    let made = &found.repair;
    cx.say(&format!(
        "{name}: {} bridges, {} voxels; {} refused; {} pieces before, {} after, {} islands {}",
        made.bridges.len(),
        made.voxels.len(),
        made.refused.len(),
        made.pieces.len(),
        made.pieces_after,
        made.pieces
            .iter()
            .filter(|piece| !piece.is_eligible)
            .count(),
        if args.drop_islands {
            "removed"
        } else {
            "left alone"
        },
    ));
    cx.detail(&format!(
        "{name}: read {read_s:.3} s, repair {repair_s:.3} s"
    ));
    if !args.dry_run {
        let label = args.bridge_label.unwrap_or(found.label);
        made.apply(case.map.volume.data_mut(), label);
        if args.drop_islands {
            made.drop_islands(case.map.volume.data_mut());
        }
        let overwrite = args.existing.overwrite();
        target.save(
            &job.output,
            &case.map,
            &header.geometry,
            &extensions,
            overwrite,
        )?;
        if let Some(path) = &args.skeleton {
            Skeleton::of(&case.map, &[found.label, label])?.write(path, overwrite)?;
        }
    }
    let inputs = if input == Path::new("-") {
        InputFile::standard_input()
    } else if args.report.is_some() {
        InputFile::of(&input)?
    } else {
        InputFile {
            path: display_name(&input),
            bytes: None,
            sha256: None,
        }
    };
    let mut record = json!({
        "case": name,
        "status": "done",
        "inputs": [inputs],
        "outputs": if args.dry_run { vec![] } else { vec![display_name(&job.output)] },
        "phases": [{"name": "read", "seconds": read_s}, {"name": "repair", "seconds": repair_s}],
        "dry_run": args.dry_run,
        "label": found.label,
        "bridge_label": args.bridge_label.unwrap_or(found.label),
        "islands_removed": args.drop_islands,
        "notes": found.notes,
    });
    if let Value::Object(fields) = &mut record {
        fields.extend(describe(made, case.map.grid()));
        fields.extend(found.extra);
    }
    Ok(record)
}

/// Lengths are measured along the voxel axes, so these must be at right angles.
///
/// # Errors
/// When they are not.
pub fn check_axes(header: &Header, input: &Path) -> anyhow::Result<()> {
    let m = header.grid.affine.linear;
    let norms = header.grid.affine.column_norms_mm();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let product: f64 = m.iter().map(|row| row[a] * row[b]).sum();
        let cosine = product / (norms[a] * norms[b]);
        // Also refuses NaN.
        anyhow::ensure!(
            cosine.abs() < 1e-3,
            "{}: the voxel axes are not at right angles (cosine {cosine:.4}): resample the map first",
            display_name(input)
        );
    }
    Ok(())
}

fn read_image(path: &Path, map: &LabelMap, cx: &Context) -> anyhow::Result<Volume<f32>> {
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
        .map_err(|error| anyhow::anyhow!("{}: {error}", display_name(path)))?;
    Ok(image)
}

/// Refuses a gap that is no length.
///
/// # Errors
/// [`Usage`].
pub fn check_gap(max_gap_mm: f64) -> anyhow::Result<()> {
    if max_gap_mm > 0.0 && max_gap_mm <= 500.0 {
        return Ok(());
    }
    Err(Usage(format!(
        "--max-gap-mm {max_gap_mm}: expected more than 0 and at most 500 mm"
    ))
    .into())
}

/// The number that a flag names: a number, or a name in the table.
///
/// # Errors
/// [`Usage`] when it is neither.
pub fn label_number(text: &str, names: &LabelTable) -> anyhow::Result<u16> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| names.number_of(text))
        .filter(|&number| number > 0)
        .ok_or_else(|| {
            Usage(format!(
                "label {text:?}: neither a number from 1 to 65535 nor a name in the label table"
            ))
            .into()
        })
}

/// Several such labels.
///
/// # Errors
/// As [`label_number`].
pub fn label_numbers(texts: &[String], names: &LabelTable) -> anyhow::Result<Vec<u16>> {
    texts.iter().map(|text| label_number(text, names)).collect()
}

/// Bridges under a label that the map holds already could not be told from it.
fn check_bridge_label(number: u16, case: &Case) -> Result<(), Usage> {
    let is_held = case.map.volume.as_slice().contains(&number);
    if !is_held {
        return Ok(());
    }
    let name = case.names.name_of(number);
    Err(Usage(format!(
        "--bridge-label {number}: the map holds that label ({name}); choose a free number"
    )))
}

/// A label that does not occur, with those that do.
pub fn explain_absent(label: u16, present: &[u16], names: &LabelTable) -> anyhow::Error {
    let name = names.name_of(label);
    let present = listed(present, names);
    Usage(format!(
        "label {label} ({name}) does not occur; the map holds {present}"
    ))
    .into()
}

fn listed(present: &[u16], names: &LabelTable) -> String {
    let named = present
        .iter()
        .map(|&number| format!("{number} {}", names.name_of(number)));
    if present.is_empty() {
        "nothing but background".to_owned()
    } else {
        named.collect::<Vec<_>>().join(", ")
    }
}

/// A label that does not occur is wrong usage; the rest is wrong input.
pub fn explain(error: ConnectError, names: &LabelTable) -> anyhow::Error {
    match &error {
        ConnectError::Absent { label, present } => explain_absent(*label, present, names),
        ConnectError::NoOrgans {
            bladder,
            kidneys,
            present,
        } => {
            let kidneys: Vec<String> = kidneys.iter().map(u16::to_string).collect();
            Usage(format!(
                "neither bladder ({bladder}) nor kidneys ({}) occur; the map holds {}",
                kidneys.join(", "),
                listed(present, names)
            ))
            .into()
        }
        _ => error.into(),
    }
}

fn describe(repair: &Repair, grid: &Grid) -> Map<String, Value> {
    let islands: Vec<Value> = (repair.pieces.iter())
        .filter(|piece| !piece.is_eligible)
        .map(|piece| {
            let [z, y, x] = piece.first_voxel;
            json!({"voxels": piece.voxels, "first_voxel_xyz": [x, y, z]})
        })
        .collect();
    let fields = json!({
        "pieces_before": repair.pieces.len(),
        "pieces_after": repair.pieces_after,
        "islands": islands,
        "ends_at_the_border": repair.border_tips,
        "voxels_added": repair.voxels.len(),
        "bridges": repair.bridges.iter().map(|bridge| bridge_json(bridge, grid)).collect::<Vec<_>>(),
        "refused": repair.refused.iter().map(|bridge| bridge_json(bridge, grid)).collect::<Vec<_>>(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn bridge_json(bridge: &Bridge, grid: &Grid) -> Value {
    let world = |place: [f64; 3]| {
        let [z, y, x] = std::array::from_fn(|axis| place[axis] / grid.spacing_mm[axis]);
        grid.affine.apply([x, y, z]).map(|mm| rounded(mm, 1e2))
    };
    json!({
        "kind": kind_name(bridge.kind),
        "path": format!("{:?}", bridge.course).to_lowercase(),
        "pieces": bridge.groups,
        "from_mm": world(bridge.ends_mm[0]),
        "to_mm": world(bridge.ends_mm[1]),
        "gap_mm": rounded(bridge.gap_mm, 1e2),
        "length_mm": rounded(bridge.length_mm, 1e2),
        "radius_mm": bridge.radius_mm.map(|mm| rounded(mm, 1e2)),
        "angle_deg": bridge.angle_deg.map(|angle| angle.map(|deg| rounded(deg, 10.0))),
        "cost_mm": rounded(bridge.cost_mm, 1e2),
        "confidence": rounded(bridge.confidence, 1e3),
        "rivals": bridge.rivals.iter().map(|rival| json!({
            "kind": kind_name(rival.kind),
            "pieces": rival.groups,
            "from_mm": world(rival.ends_mm[0]),
            "to_mm": world(rival.ends_mm[1]),
            "cost_ratio": rounded(rival.cost_ratio, 1e3),
        })).collect::<Vec<_>>(),
        "voxels_added": bridge.voxels,
        "accepted": bridge.refused.is_none(),
        "reason": bridge.refused,
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::TipTip => "tip-tip",
        Kind::TipBody => "tip-body",
        Kind::Blunt => "blunt",
        Kind::TipAnchor => "tip-organ",
        Kind::Loop => "loop",
    }
}

fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}
