//! `medseg skeleton`: the centre lines of a vessel tree as a branch table or as lines to look at.

use crate::bridges::{check_axes, explain_absent, label_number};
use crate::cases::{self, Cases};
use crate::context::{Context, print_text};
use crate::flags::{Existing, RunOutput};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use medseg::io::atomic::Plan;
use medseg::io::batch::{self, Job};
use medseg::io::{Overwrite, atomic, display_name, labels};
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::topology::Foreground;
use medseg::topology::branches::{BranchMeasures, measure_branches};
use medseg::topology::graph::{NodeKind, SkeletonGraph};
use medseg::topology::lines::{Line, write_line_obj, write_vtp};
use medseg::volume::{Grid, LabelMap, LabelTable};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Measure the branches of a vessel tree: length, radius, tortuosity, volume
#[derive(clap::Args)]
#[command(after_help = "\
The ending of the output says what is written: .csv a row per branch, .json the graph with its lines,
.vtp or .obj lines for viewing. Lengths are in mm, positions in mm in RAS+.

Examples:
  medseg skeleton -i organs.nii.gz -o branches.csv --label artery
  medseg skeleton -i organs.nii.gz -o lines.vtp --label 5
  medseg skeleton -i masks/ -o tables/ --label 1
  medseg skeleton -i organs.nii.gz -o - --label vein | head -n 3")]
pub struct Args {
    /// Label map, a folder of them, or - for standard input; can be given several times
    #[arg(short, long = "input", value_name = "MASK", required = true)]
    input: Vec<PathBuf>,
    /// File ending in .csv, .json, .vtp or .obj, a folder for several cases, or - for the table on standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// The vessel: a number or a name [default: artery]
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "artery",
        hide_default_value = true
    )]
    label: String,
    /// Table with the names of labels: a built-in scheme or a file [default: the table in the file, else abdomen]
    #[arg(long, value_name = "TABLE")]
    labels: Option<PathBuf>,
    /// Say which case goes where, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

/// What a skeleton is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
    Vtp,
    Obj,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match ending.as_str() {
            "csv" => Self::Csv,
            "json" => Self::Json,
            "vtp" => Self::Vtp,
            "obj" => Self::Obj,
            _ => return None,
        })
    }
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    args.run.check(&args.output)?;
    let jobs = batch::find_cases(&args.input, Some(1))?.jobs(&args.output, ".csv")?;
    for job in &jobs {
        check_name(&job.output)?;
    }
    let plans = args.existing.plan_jobs(&jobs, &args.output)?;
    if args.dry_run {
        for (job, plan) in jobs.iter().zip(plans) {
            let shown = display_name(&job.output);
            cx.say(&cases::planned(plan, &shown));
        }
        return Ok(Outcome::Done);
    }
    if jobs.iter().any(|job| job.output != args.output) {
        atomic::create_folder(&args.output)?;
    }
    let mut cases = Cases::new(cx, &args.run, jobs.len());
    let settings = &mut cases.report.settings;
    settings.insert("label".to_owned(), json!(args.label));
    for (job, plan) in jobs.iter().zip(plans) {
        let name = job.case.id.to_string_lossy();
        let shown = display_name(&job.output);
        if plan == Plan::Skip {
            cases.skip(&name, &shown);
            continue;
        }
        cases.run(&name, || {
            run_case(args, cx, job)?;
            let mut record = CaseRecord::new(name.clone(), Status::Done);
            record.outputs.push(shown);
            for file in &job.case.channels {
                let file = InputFile::named(file, args.run.is_wanted())?;
                record.inputs.push(file);
            }
            Ok(record)
        });
    }
    cases.finish()
}

/// Refuses a name whose ending says nothing.
///
/// # Errors
/// [`Usage`].
pub fn check_name(path: &Path) -> anyhow::Result<()> {
    if path == Path::new("-") || Format::of(path).is_some() {
        return Ok(());
    }
    let shown = display_name(path);
    Err(Usage(format!(
        "skeleton {shown}: expected a name ending in .csv, .json, .vtp or .obj, or -"
    ))
    .into())
}

fn run_case(args: &Args, cx: &Context, job: &Job) -> anyhow::Result<()> {
    let input = job.input();
    let reader = cx.open(input)?;
    let own = labels::table_in_extensions(reader.extensions());
    let names = match &args.labels {
        Some(table) => crate::labels::read_table(table)?,
        None => own.unwrap_or_else(LabelTable::abdomen),
    };
    let (map, header) = reader.into_label_map(LabelTable::default())?;
    check_axes(&header.grid).with_context(|| display_name(input))?;
    let label = label_number(&args.label, &names)?;
    let skeleton = Skeleton::of(&map, &[label])?;
    if skeleton.foreground.is_empty() {
        let present = map.counts().into_iter().map(|(number, _)| number);
        let present = present.filter(|&number| number > 0).collect::<Vec<_>>();
        return Err(explain_absent(label, &present, &names));
    }
    let overwrite = args.existing.overwrite();
    skeleton.write(&job.output, overwrite)?;
    let total: f64 = skeleton
        .branches
        .iter()
        .map(|branch| branch.length_mm)
        .sum();
    cx.say(&format!(
        "{}: {} branches, {total:.1} mm",
        job.case.id.to_string_lossy(),
        skeleton.branches.len()
    ));
    Ok(())
}

/// The centre lines of a structure on its grid.
pub struct Skeleton {
    foreground: Foreground,
    graph: SkeletonGraph,
    branches: Vec<BranchMeasures>,
    grid: Grid,
}

