//! From header fields to a grid, and from a grid to header fields.
//!
//! The affine is nibabel's: sform where its code is set, else qform, else voxels centred on the
//! origin with x running to the left. The spacing is what ITK hands to nnU-Net: `pixdim`, widened
//! from `f32`, without sign. Both are converted to millimetres when the header says metres or
//! micrometres (as ITK does; nibabel leaves it to the caller).

use super::super::error::{Error, Result};
use super::Version;
use super::raw::Raw;
use crate::volume::{Affine, Grid};

/// The position fields of a header as stored, so that an output can carry exactly the same.
///
/// `f32` fields of NIfTI-1 are held as `f64`, which is exact both ways.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Header layout the fields came from; outputs get the same.
    pub version: Version,
    /// Axes that outputs declare: 2 for images without a third axis, else 3.
    pub axes: usize,
    /// `dim_info`: frequency, phase and slice axis.
    pub dim_info: u8,
    /// `pixdim`, the sign of the qform first.
    pub pixdim: [f64; 8],
    /// `xyzt_units`.
    pub xyzt_units: i32,
    /// `qform_code`.
    pub qform_code: i32,
    /// `sform_code`.
    pub sform_code: i32,
    /// `quatern_b`, `quatern_c`, `quatern_d`.
    pub quatern: [f64; 3],
    /// `qoffset_x`, `qoffset_y`, `qoffset_z`.
    pub qoffset: [f64; 3],
    /// `srow_x`, `srow_y`, `srow_z`.
    pub srow: [[f64; 4]; 3],
}

/// Spacings outside are no anatomy, in millimetres.
const SPACING_RANGE_MM: std::ops::RangeInclusive<f64> = 1e-6..=1e6;
/// nibabel's threshold on `1 - b² - c² - d²`: three machine epsilons of the stored type.
const QUATERNION_TOLERANCE_F32: f64 = 3.0 * f32::EPSILON as f64;
const QUATERNION_TOLERANCE_F64: f64 = 3.0 * f64::EPSILON;

