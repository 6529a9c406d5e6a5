//! nnU-Net's resampling of one channel: which axes are handled apart, and how.
//!
//! Behaviour of `nnunetv2.preprocessing.resampling.default_resampling` 2.8.1.

use super::axis::{self, Alignment};
use super::cubic::{self, PlaneResampler};
use super::{
    Interpolation, LinearResampler, ResampleError, Sample, Summation, build, check_shapes, nearest,
    resize,
};
use ndarray::{Array3, ArrayView2, ArrayView3, Axis};
use rayon::prelude::*;

/// Ratio of largest to smallest spacing above which nnU-Net calls a volume anisotropic.
pub const ANISOTROPY_THRESHOLD: f64 = 3.0;

/// nnU-Net's `force_separate_z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SeparateAxis {
    /// Decide by the spacings (`null` in the plans, the default).
    #[default]
    Automatic,
    /// Handle the axis of the current spacing's coarse direction apart (`true`).
    Always,
    /// Treat all axes alike (`false`).
    Never,
}

/// nnU-Net's resampling functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResampleFunction {
    /// `resample_data_or_seg_to_shape`: splines of SciPy and scikit-image.
    #[default]
    Splines,
    /// `resample_torch_fornnunet`: `torch.nn.functional.interpolate`, linear, `nearest-exact` along a
    /// separate axis.
    Torch,
}

impl ResampleFunction {
    /// Where samples fall.
    pub(super) fn alignment(self) -> Alignment {
        match self {
            Self::Splines => Alignment::Faces,
            Self::Torch => Alignment::Torch,
        }
    }
}

/// Which of nnU-Net's resampling functions, and its keyword arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResampleOptions {
    /// The function.
    pub function: ResampleFunction,
    /// `order`: interpolation of the volume, or inside slices when one axis is handled apart.
    pub interpolation: Interpolation,
    /// `order_z`: interpolation along the axis that is handled apart.
    pub along_separate_axis: Interpolation,
    /// `force_separate_z`.
    pub separate_axis: SeparateAxis,
}

impl ResampleOptions {
    /// nnU-Net's defaults for images: cubic, nearest along a separate axis.
    pub const IMAGE: Self = Self {
        function: ResampleFunction::Splines,
        interpolation: Interpolation::Cubic,
        along_separate_axis: Interpolation::Nearest,
        separate_axis: SeparateAxis::Automatic,
    };
    /// nnU-Net's defaults for logits and for label maps: linear, nearest along a separate axis.
    pub const LOGITS: Self = Self {
        interpolation: Interpolation::Linear,
        ..Self::IMAGE
    };
    /// `resample_torch_fornnunet` for everything.
    pub const TORCH: Self = Self {
        function: ResampleFunction::Torch,
        ..Self::LOGITS
    };

    /// Linear in all axes, nearest along `apart`.
    ///
    /// # Errors
    /// As [`LinearResampler::new`].
    pub fn linear_resampler(
        &self,
        source: [usize; 3],
        target: [usize; 3],
        apart: Option<usize>,
    ) -> Result<LinearResampler, ResampleError> {
        let alignment = self.function.alignment();
        let resampler = LinearResampler::with_alignment(source, target, alignment, Summation::Zyx)?;
        Ok(resampler.with_nearest_axis(apart))
    }
}

/// Shape after resampling `shape` from `current_mm` to `new_mm` spacing (all `[z, y, x]`):
/// `round(current / new * n)` per axis, evaluated in this order, halves to even, as nnU-Net does.
///
/// # Errors
/// [`ResampleError::Spacing`] for a spacing that is not positive and finite,
/// [`ResampleError::TooLarge`] when an axis would not fit an index.
pub fn new_shape(
    shape: [usize; 3],
    current_mm: [f64; 3],
    new_mm: [f64; 3],
) -> Result<[usize; 3], ResampleError> {
    check_spacing(current_mm)?;
    check_spacing(new_mm)?;
    let sizes: [f64; 3] = std::array::from_fn(|axis| {
        (current_mm[axis] / new_mm[axis] * shape[axis] as f64).round_ties_even()
    });
    let rounded = sizes.map(|size| size as usize);
    if sizes.iter().any(|&size| size > u32::MAX.into()) {
        return Err(ResampleError::TooLarge { shape: rounded });
    }
    Ok(rounded)
}

