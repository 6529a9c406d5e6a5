//! Where label maps go: volumes by the ending of their name, or DICOM objects of the series they were made from.

use crate::context::Context;
use crate::flags::check_volume_name;
use crate::outcome::Usage;
use clap::ValueEnum;
use medseg::dicom::{self, LabelObject, Reference};
use medseg::io::nifti::{self, Extension, Geometry};
use medseg::io::{Overwrite, display_name, labels, picture};
use medseg::volume::{Grid, LabelMap};
use std::path::{Path, PathBuf};

/// Flags of commands that write label maps.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct LabelFormat {
    /// Format of label maps [default: by the name of the output (.dcm: dicom-seg), nifti for a folder]
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Format>,
    /// DICOM series that dicom-seg and rtstruct outputs refer to; for several cases a folder with one
    /// of the same name for each [default: the DICOM series among the inputs]
    #[arg(long, value_name = "SERIES")]
    reference: Option<PathBuf>,
}

/// Formats of label maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// .nii.gz, .nii, or - for a stream
    Nifti,
    /// .nrrd
    Nrrd,
    /// .mha
    Mha,
    /// .png, a picture of one slice
    Png,
    /// .tif, a picture with a page per slice
    Tif,
    /// .dcm, a DICOM segmentation
    DicomSeg,
    /// .dcm, a DICOM structure set with contours
    Rtstruct,
}

/// Where one label map goes, with the series it refers to.
pub enum Target {
    /// A volume; its name says of which format.
    Volume,
    /// A picture; its name says of which format.
    Picture,
    /// A DICOM segmentation.
    Segmentation(Box<Reference>),
    /// A DICOM structure set.
    Structures(Box<Reference>),
}

impl LabelFormat {
    /// The ending of outputs in a folder.
    pub fn ending(&self) -> &'static str {
        match self.to {
            None | Some(Format::Nifti) => ".nii.gz",
            Some(Format::Nrrd) => ".nrrd",
            Some(Format::Mha) => ".mha",
            Some(Format::Png) => ".png",
            Some(Format::Tif) => ".tif",
            Some(Format::DicomSeg | Format::Rtstruct) => ".dcm",
        }
    }

    /// Checks that the name of a single output says what it is.
    ///
    /// # Errors
    /// [`Usage`] naming the output.
    pub fn check_name(&self, output: &Path) -> Result<(), Usage> {
        let ends_with = |ending: &str| {
            let name = output.as_os_str().as_encoded_bytes();
            let tail = name.len().checked_sub(ending.len());
            tail.is_some_and(|at| name[at..].eq_ignore_ascii_case(ending.as_bytes()))
        };
        let fits = match self.to {
            None if ends_with(".dcm") || picture::is_picture_name(output) => true,
            None => return check_volume_name(output),
            Some(Format::Nifti) => {
                output == Path::new("-") || ends_with(".nii.gz") || ends_with(".nii")
            }
            Some(Format::DicomSeg | Format::Rtstruct) => output != Path::new("-"),
            Some(Format::Tif) => ends_with(".tif") || ends_with(".tiff"),
            Some(Format::Nrrd | Format::Mha | Format::Png) => ends_with(self.ending()),
        };
        if fits {
            return Ok(());
        }
        Err(Usage(format!(
            "output {}: expected a name ending in {} for the format asked for",
            display_name(output),
            self.ending()
        )))
    }

    /// The ending of outputs in a folder for a model that was trained on files of `ending`: pictures give pictures.
    pub fn ending_for(&self, ending: &str) -> String {
        let is_picture = picture::ENDINGS.contains(&ending);
        match self.to {
            None if is_picture => ending.to_owned(),
            _ => self.ending().to_owned(),
        }
    }

    /// Whether `output` is to be a DICOM object or a picture, which only a label map can become.
    pub fn is_for_labels(&self, output: &Path) -> bool {
        self.is_dicom(output) || picture::is_picture_name(output)
    }

    fn is_dicom(&self, output: &Path) -> bool {
        matches!(self.of(output), Format::DicomSeg | Format::Rtstruct)
    }

    /// What was asked for, else what the name says.
    fn of(&self, output: &Path) -> Format {
        let is_dcm = output
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("dcm"));
        match self.to {
            Some(format) => format,
            None if is_dcm => Format::DicomSeg,
            None => Format::Nifti,
        }
    }

    /// Where the label map of a case goes. `inputs` are the case's files: the first DICOM study among them
    /// is referred to where no `--reference` is given. Reads its headers, so this comes before the work.
    ///
    /// # Errors
    /// [`Usage`] when a DICOM output has no series to refer to, those of [`Reference::open`].
    pub fn target(
        &self,
        output: &Path,
        case: &std::ffi::OsStr,
        inputs: &[&Path],
        cx: &Context,
    ) -> anyhow::Result<Target> {
        if !self.is_dicom(output) {
            return Ok(match picture::is_picture_name(output) {
                true => Target::Picture,
                false => Target::Volume,
            });
        }
        let own = inputs
            .iter()
            .find(|path| **path != Path::new("-") && dicom::is_study(path));
        let path = match &self.reference {
            Some(folder) if folder.join(case).exists() => folder.join(case),
            Some(series) => series.clone(),
            None => own.map(|path| path.to_path_buf()).ok_or_else(|| {
                Usage(format!(
                    "output {}: a DICOM object refers to the images it was made from: name their series with --reference",
                    display_name(output)
                ))
            })?,
        };
        let reference = Box::new(cx.open_reference(&path)?);
        Ok(if self.of(output) == Format::Rtstruct {
            Target::Structures(reference)
        } else {
            Target::Segmentation(reference)
        })
    }
}

impl Target {
    /// Refuses a volume that the output cannot hold; before the work, when only the header is known.
    ///
    /// # Errors
    /// Several slices for a picture of one.
    pub fn check(&self, path: &Path, grid: &Grid) -> anyhow::Result<()> {
        match self {
            Self::Picture => Ok(picture::check_slices(path, grid.shape)?),
            _ => Ok(()),
        }
    }

    /// Saves a label map. The table goes into `extensions` unless it is empty.
    ///
    /// # Errors
    /// Those of the format's writer.
    pub fn save(
        &self,
        path: &Path,
        map: &LabelMap,
        geometry: &Geometry,
        extensions: &[Extension],
        overwrite: Overwrite,
    ) -> anyhow::Result<()> {
        let extensions = if map.table.is_empty() {
            extensions.to_vec()
        } else {
            labels::with_table(extensions, &map.table)
        };
        let (object, reference) = match self {
            Self::Volume => {
                nifti::save_label_map(path, map, geometry, extensions, overwrite)?;
                return Ok(());
            }
            Self::Picture => {
                picture::save_label_map(path, map, overwrite)?;
                return Ok(());
            }
            Self::Segmentation(reference) => (LabelObject::Segmentation, reference),
            Self::Structures(reference) => (LabelObject::StructureSet, reference),
        };
        let table = labels::table_in_extensions(&extensions).unwrap_or_default();
        dicom::save_labels(path, object, map, &table, reference, overwrite)?;
        Ok(())
    }
}
