//! The series that a segmentation or structure set refers to.

use super::content::Content;
use super::dataset;
use super::instance::{self, Instance};
use super::series::Stack;
use super::{Chosen, chosen};
use crate::geometry::orientation::{Orientation, Turn};
use crate::io::{Error, Limits, Result};
use crate::volume::{Grid, LabelMap};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use std::borrow::Cow;
use std::path::Path;

/// Largest distance between a label map and the series it belongs to, in millimetres: what a header in
/// single precision may lose.
const POSITION_TOLERANCE_MM: f64 = 1e-2;
/// What is copied where the series has it, and written empty where it has not (type 2, PS3.3 C.7.1.1
/// and C.7.2.1).
const SUBJECT: [(Tag, VR); 10] = [
    (tags::STUDY_DATE, VR::DA),
    (tags::STUDY_TIME, VR::TM),
    (tags::ACCESSION_NUMBER, VR::SH),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN),
    (tags::PATIENT_NAME, VR::PN),
    (tags::PATIENT_ID, VR::LO),
    (tags::PATIENT_BIRTH_DATE, VR::DA),
    (tags::PATIENT_SEX, VR::CS),
    (tags::STUDY_ID, VR::SH),
    (tags::POSITION_REFERENCE_INDICATOR, VR::LO),
];
/// Where a date for a derived object is looked for, the most particular first.
const DATES: [(Tag, Tag); 4] = [
    (tags::CONTENT_DATE, tags::CONTENT_TIME),
    (tags::ACQUISITION_DATE, tags::ACQUISITION_TIME),
    (tags::SERIES_DATE, tags::SERIES_TIME),
    (tags::STUDY_DATE, tags::STUDY_TIME),
];

/// One slice of the series.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub sop_class: String,
    pub sop_instance: String,
    /// Number of the frame, from 1, where the instance has several.
    pub frame: Option<u32>,
    /// Centre of the first voxel, LPS+ mm.
    pub position_mm: [f64; 3],
}

/// A series of images as the frame of objects made from it: where its slices lie, which file each
/// comes from, and whose they are.
#[derive(Debug, Clone)]
pub struct Reference {
    /// What errors call it.
    pub(super) name: String,
    pub(super) grid: Grid,
    /// In order along the normal.
    pub(super) planes: Vec<Plane>,
    /// Row and column direction, LPS+.
    pub(super) orientation: [f64; 6],
    /// Distance between rows, between columns, and between slices.
    pub(super) spacing_mm: [f64; 3],
    pub(super) study: String,
    pub(super) series: String,
    pub(super) frame_of_reference: String,
    pub(super) date: String,
    pub(super) time: String,
    subject: Vec<(Tag, VR, String)>,
    warnings: Vec<String>,
}

