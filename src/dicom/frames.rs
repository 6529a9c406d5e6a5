//! Pixels of a stack as a stream of little-endian voxels, decoded a few slices ahead.

use super::codec;
use super::find::Source;
use super::instance::{self, Frame, Pixels};
use super::rle;
use crate::io::nifti::Datatype;
use crate::io::{Error, Limits, Result};
use dicom_core::value::Value;
use dicom_dictionary_std::{tags, uids};
use dicom_object::DefaultDicomObject;
use dicom_pixeldata::PixelDecoder;
use rayon::prelude::*;
use std::io::Read;

/// What is needed to decode one slice.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub source: Source,
    pub frame: Frame,
    pub is_encapsulated: bool,
}

/// The type of the real values: the smallest integer that holds every value the pixels can have,
/// `f32` where a slope or intercept is no whole number or differs between slices.
pub(super) fn datatype(pixels: &Pixels, jobs: &[Job]) -> Datatype {
    let mut scalings = jobs
        .iter()
        .map(|job| (job.frame.slope, job.frame.intercept));
    let Some((slope, intercept)) = scalings.next() else {
        return Datatype::F32;
    };
    let is_same = scalings.all(|other| other == (slope, intercept));
    if !is_same || slope.fract() != 0.0 || intercept.fract() != 0.0 {
        return Datatype::F32;
    }
    let span = 2_f64.powi(i32::from(pixels.bits_stored));
    let (low, high) = if pixels.signed {
        (-span / 2.0, span / 2.0 - 1.0)
    } else {
        (0.0, span - 1.0)
    };
    let (a, b) = (low * slope + intercept, high * slope + intercept);
    let (low, high) = (a.min(b), a.max(b));
    let fits = |least: f64, most: f64| low >= least && high <= most;
    if fits(0.0, 255.0) {
        Datatype::U8
    } else if fits(-32768.0, 32767.0) {
        Datatype::I16
    } else if fits(0.0, 65535.0) {
        Datatype::U16
    } else if fits(-2_147_483_648.0, 2_147_483_647.0) {
        Datatype::I32
    } else {
        Datatype::F32
    }
}

/// Reads the slices of a stack one after the other. Memory: four slices per thread, and a file each.
pub(super) struct Slices {
    jobs: std::vec::IntoIter<Job>,
    pixels: Pixels,
    datatype: Datatype,
    limits: Limits,
    ready: std::collections::VecDeque<Vec<u8>>,
    taken: usize,
}

impl Slices {
    pub fn new(jobs: Vec<Job>, pixels: Pixels, datatype: Datatype, limits: Limits) -> Self {
        Self {
            jobs: jobs.into_iter(),
            pixels,
            datatype,
            limits,
            ready: std::collections::VecDeque::new(),
            taken: 0,
        }
    }
}

impl Read for Slices {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty() {
            // Several a thread, so that a slice that takes longer holds nobody up.
            let ahead = 4 * rayon::current_num_threads().max(1);
            let batch: Vec<Job> = self.jobs.by_ref().take(ahead).collect();
            let decoded: Result<Vec<Vec<u8>>> = batch
                .par_iter()
                .map(|job| decode(job, &self.pixels, self.datatype, &self.limits))
                .collect();
            self.ready = decoded.map_err(std::io::Error::other)?.into();
        }
        let Some(slice) = self.ready.front() else {
            return Ok(0);
        };
        let rest = slice.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.taken += count;
        if self.taken == slice.len() {
            self.ready.pop_front();
            self.taken = 0;
        }
        Ok(count)
    }
}

