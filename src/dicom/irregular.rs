//! Tilted and uneven stacks as even volumes, where a user asks for it.
//!
//! Every voxel of the result is interpolated linearly between the two slices before and behind it, and
//! linearly within each, at its true place in the patient. The result has the directions and pixels of
//! the slices, their usual distance, and reaches as far as they do; where no slice reaches, it has
//! the lowest value of the series. Missing and doubled slices stay errors: what was not measured is not
//! made up.

use super::frames;
use super::instance::Instance;
use super::jobs;
use super::series::{self, Placed, Sorted, dot, minus, plus, scaled};
use crate::io::nifti::{Datatype, Endian, Format, Reader};
use crate::io::{Declared, Error, Limits, Result, flip_xy};
use rayon::prelude::*;
use std::io::Cursor;

/// Gaps from this multiple of the usual step on are not interpolated.
const MOST_GAP: f64 = 2.0;

/// A slice on the plane of the result: its values, and where its first pixel lies in pixels of the
/// result.
struct Source {
    values: Vec<f32>,
    shift: [f64; 2],
    along_mm: f64,
}

/// Opens the series `instances`, which `refusal` says is no even stack, by resampling it.
///
/// # Errors
/// `refusal` where resampling would not help, [`Error::OverLimit`], those of decoding.
pub(super) fn open(
    instances: &[Instance],
    name: &str,
    mut warnings: Vec<String>,
    refusal: Error,
    limits: &Limits,
) -> Result<Reader> {
    let Ok(sorted) = series::sorted(instances, name) else {
        return Err(refusal);
    };
    series::check_gaps(&sorted.placed, instances, name)?;
    let (steps, usual) = series::steps(&sorted.placed);
    if sorted.placed.len() < 2 || steps.iter().any(|step| *step >= MOST_GAP * usual) {
        return Err(refusal);
    }
    let frame = Frame::around(&sorted, usual);
    let [depth, rows, columns] = frame.shape;
    let count = (depth as u64).saturating_mul(rows as u64 * columns as u64);
    limits.check(name, count.saturating_mul(12))?;
    let sources = sources(&sorted, instances, &frame, limits)?;
    let values = frame.interpolated(
        &sources,
        [&sorted.pixels.rows, &sorted.pixels.columns].map(|&n| usize::from(n)),
    );
    drop(sources);
    warnings.push(format!(
        "resampled: {} slices, {}, became {depth} slices {usual:.3} mm apart",
        sorted.placed.len(),
        deviation(&sorted, &steps)
    ));
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    drop(values);
    let [between_rows, between_columns] = sorted.spacing_mm;
    let declared = Declared {
        format: Format::Dicom,
        endian: Endian::Little,
        datatype: Datatype::F32,
        sizes: vec![columns as u64, rows as u64, depth as u64],
        steps_mm: [
            scaled(sorted.row, between_columns),
            scaled(sorted.column, between_rows),
            scaled(sorted.normal, usual),
        ]
        .map(flip_xy)
        .to_vec(),
        spacing_mm: None,
        origin_mm: flip_xy(frame.origin_mm),
        vox_offset: 0,
        warnings,
    };
    declared.reader_of(Cursor::new(bytes), Vec::new(), name, limits)
}

/// What was wrong with the stack, for people.
fn deviation(sorted: &Sorted, steps: &[f64]) -> String {
    let least = steps.iter().copied().fold(f64::INFINITY, f64::min);
    let most = steps.iter().copied().fold(0.0, f64::max);
    let tilt = match (sorted.placed.first(), sorted.placed.last()) {
        (Some(first), Some(last)) => {
            let moved = minus(last.position_mm, first.position_mm);
            let along = dot(moved, sorted.normal);
            let aside = minus(moved, scaled(sorted.normal, along));
            dot(aside, aside).sqrt().atan2(along).to_degrees()
        }
        _ => 0.0,
    };
    format!("{least:.3} to {most:.3} mm apart and tilted by {tilt:.2} degrees")
}

