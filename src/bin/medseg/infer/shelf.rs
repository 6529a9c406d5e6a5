//! The models of a task, loaded when they are needed.

use crate::model;
use crate::model_store::Store;
use medseg::io::display_name;
use medseg::nnunet::model::{Fold, Model, ModelOptions};
use medseg::nnunet::predict::{OnGpu, PredictOptions, Predictor};
use medseg::nnunet::predict_error::PredictError;
use medseg::tasks::definition::{ModelRef, Task};
use medseg::tasks::run::{Predictors, RunError};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Every model once for one device. In a batch the weights stay in memory; for a single case they go after their last
/// use, so that many models take no more memory than the largest. Shelves of several GPUs share the weights on the host.
pub struct Shelf {
    models: Arc<[Entry]>,
    /// Models on this device, in the order of `models`.
    loaded: Vec<Option<Predictor>>,
    /// Position of the device among those that share the models.
    position: usize,
    keep: bool,
    options: PredictOptions,
}

struct Entry {
    reference: ModelRef,
    model: Model,
    /// The GPUs of all shelves, where there are several.
    gpus: Arc<[OnGpu]>,
    /// For each of the shelves its copy, until it takes it; none before the first one asks.
    copies: Mutex<Option<Vec<Option<Copy>>>>,
}

type Copy = Result<Predictor, PredictError>;

impl Shelf {
    /// Finds all models of `task` and reads everything of them but the weights: a shelf for each of `gpus`, or one for
    /// the processor.
    ///
    /// # Errors
    /// A model that is not there or cannot be loaded.
    pub fn on_each(
        task: &Task,
        store: &Store,
        checkpoint: &str,
        options: &PredictOptions,
        gpus: &[OnGpu],
        keep: bool,
    ) -> anyhow::Result<Vec<Self>> {
        let shared: Arc<[OnGpu]> = if gpus.len() > 1 { gpus } else { &[] }.into();
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
                gpus: Arc::clone(&shared),
                copies: Mutex::new(None),
            });
        }
        let models: Arc<[Entry]> = models.into();
        let shelves = (0..gpus.len().max(1)).map(|position| Self {
            models: Arc::clone(&models),
            loaded: models.iter().map(|_| None).collect(),
            position,
            keep,
            options: PredictOptions {
                gpu: gpus.get(position).cloned(),
                ..options.clone()
            },
        });
        Ok(shelves.collect())
    }

    /// From now on a case may take at most this much memory.
    pub fn set_limit(&mut self, limit_bytes: u64) {
        self.options.limit_bytes = limit_bytes;
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

impl Entry {
    /// The model on the device of the shelf at `position`. The first of several that asks reads the weights for all.
    fn load(&self, position: usize, options: PredictOptions) -> Copy {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.is_none() && !self.gpus.is_empty() {
            let made = Predictor::on_each(&self.model, &options, &self.gpus)?;
            *copies = Some(made.into_iter().map(Some).collect());
        }
        let copy = copies
            .as_mut()
            .and_then(|all| all.get_mut(position)?.take());
        drop(copies);
        copy.unwrap_or_else(|| Predictor::new(&self.model, options))
    }
}

impl Predictors for Shelf {
    fn get(&mut self, model: &ModelRef, held_bytes: u64) -> Result<&Predictor, RunError> {
        let limit_bytes = self.options.limit_bytes.saturating_sub(held_bytes);
        let mut entries = self.models.iter().zip(&mut self.loaded);
        let found = entries.find(|(entry, _)| entry.reference == *model);
        let (entry, place) = found.ok_or_else(|| RunError::Load(model.display().into()))?;
        let loaded = match place.take() {
            Some(loaded) => loaded,
            None => {
                let options = PredictOptions {
                    step: f64::from(model.step_permille) / 1000.0,
                    mirroring: model.mirroring,
                    limit_bytes,
                    ..self.options.clone()
                };
                let loaded = entry.load(self.position, options);
                loaded.map_err(|error| RunError::Load(error.into()))?
            }
        };
        let predictor = place.insert(loaded);
        predictor.set_limit(limit_bytes);
        Ok(predictor)
    }

    fn release(&mut self, model: &ModelRef) {
        if self.keep {
            return;
        }
        for (entry, place) in self.models.iter().zip(&mut self.loaded) {
            if entry.reference == *model {
                *place = None;
            }
        }
    }
}
