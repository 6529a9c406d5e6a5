//! Prediction of cases with a loaded model.
//!
//! [`Predictor::new`] reads the weights of all folds once; [`Predictor::predict`] then runs case after
//! case: preprocess, slide, export. The steps are also there one by one, so that a caller can drop the
//! images before the network needs its memory.
//!
//! Agreement with `nnUNetv2_predict` 2.8.1 on a CPU: every step but the network itself is equal bit for
//! bit; the network's `f32` sums are added in another order, which moves a logit in the sixth digit and,
//! where two classes tie within that, a voxel (PyTorch itself differs as much between thread counts).

use super::columns::{self, Column};
use super::dataset::DatasetInfo;
use super::export::{Exported, LabelExport, logits_resampler};
use super::folds::{Folds, flips};
use super::gpu::GpuFolds;
pub use super::gpu::{OnFailure, OnGpu};
use super::logit::Logit;
use super::memory::{MemoryEstimate, Needs};
use super::model::Model;
use super::plans::Orientation;
use super::plausibility::doubt;
use super::predict_error::PredictError;
use super::preprocess::{Prepared, Preprocessed, Preprocessor, Properties, resample_options};
use super::slabs::{self, Slabs};
use super::sliding_window::{Air, ImageSlices, LogitsSink, SlidingWindow};
use super::uncertainty::Uncertainty;
use super::window_grid::WindowGrid;
use crate::geometry::orientation::Turn;
use crate::geometry::resample::{ResampleFunction, ResampleOptions};
use crate::nn::{Compute, Network, cuda};
use crate::progress::Progress;
use crate::volume::{Grid, LabelMap, Volume};
use half::f16;
use ndarray::Array4;
use std::borrow::Borrow;
use std::sync::Arc;

/// In which type overlapping tiles are added up and logits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accumulate {
    /// `f16`, as nnU-Net does: the same voxels as nnU-Net.
    #[default]
    Half,
    /// `f32`: closer to what the network said, twice the memory; about 1 voxel in 10 000 differs
    /// from nnU-Net's.
    Float,
}

/// How to predict.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictOptions {
    /// Distance of tiles as a fraction of the patch, above 0 and at most 1. nnU-Net: 0.5.
    pub step: f64,
    /// Whether to average over mirrored patches where the model allows it. nnU-Net: yes.
    pub mirroring: bool,
    /// Number type of sums and logits.
    pub accumulate: Accumulate,
    /// Instruction set and precision of the network.
    pub compute: Compute,
    /// The GPU that the network runs on instead.
    pub gpu: Option<OnGpu>,
    /// Whether to keep probabilities: `4 * classes` bytes per voxel of the image.
    pub probabilities: bool,
    /// Whether to keep the [`uncertainty`](super::uncertainty) of every voxel: 4 bytes per voxel of the image, 8 for several
    /// folds.
    pub uncertainty: bool,
    /// Whether tiles of a CT that hold nothing but air become background without a run of the network.
    /// Where such a tile overlaps others, those alone decide.
    pub skip_air: bool,
    /// Memory that a case may take, in bytes. Less than the fastest way takes makes more columns
    /// ([`columns`]); less than any way takes is [`PredictError::OverLimit`] before work starts.
    pub limit_bytes: u64,
}

/// How a case will be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasePlan {
    /// Columns, predicted one after the other.
    pub columns: Vec<Column>,
    /// Whether the input is made by [`slabs`] while the window passes, instead of as a whole before.
    pub slabs: bool,
    /// Tiles that the network runs on, those that reach over a cut counted for each side.
    pub tiles: usize,
    /// Tiles of the image.
    pub distinct_tiles: usize,
    /// What it takes.
    pub memory: MemoryEstimate,
}

impl CasePlan {
    /// Whether the memory limit costs time, for people: `in 3 columns, 63 tiles instead of 49`.
    pub fn price(&self) -> Option<String> {
        let columns = self.columns.len();
        (columns > 1).then(|| {
            format!(
                "in {columns} columns, {} tiles instead of {}",
                self.tiles, self.distinct_tiles
            )
        })
    }
}

impl Default for PredictOptions {
    fn default() -> Self {
        Self {
            step: 0.5,
            mirroring: true,
            accumulate: Accumulate::Half,
            compute: Compute::default(),
            gpu: None,
            probabilities: false,
            uncertainty: false,
            skip_air: false,
            limit_bytes: u64::MAX,
        }
    }
}

