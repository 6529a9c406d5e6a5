//! Where the second stage of a cascade gets the first stage's label map from.

use super::Args;
use crate::arithmetic::Choice;
use crate::context::Context;
use crate::model;
use crate::outcome::Usage;
use anyhow::Context as _;
use medseg::io::batch::case_name;
use medseg::io::{display_name, nifti};
use medseg::nnunet::model::{Model, ModelOptions};
use medseg::nnunet::predict::{CasePlan, Predictor};
use medseg::progress::Progress;
use medseg::volume::{Grid, LabelMap, LabelTable, Volume};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Largest distance between corresponding voxels of an image and a label map made from it.
const TOLERANCE_MM: f64 = 1e-3;

/// The first stage.
pub enum FirstStage {
    /// The model is no cascade.
    None,
    /// Another model, which runs first.
    Model(Box<Predictor>),
    /// The label map of the only case.
    File(PathBuf),
    /// A folder of label maps, named as the cases.
    Folder(PathBuf),
}

impl FirstStage {
    /// What `--previous` names, or else the model of the first stage beside the `second`; once for each device.
    ///
    /// # Errors
    /// `--previous` for a model that is no cascade; a first stage that is not there or cannot be loaded.
    pub fn on_each(
        args: &Args,
        choice: &Choice,
        second: &Model,
        cx: &Context,
    ) -> anyhow::Result<Vec<anyhow::Result<Self>>> {
        let on_each = |make: &dyn Fn() -> Self| {
            let devices = choice.devices().into_iter();
            Ok(devices.map(|_| Ok(make())).collect())
        };
        let Some(stage) = &second.configuration.previous_stage else {
            if args.previous.is_some() {
                return Err(Usage(
                    "--previous: the model is no second stage of a cascade".to_owned(),
                )
                .into());
            }
            return on_each(&|| Self::None);
        };
        let folder = match &args.previous {
            Some(path) if path.join("plans.json").exists() => path.clone(),
            Some(path) if path.is_dir() => return on_each(&|| Self::Folder(path.clone())),
            Some(path) => {
                // Found out before any case is read.
                nifti::read_header(path)?;
                return on_each(&|| Self::File(path.clone()));
            }
            None => sibling(args.model.as_deref(), stage)?,
        };
        let options = ModelOptions {
            configuration: Some(stage.clone()),
            ..args.model_options()
        };
        let model: Model = model::load(&folder, &options)?;
        cx.detail(&format!("first stage: {}", display_name(&folder)));
        let mut options = args.predict_options(choice, cx.limits.memory_bytes);
        (options.probabilities, options.uncertainty) = (false, false);
        anyhow::ensure!(
            model.configuration.previous_stage.is_none(),
            "{}: is itself a second stage of a cascade; expected the model of {stage}",
            display_name(&folder)
        );
        let first = Predictor::on_each(&model, &options, &choice.gpus)?.into_iter();
        Ok(first.map(|made| Ok(Self::Model(Box::new(made?)))).collect())
    }

    /// The first stage's label map of the case `id` on the grid of its channels, and why the processor made what a GPU
    /// was to make.
    ///
    /// # Errors
    /// A label map that is missing, unreadable or of another grid; what prediction can run into.
    pub fn label_map(
        &self,
        id: &OsStr,
        channels: &[Volume<f32>],
        progress: &dyn Progress,
        cx: &Context,
    ) -> anyhow::Result<Option<(LabelMap, Option<String>)>> {
        let path = match self {
            Self::None => return Ok(None),
            Self::Model(first) => {
                let prediction = first.predict(channels, None, progress);
                let prediction = prediction.context("first stage")?;
                cx.warn_of_gpu(prediction.gpu_problem.as_deref());
                return Ok(Some((prediction.label_map, prediction.gpu_problem)));
            }
            Self::File(path) => path.clone(),
            Self::Folder(folder) => find_label_map(folder, id)?,
        };
        let (labels, _) = cx.open(&path)?.into_label_map(LabelTable::default())?;
        if let Some(first) = channels.first() {
            labels
                .grid()
                .check_matches(first.grid(), TOLERANCE_MM)
                .with_context(|| {
                    format!(
                        "{}: is not on the grid of the image of case {}",
                        display_name(&path),
                        id.display()
                    )
                })?;
        }
        Ok(Some((labels, None)))
    }

    /// The model, where the first stage is one.
    pub fn predictor(&mut self) -> Option<&mut Predictor> {
        match self {
            Self::Model(first) => Some(first),
            _ => None,
        }
    }

    /// Of the second stage's plan and the first stage's for an image of this grid the one that takes more memory.
    ///
    /// # Errors
    /// As [`Predictor::case_plan`].
    pub fn larger(&self, second: CasePlan, grid: &Grid) -> anyhow::Result<CasePlan> {
        let Self::Model(first) = self else {
            return Ok(second);
        };
        let first = first.case_plan(grid)?;
        Ok(if first.memory.peak > second.memory.peak {
            first
        } else {
            second
        })
    }
}

/// `Trainer__Plans__3d_lowres` beside `Trainer__Plans__3d_cascade_fullres`.
fn sibling(model: Option<&Path>, stage: &str) -> anyhow::Result<PathBuf> {
    let hint = "name its model folder, or its label maps, with --previous";
    let Some(model) = model else {
        anyhow::bail!("the model is the second stage of a cascade: {hint}");
    };
    let shown = display_name(model);
    // A model folder may be a link: its neighbours are those of the link.
    let own = std::path::absolute(model).with_context(|| format!("cannot read {shown}"))?;
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    let folder = name
        .rsplit_once("__")
        .map(|(start, _)| own.with_file_name(format!("{start}__{stage}")));
    match folder {
        Some(folder) if folder.join("plans.json").exists() => Ok(folder),
        Some(folder) => anyhow::bail!(
            "{shown}: is the second stage of a cascade, and there is no {} beside it for the first: {hint}",
            display_name(Path::new(folder.file_name().unwrap_or_default()))
        ),
        None => anyhow::bail!(
            "{shown}: is the second stage of a cascade and needs the label maps of {stage}: {hint}"
        ),
    }
}

/// The file of `folder` that is called as the case.
fn find_label_map(folder: &Path, id: &OsStr) -> anyhow::Result<PathBuf> {
    let shown = display_name(folder);
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {shown}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {shown}"))?
            .path();
        if path.is_file() && case_name(&path) == id {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => anyhow::bail!(
            "{shown}: has no label map called {}, as the case is",
            id.display()
        ),
        [first, second, ..] => anyhow::bail!(
            "{shown}: has several label maps of case {}: {} and {}",
            id.display(),
            display_name(first),
            display_name(second)
        ),
    }
}
