//! What a network computes with: `--device`, `--precision`, `--isa`.

use crate::context::Context;
use crate::outcome::Usage;
use anyhow::Context as _;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use medseg::nn::cuda::{self, Gpu};
use medseg::nn::{Compute, Isa, Precision};
use medseg::nnunet::predict::{OnFailure, OnGpu};
use std::str::FromStr;

/// What a network computes with.
#[derive(Args, Debug, Clone)]
pub struct Arithmetic {
    /// Where the network runs: cpu, auto (a GPU that works, or else the processor), cuda (the first GPU that
    /// works) or cuda:N
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
    /// The GPU.
    pub gpu: Option<OnGpu>,
    precision: PrecisionFlag,
}

impl Choice {
    /// The device, for reports: `cpu`, `cuda:0 (NVIDIA H200)`.
    pub fn device(&self) -> String {
        match &self.gpu {
            Some(on) => on.gpu.label(),
            None => "cpu".to_owned(),
        }
    }

    /// The precision that is really computed in.
    pub fn precision(&self) -> &'static str {
        match &self.gpu {
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
        let (gpu, reason) = match self.device {
            Device::Cpu => (None, "no GPU was asked for".to_owned()),
            Device::Auto if self.named_isa().is_some() => {
                (None, "an instruction set was asked for".to_owned())
            }
            Device::Auto => match Gpu::first() {
                Ok(gpu) => (Some(on(gpu, OnFailure::UseProcessor)), String::new()),
                Err(error) => (None, error.to_string()),
            },
            Device::Cuda(None) => (
                Some(on(Gpu::first().with_context(hint)?, OnFailure::Stop)),
                String::new(),
            ),
            Device::Cuda(Some(number)) => {
                let gpu = Gpu::open(number).with_context(hint)?;
                (Some(on(gpu, OnFailure::Stop)), String::new())
            }
        };
        if gpu.is_none() && self.precision.on_processor().is_none() {
            let name = self.precision.name();
            let text = format!(
                "--precision {name} is for GPUs, and the network runs on the processor ({reason})"
            );
            return Err(Usage(text).into());
        }
        match &gpu {
            Some(on) => cx.detail(&format!("device {}, {}", on.gpu.label(), on.gpu.versions())),
            None => cx.detail(&format!("device cpu: {reason}")),
        }
        Ok(Choice {
            compute,
            gpu,
            precision: self.precision,
        })
    }

    fn named_isa(&self) -> Option<&str> {
        self.isa.as_deref().filter(|name| !name.is_empty())
    }
}

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A GPU that works, or else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU: the first that works, or one by number.
    Cuda(Option<usize>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(Some(number))),
            _ => Err("expected auto, cpu, cuda or cuda:N, for example cuda:1".to_owned()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
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
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:12"] {
            assert_eq!(Device::from_str(text).unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cpu:0"] {
            let error = Device::from_str(text).unwrap_err();
            assert!(error.contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_gpu_is_never_less_exact_than_the_name_promises() {
        assert_eq!(PrecisionFlag::Fast32.on_gpu(), cuda::Arithmetic::Fp32);
        assert_eq!(PrecisionFlag::Fp32.on_gpu(), cuda::Arithmetic::Fp32);
    }
}
