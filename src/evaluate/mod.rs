//! Scoring a set of predictions against references.
//!
//! 1. [`pairing`] matches files by name and reports what has no partner.
//! 2. [`align`] decides from the grids whether a pair can be compared voxel by voxel.
//! 3. [`case`] scores a pair: one pass counts, surfaces follow inside each label's
//!    box, and single lesions ([`lesions`]), tubes ([`tubes`]) and intensities ([`intensity`]) where they
//!    are asked for.
//! 4. [`summary`] sums up cases with [`statistics`]; [`gate`] checks what it found; [`baseline`] and
//!    [`comparison`] hold it against other runs.
//! 5. [`results`] is the document that everything else is made from: [`csv`], [`junit`],
//!    [`nnunet_summary`], [`markdown`], workbooks.
//!
//! Nothing here reads files or prints. A structure that a mask lacks never becomes a good number: every
//! score has a status beside it, every mean says what it left out. `docs/evaluate.md` defines all
//! scores.

pub mod align;
pub mod baseline;
pub mod case;
pub mod comparison;
pub mod csv;
pub mod gate;
pub mod intensity;
pub mod junit;
pub mod lesions;
pub mod markdown;
pub mod measure;
pub mod nnunet_summary;
pub mod pairing;
pub mod results;
pub mod statistics;
pub mod summary;
pub mod targets;
pub mod tubes;
