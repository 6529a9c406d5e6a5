//! Carrying out a task.

use super::definition::{Included, Input, ModelRef, ModelUse, Step, Task, Work};
use super::images::{Images, input_grid, used_channels};
use super::merge::{MappingError, Merged, Ranks, Translation};
use super::steps::{self, StepError};
use crate::geometry::bounds::{BoundingBox, BoundsError};
use crate::geometry::orientation::{OrientationError, Turn};
use crate::geometry::resample::{Interpolation, ResampleError, zoom_to_shape};
use crate::nnunet::predict::{CasePlan, Predictor};
use crate::nnunet::predict_error::PredictError;
use crate::progress::Progress;
use crate::volume::{Grid, GridMismatch, LabelMap, LabelTable, ShapeMismatch, Volume};
use ndarray::Array3;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a task could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The case has not the images that the task takes.
    #[error("the task takes the channels {names}, {found} image(s) were given")]
    ChannelCount {
        /// Images given.
        found: usize,
        /// Names of the channels.
        names: String,
    },
    /// A channel is on another grid than the first.
    #[error("channel {name} is not on the grid of the first: {source}")]
    Channel {
        /// Its name.
        name: String,
        /// The first difference.
        source: GridMismatch,
    },
    /// A channel was asked for more often than announced: an error of the program.
    #[error("channel {0} was released before its last use")]
    Used(usize),
    /// A model failed.
    #[error("model {model}: {source}")]
    Predict {
        /// Which model.
        model: String,
        /// Why.
        source: Box<PredictError>,
    },
    /// A model could not be loaded.
    #[error("{0}")]
    Load(Box<dyn std::error::Error + Send + Sync>),
    /// A model's labels are not those that the task maps.
    #[error("model {model}: {source}")]
    Mapping {
        /// Which model.
        model: String,
        /// Why.
        source: MappingError,
    },
    /// A post-step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// From turning.
    #[error(transparent)]
    Orientation(#[from] OrientationError),
    /// From resampling.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// From cropping.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// Arrays and grids that do not fit: an error of the program.
    #[error(transparent)]
    Shape(#[from] ShapeMismatch),
}

impl RunError {
    /// Whether a GPU failed: it may go on failing, whatever the images.
    pub fn is_of_gpu(&self) -> bool {
        match self {
            Self::Predict { source, .. } => source.is_of_gpu(),
            Self::Load(error) => error
                .downcast_ref::<PredictError>()
                .is_some_and(PredictError::is_of_gpu),
            _ => false,
        }
    }
}

/// Where the models of a task come from.
pub trait Predictors {
    /// The model, loaded where it is not yet. It may take all memory but `held_bytes`.
    ///
    /// # Errors
    /// [`RunError::Load`].
    fn get(&mut self, model: &ModelRef, held_bytes: u64) -> Result<&Predictor, RunError>;

    /// The task at hand needs the model no more.
    fn release(&mut self, model: &ModelRef);
}

/// Hears what was done, in order: for timings and run reports.
pub trait Witness {
    /// The step `name` has ended.
    fn done(&mut self, name: &str);
    /// Something that people should know.
    fn remark(&mut self, text: &str);
    /// Why the processor did what a GPU was to do.
    fn gpu_problem(&mut self, text: &str);
}

/// Carries `task` out on `images`. The result is on the grid of the first image. The same bytes for any
/// number of threads. Memory: the versions of the images that are still needed, one model with what its
/// prediction takes, and 2 bytes per voxel for each label map under way.
///
/// # Errors
/// [`RunError`].
pub fn run(
    task: &Task,
    images: &mut Images,
    predictors: &mut dyn Predictors,
    witness: &mut dyn Witness,
    progress: &dyn Progress,
) -> Result<LabelMap, RunError> {
    let mut left = BTreeMap::new();
    task.each_leaf(&mut |leaf| {
        if let Work::Models { models, .. } = &leaf.work {
            for used in models {
                *left.entry(used.model.clone()).or_insert(0) += 1;
            }
        }
    });
    let channels: Vec<usize> = (0..task.channels.len()).collect();
    let mut runner = Runner {
        images,
        predictors,
        witness,
        progress,
        left,
    };
    let labels = runner.task(task, &channels)?;
    Ok(LabelMap {
        volume: labels,
        table: task.result_table(),
    })
}

/// The plan of the model that takes most memory for an image of `grid`, with its name and the bytes that the
/// image itself takes meanwhile.
///
/// # Errors
/// What loading and planning return.
pub fn largest_plan(
    task: &Task,
    grid: &Grid,
    predictors: &mut dyn Predictors,
) -> Result<Option<(String, CasePlan)>, RunError> {
    let mut leaves = Vec::new();
    task.each_leaf(&mut |leaf| leaves.push(leaf));
    let held = (task.channels.len() * grid.voxel_count() * size_of::<f32>()) as u64;
    let mut largest: Option<(String, CasePlan)> = None;
    for leaf in leaves {
        let Work::Models { input, models, .. } = &leaf.work else {
            continue;
        };
        let seen = input_grid(grid, input)?;
        for used in models {
            let plan = predictors.get(&used.model, held)?.case_plan(&seen);
            let mut plan = plan.map_err(|source| RunError::Predict {
                model: used.model.display(),
                source: Box::new(source),
            })?;
            if seen != *grid {
                plan.memory.peak += held;
            }
            predictors.release(&used.model);
            if largest
                .as_ref()
                .is_none_or(|(_, most)| most.memory.peak < plan.memory.peak)
            {
                largest = Some((used.model.display(), plan));
            }
        }
    }
    Ok(largest)
}

impl Task {
    /// The labels that the result can hold.
    pub fn result_table(&self) -> LabelTable {
        let Some(kept) = &self.kept else {
            return self.labels.clone();
        };
        let mut table = LabelTable::default();
        for (number, label) in self.labels.iter() {
            if number == 0 || kept.contains(&number) {
                table.insert(number, label.clone());
            }
        }
        table
    }
}

struct Runner<'a> {
    images: &'a mut Images,
    predictors: &'a mut dyn Predictors,
    witness: &'a mut dyn Witness,
    progress: &'a dyn Progress,
    /// How often each model is still going to run.
    left: BTreeMap<ModelRef, usize>,
}

