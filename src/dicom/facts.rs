//! How a series was acquired, in the words and units of BIDS sidecars (BIDS 1.10, MRI and CT fields; names
//! of the DICOM dictionary where BIDS has none). Nothing that names the patient is among them.

use super::instance::{self, Instance};
use super::{Chosen, chosen};
use crate::io::{Error, Limits, Result};
use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What a value is, and what it is multiplied by.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// Several texts.
    Texts,
    /// A number, or several.
    Number,
    /// Milliseconds, which BIDS states in seconds.
    Milliseconds,
}

const FACTS: [(Tag, &str, Kind); 42] = [
    (tags::MODALITY, "Modality", Kind::Text),
    (tags::MANUFACTURER, "Manufacturer", Kind::Text),
    (
        tags::MANUFACTURER_MODEL_NAME,
        "ManufacturersModelName",
        Kind::Text,
    ),
    (tags::SOFTWARE_VERSIONS, "SoftwareVersions", Kind::Text),
    (tags::STATION_NAME, "StationName", Kind::Text),
    (tags::INSTITUTION_NAME, "InstitutionName", Kind::Text),
    (tags::BODY_PART_EXAMINED, "BodyPartExamined", Kind::Text),
    (tags::PATIENT_POSITION, "PatientPosition", Kind::Text),
    (tags::SERIES_NUMBER, "SeriesNumber", Kind::Number),
    (tags::SERIES_DESCRIPTION, "SeriesDescription", Kind::Text),
    (tags::PROTOCOL_NAME, "ProtocolName", Kind::Text),
    (tags::IMAGE_TYPE, "ImageType", Kind::Texts),
    (tags::ACQUISITION_TIME, "AcquisitionTime", Kind::Text),
    (tags::SLICE_THICKNESS, "SliceThickness", Kind::Number),
    (
        tags::SPACING_BETWEEN_SLICES,
        "SpacingBetweenSlices",
        Kind::Number,
    ),
    (tags::KVP, "KVP", Kind::Number),
    (tags::X_RAY_TUBE_CURRENT, "XRayTubeCurrent", Kind::Number),
    (tags::EXPOSURE, "XRayExposure", Kind::Number),
    (tags::EXPOSURE_TIME, "ExposureTime", Kind::Milliseconds),
    (tags::CONVOLUTION_KERNEL, "ConvolutionKernel", Kind::Texts),
    (
        tags::RECONSTRUCTION_DIAMETER,
        "ReconstructionDiameter",
        Kind::Number,
    ),
    (
        tags::GANTRY_DETECTOR_TILT,
        "GantryDetectorTilt",
        Kind::Number,
    ),
    (tags::SPIRAL_PITCH_FACTOR, "SpiralPitchFactor", Kind::Number),
    (
        tags::CONTRAST_BOLUS_AGENT,
        "ContrastBolusIngredient",
        Kind::Text,
    ),
    (
        tags::MAGNETIC_FIELD_STRENGTH,
        "MagneticFieldStrength",
        Kind::Number,
    ),
    (tags::IMAGING_FREQUENCY, "ImagingFrequency", Kind::Number),
    (tags::MR_ACQUISITION_TYPE, "MRAcquisitionType", Kind::Text),
    (tags::SCANNING_SEQUENCE, "ScanningSequence", Kind::Texts),
    (tags::SEQUENCE_VARIANT, "SequenceVariant", Kind::Texts),
    (tags::SCAN_OPTIONS, "ScanOptions", Kind::Texts),
    (tags::SEQUENCE_NAME, "SequenceName", Kind::Text),
    (tags::PULSE_SEQUENCE_NAME, "PulseSequenceName", Kind::Text),
    (tags::RECEIVE_COIL_NAME, "ReceiveCoilName", Kind::Text),
    (tags::ECHO_TIME, "EchoTime", Kind::Milliseconds),
    (tags::EFFECTIVE_ECHO_TIME, "EchoTime", Kind::Milliseconds),
    (tags::REPETITION_TIME, "RepetitionTime", Kind::Milliseconds),
    (tags::INVERSION_TIME, "InversionTime", Kind::Milliseconds),
    (tags::FLIP_ANGLE, "FlipAngle", Kind::Number),
    (tags::ECHO_TRAIN_LENGTH, "EchoTrainLength", Kind::Number),
    (tags::NUMBER_OF_AVERAGES, "NumberOfAverages", Kind::Number),
    (tags::PIXEL_BANDWIDTH, "PixelBandwidth", Kind::Number),
    (tags::SAR, "SAR", Kind::Number),
];

/// The facts of the series that [`super::open`] would read, from the header of its first image in the
/// order of names: a JSON object of the fields that the header states. Lengths are millimetres, times
/// seconds, angles degrees, the field tesla, voltages kV, currents mA.
///
/// # Errors
/// Those of [`super::open`] before the slices are sorted.
pub fn facts(path: &Path, choice: Option<&str>, limits: &Limits) -> Result<Map<String, Value>> {
    let Chosen {
        name, instances, ..
    } = chosen(path, choice, limits)?;
    let first: &Instance = instances
        .first()
        .ok_or_else(|| Error::malformed(&name, "holds no DICOM images"))?;
    let object = instance::parse(&first.source, limits, false)?;
    let mut found = Map::new();
    for (tag, field, kind) in FACTS {
        if found.contains_key(field) {
            continue;
        }
        if let Some(value) = value(&object, tag, kind) {
            found.insert(field.to_owned(), value);
        }
    }
    found.insert("ConversionSoftware".to_owned(), json!("medseg"));
    let version = json!(env!("CARGO_PKG_VERSION"));
    found.insert("ConversionSoftwareVersion".to_owned(), version);
    Ok(found)
}

/// The value of an element of the data set, or of the functional groups that all frames share.
fn value(object: &InMemDicomObject, tag: Tag, kind: Kind) -> Option<Value> {
    let shared = instance::item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    let groups = shared.into_iter().flat_map(InMemDicomObject::iter);
    let nested = groups.filter_map(|group| group.items()?.first());
    std::iter::once(object)
        .chain(nested)
        .find_map(|object| stated(object, tag, kind))
}

fn stated(object: &InMemDicomObject, tag: Tag, kind: Kind) -> Option<Value> {
    let element = object.element_opt(tag).ok().flatten()?;
    match kind {
        Kind::Text => instance::text(object, tag).map(Value::String),
        Kind::Texts => {
            let texts = element.to_multi_str().ok()?;
            let texts: Vec<&str> = texts
                .iter()
                .map(|text| text.trim_matches(['\0', ' ']))
                .collect();
            texts
                .iter()
                .any(|text| !text.is_empty())
                .then(|| json!(texts))
        }
        Kind::Number | Kind::Milliseconds => {
            let values = instance::numbers(object, tag, "").ok().flatten()?;
            let values: Vec<f64> = match kind {
                Kind::Milliseconds => values.iter().map(|value| value / 1000.0).collect(),
                _ => values,
            };
            match values.as_slice() {
                [] => None,
                [only] => Some(json!(only)),
                several => Some(json!(several)),
            }
        }
    }
}
