//! Decisions and placement on volumes small enough to check by hand, and streaming against whole volumes.

use super::*;
use crate::geometry::bounds::BoundingBox;
use crate::geometry::resample::resample_to_shape;
use crate::nnunet::columns;
use crate::nnunet::dataset::Region;
use crate::nnunet::window_grid::WindowGrid;
use crate::volume::Grid;
use half::f16;

fn dataset(classes: Classes) -> DatasetInfo {
    DatasetInfo {
        channel_names: vec!["CT".to_owned()],
        classes,
        foreground: vec![1, 2],
        ignore: None,
        file_ending: ".nii.gz".to_owned(),
    }
}

fn three_classes() -> DatasetInfo {
    dataset(Classes::Exclusive(
        ["background", "a", "b"].map(str::to_owned).to_vec(),
    ))
}

fn properties(
    shape: [usize; 3],
    bounds: BoundingBox,
    network_shape: [usize; 3],
    order: [usize; 3],
) -> Properties {
    let grid = Grid::with_spacing(shape, [1.0; 3]);
    Properties {
        grid,
        transpose_forward: order,
        bounds,
        spacing_mm: [1.0; 3],
        network_spacing_mm: [1.5; 3],
        network_shape,
    }
}

fn export<T: Logit>(
    properties: Properties,
    dataset: &DatasetInfo,
    logits: &Array4<T>,
    probabilities: bool,
) -> Exported {
    export_in_columns(properties, dataset, logits, probabilities, [1, 1])
}

fn export_in_columns<T: Logit>(
    properties: Properties,
    dataset: &DatasetInfo,
    logits: &Array4<T>,
    probabilities: bool,
    counts: [usize; 2],
) -> Exported {
    let mut export =
        LabelExport::new(properties, dataset, ResampleOptions::LOGITS, probabilities).unwrap();
    let patch = properties.network_shape.map(|n| n.min(4));
    let window = WindowGrid::new(properties.network_shape, patch, 3, 0.5).unwrap();
    let columns = columns::cut(&window, export.resampler.as_ref(), counts);
    assert!(counts == [1, 1] || columns.len() > 1);
    for column in &columns {
        export.begin(column).unwrap();
        let [rows, columns] = column.source.clone();
        for z in 0..logits.dim().1 {
            let slice = logits.slice(s![.., z, rows.clone(), columns.clone()]);
            let mut slice: Vec<T> = slice.iter().copied().collect();
            export.accept(z, &mut slice).unwrap();
        }
    }
    export.finish()
}

#[test]
fn ties_go_to_the_lowest_class() {
    let whole = BoundingBox::whole([1, 1, 3]);
    let place = properties([1, 1, 3], whole, [1, 1, 3], [0, 1, 2]);
    let logits =
        Array4::from_shape_vec([3, 1, 1, 3], vec![0.0_f32, 1., 5., 2., 1., 5., 2., 3., 4.])
            .unwrap();
    let found = export(place, &three_classes(), &logits, true);
    assert_eq!(found.labels.as_slice().unwrap(), [1, 2, 0]);
    let sum = found.probabilities.unwrap().sum_axis(Axis(0));
    assert!(sum.iter().all(|sum| (sum - 1.0).abs() < 1e-6));
}

#[test]
fn later_regions_overwrite_and_a_half_is_not_enough() {
    let region = |name: &str, written_as| Region {
        name: name.to_owned(),
        labels: vec![],
        written_as,
    };
    let classes = Classes::Regions(vec![region("whole", 2), region("core", 1)]);
    let whole = BoundingBox::whole([1, 1, 4]);
    let place = properties([1, 1, 4], whole, [1, 1, 4], [0, 1, 2]);
    let logits = Array4::from_shape_vec(
        [2, 1, 1, 4],
        vec![1.0_f32, 1.0, 0.0, -1.0, 1.0, -1.0, 0.0, 3.0],
    )
    .unwrap();
    let found = export(place, &dataset(classes), &logits, true);
    assert_eq!(found.labels.as_slice().unwrap(), [1, 2, 0, 1]);
    assert_eq!(found.probabilities.unwrap()[[0, 0, 0, 2]], 0.5);
}

