//! `plans.json`: how images are prepared and what the network looks like.
//!
//! A plans file holds several configurations (`2d`, `3d_fullres`, …). One may inherit from another: its own keys
//! replace the parent's. [`Plans::configuration`] resolves that and checks every value that inference uses, so
//! that nothing after it has to. Keys that only training uses are not looked at.
//!
//! Axes are nnU-Net's: `[z, y, x]` after `transpose_forward`. A two-dimensional configuration is given a leading
//! axis of 1, as in [`crate::nn::arch`].
//!
//! Source: nnunetv2 2.8.1 `utilities/plans_handling/plans_handler.py` and
//! `preprocessing/normalization/default_normalization_schemes.py`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::architecture;
use super::model::Error;
use super::model::json::{self, Field};
use crate::geometry::resample::ANISOTROPY_THRESHOLD;
use crate::nn::arch::UnetSpec;
use crate::nn::weights::layout::Layout;
use serde::Serialize;
use serde_json::{Map, Value};

/// Most voxels of a patch: 512 x 512 x 512. nnU-Net plans up to about 160 x 160 x 160.
const MAX_PATCH_VOXELS: usize = 1 << 27;
/// Smallest and largest voxel edge in millimetres.
const SPACING_MM: std::ops::RangeInclusive<f64> = 1e-4..=1e4;
/// Most values in the tensors of a network: 4 GiB of them.
const MAX_PARAMETERS: u64 = 1 << 30;

/// A parsed plans file.
#[derive(Debug, Clone)]
pub struct Plans {
    /// The dataset the model was trained on, for example `Dataset291_TotalSegmentator`; may be empty.
    pub dataset_name: String,
    /// Name of the plans, usually `nnUNetPlans`; may be empty.
    pub plans_name: String,
    /// How the reader orients an image before anything else happens.
    pub orientation: Orientation,
    /// Whether the images are TIFF stacks with their spacing in a JSON file beside them (`Tiff3DIO`).
    pub reads_stacks: bool,
    /// New axis `a` is the image's axis `transpose_forward[a]`.
    pub transpose_forward: [usize; 3],
    /// The inverse of `transpose_forward`.
    pub transpose_backward: [usize; 3],
    top: Map<String, Value>,
    file: String,
}

/// How nnU-Net's reader class orients an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// Axes as stored (`SimpleITKIO`, `NibabelIO`, `NaturalImage2DIO`, `Tiff3DIO`).
    AsStored,
    /// Flipped and permuted to RAS+ first (`NibabelIOWithReorient`, `SimpleITKIOWithReorient`).
    Ras,
}

/// One configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Its name in the plans, for example `3d_fullres`.
    pub name: String,
    /// 2 or 3.
    pub spatial_dims: usize,
    /// Voxels the network sees at once, `[z, y, x]`; `z` is 1 in two dimensions.
    pub patch_size: [usize; 3],
    /// Voxel edge lengths the image is resampled to; `None` keeps the image's own (`z` in two dimensions).
    pub spacing_mm: [Option<f64>; 3],
    /// How intensities are normalised, one entry per image channel.
    pub normalization: Vec<Normalization>,
    /// How the image is resampled to `spacing_mm`.
    pub resampling_data: Resampling,
    /// How a previous stage's label map is resampled.
    pub resampling_seg: Resampling,
    /// How logits are resampled back to the image.
    pub resampling_probabilities: Resampling,
    /// The configuration whose label map is a further input (cascades), if any.
    pub previous_stage: Option<String>,
    network: UnetSpec,
    file: String,
}

/// How the intensities of one channel are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "scheme", rename_all = "snake_case")]
pub enum Normalization {
    /// `CTNormalization`: clip, subtract the mean, divide by the standard deviation of the training data.
    Ct {
        /// Lower clipping bound, the 0.5th percentile of the training data's foreground.
        lower: f64,
        /// Upper clipping bound, the 99.5th percentile.
        upper: f64,
        /// Mean of the training data's foreground.
        mean: f64,
        /// Standard deviation of the training data's foreground, above 0.
        std: f64,
    },
    /// `ZScoreNormalization`: mean 0 and standard deviation 1 of the image itself.
    ZScore {
        /// Whether statistics and result are restricted to the non-zero part of the image.
        inside_mask: bool,
    },
    /// `NoNormalization`.
    None,
    /// `RescaleTo01Normalization`: minimum to 0, maximum to 1.
    RescaleTo01,
    /// `RGBTo01Normalization`: divide by 255.
    RgbTo01,
}