/// The even volume around the slices.
struct Frame {
    /// `[z, y, x]`.
    shape: [usize; 3],
    /// Centre of the first voxel, LPS+ mm.
    origin_mm: [f64; 3],
    first_along_mm: f64,
    step_mm: f64,
    /// Smallest shift of a slice, in pixels along the row and down the column from the first slice.
    least: [f64; 2],
}

/// Where a slice lies beside the first one, in pixels along the row and down the column.
fn shift(sorted: &Sorted, placed: &Placed) -> [f64; 2] {
    let Some(first) = sorted.placed.first() else {
        return [0.0; 2];
    };
    let moved = minus(placed.position_mm, first.position_mm);
    let [between_rows, between_columns] = sorted.spacing_mm;
    [
        dot(moved, sorted.row) / between_columns,
        dot(moved, sorted.column) / between_rows,
    ]
}

impl Frame {
    fn around(sorted: &Sorted, step_mm: f64) -> Self {
        let shifts: Vec<[f64; 2]> = sorted.placed.iter().map(|p| shift(sorted, p)).collect();
        let start = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        let (least, most) = shifts.iter().fold(start, |([a, b], [c, d]), &[x, y]| {
            ([a.min(x), b.min(y)], [c.max(x), d.max(y)])
        });
        let ([left, above], [right, below]) = (least, most);
        // A thousandth of a pixel more is text rounding, not another column.
        let [more_columns, more_rows] =
            [right - left, below - above].map(|span| (span - 1e-3).ceil().max(0.0));
        let first = sorted.placed.first();
        let along = |placed: Option<&Placed>| placed.map_or(0.0, |placed| placed.along_mm);
        let length = along(sorted.placed.last()) - along(first);
        let depth = (length / step_mm + 1e-3).floor() as usize + 1;
        let [between_rows, between_columns] = sorted.spacing_mm;
        let corner = first.map_or([0.0; 3], |first| first.position_mm);
        Self {
            shape: [
                depth,
                usize::from(sorted.pixels.rows) + more_rows as usize,
                usize::from(sorted.pixels.columns) + more_columns as usize,
            ],
            origin_mm: plus(
                plus(corner, scaled(sorted.row, left * between_columns)),
                scaled(sorted.column, above * between_rows),
            ),
            first_along_mm: along(first),
            step_mm,
            least,
        }
    }

    /// The voxels of the volume from slices of `[rows, columns]` pixels.
    fn interpolated(&self, sources: &[Source], size: [usize; 2]) -> Vec<f32> {
        let [depth, rows, columns] = self.shape;
        let lowest = sources
            .par_iter()
            .flat_map_iter(|source| source.values.iter().copied());
        let lowest = lowest.reduce(|| f32::INFINITY, f32::min);
        let mut out = vec![lowest; depth * rows * columns];
        let slice_voxels = (rows * columns).max(1);
        out.par_chunks_mut(slice_voxels)
            .enumerate()
            .for_each(|(z, slice)| {
                let along = self.first_along_mm + z as f64 * self.step_mm;
                let Some((before, behind, share)) = neighbours(sources, along) else {
                    return;
                };
                for (index, voxel) in slice.iter_mut().enumerate() {
                    let place = [(index % columns) as f64, (index / columns) as f64];
                    // On a slice its neighbour need not reach there.
                    let before = || before.at(place, size);
                    let behind = || behind.at(place, size);
                    let value = if share <= 0.0 {
                        before()
                    } else if share >= 1.0 {
                        behind()
                    } else {
                        before().and_then(|a| Some(a + (behind()? - a) * share))
                    };
                    if let Some(value) = value {
                        *voxel = value as f32;
                    }
                }
            });
        out
    }
}

/// The slices before and behind a place along the normal, and how far it is from the first to the second.
fn neighbours(sources: &[Source], along_mm: f64) -> Option<(&Source, &Source, f64)> {
    let last = sources.len().checked_sub(2)?;
    let behind = sources.partition_point(|source| source.along_mm <= along_mm);
    let before = behind.saturating_sub(1).min(last);
    let (a, b) = (sources.get(before)?, sources.get(before + 1)?);
    let share = (along_mm - a.along_mm) / (b.along_mm - a.along_mm);
    Some((a, b, share.clamp(0.0, 1.0)))
}

