//! medseg: CT and MR volumes to checked anatomy.
//!
//! The library holds every algorithm; the `medseg` binary (`src/bin/medseg/`) joins them with files,
//! flags and progress bars. Modules may only use what stands below them:
//!
//! | module | what lives there | may use |
//! |---|---|---|
//! | [`volume`] | voxels on a grid with a RAS+ affine, label maps, label tables | nothing |
//! | [`progress`] | how a long computation reports and is interrupted | nothing |
//! | [`geometry`] | orientation, boxes, resampling, distance transform | `volume` |
//! | [`io`] | NIfTI, NRRD, MetaImage, atomic files, memory limits, label tables, batches | `volume`, `geometry` |
//! | [`dicom`] | DICOM series as volumes, segmentations and structure sets in and out | `io`, `geometry`, `volume` |
//! | [`metrics`] | overlap and surface distances of label maps | `geometry`, `volume` |
//! | [`mesh`] | smooth closed surfaces of label maps, OBJ, STL, PLY, GLB | `topology`, `geometry`, `volume`, `progress` |
//! | [`topology`] | components, hole filling, skeletons, bridges over gaps | `geometry`, `volume` |
//! | [`tissue`] | perirenal, visceral and subcutaneous fat | `topology`, `geometry`, `volume` |
//! | [`template`] | a template's labels fitted to a patient's kidneys | `topology`, `geometry`, `volume` |
//! | [`registration`] | rigid motions between images of one patient | `geometry`, `volume`, `progress` |
//! | [`nn`] | network layers, kernels, executor, weight files | `volume` |
//! | [`nnunet`] | nnU-Net models: plans, preprocessing, sliding window, export | `nn`, `topology`, `metrics`, `geometry`, `volume` |
//! | [`tasks`] | many models over one reading: task files, merging, TotalSegmentator | `nnunet`, `topology`, `geometry`, `volume`, `progress` |
//! | [`evaluate`] | scores of a set of predictions, statistics, checks, result documents | `metrics`, `topology`, `geometry`, `volume` |
//! | [`report`] | workbooks and pages of results, pictures of slices | `evaluate`, `metrics`, `geometry`, `volume` |
//! | [`phantom`] | synthetic abdominal cases | `geometry`, `volume` |
//! | [`provenance`] | run reports | `io` |
//!
//! `tests/architecture.rs` holds this table. Volumes are `[z, y, x]` arrays in standard layout;
//! millimetres are RAS+; geometry is `f64`, intensities are `f32`.

pub mod dicom;
pub mod evaluate;
pub mod geometry;
pub mod io;
pub mod mesh;
pub mod metrics;
pub mod nn;
pub mod nnunet;
pub mod phantom;
pub mod progress;
pub mod provenance;
pub mod registration;
pub mod report;
pub mod tasks;
pub mod template;
pub mod tissue;
pub mod topology;
pub mod volume;