/// Which of nnU-Net's resampling functions, and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resampling {
    /// Whether it is `resample_torch_fornnunet` rather than `resample_data_or_seg_to_shape`.
    pub torch: bool,
    /// Spline order in the plane, or in all axes: 0, 1 or 3.
    pub order: usize,
    /// Spline order along a separately treated axis: 0, 1 or 3.
    pub order_z: usize,
    /// Whether one axis is treated separately; `None` decides by the anisotropy of the image.
    pub force_separate_z: Option<bool>,
}

impl Plans {
    /// Parses a plans file; `file` is its name for messages.
    ///
    /// # Errors
    /// [`Error`] naming the file, the key, what was found and what was expected.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, Error> {
        let top = json::parse(bytes, file)?;
        let field = |key| Field::of(&top, "", key, file);
        let name = |key| field(key).present().map_or(Ok(""), |f| f.text());
        let configurations = field("configurations");
        if configurations.object()?.is_empty() {
            return Err(configurations.wrong("at least one configuration"));
        }
        let transpose_forward = permutation(&field("transpose_forward"))?;
        let backward = field("transpose_backward");
        let transpose_backward = permutation(&backward)?;
        let is_inverse = transpose_forward
            .iter()
            .enumerate()
            .all(|(new, &old)| transpose_backward.get(old) == Some(&new));
        if !is_inverse {
            return Err(backward.wrong("the inverse of transpose_forward"));
        }
        let (dataset_name, plans_name) = (
            name("dataset_name")?.to_owned(),
            name("plans_name")?.to_owned(),
        );
        let orientation = orientation(&field("image_reader_writer"))?;
        let reads_stacks = name("image_reader_writer")? == "Tiff3DIO";
        Ok(Self {
            dataset_name,
            plans_name,
            orientation,
            reads_stacks,
            transpose_forward,
            transpose_backward,
            file: file.to_owned(),
            top,
        })
    }

    /// The names of all configurations in file order; at least one.
    pub fn configuration_names(&self) -> impl Iterator<Item = &str> {
        let configurations = self.top.get("configurations").and_then(Value::as_object);
        configurations
            .into_iter()
            .flat_map(Map::keys)
            .map(String::as_str)
    }

    /// The configuration called `name`, inheritance resolved and checked.
    ///
    /// # Errors
    /// [`Error::Choice`] if there is none of this name, otherwise as [`Plans::parse`].
    pub fn configuration(&self, name: &str) -> Result<Configuration, Error> {
        let resolved = self.resolve(name)?;
        // A map of one entry, so that paths read `configurations.NAME.key`.
        let holder = Map::from_iter([(name.to_owned(), Value::Object(resolved))]);
        let own = Field::of(&holder, "configurations", name, &self.file);
        self.parse_configuration(name, &own)
    }

    /// Own keys over those of the ancestors.
    fn resolve(&self, name: &str) -> Result<Map<String, Value>, Error> {
        let all = Field::of(&self.top, "", "configurations", &self.file);
        if !all.object()?.contains_key(name) {
            let names: Vec<&str> = self.configuration_names().collect();
            return Err(Error::Choice(format!(
                "{}: no configuration {name}; there are {}",
                self.file,
                names.join(", ")
            )));
        }
        let mut resolved = Map::new();
        let mut visited = vec![name];
        let mut current = all.get(name);
        loop {
            for (key, value) in current.object()? {
                if !resolved.contains_key(key) {
                    resolved.insert(key.clone(), value.clone());
                }
            }
            let inherits = current.get("inherits_from");
            let Some(parent) = inherits.clone().present() else {
                return Ok(resolved);
            };
            let parent = parent.text()?;
            if visited.contains(&parent) {
                return Err(inherits.wrong("a configuration that does not inherit from this one"));
            }
            visited.push(parent);
            current = all.get(parent);
            if current.clone().present().is_none() {
                return Err(inherits.wrong("the name of a configuration"));
            }
        }
    }

    fn parse_configuration(&self, name: &str, own: &Field<'_>) -> Result<Configuration, Error> {
        let preprocessor = own.get("preprocessor_name");
        if let Some(field) = preprocessor.present()
            && field.text()? != "DefaultPreprocessor"
        {
            return Err(field.unsupported("DefaultPreprocessor"));
        }
        let patch = own.get("patch_size");
        let sizes = patch.wholes(1, MAX_PATCH_VOXELS)?;
        let (dims, patch_size) = match *sizes.as_slice() {
            [y, x] => (2, [1, y, x]),
            [z, y, x] => (3, [z, y, x]),
            _ => return Err(patch.wrong("2 or 3 whole numbers")),
        };
        let voxels = crate::nn::weights::element_count(&patch_size);
        if voxels.is_none_or(|voxels| voxels > MAX_PATCH_VOXELS) {
            return Err(patch.wrong(&format!("a patch of at most {MAX_PATCH_VOXELS} voxels")));
        }
        let network = architecture::parse(own, dims)?;
        let total = network.total_stride();
        if patch_size
            .iter()
            .zip(total)
            .any(|(size, stride)| size % stride != 0)
        {
            let total = total.get(3 - dims..).unwrap_or_default();
            return Err(patch.wrong(&format!("multiples of the network's strides {total:?}")));
        }
        let cubic = |order| Resampling {
            torch: false,
            order,
            order_z: 0,
            force_separate_z: None,
        };
        Ok(Configuration {
            name: name.to_owned(),
            spatial_dims: dims,
            patch_size,
            spacing_mm: spacing(&own.get("spacing"), dims)?,
            normalization: self.normalization(own)?,
            resampling_data: resampling(own, "resampling_fn_data", cubic(3))?,
            resampling_seg: resampling(own, "resampling_fn_seg", cubic(1))?,
            resampling_probabilities: resampling(own, "resampling_fn_probabilities", cubic(1))?,
            previous_stage: match own.get("previous_stage").present() {
                Some(field) => Some(field.text()?.to_owned()),
                None => None,
            },
            network,
            file: self.file.clone(),
        })
    }

    fn normalization(&self, own: &Field<'_>) -> Result<Vec<Normalization>, Error> {
        let field = own.get("normalization_schemes");
        let schemes = field.list()?;
        let masks = match own.get("use_mask_for_norm").present() {
            Some(masks) => {
                let list = masks.list()?;
                list.iter()
                    .map(Field::boolean)
                    .collect::<Result<Vec<_>, _>>()?
            }
            None => vec![false; schemes.len()],
        };
        if schemes.is_empty() || masks.len() != schemes.len() {
            let expected = format!(
                "{} schemes, one per entry of use_mask_for_norm",
                masks.len()
            );
            return Err(field.wrong(&expected));
        }
        let schemes = schemes.iter().zip(masks).enumerate();
        schemes
            .map(|(channel, (scheme, inside_mask))| match scheme.text()? {
                "CTNormalization" => self.ct_normalization(channel),
                "ZScoreNormalization" => Ok(Normalization::ZScore { inside_mask }),
                "NoNormalization" => Ok(Normalization::None),
                "RescaleTo01Normalization" => Ok(Normalization::RescaleTo01),
                "RGBTo01Normalization" => Ok(Normalization::RgbTo01),
                _ => Err(scheme.unsupported(
                    "CTNormalization, ZScoreNormalization, NoNormalization, \
                     RescaleTo01Normalization and RGBTo01Normalization",
                )),
            })
            .collect()
    }

    fn ct_normalization(&self, channel: usize) -> Result<Normalization, Error> {
        let keys = [
            "foreground_intensity_properties_per_channel",
            "foreground_intensity_properties_by_modality",
        ];
        let found = keys
            .iter()
            .map(|key| Field::of(&self.top, "", key, &self.file))
            .find_map(Field::present);
        let all = found.unwrap_or_else(|| Field::of(&self.top, "", keys[0], &self.file));
        let properties = all.get(&channel.to_string());
        if properties.object().is_err() {
            return Err(properties.wrong("the intensity properties CTNormalization needs"));
        }
        let number = |key| properties.get(key).number();
        let std = number("std")?;
        if std <= 0.0 {
            return Err(properties.get("std").wrong("a number above 0"));
        }
        let (lower, upper) = (number("percentile_00_5")?, number("percentile_99_5")?);
        if lower > upper {
            let expected = format!("a number of at least percentile_00_5, which is {lower}");
            return Err(properties.get("percentile_99_5").wrong(&expected));
        }
        Ok(Normalization::Ct {
            lower,
            upper,
            mean: number("mean")?,
            std,
        })
    }
}

