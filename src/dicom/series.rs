//! Frames sorted into a stack, or the reason why they make none.
//!
//! Frames are ordered by their position along the slice normal (the cross product of row and column
//! direction, PS3.3 C.7.6.2), never by file name or instance number. Nothing is regridded: a stack
//! with a missing, doubled or tilted slice is refused with the slices named.

use super::frames::{self, Job};
use super::instance::{Instance, Pixels};
use crate::io::nifti::{Endian, Format};
use crate::io::{Declared, Error, Result, flip_xy};

/// Largest difference of a direction cosine within a stack: DS values carry some six digits.
const DIRECTION_TOLERANCE: f64 = 1e-4;
/// Largest deviation of a slice from its place in an even stack, as a share of the step and in mm.
const STEP_TOLERANCE: f64 = 0.01;
const STEP_TOLERANCE_MM: f64 = 0.01;
/// What errors of stacks that could be resampled say.
const RESAMPLE: &str = "--resample-irregular makes an even volume of it";

/// One frame of one file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice {
    /// Number of the instance within the series.
    pub instance: usize,
    /// Number of the frame within the instance.
    pub frame: usize,
}

/// An even stack of frames.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    /// In order along the normal.
    pub slices: Vec<Slice>,
    pub pixels: Pixels,
    /// Steps along x (within a row), y (down a column) and z, LPS+ mm.
    pub steps_mm: [[f64; 3]; 3],
    /// Centre of the first voxel, LPS+ mm.
    pub origin_mm: [f64; 3],
    pub warnings: Vec<String>,
}

impl Stack {
    /// What a header of this stack says, with the voxel type that fits the scalings of `jobs`.
    pub fn declared(&self, jobs: &[Job], warnings: Vec<String>) -> Declared {
        Declared {
            format: Format::Dicom,
            endian: Endian::Little,
            datatype: frames::datatype(&self.pixels, jobs),
            sizes: vec![
                u64::from(self.pixels.columns),
                u64::from(self.pixels.rows),
                self.slices.len() as u64,
            ],
            steps_mm: self.steps_mm.map(flip_xy).to_vec(),
            spacing_mm: None,
            origin_mm: flip_xy(self.origin_mm),
            vox_offset: 0,
            warnings: [warnings, self.warnings.clone()].concat(),
        }
    }
}

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn cross([a, b, c]: [f64; 3], [d, e, f]: [f64; 3]) -> [f64; 3] {
    [b * f - c * e, c * d - a * f, a * e - b * d]
}

pub(super) fn scaled(a: [f64; 3], factor: f64) -> [f64; 3] {
    a.map(|value| value * factor)
}

pub(super) fn plus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(super) fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// A frame with everything that its place needs.
pub(super) struct Placed {
    pub slice: Slice,
    /// Centre of the first voxel, LPS+ mm.
    pub position_mm: [f64; 3],
    /// Position along the normal.
    pub along_mm: f64,
}

/// Frames of one size, type and direction in order along their normal, at any distance.
pub(super) struct Sorted {
    pub placed: Vec<Placed>,
    pub pixels: Pixels,
    /// Unit vectors, LPS+.
    pub row: [f64; 3],
    pub column: [f64; 3],
    pub normal: [f64; 3],
    /// Distance between rows, then between columns.
    pub spacing_mm: [f64; 2],
}

/// Sorts the frames of one series into an even stack. `name` is what errors call it.
pub(super) fn stack(instances: &[Instance], name: &str) -> Result<Stack> {
    let sorted = sorted(instances, name)?;
    let first = instances
        .first()
        .ok_or_else(|| Error::malformed(name, "holds no DICOM images"))?;
    let mut warnings = Vec::new();
    let step = match sorted.placed.as_slice() {
        [_only] => {
            let thickness = first.slice_thickness_mm.unwrap_or_else(|| {
                warnings.push("one slice without a thickness: taken as 1 mm".to_owned());
                1.0
            });
            scaled(sorted.normal, thickness)
        }
        many => even_step(many, instances, sorted.normal, name)?,
    };
    if first.is_monochrome1 {
        warnings.push("MONOCHROME1: low values are shown bright; the values are kept".to_owned());
    }
    let origin_mm = sorted
        .placed
        .first()
        .map_or([0.0; 3], |first| first.position_mm);
    let [between_rows, between_columns] = sorted.spacing_mm;
    Ok(Stack {
        slices: sorted
            .placed
            .into_iter()
            .map(|placed| placed.slice)
            .collect(),
        pixels: sorted.pixels,
        steps_mm: [
            scaled(sorted.row, between_columns),
            scaled(sorted.column, between_rows),
            step,
        ],
        origin_mm,
        warnings,
    })
}

