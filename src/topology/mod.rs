//! Connected components, hole filling, skeletons, and the repair of interrupted trees.

pub mod betti;
pub mod branches;
pub mod bridging;
pub mod components;
pub mod fill_holes;
pub mod foreground;
pub mod graph;
pub mod lines;
mod runs;
pub mod thinning;
mod vector;

pub use branches::{BranchMeasures, measure_branches};
pub use components::{Component, Components, Connectivity, label_components};
pub use components::{largest_component, remove_small};
pub use fill_holes::fill_holes;
pub use foreground::Foreground;
pub use graph::SkeletonGraph;
pub use thinning::{is_simple, thin};
