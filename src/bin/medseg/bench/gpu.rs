//! `bench model` on a GPU.

use super::{Run, median, milliseconds};
use anyhow::Context as _;
use medseg::io::display_name;
use medseg::nn::survey::noise;
use medseg::nn::weights::Weights;
use medseg::nn::{Network, cuda};
use medseg::nnunet::model::Model;
use medseg::nnunet::predict::OnGpu;
use std::path::Path;
use std::time::Instant;

/// Has the kernels of every GPU compiled from the CUDA C++ of a file.
pub fn compile(path: &Path, gpus: &mut [OnGpu]) -> anyhow::Result<()> {
    let shown = || format!("--kernels {}", display_name(path));
    let source = std::fs::read_to_string(path).with_context(shown)?;
    for on in gpus {
        on.gpu = cuda::Gpu::with_kernels(on.gpu.number(), &source).with_context(shown)?;
    }
    Ok(())
}

/// Builds the network on the GPU and times passes over a patch of reproducible noise that is there,
/// without copies; and the multiply-adds of one.
pub fn measure(
    model: &Model,
    weights: &Weights,
    on: &OnGpu,
    patch: [usize; 3],
    repeats: u16,
) -> anyhow::Result<(Run, u64)> {
    let host = Network::new(&model.network, weights)?;
    let plan = host.plan(patch)?;
    let multiply_adds: u64 = host
        .layers(&plan)
        .iter()
        .map(|layer| layer.multiply_adds)
        .sum();
    let started = Instant::now();
    let network = cuda::Network::checked(&on.gpu, &host, weights, on.arithmetic, patch)?;
    let packing_ms = milliseconds(started);
    let voxels: usize = patch.iter().product();
    let input = noise(host.in_channels() * voxels);
    let mut logits = vec![0.0; host.out_channels() * voxels];
    let networks = std::slice::from_ref(&network);
    let mut executor = cuda::Executor::new(networks, patch, &[[false; 3]]);
    executor.run(0, &input, &mut logits)?;
    // The second pass is recorded.
    executor.again(0)?;
    let mut passes = Vec::new();
    for _ in 0..repeats {
        let started = Instant::now();
        executor.again(0)?;
        passes.push(milliseconds(started));
    }
    let median_ms = median(&mut passes);
    let run = Run {
        device: on.gpu.label(),
        isa: None,
        precision: on.arithmetic.name(),
        median_ms,
        fastest_ms: passes.first().copied().unwrap_or(median_ms),
        giga_multiply_adds_per_s: multiply_adds as f64 / median_ms / 1e6,
        packing_ms,
        weight_bytes: network.weight_bytes(),
        activation_bytes: executor.bytes(),
        scratch_bytes_per_thread: 0,
        levels: Vec::new(),
        layers: Vec::new(),
    };
    Ok((run, multiply_adds))
}
