//! From the images of a case to the network's input.
//!
//! nnU-Net's `DefaultPreprocessor` (`nnunetv2` 2.8.1) in this order: transpose the axes, crop to the
//! box of non-zero voxels, normalize intensities, resample to the model's spacing. Here statistics are
//! gathered before the transposition, on memory in file order, as NumPy sums in memory order as well;
//! slices are then normalized as they are resampled, for the whole image
//! ([`Prepared::whole`]) or in stretches ([`super::slabs`]).
//!
//! nnU-Net fills holes in the non-zero mask first. That never changes its box, so the filled mask
//! is computed only for models that normalize inside it, and for cascades.
//!
//! In a cascade the label map of a previous stage, on the image's grid, becomes one more input channel
//! of 0 and 1 for every label.

use super::normalize::{Rule, needs_mask};
use super::plans::{Configuration, Normalization, Plans, Resampling};
use super::predict_error::PredictError;
use crate::geometry::bounds::BoundingBox;
use crate::geometry::resample::{
    Interpolation, ResampleFunction, ResampleOptions, SeparateAxis, new_shape, resample_labels,
    resample_to_shape,
};
use crate::progress::Progress;
use crate::topology::fill_holes;
use crate::volume::{Grid, LabelMap, Volume};
use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayView3, Axis, s};
use rayon::prelude::*;
use std::borrow::Borrow;

/// What a model prescribes for its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// New axis `a` is the image's axis `transpose_forward[a]`.
    pub transpose_forward: [usize; 3],
    /// Spacing in the transposed frame; `None` keeps the image's.
    pub spacing_mm: [Option<f64>; 3],
    /// One scheme per channel.
    pub normalization: Vec<Normalization>,
    /// How the image is resampled.
    pub resampling: ResampleOptions,
    /// What becomes of a previous stage's label map, in a cascade.
    pub previous_stage: Option<PreviousStage>,
    /// Largest allowed size of the result in bytes.
    pub limit_bytes: u64,
}

/// The further input channels of a cascade.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviousStage {
    /// Name of the configuration whose result they are.
    pub name: String,
    /// Labels that have a channel, in this order.
    pub labels: Vec<u16>,
    /// How the label map is resampled.
    pub resampling: ResampleOptions,
}

/// A case as the network sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessed {
    /// `[C, z, y, x]` in the transposed frame at the network's spacing, standard layout.
    pub data: Array4<f32>,
    /// What is needed to bring a result back to the image.
    pub properties: Properties,
}

/// How the network's frame lies in the image. Frame: the image's axes in the order of
/// `transpose_forward`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Properties {
    /// Grid of channel 0 as given.
    pub grid: Grid,
    /// Axis `a` of the frame is the image's axis `transpose_forward[a]`.
    pub transpose_forward: [usize; 3],
    /// nnU-Net's `bbox_used_for_cropping`, in the frame.
    pub bounds: BoundingBox,
    /// The image's spacing, in the frame.
    pub spacing_mm: [f64; 3],
    /// The network's spacing, in the frame.
    pub network_spacing_mm: [f64; 3],
    /// Shape at the network's spacing, in the frame.
    pub network_shape: [usize; 3],
}

impl Properties {
    /// Places a crop in an image.
    ///
    /// # Errors
    /// [`PredictError::Transpose`], and [`PredictError::Resample`] for spacings that are no lengths.
    fn new(
        grid: Grid,
        bounds: &BoundingBox,
        transpose_forward: [usize; 3],
        spacing_mm: [Option<f64>; 3],
    ) -> Result<Self, PredictError> {
        if (0..3).any(|axis| !transpose_forward.contains(&axis)) {
            return Err(PredictError::Transpose {
                found: transpose_forward,
            });
        }
        let bounds = BoundingBox {
            start: transpose_forward.map(|axis| bounds.start[axis]),
            end: transpose_forward.map(|axis| bounds.end[axis]),
        };
        let own_mm = transpose_forward.map(|axis| grid.spacing_mm[axis]);
        let network_spacing_mm =
            std::array::from_fn(|axis| spacing_mm[axis].unwrap_or(own_mm[axis]));
        Ok(Self {
            grid,
            transpose_forward,
            bounds,
            spacing_mm: own_mm,
            network_spacing_mm,
            network_shape: new_shape(bounds.shape(), own_mm, network_spacing_mm)?,
        })
    }