/// Sorts the frames of one series along their normal.
///
/// # Errors
/// Those of [`stack`], except for those of distances between slices.
pub(super) fn sorted(instances: &[Instance], name: &str) -> Result<Sorted> {
    let first = instances
        .first()
        .ok_or_else(|| Error::malformed(name, "holds no DICOM images"))?;
    let pixels = same_pixels(instances, first)?;
    let (row, column) = directions(first)?;
    let normal = cross(row, column);
    let spacing = pixel_spacing(first)?;
    let mut placed = Vec::new();
    for (instance, file) in instances.iter().enumerate() {
        for (frame, attributes) in file.frames.iter().enumerate() {
            let shown = &file.source.name;
            check_alike(file, attributes, row, column, spacing)?;
            let position_mm = attributes.position_mm.ok_or_else(|| {
                let which = if file.frames.len() > 1 {
                    format!(" for frame {}", frame + 1)
                } else {
                    String::new()
                };
                Error::malformed(shown, format!("has no ImagePositionPatient{which}"))
            })?;
            placed.push(Placed {
                slice: Slice { instance, frame },
                position_mm,
                along_mm: dot(position_mm, normal),
            });
        }
    }
    placed.sort_by(|a, b| a.along_mm.total_cmp(&b.along_mm));
    Ok(Sorted {
        placed,
        pixels,
        row,
        column,
        normal,
        spacing_mm: spacing,
    })
}

fn same_pixels(instances: &[Instance], first: &Instance) -> Result<Pixels> {
    let shown = &first.source.name;
    let Some(pixels) = first.pixels.clone() else {
        return Err(Error::unsupported(
            shown,
            format!("is a {} object without an image", first.modality),
        ));
    };
    if pixels.samples != 1 {
        return Err(Error::unsupported(
            shown,
            format!(
                "holds {} samples per pixel (colour), expected one",
                pixels.samples
            ),
        ));
    }
    if ![8, 16, 32].contains(&pixels.bits_allocated) {
        return Err(Error::unsupported(
            shown,
            format!(
                "has {} bits per pixel, expected 8, 16 or 32",
                pixels.bits_allocated
            ),
        ));
    }
    for other in instances {
        let found = other.pixels.as_ref();
        if found != Some(&pixels) {
            let size = found.map_or("no image".to_owned(), |p| {
                format!(
                    "{} x {} pixels of {} bits",
                    p.columns, p.rows, p.bits_stored
                )
            });
            return Err(Error::malformed(
                &other.source.name,
                format!(
                    "has {size}, expected {} x {} of {} bits as {shown}",
                    pixels.columns, pixels.rows, pixels.bits_stored
                ),
            ));
        }
    }
    Ok(pixels)
}

/// Row and column direction, each of unit length.
fn directions(instance: &Instance) -> Result<([f64; 3], [f64; 3])> {
    let shown = &instance.source.name;
    let stored = instance.frames.first().and_then(|frame| frame.orientation);
    let Some([a, b, c, d, e, f]) = stored else {
        return Err(Error::malformed(shown, "has no ImageOrientationPatient"));
    };
    let unit = |vector: [f64; 3]| {
        let length = dot(vector, vector).sqrt();
        // DS text rounds to some six digits; anything further off is no direction.
        ((length - 1.0).abs() < 1e-2).then(|| scaled(vector, 1.0 / length))
    };
    match (unit([a, b, c]), unit([d, e, f])) {
        (Some(row), Some(column)) if dot(row, column).abs() < 1e-3 => Ok((row, column)),
        _ => Err(Error::malformed(
            shown,
            format!(
                "ImageOrientationPatient is {:?}, expected two unit vectors at a right angle",
                [a, b, c, d, e, f]
            ),
        )),
    }
}

fn pixel_spacing(instance: &Instance) -> Result<[f64; 2]> {
    let shown = &instance.source.name;
    let stored = instance
        .frames
        .first()
        .and_then(|frame| frame.pixel_spacing_mm);
    match stored {
        Some(spacing) if spacing.iter().all(|length| *length > 0.0) => Ok(spacing),
        Some(spacing) => Err(Error::malformed(
            shown,
            format!("PixelSpacing is {spacing:?}, expected lengths above 0"),
        )),
        None => Err(Error::malformed(shown, "has no PixelSpacing")),
    }
}

