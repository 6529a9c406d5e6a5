//! nnU-Net models: plans, preprocessing, sliding window and export.
//!
//! [`model`] puts a model folder together from [`plans`], [`dataset`] and the folds' checkpoints
//! ([`checkpoint`]); [`describe`] says what is in it.
//!
//! A case runs through [`preprocess`] (crop, [`normalize`], resample), [`sliding_window`] (tiles of
//! [`window_grid`] weighted by [`gaussian`], summed in a [`logit`] type) and [`export`] (logits to
//! labels on the image's grid, with their [`uncertainty`]); [`predict`] puts these together and [`memory`] says what they
//! take. On a GPU the tiles are added up there ([`device_sums`]).

mod architecture;
pub mod check;
pub mod checkpoint;
pub mod columns;
pub mod dataset;
pub mod describe;
pub mod device_sums;
pub mod export;
mod folds;
pub mod gaussian;
mod gpu;
pub mod logit;
pub mod memory;
pub mod model;
pub mod normalize;
pub mod numpy_sum;
pub mod plans;
pub mod plausibility;
pub mod postprocess;
pub mod predict;
pub mod predict_error;
pub mod preprocess;
pub mod slabs;
pub mod sliding_window;
pub mod statistics;
pub mod uncertainty;
pub mod window_grid;