impl Reference {
    /// Reads the headers of the one image series in `path`, or of the one that `choice` names, as
    /// [`super::open`] does.
    ///
    /// # Errors
    /// Those of [`super::open`]; [`Error::Malformed`] for images without identifiers. Missing ones of the
    /// study, the series and the frame of reference are made from those of the images, with a warning.
    pub fn open(path: &Path, choice: Option<&str>, limits: &Limits) -> Result<Self> {
        let Chosen {
            name,
            instances,
            warnings: left_out,
        } = chosen(path, choice, limits)?;
        if instances.iter().any(Instance::is_segmentation) {
            return Err(Error::unsupported(
                &name,
                "is a segmentation, expected the images that it was made from: name their series with --reference",
            ));
        }
        let stack = super::series::stack(&instances, &name)?;
        let grid = stack.declared(&[], left_out).header(&name)?.grid;
        let first = stack
            .slices
            .first()
            .and_then(|slice| instances.get(slice.instance))
            .ok_or_else(|| Error::malformed(&name, "holds no DICOM images"))?;
        let object = instance::parse(&first.source, limits, false)?;
        let planes = planes(&stack, &instances);
        let lacks_identifier =
            |plane: &Plane| plane.sop_instance.is_empty() || plane.sop_class.is_empty();
        if planes.len() < stack.slices.len() || planes.iter().any(lacks_identifier) {
            return Err(Error::malformed(
                &name,
                "has images without SOPInstanceUID or SOPClassUID, which nothing can refer to",
            ));
        }
        let mut warnings = Vec::new();
        let mut required = |tag: Tag, what: &str| {
            instance::text(&object, tag).unwrap_or_else(|| {
                warnings.push(format!(
                    "{name}: has no {what}: one is made from its images"
                ));
                let content = planes.iter().fold(Content::new(), |content, plane| {
                    content.with(plane.sop_instance.as_bytes())
                });
                content.uid(what)
            })
        };
        let [x, y, z] = stack.steps_mm;
        let length = |step: [f64; 3]| step.iter().map(|v| v * v).sum::<f64>().sqrt();
        let unit = |step: [f64; 3]| step.map(|value| value / length(step));
        let ([a, b, c], [d, e, f]) = (unit(x), unit(y));
        let exact = first.frames.first();
        let (date, time) = date(&object);
        Ok(Self {
            study: required(tags::STUDY_INSTANCE_UID, "StudyInstanceUID"),
            series: required(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID"),
            frame_of_reference: required(tags::FRAME_OF_REFERENCE_UID, "FrameOfReferenceUID"),
            orientation: exact
                .and_then(|frame| frame.orientation)
                .unwrap_or([a, b, c, d, e, f]),
            spacing_mm: [length(y), length(x), length(z)],
            date,
            time,
            subject: SUBJECT
                .map(|(tag, vr)| (tag, vr, instance::text(&object, tag).unwrap_or_default()))
                .to_vec(),
            grid,
            planes,
            warnings,
            name,
        })
    }

    /// What a person should know about the series: identifiers that it lacks.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the voxels of the series are.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Patient and study, as elements of an object of the same study.
    pub(super) fn subject(&self) -> Vec<InMemElement> {
        let copied = self.subject.iter().map(|(tag, vr, value)| {
            if value.is_empty() {
                dataset::empty(*tag, *vr)
            } else {
                dataset::text(*tag, *vr, value)
            }
        });
        let identifiers = [
            (tags::STUDY_INSTANCE_UID, &self.study),
            (tags::FRAME_OF_REFERENCE_UID, &self.frame_of_reference),
        ];
        copied
            .chain(identifiers.map(|(tag, uid)| dataset::text(tag, VR::UI, uid)))
            .collect()
    }

    /// The label map with its axes turned to those of the series: slices along the normal, rows and
    /// columns as in the images. Nothing is resampled.
    ///
    /// # Errors
    /// [`Error::Geometry`] when the voxels are not those of the series.
    pub(super) fn turned<'a>(&self, map: &'a LabelMap) -> Result<Cow<'a, LabelMap>> {
        let elsewhere = |problem: String| {
            Error::Parameter(format!(
                "the label map is not on the grid of {}: {problem}; resample it to that series first",
                self.name
            ))
        };
        let turn = match (
            Orientation::of(&map.grid().affine),
            Orientation::of(&self.grid.affine),
        ) {
            (Ok(from), Ok(to)) => Turn::between(from, to),
            _ => Turn::IDENTITY,
        };
        let turned = if turn.is_identity() {
            Cow::Borrowed(map)
        } else {
            Cow::Owned(LabelMap {
                volume: turn.volume(&map.volume),
                table: map.table.clone(),
            })
        };
        turned
            .grid()
            .check_matches(&self.grid, POSITION_TOLERANCE_MM)
            .map_err(|error| elsewhere(error.to_string()))?;
        Ok(turned)
    }
}

fn planes(stack: &Stack, instances: &[Instance]) -> Vec<Plane> {
    let plane = |slice: &super::series::Slice| {
        let instance = instances.get(slice.instance)?;
        let frame = instance.frames.get(slice.frame)?;
        Some(Plane {
            sop_class: instance.sop_class.clone(),
            sop_instance: instance.sop_instance.clone(),
            frame: (instance.frames.len() > 1).then_some(frame.index + 1),
            position_mm: frame.position_mm?,
        })
    };
    stack.slices.iter().filter_map(plane).collect()
}

/// Date and time of the images: a clock would make every run different. The first day of DICOM where
/// they state none.
fn date(object: &InMemDicomObject) -> (String, String) {
    DATES
        .iter()
        .find_map(|(date, time)| {
            let date = instance::text(object, *date)?;
            let time = instance::text(object, *time).unwrap_or_else(|| "000000".to_owned());
            Some((date, time))
        })
        .unwrap_or_else(|| ("19930101".to_owned(), "000000".to_owned()))
}
