//! Times nnU-Net's resampling of an image (cubic, `f32`) or of logits (linear, `f16`).
//!
//! `resample_times FILE.f32 D,H,W D,H,W image|logits` reads raw 32-bit floats of the first shape, resamples them to the
//! second one on all threads and prints the milliseconds of the call alone. `benches/whole.py resample` pairs it with
//! nnU-Net's own function.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use half::f16;
use medseg::geometry::resample::{ResampleOptions, resample_to_shape};
use ndarray::Array3;

fn shape(text: &str) -> Result<[usize; 3]> {
    let numbers: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().context("a shape is D,H,W")
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, source, target, kind] = &args[..] else {
        bail!("resample_times FILE.f32 D,H,W D,H,W image|logits");
    };
    let (source, target) = (shape(source)?, shape(target)?);
    let bytes = std::fs::read(file).with_context(|| format!("reading {file}"))?;
    let (quads, _) = bytes.as_chunks::<4>();
    let voxels = quads.iter().map(|quad| f32::from_le_bytes(*quad));
    let image = Array3::from_shape_vec(source, voxels.collect())?;
    let spacing = [1.0; 3];
    let options = ResampleOptions::IMAGE;
    let milliseconds = match kind.as_str() {
        "image" => {
            let start = Instant::now();
            let result = resample_to_shape(image.view(), target, spacing, spacing, options)?;
            std::hint::black_box(result);
            start.elapsed()
        }
        "logits" => {
            let image = image.mapv(f16::from_f32);
            let options = ResampleOptions::LOGITS;
            let start = Instant::now();
            let result = resample_to_shape(image.view(), target, spacing, spacing, options)?;
            std::hint::black_box(result);
            start.elapsed()
        }
        _ => bail!("{kind}: expected image or logits"),
    };
    println!("{}", milliseconds.as_secs_f64() * 1e3);
    Ok(())
}
