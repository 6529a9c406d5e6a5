//! `medseg check-model`: whether a model folder is fit to run.
//!
//! Plans, dataset and the names and shapes of all tensors are compared while the model is loaded; then every fold's
//! weights are looked through and its network runs on one patch of noise.

use crate::context::{Context, print_json, print_text};
use crate::model;
use crate::outcome::Outcome;
use medseg::io::display_name;
use medseg::nnunet::check::{self, FoldCheck};
use medseg::nnunet::model::{Fold, ModelOptions};
use std::fmt::Write;
use std::path::PathBuf;

/// Check that a model folder is whole and its networks answer to a patch of noise
#[derive(clap::Args)]
#[command(after_help = "\
Exit code 0: fit to run; 4: a fold is not; 1: the folder cannot be read as a model.

Examples:
  medseg check-model nnUNetTrainer__nnUNetPlans__3d_fullres
  medseg check-model -m model/ --folds 0 --json")]
pub struct Args {
    /// nnU-Net results folder with plans.json, dataset.json and fold_*
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Same as DIR
    #[arg(
        short,
        long,
        value_name = "DIR",
        conflicts_with = "folder",
        required_unless_present = "folder"
    )]
    model: Option<PathBuf>,
    /// Folds to check, for example 0,1,2 or all [default: every fold in the folder]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    folds: Vec<Fold>,
    /// File name of the checkpoints
    #[arg(long, value_name = "NAME", default_value = "checkpoint_final.pth")]
    checkpoint: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let folder = args.folder.clone().or_else(|| args.model.clone());
    let folder = folder.unwrap_or_default();
    let options = ModelOptions {
        folds: (!args.folds.is_empty()).then(|| args.folds.clone()),
        checkpoint: args.checkpoint.clone(),
        configuration: None,
    };
    let model = model::load(&folder, &options)?;
    let needed = check::patch_bytes(&model)?;
    anyhow::ensure!(
        needed <= cx.limits.memory_bytes,
        "{}: a patch needs {needed} bytes of memory, the limit is {}",
        display_name(&folder),
        cx.limits.memory_bytes
    );
    let folds = check::check(&model)?;
    let fit = folds.iter().all(|fold| fold.problem.is_none());
    if args.json {
        print_json(&serde_json::json!({
            "model": display_name(&folder),
            "configuration": model.configuration.name,
            "parameters": model.layout().parameters(),
            "fit": fit,
            "folds": folds,
        }))?;
    } else {
        print_text(&as_lines(&folds))?;
    }
    Ok(if fit {
        Outcome::Done
    } else {
        Outcome::CheckFailed
    })
}

fn as_lines(folds: &[FoldCheck]) -> String {
    let mut text = String::new();
    for fold in folds {
        let state = match (&fold.problem, fold.logits) {
            (Some(problem), _) => problem.clone(),
            (None, Some([low, high])) => {
                format!("fit, logits of a noise patch from {low:.3} to {high:.3}")
            }
            (None, None) => "not run".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "fold {}: {} tensors, {state}",
            fold.fold, fold.tensors
        );
    }
    text
}