    /// Whether the network sees every voxel of the crop as it is.
    pub fn is_unresampled(&self) -> bool {
        self.network_shape == self.bounds.shape()
    }
}

impl Preprocessor {
    /// What `configuration` prescribes. `foreground` are the dataset's labels, which a cascade needs;
    /// `limit_bytes` bounds the size of the result.
    ///
    /// # Errors
    /// [`PredictError::Unsupported`] for a spline order other than 0, 1 and 3.
    pub fn new(
        plans: &Plans,
        configuration: &Configuration,
        foreground: &[u16],
        limit_bytes: u64,
    ) -> Result<Self, PredictError> {
        let previous_stage = match &configuration.previous_stage {
            Some(name) => Some(PreviousStage {
                name: name.clone(),
                labels: foreground.to_vec(),
                resampling: resample_options(configuration.resampling_seg)?,
            }),
            None => None,
        };
        Ok(Self {
            previous_stage,
            transpose_forward: plans.transpose_forward,
            spacing_mm: configuration.spacing_mm,
            normalization: configuration.normalization.clone(),
            resampling: resample_options(configuration.resampling_data)?,
            limit_bytes,
        })
    }

    /// Number of channels of the result: the images and, in a cascade, the labels.
    pub fn channels(&self) -> usize {
        let labels = self.previous_stage.as_ref();
        self.normalization.len() + labels.map_or(0, |stage| stage.labels.len())
    }

    /// Whether the filled mask of non-zero voxels is computed.
    pub fn needs_mask(&self) -> bool {
        self.previous_stage.is_some() || self.normalization.iter().any(needs_mask)
    }

