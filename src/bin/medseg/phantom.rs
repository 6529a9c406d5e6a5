//! `medseg phantom`: a synthetic abdominal CT with known anatomy.
//!
//! The same seed, size and spacing give the same bytes on any number of threads.

use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::outcome::{Outcome, Usage};
use medseg::io::nifti::{self, Geometry};
use medseg::io::{Overwrite, atomic, display_name, labels};
use medseg::phantom::{DamageOptions, Layers, Options, Phantom, Rendered};
use medseg::provenance::{CaseRecord, Status};
use medseg::volume::LabelMap;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Make a synthetic abdominal CT of any size from a seed, with its label map
#[derive(clap::Args)]
#[command(after_help = "\
A folder gets ct.nii.gz, label.nii.gz and case.json (anatomy, volumes, centre lines), with
--tissue also tissue.nii.gz and with --damaged also pred.nii.gz, a faulty prediction whose gaps,
islands and holes are listed in case.json. A file name or - gets the CT alone.

Examples:
  medseg phantom -o case1 --seed 7
  medseg phantom -o case2 --size 128,128,75 --damaged --tissue
  medseg phantom --size 64,64,40 -o - | medseg info -")]
pub struct Args {
    /// Folder to write, a .nii or .nii.gz file for the CT alone, or - for a CT stream
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Which patient [default: 1]
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true)]
    seed: u64,
    /// Voxels along x, y, z [default: 160,160,100]
    #[arg(long, value_name = "X,Y,Z")]
    size: Option<Triple<usize>>,
    /// Voxel size along x, y, z in mm [default: fills 409.6 x 409.6 x 300 mm]
    #[arg(long, value_name = "X,Y,Z")]
    spacing: Option<Triple<f64>>,
    /// Also write the map of tissues
    #[arg(long)]
    tissue: bool,
    /// Also write a damaged prediction with recorded faults
    #[arg(long)]
    damaged: bool,
    /// Say what would be written and what memory it needs, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    run: RunOutput,
}

/// Field of view in which the anatomy has its natural size, x, y, z in mm.
const FIELD_OF_VIEW_MM: [f64; 3] = [409.6, 409.6, 300.0];

/// Three values with commas between.
#[derive(Debug, Clone, Copy)]
pub struct Triple<T>([T; 3]);

impl<T: FromStr + Copy> FromStr for Triple<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let values: Option<Vec<T>> = text
            .split(',')
            .map(|part| part.trim().parse().ok())
            .collect();
        values
            .and_then(|values| <[T; 3]>::try_from(values).ok())
            .map(Self)
            .ok_or_else(|| format!("expected three numbers with commas between, found {text:?}"))
    }
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    args.run.check(&args.output)?;
    let options = options(args);
    let phantom = Phantom::new(&options).map_err(|error| Usage(error.to_string()))?;
    let voxels = phantom.grid().voxel_count() as u64;
    // CT 2 bytes, labels and their working copy 3, tissue 1, prediction 2.
    let needed = voxels * (5 + u64::from(args.tissue) + 2 * u64::from(args.damaged));
    cx.limits.check("phantom", needed)?;
    let is_volume = names_a_volume(&args.output);
    if is_volume && (args.tissue || args.damaged) {
        return Err(Usage("--tissue and --damaged need a folder as output".to_owned()).into());
    }
    // In a folder case.json is written last.
    let last = if is_volume {
        args.output.clone()
    } else {
        args.output.join("case.json")
    };
    let shown = display_name(&args.output);
    let is_there = args.existing.skip_existing && last.exists();
    if args.dry_run {
        let state = if is_there {
            "exists"
        } else {
            "would be written"
        };
        cx.say(&format!(
            "{shown}: {state}, {} MiB of memory",
            needed.div_ceil(1 << 20)
        ));
        return Ok(Outcome::Done);
    }
    let mut record = CaseRecord::new(format!("seed {}", args.seed), Status::Skipped);
    if is_there {
        cx.say(&format!("{shown}: exists, skipped"));
    } else {
        record.status = Status::Done;
        record.outputs.push(shown.clone());
        if is_volume {
            write_ct_alone(args, &phantom)?;
        } else {
            let case = CaseFiles::new(&args.output, args.existing.overwrite());
            case.write(&phantom, args.tissue, args.damaged)?;
            cx.say(&format!("wrote {shown}"));
        }
    }
    let mut report = cx.run_report();
    report.memory.predicted_peak_bytes = needed;
    report.settings.insert("seed".to_owned(), json!(args.seed));
    report
        .settings
        .insert("size_xyz".to_owned(), json!(options.size_xyz));
    report
        .settings
        .insert("spacing_mm_xyz".to_owned(), json!(options.spacing_mm_xyz));
    report.cases.push(record);
    cx.report_run(report, &args.run)?;
    Ok(Outcome::Done)
}

