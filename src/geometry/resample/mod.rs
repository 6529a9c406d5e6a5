//! Resampling volumes to other shapes and spacings.
//!
//! Medical pipelines disagree in the details of "resize", and every detail moves voxels. This module
//! implements these conventions and names the tool of each:
//!
//! | convention | function | tool |
//! |---|---|---|
//! | aligned outer faces, splines of order 0, 1, 3 | [`resize`], [`LinearResampler`] | `skimage.transform.resize` |
//! | the same, with anisotropic axes handled apart | [`resample_to_shape`], [`resample_labels`] | nnU-Net |
//! | the same, linear with weights in `f32` | [`ResampleOptions::TORCH`] | nnU-Net's `resample_torch_fornnunet` |
//! | places in the patient, linear | [`resample_to_grid`] | `SimpleITK.Resample` |
//! | aligned voxel centres | [`zoom_to_shape`], [`zoom_to_spacing`] | `scipy.ndimage.zoom`, `TotalSegmentator` |
//!
//! Arithmetic is `f64`; values are stored in the caller's type ([`Sample`]). Work is split over
//! slices, rows or lines whose results do not depend on each other, so the bytes of a result do not
//! depend on the number of threads. NaN spreads to the voxels it contributes to.

mod axis;
mod cubic;
mod labels;
mod linear;
mod nearest;
mod nnunet;
mod sample;
mod slices;
mod world;
mod zoom;

pub use axis::Alignment;
pub use labels::resample_labels;
pub use linear::{LinearResampler, Summation};
pub use nearest::resize_nearest;
pub use nnunet::{
    ANISOTROPY_THRESHOLD, ResampleFunction, ResampleOptions, SeparateAxis, new_shape,
    resample_to_shape, separate_axis,
};
pub use sample::Sample;
pub use slices::SliceResampler;
pub use world::resample_to_grid;
pub(crate) use world::trilinear;
pub use zoom::{zoom_to_shape, zoom_to_spacing, zoomed_grid, zoomed_shape};

use ndarray::{Array3, ArrayView3};

/// How values between samples are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// The nearest sample; halves go to the higher index. Order 0.
    Nearest,
    /// Trilinear. Order 1.
    Linear,
    /// Interpolating cubic B-spline. Order 3.
    Cubic,
}

/// Why a volume could not be resampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResampleError {
    /// An axis without samples cannot give any.
    #[error(
        "cannot resample {source_shape:?} to {target_shape:?} (z, y, x): the source has no voxels"
    )]
    EmptySource {
        /// Source shape, `[z, y, x]`.
        source_shape: [usize; 3],
        /// Target shape, `[z, y, x]`.
        target_shape: [usize; 3],
    },
    /// The result has more voxels than an address space holds.
    #[error("a volume of {shape:?} voxels (z, y, x) is too large to address")]
    TooLarge {
        /// Target shape, `[z, y, x]`.
        shape: [usize; 3],
    },
    /// A prepared resampler met an array of another shape.
    #[error("array is {found:?} but the resampler was made for {expected:?} (z, y, x)")]
    WrongShape {
        /// Shape of the array.
        found: [usize; 3],
        /// Shape it should have.
        expected: [usize; 3],
    },
    /// A spacing that is zero, negative, infinite or NaN.
    #[error("voxel spacing {spacing_mm:?} mm (z, y, x) is not positive and finite")]
    Spacing {
        /// The refused spacing, `[z, y, x]`.
        spacing_mm: [f64; 3],
    },
    /// A volume whose place in the patient is unknown.
    #[error("the affine is singular or not finite: the volume has no place in the patient")]
    Singular,
    /// A separate axis that is no axis.
    #[error("axis {axis} does not exist: axes are 0 (z), 1 (y) and 2 (x)")]
    Axis {
        /// The refused axis.
        axis: usize,
    },
}

