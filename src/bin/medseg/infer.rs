//! `medseg infer`: runs an nnU-Net model on images.
//!
//! The model is loaded once; cases run one after another, each on all threads. Every output is written whole or not at all, a
//! failed case is reported and the rest go on.

mod cascade;
mod case;
mod plan;

use crate::context::Context;
use crate::flags::{Arithmetic, Existing, Report};
use crate::label_output::LabelFormat;
use crate::model;
use crate::outcome::{Outcome, Usage, one_line};
use clap::ValueEnum;
use medseg::nn::Compute;
use medseg::nnunet::model::{Fold, Model, ModelOptions};
use medseg::nnunet::predict::{Accumulate, PredictOptions, Predictor};
use medseg::provenance::{CaseRecord, Status};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Segment images with an nnU-Net model
#[derive(clap::Args)]
#[command(after_help = "\
INPUT is a file, a list of channel files with commas between, a folder (also in nnU-Net's
naming, case_0000.nii.gz), or - for standard input. With a folder or several inputs the output
is a folder. Without --model the embedded model is used, which knows synthetic phantoms only.

Examples:
  medseg infer -i ct.nii.gz -m nnUNetTrainer__nnUNetPlans__3d_fullres -o organs.nii.gz
  medseg infer -i images/ -m model/ -o labels/ --skip-existing --report run.json
  medseg infer -i STUDY/ -m model/ -o organs.dcm
  medseg infer -i t1.nii.gz,t2.nii.gz -m two_channels/ -o tumor.nii.gz --folds 0 --no-mirroring
  medseg infer -i images/ -m model/ -o labels/ --dry-run
  medseg phantom -o - | medseg infer -i - -o - | medseg info -")]
pub struct Args {
    /// Images to segment
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Same as INPUT; can be given several times
    #[arg(short, long = "input", value_name = "INPUT")]
    input: Vec<PathBuf>,
    /// nnU-Net results folder with plans.json, dataset.json and fold_* [default: the embedded model]
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Label map to write, a folder for several cases, or - for an uncompressed NIfTI stream
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Folds to average, for example 0,1,2 or all [default: every fold in the folder]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    folds: Vec<Fold>,
    /// File name of the checkpoints
    #[arg(long, value_name = "NAME", default_value = "checkpoint_final.pth")]
    checkpoint: String,
    /// Configuration of the plans [default: the one that was trained]
    #[arg(long, value_name = "NAME")]
    configuration: Option<String>,
    /// First stage of a cascade: its model folder, a label map, or a folder of label maps named as the
    /// cases [default: the model folder beside --model, for example Trainer__Plans__3d_lowres]
    #[arg(long, value_name = "PATH")]
    previous: Option<PathBuf>,
    /// Distance of neighbouring tiles as a fraction of the patch, above 0 and at most 1
    #[arg(long, value_name = "FRACTION", default_value_t = 0.5)]
    step: f64,
    /// Do not average over mirrored patches: up to 8 times faster, slightly less accurate
    #[arg(long)]
    no_mirroring: bool,
    /// Leave out tiles of a CT that hold nothing above -900 HU or above the lowest HU that the model tells
    /// apart: they become background; where they overlap others, those alone decide [default: run them]
    #[arg(long)]
    skip_air: bool,
    /// How overlapping tiles are added up: f16 as nnU-Net does, f32 more exactly
    #[arg(long, value_enum, default_value_t = AccumulateFlag::Half)]
    accumulate: AccumulateFlag,
    /// nnU-Net's postprocessing.json, applied to the label map: keeps largest components [default: none]
    #[arg(long, value_name = "FILE")]
    postprocessing: Option<PathBuf>,
    /// Also write <OUTPUT>_probabilities.nii.gz, 32-bit floats, one volume per class
    #[arg(long)]
    probabilities: bool,
    /// Write volume (mL), mean HU and border contact of every label to this JSON file
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
    /// Where the network runs
    #[arg(long, value_enum, default_value_t = DeviceFlag::Cpu)]
    device: DeviceFlag,
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// Say which case goes where and what memory it needs, and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: LabelFormat,
    #[command(flatten)]
    existing: Existing,
    #[command(flatten)]
    report: Report,
}

/// `--accumulate`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccumulateFlag {
    /// Half precision, voxel for voxel as nnU-Net
    #[value(name = "f16")]
    Half,
    /// Single precision, at twice the memory for logits
    #[value(name = "f32")]
    Float,
}

/// `--device`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceFlag {
    /// The processor
    Cpu,
}

