//! A whole label map from a patient's kidneys alone, by fitting a template.
//!
//! The kidneys (and, with a CT, the bones) of patient and template are compared as clouds of surface
//! points in world millimetres. The map from patient to template is affine with a smooth deformation; a
//! prior says how bodies differ (`deformation`). Two kidneys say little about the rest of the body, so it is
//! the prior that decides how far what is seen at the kidneys reaches. The map is the most probable
//! one given closest points of both surfaces, found again and again from the present map (iterated closest points,
//! Besl and McKay, IEEE PAMI 14, 1992), beginning with the kidneys' translation. Points near a tumour are not
//! trusted, and points far off count little.
//!
//! The template's labels are then pulled through the map onto the patient's grid, nearest neighbour; its
//! own kidneys are left out and the patient's kidneys and tumours pasted last, unchanged.

mod cloud;
mod deformation;
mod fit;
mod warp;

pub use deformation::Deformation;
pub use fit::{Confidence, Fit, Method};

use crate::topology::components::TooManyRuns;
use crate::volume::{Grid, LabelSet};
use cloud::{Kidney, Region, patient_bones, patient_kidney, template_bones, template_kidney};
use ndarray::{Array3, ArrayView3};

/// A label map with its place.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Labels, `[z, y, x]`.
    pub map: ArrayView3<'a, u16>,
    /// Where the voxels are.
    pub grid: &'a Grid,
}

/// A template and what its labels are.
#[derive(Debug, Clone, Copy)]
pub struct Template<'a> {
    /// The label map.
    pub input: Input<'a>,
    /// Labels of its kidneys: one per patient's kidney, in the same order.
    pub kidneys: &'a [u16],
    /// Labels that are not carried over: kidneys' own are left out in any case.
    pub lesions: &'a [u16],
    /// Labels of its bones; only used with a CT.
    pub bones: &'a [u16],
}

/// The patient.
#[derive(Debug, Clone, Copy)]
pub struct Patient<'a> {
    /// The label map; only kidneys and tumours are read, and kept.
    pub input: Input<'a>,
    /// Labels of the kidneys.
    pub kidneys: &'a [u16],
    /// Labels of tumours and cysts.
    pub tumors: &'a [u16],
    /// CT in Hounsfield units on the same grid.
    pub image: Option<ArrayView3<'a, f32>>,
}

/// Why a template cannot be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An affine without inverse, or a volume without voxels.
    #[error("{what} is empty, or its affine is singular")]
    Grid {
        /// `the label map` or `the template`.
        what: &'static str,
    },
    /// No kidney of the patient.
    #[error("no kidney: none of the labels {labels:?} occurs")]
    NoKidney {
        /// The labels asked for.
        labels: Vec<u16>,
    },
    /// The template lacks the kidneys that the patient has.
    #[error("the template has no kidney: none of the labels {labels:?} occurs in it")]
    NoTemplateKidney {
        /// The labels asked for.
        labels: Vec<u16>,
    },
    /// The map has too many pieces.
    #[error(transparent)]
    TooManyRuns(#[from] TooManyRuns),
}

/// The fitted label map.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Labels on the patient's grid: the template's, with the patient's kidneys and tumours.
    pub map: Array3<u16>,
    /// The map from patient to template and how well it fits.
    pub fit: Fit,
}

/// Fits the template to the patient.
///
/// Cost: some hundred million point distances whatever the size of the volumes, then one pass over the
/// patient's grid; memory: the result, 2 bytes per voxel, and a mask of the kidneys.
///
/// # Errors
/// [`Error`].
pub fn fit_template(
    patient: &Patient<'_>,
    template: &Template<'_>,
    method: Option<Method>,
) -> Result<Fitted, Error> {
    let is_placed =
        |input: &Input<'_>| !input.map.is_empty() && input.grid.affine.inverse().is_some();
    if !is_placed(&patient.input) {
        return Err(Error::Grid {
            what: "the label map",
        });
    }
    if !is_placed(&template.input) {
        return Err(Error::Grid {
            what: "the template",
        });
    }
    let given = LabelSet::new(patient.kidneys.iter().chain(patient.tumors));
    let here = Region::whole(&patient.input).around(&given);
    let there = Region::whole(&template.input);
    let mut pairs: Vec<(Kidney, Kidney)> = Vec::new();
    let mut has_patient = false;
    for (&own, &theirs) in patient.kidneys.iter().zip(template.kidneys) {
        let here = here
            .as_ref()
            .map(|here| patient_kidney(here, own, patient.tumors));
        let here = here.transpose()?.flatten();
        has_patient |= here.is_some();
        if let (Some(here), Some(there)) = (here, template_kidney(&there, theirs)) {
            pairs.push((here, there));
        }
    }
    if !has_patient {
        return Err(Error::NoKidney {
            labels: patient.kidneys.to_vec(),
        });
    }
    if pairs.is_empty() {
        return Err(Error::NoTemplateKidney {
            labels: template.kidneys.to_vec(),
        });
    }
    let bones = match (
        patient_bones(patient, &given),
        template_bones(&there, template.bones),
    ) {
        (Some(here), Some(there)) => Some((here, there)),
        _ => None,
    };
    let bones = bones.as_ref().map(|(here, there)| (&here[..], &there[..]));
    let fit = fit::fit(&pairs, bones, method);
    Ok(Fitted {
        map: warp::pull(patient, template, &given, &fit.map),
        fit,
    })
}