    /// Where an image of this grid would lie if nothing of it were cropped: for estimates.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn uncropped(&self, grid: &Grid) -> Result<Properties, PredictError> {
        let whole = BoundingBox::whole(grid.shape);
        let properties = Properties::new(*grid, &whole, self.transpose_forward, self.spacing_mm)?;
        self.check_size(&properties)?;
        Ok(properties)
    }

    /// Prepares the channels of one case, all on the same grid. Reports the phase `preprocess` with
    /// one step per image. `previous` is the previous stage's label map of a cascade on the same grid;
    /// other models take none.
    ///
    /// An image of zeros only is not cropped. Memory: the result, and one normalized channel at the
    /// image's resolution while it is resampled.
    ///
    /// # Errors
    /// Channels that do not fit the model or each other, intensities that are NaN or infinite (where
    /// nnU-Net would spread NaN over the whole result), a label map that is missing, not wanted or of
    /// another shape, a result above `limit_bytes`, [`PredictError::Interrupted`].
    pub fn run<C: Borrow<Volume<f32>>>(
        &self,
        channels: &[C],
        previous: Option<&LabelMap>,
        progress: &dyn Progress,
    ) -> Result<Preprocessed, PredictError> {
        self.prepare(channels, previous, progress)?.whole()
    }

    /// The first half of [`run`](Self::run): everything that has to see the image as a whole.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn prepare<'i, C: Borrow<Volume<f32>>>(
        &'i self,
        channels: &'i [C],
        previous: Option<&LabelMap>,
        progress: &dyn Progress,
    ) -> Result<Prepared<'i>, PredictError> {
        progress.begin("preprocess", self.normalization.len() as u64);
        let first = self.check(channels)?;
        let stage = self.check_previous(previous, first.grid())?;
        let bounds = channels
            .iter()
            .map(Borrow::borrow)
            .filter_map(|channel| BoundingBox::of(channel.data().view(), |&value| value != 0.0))
            .reduce(|a, b| a.union(&b))
            .unwrap_or_else(|| BoundingBox::whole(first.shape()));
        let properties = Properties::new(
            *first.grid(),
            &bounds,
            self.transpose_forward,
            self.spacing_mm,
        )?;
        self.check_size(&properties)?;
        let mut mask = None;
        if self.needs_mask() {
            mask = Some(filled_mask(channels, &bounds)?);
        }
        let stage_labels = match (stage, &mut mask) {
            (Some((_, labels)), Some(mask)) => Some(marked(labels, mask, &bounds)),
            _ => None,
        };
        let mut prepared = Prepared {
            preprocessor: self,
            properties,
            channels: Vec::with_capacity(channels.len()),
            mask,
            stage_labels,
        };
        for (index, (channel, scheme)) in channels.iter().zip(&self.normalization).enumerate() {
            if progress.interrupted() {
                return Err(PredictError::Interrupted);
            }
            let image = cropped(channel.borrow(), &bounds);
            let mask = prepared.mask.as_ref().map(|mask| mask.view());
            let rule = Rule::of(scheme, image, mask, self.transpose_forward, index)?;
            prepared.channels.push(Channel { image, rule });
            progress.advance(1);
        }
        Ok(prepared)
    }

    /// Refuses channels that do not fit; returns the first.
    fn check<'a, C: Borrow<Volume<f32>>>(
        &self,
        channels: &'a [C],
    ) -> Result<&'a Volume<f32>, PredictError> {
        let count = PredictError::ChannelCount {
            found: channels.len(),
            expected: self.normalization.len(),
        };
        let first = match channels.first() {
            Some(first) if channels.len() == self.normalization.len() => first.borrow(),
            _ => return Err(count),
        };
        if first.shape().contains(&0) {
            return Err(PredictError::EmptyImage {
                shape: first.shape(),
            });
        }
        for (channel, volume) in channels.iter().map(Borrow::borrow).enumerate() {
            if volume.shape() != first.shape() {
                return Err(PredictError::ChannelShape {
                    channel,
                    found: volume.shape(),
                    expected: first.shape(),
                });
            }
            let (found, expected) = (volume.grid().spacing_mm, first.grid().spacing_mm);
            // The tolerance of numpy.allclose, which nnU-Net's reader applies.
            let close = |(a, b): (&f64, f64)| (a - b).abs() <= 1e-8 + 1e-5 * b.abs();
            if !found.iter().zip(expected).all(close) {
                return Err(PredictError::ChannelSpacing {
                    channel,
                    found,
                    expected,
                });
            }
            check_finite(volume, channel)?;
        }
        Ok(first)
    }

    /// The stage and its label map, or neither.
    fn check_previous<'a>(
        &'a self,
        previous: Option<&'a LabelMap>,
        grid: &Grid,
    ) -> Result<Option<(&'a PreviousStage, &'a LabelMap)>, PredictError> {
        match (&self.previous_stage, previous) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(PredictError::PreviousStageUnwanted),
            (Some(stage), None) => Err(PredictError::PreviousStageMissing {
                stage: stage.name.clone(),
            }),
            (Some(_), Some(labels)) if labels.grid().shape != grid.shape => {
                Err(PredictError::PreviousStageShape {
                    found: labels.grid().shape,
                    expected: grid.shape,
                })
            }
            (Some(stage), Some(labels)) => Ok(Some((stage, labels))),
        }
    }

    /// Refuses a result that is too large or empty.
    fn check_size(&self, properties: &Properties) -> Result<(), PredictError> {
        let shape = properties.network_shape;
        if shape.contains(&0) {
            return Err(PredictError::EmptyImage { shape });
        }
        let bytes = shape
            .iter()
            .try_fold(4 * self.channels() as u64, |product, &n| {
                product.checked_mul(n as u64)
            })
            .unwrap_or(u64::MAX);
        if bytes > self.limit_bytes {
            return Err(PredictError::OverLimit {
                what: "the image at the model's resolution",
                needed_bytes: bytes,
                limit_bytes: self.limit_bytes,
            });
        }
        Ok(())
    }
}

