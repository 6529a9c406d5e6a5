//! What a task is, once its file is checked.

use crate::volume::LabelTable;
use std::collections::BTreeMap;

/// Models, or other tasks, and what becomes of their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// How it is called.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Its input images by name; the result has the grid of the first.
    pub channels: Vec<String>,
    /// The labels of its result.
    pub labels: LabelTable,
    /// Labels that win a voxel over others, highest rank first; among labels that are not here the
    /// later model wins.
    pub priority: Vec<u16>,
    /// Where the labels come from.
    pub work: Work,
    /// What is done to the merged labels: with models at their resolution, with tasks on the image.
    pub steps: Vec<Step>,
    /// Labels that the result keeps; `None` keeps all.
    pub kept: Option<Vec<u16>>,
}

/// Where a task's labels come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Models on one input.
    Models {
        /// What they see.
        input: Input,
        /// In the order in which they are merged.
        models: Vec<ModelUse>,
        /// The task that finds the region for a subset of labels, in `TotalSegmentator`'s way.
        subset_crop: Option<String>,
    },
    /// Other tasks, in the order in which they are merged.
    Tasks(Vec<Included>),
}

/// What the models of a task see.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Whether the image is turned to the axes closest to RAS+ first.
    pub canonical: bool,
    /// Spacing to which it is resampled before the models see it, `[z, y, x]`; `None` leaves it.
    pub spacing_mm: Option<[f64; 3]>,
    /// Only the box around these labels of another task.
    pub crop: Option<Box<Crop>>,
}

/// A region of interest.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop {
    /// Finds the region.
    pub task: Task,
    /// Its labels that make up the region.
    pub labels: Vec<u16>,
    /// Added on all sides, along `[z, y, x]`.
    pub margin_mm: [f64; 3],
}

/// A model and what becomes of its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelUse {
    /// Which model.
    pub model: ModelRef,
    /// Positions of its channels among the task's.
    pub channels: Vec<usize>,
    /// Its labels in the task's table.
    pub labels: LabelMapping,
}

/// How a model's labels are named in a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelMapping {
    /// The same number.
    Numbers,
    /// The label of the same name; labels without one are left out.
    Names,
    /// By number.
    ByNumber(BTreeMap<u16, u16>),
    /// By the model's name for it.
    ByName(BTreeMap<String, u16>),
}

/// How a model is found and run. Two uses with equal references share one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelRef {
    /// Number or name of the dataset, or a path.
    pub dataset: String,
    /// Name of the trainer, where one is asked for.
    pub trainer: Option<String>,
    /// Name of the plans, where one is asked for.
    pub plans: Option<String>,
    /// The configuration, where one is asked for.
    pub configuration: Option<String>,
    /// The folds; `None` takes all there are.
    pub folds: Option<Vec<u32>>,
    /// Distance of tiles in thousandths of the patch.
    pub step_permille: u32,
    /// Whether mirrored patches are averaged.
    pub mirroring: bool,
}

impl ModelRef {
    /// `dataset`, with what else was asked for, for people.
    pub fn display(&self) -> String {
        let parts = [&self.trainer, &self.plans, &self.configuration];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        if parts.is_empty() {
            self.dataset.clone()
        } else {
            format!("{} ({})", self.dataset, parts.join("__"))
        }
    }
}

/// Another task and what becomes of its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Included {
    /// The task.
    pub task: Task,
    /// Positions of its channels among the outer task's.
    pub channels: Vec<usize>,
    /// Its labels in the outer task's table; what is not here is left out.
    pub labels: BTreeMap<u16, u16>,
}

/// Something done to a label map.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// These labels become background.
    Discard {
        /// The labels.
        labels: Vec<u16>,
    },
    /// Of each of these labels only the largest piece stays (6 neighbours; of equals the first).
    KeepLargest {
        /// The labels.
        labels: Vec<u16>,
    },
    /// Pieces of these labels (6 neighbours) up to this volume become background.
    RemoveSmall {
        /// The labels.
        labels: Vec<u16>,
        /// Largest volume that is removed.
        volume_mm3: f64,
    },
    /// Detached pieces of each of these vessels are joined, as `vessel-connect` does by default.
    VesselConnect {
        /// The labels.
        labels: Vec<u16>,
        /// Longest gap to bridge.
        max_gap_mm: f64,
    },
}

impl Task {
    /// Every model that the task or one that it includes runs, each once.
    pub fn models(&self) -> Vec<&ModelRef> {
        let mut found: Vec<&ModelRef> = Vec::new();
        self.each_leaf(&mut |leaf| {
            if let Work::Models { models, .. } = &leaf.work {
                for used in models {
                    if !found.contains(&&used.model) {
                        found.push(&used.model);
                    }
                }
            }
        });
        found
    }

    /// Calls `visit` with every task that runs models, in the order of work: regions before what they crop.
    pub fn each_leaf<'t>(&'t self, visit: &mut dyn FnMut(&'t Task)) {
        match &self.work {
            Work::Models { input, .. } => {
                if let Some(crop) = &input.crop {
                    crop.task.each_leaf(visit);
                }
                visit(self);
            }
            Work::Tasks(tasks) => {
                for included in tasks {
                    included.task.each_leaf(visit);
                }
            }
        }
    }

    /// The task with only the models that the labels `wanted` need. What else those models find is computed
    /// and merged, since it may take a voxel from a wanted label, and dropped at the end.
    #[must_use]
    pub fn restricted(&self, wanted: &[u16]) -> Self {
        let mut task = self.clone();
        match &mut task.work {
            Work::Models { models, .. } => {
                models.retain(|used| match &used.labels {
                    LabelMapping::ByNumber(map) => map.values().any(|label| wanted.contains(label)),
                    LabelMapping::ByName(map) => map.values().any(|label| wanted.contains(label)),
                    LabelMapping::Numbers | LabelMapping::Names => true,
                });
            }
            Work::Tasks(tasks) => {
                tasks.retain(|included| included.labels.values().any(|to| wanted.contains(to)));
                for included in tasks.iter_mut() {
                    let inner: Vec<u16> = included
                        .labels
                        .iter()
                        .filter(|(_, to)| wanted.contains(to))
                        .map(|(from, _)| *from)
                        .collect();
                    included.task = included.task.restricted(&inner);
                }
            }
        }
        task.kept = Some(wanted.to_vec());
        task
    }
}
