//! `medseg infer`: runs an nnU-Net model on images.
//!
//! The model is loaded once; cases run one after another, each on all threads, or on several GPUs at a time. Every output is
//! written whole or not at all, a failed case is reported and the rest go on.

mod cascade;
mod case;
mod cases;
mod companion;
mod plan;
mod shelf;
mod task;

use crate::arithmetic::{Arithmetic, Choice};
use crate::context::Context;
use crate::flags::{Existing, RunOutput};
use crate::label_output::{LabelFormat, Target};
use crate::memory::Room;
use crate::model;
use crate::model_store::ModelFolder;
use crate::outcome::{Outcome, Usage};
use cascade::FirstStage;
use case::Tools;
use cases::Worker;
use clap::ValueEnum;
use companion::Companion;
use medseg::io::batch::Job;
use medseg::io::picture;
use medseg::nnunet::model::{Fold, Model, ModelOptions};
use medseg::nnunet::predict::{Accumulate, PredictOptions, Predictor};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

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
  medseg infer -i ct.nii.gz -m model/ -o organs.nii.gz --uncertainty --json
  medseg infer --task totalseg:fast -i ct.nii.gz -o organs/ --per-class --model-dir models/
  medseg infer --task totalseg --roi-subset liver -i ct.nii.gz -o liver.nii.gz --model-dir models/
  medseg infer --task mine.toml -i A=early.nii.gz,P=late.nii.gz -o v.nii.gz --model-dir models/
  medseg infer --task mine.toml -i A=early.nii.gz,P=late.nii.gz -o r.nii.gz --model-dir models/ --register
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
    /// Task to run instead of one model: a built-in name (medseg info --tasks) or a TOML file
    #[arg(
        long,
        value_name = "NAME|FILE",
        conflicts_with_all = ["model", "folds", "configuration", "previous", "step", "no_mirroring", "postprocessing", "probabilities", "uncertainty"]
    )]
    task: Option<String>,
    #[command(flatten)]
    models: ModelFolder,
    /// Labels of the task to find: only the models they need run, in the region where a rough model sees them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "task")]
    roi_subset: Vec<String>,
    /// Remove pieces of any label of the task up to this volume, in mm3 [default: none]
    #[arg(long, value_name = "MM3", requires = "task")]
    remove_small_blobs: Option<f64>,
    /// Find the rigid motion between the first image of a case and each other one, by mutual information, and undo it; the
    /// motion and its quality go into the run report [default: images lie where their headers say]
    #[arg(long, requires = "task")]
    register: bool,
    /// Write a folder with a mask per class, <NAME>.nii.gz, instead of one label map
    #[arg(long, requires = "task", conflicts_with = "to")]
    per_class: bool,
    /// Write one label map, which is the default: understood for scripts of TotalSegmentator
    #[arg(long, requires = "task", conflicts_with = "per_class")]
    ml: bool,
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
    /// nnU-Net's postprocessing.json or .pkl, applied to the label map: keeps largest components [default: none]
    #[arg(long, value_name = "FILE")]
    postprocessing: Option<PathBuf>,
    /// Also write <OUTPUT>_probabilities.nii.gz, 32-bit floats, one volume per class
    #[arg(long)]
    probabilities: bool,
    /// Also write <OUTPUT>_uncertainty.nii.gz, the entropy of every voxel's class probabilities in nats, and with several
    /// folds <OUTPUT>_disagreement.nii.gz, their mutual information in nats; label means go into the run report
    #[arg(long)]
    uncertainty: bool,
    /// Write volume (mL), mean HU and border contact of every label to this JSON file
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
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
    run: RunOutput,
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

impl Args {
    fn predict_options(&self, choice: &Choice, limit_bytes: u64) -> PredictOptions {
        PredictOptions {
            step: self.step,
            mirroring: !self.no_mirroring,
            accumulate: match self.accumulate {
                AccumulateFlag::Half => Accumulate::Half,
                AccumulateFlag::Float => Accumulate::Float,
            },
            compute: choice.compute,
            gpu: None,
            probabilities: self.probabilities,
            uncertainty: self.uncertainty,
            skip_air: self.skip_air,
            limit_bytes,
        }
    }