/// The axis (0 = z, 1 = y, 2 = x) that nnU-Net resamples apart from the other two, if any.
///
/// With [`SeparateAxis::Automatic`]: when the current spacing, or else the new one, has a ratio of
/// largest to smallest above [`ANISOTROPY_THRESHOLD`], the axis with the largest spacing of that one.
/// Two or three equally coarse axes are never handled apart.
///
/// # Errors
/// [`ResampleError::Spacing`] for a spacing that is not positive and finite.
pub fn separate_axis(
    choice: SeparateAxis,
    current_mm: [f64; 3],
    new_mm: [f64; 3],
) -> Result<Option<usize>, ResampleError> {
    check_spacing(current_mm)?;
    check_spacing(new_mm)?;
    let largest = |spacing: [f64; 3]| spacing.into_iter().fold(0.0, f64::max);
    let anisotropic = |spacing: [f64; 3]| {
        largest(spacing) / spacing.into_iter().fold(f64::INFINITY, f64::min) > ANISOTROPY_THRESHOLD
    };
    let deciding = match choice {
        SeparateAxis::Never => return Ok(None),
        SeparateAxis::Always => current_mm,
        SeparateAxis::Automatic if anisotropic(current_mm) => current_mm,
        SeparateAxis::Automatic if anisotropic(new_mm) => new_mm,
        SeparateAxis::Automatic => return Ok(None),
    };
    let mut coarse = (0..3).filter(|&axis| largest(deciding) / deciding[axis] == 1.0);
    match (coarse.next(), coarse.next()) {
        (Some(axis), None) => Ok(Some(axis)),
        _ => Ok(None),
    }
}

fn check_spacing(spacing_mm: [f64; 3]) -> Result<(), ResampleError> {
    if spacing_mm.iter().all(|&mm| mm.is_finite() && mm > 0.0) {
        Ok(())
    } else {
        Err(ResampleError::Spacing { spacing_mm })
    }
}

/// nnU-Net's resampling for one channel of an image or of logits: `data`
/// (`[z, y, x]`, spacing `current_mm`) to `shape` (spacing `new_mm`), stored in the type of `data`.
///
/// An unchanged shape returns a copy. Spacings only decide whether one axis is handled apart
/// ([`separate_axis`]): then every slice across that axis is resized in 2-D (cubic: clipped to that
/// slice's own range; a slice whose in-plane size stays is not touched) and the axis itself by
/// `options.along_separate_axis`. Otherwise this is [`resize`].
///
/// Linear results of [`ResampleFunction::Splines`] equal nnU-Net's bit for bit, in `f32` and in `f16`. Those of
/// [`ResampleFunction::Torch`], which is always linear, equal PyTorch's up to the rounding of its `f32` sums,
/// which its compiler fuses. Cost: O(output); memory: the
/// result, about 80 `f64` planes for cubic volumes, and one `f64` volume only when a separate axis is
/// interpolated cubically or after a cubic in-plane step.
///
/// # Errors
/// [`ResampleError::Spacing`], [`ResampleError::EmptySource`], [`ResampleError::TooLarge`].
pub fn resample_to_shape<T: Sample>(
    data: ArrayView3<'_, T>,
    shape: [usize; 3],
    current_mm: [f64; 3],
    new_mm: [f64; 3],
    options: ResampleOptions,
) -> Result<Array3<T>, ResampleError> {
    let apart = separate_axis(options.separate_axis, current_mm, new_mm)?;
    let source_shape: [usize; 3] = data.dim().into();
    check_shapes(source_shape, shape)?;
    if source_shape == shape {
        return Ok(data.as_standard_layout().into_owned());
    }
    if shape.contains(&0) {
        return Ok(Array3::default(shape));
    }
    if options.function == ResampleFunction::Torch {
        return options
            .linear_resampler(source_shape, shape, apart)?
            .volume(data);
    }
    let Some(axis) = apart else {
        return resize(data, shape, options.interpolation);
    };
    match (options.interpolation, options.along_separate_axis) {
        (Interpolation::Nearest, Interpolation::Nearest) => {
            nearest::convert(data, shape, Alignment::Faces)
        }
        (Interpolation::Linear, Interpolation::Nearest) => {
            LinearResampler::new(source_shape, shape)?
                .with_nearest_axis(Some(axis))
                .volume(data)
        }
        (Interpolation::Cubic, Interpolation::Nearest) => Ok(on_front_axis(data, axis, |data| {
            cubic_slices(data, front(shape, axis))
        })),
        (in_plane, along) => {
            let mut between = shape;
            between[axis] = source_shape[axis];
            let middle: Array3<f64> = match in_plane {
                Interpolation::Nearest => nearest::convert(data, between, Alignment::Faces)?,
                Interpolation::Linear => {
                    LinearResampler::new(source_shape, between)?.volume(data)?
                }
                Interpolation::Cubic => {
                    on_front_axis(data, axis, |data| cubic_slices(data, front(between, axis)))
                }
            };
            if between == shape {
                return Ok(middle.mapv(T::from_f64));
            }
            Ok(match along {
                Interpolation::Linear => {
                    LinearResampler::new(between, shape)?.volume(middle.view())?
                }
                // map_coordinates does not clip.
                _ => cubic::resize(middle.view(), shape, Alignment::Faces, None),
            })
        }
    }
}