/// The result of one case, on the grid of its first channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Labels with the model's label table.
    pub label_map: LabelMap,
    /// How the network saw the image.
    pub properties: Properties,
    /// Tiles that were skipped because they hold only air.
    pub skipped_tiles: usize,
    /// Why the processor computed what a GPU was to compute, where it did.
    pub gpu_problem: Option<String>,
    /// `[classes, z, y, x]`, where asked for: softmax over classes, or the sigmoid of each region.
    /// Outside the crop: 1 for background, 0 for everything else.
    pub probabilities: Option<Array4<f32>>,
    /// How certain the labels are, where asked for.
    pub uncertainty: Option<Uncertainty>,
}

/// A model with its weights in memory.
pub struct Predictor {
    /// Shared with the predictors on other GPUs.
    networks: Arc<[Network]>,
    gpu: Option<GpuFolds>,
    /// Why there is none although one was asked for.
    gpu_problem: Option<String>,
    preprocessor: Preprocessor,
    dataset: DatasetInfo,
    patch: [usize; 3],
    spatial_dims: usize,
    logits_resampling: ResampleOptions,
    orientation: Orientation,
    flips: Vec<[bool; 3]>,
    options: PredictOptions,
}

/// What a sliding window has to tell.
struct Passage {
    skipped: usize,
    gpu_problem: Option<String>,
}

impl Predictor {
    /// Reads the weights of all folds of `model`. Memory: the packed weights, and one fold unpacked while
    /// it is read. A GPU gets its own copy and is compared with the processor.
    ///
    /// # Errors
    /// [`PredictError::Model`] and [`PredictError::Network`] for weights that are damaged or do not fit,
    /// [`PredictError::Step`].
    pub fn new(model: &Model, options: PredictOptions) -> Result<Self, PredictError> {
        let mut made = Self::on_each(model, &options, options.gpu.as_slice())?;
        made.remove(0) // there is one for the processor, where there is no GPU
    }

    /// A predictor for each of `gpus`, in their order, or one for the processor where there are none. They share the
    /// weights on the host, which are read once; each GPU gets its own copy and is compared with the processor. The
    /// GPU of `options` does not matter.
    ///
    /// # Errors
    /// As [`new`](Self::new); what is wrong with one GPU is the error of its predictor alone.
    pub fn on_each(
        model: &Model,
        options: &PredictOptions,
        gpus: &[OnGpu],
    ) -> Result<Vec<Result<Self, PredictError>>, PredictError> {
        let configuration = &model.configuration;
        let (patch, spatial_dims) = (configuration.patch_size, configuration.spatial_dims);
        // Refuses a step that is none before anything is read.
        WindowGrid::new(patch, patch, spatial_dims, options.step)?;
        let mut networks = Vec::new();
        let mut copies: Vec<_> = gpus.iter().map(|_| Ok(Vec::new())).collect();
        for position in 0..model.folds().len() {
            let weights = model.fold_weights(position)?;
            let (spec, compute) = (&model.network, options.compute);
            let network = Network::with_compute(spec, &weights, compute, Some(patch))?;
            for (on, copied) in gpus.iter().zip(&mut copies) {
                let Ok(folds) = copied else { continue };
                let arithmetic = on.arithmetic;
                match cuda::Network::checked(&on.gpu, &network, &weights, arithmetic, patch) {
                    Ok(copy) => folds.push(copy),
                    Err(error) => *copied = Err(error),
                }
            }
            networks.push(network);
        }
        let networks: Arc<[Network]> = networks.into();
        let axes = model.checkpoint.mirroring_axes.as_deref();
        let axes = axes.filter(|_| options.mirroring).unwrap_or_default();
        let make = |gpu: Option<GpuFolds>, gpu_problem: Option<String>| {
            Ok(Self {
                networks: Arc::clone(&networks),
                gpu,
                gpu_problem,
                preprocessor: Preprocessor::new(
                    &model.plans,
                    configuration,
                    &model.dataset.foreground,
                    options.limit_bytes,
                )?,
                dataset: model.dataset.clone(),
                patch,
                spatial_dims,
                logits_resampling: resample_options(configuration.resampling_probabilities)?,
                orientation: model.plans.orientation,
                flips: flips(axes, spatial_dims),
                options: options.clone(),
            })
        };
        if gpus.is_empty() {
            return Ok(vec![make(None, None)]);
        }
        let made = gpus.iter().cloned().zip(copies);
        let made = made.map(|(on, copied)| match copied {
            Ok(networks) => make(Some(GpuFolds { on, networks }), None),
            Err(error) if on.goes_on_after(&error) => make(None, Some(on.trouble(&error))),
            Err(error) => Err(error.into()),
        });
        Ok(made.collect())
    }

