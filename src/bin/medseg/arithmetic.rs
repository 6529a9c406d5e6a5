//! What a network computes with: `--device`, `--precision`, `--isa`.

use crate::context::Context;
use crate::outcome::Usage;
use anyhow::Context as _;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use medseg::nn::cuda::{self, Gpu};
use medseg::nn::{Compute, Isa, Precision};
use medseg::nnunet::predict::{OnFailure, OnGpu};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::str::FromStr;

/// What a network computes with.
#[derive(Args, Debug, Clone)]
pub struct Arithmetic {
    /// Where the network runs: cpu, auto (a GPU that works, or else the processor), cuda (the first GPU that
    /// works), cuda:N, cuda:N,M (infer spreads cases over these GPUs) or cuda:all
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu, value_parser = Device::from_str)]
    pub device: Device,
    /// Arithmetic of the network
    #[arg(long, value_enum, default_value_t = PrecisionFlag::Fp32)]
    pub precision: PrecisionFlag,
    /// Instruction set of the network: scalar, avx2, avx512 or amx; asks for the processor
    /// [default: the best of this machine]
    #[arg(long, value_name = "NAME", env = "MEDSEG_ISA", hide_env_values = true)]
    pub isa: Option<String>,
}

/// What was chosen.
#[derive(Debug, Clone)]
pub struct Choice {
    /// On the processor, also where a GPU computes: it is compared with the processor and may need its help.
    pub compute: Compute,
    /// The GPUs; none for the processor.
    pub gpus: Vec<OnGpu>,
    /// Whether GPUs that cannot be used are to be done without, as long as there is another.
    pub any_will_do: bool,
    precision: PrecisionFlag,
}

impl Choice {
    /// The devices, for reports: `cpu`, `cuda:0 (NVIDIA H200)`.
    pub fn devices(&self) -> Vec<String> {
        if self.gpus.is_empty() {
            return vec!["cpu".to_owned()];
        }
        self.gpus.iter().map(|on| on.gpu.label()).collect()
    }

    /// Does without GPUs that would have nothing to do: keeps at most `cases`, at least one.
    pub fn keep(&mut self, cases: usize) {
        self.gpus.truncate(cases.max(1));
    }

    /// Versions of CUDA and cuDNN, where there is a GPU.
    pub fn versions(&self) -> Option<&str> {
        self.gpus.first().map(|on| on.gpu.versions())
    }

    /// The precision that is really computed in.
    pub fn precision(&self) -> &'static str {
        match self.gpus.first() {
            Some(on) => on.arithmetic.name(),
            None => self.precision.name(),
        }
    }
}

impl Arithmetic {
    /// The instruction set and precision of the processor.
    ///
    /// # Errors
    /// [`Usage`] for a name that is no instruction set; an error for one that this machine lacks.
    pub fn compute(&self) -> anyhow::Result<Compute> {
        let isa = match self.named_isa().map(Isa::from_name) {
            None => Isa::detect(),
            Some(Ok(isa)) => isa,
            Some(Err(error @ medseg::nn::Error::IsaName(_))) => {
                return Err(Usage(error.to_string()).into());
            }
            Some(Err(error)) => return Err(error.into()),
        };
        Ok(Compute {
            isa,
            precision: self.precision.on_processor().unwrap_or_default(),
        })
    }

    /// Processor or GPU. Without a GPU `auto` takes less than a millisecond and says nothing but a detail.
    ///
    /// # Errors
    /// As [`compute`](Self::compute); a GPU that was asked for and cannot be used; [`Usage`] for a precision that only
    /// GPUs have where there is none.
    pub fn choose(&self, cx: &Context) -> anyhow::Result<Choice> {
        let compute = self.compute()?;
        let on = |gpu, on_failure| OnGpu {
            gpu,
            arithmetic: self.precision.on_gpu(),
            on_failure,
        };
        let hint = || format!("--device {}", self.device);
        let one = |gpu| vec![on(gpu, OnFailure::Stop)];
        let (gpus, reason) = match &self.device {
            Device::Cpu => (Vec::new(), "no GPU was asked for".to_owned()),
            Device::Auto if self.named_isa().is_some() => {
                (Vec::new(), "an instruction set was asked for".to_owned())
            }
            Device::Auto => match Gpu::first() {
                Ok(gpu) => (vec![on(gpu, OnFailure::UseProcessor)], String::new()),
                Err(error) => (Vec::new(), error.to_string()),
            },
            Device::Cuda(Gpus::First) => (one(Gpu::first().with_context(hint)?), String::new()),
            Device::Cuda(Gpus::Listed(numbers)) => {
                let opened: Result<Vec<Gpu>, _> = open(numbers).into_iter().collect();
                let gpus = opened.with_context(hint)?.into_iter();
                (gpus.flat_map(one).collect(), String::new())
            }
            Device::Cuda(Gpus::All) => {
                let gpus = all(cx).with_context(hint)?.into_iter();
                (gpus.flat_map(one).collect(), String::new())
            }
        };
        if gpus.is_empty() && self.precision.on_processor().is_none() {
            let name = self.precision.name();
            let text = format!(
                "--precision {name} is for GPUs, and the network runs on the processor ({reason})"
            );
            return Err(Usage(text).into());
        }
        if gpus.is_empty() {
            cx.detail(&format!("device cpu: {reason}"));
        }
        for OnGpu { gpu, .. } in &gpus {
            cx.detail(&format!("device {}, {}", gpu.label(), gpu.versions()));
        }
        Ok(Choice {
            compute,
            gpus,
            any_will_do: self.device == Device::Cuda(Gpus::All),
            precision: self.precision,
        })
    }

