//! Intensity normalization of one channel.
//!
//! The schemes of `nnunetv2.preprocessing.normalization` 2.8.1, in `f32` and in its order of
//! operations, so that the results are equal in every bit. All schemes work on the cropped image before
//! it is resampled: [`Rule::of`] gathers what they need, [`Rule::apply`] then normalizes any voxel.

use super::numpy_sum::moments;
use super::plans::Normalization;
use super::predict_error::PredictError;
use ndarray::ArrayView3;

/// Smallest divisor of every scheme.
const EPSILON: f32 = 1e-8;

/// Air and nothing else, in HU: emphysematous lung, the thinnest tissue, is -950 to -910 HU in places but
/// not throughout a tile.
pub const AIR_HU: f32 = -900.0;

/// Whether the filled mask of non-zero voxels has to be computed for this scheme.
pub fn needs_mask(scheme: &Normalization) -> bool {
    matches!(scheme, Normalization::ZScore { inside_mask: true })
}

/// A scheme with what it had to learn from the image: what becomes of one intensity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    change: Change,
    /// Whether voxels outside the mask stay as they are.
    pub inside_mask: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Keep,
    Clip {
        lower: f32,
        upper: f32,
        mean: f32,
        deviation: f32,
    },
    Standardize {
        mean: f32,
        deviation: f32,
    },
    Rescale {
        lowest: f32,
        range: f32,
    },
    Rgb,
}

impl Rule {
    /// Gathers what `scheme` needs from `image` (`[z, y, x]`, cropped).
    ///
    /// `mask` has the image's shape and is read by `ZScore { inside_mask: true }` only; an empty mask
    /// leaves the image as it is. `order` is the model's `transpose_forward`: NumPy gathers masked
    /// values in the transposed order, and the order of summation shows in the last bits. `channel` is
    /// named in errors. Cost: up to two passes; schemes that need a mean copy an image that is cropped in
    /// the plane, or the values inside the mask.
    ///
    /// # Errors
    /// [`PredictError::NotRgb`] for values that `RgbTo01` refuses.
    pub fn of(
        scheme: &Normalization,
        image: ArrayView3<'_, f32>,
        mask: Option<ArrayView3<'_, bool>>,
        order: [usize; 3],
        channel: usize,
    ) -> Result<Self, PredictError> {
        let everywhere = |change| Self {
            change,
            inside_mask: false,
        };
        let standardize = |values: &[f32]| {
            let found = moments(values);
            Change::Standardize {
                mean: found.mean,
                deviation: found.standard_deviation.max(EPSILON),
            }
        };
        Ok(match (*scheme, mask) {
            (Normalization::None, _) => everywhere(Change::Keep),
            (
                Normalization::Ct {
                    lower,
                    upper,
                    mean,
                    std,
                },
                _,
            ) => everywhere(Change::Clip {
                lower: lower as f32,
                upper: upper as f32,
                mean: mean as f32,
                deviation: std.max(EPSILON.into()) as f32,
            }),
            (Normalization::ZScore { inside_mask: true }, Some(mask)) => {
                let inside: Vec<f32> = image
                    .permuted_axes(order)
                    .iter()
                    .zip(mask.permuted_axes(order))
                    .filter_map(|(&value, &inside)| inside.then_some(value))
                    .collect();
                if inside.is_empty() {
                    everywhere(Change::Keep)
                } else {
                    Self {
                        change: standardize(&inside),
                        inside_mask: true,
                    }
                }
            }
            (Normalization::ZScore { .. }, _) => {
                let values = image.as_standard_layout();
                everywhere(standardize(values.as_slice().unwrap_or_default()))
            }
            (Normalization::RescaleTo01, _) => {
                let (lowest, highest) = extremes(image);
                everywhere(Change::Rescale {
                    lowest,
                    range: (highest - lowest).max(EPSILON),
                })
            }
            (Normalization::RgbTo01, _) => {
                let (lowest, highest) = extremes(image);
                for value in [lowest.min(0.0), highest.max(255.0)] {
                    if value != 0.0 && value != 255.0 {
                        return Err(PredictError::NotRgb { channel, value });
                    }
                }
                everywhere(Change::Rgb)
            }
        })
    }