    /// Why the processor computes although a GPU was asked for, where the GPU could not even take the weights.
    pub fn gpu_problem(&self) -> Option<&str> {
        self.gpu_problem.as_deref()
    }

    /// Predicts one case from its channels, all on one grid. `previous` is the label map of the previous
    /// stage for the second stage of a cascade ([`previous_stage`](Self::previous_stage)), else `None`.
    ///
    /// Reports the phases `preprocess` (channels) and `predict` (tiles of all folds); export happens during
    /// the latter. The same bytes for any number of threads. Memory: see
    /// [`memory_estimate`](Self::memory_estimate).
    ///
    /// # Errors
    /// What [`Preprocessor::run`] and [`predict_preprocessed`](Self::predict_preprocessed) return.
    pub fn predict<C: Borrow<Volume<f32>>>(
        &self,
        channels: &[C],
        previous: Option<&LabelMap>,
        progress: &dyn Progress,
    ) -> Result<Prediction, PredictError> {
        if let Some(first) = channels.first() {
            self.memory_estimate(first.borrow().grid())?
                .check(self.options.limit_bytes)?;
        }
        let first = channels.first().map(Borrow::borrow);
        let turn = match (self.orientation, first) {
            (Orientation::Ras, Some(first)) => Turn::to_canonical(&first.grid().affine)?,
            _ => Turn::IDENTITY,
        };
        if turn.is_identity() {
            return self.predict_oriented(channels, previous, progress);
        }
        let turned: Vec<_> = channels
            .iter()
            .map(|image| turn.volume(image.borrow()))
            .collect();
        let previous = previous.map(|labels| LabelMap {
            volume: turn.volume(&labels.volume),
            table: labels.table.clone(),
        });
        let mut prediction = self.predict_oriented(&turned, previous.as_ref(), progress)?;
        drop((turned, previous));
        let back = turn.inverse();
        let labels = back.array(prediction.label_map.volume.data().view());
        // The grid as given: turning its origin there and back could change the last digit.
        let grid = first.map_or(prediction.properties.grid, |first| *first.grid());
        prediction.label_map = LabelMap::new(labels, grid, prediction.label_map.table)?;
        prediction.probabilities = prediction.probabilities.map(|all| {
            let heads: Vec<_> = all.outer_iter().map(|head| back.view(head)).collect();
            ndarray::stack(ndarray::Axis(0), &heads).expect("all heads have one shape")
        });
        prediction.uncertainty = prediction.uncertainty.map(|found| Uncertainty {
            entropy: back.array(found.entropy.view()),
            disagreement: found.disagreement.map(|all| back.array(all.view())),
        });
        Ok(prediction)
    }

    /// [`predict`](Self::predict) on channels in the orientation the model's reader would give them.
    fn predict_oriented<C: Borrow<Volume<f32>>>(
        &self,
        channels: &[C],
        previous: Option<&LabelMap>,
        progress: &dyn Progress,
    ) -> Result<Prediction, PredictError> {
        let prepared = self.preprocessor.prepare(channels, previous, progress)?;
        let plan = self.plan(&prepared.properties)?;
        let air = self.air(&prepared)?;
        if plan.slabs {
            let properties = prepared.properties;
            let mut slabs = Slabs::new(prepared, self.patch[0])?;
            return self.export(&mut slabs, properties, &plan, air, progress);
        }
        let whole = prepared.whole()?;
        self.export(&mut &whole.data, whole.properties, &plan, air, progress)
    }

    /// What air is in this case, if it is to be skipped.
    fn air(&self, prepared: &Prepared<'_>) -> Result<Option<Air>, PredictError> {
        if !self.options.skip_air {
            return Ok(None);
        }
        let highest = prepared.air().ok_or_else(|| PredictError::Unsupported {
            feature: "skipping air in images other than CT (CTNormalization)".to_owned(),
        })?;
        Ok(Some(Air {
            highest,
            background: LabelExport::<f32>::background(&self.dataset),
        }))
    }

    /// Only the preprocessing of [`predict`](Self::predict), as a whole, on channels in the orientation the
    /// model's reader would give them. The result does not borrow the channels.
    ///
    /// # Errors
    /// As [`Preprocessor::run`].
    pub fn preprocess<C: Borrow<Volume<f32>>>(
        &self,
        channels: &[C],
        previous: Option<&LabelMap>,
        progress: &dyn Progress,
    ) -> Result<Preprocessed, PredictError> {
        self.preprocessor.run(channels, previous, progress)
    }

