//! `medseg bench`: how much work a model is and how fast this machine does it.
//!
//! The numbers are the machine's: run it on a quiet one. A pass is one patch through the network, without
//! preprocessing, sliding window and export.

mod gpu;

use crate::arithmetic::{Arithmetic, Device, PrecisionFlag};
use crate::context::{Context, print_json, print_text};
use crate::model;
use crate::outcome::{Outcome, Usage};
use clap::ValueEnum;
use medseg::nn::survey::{Layer, Level, noise};
use medseg::nn::weights::Weights;
use medseg::nn::{Compute, Isa, Network};
use medseg::nnunet::model::{Model, ModelOptions};
use medseg::nnunet::predict::OnGpu;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

/// The end of the help.
const EXAMPLES: &str = "\
Without --precision every precision is measured, without --isa every instruction set of the
machine but scalar. On a GPU the patch is there and its logits stay there. Multiply-adds are
those of the plain sums: half of what torch's FlopCounterMode counts.

Examples:
  medseg bench model --patch 32,32,32 --repeats 1
  medseg bench model -m model/ --patch 32,32,32 --precision fp32 --json";

/// Measure a model on this machine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Model(ModelArgs),
}

/// Parameters, multiply-adds, memory and time of a model's network on one patch
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct ModelArgs {
    /// nnU-Net results folder [default: the embedded model]
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Voxels z,y,x of the patch, multiples of the network's strides [default: the model's patch]
    #[arg(long, value_name = "D,H,W", value_delimiter = ',', num_args = 1)]
    patch: Vec<usize>,
    /// Arithmetic to measure [default: every one]
    #[arg(long, value_enum)]
    precision: Option<PrecisionFlag>,
    /// Devices to measure: cpu, cuda (the first GPU that works), cuda:N, cuda:N,M or cuda:all (one after the other)
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, value_parser = Device::from_str)]
    device: Device,
    /// CUDA C++ to compile with NVRTC in place of the kernels that are shipped, for who changes src/nn/cuda/kernels.cu;
    /// with --device cuda [default: those that are shipped]
    #[arg(long, value_name = "FILE")]
    kernels: Option<PathBuf>,
    /// Instruction set to measure: scalar, avx2, avx512 or amx [default: all of this machine but scalar]
    #[arg(long, value_name = "NAME", env = "MEDSEG_ISA", hide_env_values = true)]
    isa: Option<String>,
    /// Passes to take the median of, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The whole result.
#[derive(Serialize)]
struct Bench {
    model: String,
    patch: [usize; 3],
    threads: usize,
    parameters: u64,
    multiply_adds: u64,
    runs: Vec<Run>,
}

/// One instruction set or GPU, and precision.
#[derive(Serialize)]
struct Run {
    /// `cpu`, or which GPU.
    device: String,
    /// Of the processor.
    isa: Option<&'static str>,
    precision: &'static str,
    median_ms: f64,
    fastest_ms: f64,
    /// Multiply-adds of the plain sums a second, in billions.
    giga_multiply_adds_per_s: f64,
    /// Making the network: packing its weights, or copying them to the GPU and comparing it with the processor.
    packing_ms: f64,
    weight_bytes: usize,
    /// Activations that are alive together, scales and partial sums.
    activation_bytes: usize,
    scratch_bytes_per_thread: usize,
    levels: Vec<Level>,
    layers: Vec<Timed>,
}