impl Runner<'_> {
    /// The labels of `task` on the image's grid; `channels` are its channels' positions among the images.
    fn task(&mut self, task: &Task, channels: &[usize]) -> Result<Volume<u16>, RunError> {
        let mut labels = match &task.work {
            Work::Models { input, models, .. } => self.models(task, input, models, channels)?,
            Work::Tasks(tasks) => self.tasks(task, tasks, channels)?,
        };
        if let Some(kept) = &task.kept {
            let same = Translation::of_pairs(kept.iter().map(|&label| (label, label)));
            labels.data_mut().mapv_inplace(|label| same.apply(label));
        }
        Ok(labels)
    }

    fn tasks(
        &mut self,
        task: &Task,
        tasks: &[Included],
        channels: &[usize],
    ) -> Result<Volume<u16>, RunError> {
        let grid = *self.images.grid();
        let mut merged = Merged::new(grid.shape, Ranks::new(&task.priority));
        for included in tasks {
            let inner: Vec<usize> = included.channels.iter().map(|&c| channels[c]).collect();
            let found = self.task(&included.task, &inner)?;
            let pairs = included.labels.iter().map(|(from, to)| (*from, *to));
            merged.add(found.into_parts().0, &Translation::of_pairs(pairs));
        }
        self.witness.done("merge");
        let mut labels = Volume::new(merged.finish(), grid)?;
        for step in &task.steps {
            steps::apply(step, &mut labels, self.images.first())?;
            self.witness.done(step.name());
        }
        Ok(labels)
    }

    fn models(
        &mut self,
        task: &Task,
        input: &Input,
        models: &[ModelUse],
        channels: &[usize],
    ) -> Result<Volume<u16>, RunError> {
        let grid = *self.images.grid();
        let region = match &input.crop {
            None => None,
            Some(crop) => {
                let rough = self.task(&crop.task, channels)?;
                let found =
                    BoundingBox::of(rough.data().view(), |label| crop.labels.contains(label));
                let Some(found) = found else {
                    self.witness.remark(&format!(
                        "{}: {} found nothing of the region of interest: the result is empty",
                        task.name, crop.task.name
                    ));
                    return Ok(Volume::filled(0, grid));
                };
                let margin = margin_voxels(crop.margin_mm, &grid);
                Some(found.expanded(margin, grid.shape))
            }
        };
        let mut seen: BTreeMap<usize, Arc<Volume<f32>>> = BTreeMap::new();
        for used in used_channels(models) {
            let (image, done) = self.images.take(channels[used], input, region)?;
            if let Some(done) = done {
                let name = &task.channels[used];
                self.witness.done(&format!("channel {name} {done}"));
            }
            seen.insert(used, image);
        }
        let Some(seen_grid) = seen.values().next().map(|image| *image.grid()) else {
            return Ok(Volume::filled(0, grid));
        };
        let mut merged = Merged::new(seen_grid.shape, Ranks::new(&task.priority));
        for used in models {
            let images: Vec<Arc<Volume<f32>>> =
                used.channels.iter().map(|c| Arc::clone(&seen[c])).collect();
            let (found, translation) = self.predict(task, used, &images, merged.voxels())?;
            merged.add(found, &translation);
        }
        let mut labels = Volume::new(merged.finish(), seen_grid)?;
        let first = seen.values().next().map(Arc::as_ref);
        for step in &task.steps {
            steps::apply(step, &mut labels, first)?;
            self.witness.done(step.name());
        }
        let cropped = match region {
            None => grid,
            Some(region) => crate::geometry::bounds::shifted_grid(
                &grid,
                region.start.map(|index| index as i64),
                region.shape(),
            ),
        };
        let back = back_to(labels, input, &cropped)?;
        let Some(region) = region else {
            return Ok(Volume::new(back, grid)?);
        };
        let mut whole = Array3::zeros(grid.shape);
        region.paste(back.view(), &mut whole.view_mut())?;
        Ok(Volume::new(whole, grid)?)
    }

    /// A model's labels on the grid of its input, and what they become.
    fn predict(
        &mut self,
        task: &Task,
        used: &ModelUse,
        images: &[Arc<Volume<f32>>],
        merged_voxels: usize,
    ) -> Result<(Array3<u16>, Translation), RunError> {
        let model = used.model.display();
        let seen: u64 = images
            .iter()
            .map(|image| (image.grid().voxel_count() * size_of::<f32>()) as u64)
            .sum();
        let merged = (merged_voxels * size_of::<u16>()) as u64;
        // The images a model sees are part of its own plan.
        let held = merged + self.images.bytes().saturating_sub(seen);
        let predictor = self.predictors.get(&used.model, held)?;
        self.witness.done(&format!("load {model}"));
        let channels: Vec<&Volume<f32>> = images.iter().map(Arc::as_ref).collect();
        for (index, doubt) in predictor.doubts(&channels) {
            let name = &task.channels[used.channels[index]];
            self.witness
                .remark(&format!("model {model}: channel {name} {doubt}"));
        }
        let prediction = predictor.predict(&channels, None, self.progress);
        let prediction = prediction.map_err(|source| RunError::Predict {
            model: model.clone(),
            source: Box::new(source),
        })?;
        if let Some(problem) = &prediction.gpu_problem {
            self.witness
                .gpu_problem(&format!("model {model}: {problem}"));
        }
        if let Some(left) = self.left.get_mut(&used.model) {
            *left -= 1;
            if *left == 0 {
                self.predictors.release(&used.model);
            }
        }
        self.witness.done(&format!("predict {model}"));
        let labels = prediction.label_map;
        let translation = Translation::new(&used.labels, &labels.table, &task.labels)
            .map_err(|source| RunError::Mapping { model, source })?;
        Ok((labels.volume.into_parts().0, translation))
    }
}

impl Step {
    /// How task files call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Discard { .. } => "discard",
            Self::KeepLargest { .. } => "keep-largest",
            Self::RemoveSmall { .. } => "remove-small",
            Self::VesselConnect { .. } => "vessel-connect",
        }
    }
}

/// Whole voxels of a margin, rounded down as `TotalSegmentator` does.
fn margin_voxels(margin_mm: [f64; 3], grid: &Grid) -> [usize; 3] {
    std::array::from_fn(|axis| (margin_mm[axis] / grid.spacing_mm[axis]) as usize)
}

/// Labels from the grid that models see to `grid`: nearest voxel with aligned corners, then turned back.
fn back_to(labels: Volume<u16>, input: &Input, grid: &Grid) -> Result<Array3<u16>, RunError> {
    if !input.canonical {
        return Ok(labels.into_parts().0);
    }
    let turn = Turn::to_canonical(&grid.affine)?;
    let shape = turn.grid(grid).shape;
    let back = if labels.shape() == shape {
        labels.into_parts().0
    } else {
        zoom_to_shape(labels.data().view(), shape, Interpolation::Nearest)?
    };
    Ok(if turn.is_identity() {
        back
    } else {
        turn.inverse().array(back.view())
    })
}
