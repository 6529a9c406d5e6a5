//! Resampling a volume whose slices are made on demand, some slices of the result after the others.

use super::axis::{self, Alignment};
use super::cubic::{self, PlaneResampler};
use super::nnunet::cubic_slice;
use super::{
    Interpolation, LinearResampler, ResampleError, ResampleOptions, Sample, check_shapes,
    separate_axis,
};
use ndarray::{Array2, ArrayViewMut2, CowArray, Ix2};
use rayon::prelude::*;
use std::ops::Range;

/// Slices that are copied or interpolated linearly at a time.
const SLICES: usize = 16;

/// nnU-Net's resampling ([`resample_to_shape`](super::resample_to_shape), same bits) as a stream: the
/// source is asked for slice by slice and the result comes in ascending stretches of slices, so that
/// neither has to exist as a whole.
///
/// Memory: what [`working_bytes`](Self::working_bytes) says. Cost of a pass: as the whole resampling;
/// source slices that two stretches share are asked for twice.
pub struct SliceResampler {
    target: [usize; 3],
    /// Next slice of the result.
    next: usize,
    way: Way,
}

enum Way {
    /// The shapes are equal.
    Copy,
    /// Linear or nearest along every axis.
    Linear(LinearResampler),
    /// Cubic along all axes.
    Cubic(Box<cubic::Stream>),
    /// Cubic in the slices, nearest between them: the source slice of every slice.
    CubicSlices(PlaneResampler, Vec<usize>),
}

impl SliceResampler {
    /// Most slices that [`write`](Self::write) makes at a time.
    pub const MOST_SLICES: usize = cubic::MOST_SLICES;