/// A case whose place and intensities are known: what is left is to normalize and resample it.
pub struct Prepared<'i> {
    pub(super) preprocessor: &'i Preprocessor,
    /// How the network will see the case.
    pub properties: Properties,
    pub(super) channels: Vec<Channel<'i>>,
    /// Of the crop, for models that need it.
    pub(super) mask: Option<Array3<bool>>,
    /// Labels of a previous stage in the crop.
    stage_labels: Option<Array3<i32>>,
}

/// One image of a case.
pub(super) struct Channel<'i> {
    /// The crop, in the image's order of axes.
    pub image: ArrayView3<'i, f32>,
    pub rule: Rule,
}

impl Prepared<'_> {
    /// Per channel the value that air does not exceed; `None` unless all are CT.
    pub(super) fn air(&self) -> Option<Vec<f32>> {
        self.channels
            .iter()
            .map(|channel| channel.rule.air())
            .collect()
    }

    /// Slice `z` of the frame of a channel, normalized, at the image's resolution.
    pub(super) fn slice(&self, channel: &Channel<'_>, z: usize) -> Array2<f32> {
        let order = self.preprocessor.transpose_forward;
        let view = channel.image.permuted_axes(order);
        let mut slice = copied(view.index_axis(Axis(0), z));
        let mask = self
            .mask
            .as_ref()
            .map(|mask| mask.view().permuted_axes(order));
        for (y, mut row) in slice.rows_mut().into_iter().enumerate() {
            let mask = mask.map(|mask| mask.index_axis_move(Axis(0), z));
            let mask = mask.as_ref().map(|mask| mask.row(y));
            if let Some(row) = row.as_slice_mut() {
                channel
                    .rule
                    .apply_row(row, mask.as_ref().map(|mask| mask.iter()));
            }
        }
        slice
    }

    /// All channels at the network's resolution. Memory: the result, and one normalized channel at the
    /// image's resolution while it is resampled.
    ///
    /// # Errors
    /// What is wrong with the spacings.
    pub fn whole(self) -> Result<Preprocessed, PredictError> {
        let properties = self.properties;
        let [depth, height, width] = properties.network_shape;
        let voxels = depth * height * width;
        let total = self.preprocessor.channels();
        let mut data: Vec<f32> = Vec::new();
        for channel in &self.channels {
            let image = self.to_network_grid(channel)?;
            if data.is_empty() {
                data = image.into_raw_vec_and_offset().0;
                data.reserve_exact(voxels * (total - 1));
            } else {
                data.extend(&image);
            }
        }
        if let (Some(stage), Some(labels)) = (&self.preprocessor.previous_stage, &self.stage_labels)
        {
            let labels = resample_labels(
                labels
                    .view()
                    .permuted_axes(self.preprocessor.transpose_forward),
                properties.network_shape,
                properties.spacing_mm,
                properties.network_spacing_mm,
                stage.resampling,
            )?;
            for &number in &stage.labels {
                let inside = |&label: &i32| f32::from(label == i32::from(number));
                data.extend(labels.iter().map(inside));
            }
        }
        let data = Array4::from_shape_vec([total, depth, height, width], data)
            .expect("every channel has the network's shape");
        Ok(Preprocessed { data, properties })
    }

    /// A channel, normalized and resampled.
    fn to_network_grid(&self, channel: &Channel<'_>) -> Result<Array3<f32>, PredictError> {
        let properties = &self.properties;
        let shape = properties.bounds.shape();
        let mut voxels = vec![0.0; shape.iter().product()];
        voxels
            .par_chunks_mut((shape[1] * shape[2]).max(1))
            .enumerate()
            .for_each(|(z, to)| {
                let slice = self.slice(channel, z);
                to.iter_mut().zip(&slice).for_each(|(to, from)| *to = *from);
            });
        let image = Array3::from_shape_vec(shape, voxels).expect("a slice for every z");
        if properties.is_unresampled() {
            return Ok(image);
        }
        Ok(resample_to_shape(
            image.view(),
            properties.network_shape,
            properties.spacing_mm,
            properties.network_spacing_mm,
            self.preprocessor.resampling,
        )?)
    }
}