impl Skeleton {
    /// Of the voxels with one of `numbers`.
    ///
    /// # Errors
    /// When the box around them cannot be indexed.
    pub fn of(map: &LabelMap, numbers: &[u16]) -> anyhow::Result<Self> {
        let grid = *map.grid();
        let foreground = Foreground::of(map.volume.data().view(), grid.spacing_mm, |value| {
            numbers.contains(&value)
        })?;
        let graph = SkeletonGraph::of(&foreground, &foreground.depth_mm());
        let branches = measure_branches(&foreground, &graph);
        Ok(Self {
            foreground,
            graph,
            branches,
            grid,
        })
    }

    /// Writes it as the ending of `path` says; the table to `-`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, overwrite: Overwrite) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        match Format::of(path).unwrap_or(Format::Csv) {
            Format::Csv => bytes = self.table().into_bytes(),
            Format::Json => {
                serde_json::to_writer_pretty(&mut bytes, &self.json())?;
                bytes.push(b'\n');
            }
            Format::Vtp => write_vtp(&mut bytes, &self.lines())?,
            Format::Obj => {
                bytes.extend(b"# centre lines, mm, RAS+\n");
                write_line_obj(&mut bytes, &self.lines())?;
            }
        }
        if path == Path::new("-") {
            return print_text(&String::from_utf8_lossy(&bytes));
        }
        atomic::write(path, overwrite, &bytes)?;
        Ok(())
    }

    fn world(&self, place: [f64; 3]) -> [f64; 3] {
        let [z, y, x] = std::array::from_fn(|axis| place[axis] / self.grid.spacing_mm[axis]);
        // Tenths of a micrometre; also turns -0 into 0.
        self.grid
            .affine
            .apply([x, y, z])
            .map(|mm| (mm * 1e4).round() / 1e4 + 0.0)
    }

    fn lines(&self) -> Vec<Line> {
        let branches = self.branches.iter();
        branches
            .map(|branch| Line {
                points_mm: branch
                    .line_mm
                    .iter()
                    .map(|&place| self.world(place))
                    .collect(),
                radii_mm: branch.radii_mm.clone(),
                piece: branch.piece,
            })
            .collect()
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "branch,piece,from_node,to_node,from_kind,to_kind,length_mm,chord_mm,tortuosity,mean_radius_mm,\
             smallest_radius_mm,largest_radius_mm,volume_ml,from_x_mm,from_y_mm,from_z_mm,to_x_mm,to_y_mm,to_z_mm\n",
        );
        let optional =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        for (number, branch) in self.branches.iter().enumerate() {
            let nodes = branch
                .nodes
                .map_or_else(Default::default, |nodes| nodes.map(|node| node.to_string()));
            let kinds = branch
                .nodes
                .map_or(["loop"; 2], |nodes| nodes.map(|node| self.kind(node)));
            let ends = [branch.line_mm.first(), branch.line_mm.last()];
            let places = ends.map(|place| {
                let [x, y, z] = self.world(place.copied().unwrap_or_default());
                format!("{x:.3},{y:.3},{z:.3}")
            });
            let [smallest, largest] = range(&branch.radii_mm);
            text.push_str(&format!(
                "{number},{},{},{},{},{},{:.3},{},{},{:.3},{smallest:.3},{largest:.3},{:.5},{},{}\n",
                branch.piece,
                nodes[0],
                nodes[1],
                kinds[0],
                kinds[1],
                branch.length_mm,
                optional(branch.chord_mm),
                optional(branch.tortuosity),
                branch.mean_radius_mm,
                branch.volume_mm3 / 1000.0,
                places[0],
                places[1],
            ));
        }
        text
    }

    fn kind(&self, node: u32) -> &'static str {
        match self.graph.nodes[node as usize].kind {
            NodeKind::Tip => "tip",
            NodeKind::Junction => "junction",
        }
    }

    fn json(&self) -> Value {
        let nodes = self.graph.nodes.iter().zip(0_u32..).map(|(node, number)| {
            let places = node
                .points
                .iter()
                .map(|&at| self.graph.points[at as usize].position_mm);
            let sum = places.fold([0.0; 3], |sum, place| {
                std::array::from_fn(|axis| sum[axis] + place[axis])
            });
            let center = sum.map(|value| value / node.points.len() as f64);
            json!({
                "kind": self.kind(number),
                "position_mm": self.world(center),
                "radius_mm": node.radius_mm,
                "branches": node.branches,
            })
        });
        let branches = self
            .branches
            .iter()
            .zip(self.lines())
            .map(|(branch, line)| {
                json!({
                    "piece": branch.piece,
                    "nodes": branch.nodes,
                    "length_mm": branch.length_mm,
                    "chord_mm": branch.chord_mm,
                    "tortuosity": branch.tortuosity,
                    "mean_radius_mm": branch.mean_radius_mm,
                    "volume_ml": branch.volume_mm3 / 1000.0,
                    "points_mm": line.points_mm,
                    "radii_mm": line.radii_mm,
                })
            });
        json!({
            "space": "RAS+",
            "voxels": self.foreground.len(),
            "nodes": nodes.collect::<Vec<_>>(),
            "branches": branches.collect::<Vec<_>>(),
        })
    }
}

fn range(values: &[f64]) -> [f64; 2] {
    let start = [f64::INFINITY, f64::NEG_INFINITY];
    let [low, high] = (values.iter()).fold(start, |[low, high], &value| {
        [low.min(value), high.max(value)]
    });
    [low, high]
}
