//! Tasks: several models over one reading of an image, merged into one label map.
//!
//! A task says which models run on which channels, at which spacing, what their labels are called in
//! the result and what is done afterwards. [`file`] reads it from TOML, [`catalogue`] holds the built-in
//! ones, among them those of TotalSegmentator; [`definition`] is what a task is once it is checked.
//!
//! [`run`] carries a task out: [`images`] turns and resamples every channel once per distinct target and
//! shares the result, every model's labels are [`merge`]d, [`steps`] clean up, and the label map goes
//! back to the grid of the first channel. Models come from a [`run::Predictors`], so that this room knows
//! no files.

pub mod catalogue;
pub mod definition;
pub mod file;
pub mod images;
pub mod merge;
pub mod run;
pub mod steps;
