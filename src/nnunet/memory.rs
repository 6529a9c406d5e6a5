//! How much memory a prediction takes, before it starts.

use super::columns::Column;
use super::predict_error::PredictError;
use super::preprocess::Properties;
use super::sliding_window::SlidingWindow;
use super::window_grid::WindowGrid;
use serde::Serialize;

/// Program code, thread stacks, file buffers and what the allocator keeps of freed memory: 8 to 15 MiB
/// in measurements of five cases of 19 to 460 MiB.
const PROCESS: u64 = 10 << 20;

/// Planes of `f64` that cubic resampling keeps.
const SPLINE_PLANES: u64 = 80;

/// Memory of one prediction in bytes, by what it is for. The peak was within 20 % of the measured
/// resident memory of the process for five cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// The channels as given, held by the caller.
    pub image: u64,
    /// Work space of preprocessing: spline coefficients, mask, and one channel at the image's resolution
    /// where the input is made as a whole.
    pub preprocessing: u64,
    /// The channels at the network's resolution: as a whole or as many slices as are held at a time.
    pub preprocessed: u64,
    /// Weights of all folds.
    pub weights: u64,
    /// Activations and scratch of the network, one patch, and its logits or boxes of them.
    pub arena: u64,
    /// Sums of overlapping tiles that are not final yet.
    pub ring: u64,
    /// Slices of logits on their way to labels.
    pub slices: u64,
    /// The label map.
    pub labels: u64,
    /// Probabilities, where asked for.
    pub probabilities: u64,
    /// Uncertainty, where asked for, and what folds said of slices that are not final yet.
    pub uncertainty: u64,
    /// The program itself.
    pub process: u64,
    /// The most that is in use at any time.
    pub peak: u64,
}

/// What an estimate depends on besides shapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Images of a case.
    pub images: usize,
    /// Input channels of the network.
    pub channels: usize,
    pub heads: usize,
    pub folds: usize,
    pub logit_bytes: usize,
    /// Of a logit on the image's grid.
    pub resampled_bytes: usize,
    pub probabilities: bool,
    pub uncertainty: bool,
    pub masked: bool,
    /// Whether images are copied into another orientation first.
    pub turned: bool,
    /// Slices and work space of an input that is made by slabs; `None` for one that is made as a whole.
    pub slabs: Option<[u64; 2]>,
    pub network_bytes: usize,
    /// Activations, and scratch of all threads.
    pub arena_bytes: usize,
    /// Logits that the network hands out at a time: a patch, or a box per thread.
    pub logits_bytes: usize,
}

impl MemoryEstimate {
    /// Of predicting `columns` one after the other.
    pub(super) fn new(
        properties: &Properties,
        window: &WindowGrid,
        columns: &[Column],
        needs: &Needs,
    ) -> Self {
        let voxels = |shape: [usize; 3]| shape.iter().map(|&n| n as u64).product::<u64>();
        let plane = |shape: [usize; 3]| shape[1] as u64 * shape[2] as u64;
        let largest =
            |size: fn(&Column) -> usize| columns.iter().map(size).max().unwrap_or(0) as u64;
        let (source_plane, target_plane) =
            (largest(Column::source_plane), largest(Column::target_plane));
        let (channels, heads) = (needs.channels as u64, needs.heads as u64);
        let logit = heads * needs.logit_bytes as u64;
        let image_voxels = voxels(properties.grid.shape);
        let crop = properties.bounds.shape();
        let network = properties.network_shape;
        let resampled = !properties.is_unresampled();

        let image = 4 * needs.images as u64 * image_voxels * if needs.turned { 2 } else { 1 };
        let mut preprocessed = 4 * channels * voxels(network);
        let mut preprocessing = 0;
        if resampled {
            preprocessing += 4 * voxels(crop);
            preprocessing += 8 * SPLINE_PLANES.min(network[0] as u64) * plane(network);
        }
        if needs.images > 1 {
            preprocessing += 4 * voxels(network);
        }
        if needs.masked {
            // The mask, its values gathered, and the components of its background.
            preprocessing += 6 * voxels(crop);
        }
        if needs.channels > needs.images {
            // A cascade's label map, given and resampled.
            preprocessing += 2 * image_voxels + 4 * (voxels(crop) + voxels(network));
        }
        let weights = needs.network_bytes as u64;
        let arena = needs.arena_bytes as u64
            + needs.logits_bytes as u64
            + 4 * channels * voxels(window.patch());
        // Sums of all classes and one weight per voxel of a slice.
        let ring_slice = (logit + needs.logit_bytes as u64) * source_plane;
        let depth = window.patch()[0] as u64;
        let folds = needs.folds as u64;
        let finished = logit * source_plane;
        let ring = if SlidingWindow::rings_per_fold(window, needs.folds) {
            folds * depth * ring_slice
        } else {
            depth * ring_slice + network[0] as u64 * finished
        };
        let importance = 4 * voxels(window.patch());
        let mut slices = importance + finished * if folds > 1 { 2 } else { 1 };
        if resampled {
            slices += 2 * finished + heads * needs.resampled_bytes as u64 * target_plane;
        }
        let labels = 2 * image_voxels;
        let probabilities = if needs.probabilities {
            4 * heads * (image_voxels + target_plane)
        } else {
            0
        };
        let uncertainty = if needs.uncertainty {
            let volumes = if folds > 1 { 2 } else { 1 };
            let known = match folds {
                1 => 0,
                _ if SlidingWindow::rings_per_fold(window, needs.folds) => 1,
                _ => network[0] as u64,
            };
            let sums = known * 4 * (heads + 1) * source_plane;
            volumes * 4 * (image_voxels + target_plane) + sums + 8 * source_plane * (volumes - 1)
        } else {
            0
        };
        let mut before = preprocessed + preprocessing;
        let mut after = preprocessed + arena + ring + slices + labels + probabilities + uncertainty;
        if let Some([held, work]) = needs.slabs {
            let mask = if needs.masked { voxels(crop) } else { 0 };
            // Statistics are gathered from a copy of a channel, or from its values inside the mask.
            before = 4 * voxels(crop) + if needs.masked { 2 * mask } else { 0 };
            after += held + work + mask - preprocessed;
            (preprocessed, preprocessing) = (held, work + mask);
        }
        Self {
            image,
            preprocessing,
            preprocessed,
            weights,
            arena,
            ring,
            slices,
            labels,
            probabilities,
            uncertainty,
            process: PROCESS,
            peak: PROCESS + image + weights + before.max(after),
        }
    }