    /// The normalized value that air (below [`AIR_HU`], or below all that the model tells apart) does not
    /// exceed; `None` for intensities that are no Hounsfield units.
    pub fn air(&self) -> Option<f32> {
        matches!(self.change, Change::Clip { .. }).then(|| self.apply(AIR_HU))
    }

    /// The normalized value of a voxel, inside the mask where there is one. Never decreases with `value`.
    pub fn apply(&self, value: f32) -> f32 {
        match self.change {
            Change::Keep => value,
            // Not `clamp`: numpy.clip accepts crossed bounds and then returns the upper one.
            Change::Clip {
                lower,
                upper,
                mean,
                deviation,
            } => (value.max(lower).min(upper) - mean) / deviation,
            Change::Standardize { mean, deviation } => (value - mean) / deviation,
            Change::Rescale { lowest, range } => (value - lowest) / range,
            Change::Rgb => value / 255.0,
        }
    }

    /// Normalizes a row of voxels; `mask` is that row of the mask, where one was given.
    pub fn apply_row<'m>(&self, row: &mut [f32], mask: Option<impl Iterator<Item = &'m bool>>) {
        match mask.filter(|_| self.inside_mask) {
            Some(mask) => {
                for (value, _) in row.iter_mut().zip(mask).filter(|(_, inside)| **inside) {
                    *value = self.apply(*value);
                }
            }
            None => row.iter_mut().for_each(|value| *value = self.apply(*value)),
        }
    }
}

/// Smallest and largest value.
fn extremes(image: ArrayView3<'_, f32>) -> (f32, f32) {
    image
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| {
            (low.min(value), high.max(value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    const ORDER: [usize; 3] = [0, 1, 2];

    fn image(values: &[f32]) -> Array3<f32> {
        Array3::from_shape_vec([1, 1, values.len()], values.to_vec()).unwrap()
    }

    fn applied(scheme: Normalization, values: &[f32]) -> Vec<f32> {
        let rule = Rule::of(&scheme, image(values).view(), None, ORDER, 0).unwrap();
        values.iter().map(|&value| rule.apply(value)).collect()
    }

    #[test]
    fn ct_clips_before_it_scales() {
        let scheme = Normalization::Ct {
            lower: -100.0,
            upper: 300.0,
            mean: 100.0,
            std: 50.0,
        };
        assert_eq!(applied(scheme, &[-1024.0, 100.0, 3000.0]), [-4.0, 0.0, 4.0]);
    }

    #[test]
    fn z_score_of_a_constant_image_is_zero() {
        let scheme = Normalization::ZScore { inside_mask: false };
        assert_eq!(applied(scheme, &[7.0; 5]), [0.0; 5]);
        assert_eq!(applied(scheme, &[1.0, 3.0]), [-1.0, 1.0]);
    }

    #[test]
    fn z_score_leaves_voxels_outside_the_mask() {
        let mut row = [0.0, 1.0, 3.0, 0.0];
        let mask = Array3::from_shape_vec([1, 1, 4], vec![false, true, true, false]).unwrap();
        let scheme = Normalization::ZScore { inside_mask: true };
        let rule = Rule::of(&scheme, image(&row).view(), Some(mask.view()), ORDER, 0).unwrap();
        rule.apply_row(&mut row, Some(mask.iter()));
        assert_eq!(row, [0.0, -1.0, 1.0, 0.0]);
    }

    #[test]
    fn rescaling_fills_zero_to_one() {
        assert_eq!(
            applied(Normalization::RescaleTo01, &[-2.0, 0.0, 6.0]),
            [0.0, 0.25, 1.0]
        );
        assert_eq!(applied(Normalization::RescaleTo01, &[5.0, 5.0]), [0.0; 2]);
    }

    #[test]
    fn rgb_refuses_other_values() {
        assert_eq!(applied(Normalization::RgbTo01, &[0.0, 255.0]), [0.0, 1.0]);
        let outside = image(&[12.0, 256.0]);
        let error = Rule::of(&Normalization::RgbTo01, outside.view(), None, ORDER, 2).unwrap_err();
        assert!(error.to_string().contains("channel 2 holds 256"), "{error}");
    }
}
