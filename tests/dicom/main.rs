//! DICOM: series in, segmentations and structure sets out and in.

mod builder;
mod segmentation;
mod series;
mod structures;