    /// What is written for each case.
    fn files(&self, model: &Model) -> plan::Files {
        let ending = self.format.ending_for(&model.dataset.file_ending);
        let compares_folds = self.uncertainty && model.folds().len() > 1;
        let asked = [
            (self.probabilities, Companion::Probabilities),
            (self.uncertainty, Companion::Uncertainty),
            (compares_folds, Companion::Disagreement),
            (self.writes_spacing(model), Companion::Spacing),
        ];
        let asked = asked.into_iter().filter(|(is_asked, _)| *is_asked);
        plan::Files::Map {
            ending,
            companions: asked.map(|(_, companion)| companion).collect(),
        }
    }

    /// Whether label maps are TIFF stacks, which nnU-Net keeps the spacing of in a file of its own.
    fn writes_spacing(&self, model: &Model) -> bool {
        let is_volume = medseg::io::batch::case_name(&self.output).as_os_str()
            != self.output.file_name().unwrap_or_default()
            && !picture::is_picture_name(&self.output);
        let ending = self.format.ending_for(&model.dataset.file_ending);
        model.plans.reads_stacks && ending.starts_with(".tif") && !is_volume
    }

    /// Where the label map of a case goes.
    fn target(&self, job: &Job, cx: &Context) -> anyhow::Result<Target> {
        let files = job.case.channels.iter().map(PathBuf::as_path);
        let files: Vec<&Path> = files.collect();
        self.format.target(&job.output, &job.case.id, &files, cx)
    }

    fn model_options(&self) -> ModelOptions {
        ModelOptions {
            folds: (!self.folds.is_empty()).then(|| self.folds.clone()),
            checkpoint: self.checkpoint.clone(),
            configuration: self.configuration.clone(),
        }
    }

    /// What decides the result, for the run report.
    fn settings<T>(&self, choice: &Choice, workers: &[Worker<T>]) -> Map<String, Value> {
        let devices: Vec<&str> = workers.iter().map(|it| it.device.as_str()).collect();
        let settings = json!({
            "step": self.step,
            "mirroring": !self.no_mirroring,
            "skip_air": self.skip_air,
            "accumulate": match self.accumulate {
                AccumulateFlag::Half => "f16",
                AccumulateFlag::Float => "f32",
            },
            "device": devices.join(", "),
            "versions": choice.versions(),
            "precision": choice.precision(),
            "isa": choice.compute.isa.name(),
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
    let mut choice = args.arithmetic.choose(cx)?;
    if let Some(name) = &args.task {
        return task::run(name, &inputs, args, choice, cx);
    }
    let model = load_model(args, cx)?;
    let channels = model.dataset.channel_names.len();
    let plan = plan::Plan::new(&inputs, args, channels, args.files(&model))?;
    choice.keep(plan.to_run());
    let mut workers = load_workers(args, &choice, &model, cx)?;
    let postprocessing = model::postprocessing(args.postprocessing.as_deref())?;
    if args.dry_run {
        let room = Room::new(cx.limits.memory_bytes, workers.len());
        let tools = &mut workers[0].tools;
        plan.print(String::new(), cx, |grid| {
            room.plan(|limit| tools.plan(grid, limit), |plan| plan.memory.peak)
        })?;
        return Ok(Outcome::Done);
    }
    let mut report = cx.run_report();
    report.model = Some(serde_json::to_value(model.describe())?);
    report.settings = args.settings(&choice, &workers);
    cases::run(args, &plan, report, cx, &mut workers, |tools, turn| {
        let mut case = case::Case {
            turn,
            args,
            tools,
            postprocessing: postprocessing.as_ref(),
            writes_spacing: args.writes_spacing(&model),
            cx,
        };
        case.run()
    })
}

/// The weights of both stages on every device.
fn load_workers(
    args: &Args,
    choice: &Choice,
    model: &Model,
    cx: &Context,
) -> anyhow::Result<Vec<Worker<Tools>>> {
    let options = args.predict_options(choice, cx.limits.memory_bytes);
    let predictors = Predictor::on_each(model, &options, &choice.gpus)?;
    let first_stages = FirstStage::on_each(args, choice, model, cx)?;
    let tools = predictors.into_iter().zip(first_stages);
    let tools = tools.map(|(predictor, first_stage)| {
        Ok(Tools {
            predictor: predictor?,
            first_stage: first_stage?,
        })
    });
    cases::workers(choice, tools.collect(), Tools::gpu_problem, cx)
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