/// `shape` with `axis` moved to the front, the others in order.
pub(super) fn front(shape: [usize; 3], axis: usize) -> [usize; 3] {
    match axis {
        0 => shape,
        1 => [shape[1], shape[0], shape[2]],
        _ => [shape[2], shape[0], shape[1]],
    }
}

/// Runs `work` on a view with `axis` in front and moves it back. The result is in standard layout.
pub(super) fn on_front_axis<T, U: Clone>(
    data: ArrayView3<'_, T>,
    axis: usize,
    work: impl FnOnce(ArrayView3<'_, T>) -> Array3<U>,
) -> Array3<U> {
    match axis {
        0 => work(data),
        1 => work(data.permuted_axes([1, 0, 2]))
            .permuted_axes([1, 0, 2])
            .as_standard_layout()
            .into_owned(),
        _ => work(data.permuted_axes([2, 0, 1]))
            .permuted_axes([1, 2, 0])
            .as_standard_layout()
            .into_owned(),
    }
}

/// Cubic inside each slice of the first axis, nearest along it.
fn cubic_slices<T: Sample, U: Sample>(data: ArrayView3<'_, T>, shape: [usize; 3]) -> Array3<U> {
    let (source_z, source_y, source_x) = data.dim();
    let plane = shape[1] * shape[2];
    let in_plane = (shape[1], shape[2]);
    let resampler = PlaneResampler::new((source_y, source_x), in_plane, Alignment::Faces);
    let source_of = axis::nearest(source_z, shape[0], Alignment::Faces);
    build(shape, |target: &mut [U]| {
        // Output slices with the same source slice are neighbours: compute each source slice once.
        let mut groups = Vec::new();
        let mut rest = target;
        for run in source_of.chunk_by(|a, b| a == b) {
            let (group, later) = rest.split_at_mut(run.len() * plane);
            groups.push((run[0], group));
            rest = later;
        }
        groups.into_par_iter().for_each(|(z, group)| {
            let slice = data.index_axis(Axis(0), z);
            let (first, copies) = group.split_at_mut(plane);
            cubic_slice(&resampler, &slice, first, in_plane);
            for copy in copies.chunks_exact_mut(plane) {
                copy.copy_from_slice(first);
            }
        });
    })
}

/// One slice by cubic splines to `shape` (y, x), clipped to its own range.
pub(super) fn cubic_slice<T: Sample, U: Sample>(
    resampler: &PlaneResampler,
    slice: &ArrayView2<'_, T>,
    target: &mut [U],
    shape: (usize, usize),
) {
    if slice.dim() == shape {
        // scipy.ndimage.zoom returns its input when no axis changes.
        for (to, from) in target.iter_mut().zip(slice) {
            *to = U::from_f64(from.to_f64());
        }
        return;
    }
    let range = cubic::slice_range(slice);
    for (to, from) in target.iter_mut().zip(&resampler.slice(slice)) {
        *to = U::from_f64(cubic::clip(*from, range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_doubles_a_ramp_and_copies_along_a_separate_axis() {
        let ramp = Array3::from_shape_vec([1, 1, 2], vec![0.0_f32, 4.0]).unwrap();
        let torch = ResampleOptions::TORCH;
        let out = resample_to_shape(ramp.view(), [1, 1, 4], [1.0; 3], [1.0; 3], torch).unwrap();
        assert_eq!(out.as_slice().unwrap(), [0.0, 1.0, 3.0, 4.0]);
        let (thick, thin) = ([8.0, 1.0, 1.0], [4.0, 1.0, 1.0]);
        let data = Array3::from_shape_vec([2, 1, 1], vec![0.0_f32, 4.0]).unwrap();
        let out = resample_to_shape(data.view(), [4, 1, 1], thick, thin, torch).unwrap();
        assert_eq!(out.as_slice().unwrap(), [0.0, 0.0, 4.0, 4.0]);
    }
    use half::f16;
    use ndarray::s;

    const AUTO: SeparateAxis = SeparateAxis::Automatic;

    #[test]
    fn thick_slices_are_handled_apart() {
        let separate = |current, new| separate_axis(AUTO, current, new).unwrap();
        assert_eq!(separate([5.0, 0.8, 0.8], [1.0; 3]), Some(0));
        assert_eq!(separate([0.8, 0.8, 5.0], [1.0; 3]), Some(2));
        assert_eq!(separate([1.0; 3], [5.0, 0.8, 0.8]), Some(0));
        // Exactly three is not above the threshold.
        assert_eq!(separate([3.0, 1.0, 1.0], [1.0; 3]), None);
        // Two coarse axes: never.
        assert_eq!(separate([0.24, 1.25, 1.25], [1.0; 3]), None);
        assert_eq!(separate([1.0; 3], [1.0; 3]), None);
    }

    #[test]
    fn the_choice_can_be_forced() {
        let spacing = [2.0, 1.0, 1.0];
        let separate = |choice| separate_axis(choice, spacing, [1.0; 3]).unwrap();
        assert_eq!(separate(SeparateAxis::Always), Some(0));
        assert_eq!(separate(SeparateAxis::Never), None);
        assert_eq!(
            separate_axis(SeparateAxis::Always, [1.0; 3], spacing).unwrap(),
            None
        );
    }

    #[test]
    fn spacings_that_are_no_lengths_are_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(separate_axis(AUTO, [1.0, bad, 1.0], [1.0; 3]).is_err());
            assert!(new_shape([4; 3], [1.0; 3], [1.0, 1.0, bad]).is_err());
        }
        assert!(new_shape([4; 3], [1e30, 1.0, 1.0], [1.0; 3]).is_err());
    }

    #[test]
    fn shapes_round_halves_to_even() {
        let shape = new_shape([5, 7, 300], [0.5; 3], [1.0; 3]).unwrap();
        assert_eq!(shape, [2, 4, 150]);
    }

    #[test]
    fn an_unchanged_shape_is_a_copy() {
        let data = Array3::from_elem([2, 2, 2], f16::from_f32(0.1));
        let out = resample_to_shape(
            data.view(),
            [2, 2, 2],
            [9.0, 1.0, 1.0],
            [1.0; 3],
            ResampleOptions::IMAGE,
        )
        .unwrap();
        assert_eq!(out, data);
    }

    /// The separate axis may be any; the result is the same up to the permutation.
    #[test]
    fn the_separate_axis_can_be_any() {
        let data = Array3::from_shape_fn([4, 6, 5], |(z, y, x)| {
            ((z * 31 + y * 17 + x * 7) % 13) as f32
        });
        for interpolation in [
            Interpolation::Nearest,
            Interpolation::Linear,
            Interpolation::Cubic,
        ] {
            for along in [
                Interpolation::Nearest,
                Interpolation::Linear,
                Interpolation::Cubic,
            ] {
                let options = ResampleOptions {
                    interpolation,
                    along_separate_axis: along,
                    ..ResampleOptions::IMAGE
                };
                let first =
                    resample_to_shape(data.view(), [7, 9, 4], [5.0, 1.0, 1.0], [1.0; 3], options)
                        .unwrap();
                let turned = resample_to_shape(
                    data.view().permuted_axes([1, 2, 0]),
                    [9, 4, 7],
                    [1.0, 1.0, 5.0],
                    [1.0; 3],
                    options,
                )
                .unwrap();
                for (a, b) in first.iter().zip(turned.permuted_axes([2, 0, 1]).iter()) {
                    assert!((a - b).abs() < 1e-5, "{options:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn cubic_slices_are_clipped_one_by_one() {
        // Slice 0 is a step, slice 1 has a wide range: only a per-slice clip holds the step's range.
        let data = Array3::from_shape_fn([2, 1, 8], |(z, _, x)| {
            let step = if x < 4 { 0.0_f32 } else { 1.0 };
            if z == 0 { step } else { step * 1000.0 - 500.0 }
        });
        let out = resample_to_shape(
            data.view(),
            [2, 1, 40],
            [5.0, 1.0, 1.0],
            [1.0; 3],
            ResampleOptions::IMAGE,
        )
        .unwrap();
        assert!(
            out.slice(s![0, .., ..])
                .iter()
                .all(|v| (0.0..=1.0).contains(v))
        );
    }
}
