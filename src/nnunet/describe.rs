//! Models and their files at a glance, for `medseg info`.
//!
//! Everything here parses its input whole and refuses a broken one: a description is also a check.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::checkpoint::CheckpointInfo;
use super::dataset::{ClassDescription, Classes, DatasetInfo};
use super::model::{Error, Model, json};
use super::plans::{Configuration, Normalization, Orientation, Plans};
use crate::nn::arch::{EncoderKind, UnetSpec};
use crate::nn::weights::{self, Dtype, ReadSeek, TensorInfo, WeightFile};
use serde::Serialize;

/// A model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelDescription {
    /// Name of the folder.
    pub name: String,
    /// Dataset the model was trained on.
    pub dataset: String,
    /// The trainer class, if the checkpoint says.
    pub trainer: Option<String>,
    /// The configuration in use.
    pub configuration: ConfigurationDescription,
    /// All configurations of the plans.
    pub configurations: Vec<String>,
    /// Image channels in order.
    pub channels: Vec<String>,
    /// Numbers and names in the label map.
    pub classes: Vec<ClassDescription>,
    /// Whether classes may overlap in the network's output.
    pub regions: bool,
    /// The folds in use.
    pub folds: Vec<String>,
    /// Values in the network's tensors, per fold.
    pub parameters: u64,
    /// Spatial axes test-time augmentation may mirror; null where it must not.
    pub mirroring_axes: Option<Vec<usize>>,
}

/// One configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigurationDescription {
    /// Its name.
    pub name: String,
    /// Voxels the network sees at once, `[z, y, x]` or `[y, x]`.
    pub patch_size: Vec<usize>,
    /// Voxel edges the image is resampled to, in the same order.
    pub spacing_mm: Vec<f64>,
    /// Intensity normalisation per channel.
    pub normalization: Vec<Normalization>,
    /// The configuration whose result is a further input, if any.
    pub previous_stage: Option<String>,
    /// The network.
    pub network: NetworkDescription,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkDescription {
    /// nnU-Net's name of the class.
    pub class: &'static str,
    /// Channels per resolution level, full resolution first.
    pub features: Vec<usize>,
    /// Strides per level, `[z, y, x]` or `[y, x]`.
    pub strides: Vec<Vec<usize>>,
    /// Kernels per level, in the same order.
    pub kernels: Vec<Vec<usize>>,
}

/// A plans file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlansDescription {
    /// Dataset the plans were made for.
    pub dataset: String,
    /// Name of the plans.
    pub plans: String,
    /// How images are oriented before anything else.
    pub orientation: Orientation,
    /// Axis order the network sees.
    pub transpose_forward: [usize; 3],
    /// All configurations.
    pub configurations: Vec<ConfigurationDescription>,
}

/// A dataset file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetDescription {
    /// Image channels in order.
    pub channels: Vec<String>,
    /// Numbers and names in the label map.
    pub classes: Vec<ClassDescription>,
    /// Whether classes may overlap in the network's output.
    pub regions: bool,
    /// Ending of the dataset's image files.
    pub file_ending: String,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointDescription {
    /// `pytorch` or `safetensors`.
    pub format: &'static str,
    /// The trained configuration, if the checkpoint says.
    pub configuration: Option<String>,
    /// The trainer class, if the checkpoint says.
    pub trainer: Option<String>,
    /// Spatial axes test-time augmentation may mirror; null where it must not.
    pub mirroring_axes: Option<Vec<usize>>,
    /// Values in all floating-point tensors.
    pub parameters: u64,
    /// Name, type and shape of each tensor, duplicates removed.
    pub tensors: Vec<TensorInfo>,
}

/// What a JSON file of a model turned out to be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JsonDescription {
    /// A `plans.json`.
    Plans(PlansDescription),
    /// A `dataset.json`.
    Dataset(DatasetDescription),
}

impl Model {
    /// The model at a glance.
    pub fn describe(&self) -> ModelDescription {
        ModelDescription {
            name: self.name.clone(),
            dataset: self.plans.dataset_name.clone(),
            trainer: self.checkpoint.trainer.clone(),
            configuration: self.configuration.describe(),
            configurations: self
                .plans
                .configuration_names()
                .map(str::to_owned)
                .collect(),
            channels: self.dataset.channel_names.clone(),
            classes: self.dataset.describe_classes(),
            regions: matches!(self.dataset.classes, Classes::Regions(_)),
            folds: self.folds().map(|fold| fold.to_string()).collect(),
            parameters: self.layout().parameters(),
            mirroring_axes: self.checkpoint.mirroring_axes.clone(),
        }
    }
}