#[test]
fn a_crop_is_pasted_and_turned_back() {
    // Image [z 2, y 3, x 4]; frame axes (x, z, y); the crop holds frame [1..3, 0..2, 2..3].
    let bounds = BoundingBox {
        start: [1, 0, 2],
        end: [3, 2, 3],
    };
    let place = properties([2, 3, 4], bounds, [2, 2, 1], [2, 0, 1]);
    let logits = Array4::from_shape_fn([3, 2, 2, 1], |(head, x, z, _)| {
        f16::from_f32(if head == 1 + (x + z) % 2 { 1.0 } else { 0.0 })
    });
    let found = export(place, &three_classes(), &logits, true);
    let mut expected = Array3::zeros([2, 3, 4]);
    expected[[0, 2, 1]] = 1;
    expected[[0, 2, 2]] = 2;
    expected[[1, 2, 1]] = 2;
    expected[[1, 2, 2]] = 1;
    assert_eq!(found.labels, expected);
    let probabilities = found.probabilities.unwrap();
    assert_eq!(probabilities[[0, 0, 0, 0]], 1.0);
    assert_eq!(probabilities[[2, 0, 0, 0]], 0.0);
    assert!(probabilities[[2, 1, 2, 1]] > 0.5);
}

#[test]
fn streaming_equals_resampling_whole_volumes() {
    for (network, image, network_mm) in [
        ([5, 6, 7], [9, 11, 13], [1.5; 3]),
        ([9, 11, 13], [4, 5, 6], [0.5; 3]),
        ([4, 6, 7], [11, 9, 8], [5.0, 1.2, 1.2]),
        ([6, 4, 7], [9, 11, 8], [1.2, 5.0, 1.2]),
        ([7, 5, 6], [7, 9, 6], [1.0, 1.5, 1.0]),
        ([1, 5, 6], [3, 5, 6], [3.0, 1.0, 1.0]),
    ] {
        let logits = Array4::from_shape_fn(
            [3, network[0], network[1], network[2]],
            |(head, z, y, x)| {
                f16::from_f32(((head * 7 + z * 31 + y * 17 + x * 5) % 11) as f32 * 0.37)
            },
        );
        let mut place = properties(image, BoundingBox::whole(image), network, [0, 1, 2]);
        place.network_spacing_mm = network_mm;
        let found = export(place, &three_classes(), &logits, true);
        let parts = export_in_columns(place, &three_classes(), &logits, true, [2, 2]);
        assert_eq!(parts, found, "columns of {network:?} to {image:?}");
        let resampled: Vec<Array3<f16>> = logits
            .outer_iter()
            .map(|head| {
                resample_to_shape(head, image, network_mm, [1.0; 3], ResampleOptions::LOGITS)
                    .unwrap()
            })
            .collect();
        let expected = Array3::from_shape_fn(image, |at| {
            (1..3).fold(0, |best: u16, head| {
                if resampled[usize::from(head)][at] > resampled[usize::from(best)][at] {
                    head
                } else {
                    best
                }
            })
        });
        assert_eq!(found.labels, expected, "{network:?} to {image:?}");
    }
}

#[test]
fn cubic_logits_are_refused() {
    let place = properties([3; 3], BoundingBox::whole([3; 3]), [2; 3], [0, 1, 2]);
    let error = LabelExport::<f16>::new(place, &three_classes(), ResampleOptions::IMAGE, false)
        .unwrap_err();
    assert!(error.to_string().contains("not supported"), "{error}");
}