impl Source {
    /// The value at a place in pixels of the result, bilinear; `None` beyond the outer pixel centres.
    fn at(&self, [x, y]: [f64; 2], [rows, columns]: [usize; 2]) -> Option<f64> {
        let [right, below] = self.shift;
        let (x, y) = (x - right, y - below);
        let (column, across) = cell(x, columns)?;
        let (row, down) = cell(y, rows)?;
        let value = |row: usize, column: usize| {
            let (row, column) = (row.min(rows - 1), column.min(columns - 1));
            self.values
                .get(row * columns + column)
                .copied()
                .map(f64::from)
        };
        let mix = |a: f64, b: f64, share: f64| a + (b - a) * share;
        let upper = mix(value(row, column)?, value(row, column + 1)?, across);
        let lower = mix(value(row + 1, column)?, value(row + 1, column + 1)?, across);
        Some(mix(upper, lower, down))
    }
}

/// The pixel at or before a coordinate, and how far it is to the next.
fn cell(at: f64, count: usize) -> Option<(usize, f64)> {
    const ROUNDING: f64 = 1e-3;
    if at < -ROUNDING || at > count as f64 - 1.0 + ROUNDING {
        return None;
    }
    let at = at.clamp(0.0, count as f64 - 1.0);
    Some((at.floor() as usize, at.fract()))
}

fn sources(
    sorted: &Sorted,
    instances: &[Instance],
    frame: &Frame,
    limits: &Limits,
) -> Result<Vec<Source>> {
    let slices: Vec<_> = sorted.placed.iter().map(|placed| placed.slice).collect();
    let jobs = jobs(&slices, instances);
    jobs.par_iter()
        .zip(&sorted.placed)
        .map(|(job, placed)| {
            let bytes = frames::decode(job, &sorted.pixels, Datatype::F32, limits)?;
            let values = bytes.chunks_exact(4).map(|four| match four {
                [a, b, c, d] => f32::from_le_bytes([*a, *b, *c, *d]),
                _ => 0.0,
            });
            let [x, y] = shift(sorted, placed);
            let [least_x, least_y] = frame.least;
            Ok(Source {
                values: values.collect(),
                shift: [x - least_x, y - least_y],
                along_mm: placed.along_mm,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(along_mm: f64, shift: [f64; 2], values: [f32; 6]) -> Source {
        Source {
            values: values.to_vec(),
            shift,
            along_mm,
        }
    }

    #[test]
    fn a_linear_ramp_is_kept_between_shifted_uneven_slices() {
        // Value = 10 x + 100 y + z at the true place, slices of 2 x 3 at z = 0, 3, 4.
        let slice = |z: f64, dx: f64, dy: f64| {
            let value = |index: usize| {
                let (x, y) = ((index % 3) as f64 + dx, (index / 3) as f64 + dy);
                (10.0 * x + 100.0 * y + z) as f32
            };
            source(z, [dx, dy], std::array::from_fn(value))
        };
        let sources = [
            slice(0.0, 0.0, 0.0),
            slice(3.0, 0.5, 0.25),
            slice(4.0, 1.0, 0.5),
        ];
        let frame = Frame {
            shape: [3, 3, 4],
            origin_mm: [0.0; 3],
            first_along_mm: 0.0,
            step_mm: 2.0,
            least: [0.0; 2],
        };
        let found = frame.interpolated(&sources, [2, 3]);
        let at = |z: usize, y: usize, x: usize| found[(z * 3 + y) * 4 + x];
        for z in 0..3 {
            assert_eq!(at(z, 1, 2), (20 + 100 + 2 * z) as f32, "{z}");
        }
        // Beyond the slices: the lowest value.
        assert_eq!(at(0, 2, 0), 0.0);
        assert_eq!(at(0, 0, 3), 0.0);
    }
}