impl Args {
    fn predict_options(&self, compute: Compute, limit_bytes: u64) -> PredictOptions {
        PredictOptions {
            step: self.step,
            mirroring: !self.no_mirroring,
            accumulate: match self.accumulate {
                AccumulateFlag::Half => Accumulate::Half,
                AccumulateFlag::Float => Accumulate::Float,
            },
            compute,
            probabilities: self.probabilities,
            skip_air: self.skip_air,
            limit_bytes,
        }
    }

    fn model_options(&self) -> ModelOptions {
        ModelOptions {
            folds: (!self.folds.is_empty()).then(|| self.folds.clone()),
            checkpoint: self.checkpoint.clone(),
            configuration: self.configuration.clone(),
        }
    }

    /// What decides the result, for the run report.
    fn settings(&self, compute: Compute) -> Map<String, Value> {
        let settings = json!({
            "step": self.step,
            "mirroring": !self.no_mirroring,
            "skip_air": self.skip_air,
            "accumulate": match self.accumulate {
                AccumulateFlag::Half => "f16",
                AccumulateFlag::Float => "f32",
            },
            "device": format!("{:?}", self.device).to_lowercase(),
            "precision": compute.precision.name(),
            "isa": compute.isa.name(),
        });
        match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let inputs: Vec<PathBuf> = args.inputs.iter().chain(&args.input).cloned().collect();
    if inputs.is_empty() {
        return Err(Usage("no input: name an image, a folder or - with --input".to_owned()).into());
    }
    let compute = args.arithmetic.compute()?;
    let model = load_model(args, cx)?;
    let plan = plan::Plan::new(&inputs, args, &model)?;
    let predictor = Predictor::new(
        &model,
        args.predict_options(compute, cx.limits.memory_bytes),
    )?;
    let first_stage = cascade::FirstStage::find(args, compute, &predictor, cx)?;
    let postprocessing = model::postprocessing(args.postprocessing.as_deref())?;
    if args.dry_run {
        plan.print(&predictor, &first_stage, cx)?;
        return Ok(Outcome::Done);
    }
    plan.create_folder()?;
    let mut report = cx.run_report();
    report.model = Some(serde_json::to_value(model.describe())?);
    report.settings = args.settings(compute);
    let mut statistics = Map::new();
    let total = plan.steps.len();
    for (position, step) in plan.steps.iter().enumerate() {
        let record = match step {
            plan::Step::Skip(job) => {
                cx.say(&format!("{}: exists, skipped", plan::shown_output(job)));
                plan::record(job, Status::Skipped, None)
            }
            plan::Step::Run(job) => {
                let case = case::Case {
                    job,
                    args,
                    predictor: &predictor,
                    first_stage: &first_stage,
                    postprocessing: postprocessing.as_ref(),
                    cx,
                };
                match case.run(position + 1, total, &mut statistics, &mut report.memory) {
                    Ok(record) => record,
                    Err(error) if total == 1 => return Err(error),
                    Err(error) => {
                        let text = one_line(&error);
                        cx.say(&format!("error: {text}"));
                        plan::record(job, Status::Failed, Some(text))
                    }
                }
            }
        };
        report.cases.push(record);
    }
    if let Some(path) = &args.statistics {
        let mut text = serde_json::to_vec_pretty(&Value::Object(statistics))?;
        text.push(b'\n');
        medseg::io::atomic::write(path, args.existing.overwrite(), &text)?;
    }
    let failed = failures(&report.cases, cx);
    cx.write_run_report(report, args.report.report.as_deref())?;
    Ok(if failed {
        Outcome::SomeFailed
    } else {
        Outcome::Done
    })
}

fn load_model(args: &Args, cx: &Context) -> anyhow::Result<Model> {
    match &args.model {
        Some(folder) => model::load(folder, &args.model_options()),
        None => {
            cx.say("note: no --model given: using the embedded model, which was trained on synthetic phantoms, for trying out only");
            model::embedded(&args.model_options())
        }
    }
}

/// Names the failed cases once more at the end of a batch.
fn failures(cases: &[CaseRecord], cx: &Context) -> bool {
    let failed: Vec<&CaseRecord> = cases
        .iter()
        .filter(|case| case.status == Status::Failed)
        .collect();
    if failed.is_empty() {
        return false;
    }
    cx.say(&format!(
        "{} of {} cases failed:",
        failed.len(),
        cases.len()
    ));
    for case in failed {
        cx.say(&format!(
            "  {}: {}",
            case.case,
            case.error.as_deref().unwrap_or("unknown")
        ));
    }
    true
}