impl Configuration {
    /// The network without its input and output channels.
    pub(super) fn network(&self) -> &UnetSpec {
        &self.network
    }

    /// The network with this many image channels in and heads out.
    ///
    /// # Errors
    /// [`Error`] when the network would have more than 2^30 parameters.
    pub fn to_unet_spec(&self, in_channels: usize, out_channels: usize) -> Result<UnetSpec, Error> {
        let mut spec = self.network.clone();
        spec.in_channels = in_channels;
        spec.out_channels = out_channels;
        let parameters = Layout::of(&spec).parameters();
        if parameters > MAX_PARAMETERS {
            return Err(Error::Malformed {
                file: self.file.clone(),
                problem: format!(
                    "configurations.{}: a network of {parameters} parameters, more than {MAX_PARAMETERS}",
                    self.name
                ),
            });
        }
        Ok(spec)
    }
}

fn permutation(field: &Field<'_>) -> Result<[usize; 3], Error> {
    let wrong = || field.wrong("0, 1 and 2 in some order");
    let axes: [usize; 3] = field
        .wholes(0, 2)
        .ok()
        .and_then(|axes| axes.try_into().ok())
        .ok_or_else(wrong)?;
    if (0..3).all(|axis| axes.contains(&axis)) {
        Ok(axes)
    } else {
        Err(wrong())
    }
}

