//! The network's input made by stretches of slices.
//!
//! The sliding window reads one patch height of slices at a time, from the first to the last. They are
//! normalized and resampled when they are asked for and forgotten when the window has passed, with the
//! same bits as the whole image has: neither a normalized copy of the image nor its resampled form ever
//! exists as a whole.

use super::predict_error::PredictError;
use super::preprocess::{Prepared, Preprocessor, Properties};
use super::sliding_window::ImageSlices;
use crate::geometry::resample::{Interpolation, SliceResampler};
use ndarray::{Array4, ArrayView4, s};
use rayon::prelude::*;
use std::ops::Range;

/// A case that is normalized and resampled while it is read.
pub struct Slabs<'i> {
    prepared: Prepared<'i>,
    resamplers: Vec<SliceResampler>,
    /// Slices `held` of all channels, `[C, z, y, x]`; the rest is room.
    buffer: Array4<f32>,
    held: Range<usize>,
}

/// Slices of room for a case read `reach` slices at a time.
fn room(properties: &Properties, reach: usize) -> usize {
    (reach + SliceResampler::MOST_SLICES).min(properties.network_shape[0])
}

/// Bytes of [`Slabs`] that are read `reach` slices at a time, slices and work space; `None` for cases that
/// have to be resampled as a whole.
///
/// # Errors
/// What is wrong with the spacings.
pub fn bytes(
    preprocessor: &Preprocessor,
    properties: &Properties,
    reach: usize,
) -> Result<Option<[u64; 2]>, PredictError> {
    let Some(resampler) = resampler(preprocessor, properties, None)? else {
        return Ok(None);
    };
    let channels = preprocessor.normalization.len() as u64;
    let [_, height, width] = properties.network_shape;
    let slices = room(properties, reach) * height * width;
    let work = resampler.working_bytes(properties.bounds.shape(), rayon::current_num_threads());
    Ok(Some([4 * channels * slices as u64, channels * work]))
}

fn resampler(
    preprocessor: &Preprocessor,
    properties: &Properties,
    range: Option<(f64, f64)>,
) -> Result<Option<SliceResampler>, PredictError> {
    if preprocessor.previous_stage.is_some() {
        return Ok(None); // label maps are resampled as a whole
    }
    Ok(SliceResampler::new(
        properties.bounds.shape(),
        properties.network_shape,
        properties.spacing_mm,
        properties.network_spacing_mm,
        preprocessor.resampling,
        range,
    )?)
}

impl<'i> Slabs<'i> {
    /// Prepares to be read at most `reach` slices at a time.
    ///
    /// # Errors
    /// [`PredictError::Unsupported`] where [`bytes`] says `None`, and what is wrong with the spacings.
    pub fn new(prepared: Prepared<'i>, reach: usize) -> Result<Self, PredictError> {
        let properties = prepared.properties;
        let mut resamplers = Vec::with_capacity(prepared.channels.len());
        for index in 0..prepared.channels.len() {
            let range = range(&prepared, index);
            let resampler = resampler(prepared.preprocessor, &properties, range)?;
            resamplers.push(resampler.ok_or_else(|| PredictError::Unsupported {
                feature: "resampling this case by slices".to_owned(),
            })?);
        }
        let [_, height, width] = properties.network_shape;
        let shape = [resamplers.len(), room(&properties, reach), height, width];
        Ok(Self {
            prepared,
            resamplers,
            buffer: Array4::zeros(shape),
            held: 0..0,
        })
    }

    /// Moves the slices from `first` on to the front, as far as they are there.
    fn forget_below(&mut self, first: usize) {
        let first = first.clamp(self.held.start, self.held.end);
        let (passed, kept) = (first - self.held.start, self.held.end - first);
        let [_, room, height, width] = self.buffer.dim().into();
        let plane = height * width;
        if let Some(values) = self.buffer.as_slice_mut() {
            for channel in values.chunks_exact_mut(room * plane) {
                channel.copy_within(passed * plane..(passed + kept) * plane, 0);
            }
        }
        self.held.start = first;
    }
}

/// Smallest and largest normalized value of a channel, where resampling clips to them.
fn range(prepared: &Prepared<'_>, index: usize) -> Option<(f64, f64)> {
    let is_cubic = prepared.preprocessor.resampling.interpolation == Interpolation::Cubic;
    if prepared.properties.is_unresampled() || !is_cubic {
        return None;
    }
    let channel = &prepared.channels[index];
    let (low, high) = (0..prepared.properties.bounds.shape()[0])
        .into_par_iter()
        .map(|z| {
            let start = (f32::INFINITY, f32::NEG_INFINITY);
            let slice = prepared.slice(channel, z);
            slice.iter().fold(start, |(low, high), &value| {
                (low.min(value), high.max(value))
            })
        })
        .reduce(
            || (f32::INFINITY, f32::NEG_INFINITY),
            |a, b| (a.0.min(b.0), a.1.max(b.1)),
        );
    Some((low.into(), high.into()))
}

