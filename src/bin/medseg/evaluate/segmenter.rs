//! `--model`: predictions made in the same run, case after case on all threads.

use super::Args;
use super::items::shown;
use crate::context::Context;
use crate::model;
use anyhow::Context as _;
use medseg::evaluate::results::ModelSettings;
use medseg::io::nifti::{self, Header, Reader};
use medseg::io::{Limits, display_name, labels};
use medseg::nnunet::model::ModelOptions;
use medseg::nnunet::predict::{Accumulate, PredictOptions, Predictor};
use medseg::volume::{LabelMap, LabelTable, Volume};
use std::path::{Path, PathBuf};

/// A model that is ready to segment.
pub struct Segmenter {
    predictor: Predictor,
    settings: ModelSettings,
    table: LabelTable,
    channels: usize,
    limits: Limits,
}

impl Segmenter {
    /// Loads the model of the command line, where there is one.
    pub fn load(args: &Args, cx: &Context) -> anyhow::Result<Option<Self>> {
        let Some(folder) = &args.model else {
            return Ok(None);
        };
        let mut choice = args.arithmetic.choose(cx)?;
        if let [first, _, ..] = &choice.gpus[..] {
            let (device, used) = (&args.arithmetic.device, first.gpu.label());
            cx.say(&format!(
                "note: --device {device}: evaluate uses one GPU, {used}; infer spreads cases over several"
            ));
        }
        choice.keep(1);
        let model = model::load(folder, &ModelOptions::default())?;
        let options = PredictOptions {
            step: 0.5,
            mirroring: !args.no_mirroring,
            accumulate: Accumulate::Half,
            compute: choice.compute,
            gpu: choice.gpus.first().cloned(),
            probabilities: false,
            uncertainty: false,
            skip_air: false,
            limit_bytes: cx.limits.memory_bytes,
        };
        let predictor = Predictor::new(&model, options)?;
        if let Some(stage) = predictor.previous_stage() {
            anyhow::bail!(
                "{}: is the second stage of a cascade and needs the label maps of {stage}: segment with that, then name its output with --predictions",
                model.display()
            );
        }
        let settings = ModelSettings {
            name: shown(folder),
            folds: model.folds().map(|fold| fold.to_string()).collect(),
            mirroring: !args.no_mirroring,
            precision: choice.precision().to_owned(),
        };
        Ok(Some(Self {
            predictor,
            settings,
            table: model.dataset.label_table(),
            channels: model.dataset.channel_names.len(),
            limits: cx.limits,
        }))
    }

    /// What the results file says about the model.
    pub fn settings(&self) -> ModelSettings {
        self.settings.clone()
    }

    /// Names of the model's labels.
    pub fn table(&self) -> LabelTable {
        self.table.clone()
    }

    /// Files per case.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Segments the image in `files`, one per channel.
    pub fn segment(
        &self,
        files: &[PathBuf],
        case: &str,
        cx: &Context,
    ) -> anyhow::Result<Segmented> {
        let mut channels: Vec<Volume<f32>> = Vec::new();
        let mut first = None;
        for path in files {
            let reader = Reader::open(path, &self.limits)?;
            if first.is_none() {
                let estimate = self.predictor.memory_estimate(&reader.header().grid)?;
                estimate
                    .check(self.limits.memory_bytes)
                    .with_context(|| display_name(path))?;
            }
            let (volumes, header) = reader.into_f32()?;
            channels.extend(volumes);
            first.get_or_insert(header);
        }
        let header = first.ok_or_else(|| anyhow::anyhow!("a case without images"))?;
        let progress = cx.progress(case);
        let prediction = self.predictor.predict(&channels, None, &progress)?;
        cx.warn_of_gpu(prediction.gpu_problem.as_deref());
        Ok(Segmented {
            map: prediction.label_map,
            header,
        })
    }
}

/// What a model made of an image.
pub struct Segmented {
    /// The labels.
    pub map: LabelMap,
    header: Header,
}

impl Segmented {
    /// Writes the label map into `folder` under the name of its case.
    pub fn save(&self, folder: &Path, case: &str, args: &Args) -> anyhow::Result<()> {
        let path = folder.join(format!("{case}.nii.gz"));
        let extensions = labels::with_table(&[], &self.map.table);
        let overwrite = args.existing.overwrite();
        let geometry = &self.header.geometry;
        nifti::save_label_map(&path, &self.map, geometry, extensions, overwrite)?;
        Ok(())
    }
}