/// Exports the folds' average and their disagreement; `fold_by_fold` hands all slices of a fold over before the next.
fn export_folds(
    place: Properties,
    dataset: &DatasetInfo,
    folds: &[Array4<f32>],
    counts: [usize; 2],
    fold_by_fold: bool,
) -> Exported {
    let mut export = LabelExport::new(place, dataset, ResampleOptions::LOGITS, false)
        .unwrap()
        .with_uncertainty(folds.len());
    let window = WindowGrid::new(place.network_shape, [2, 3, 3], 3, 0.5).unwrap();
    for column in &columns::cut(&window, export.resampler.as_ref(), counts) {
        export.begin(column).unwrap();
        let [rows, columns] = column.source.clone();
        let slice = |logits: &Array4<f32>, z: usize| -> Vec<f32> {
            let slice = logits.slice(s![.., z, rows.clone(), columns.clone()]);
            slice.iter().copied().collect()
        };
        let depth = place.network_shape[0];
        let order: Vec<(usize, usize)> = match fold_by_fold {
            true => (0..folds.len())
                .flat_map(|k| (0..depth).map(move |z| (k, z)))
                .collect(),
            false => (0..depth)
                .flat_map(|z| (0..folds.len()).map(move |k| (k, z)))
                .collect(),
        };
        for (fold, z) in order {
            export.fold(z, &slice(&folds[fold], z));
            if fold + 1 == folds.len() {
                let mut sum = slice(&folds[0], z);
                for other in &folds[1..] {
                    f32::add(&mut sum, &slice(other, z));
                }
                f32::divide_all(&mut sum, folds.len() as f32);
                export.accept(z, &mut sum).unwrap();
            }
        }
    }
    export.finish()
}

#[test]
fn disagreement_reaches_the_image_as_logits_do() {
    let (network, image) = ([4, 6, 7], [9, 11, 8]);
    let fold = |fold: usize| {
        Array4::from_shape_fn(
            [3, network[0], network[1], network[2]],
            |(head, z, y, x)| {
                ((head * (7 + fold) + z * 31 + y * 17 + x * (5 + fold)) % 11) as f32 * 0.4
            },
        )
    };
    let folds = [fold(0), fold(1), fold(2)];
    let bounds = BoundingBox {
        start: [1, 0, 2],
        end: [10, 11, 10],
    };
    let place = properties([11, 12, 10], bounds, network, [0, 1, 2]);
    let found = export_folds(place, &three_classes(), &folds, [1, 1], false);
    for (counts, fold_by_fold) in [([1, 1], true), ([2, 2], false), ([2, 2], true)] {
        let other = export_folds(place, &three_classes(), &folds, counts, fold_by_fold);
        assert_eq!(other, found, "{counts:?} {fold_by_fold}");
    }
    let mut sums = FoldSums::new(Activation::Softmax, 3, network.iter().product());
    folds
        .iter()
        .for_each(|fold| sums.add(fold.as_slice().unwrap()));
    let whole = Array3::from_shape_vec(network, sums.disagreement()).unwrap();
    assert!(whole.iter().any(|&mi| mi > 0.05));
    let resampler = LinearResampler::new(network, image).unwrap();
    let resampled: Array3<f32> = resampler.volume(whole.view()).unwrap();
    let uncertainty = found.uncertainty.unwrap();
    let disagreement = uncertainty.disagreement.unwrap();
    assert_eq!(disagreement.slice(s![1..10, ..11, 2..]), resampled);
    // Outside of the crop everything is certain.
    let found = |all: &Array3<f32>| all.iter().filter(|&&mi| mi > 0.0).count();
    assert_eq!(found(&disagreement), found(&resampled));
    assert!(
        uncertainty
            .entropy
            .slice(s![0, .., ..])
            .iter()
            .all(|&h| h == 0.0)
    );
    assert!(
        uncertainty
            .entropy
            .slice(s![1..10, ..11, 2..])
            .iter()
            .all(|&h| h > 0.0)
    );
    // Without resampling they go straight to their place.
    let whole_image = BoundingBox::whole(network);
    let place = properties(network, whole_image, network, [0, 1, 2]);
    let place = Properties {
        network_spacing_mm: [1.0; 3],
        ..place
    };
    let direct = export_folds(place, &three_classes(), &folds, [1, 1], false);
    assert_eq!(direct.uncertainty.unwrap().disagreement.unwrap(), whole);
}