/// A layer with its median time.
#[derive(Serialize)]
struct Timed {
    #[serde(flatten)]
    layer: Layer,
    median_ms: f64,
    /// Part of the sum of all layers' medians.
    share: f64,
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let What::Model(args) = &args.what;
    let gpus = args.gpus(cx)?;
    let computes = if gpus.is_empty() {
        args.computes()?
    } else {
        Vec::new()
    };
    let model = match &args.model {
        Some(folder) => model::load(folder, &ModelOptions::default())?,
        None => model::embedded(&ModelOptions::default())?,
    };
    let patch = match args.patch[..] {
        [] => model.configuration.patch_size,
        [y, x] if model.configuration.spatial_dims == 2 => [1, y, x],
        [z, y, x] => [z, y, x],
        _ => {
            return Err(
                Usage("--patch: expected z,y,x, for example 128,128,128".to_owned()).into(),
            );
        }
    };
    let weights = model.fold_weights(0)?;
    let description = model.describe();
    let mut bench = Bench {
        model: description.name,
        patch,
        threads: cx.threads,
        parameters: description.parameters,
        multiply_adds: 0,
        runs: Vec::new(),
    };
    for compute in computes {
        cx.detail(&format!(
            "{} {}",
            compute.isa.name(),
            compute.precision.name()
        ));
        let run = measure(&model, &weights, compute, patch, args.repeats, cx)?;
        bench.multiply_adds = run
            .layers
            .iter()
            .map(|timed| timed.layer.multiply_adds)
            .sum();
        bench.runs.push(run);
    }
    for on in gpus {
        cx.detail(&format!("{} {}", on.gpu.label(), on.arithmetic.name()));
        let (run, multiply_adds) = gpu::measure(&model, &weights, &on, patch, args.repeats)?;
        bench.multiply_adds = multiply_adds;
        bench.runs.push(run);
    }
    if args.json {
        print_json(&bench)?;
    } else {
        print_text(&table(&bench))?;
    }
    Ok(Outcome::Done)
}

impl ModelArgs {
    /// The GPUs to measure, each in every precision; none for the processor.
    fn gpus(&self, cx: &Context) -> anyhow::Result<Vec<OnGpu>> {
        if self.device == Device::Cpu {
            if self.kernels.is_some() {
                let text = "--kernels: for GPUs, name one with --device cuda";
                return Err(Usage(text.to_owned()).into());
            }
            return Ok(Vec::new());
        }
        let arithmetic = Arithmetic {
            device: self.device.clone(),
            precision: self.precision.unwrap_or(PrecisionFlag::Fp32),
            isa: None,
        };
        let mut gpus = arithmetic.choose(cx)?.gpus;
        if let Some(path) = &self.kernels {
            gpu::compile(path, &mut gpus)?;
        }
        if self.precision.is_some() {
            return Ok(gpus);
        }
        let all = [
            PrecisionFlag::Fp32,
            PrecisionFlag::Tf32,
            PrecisionFlag::Bf16,
            PrecisionFlag::Fp16,
        ];
        let in_all = |on: OnGpu| {
            all.map(|precision| OnGpu {
                arithmetic: precision.on_gpu(),
                ..on.clone()
            })
        };
        Ok(gpus.into_iter().flat_map(in_all).collect())
    }

    /// What to measure.
    fn computes(&self) -> anyhow::Result<Vec<Compute>> {
        let all = PrecisionFlag::value_variants().iter().copied();
        let precisions: Vec<PrecisionFlag> = match self.precision {
            Some(one) if one.on_processor().is_none() => {
                let text = "--precision: this one is for GPUs, name one with --device cuda";
                return Err(Usage(text.to_owned()).into());
            }
            Some(one) => vec![one],
            None => all.filter(|one| one.on_processor().is_some()).collect(),
        };
        let isas: Vec<Option<String>> = match &self.isa {
            Some(name) if !name.is_empty() => vec![Some(name.clone())],
            _ => {
                let fast = Isa::available().filter(|isa| *isa != Isa::Scalar);
                let names: Vec<_> = fast.map(|isa| Some(isa.name().to_owned())).collect();
                if names.is_empty() { vec![None] } else { names }
            }
        };
        isas.iter()
            .flat_map(|isa| {
                precisions
                    .iter()
                    .map(move |&precision| (isa.clone(), precision))
            })
            .map(|(isa, precision)| {
                let device = Device::Cpu;
                Arithmetic {
                    device,
                    precision,
                    isa,
                }
                .compute()
            })
            .collect()
    }
}