/// Resamples `data` (`[z, y, x]`) to `shape` as `skimage.transform.resize(mode="edge",
/// anti_aliasing=False, clip=True)` does, stored as `U`.
///
/// * Linear: equal to scikit-image bit for bit.
/// * Cubic: equal up to rounding (2e-12 on a range of 2000), clipped to the range of the input.
/// * Nearest: copies.
///
/// A shape equal to the input's is no special case for `Cubic` (samples come back up to rounding).
/// Cost: O(voxels); memory: the result, plus for `Cubic` about 80 planes of `f64`.
///
/// # Errors
/// [`ResampleError::EmptySource`], [`ResampleError::TooLarge`].
pub fn resize<T: Sample, U: Sample>(
    data: ArrayView3<'_, T>,
    shape: [usize; 3],
    interpolation: Interpolation,
) -> Result<Array3<U>, ResampleError> {
    resize_aligned(data, shape, interpolation, Alignment::Faces, Summation::Zyx)
}

fn resize_aligned<T: Sample, U: Sample>(
    data: ArrayView3<'_, T>,
    shape: [usize; 3],
    interpolation: Interpolation,
    alignment: Alignment,
    summation: Summation,
) -> Result<Array3<U>, ResampleError> {
    let source_shape: [usize; 3] = data.dim().into();
    check_shapes(source_shape, shape)?;
    if shape.contains(&0) {
        return Ok(Array3::default(shape));
    }
    match interpolation {
        Interpolation::Nearest => nearest::convert(data, shape, alignment),
        Interpolation::Linear => {
            LinearResampler::with_alignment(source_shape, shape, alignment, summation)?.volume(data)
        }
        Interpolation::Cubic => {
            // scipy.ndimage.zoom itself never clips; scikit-image does.
            let range = match alignment {
                Alignment::Faces => cubic::value_range(data),
                Alignment::Centres | Alignment::Torch => None,
            };
            Ok(cubic::resize(data, shape, alignment, range))
        }
    }
}

/// Refuses what cannot be computed: samples out of nothing, more voxels than addresses.
fn check_shapes(source_shape: [usize; 3], target_shape: [usize; 3]) -> Result<(), ResampleError> {
    let voxels = target_shape
        .iter()
        .try_fold(1_usize, |product, &n| product.checked_mul(n));
    // 16 bytes a voxel leave room for every element type here.
    if voxels.is_none_or(|n| n > isize::MAX as usize / 16) {
        return Err(ResampleError::TooLarge {
            shape: target_shape,
        });
    }
    let empty_target = target_shape.contains(&0);
    if source_shape.contains(&0) && !empty_target {
        return Err(ResampleError::EmptySource {
            source_shape,
            target_shape,
        });
    }
    Ok(())
}

/// An array of `shape` whose voxels `fill` writes through one slice. `shape` passed [`check_shapes`].
fn build<U: Clone + Default>(shape: [usize; 3], fill: impl FnOnce(&mut [U])) -> Array3<U> {
    // from_elem asks the system for zeroed pages where the type allows; they are then first touched by
    // the threads that fill them.
    let mut array = Array3::from_elem(shape, U::default());
    if let Some(voxels) = array.as_slice_mut() {
        fill(voxels);
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interpolation_handles_one_voxel_and_no_voxel() {
        let one = Array3::from_elem([1, 1, 1], 3.0_f32);
        let none = Array3::<f32>::zeros([0, 4, 4]);
        for interpolation in [
            Interpolation::Nearest,
            Interpolation::Linear,
            Interpolation::Cubic,
        ] {
            let grown: Array3<f32> = resize(one.view(), [2, 3, 1], interpolation).unwrap();
            assert!(grown.iter().all(|&value| (value - 3.0).abs() < 1e-6));
            let gone: Array3<f32> = resize(one.view(), [2, 0, 1], interpolation).unwrap();
            assert_eq!(gone.dim(), (2, 0, 1));
            let empty: Array3<f32> = resize(none.view(), [0, 9, 9], interpolation).unwrap();
            assert!(empty.is_empty());
            assert!(resize::<f32, f32>(none.view(), [1, 1, 1], interpolation).is_err());
        }
    }

    #[test]
    fn an_absurd_shape_is_an_error() {
        let one = Array3::from_elem([1, 1, 1], 3.0_f32);
        let shape = [usize::MAX, 2, 2];
        assert_eq!(
            resize::<f32, f32>(one.view(), shape, Interpolation::Linear),
            Err(ResampleError::TooLarge { shape })
        );
    }
}