    /// Prepares the resampling of `source` `[z, y, x]` voxels to `target`, spacings and options as for
    /// [`resample_to_shape`](super::resample_to_shape). `range` holds the smallest and largest value of the
    /// source, to which cubic results are clipped; it matters for nothing else.
    ///
    /// `None` where the result cannot be made by slices: an axis in the plane, or one interpolated by
    /// other than its nearest sample, is handled apart.
    ///
    /// # Errors
    /// As [`resample_to_shape`](super::resample_to_shape).
    pub fn new(
        source: [usize; 3],
        target: [usize; 3],
        current_mm: [f64; 3],
        new_mm: [f64; 3],
        options: ResampleOptions,
        range: Option<(f64, f64)>,
    ) -> Result<Option<Self>, ResampleError> {
        let apart = separate_axis(options.separate_axis, current_mm, new_mm)?;
        check_shapes(source, target)?;
        if target.contains(&0) {
            return Ok(None);
        }
        let linear = || options.linear_resampler(source, target, None);
        let nearest = |resampler: LinearResampler, axes: Range<usize>| {
            axes.fold(resampler, |resampler, axis| {
                resampler.with_nearest_axis(Some(axis))
            })
        };
        let way = match (apart, options.interpolation, options.along_separate_axis) {
            _ if source == target => Way::Copy,
            (None, Interpolation::Linear, _) => Way::Linear(linear()?),
            (None, Interpolation::Nearest, _) => Way::Linear(nearest(linear()?, 0..3)),
            (None, Interpolation::Cubic, _) => Way::Cubic(Box::new(cubic::Stream::new(
                source,
                target,
                Alignment::Faces,
                range,
            ))),
            (Some(axis), Interpolation::Linear, Interpolation::Nearest) => {
                Way::Linear(nearest(linear()?, axis..axis + 1))
            }
            (Some(_), Interpolation::Nearest, Interpolation::Nearest) => {
                Way::Linear(nearest(linear()?, 0..3))
            }
            (Some(0), Interpolation::Cubic, Interpolation::Nearest) => Way::CubicSlices(
                PlaneResampler::new(
                    (source[1], source[2]),
                    (target[1], target[2]),
                    Alignment::Faces,
                ),
                axis::nearest(source[0], target[0], Alignment::Faces),
            ),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            target,
            next: 0,
            way,
        }))
    }

    /// Bytes of work space besides the source and the target, at most, with `threads` threads.
    pub fn working_bytes(&self, source: [usize; 3], threads: usize) -> u64 {
        let plane = |shape: [usize; 3]| shape[1] as u64 * shape[2] as u64;
        let (own, target, threads) = (plane(source), plane(self.target), threads as u64);
        match &self.way {
            Way::Copy => 0,
            // The source slices of a stretch.
            Way::Linear(_) => 4 * own * self.sources(0..SLICES.min(self.target[0])).len() as u64,
            Way::Cubic(stream) => {
                8 * target * stream.most_planes() as u64
                    + threads * (8 * (target + own) + 4 * own)
                    + 4 * target * Self::MOST_SLICES as u64
            }
            Way::CubicSlices(..) => threads * (8 * (target + own) + 4 * own),
        }
    }

    /// The slices that [`write`](Self::write) makes next; none at the end.
    pub fn upcoming(&self) -> Option<Range<usize>> {
        if let Way::Cubic(stream) = &self.way {
            return stream.upcoming();
        }
        let end = (self.next + SLICES).min(self.target[0]);
        (self.next < end).then_some(self.next..end)
    }

    /// Starts from the first slice again.
    pub fn restart(&mut self) {
        self.next = 0;
        if let Way::Cubic(stream) = &mut self.way {
            stream.restart();
        }
    }

    /// Writes the upcoming slices `[z, y, x]` to `target`. `source` hands out source slices `[y, x]`, in any
    /// order and on any thread. Slices in parallel; the same bytes for any number of threads.
    ///
    /// # Panics
    /// When `target` does not hold the upcoming slices.
    pub fn write<'a, T: Sample>(
        &mut self,
        source: impl Fn(usize) -> CowArray<'a, T, Ix2> + Sync,
        target: &mut [T],
    ) {
        let Some(slices) = self.upcoming() else {
            return;
        };
        let [_, height, width] = self.target;
        assert_eq!(target.len(), slices.len() * height * width);
        self.next = slices.end;
        let sources = self.sources(slices.clone());
        let each = target.par_chunks_mut(height * width).zip(slices);
        match &mut self.way {
            Way::Cubic(stream) => stream.write(source, target),
            Way::Copy => each.for_each(|(target, z)| {
                for (to, from) in target.iter_mut().zip(&source(z)) {
                    *to = *from;
                }
            }),
            Way::Linear(resampler) => {
                let planes: Vec<Array2<T>> = sources
                    .clone()
                    .into_par_iter()
                    .map(|z| source(z).into_owned())
                    .collect();
                let plane = |z: usize| planes[z - sources.start].view();
                each.for_each(|(target, z)| {
                    let target = ArrayViewMut2::from_shape((height, width), target)
                        .expect("chunks are one slice");
                    resampler.slice(plane, z, target);
                });
            }
            Way::CubicSlices(resampler, source_of) => each.for_each(|(target, z)| {
                let slice = source(source_of[z]);
                cubic_slice(resampler, &slice.view(), target, (height, width));
            }),
        }
    }

    /// Source slices that a linear stretch reads.
    fn sources(&self, slices: Range<usize>) -> Range<usize> {
        match &self.way {
            Way::Linear(resampler) => resampler.part_of_axis(0, slices),
            _ => slices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::resample_to_shape;
    use super::*;
    use ndarray::{Array3, Axis};

    #[test]
    fn slices_equal_whole_volumes_in_every_bit() {
        let cases = [
            ([9, 7, 8], [9, 7, 8], [1.0; 3]),
            ([90, 7, 8], [61, 9, 5], [1.0; 3]),
            ([40, 7, 8], [95, 6, 11], [1.0; 3]),
            ([9, 7, 8], [14, 9, 5], [5.0, 1.0, 1.0]),
            ([1, 7, 8], [3, 7, 9], [5.0, 1.0, 1.0]),
            ([9, 7, 8], [14, 9, 5], [1.0, 5.0, 1.0]),
        ];
        let mut streamed = 0;
        for (source, target, current) in cases {
            let data = Array3::from_shape_fn(source, |(z, y, x)| {
                ((z * 37 + y * 11 + x * 5) % 23) as f32 * 80.0 - 900.0
            });
            let range = cubic::value_range(data.view());
            for interpolation in [
                Interpolation::Nearest,
                Interpolation::Linear,
                Interpolation::Cubic,
            ] {
                let options = ResampleOptions {
                    interpolation,
                    ..ResampleOptions::IMAGE
                };
                let expected =
                    resample_to_shape(data.view(), target, current, [1.0; 3], options).unwrap();
                let made =
                    SliceResampler::new(source, target, current, [1.0; 3], options, range).unwrap();
                let Some(mut resampler) = made else {
                    continue;
                };
                streamed += 1;
                for pass in 0..2 {
                    let mut found = vec![f32::NAN; target.iter().product()];
                    let plane = target[1] * target[2];
                    while let Some(slices) = resampler.upcoming() {
                        assert!(slices.len() <= SliceResampler::MOST_SLICES);
                        let part = &mut found[slices.start * plane..slices.end * plane];
                        resampler.write(|z| data.index_axis(Axis(0), z).into(), part);
                    }
                    let expected = expected.as_slice().unwrap();
                    assert_eq!(found, expected, "{source:?} {interpolation:?} pass {pass}");
                    resampler.restart();
                }
            }
        }
        assert_eq!(
            streamed, 17,
            "only cubic slices across y need the whole volume"
        );
    }
}