impl ImageSlices for Slabs<'_> {
    fn channels(&self) -> usize {
        self.resamplers.len()
    }

    fn slices(&mut self, range: Range<usize>) -> Result<ArrayView4<'_, f32>, PredictError> {
        if range.start < self.held.start {
            self.resamplers.iter_mut().for_each(SliceResampler::restart);
            self.held = 0..0;
        }
        let [_, room, height, width] = self.buffer.dim().into();
        let plane = height * width;
        while self.held.end < range.end {
            let Some(next) = self.resamplers.first().and_then(SliceResampler::upcoming) else {
                break;
            };
            if self.held.len() + next.len() > room {
                self.forget_below(range.start);
            }
            let place = self.held.len() * plane..(self.held.len() + next.len()) * plane;
            let prepared = &self.prepared;
            if let Some(values) = self.buffer.as_slice_mut() {
                for ((values, resampler), channel) in values
                    .chunks_exact_mut(room * plane)
                    .zip(&mut self.resamplers)
                    .zip(&prepared.channels)
                {
                    let source = |z| prepared.slice(channel, z).into();
                    resampler.write(source, &mut values[place.clone()]);
                }
            }
            self.held.end = next.end;
        }
        let first = self.held.start;
        Ok(self
            .buffer
            .slice(s![.., range.start - first..range.end - first, .., ..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::resample::ResampleOptions;
    use crate::nnunet::plans::Normalization;
    use crate::progress::Silent;
    use crate::volume::{Grid, Volume};
    use ndarray::Array3;

    /// Two channels with a border of zeros.
    fn images(shape: [usize; 3]) -> Vec<Volume<f32>> {
        let image = |factor: usize| {
            let data = Array3::from_shape_fn(shape, |(z, y, x)| {
                if z == 0 || y < 2 || x == 3 {
                    0.0
                } else {
                    ((z * 37 + y * factor + x * 5) % 23) as f32 * 80.0 - 900.0
                }
            });
            Volume::new(data, Grid::with_spacing(shape, [3.0, 1.0, 1.0])).unwrap()
        };
        vec![image(11), image(7)]
    }

    #[test]
    fn stretches_equal_the_whole_image_in_every_bit() {
        for (spacing_mm, order, by_slices) in [
            ([3.0, 1.0, 1.0], [0, 1, 2], true),
            ([2.0, 0.9, 1.1], [0, 1, 2], true),
            ([0.7, 1.2, 1.0], [0, 1, 2], true),
            ([4.0, 1.2, 1.1], [1, 0, 2], true),
            // The slices of the network lie across the coarse axis.
            ([1.2, 4.0, 1.1], [1, 0, 2], false),
            ([1.5, 1.5, 1.5], [2, 1, 0], true),
        ] {
            let preprocessor = Preprocessor {
                transpose_forward: order,
                spacing_mm: spacing_mm.map(Some),
                normalization: vec![
                    Normalization::ZScore { inside_mask: true },
                    Normalization::RescaleTo01,
                ],
                resampling: ResampleOptions::IMAGE,
                previous_stage: None,
                limit_bytes: 1 << 30,
            };
            let images = images([21, 12, 13]);
            let whole = preprocessor.run(&images, None, &Silent).unwrap();
            let depth = whole.properties.network_shape[0];
            let room = bytes(&preprocessor, &whole.properties, depth).unwrap();
            assert_eq!(room.is_some(), by_slices, "{spacing_mm:?} {order:?}");
            if !by_slices {
                continue;
            }
            for reach in [1, 8] {
                let reach = reach.min(depth);
                let prepared = preprocessor.prepare(&images, None, &Silent).unwrap();
                let mut slabs = Slabs::new(prepared, reach).unwrap();
                for pass in 0..2 {
                    for first in (0..depth - reach + 1).step_by(reach.div_ceil(2)) {
                        let found = slabs.slices(first..first + reach).unwrap();
                        let expected = whole.data.slice(s![.., first..first + reach, .., ..]);
                        assert!(found == expected, "{spacing_mm:?} {reach} {pass} {first}");
                    }
                }
            }
        }
    }
}
