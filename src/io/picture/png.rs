//! PNG by the `png` crate, with the samples as they are stored.

use super::Samples;
use crate::io::error::{Error, Result};
use crate::io::limits::Limits;
use crate::io::nifti::Datatype;
use ndarray::ArrayView2;
use png::{BitDepth, ColorType, Decoder, Encoder};
use std::io::Cursor;

/// Decodes a whole file. Checksums are verified by the decoder.
pub(super) fn decode(stored: &[u8], file: &str, limits: &Limits) -> Result<Samples> {
    let damaged = |error: png::DecodingError| Error::malformed(file, format!("as PNG: {error}"));
    let mut decoder = Decoder::new(Cursor::new(stored));
    decoder.set_limits(png::Limits {
        bytes: usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX),
    });
    let mut reader = decoder.read_info().map_err(damaged)?;
    let info = reader.info();
    let size = [info.width, info.height].map(u64::from);
    if info.is_animated() {
        return Err(Error::unsupported(
            file,
            "is an animation, expected one picture",
        ));
    }
    let channels = match info.color_type {
        ColorType::Grayscale => 1,
        ColorType::Rgb => 3,
        ColorType::Rgba => 4,
        ColorType::Indexed => {
            return Err(Error::unsupported(
                file,
                "has a palette, expected grey or RGB: save it without one",
            ));
        }
        ColorType::GrayscaleAlpha => {
            return Err(Error::unsupported(
                file,
                "is grey with alpha, expected grey, RGB or RGBA: save it without alpha",
            ));
        }
    };
    let datatype = match (info.bit_depth, channels) {
        (BitDepth::Eight, _) => Datatype::U8,
        (BitDepth::Sixteen, 1) => Datatype::U16,
        (depth, _) => {
            return Err(Error::unsupported(
                file,
                format!(
                    "has {} bits per sample and {channels} channel(s), expected 8, or 16 for grey",
                    depth as u8
                ),
            ));
        }
    };
    let total = reader.output_buffer_size().unwrap_or(usize::MAX);
    limits.check(file, 3 * total as u64)?;
    let mut bytes = vec![0; total];
    reader.next_frame(&mut bytes).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    if datatype == Datatype::U16 {
        for pair in bytes.chunks_exact_mut(2) {
            if let [high, low] = *pair {
                pair.copy_from_slice(&u16::from_be_bytes([high, low]).to_ne_bytes());
            }
        }
    }
    Ok(Samples {
        size,
        slices: 1,
        channels,
        datatype,
        bytes,
    })
}

/// A grey picture of the only slice.
pub(super) fn encode(
    slices: &[ArrayView2<'_, u16>],
    is_wide: bool,
) -> std::result::Result<Vec<u8>, String> {
    let [slice] = slices else {
        return Err(format!("{} slices, expected one", slices.len()));
    };
    let (height, width) = slice.dim();
    let [width, height] = [width, height].map(|n| u32::try_from(n).unwrap_or(0));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(if is_wide {
        BitDepth::Sixteen
    } else {
        BitDepth::Eight
    });
    let samples: Vec<u8> = match is_wide {
        true => slice.iter().flat_map(|label| label.to_be_bytes()).collect(),
        false => slice.iter().map(|&label| label as u8).collect(),
    };
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&samples)?;
        writer.finish()
    });
    written.map_err(|error| error.to_string())?;
    Ok(bytes)
}
