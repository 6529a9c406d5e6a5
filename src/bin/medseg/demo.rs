//! `medseg demo`: the whole chain on a synthetic case.
//!
//! Phantom, segmentation by the embedded model, statistics, comparison with the truth, repair of a damaged prediction,
//! surfaces, a workbook and a page. It is the README's first command, so it prints what it wrote and what the figures mean.

mod repair;
mod scores;
mod surfaces;

use crate::cases::{self, Cases};
use crate::context::{Context, print_text};
use crate::flags::{Existing, RunOutput};
use crate::model;
use crate::outcome::Outcome;
use crate::phantom::CaseFiles;
use crate::sample;
use anyhow::Context as _;
use medseg::io::atomic::Plan;
use medseg::io::nifti::{self, Geometry};
use medseg::io::{atomic, display_name, labels};
use medseg::metrics::overlap::{LabelAgreement, compare_labels};
use medseg::nnunet::model::ModelOptions;
use medseg::nnunet::predict::{PredictOptions, Predictor};
use medseg::nnunet::statistics::{LabelStatistics, label_statistics};
use medseg::phantom::{DamageOptions, Options, Phantom};
use medseg::provenance::{CaseRecord, Status};
use medseg::volume::{LabelMap, LabelTable, Volume};
use medseg::{template, tissue};
use std::path::PathBuf;
use std::time::Instant;

/// Run the whole chain on a synthetic case: phantom, segmentation, statistics, comparison
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  medseg demo
  medseg demo -o /tmp/demo --seed 12 --force")]
pub struct Args {
    /// Folder to write
    #[arg(short, long, value_name = "DIR", default_value = "medseg-demo")]
    output: PathBuf,
    /// Which phantom [default: 11]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 11,
        hide_default_value = true
    )]
    seed: u64,
    /// Say what would be written, and stop
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
    // The page is the last file: where it is, all are.
    let shown = display_name(&args.output);
    let plan = args.existing.plan_in(&args.output, scores::PAGE)?;
    if args.dry_run {
        cx.say(&cases::planned(plan, &shown));
        return Ok(Outcome::Done);
    }
    let mut cases = Cases::new(cx, &args.run, 1);
    let seed = format!("seed {}", args.seed);
    if plan == Plan::Skip {
        cases.skip(&seed, &shown);
    } else {
        cases.run(&seed, || chain(args, &seed, cx));
    }
    cases.finish()
}

impl Args {
    /// Shows a table on stdout, or on stderr where the run report goes to stdout.
    fn print(&self, text: &str, cx: &Context) -> anyhow::Result<()> {
        if self.run.json {
            cx.say(text.trim_end());
            return Ok(());
        }
        print_text(text)
    }
}

/// Makes and writes everything.
fn chain(args: &Args, seed: &str, cx: &Context) -> anyhow::Result<CaseRecord> {
    let started = Instant::now();
    let overwrite = args.existing.overwrite_companions();
    let case = CaseFiles::new(&args.output, overwrite);
    let labels_path = case.path("segmentation.nii.gz");
    let statistics_path = case.path("statistics.json");
    let fat_path = case.path("fat.nii.gz");
    let sample_path = case.path("sample.nii.gz");
    let repaired_path = case.path("repaired.nii.gz");
    atomic::create_folder(&args.output)?;
    let reports = scores::FILES.map(|name| case.path(name));
    let shapes = surfaces::FILES.map(|name| case.path(name));
    let written = [
        &labels_path,
        &statistics_path,
        &fat_path,
        &sample_path,
        &repaired_path,
    ];
    for path in written.into_iter().chain(&reports).chain(&shapes) {
        atomic::check_output(path, overwrite)?;
    }
    let options = Options {
        seed: args.seed,
        ..Options::default()
    };
    let phantom = Phantom::new(&options)?;
    let rendered = case.write(&phantom, false, true)?;
    let (Some(ct), Some(truth)) = (rendered.ct, rendered.labels) else {
        anyhow::bail!("the phantom came without CT or labels");
    };
    cx.say(&format!(
        "made a synthetic CT in {:.1} s",
        started.elapsed().as_secs_f64()
    ));

    let image = ct.map(|&hu| f32::from(hu));
    let found = segment(&image, cx)?;
    let geometry = Geometry::from_grid(image.grid());
    let extensions = labels::with_table(&[], &found.table);
    nifti::save_label_map(&labels_path, &found, &geometry, extensions, overwrite)?;
    let extras = [
        (&fat_path, with_fat(&found, &image)?),
        (&sample_path, guessed(&found)?),
    ];
    for (path, map) in &extras {
        let extensions = labels::with_table(&[], &map.table);
        nifti::save_label_map(path, map, &geometry, extensions, overwrite)?;
    }
    let statistics = label_statistics(&found, Some(&image));
    let mut text = serde_json::to_vec_pretty(&statistics)?;
    text.push(b'\n');
    atomic::write(&statistics_path, overwrite, &text)?;

    let agreement = compare_labels(found.volume.data().view(), truth.volume.data().view())?;
    args.print(&table(&statistics, &agreement), cx)?;

    let (damaged, faults) = phantom.damaged(&truth, &DamageOptions::default())?;
    let repaired = repair::repair(&damaged)?;
    let extensions = labels::with_table(&[], &repaired.table);
    nifti::save_label_map(&repaired_path, &repaired, &geometry, extensions, overwrite)?;
    let text = repair::table(&truth, &damaged, &repaired, &faults)?;
    args.print(&text, cx)?;
    surfaces::write(&args.output, overwrite, &found, cx.limits.memory_bytes)?;
    scores::write(&args.output, overwrite, image, found, truth, cx)?;
    cx.say(&format!(
        "\nDone in {:.1} s on {} threads. {} now holds:\n\
         \x20 ct.nii.gz            the synthetic CT\n\
         \x20 label.nii.gz         its true label map\n\
         \x20 case.json            its anatomy: volumes, centre lines, HU\n\
         \x20 segmentation.nii.gz  what the embedded model found in the CT\n\
         \x20 fat.nii.gz           the same with the fat around the kidneys\n\
         \x20 sample.nii.gz        another phantom's organs, fitted to these kidneys alone\n\
         \x20 surfaces.glb, .png   its surfaces, for a 3-D viewer and as a picture\n\
         \x20 statistics.json      volume, mean HU and position of every label found\n\
         \x20 pred.nii.gz          the truth with interrupted vessels and ureters, islands and holes\n\
         \x20 repaired.nii.gz      the same after vessel-connect and ureter-connect\n\
         \x20 results.json         scores against the truth\n\
         \x20 report.xlsx, .html   the same as a workbook and a page\n\
         The embedded model knows such phantoms only; segment your own images with --model.",
        started.elapsed().as_secs_f64(),
        cx.threads,
        display_name(&args.output)
    ));
    let mut record = CaseRecord::new(seed, Status::Done);
    record.outputs.push(display_name(&args.output));
    Ok(record)
}

