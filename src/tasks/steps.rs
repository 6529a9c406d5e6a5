//! What a task does to merged labels.

use super::definition::Step;
use crate::topology::bridging::{ConnectError, ConnectOptions, connect};
use crate::topology::components::{Connectivity, TooManyRuns, label_components};
use crate::volume::Volume;
use ndarray::Zip;
use std::collections::BTreeMap;

/// Why a step could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepError {
    /// From finding pieces.
    #[error(transparent)]
    Components(#[from] TooManyRuns),
    /// From joining vessels.
    #[error("vessel-connect: {0}")]
    Connect(ConnectError),
}

/// Carries out a step. `image`, of the shape of `labels`, helps to join vessels. Labels that do not occur
/// leave the map as it is. Cost: that of [`label_components`] or [`connect`].
///
/// # Errors
/// [`StepError`].
pub fn apply(
    step: &Step,
    labels: &mut Volume<u16>,
    image: Option<&Volume<f32>>,
) -> Result<(), StepError> {
    match step {
        Step::Discard { labels: discarded } => {
            Zip::from(labels.data_mut()).for_each(|label| {
                if discarded.contains(label) {
                    *label = 0;
                }
            });
        }
        Step::KeepLargest { labels: concerned } => {
            let components = label_components(labels.data().view(), Connectivity::Six)?;
            let mut largest: BTreeMap<u16, (u64, usize)> = BTreeMap::new();
            for (index, component) in components.list().iter().enumerate() {
                let best = largest.entry(component.value).or_insert((0, index));
                if component.voxels > best.0 {
                    *best = (component.voxels, index);
                }
            }
            let kept = components.retained(|index, component| {
                !concerned.contains(&component.value)
                    || largest
                        .get(&component.value)
                        .is_some_and(|best| best.1 == index)
            });
            labels.data_mut().assign(&kept);
        }
        Step::RemoveSmall {
            labels: concerned,
            volume_mm3,
        } => {
            let most_voxels = volume_mm3 / labels.grid().voxel_volume_mm3();
            let components = label_components(labels.data().view(), Connectivity::Six)?;
            let kept = components.retained(|_, component| {
                !concerned.contains(&component.value) || component.voxels as f64 > most_voxels
            });
            labels.data_mut().assign(&kept);
        }
        Step::VesselConnect {
            labels: vessels,
            max_gap_mm,
        } => {
            let options = ConnectOptions {
                max_gap_mm: *max_gap_mm,
                ..ConnectOptions::default()
            };
            let spacing_mm = labels.grid().spacing_mm;
            for &vessel in vessels {
                let image = image
                    .filter(|image| image.shape() == labels.shape())
                    .map(|image| image.data().view());
                let repair = connect(labels.data().view(), spacing_mm, vessel, &options, image);
                match repair {
                    Ok(repair) => repair.apply(labels.data_mut(), vessel),
                    Err(ConnectError::Absent { .. }) => {}
                    Err(error) => return Err(StepError::Connect(error)),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Grid;
    use ndarray::{Array3, array};

    fn volume(data: Array3<u16>) -> Volume<u16> {
        let shape = data.dim().into();
        Volume::new(data, Grid::with_spacing(shape, [1.0, 2.0, 1.0])).unwrap()
    }

    fn after(step: &Step, data: Array3<u16>) -> Array3<u16> {
        let mut labels = volume(data);
        apply(step, &mut labels, None).unwrap();
        labels.into_parts().0
    }

    #[test]
    fn pieces_and_labels_go() {
        let map = array![[[1, 0, 1, 1, 2], [0, 2, 0, 0, 2]]];
        let labels = vec![1];
        let step = Step::KeepLargest {
            labels: labels.clone(),
        };
        assert_eq!(
            after(&step, map.clone()),
            array![[[0, 0, 1, 1, 2], [0, 2, 0, 0, 2]]]
        );
        // Of equals the first.
        assert_eq!(after(&step, array![[[1, 0, 1]]]), array![[[1, 0, 0]]]);
        // A piece of exactly the volume goes: two voxels of 2 mm3.
        let step = |volume_mm3| Step::RemoveSmall {
            labels: labels.clone(),
            volume_mm3,
        };
        assert_eq!(
            after(&step(4.0), map.clone()),
            array![[[0, 0, 0, 0, 2], [0, 2, 0, 0, 2]]]
        );
        assert_eq!(
            after(&step(3.9), map.clone()),
            array![[[0, 0, 1, 1, 2], [0, 2, 0, 0, 2]]]
        );
        let step = Step::Discard { labels: vec![2] };
        assert_eq!(
            after(&step, map),
            array![[[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]]]
        );
    }

    #[test]
    fn a_gap_in_a_tube_is_closed_and_an_absent_vessel_is_no_error() {
        let tube = |gap: std::ops::Range<usize>| {
            Array3::from_shape_fn([60, 15, 15], |(z, y, x)| {
                let near = (y.abs_diff(7)).pow(2) + (x.abs_diff(7)).pow(2) <= 9;
                u16::from(near && !gap.contains(&z) && (4..56).contains(&z))
            })
        };
        let step = |label| Step::VesselConnect {
            labels: vec![label],
            max_gap_mm: 20.0,
        };
        let broken = tube(28..33);
        let mut labels =
            Volume::new(broken.clone(), Grid::with_spacing([60, 15, 15], [1.0; 3])).unwrap();
        apply(&step(1), &mut labels, None).unwrap();
        let pieces = label_components(labels.data().view(), Connectivity::TwentySix).unwrap();
        assert_eq!(pieces.len(), 1);
        assert_eq!(after(&step(7), broken.clone()), broken);
    }
}
