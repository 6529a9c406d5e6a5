//! A GPU for the networks of a model: which, what happens when it fails, and the tiles that are added up there.

use super::device_sums::{DeviceSums, Stop};
use super::folds::Folds;
use crate::nn::Error;
use crate::nn::cuda::{self, Arithmetic, Gpu, Level, Logits, Sums};

/// A GPU for the networks of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct OnGpu {
    /// Which.
    pub gpu: Gpu,
    /// How it computes.
    pub arithmetic: Arithmetic,
    /// What happens when it fails. Where its memory does not suffice, the processor goes on in any case.
    pub on_failure: OnFailure,
}

/// What happens to a case whose GPU fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails too.
    Stop,
    /// The processor goes on.
    UseProcessor,
}

impl OnGpu {
    /// Whether the processor goes on after this error.
    pub(super) fn goes_on_after(&self, error: &Error) -> bool {
        match error {
            Error::Gpu(error) => error.is_memory() || self.on_failure == OnFailure::UseProcessor,
            _ => false,
        }
    }

    /// The error with the GPU's name, once.
    pub(super) fn trouble(&self, error: &Error) -> String {
        let (label, text) = (self.gpu.label(), error.to_string());
        if text.starts_with(&label) {
            text
        } else {
            format!("{label}: {text}")
        }
    }
}

/// The networks of a model on a GPU.
pub(super) struct GpuFolds {
    pub on: OnGpu,
    pub networks: Vec<cuda::Network>,
}

/// Whether less on the GPU at a time could help.
pub(super) fn is_size(error: &Error) -> bool {
    matches!(error, Error::Gpu(error) if error.is_memory() || matches!(error, cuda::Error::Refused(_)))
}

/// Sums of the tiles of a column on the GPU.
pub(super) struct GpuSums<'f, 'n> {
    pub folds: &'f mut Folds<'n>,
    /// Until it gives up.
    pub work: Option<(cuda::Executor<'n>, Sums)>,
}

impl GpuSums<'_, '_> {
    /// The host goes on: without the GPU where that failed, with the GPU's logits where sums did not fit beside the
    /// network.
    fn stop<T>(&mut self, error: Error) -> Result<T, Stop> {
        self.work = None;
        if !is_size(&error) {
            self.folds.give_up(error)?;
        }
        Err(Stop::GaveUp)
    }
}

impl DeviceSums for GpuSums<'_, '_> {
    fn queue(&mut self, level: &Level<'_>) -> Result<(), Stop> {
        let (executor, sums) = self.work.as_mut().ok_or(Stop::GaveUp)?;
        let queued = sums.queue(executor, level);
        queued.or_else(|error| self.stop(error))
    }

    fn wait(&mut self, tell: &mut dyn FnMut(usize) -> Result<(), Stop>) -> Result<(), Stop> {
        let (executor, sums) = self.work.as_mut().ok_or(Stop::GaveUp)?;
        while let Some(waited) = sums.wait_for_some() {
            match waited {
                Ok(tiles) => tell(tiles)?,
                Err(error) => return self.stop(error),
            }
        }
        let checked = executor.check();
        checked.or_else(|error| self.stop(error))
    }

    fn read(&mut self, fold: usize, slice: usize, to: Logits<'_>) -> Result<bool, Stop> {
        let (_, sums) = self.work.as_ref().ok_or(Stop::GaveUp)?;
        let read = sums.read(fold, slice, to);
        read.or_else(|error| self.stop(error))
    }
}

impl Drop for GpuSums<'_, '_> {
    /// The next column uses the same executor.
    fn drop(&mut self) {
        self.folds.on_gpu = self.work.take().map(|(executor, _)| executor);
    }
}