fn segment(image: &Volume<f32>, cx: &Context) -> anyhow::Result<LabelMap> {
    let model = model::embedded(&ModelOptions::default())?;
    let options = PredictOptions {
        limit_bytes: cx.limits.memory_bytes,
        ..PredictOptions::default()
    };
    let predictor = Predictor::new(&model, options)?;
    let progress = cx.progress("demo");
    Ok(predictor
        .predict(std::slice::from_ref(image), None, &progress)?
        .label_map)
}

/// The map with perirenal fat.
fn with_fat(found: &LabelMap, image: &Volume<f32>) -> anyhow::Result<LabelMap> {
    let input = tissue::Input {
        map: found.volume.data().view(),
        image: Some(image.data().view()),
        grid: found.grid(),
    };
    let options = tissue::Options {
        may_be_cut: true,
        ..tissue::Options::abdomen()
    };
    let fat = tissue::find_fat(&input, &options)?.fat;
    let mut map = found.clone();
    let all = LabelTable::abdomen();
    let number = all.number_of("fat").context("the abdomen scheme has fat")?;
    for (target, &kind) in map.volume.as_slice_mut().iter_mut().zip(&fat) {
        if kind != 0 {
            *target = number;
        }
    }
    if let Some(label) = all.get(number) {
        map.table.insert(number, label.clone());
    }
    Ok(map)
}

/// The built-in template fitted to the kidneys.
fn guessed(found: &LabelMap) -> anyhow::Result<LabelMap> {
    let template = sample::builtin()?;
    let patient = template::Patient {
        input: template::Input {
            map: found.volume.data().view(),
            grid: found.grid(),
        },
        kidneys: &[1, 2],
        tumors: &[3, 4],
        image: None,
    };
    let described = template::Template {
        input: template::Input {
            map: template.volume.data().view(),
            grid: template.grid(),
        },
        kidneys: &[1, 2],
        lesions: &[3, 4],
        bones: &[],
    };
    let fitted = template::fit_template(&patient, &described, None)?;
    Ok(LabelMap::new(
        fitted.map,
        *found.grid(),
        found.table.clone(),
    )?)
}

fn table(statistics: &[LabelStatistics], agreement: &LabelAgreement) -> String {
    let mut text = format!(
        "{:<14} {:>10} {:>9} {:>7}\n",
        "label", "volume mL", "mean HU", "Dice"
    );
    for row in statistics {
        let overlap = agreement.overlap(row.label);
        let optional = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        text.push_str(&format!(
            "{:<14} {:>10.1} {:>9} {:>7}\n",
            row.name,
            row.volume_ml,
            optional(row.mean_intensity, 1),
            optional(overlap.dice(), 4)
        ));
    }
    text
}