    fn named_isa(&self) -> Option<&str> {
        self.isa.as_deref().filter(|name| !name.is_empty())
    }
}

/// Starts using GPUs, all at the same time; results in the order of the numbers.
fn open(numbers: &[usize]) -> Vec<Result<Gpu, cuda::Error>> {
    numbers
        .par_iter()
        .map(|&number| Gpu::open(number))
        .collect()
}

/// Every GPU that can be used, at least one; warns of the others.
fn all(cx: &Context) -> Result<Vec<Gpu>, cuda::Error> {
    let numbers: Vec<usize> = (0..Gpu::count()?).collect();
    let (mut gpus, mut problems) = (Vec::new(), Vec::new());
    for opened in open(&numbers) {
        match opened {
            Ok(gpu) => gpus.push(gpu),
            Err(problem) => problems.push(problem),
        }
    }
    if gpus.is_empty() {
        let none = || cuda::Error::Unavailable("the NVIDIA driver finds no GPU".to_owned());
        return Err(problems.into_iter().next().unwrap_or_else(none));
    }
    for problem in problems {
        warn_of_left_out(&problem, cx);
    }
    Ok(gpus)
}

/// Warns of a GPU that others do without.
pub fn warn_of_left_out(problem: &dyn std::fmt::Display, cx: &Context) {
    let text = format!("{problem}: left out");
    cx.warn(&text, &text);
}

/// `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A GPU that works, or else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// GPUs.
    Cuda(Gpus),
}

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// The first that works.
    First,
    /// Those of these numbers, at least one, each once.
    Listed(Vec<usize>),
    /// Every one that works.
    All,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gpus = match (text, text.strip_prefix("cuda:")) {
            ("auto", _) => return Ok(Self::Auto),
            ("cpu", _) => return Ok(Self::Cpu),
            ("cuda", _) => Some(Gpus::First),
            ("cuda:all", _) => Some(Gpus::All),
            (_, Some(list)) => {
                let numbers: Result<Vec<usize>, _> = list.split(',').map(str::parse).collect();
                numbers.ok().map(Gpus::Listed)
            }
            _ => None,
        };
        let expected = "expected auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all, for example cuda:1 or cuda:0,2";
        let gpus = gpus.ok_or(expected)?;
        if let Gpus::Listed(numbers) = &gpus {
            let mut seen = BTreeSet::new();
            if let Some(twice) = numbers.iter().find(|number| !seen.insert(**number)) {
                return Err(format!("cuda:{twice} is named twice"));
            }
        }
        Ok(Self::Cuda(gpus))
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(Gpus::First) => f.write_str("cuda"),
            Self::Cuda(Gpus::All) => f.write_str("cuda:all"),
            Self::Cuda(Gpus::Listed(numbers)) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrecisionFlag {
    Fp32,
    Fast32,
    Bf16,
    Tf32,
    Fp16,
}

impl PrecisionFlag {
    /// What the processor makes of it; `None` for those it does not know.
    pub fn on_processor(self) -> Option<Precision> {
        match self {
            Self::Fp32 => Some(Precision::Fp32),
            Self::Fast32 => Some(Precision::Fast32),
            Self::Bf16 => Some(Precision::Bf16),
            Self::Tf32 | Self::Fp16 => None,
        }
    }

    /// What a GPU makes of it: never less exact than what the name promises on the processor.
    pub fn on_gpu(self) -> cuda::Arithmetic {
        match self {
            Self::Fp32 | Self::Fast32 => cuda::Arithmetic::Fp32,
            Self::Bf16 => cuda::Arithmetic::Bf16,
            Self::Tf32 => cuda::Arithmetic::Tf32,
            Self::Fp16 => cuda::Arithmetic::Fp16,
        }
    }

    fn name(self) -> &'static str {
        match self.on_processor() {
            Some(precision) => precision.name(),
            None => self.on_gpu().name(),
        }
    }
}

impl ValueEnum for PrecisionFlag {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Fp32, Self::Fast32, Self::Bf16, Self::Tf32, Self::Fp16]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Fp32 => "single precision, errors as small as PyTorch's",
            Self::Fast32 => {
                "single precision, about five times these errors, faster; as fp32 on a GPU"
            }
            Self::Bf16 => {
                "activations in 16 bits: half the memory, errors below PyTorch's autocast"
            }
            Self::Tf32 => {
                "GPUs only: factors of 11 bits on tensor cores, as PyTorch's convolutions"
            }
            Self::Fp16 => "GPUs only: activations and factors of 11 bits, as nnU-Net's autocast",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_they_are_written() {
        for text in [
            "auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:2,0", "cuda:all",
        ] {
            assert_eq!(Device::from_str(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "CUDA",
            "cpu:0",
            "cuda:0,",
            "cuda:,",
            "cuda:0,all",
            "cuda:0-2",
            "cuda:0;1",
            "cuda,cpu",
            "cuda:99999999999999999999",
        ] {
            let error = Device::from_str(text).unwrap_err();
            assert!(error.contains("cuda:N,M"), "{error}");
        }
        let error = Device::from_str("cuda:0,2,00").unwrap_err();
        assert_eq!(error, "cuda:0 is named twice");
    }

    #[test]
    fn a_gpu_is_never_less_exact_than_the_name_promises() {
        assert_eq!(PrecisionFlag::Fast32.on_gpu(), cuda::Arithmetic::Fp32);
        assert_eq!(PrecisionFlag::Fp32.on_gpu(), cuda::Arithmetic::Fp32);
    }
}