/// One slice in the voxel type of the volume, little-endian.
pub(super) fn decode(
    job: &Job,
    pixels: &Pixels,
    datatype: Datatype,
    limits: &Limits,
) -> Result<Vec<u8>> {
    let object = instance::parse(&job.source, limits, true)?;
    let width = usize::from(pixels.bits_allocated / 8);
    let count = usize::from(pixels.rows) * usize::from(pixels.columns);
    let stored = stored_bytes(job, &object, count * width, width)?;
    let stored = stored.get(..count * width).ok_or_else(|| {
        Error::malformed(
            &job.source.name,
            format!(
                "truncated: frame {} has {} bytes of pixels, expected {}",
                job.frame.index + 1,
                stored.len(),
                count * width
            ),
        )
    })?;
    let values = stored
        .chunks_exact(width)
        .map(|bytes| raw_value(bytes, pixels));
    let (slope, intercept) = (job.frame.slope, job.frame.intercept);
    let mut out = Vec::with_capacity(count * datatype.bytes());
    // Whole numbers stay exact in i64; everything else is computed in f64 and rounded once.
    let (a, b) = (slope as i64, intercept as i64);
    match datatype {
        Datatype::U8 => out.extend(values.map(|value| (value * a + b) as u8)),
        Datatype::I16 => {
            out.extend(values.flat_map(|value| ((value * a + b) as i16).to_le_bytes()));
        }
        Datatype::U16 => {
            out.extend(values.flat_map(|value| ((value * a + b) as u16).to_le_bytes()));
        }
        Datatype::I32 => {
            out.extend(values.flat_map(|value| ((value * a + b) as i32).to_le_bytes()));
        }
        _ => out.extend(
            values.flat_map(|value| ((value as f64 * slope + intercept) as f32).to_le_bytes()),
        ),
    }
    Ok(out)
}

/// The stored bits of a pixel as a number: bits above and below are overlays in old files.
fn raw_value(bytes: &[u8], pixels: &Pixels) -> i64 {
    let mut raw = 0_u32;
    for (place, byte) in bytes.iter().enumerate() {
        raw |= u32::from(*byte) << (8 * place);
    }
    let shift = pixels.high_bit + 1 - pixels.bits_stored;
    let unused = 64 - u32::from(pixels.bits_stored);
    let bits = u64::from(raw) >> shift << unused;
    if pixels.signed {
        bits as i64 >> unused
    } else {
        (bits >> unused) as i64
    }
}

/// Little-endian pixels of one frame, decompressed.
fn stored_bytes(
    job: &Job,
    object: &DefaultDicomObject,
    frame_bytes: usize,
    width: usize,
) -> Result<Vec<u8>> {
    let file = job.source.name.as_str();
    let element = object
        .element_opt(tags::PIXEL_DATA)
        .ok()
        .flatten()
        .ok_or_else(|| Error::malformed(file, "has no PixelData"))?;
    if !job.is_encapsulated {
        let Value::Primitive(value) = element.value() else {
            return Err(Error::malformed(
                file,
                "PixelData is encapsulated under an uncompressed transfer syntax",
            ));
        };
        let bytes = value.to_bytes();
        let from = frame_bytes.saturating_mul(job.frame.index as usize);
        let frame = bytes.get(from..).unwrap_or_default();
        return Ok(frame.get(..frame_bytes).unwrap_or(frame).to_vec());
    }
    let syntax = object
        .meta()
        .transfer_syntax
        .trim_end_matches('\0')
        .to_owned();
    let failed = |why: String| {
        Error::malformed(
            file,
            format!(
                "frame {} cannot be decoded (transfer syntax {syntax}): {why}; \
                 `gdcmconv --raw` makes a copy that can",
                job.frame.index + 1
            ),
        )
    };
    if syntax == uids::RLE_LOSSLESS {
        let fragments = element.value().fragments().unwrap_or_default();
        // One fragment a frame (PS3.5 A.4.2).
        let fragment = fragments.get(job.frame.index as usize);
        let stream = fragment.ok_or_else(|| failed("the frame is missing".to_owned()))?;
        return rle::unpack(stream, frame_bytes / width, width).map_err(failed);
    }
    let is_jpeg_ls = [uids::JPEGLS_LOSSLESS, uids::JPEGLS_NEAR_LOSSLESS].contains(&syntax.as_str());
    if is_jpeg_ls && cfg!(not(feature = "jpegls")) {
        return Err(failed(
            "this medseg is built without JPEG-LS (cargo feature jpegls)".to_owned(),
        ));
    }
    // A codec that stumbles over a damaged stream must not take the batch with it.
    let decoded = codec::guarded(|| {
        object
            .decode_pixel_data_frame(job.frame.index)
            .map(|decoded| decoded.data().to_vec())
    });
    match decoded {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(error)) => Err(failed(chain(&error))),
        None => Err(failed("the decoder gave up on damaged data".to_owned())),
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    instance::one_line(&text)
}
