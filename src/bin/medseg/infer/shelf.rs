//! The models of a task, loaded when they are needed.

use crate::model;
use crate::model_store::Store;
use medseg::io::display_name;
use medseg::nnunet::model::{Fold, Model, ModelOptions};
use medseg::nnunet::predict::{PredictOptions, Predictor};
use medseg::tasks::definition::{ModelRef, Task};
use medseg::tasks::run::{Predictors, RunError};
use serde_json::{Value, json};

/// Every model once. In a batch the weights stay in memory; for a single case they go after their last use, so that
/// many models take no more memory than the largest.
pub struct Shelf {
    models: Vec<Entry>,
    keep: bool,
    options: PredictOptions,
}

struct Entry {
    reference: ModelRef,
    model: Model,
    predictor: Option<Predictor>,
}

impl Shelf {
    /// Finds all models of `task` and reads everything of them but the weights.
    ///
    /// # Errors
    /// A model that is not there or cannot be loaded.
    pub fn new(
        task: &Task,
        store: &Store,
        checkpoint: &str,
        options: PredictOptions,
        keep: bool,
    ) -> anyhow::Result<Self> {
        let mut models = Vec::new();
        for reference in task.models() {
            let folds = reference.folds.as_ref();
            let model_options = ModelOptions {
                folds: folds.map(|folds| folds.iter().map(|&fold| Fold::Number(fold)).collect()),
                checkpoint: checkpoint.to_owned(),
                configuration: None,
            };
            models.push(Entry {
                reference: reference.clone(),
                model: model::load(&store.find(reference)?, &model_options)?,
                predictor: None,
            });
        }
        Ok(Self {
            models,
            keep,
            options,
        })
    }

    /// All models, for the run report.
    ///
    /// # Errors
    /// None in practice.
    pub fn describe(&self) -> anyhow::Result<Vec<Value>> {
        let models = self.models.iter().map(|entry| {
            Ok(json!({
                "name": entry.reference.display(),
                "model": entry.model.describe(),
            }))
        });
        models.collect()
    }

    /// Name and folder of every model.
    pub fn list(&self) -> Vec<String> {
        let entries = self.models.iter();
        entries
            .map(|entry| {
                let folder = entry.model.display();
                format!(
                    "{}: {}",
                    entry.reference.display(),
                    display_name(folder.as_ref())
                )
            })
            .collect()
    }
}

impl Predictors for Shelf {
    fn get(&mut self, model: &ModelRef, held_bytes: u64) -> Result<&Predictor, RunError> {
        let limit_bytes = self.options.limit_bytes.saturating_sub(held_bytes);
        let found = self
            .models
            .iter_mut()
            .find(|entry| entry.reference == *model);
        let entry = found.ok_or_else(|| RunError::Load(model.display().into()))?;
        let loaded = match entry.predictor.take() {
            Some(loaded) => loaded,
            None => {
                let options = PredictOptions {
                    step: f64::from(model.step_permille) / 1000.0,
                    mirroring: model.mirroring,
                    limit_bytes,
                    ..self.options.clone()
                };
                Predictor::new(&entry.model, options)
                    .map_err(|error| RunError::Load(error.into()))?
            }
        };
        let predictor = entry.predictor.insert(loaded);
        predictor.set_limit(limit_bytes);
        Ok(predictor)
    }

    fn release(&mut self, model: &ModelRef) {
        if self.keep {
            return;
        }
        for entry in &mut self.models {
            if entry.reference == *model {
                entry.predictor = None;
            }
        }
    }
}