    /// What [`predict`](Self::predict) does with an image preprocessed as a whole; no air is skipped.
    ///
    /// # Errors
    /// [`PredictError::LogitsNotFinite`], [`PredictError::Network`], [`PredictError::Unsupported`] for cubic
    /// resampling of logits, [`PredictError::Interrupted`].
    pub fn predict_preprocessed(
        &self,
        preprocessed: Preprocessed,
        progress: &dyn Progress,
    ) -> Result<Prediction, PredictError> {
        let plan = self.plan(&preprocessed.properties)?;
        let mut image = &preprocessed.data;
        self.export(&mut image, preprocessed.properties, &plan, None, progress)
    }

    fn export(
        &self,
        image: &mut dyn ImageSlices,
        properties: Properties,
        plan: &CasePlan,
        air: Option<Air>,
        progress: &dyn Progress,
    ) -> Result<Prediction, PredictError> {
        let (exported, passage) = match self.options.accumulate {
            Accumulate::Half => self.slide::<f16>(image, properties, plan, air, progress)?,
            Accumulate::Float => self.slide::<f32>(image, properties, plan, air, progress)?,
        };
        Ok(Prediction {
            label_map: LabelMap::new(exported.labels, properties.grid, self.dataset.label_table())?,
            properties,
            skipped_tiles: passage.skipped,
            gpu_problem: passage.gpu_problem,
            probabilities: exported.probabilities,
            uncertainty: exported.uncertainty,
        })
    }

    fn slide<T: Logit>(
        &self,
        image: &mut dyn ImageSlices,
        properties: Properties,
        plan: &CasePlan,
        air: Option<Air>,
        progress: &dyn Progress,
    ) -> Result<(Exported, Passage), PredictError> {
        let mut export = LabelExport::<T>::new(
            properties,
            &self.dataset,
            self.logits_resampling,
            self.options.probabilities,
        )?;
        if self.options.uncertainty {
            export = export.with_uncertainty(self.networks.len());
        }
        let passage = self.window(image, &properties, plan, air, &mut export, progress)?;
        Ok((export.finish(), passage))
    }

    /// Only the sliding window: hands slices of logits at the network's resolution to `sink`, in the type
    /// the sink takes. The memory limit decides about columns.
    ///
    /// # Errors
    /// As [`predict_preprocessed`](Self::predict_preprocessed).
    pub fn run<T: Logit>(
        &self,
        preprocessed: &Preprocessed,
        sink: &mut dyn LogitsSink<T>,
        progress: &dyn Progress,
    ) -> Result<(), PredictError> {
        let (properties, mut image) = (&preprocessed.properties, &preprocessed.data);
        let plan = self.plan(properties)?;
        self.window(&mut image, properties, &plan, None, sink, progress)?;
        Ok(())
    }

    fn window<T: Logit>(
        &self,
        image: &mut dyn ImageSlices,
        properties: &Properties,
        plan: &CasePlan,
        air: Option<Air>,
        sink: &mut dyn LogitsSink<T>,
        progress: &dyn Progress,
    ) -> Result<Passage, PredictError> {
        let window = SlidingWindow::new(self.window_grid(properties)?).skipping(air);
        let gpu = self.gpu.as_ref();
        let mut folds = Folds::new(&self.networks, gpu, self.patch, &self.flips);
        let skipped = window.run(image, &plan.columns, &mut folds, sink, progress)?;
        let gpu_problem = folds.trouble.or_else(|| self.gpu_problem.clone());
        Ok(Passage {
            skipped,
            gpu_problem,
        })
    }

    fn window_grid(&self, properties: &Properties) -> Result<WindowGrid, PredictError> {
        WindowGrid::new(
            properties.network_shape,
            self.patch,
            self.spatial_dims,
            self.options.step,
        )
    }

    /// How an image of this grid is predicted, at most: as if no voxel of it were cropped.
    ///
    /// # Errors
    /// [`PredictError::OverLimit`] when already the image at the model's resolution is above the limit, and
    /// what is wrong with the grid. A plan above the limit is none: see [`MemoryEstimate::check`].
    pub fn case_plan(&self, grid: &Grid) -> Result<CasePlan, PredictError> {
        self.plan(&self.preprocessor.uncropped(grid)?)
    }

    /// Memory of [`case_plan`](Self::case_plan).
    ///
    /// # Errors
    /// As [`case_plan`](Self::case_plan).
    pub fn memory_estimate(&self, grid: &Grid) -> Result<MemoryEstimate, PredictError> {
        Ok(self.case_plan(grid)?.memory)
    }