fn options(args: &Args) -> Options {
    let size_xyz = args.size.map_or(Options::default().size_xyz, |size| size.0);
    let filling =
        || std::array::from_fn(|axis| FIELD_OF_VIEW_MM[axis] / size_xyz[axis].max(1) as f64);
    Options {
        size_xyz,
        spacing_mm_xyz: args.spacing.map_or_else(filling, |spacing| spacing.0),
        seed: args.seed,
    }
}

fn names_a_volume(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    name == "-" || name.ends_with(".nii") || name.ends_with(".nii.gz")
}

fn write_ct_alone(args: &Args, phantom: &Phantom) -> anyhow::Result<()> {
    let overwrite = args.existing.overwrite();
    atomic::check_output(&args.output, overwrite)?;
    let geometry = Geometry::from_grid(phantom.grid());
    nifti::save_volume(
        &args.output,
        &[&phantom.ct()],
        &geometry,
        Vec::new(),
        overwrite,
    )?;
    Ok(())
}

/// The files of one phantom in a folder.
pub struct CaseFiles<'a> {
    folder: &'a Path,
    overwrite: Overwrite,
}

impl<'a> CaseFiles<'a> {
    /// The files in `folder`, which is created when needed.
    pub fn new(folder: &'a Path, overwrite: Overwrite) -> Self {
        Self { folder, overwrite }
    }

    /// Where a file of the case is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Renders the phantom and writes its files; `case.json` comes last, so its presence says that all are there.
    pub fn write(
        &self,
        phantom: &Phantom,
        tissue: bool,
        damaged: bool,
    ) -> anyhow::Result<Rendered> {
        let names = [
            "ct.nii.gz",
            "label.nii.gz",
            "tissue.nii.gz",
            "pred.nii.gz",
            "case.json",
        ];
        atomic::create_folder(self.folder)?;
        for name in names {
            atomic::check_output(&self.path(name), self.overwrite)?;
        }
        let rendered = phantom.render(Layers {
            labels: true,
            ct: true,
            tissue,
        });
        let geometry = Geometry::from_grid(phantom.grid());
        if let Some(ct) = &rendered.ct {
            nifti::save_volume(
                &self.path("ct.nii.gz"),
                &[ct],
                &geometry,
                Vec::new(),
                self.overwrite,
            )?;
        }
        if let Some(tissue) = &rendered.tissue {
            let path = self.path("tissue.nii.gz");
            nifti::save_volume(&path, &[tissue], &geometry, Vec::new(), self.overwrite)?;
        }
        if let Some(truth) = &rendered.labels {
            self.save_labels("label.nii.gz", truth, &geometry)?;
            let mut record = json!({"truth": phantom.record(truth)?});
            if damaged {
                let (prediction, faults) = phantom.damaged(truth, &DamageOptions::default())?;
                self.save_labels("pred.nii.gz", &prediction, &geometry)?;
                record["damage"] = serde_json::to_value(faults)?;
            }
            let mut text = serde_json::to_vec_pretty(&record)?;
            text.push(b'\n');
            atomic::write(&self.path("case.json"), self.overwrite, &text)?;
        }
        Ok(rendered)
    }

    fn save_labels(&self, name: &str, map: &LabelMap, geometry: &Geometry) -> anyhow::Result<()> {
        let extensions = labels::with_table(&[], &map.table);
        nifti::save_label_map(&self.path(name), map, geometry, extensions, self.overwrite)?;
        Ok(())
    }
}