    /// Refuses a peak above `limit_bytes`.
    ///
    /// # Errors
    /// [`PredictError::OverLimit`].
    pub fn check(&self, limit_bytes: u64) -> Result<(), PredictError> {
        if self.peak > limit_bytes {
            return Err(PredictError::OverLimit {
                what: "this prediction",
                needed_bytes: self.peak,
                limit_bytes,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::bounds::BoundingBox;
    use crate::nnunet::columns;
    use crate::volume::Grid;

    fn estimate_in_columns(
        network_shape: [usize; 3],
        folds: usize,
        counts: [usize; 2],
    ) -> MemoryEstimate {
        let shape = [100, 50, 50];
        let properties = Properties {
            grid: Grid::with_spacing(shape, [1.0; 3]),
            transpose_forward: [0, 1, 2],
            bounds: BoundingBox::whole(shape),
            spacing_mm: [1.0; 3],
            network_spacing_mm: [1.0; 3],
            network_shape,
        };
        let window = WindowGrid::new(network_shape, [20, 40, 40], 3, 0.5).unwrap();
        let needs = Needs {
            images: 1,
            channels: 1,
            heads: 4,
            folds,
            logit_bytes: 2,
            resampled_bytes: 2,
            probabilities: false,
            uncertainty: false,
            masked: false,
            turned: false,
            slabs: None,
            network_bytes: 1000,
            arena_bytes: 5000,
            logits_bytes: 3000,
        };
        let columns = columns::cut(&window, None, counts);
        MemoryEstimate::new(&properties, &window, &columns, &needs)
    }

    fn estimate(network_shape: [usize; 3], folds: usize) -> MemoryEstimate {
        estimate_in_columns(network_shape, folds, [1, 1])
    }

    #[test]
    fn columns_share_the_ring() {
        let whole = estimate([100, 200, 50], 1);
        let halves = estimate_in_columns([100, 200, 50], 1, [2, 1]);
        assert_eq!(halves.ring, 20 * 100 * 50 * 2 * 5);
        assert_eq!(whole.ring, 2 * halves.ring);
        assert!(halves.slices < whole.slices);
    }

    #[test]
    fn the_ring_is_a_patch_high_whatever_the_depth() {
        let found = estimate([100, 50, 50], 1);
        assert_eq!(found.ring, 20 * 50 * 50 * 2 * 5);
        assert_eq!(found.image, 4 * 250_000);
        assert_eq!(found.labels, 2 * 250_000);
        let deeper = estimate([200, 50, 50], 1);
        assert_eq!(deeper.ring, found.ring);
        assert!(deeper.peak > found.peak);
    }

    #[test]
    fn many_folds_share_one_volume() {
        let rings = |folds| estimate([100, 50, 50], folds).ring;
        assert_eq!(rings(5), 5 * rings(1));
        assert_eq!(rings(6), 6 * rings(1));
        assert_eq!(rings(7), rings(1) + 100 * 50 * 50 * 2 * 4);
    }

    #[test]
    fn a_low_limit_is_refused_with_both_numbers() {
        let error = estimate([100, 50, 50], 1).check(1 << 20).unwrap_err();
        assert!(error.to_string().contains("the limit is 0.0 GiB"));
    }
}