impl Geometry {
    pub(super) fn from_raw(
        raw: &Raw,
        dim: &[u64],
        file: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(Self, Grid)> {
        let size = |axis: usize| dim.get(axis).copied().unwrap_or(1);
        let shape = [size(2), size(1), size(0)].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let known = |code: i32, name: &str, warnings: &mut Vec<String>| {
            if (0..=5).contains(&code) {
                return code;
            }
            warnings.push(format!("{name} is {code}, expected 0 to 5: taken as 0"));
            0
        };
        let sform_code = known(raw.sform_code, "sform_code", warnings);
        let qform_code = known(raw.qform_code, "qform_code", warnings);
        let scale = millimetres_per_unit(raw.xyzt_units, warnings);
        let steps = steps(raw, dim, scale, file, warnings)?;
        let affine = if sform_code != 0 {
            Affine {
                linear: raw.srow.map(|[x, y, z, _]| [x, y, z]),
                origin_mm: raw.srow.map(|[.., origin]| origin),
            }
        } else if qform_code != 0 {
            quaternion_affine(raw, steps, file, warnings)?
        } else {
            centred_affine(shape, steps, dim.len())
        };
        check_affine(&affine, file)?;
        let affine = scaled(affine, scale);
        let [x, y, z] = steps.map(|step| step * scale);
        warn_of_other_steps(&affine, [x, y, z], shape, warnings);
        let geometry = Self {
            version: raw.version,
            axes: if dim.len() < 3 { 2 } else { 3 },
            dim_info: raw.dim_info,
            pixdim: raw.pixdim,
            xyzt_units: raw.xyzt_units,
            qform_code: raw.qform_code,
            sform_code: raw.sform_code,
            quatern: raw.quatern,
            qoffset: raw.qoffset,
            srow: raw.srow,
        };
        let grid = Grid {
            shape,
            spacing_mm: [z, y, x],
            affine,
        };
        Ok((geometry, grid))
    }

    /// Header fields for a grid that came from no file: NIfTI-1, millimetres, sform with code 1
    /// (scanner) and the same as qform where the affine has no shear (else `qform_code` 0).
    ///
    /// Grids with more than 32767 voxels along an axis get a NIfTI-2 header.
    pub fn from_grid(grid: &Grid) -> Self {
        // What is written must be what is meant: round to the stored type first.
        Self::with_rounding(grid, |version, value| match version {
            Version::One => f64::from(value as f32),
            Version::Two => value,
        })
    }

    /// As [`Geometry::from_grid`] but not rounded: for grids of formats that store `f64`, so that
    /// an output in such a format repeats them exactly. A NIfTI-1 output rounds when it is written.
    pub(in crate::io) fn exact(grid: &Grid) -> Self {
        Self::with_rounding(grid, |_, value| value)
    }

    fn with_rounding(grid: &Grid, round: impl Fn(Version, f64) -> f64) -> Self {
        let version = if grid.shape.iter().any(|&n| n > 32767) {
            Version::Two
        } else {
            Version::One
        };
        let stored = |value: f64| round(version, value);
        let [z, y, x] = grid.spacing_mm.map(stored);
        let Affine { linear, origin_mm } = grid.affine;
        let rows = linear.iter().zip(origin_mm);
        let mut srow = [[0.0; 4]; 3];
        for (row, (&[a, b, c], origin)) in srow.iter_mut().zip(rows) {
            *row = [a, b, c, origin].map(stored);
        }
        let quaternion = quaternion_of(&grid.affine);
        let (qfac, quatern) = quaternion.unwrap_or((1.0, [0.0; 3]));
        Self {
            version,
            axes: 3,
            dim_info: 0,
            pixdim: [qfac, x, y, z, 0.0, 0.0, 0.0, 0.0],
            xyzt_units: 2, // millimetres
            qform_code: i32::from(quaternion.is_some()),
            sform_code: 1,
            quatern: quatern.map(stored),
            qoffset: if quaternion.is_some() {
                origin_mm.map(stored)
            } else {
                [0.0; 3]
            },
            srow,
        }
    }

    /// The grid these fields describe for a volume of `shape` (`[z, y, x]`).
    ///
    /// # Errors
    /// [`Error::Malformed`] naming `file` when they describe none (a spacing of zero, a flat affine).
    pub fn grid(&self, shape: [usize; 3], file: &str) -> Result<Grid> {
        let [z, y, x] = shape.map(|n| n as u64);
        let raw = Raw::with_geometry(self);
        let dim = [x, y, z];
        let declared = dim.get(..self.axes.min(3)).unwrap_or(&dim);
        Ok(Self::from_raw(&raw, declared, file, &mut Vec::new())?.1)
    }
}

/// Factor to millimetres from `xyzt_units`; unknown units are millimetres, as every reader assumes.
fn millimetres_per_unit(xyzt_units: i32, warnings: &mut Vec<String>) -> f64 {
    let (name, factor) = match xyzt_units & 7 {
        1 => ("metres", 1e3),
        3 => ("micrometres", 1e-3),
        _ => return 1.0,
    };
    warnings.push(format!("xyzt_units says {name}: converted to millimetres"));
    factor
}

/// `pixdim[1..=3]` without sign, in the file's unit. Zero is read as 1 only along an axis the file does not have.
fn steps(
    raw: &Raw,
    dim: &[u64],
    scale: f64,
    file: &str,
    warnings: &mut Vec<String>,
) -> Result<[f64; 3]> {
    let [_, x, y, z, ..] = raw.pixdim;
    let mut steps = [x, y, z];
    for (axis, step) in steps.iter_mut().enumerate() {
        if axis >= dim.len() && !(*step > 0.0 && step.is_finite()) {
            *step = 1.0;
        }
        if *step < 0.0 {
            warnings.push(format!(
                "pixdim[{}] is {step}: taken without its sign",
                axis + 1
            ));
            *step = step.abs();
        }
        if !SPACING_RANGE_MM.contains(&(*step * scale)) {
            return Err(Error::malformed(
                file,
                format!(
                    "pixdim[{}] is {step:?}, expected a voxel size in millimetres",
                    axis + 1
                ),
            ));
        }
    }
    Ok(steps)
}

/// nibabel's `get_qform`: rotation by the quaternion times the steps, the third with the sign in `pixdim[0]`.
fn quaternion_affine(
    raw: &Raw,
    steps: [f64; 3],
    file: &str,
    warnings: &mut Vec<String>,
) -> Result<Affine> {
    let [b, c, d] = raw.quatern;
    let rest = 1.0 - (b * b + c * c + d * d);
    let tolerance = match raw.version {
        Version::One => QUATERNION_TOLERANCE_F32,
        Version::Two => QUATERNION_TOLERANCE_F64,
    };
    let a = if rest.abs() < tolerance {
        0.0
    } else if rest >= 0.0 {
        rest.sqrt()
    } else {
        return Err(Error::malformed(
            file,
            format!("quatern_b, c, d are {b}, {c}, {d}, expected a sum of squares of at most 1"),
        ));
    };
    let [qfac, ..] = raw.pixdim;
    let qfac = if qfac == -1.0 {
        -1.0
    } else {
        if qfac != 1.0 {
            warnings.push(format!("pixdim[0] is {qfac}, expected 1 or -1: taken as 1"));
        }
        1.0
    };
    let [x, y, z] = steps;
    let columns = [x, y, z * qfac];
    let rotation = rotation_matrix([a, b, c, d]);
    let linear = rotation.map(|row| {
        let mut row = row;
        for (value, column) in row.iter_mut().zip(columns) {
            *value *= column;
        }
        row
    });
    Ok(Affine {
        linear,
        origin_mm: raw.qoffset,
    })
}

/// Rotation matrix of a quaternion that need not be normalised.
fn rotation_matrix([w, x, y, z]: [f64; 4]) -> [[f64; 3]; 3] {
    let s = 2.0 / (w * w + x * x + y * y + z * z);
    let (xs, ys, zs) = (x * s, y * s, z * s);
    let (wx, wy, wz) = (w * xs, w * ys, w * zs);
    let (xx, xy, xz) = (x * xs, x * ys, x * zs);
    let (yy, yz, zz) = (y * ys, y * zs, z * zs);
    [
        [1.0 - (yy + zz), xy - wz, xz + wy],
        [xy + wz, 1.0 - (xx + zz), yz - wx],
        [xz - wy, yz + wx, 1.0 - (xx + yy)],
    ]
}

/// nibabel's affine for headers without qform and sform: the centre of the volume at the origin, x to the left.
fn centred_affine(shape: [usize; 3], steps: [f64; 3], axes: usize) -> Affine {
    let [nz, ny, nx] = shape;
    let [mut x, mut y, mut z] = steps;
    // nibabel ignores pixdim beyond the declared axes here, also where it holds a value.
    if axes < 3 {
        z = 1.0;
    }
    if axes < 2 {
        y = 1.0;
    }
    x = -x;
    let middle = |n: usize, step: f64| -((n.max(1) - 1) as f64 / 2.0) * step;
    Affine::from_spacing([x, y, z], [middle(nx, x), middle(ny, y), middle(nz, z)])
}

fn scaled(affine: Affine, scale: f64) -> Affine {
    if scale == 1.0 {
        return affine;
    }
    Affine {
        linear: affine.linear.map(|row| row.map(|value| value * scale)),
        origin_mm: affine.origin_mm.map(|value| value * scale),
    }
}

/// Refuses affines that place voxels nowhere or several voxels at one place.
fn check_affine(affine: &Affine, file: &str) -> Result<()> {
    if !affine.is_finite() {
        return Err(Error::malformed(
            file,
            "the affine holds NaN or infinity, expected finite numbers",
        ));
    }
    let steps: f64 = affine.column_norms_mm().iter().product();
    // Written so that a NaN is refused too. 1e-6 is far below any tilt of a gantry.
    if steps > 0.0 && affine.determinant().abs() > 1e-6 * steps {
        return Ok(());
    }
    Err(Error::malformed(
        file,
        format!(
            "the affine is flat (rows {:?}), expected three independent axes",
            affine.linear
        ),
    ))
}

fn warn_of_other_steps(
    affine: &Affine,
    [x, y, z]: [f64; 3],
    [nz, ny, nx]: [usize; 3],
    warnings: &mut Vec<String>,
) {
    let [cx, cy, cz] = affine.column_norms_mm();
    let pairs = [(x, cx, nx), (y, cy, ny), (z, cz, nz)];
    if pairs
        .iter()
        .any(|&(step, column, n)| n > 1 && (step - column).abs() > 1e-2 * step)
    {
        warnings.push(format!(
            "pixdim says {x} x {y} x {z} mm, the affine {cx} x {cy} x {cz} mm"
        ));
    }
}

/// The sign of the third axis and the quaternion of an affine without shear, as nibabel's `set_qform`.
fn quaternion_of(affine: &Affine) -> Option<(f64, [f64; 3])> {
    let norms = affine.column_norms_mm();
    let mut columns = [[0.0_f64; 3]; 3];
    for (row, values) in affine.linear.iter().enumerate() {
        for ((column, value), norm) in columns.iter_mut().zip(values).zip(norms) {
            if let Some(entry) = column.get_mut(row) {
                *entry = value / norm;
            }
        }
    }
    let [x, y, mut z] = columns;
    let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(p, q)| p * q).sum::<f64>();
    if ![dot(x, y), dot(x, z), dot(y, z)]
        .iter()
        .all(|cosine| cosine.abs() < 1e-5)
    {
        return None;
    }
    let qfac = if affine.determinant() < 0.0 {
        z = z.map(|value| -value);
        -1.0
    } else {
        1.0
    };
    let ([r11, r21, r31], [r12, r22, r32], [r13, r23, r33]) = (x, y, z);
    // The largest of the four squared components is safe to divide by (nifti1_io.c, mat44_to_quatern).
    let squares = [
        1.0 + r11 + r22 + r33,
        1.0 + r11 - r22 - r33,
        1.0 - r11 + r22 - r33,
        1.0 - r11 - r22 + r33,
    ];
    let largest = squares.iter().copied().fold(f64::MIN, f64::max);
    let root = largest.sqrt();
    let (p, q, r, half) = (
        0.5 * (r32 - r23) / root,
        0.5 * (r13 - r31) / root,
        0.5 * (r21 - r12) / root,
        0.5 * root,
    );
    let (xy, xz, yz) = (
        0.5 * (r12 + r21) / root,
        0.5 * (r13 + r31) / root,
        0.5 * (r23 + r32) / root,
    );
    let [s0, s1, s2, _] = squares;
    let (a, bcd) = if largest == s0 {
        (half, [p, q, r])
    } else if largest == s1 {
        (p, [half, xy, xz])
    } else if largest == s2 {
        (q, [xy, half, yz])
    } else {
        (r, [xz, yz, half])
    };
    Some((qfac, if a < 0.0 { bcd.map(|v| -v) } else { bcd }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oblique() -> Grid {
        let (sin, cos) = 0.3_f64.sin_cos();
        Grid {
            shape: [4, 5, 6],
            spacing_mm: [3.0, 0.75, 0.75],
            affine: Affine {
                linear: [
                    [-0.75 * cos, 0.75 * sin, 0.0],
                    [-0.75 * sin, -0.75 * cos, 0.0],
                    [0.0, 0.0, 3.0],
                ],
                origin_mm: [10.0, -20.0, 30.5],
            },
        }
    }

    fn largest_difference(a: &Affine, b: &Affine) -> f64 {
        let all = |affine: &Affine| {
            let linear = affine.linear.iter().flatten().copied();
            linear.chain(affine.origin_mm).collect::<Vec<_>>()
        };
        let pairs = all(a).into_iter().zip(all(b));
        pairs.map(|(p, q)| (p - q).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn sform_and_qform_of_a_grid_say_the_same() {
        for flip in [1.0, -1.0] {
            let mut grid = oblique();
            grid.affine.linear[2][2] *= flip;
            let geometry = Geometry::from_grid(&grid);
            assert_eq!((geometry.sform_code, geometry.qform_code), (1, 1));
            let by_sform = geometry.grid(grid.shape, "x").unwrap();
            assert!(largest_difference(&by_sform.affine, &grid.affine) < 1e-6);
            let mut without = geometry.clone();
            without.sform_code = 0;
            let by_qform = without.grid(grid.shape, "x").unwrap();
            assert!(largest_difference(&by_qform.affine, &grid.affine) < 1e-5);
            assert_eq!(by_qform.spacing_mm, [3.0, 0.75, 0.75]);
        }
    }

    #[test]
    fn a_sheared_grid_has_no_qform() {
        let mut grid = oblique();
        grid.affine.linear[0][2] += 0.5;
        assert_eq!(Geometry::from_grid(&grid).qform_code, 0);
    }

    #[test]
    fn without_forms_the_volume_is_centred_and_x_runs_left() {
        let mut geometry = Geometry::from_grid(&Grid::with_spacing([4, 5, 6], [3.0, 2.0, 1.5]));
        geometry.sform_code = 0;
        geometry.qform_code = 0;
        let grid = geometry.grid([4, 5, 6], "x").unwrap();
        assert_eq!(grid.affine.origin_mm, [3.75, -4.0, -4.5]);
        assert_eq!(grid.affine.linear[0][0], -1.5);
    }

    #[test]
    fn places_that_are_none_are_refused() {
        let good = Geometry::from_grid(&oblique());
        let with = |change: &dyn Fn(&mut Geometry)| {
            let mut geometry = good.clone();
            change(&mut geometry);
            geometry
                .grid([4, 5, 6], "x")
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(with(&|g| g.pixdim[2] = 0.0).contains("pixdim[2] is 0"));
        assert!(with(&|g| g.pixdim[1] = f64::NAN).contains("NaN"));
        assert!(with(&|g| g.srow[0][3] = f64::INFINITY).contains("infinity"));
        assert!(with(&|g| g.srow[1] = g.srow[0]).contains("flat"));
        assert!(
            with(&|g| {
                g.sform_code = 0;
                g.quatern = [0.9; 3];
            })
            .contains("quatern")
        );
    }

    #[test]
    fn metres_become_millimetres() {
        let mut geometry =
            Geometry::from_grid(&Grid::with_spacing([4, 5, 6], [0.003, 0.002, 0.001]));
        geometry.xyzt_units = 1;
        let grid = geometry.grid([4, 5, 6], "x").unwrap();
        assert!((grid.spacing_mm[0] - 3.0).abs() < 1e-6);
        assert!((grid.affine.linear[2][2] - 3.0).abs() < 1e-6);
    }
}
