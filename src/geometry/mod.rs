//! Orientation, boxes, resampling, values at points, the distance transform, small linear systems.

pub mod bounds;
pub mod distance;
pub mod linear_system;
pub mod orientation;
pub mod points;
pub mod resample;
