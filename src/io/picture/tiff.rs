//! TIFF by the `tiff` crate, with the samples as they are stored.

use super::Samples;
use crate::io::error::{Error, Result};
use crate::io::limits::Limits;
use crate::io::nifti::Datatype;
use ndarray::ArrayView2;
use std::io::Cursor;
use tiff::ColorType;
use tiff::TiffError;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, colortype};
use tiff::tags::Tag;

/// `PhotometricInterpretation` of grey pictures in which 0 is white: the numbers would have to be inverted.
const WHITE_IS_ZERO: u32 = 0;

/// Decodes all pages; several must be grey and of one size.
pub(super) fn decode(stored: &[u8], file: &str, limits: &Limits) -> Result<Samples> {
    let damaged = |error: TiffError| match error {
        TiffError::UnsupportedError(error) => Error::unsupported(file, format!("as TIFF: {error}")),
        TiffError::LimitsExceeded => {
            Error::malformed(file, "as TIFF: a page is larger than the memory limit")
        }
        error => Error::malformed(file, format!("as TIFF: {error}")),
    };
    let mut decoder = Decoder::new(Cursor::new(stored)).map_err(damaged)?;
    let mut pages = tiff::decoder::Limits::default();
    // What the voxels take in all is checked page by page.
    pages.decoding_buffer_size = usize::try_from(limits.memory_bytes / 3).unwrap_or(usize::MAX);
    decoder = decoder.with_limits(pages);
    let mut whole: Option<Samples> = None;
    loop {
        let (width, height) = decoder.dimensions().map_err(damaged)?;
        let channels = channels(decoder.colortype().map_err(damaged)?, file)?;
        let kind = decoder.find_tag_unsigned(Tag::PhotometricInterpretation);
        if channels == 1 && kind.map_err(damaged)? == Some(WHITE_IS_ZERO) {
            return Err(Error::unsupported(
                file,
                "its zero is white, expected pictures in which zero is black",
            ));
        }
        let planes = decoder.find_tag_unsigned::<u32>(Tag::PlanarConfiguration);
        if channels > 1 && planes.map_err(damaged)? == Some(2) {
            return Err(Error::unsupported(
                file,
                "keeps its channels in planes, expected the channels of a pixel together",
            ));
        }
        let size = [width, height].map(u64::from);
        let read = decoder.read_image().map_err(damaged)?;
        let (datatype, bytes) = samples(read, file)?;
        match &mut whole {
            None => {
                whole = Some(Samples {
                    size,
                    slices: 1,
                    channels,
                    datatype,
                    bytes,
                });
            }
            Some(first) => {
                if channels != 1 || first.channels != 1 {
                    return Err(Error::unsupported(
                        file,
                        "has several pages in colour, expected one, or grey pages",
                    ));
                }
                if (first.size, first.datatype) != (size, datatype) {
                    return Err(Error::unsupported(
                        file,
                        format!(
                            "page {} has another size or type than the first, expected the slices of one volume",
                            first.slices
                        ),
                    ));
                }
                first.slices += 1;
                first.bytes.extend_from_slice(&bytes);
            }
        }
        let held = whole.as_ref().map_or(0, |it| it.bytes.len() as u64);
        limits.check(file, held.saturating_mul(2))?;
        if !decoder.more_images() {
            break;
        }
        decoder.next_image().map_err(damaged)?;
    }
    whole.ok_or_else(|| Error::malformed(file, "as TIFF: holds no page"))
}

fn channels(color: ColorType, file: &str) -> Result<u64> {
    match color {
        ColorType::Gray(8 | 16 | 32 | 64) => Ok(1),
        ColorType::RGB(8 | 16) => Ok(3),
        ColorType::RGBA(8 | 16) => Ok(4),
        other => Err(Error::unsupported(
            file,
            format!(
                "its pixels are {other:?}, expected grey of 8 to 64 bits, or RGB or RGBA of 8 or 16"
            ),
        )),
    }
}

/// Samples as bytes of the machine's order.
fn samples(read: DecodingResult, file: &str) -> Result<(Datatype, Vec<u8>)> {
    fn bytes<T: Copy, const N: usize>(values: &[T], to: fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&value| to(value)).collect()
    }
    Ok(match read {
        DecodingResult::U8(values) => (Datatype::U8, values),
        DecodingResult::I8(values) => (Datatype::I8, bytes(&values, i8::to_ne_bytes)),
        DecodingResult::U16(values) => (Datatype::U16, bytes(&values, u16::to_ne_bytes)),
        DecodingResult::I16(values) => (Datatype::I16, bytes(&values, i16::to_ne_bytes)),
        DecodingResult::U32(values) => (Datatype::U32, bytes(&values, u32::to_ne_bytes)),
        DecodingResult::I32(values) => (Datatype::I32, bytes(&values, i32::to_ne_bytes)),
        DecodingResult::F32(values) => (Datatype::F32, bytes(&values, f32::to_ne_bytes)),
        DecodingResult::F64(values) => (Datatype::F64, bytes(&values, f64::to_ne_bytes)),
        _ => {
            return Err(Error::unsupported(
                file,
                "its samples are 64-bit integers or 16-bit floats, expected smaller integers or larger floats",
            ));
        }
    })
}

/// A grey page per slice, compressed with zlib.
pub(super) fn encode(
    slices: &[ArrayView2<'_, u16>],
    is_wide: bool,
) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    let mut write = || -> tiff::TiffResult<()> {
        let encoder = TiffEncoder::new(&mut bytes)?;
        let mut encoder = encoder.with_compression(Compression::Deflate(DeflateLevel::Balanced));
        for slice in slices {
            let (height, width) = slice.dim();
            let [width, height] = [width, height].map(|n| u32::try_from(n).unwrap_or(0));
            if is_wide {
                let values: Vec<u16> = slice.iter().copied().collect();
                encoder.write_image::<colortype::Gray16>(width, height, &values)?;
            } else {
                let values: Vec<u8> = slice.iter().map(|&label| label as u8).collect();
                encoder.write_image::<colortype::Gray8>(width, height, &values)?;
            }
        }
        Ok(())
    };
    write().map_err(|error| error.to_string())?;
    Ok(bytes.into_inner())
}
