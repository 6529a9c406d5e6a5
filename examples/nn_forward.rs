//! One forward pass of a network on a patch from a raw file, for comparison with other engines.
//!
//! `nn_forward SPEC.json WEIGHTS.safetensors D,H,W [--isa NAME] [--input X.f32 --output Y.f32] [--serve]`
//!
//! `SPEC.json` holds the fields of `UnetSpec`. With `--serve` each line on standard input runs one pass
//! and answers with its milliseconds, so that another program can interleave its own timings.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{Context, Result};
use medseg::nn::arch::{EncoderKind, Stage, UnetSpec};
use medseg::nn::weights::{Tensor, Weights};
use medseg::nn::{Compute, Isa, Network, Precision};
use serde_json::Value;

fn triple(value: &Value) -> [usize; 3] {
    std::array::from_fn(|axis| number(&value[axis]))
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a whole number") as usize
}

fn spec(json: &Value) -> UnetSpec {
    let stage = |stage: &Value| Stage {
        features: number(&stage["features"]),
        kernel: triple(&stage["kernel"]),
        stride: triple(&stage["stride"]),
        encoder_convs: number(&stage["encoder_convs"]),
        decoder_convs: number(&stage["decoder_convs"]),
    };
    UnetSpec {
        encoder: EncoderKind::Plain,
        spatial_dims: number(&json["spatial_dims"]),
        in_channels: number(&json["in_channels"]),
        out_channels: number(&json["out_channels"]),
        stages: json["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .map(stage)
            .collect(),
        conv_bias: json["conv_bias"].as_bool().expect("conv_bias"),
        norm_eps: json["norm_eps"].as_f64().expect("norm_eps"),
        norm_affine: json["norm_affine"].as_bool().expect("norm_affine"),
        negative_slope: json["negative_slope"].as_f64().expect("negative_slope") as f32,
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (quads, _) = bytes.as_chunks::<4>();
    quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()
}

fn weights(path: &str) -> Result<Weights> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {path}"))?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (shape, data) = (view.shape().to_vec(), floats(view.data()));
        (name, Tensor { shape, data })
    };
    Ok(file
        .tensors()
        .into_iter()
        .map(tensor)
        .collect::<BTreeMap<_, _>>())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).map(String::as_str)
    };
    let json: Value = serde_json::from_slice(&std::fs::read(&args[0])?)?;
    let isa = flag("--isa").map_or(Ok(Isa::detect()), Isa::from_name)?;
    let weights = weights(&args[1])?;
    let patch: Vec<usize> = args[2]
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let patch = [patch[0], patch[1], patch[2]];
    let start = Instant::now();
    let precision = flag("--precision").unwrap_or("fp32");
    let precision = Precision::ALL
        .into_iter()
        .find(|known| known.name() == precision)
        .context("--precision is none")?;
    let compute = Compute { isa, precision };
    let network = Network::with_compute(&spec(&json), &weights, compute, Some(patch))?;
    eprintln!("packing: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut executor = network.executor(patch)?;
    let voxels: usize = patch.iter().product();
    eprintln!(
        "isa: {}, weights: {:.1} MB, arena: {:.1} MB, scratch per thread: {:.2} MB",
        isa.name(),
        network.weight_bytes() as f64 / 1e6,
        executor.arena_bytes() as f64 / 1e6,
        executor.plan().scratch_bytes_per_thread() as f64 / 1e6
    );
    let input = match flag("--input") {
        Some(path) => floats(&std::fs::read(path)?),
        None => (0..network.in_channels() * voxels)
            .map(|index| ((index * 7919) % 1000) as f32 / 500.0 - 1.0)
            .collect(),
    };
    let mut output = vec![0.0; network.out_channels() * voxels];
    if args.iter().any(|arg| arg == "--serve") {
        for line in std::io::stdin().lock().lines() {
            line?;
            let start = Instant::now();
            executor.run(&input, &mut output)?;
            println!("{}", start.elapsed().as_secs_f64() * 1e3);
            std::io::stdout().flush()?;
        }
    } else {
        executor.run(&input, &mut output)?;
    }
    if let Some(path) = flag("--output") {
        let bytes: Vec<u8> = output
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        std::io::Write::write_all(
            &mut std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)?,
            &bytes,
        )?;
    }
    Ok(())
}
