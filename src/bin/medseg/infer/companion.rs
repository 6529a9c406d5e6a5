//! Files beside the label map of a case.

use medseg::io::batch::case_name;
use medseg::io::picture;
use std::path::{Path, PathBuf};

/// What a file beside the label map holds; all but the last are NIfTI files of 32-bit floats on the label map's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Companion {
    /// One volume per class.
    Probabilities,
    /// Entropy of the class probabilities.
    Uncertainty,
    /// Mutual information of label and fold.
    Disagreement,
    /// Spacing of a TIFF stack as nnU-Net keeps it, JSON.
    Spacing,
}

impl Companion {
    /// Where it goes: `case.nii.gz` to `case_probabilities.nii.gz`, beside it.
    pub fn path(self, output: &Path) -> PathBuf {
        let mut name = case_name(output);
        name.push(match self {
            Self::Spacing => return picture::spacing_file(output),
            Self::Probabilities => "_probabilities.nii.gz",
            Self::Uncertainty => "_uncertainty.nii.gz",
            Self::Disagreement => "_disagreement.nii.gz",
        });
        output.with_file_name(name)
    }

    /// The flag that asks for it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Probabilities => "--probabilities",
            Self::Uncertainty | Self::Disagreement => "--uncertainty",
            Self::Spacing => "a TIFF stack",
        }
    }
}