fn orientation(field: &Field<'_>) -> Result<Orientation, Error> {
    let Some(field) = field.clone().present() else {
        return Ok(Orientation::AsStored);
    };
    match field.text()? {
        "SimpleITKIO" | "NibabelIO" | "NaturalImage2DIO" | "Tiff3DIO" => Ok(Orientation::AsStored),
        "NibabelIOWithReorient" | "SimpleITKIOWithReorient" => Ok(Orientation::Ras),
        _ => Err(field.unsupported(
            "SimpleITKIO, NibabelIO, NibabelIOWithReorient, SimpleITKIOWithReorient, NaturalImage2DIO and Tiff3DIO",
        )),
    }
}

fn spacing(field: &Field<'_>, dims: usize) -> Result<[Option<f64>; 3], Error> {
    let range = format!(
        "{dims} lengths from {} to {} mm",
        SPACING_MM.start(),
        SPACING_MM.end()
    );
    let wrong = || field.wrong(&range);
    let list = field.list().map_err(|_| wrong())?;
    let lengths: Option<Vec<f64>> = list
        .iter()
        .map(|length| length.number().ok().filter(|mm| SPACING_MM.contains(mm)))
        .collect();
    match (dims, lengths.ok_or_else(wrong)?.as_slice()) {
        (2, &[y, x]) => Ok([None, Some(y), Some(x)]),
        (3, &[z, y, x]) => Ok([Some(z), Some(y), Some(x)]),
        _ => Err(wrong()),
    }
}

fn resampling(own: &Field<'_>, key: &str, default: Resampling) -> Result<Resampling, Error> {
    let arguments = own.get(&format!("{key}_kwargs"));
    if let Some(function) = own.get(key).present() {
        match function.text()? {
            "resample_data_or_seg_to_shape" => {}
            "resample_torch_fornnunet" => return torch_resampling(&arguments),
            _ => {
                return Err(function
                    .unsupported("resample_data_or_seg_to_shape and resample_torch_fornnunet"));
            }
        }
    }
    let Some(arguments) = arguments.present() else {
        return Ok(default);
    };
    let order = |key: &str, default| -> Result<usize, Error> {
        let Some(field) = arguments.get(key).present() else {
            return Ok(default);
        };
        match field.whole(0, 5)? {
            order @ (0 | 1 | 3) => Ok(order),
            _ => Err(field.unsupported("spline orders 0, 1 and 3")),
        }
    };
    arguments.object()?;
    Ok(Resampling {
        torch: false,
        order: order("order", default.order)?,
        order_z: order("order_z", default.order_z)?,
        force_separate_z: match arguments.get("force_separate_z").present() {
            Some(field) => Some(field.boolean()?),
            None => None,
        },
    })
}

/// `resample_torch_fornnunet` with its defaults; what changes its results in a way that is not computed here
/// is refused.
fn torch_resampling(arguments: &Field<'_>) -> Result<Resampling, Error> {
    let mut force_separate_z = None;
    if arguments.clone().present().is_some() {
        arguments.object()?;
        for (key, only) in [("mode", "linear"), ("aniso_axis_mode", "nearest-exact")] {
            if let Some(mode) = arguments.get(key).present()
                && mode.text()? != only
            {
                return Err(mode.unsupported(only));
            }
        }
        if let Some(sparing) = arguments.get("memefficient_seg_resampling").present()
            && sparing.boolean()?
        {
            return Err(sparing.unsupported("false"));
        }
        if let Some(threshold) = arguments.get("separate_z_anisotropy_threshold").present()
            && threshold.number()? != ANISOTROPY_THRESHOLD
        {
            return Err(threshold.unsupported("3"));
        }
        if let Some(force) = arguments.get("force_separate_z").present() {
            force_separate_z = Some(force.boolean()?);
        }
    }
    Ok(Resampling {
        torch: true,
        order: 1,
        order_z: 0,
        force_separate_z,
    })
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod tests;
