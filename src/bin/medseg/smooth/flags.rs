//! What the flags mean to the library.

use super::Args;
use crate::outcome::Usage;
use clap::ValueEnum;
use medseg::io::labels;
use medseg::mesh::{Cleaning, Frame, Iterations, Options, Simplification, VolumeRule};
use medseg::volume::{Grid, LabelTable};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Wavefront OBJ with colours in labels.mtl
    Obj,
    /// Binary STL
    Stl,
    /// Binary PLY with a colour per vertex
    Ply,
    /// glTF 2.0, binary
    Glb,
}

impl Format {
    /// Ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Obj => "obj",
            Self::Stl => "stl",
            Self::Ply => "ply",
            Self::Glb => "glb",
        }
    }
}

/// `--frame`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FrameFlag {
    /// Right, anterior, superior
    Ras,
    /// Left, posterior, superior
    Lps,
}

impl From<FrameFlag> for Frame {
    fn from(flag: FrameFlag) -> Self {
        match flag {
            FrameFlag::Ras => Self::Ras,
            FrameFlag::Lps => Self::Lps,
        }
    }
}

/// `--volume`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum VolumeFlag {
    /// Every connected piece gets back the volume of its voxels
    Region,
    /// Nothing
    Off,
}

/// `--iterations`.
#[derive(Debug, Clone, Copy)]
pub struct IterationsFlag(pub Iterations);

impl FromStr for IterationsFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(Iterations::Auto));
        }
        match text.parse() {
            Ok(count) if count <= 10_000 => Ok(Self(Iterations::Fixed(count))),
            _ => Err("expected auto or a number from 0 to 10000".to_owned()),
        }
    }
}

impl fmt::Display for IterationsFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Iterations::Auto => f.write_str("auto"),
            Iterations::Fixed(count) => write!(f, "{count}"),
        }
    }
}

/// `--simplify`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Simplify {
    /// Distance in thinnest voxel spacings.
    Voxels(f64),
    /// Distance in millimetres.
    Millimetres(f64),
    /// Part of the triangles that stays, in percent.
    Percent(f64),
}

impl FromStr for Simplify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected a distance such as 0.1vox or 0.2mm, or a part such as 25%".to_owned();
        let make = |unit: &str, value: f64| match unit {
            "vox" => Self::Voxels(value),
            "mm" => Self::Millimetres(value),
            _ => Self::Percent(value),
        };
        let (number, unit) = ["vox", "mm", "%"]
            .into_iter()
            .find_map(|unit| Some((text.strip_suffix(unit)?, unit)))
            .ok_or_else(wrong)?;
        match number.trim().parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(make(unit, value)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Simplify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Voxels(value) => write!(f, "{value}vox"),
            Self::Millimetres(value) => write!(f, "{value}mm"),
            Self::Percent(value) => write!(f, "{value}%"),
        }
    }
}

impl Simplify {
    /// What it means on `grid`.
    pub fn on(self, grid: &Grid) -> Simplification {
        match self {
            Self::Voxels(voxels) => {
                let spacings = grid.affine.column_norms_mm();
                let thinnest = spacings.into_iter().fold(f64::INFINITY, f64::min);
                Simplification::Tolerance {
                    mm: voxels * thinnest,
                }
            }
            Self::Millimetres(mm) => Simplification::Tolerance { mm },
            Self::Percent(percent) => Simplification::Ratio(percent / 100.0),
        }
    }
}

/// What the flags ask for that does not depend on the case.
pub struct Request {
    /// Table named on the command line.
    pub table: Option<LabelTable>,
    /// List of labels, names not yet resolved.
    pub list: Option<String>,
    /// The rest, without labels and simplification.
    pub options: Options,
}

impl Args {
    /// Sorts the flags out.
    ///
    /// # Errors
    /// When --labels names two tables or two lists, or a table that cannot be read.
    pub(super) fn request(&self, limit_bytes: u64) -> anyhow::Result<Request> {
        let (mut table, mut list) = (None, None);
        for text in &self.labels {
            let path = Path::new(text);
            let is_twice = if labels::scheme(text).is_some() || path.exists() {
                table.replace(labels::scheme_or_file(path)?).is_some()
            } else {
                list.replace(text.clone()).is_some()
            };
            if is_twice {
                let twice = "--labels: one list of labels and one table at most";
                return Err(Usage(twice.to_owned()).into());
            }
        }
        let options = Options {
            labels: None,
            cleaning: Cleaning {
                largest_only: self.largest,
                least_island_mm3: self.islands,
                fill_holes: self.fill_holes,
                bridge: self.bridge,
            },
            iterations: self.iterations.0,
            box_voxels: self.box_voxels,
            volume: match self.volume {
                VolumeFlag::Region => VolumeRule::PerRegion,
                VolumeFlag::Off => VolumeRule::Off,
            },
            simplification: None,
            frame: self.frame.into(),
            normals: self.normals,
            limit_bytes,
        };
        Ok(Request {
            table,
            list,
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_need_a_unit() {
        assert_eq!("0.1vox".parse(), Ok(Simplify::Voxels(0.1)));
        assert_eq!("0.25 mm".parse(), Ok(Simplify::Millimetres(0.25)));
        assert_eq!("30%".parse(), Ok(Simplify::Percent(30.0)));
        for wrong in ["0.1", "vox", "-1mm", "nan%", ""] {
            assert!(wrong.parse::<Simplify>().is_err(), "{wrong}");
        }
    }
}