    /// The fastest way that stays within the limit or, where none does, the one that takes the least memory:
    /// the fewest tiles first; then an input that is made once; then the least memory.
    fn plan(&self, properties: &Properties) -> Result<CasePlan, PredictError> {
        let window = self.window_grid(properties)?;
        let resampler = logits_resampler(properties, self.logits_resampling)?;
        let slabs = slabs::bytes(&self.preprocessor, properties, self.patch[0])?;
        let ways: Vec<Needs> = [slabs, None]
            .into_iter()
            .map(|slabs| self.needs(slabs))
            .collect::<Result<_, _>>()?;
        let one_pass = SlidingWindow::rings_per_fold(&window, self.networks.len());
        let mut best = None;
        let [most_rows, most_columns] = [1, 2].map(|axis| window.starts(axis).len());
        for counts in (1..=most_rows).flat_map(|rows| (1..=most_columns).map(move |n| [rows, n])) {
            let columns = columns::cut(&window, resampler.as_ref(), counts);
            let tiles = columns
                .iter()
                .map(|column| column.tile_count(&window))
                .sum();
            for needs in &ways {
                let memory = MemoryEstimate::new(properties, &window, &columns, needs);
                let made_again = needs.slabs.is_some() && !(one_pass && columns.len() == 1);
                let above = memory.peak.saturating_sub(self.options.limit_bytes);
                let rank = (above, tiles, made_again, memory.peak);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    let plan = CasePlan {
                        columns: columns.clone(),
                        slabs: needs.slabs.is_some(),
                        tiles,
                        distinct_tiles: window.tile_count(),
                        memory,
                    };
                    best = Some((rank, plan));
                }
            }
        }
        Ok(best.expect("every image has a tile").1)
    }

    fn needs(&self, slabs: Option<[u64; 2]>) -> Result<Needs, PredictError> {
        let network = self.networks.first();
        let plan = network.map(|it| it.plan(self.patch)).transpose()?;
        let threads = rayon::current_num_threads();
        let heads = self.dataset.heads();
        let voxels: usize = self.patch.iter().product();
        let logits_bytes = match &plan {
            Some(plan) if self.flips.is_empty() && self.gpu.is_none() => {
                threads * plan.box_bytes_per_thread()
            }
            _ => size_of::<f32>() * heads * voxels,
        };
        let logit_bytes = match self.options.accumulate {
            Accumulate::Half => size_of::<f16>(),
            Accumulate::Float => size_of::<f32>(),
        };
        Ok(Needs {
            images: self.preprocessor.normalization.len(),
            channels: self.preprocessor.channels(),
            heads,
            folds: self.networks.len(),
            logit_bytes,
            resampled_bytes: match self.logits_resampling.function {
                ResampleFunction::Splines => logit_bytes,
                ResampleFunction::Torch => size_of::<f32>(),
            },
            probabilities: self.options.probabilities,
            uncertainty: self.options.uncertainty,
            masked: self.preprocessor.needs_mask(),
            turned: self.orientation == Orientation::Ras,
            network_bytes: self.networks.iter().map(Network::weight_bytes).sum(),
            arena_bytes: plan.map_or(0, |plan| plan.total_bytes(threads)),
            logits_bytes,
            slabs,
        })
    }

    /// The configuration whose label map this model needs as a further input, for the second stage of a
    /// cascade.
    pub fn previous_stage(&self) -> Option<&str> {
        let stage = self.preprocessor.previous_stage.as_ref();
        stage.map(|stage| stage.name.as_str())
    }

    /// What speaks against the channels being what the model was trained on, one line per doubtful channel
    /// with its index. Time: one pass over the intensities.
    pub fn doubts<C: Borrow<Volume<f32>>>(&self, channels: &[C]) -> Vec<(usize, String)> {
        let names = self.dataset.channel_names.iter();
        names
            .zip(&self.preprocessor.normalization)
            .zip(channels)
            .enumerate()
            .filter_map(|(index, ((name, scheme), image))| {
                let start = (f32::INFINITY, f32::NEG_INFINITY);
                let (lowest, highest) = image
                    .borrow()
                    .data()
                    .iter()
                    .fold(start, |(low, high), &value| {
                        (low.min(value), high.max(value))
                    });
                Some((index, doubt(name, scheme, lowest, highest)?))
            })
            .collect()
    }

    /// From now on at most this much memory, as [`PredictOptions::limit_bytes`].
    pub fn set_limit(&mut self, limit_bytes: u64) {
        self.options.limit_bytes = limit_bytes;
        self.preprocessor.limit_bytes = limit_bytes;
    }

    /// How many times the network runs per tile and fold: 1 without mirroring.
    pub fn passes_per_tile(&self) -> usize {
        1 + self.flips.len()
    }
}