/// nnU-Net's resampling arguments in the words of [`crate::geometry::resample`].
///
/// # Errors
/// [`PredictError::Unsupported`] for a spline order other than 0, 1 and 3.
pub fn resample_options(resampling: Resampling) -> Result<ResampleOptions, PredictError> {
    let interpolation = |order| match order {
        0 => Ok(Interpolation::Nearest),
        1 => Ok(Interpolation::Linear),
        3 => Ok(Interpolation::Cubic),
        _ => Err(PredictError::Unsupported {
            feature: format!("resampling of spline order {order}"),
        }),
    };
    Ok(ResampleOptions {
        function: if resampling.torch {
            ResampleFunction::Torch
        } else {
            ResampleFunction::Splines
        },
        interpolation: interpolation(resampling.order)?,
        along_separate_axis: interpolation(resampling.order_z)?,
        separate_axis: match resampling.force_separate_z {
            None => SeparateAxis::Automatic,
            Some(true) => SeparateAxis::Always,
            Some(false) => SeparateAxis::Never,
        },
    })
}

fn cropped<'a, T>(channel: &'a Volume<T>, bounds: &BoundingBox) -> ArrayView3<'a, T> {
    let BoundingBox { start, end } = *bounds;
    channel
        .data()
        .slice(s![start[0]..end[0], start[1]..end[1], start[2]..end[2]])
}

/// A copy in standard layout.
fn copied(view: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut copy = Array2::zeros(view.raw_dim());
    ndarray::Zip::from(&mut copy)
        .and(view)
        .for_each(|to, from| *to = *from);
    copy
}

/// Voxels where any channel is not zero, holes filled, inside `bounds`. Filling inside the box gives the
/// same as filling first: all around the box is background.
fn filled_mask<C: Borrow<Volume<f32>>>(
    channels: &[C],
    bounds: &BoundingBox,
) -> Result<Array3<bool>, PredictError> {
    let mut mask = Array3::from_elem(bounds.shape(), false);
    for channel in channels.iter().map(Borrow::borrow) {
        ndarray::Zip::from(&mut mask)
            .and(cropped(channel, bounds))
            .for_each(|inside, &value| *inside |= value != 0.0);
    }
    Ok(fill_holes(mask.view())?)
}

/// Labels of the crop, -1 where nnU-Net marks the outside: no label and not in the mask. What has a
/// label counts as inside the mask from then on, as in nnU-Net.
fn marked(labels: &LabelMap, mask: &mut Array3<bool>, bounds: &BoundingBox) -> Array3<i32> {
    ndarray::Zip::from(mask)
        .and(cropped(&labels.volume, bounds))
        .map_collect(|inside, &label| {
            *inside |= label != 0;
            if *inside { i32::from(label) } else { -1 }
        })
}

fn check_finite(volume: &Volume<f32>, channel: usize) -> Result<(), PredictError> {
    const CHUNK: usize = 1 << 16;
    let values = volume.as_slice();
    let bad: Vec<(u64, Option<usize>)> = values
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(index, chunk)| {
            if chunk.iter().all(|value| value.is_finite()) {
                return (0, None);
            }
            let mut places = (0..).zip(chunk).filter(|(_, value)| !value.is_finite());
            let first = places
                .next()
                .map(|(place, _): (usize, _)| index * CHUNK + place);
            (1 + places.count() as u64, first)
        })
        .collect();
    let count = bad.iter().map(|(count, _)| count).sum();
    let Some(first) = bad.into_iter().find_map(|(_, first)| first) else {
        return Ok(());
    };
    let [_, height, width] = volume.shape();
    Err(PredictError::NotFinite {
        channel,
        count,
        voxel: [
            first / (height * width),
            first / width % height,
            first % width,
        ],
    })
}

#[cfg(test)]
#[path = "preprocess_tests.rs"]
mod tests;