impl Configuration {
    /// The configuration at a glance.
    pub fn describe(&self) -> ConfigurationDescription {
        let unused = 3_usize.saturating_sub(self.spatial_dims);
        ConfigurationDescription {
            name: self.name.clone(),
            patch_size: self.patch_size.iter().copied().skip(unused).collect(),
            spacing_mm: self.spacing_mm.iter().copied().flatten().collect(),
            normalization: self.normalization.clone(),
            previous_stage: self.previous_stage.clone(),
            network: describe_network(self.network()),
        }
    }
}

fn describe_network(spec: &UnetSpec) -> NetworkDescription {
    let unused = 3_usize.saturating_sub(spec.spatial_dims);
    let axes = |sizes: [usize; 3]| sizes.into_iter().skip(unused).collect();
    let stages = spec.stages.iter();
    NetworkDescription {
        class: match &spec.encoder {
            EncoderKind::Plain => "PlainConvUNet",
            EncoderKind::Residual(_) => "ResidualEncoderUNet",
        },
        features: stages.clone().map(|stage| stage.features).collect(),
        strides: stages.clone().map(|stage| axes(stage.stride)).collect(),
        kernels: stages.map(|stage| axes(stage.kernel)).collect(),
    }
}

/// Describes a `plans.json` or `dataset.json`, told apart by content; `file` is its name for messages.
///
/// # Errors
/// [`Error`] naming the file and the key: any configuration that could not run makes a plans file an error.
pub fn describe_json(bytes: &[u8], file: &str) -> Result<JsonDescription, Error> {
    let top = json::parse(bytes, file)?;
    let has = |keys: &[&str]| keys.iter().any(|&key| top.contains_key(key));
    if has(&["configurations", "plans_name", "transpose_forward"]) {
        let plans = Plans::parse(bytes, file)?;
        let configurations = plans
            .configuration_names()
            .map(|name| {
                let configuration = plans.configuration(name)?;
                // The size of the network depends little on the dataset's channels.
                configuration.to_unet_spec(1, 2)?;
                Ok(configuration.describe())
            })
            .collect::<Result<_, Error>>()?;
        return Ok(JsonDescription::Plans(PlansDescription {
            configurations,
            orientation: plans.orientation,
            transpose_forward: plans.transpose_forward,
            dataset: plans.dataset_name,
            plans: plans.plans_name,
        }));
    }
    if has(&["labels", "channel_names", "modality"]) {
        let dataset = DatasetInfo::parse(bytes, file)?;
        return Ok(JsonDescription::Dataset(DatasetDescription {
            classes: dataset.describe_classes(),
            regions: matches!(dataset.classes, Classes::Regions(_)),
            channels: dataset.channel_names,
            file_ending: dataset.file_ending,
        }));
    }
    Err(Error::Malformed {
        file: file.to_owned(),
        problem: "neither plans (key configurations) nor a dataset (key labels) of nnU-Net"
            .to_owned(),
    })
}

/// Describes a checkpoint (`.pth` or `.safetensors`) and reads all its network tensors on the way, so that damage
/// anywhere in them is found; `file` is its name for messages. Memory: the network's weights.
///
/// # Errors
/// [`Error::Weights`] for damaged files, values that are not finite, and files that do not hold an nnU-Net network.
pub fn describe_checkpoint(
    reader: Box<dyn ReadSeek + Send>,
    file: &str,
) -> Result<CheckpointDescription, Error> {
    describe_open(reader).map_err(|error| Error::Weights {
        file: file.to_owned(),
        error,
    })
}

fn describe_open(
    reader: Box<dyn ReadSeek + Send>,
) -> Result<CheckpointDescription, weights::Error> {
    let weights = WeightFile::open(reader)?;
    let format = match weights {
        WeightFile::Torch(_) => "pytorch",
        WeightFile::Safetensors(_) => "safetensors",
    };
    let info = CheckpointInfo::of(&weights)?;
    let tensors = weights.tensors().to_vec();
    // Plain and residual encoders both have it, and nothing but nnU-Net's U-Nets does.
    if !tensors
        .iter()
        .any(|tensor| tensor.name.starts_with("encoder.stages.0."))
    {
        return Err(weights::Error::tensor(
            "encoder.stages.0.0.convs.0.conv.weight",
            format!(
                "missing; none of the {} tensors is of an nnU-Net network",
                tensors.len()
            ),
        ));
    }
    let readable = tensors.iter().filter(|tensor| tensor.dtype != Dtype::Other);
    let values = weights.read(&readable.map(|tensor| tensor.name.as_str()).collect())?;
    let parameters = values.values().map(|tensor| tensor.data.len() as u64).sum();
    Ok(CheckpointDescription {
        format,
        configuration: info.configuration,
        trainer: info.trainer,
        mirroring_axes: info.mirroring_axes,
        parameters,
        tensors,
    })
}