/// Builds the network and times passes over a patch of reproducible noise.
fn measure(
    model: &Model,
    weights: &Weights,
    compute: Compute,
    patch: [usize; 3],
    repeats: u16,
    cx: &Context,
) -> anyhow::Result<Run> {
    let started = Instant::now();
    let network = Network::with_compute(&model.network, weights, compute, Some(patch))?;
    let packing_ms = milliseconds(started);
    let plan = network.plan(patch)?;
    let voxels: usize = patch.iter().product();
    let patches = 4 * voxels * (network.in_channels() + network.out_channels());
    let needed = (network.weight_bytes() + plan.total_bytes(cx.threads) + patches) as u64;
    anyhow::ensure!(
        needed <= cx.limits.memory_bytes,
        "the network needs {:.1} GiB on this patch, the limit is {:.1} GiB: choose a smaller --patch",
        gib(needed),
        gib(cx.limits.memory_bytes)
    );
    let mut executor = network.executor(patch)?;
    let input = noise(network.in_channels() * voxels);
    let mut logits = vec![0.0; network.out_channels() * voxels];
    let layers = network.layers(&plan);
    let (mut passes, mut times) = (Vec::new(), vec![Vec::new(); layers.len()]);
    for pass in 0..=repeats {
        let started = Instant::now();
        let mut last = started;
        executor.run_watched(&input, &mut logits, &mut |layer| {
            if pass > 0 {
                times[layer].push(milliseconds(last));
            }
            last = Instant::now();
        })?;
        if pass > 0 {
            passes.push(milliseconds(started));
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let sum: f64 = medians.iter().sum();
    let multiply_adds: u64 = layers.iter().map(|layer| layer.multiply_adds).sum();
    let median_ms = median(&mut passes);
    Ok(Run {
        device: "cpu".to_owned(),
        isa: Some(compute.isa.name()),
        precision: compute.precision.name(),
        median_ms,
        fastest_ms: passes.first().copied().unwrap_or(median_ms),
        giga_multiply_adds_per_s: multiply_adds as f64 / median_ms / 1e6,
        packing_ms,
        weight_bytes: network.weight_bytes(),
        activation_bytes: plan.arena_bytes(),
        scratch_bytes_per_thread: plan.scratch_bytes_per_thread(),
        levels: network.levels(&plan),
        layers: layers
            .into_iter()
            .zip(medians)
            .map(|(layer, median_ms)| Timed {
                layer,
                median_ms,
                share: median_ms / sum,
            })
            .collect(),
    })
}

/// The result for people.
fn table(bench: &Bench) -> String {
    let [z, y, x] = bench.patch;
    let mut text = format!(
        "{}: {} parameters, {:.2} billion multiply-adds on {z}x{y}x{x}, {} threads\n",
        bench.model,
        bench.parameters,
        bench.multiply_adds as f64 / 1e9,
        bench.threads
    );
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    for run in &bench.runs {
        let _ = write!(
            text,
            "\n{} {}: {:.1} ms (fastest {:.1}), {:.1} billion multiply-adds/s, weights {:.1} MiB, activations {:.1} MiB, scratch {:.1} MiB per thread\n",
            run.isa.unwrap_or(&run.device),
            run.precision,
            run.median_ms,
            run.fastest_ms,
            run.giga_multiply_adds_per_s,
            mib(run.weight_bytes),
            mib(run.activation_bytes),
            mib(run.scratch_bytes_per_thread)
        );
        for level in &run.levels {
            let [z, y, x] = level.grid;
            let _ = writeln!(
                text,
                "  level {z}x{y}x{x}: {:.1} MiB of activations",
                mib(level.activation_bytes as usize)
            );
        }
        for Timed {
            layer,
            median_ms,
            share,
        } in &run.layers
        {
            let _ = writeln!(
                text,
                "  {:<28} {:>4} -> {:<4} {:<15} {:>9.2} ms {:>5.1} % {:>8.1} G/s",
                layer.name,
                layer.channels[0],
                layer.channels[1],
                layer.algorithm,
                median_ms,
                share * 100.0,
                layer.multiply_adds as f64 / median_ms / 1e6
            );
        }
    }
    text
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle of at least one number, which are sorted.
fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 {
        numbers[middle]
    } else {
        (numbers[middle - 1] + numbers[middle]) / 2.0
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1_u32 << 30)
}