/// Every frame must share the directions and the spacing of the first.
fn check_alike(
    file: &Instance,
    frame: &super::instance::Frame,
    row: [f64; 3],
    column: [f64; 3],
    spacing: [f64; 2],
) -> Result<()> {
    let shown = &file.source.name;
    let expected = [row, column].concat();
    let same_directions = frame.orientation.is_some_and(|found| {
        let mut pairs = found.iter().zip(&expected);
        pairs.all(|(a, b)| (a - b).abs() <= DIRECTION_TOLERANCE * 10.0)
    });
    if !same_directions {
        return Err(Error::malformed(
            shown,
            format!(
                "mixed orientation: directions are {:?}, those of the series are {expected:?}",
                frame.orientation.unwrap_or_default()
            ),
        ));
    }
    let same_spacing = frame.pixel_spacing_mm.is_some_and(|found| {
        let mut pairs = found.iter().zip(spacing);
        pairs.all(|(a, b)| (a - b).abs() <= 1e-3 * b)
    });
    if same_spacing {
        return Ok(());
    }
    Err(Error::malformed(
        shown,
        format!(
            "PixelSpacing is {:?}, that of the series is {spacing:?}",
            frame.pixel_spacing_mm.unwrap_or_default()
        ),
    ))
}

/// The name of a frame's file.
fn file_of(placed: &Placed, instances: &[Instance]) -> String {
    let instance = instances.get(placed.slice.instance);
    instance.map_or(String::new(), |instance| instance.source.name.clone())
}

/// Distances between neighbours along the normal, and their median.
pub(super) fn steps(placed: &[Placed]) -> (Vec<f64>, f64) {
    let steps: Vec<f64> = placed
        .windows(2)
        .map(|pair| match pair {
            [a, b] => b.along_mm - a.along_mm,
            _ => 0.0,
        })
        .collect();
    let mut sorted = steps.clone();
    sorted.sort_by(f64::total_cmp);
    let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    (steps, usual)
}

/// How far a slice may be off its place where `usual` is the step.
fn tolerance(usual: f64) -> f64 {
    (STEP_TOLERANCE * usual).max(STEP_TOLERANCE_MM)
}

/// Refuses doubled slices, and gaps of which a multiple of the usual step fits.
pub(super) fn check_gaps(placed: &[Placed], instances: &[Instance], name: &str) -> Result<()> {
    let (steps, usual) = steps(placed);
    let tolerance = tolerance(usual);
    for (pair, step) in placed.windows(2).zip(&steps) {
        let [a, b] = pair else { continue };
        let (a, b) = (file_of(a, instances), file_of(b, instances));
        if *step <= tolerance {
            return Err(Error::malformed(
                name,
                format!("duplicate position: {a} and {b} lie {step:.3} mm apart"),
            ));
        }
        let missing = (step / usual).round() - 1.0;
        let is_multiple =
            missing >= 1.0 && (step - (missing + 1.0) * usual).abs() <= tolerance * (missing + 1.0);
        if is_multiple {
            return Err(Error::malformed(
                name,
                format!(
                    "{missing} missing slice{} between {a} and {b}: {step:.3} mm apart where {usual:.3} mm is usual",
                    if missing > 1.0 { "s" } else { "" },
                ),
            ));
        }
    }
    Ok(())
}

/// The step between neighbours of a stack of at least two, checked to be the same everywhere and
/// along the normal.
fn even_step(
    placed: &[Placed],
    instances: &[Instance],
    normal: [f64; 3],
    name: &str,
) -> Result<[f64; 3]> {
    check_gaps(placed, instances, name)?;
    let file = |placed: &Placed| file_of(placed, instances);
    let (steps, usual) = steps(placed);
    let tolerance = tolerance(usual);
    for (pair, step) in placed.windows(2).zip(&steps) {
        let [a, b] = pair else { continue };
        if (step - usual).abs() > tolerance {
            return Err(Error::malformed(
                name,
                format!(
                    "uneven slices: {} and {} lie {step:.3} mm apart where {usual:.3} mm is usual; {RESAMPLE}",
                    file(a),
                    file(b)
                ),
            ));
        }
    }
    let (Some(first), Some(last)) = (placed.first(), placed.last()) else {
        return Ok([0.0; 3]);
    };
    let count = steps.len() as f64;
    let mean = scaled(minus(last.position_mm, first.position_mm), 1.0 / count);
    let along = dot(mean, normal);
    let sideways = minus(mean, scaled(normal, along));
    let drift = dot(sideways, sideways).sqrt();
    // A tilted gantry moves every slice sideways; a thousandth of a millimetre is text rounding.
    if drift > (1e-3 * along.abs()).max(1e-3) {
        return Err(Error::malformed(
            name,
            format!(
                "tilted gantry: every slice is {drift:.3} mm beside the one before ({:.2} degrees); {RESAMPLE}",
                drift.atan2(along).to_degrees()
            ),
        ));
    }
    for (index, place) in placed.iter().enumerate() {
        let moved = minus(place.position_mm, first.position_mm);
        let off = minus(moved, scaled(mean, index as f64));
        let off = dot(off, off).sqrt();
        if off > tolerance.max(1e-3 * count) {
            return Err(Error::malformed(
                name,
                format!(
                    "uneven slices: {} is {off:.3} mm beside its place in the stack; {RESAMPLE}",
                    file(place)
                ),
            ));
        }
    }
    Ok(scaled(normal, along))
}
