//! Small cases of every nnU-Net configuration against nnU-Net 2.8.1 (torch 2.15, CPU).
//!
//! `testdata/parity/configurations/make.py` makes images, models and results. Logits are compared as differences
//! of the classes' log-probabilities at the image's resolution, where both are above 0.001.

#[path = "parity_nnunet/npz.rs"]
mod npz;

use medseg::io::limits::Limits;
use medseg::io::nifti;
use medseg::nnunet::model::{Folder, Model, ModelOptions};
use medseg::nnunet::postprocess::Postprocessing;
use medseg::nnunet::predict::{PredictOptions, Prediction, Predictor};
use medseg::progress::Silent;
use medseg::volume::{LabelMap, LabelTable, Volume};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Logits are sums in `f16`: one unit in the last place of values up to 16 is 0.0078.
const LOGIT_TOLERANCE: f64 = 0.02;

struct Case {
    name: &'static str,
    folder: PathBuf,
    facts: Value,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("testdata/parity/configurations").join(name);
        let facts = std::fs::read(folder.join("case.json")).unwrap();
        Self {
            name,
            facts: serde_json::from_slice(&facts).unwrap(),
            folder,
        }
    }

    /// The model of the configuration `name`; an empty name where there is only one.
    fn predictor(&self, name: &str) -> Predictor {
        let entries = std::fs::read_dir(self.folder.join("model")).unwrap();
        let mut folders = entries.map(|entry| entry.unwrap().path());
        let folder = folders
            .find(|folder| folder.to_str().unwrap().ends_with(name))
            .unwrap();
        let folds = self.facts["folds"].as_array().unwrap();
        let options = ModelOptions {
            folds: Some(
                folds
                    .iter()
                    .map(|fold| fold.to_string().parse().unwrap())
                    .collect(),
            ),
            checkpoint: self.facts["checkpoint"].as_str().unwrap().to_owned(),
            configuration: None,
        };
        let model = Model::load(Box::new(Folder(folder)), &options).unwrap();
        let options = PredictOptions {
            mirroring: self.facts["mirroring"].as_bool().unwrap(),
            probabilities: true,
            ..PredictOptions::default()
        };
        Predictor::new(&model, options).unwrap()
    }

    fn channels(&self) -> Vec<Volume<f32>> {
        let entries = std::fs::read_dir(self.folder.join("input")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        // The spacing of a stack is read with it.
        files.retain(|file| file.extension().is_none_or(|ending| ending != "json"));
        files.sort();
        let read = |file: &PathBuf| nifti::read_f32(file, &Limits::UNLIMITED).unwrap().0;
        files.iter().flat_map(read).collect()
    }

    fn labels(&self, file: &str) -> LabelMap {
        let path = self.folder.join(file);
        let table = LabelTable::default();
        nifti::read_label_map(&path, table, &Limits::UNLIMITED)
            .unwrap()
            .0
    }

    /// Prints a row of the table in docs/parity.md and allows no voxel to differ: 10 in a million of these
    /// small images is less than one.
    fn check(&self, found: &Prediction, logits: Option<f64>) {
        let mut names = ["nii.gz", "png", "tif"]
            .map(|ending| format!("expected.{ending}"))
            .into_iter();
        let name = names.find(|name| self.folder.join(name).exists()).unwrap();
        let expected = self.labels(&name);
        let pairs = found.label_map.volume.data().iter();
        let pairs = pairs.zip(expected.volume.data());
        let differing = pairs.clone().filter(|(a, b)| a != b).count();
        let shown = logits.map_or("-".to_owned(), |worst| format!("{worst:.1e}"));
        println!(
            "| {} | {differing} of {} | {shown} |",
            self.name,
            pairs.len()
        );
        assert_eq!(found.label_map.grid().shape, expected.grid().shape);
        assert_eq!(differing, 0, "{}", self.name);
        assert!(logits.is_none_or(|worst| worst <= LOGIT_TOLERANCE));
    }

    /// The largest difference of logits; `sigmoid` for regions.
    fn worst_logit(&self, found: &Prediction, sigmoid: bool) -> f64 {
        let expected = npz::read(&self.folder.join("probabilities.npz"), "probabilities");
        let own = found.probabilities.as_ref().unwrap();
        assert_eq!(own.shape(), expected.shape, "{}", self.name);
        let own: Vec<f64> = own.iter().map(|&p| f64::from(p)).collect();
        let voxels = own.len() / expected.shape[0];
        let usable = |p: f64| p > 1e-3 && p < 1.0 - 1e-3;
        let mut worst = 0.0_f64;
        for (index, (&a, &b)) in own.iter().zip(&expected.values).enumerate() {
            assert!((a - b).abs() < 0.01, "{}: {a} {b}", self.name);
            let base = index % voxels;
            let (base_a, base_b) = if sigmoid {
                (1.0 - a, 1.0 - b)
            } else {
                (own[base], expected.values[base])
            };
            if [a, b, base_a, base_b].into_iter().all(usable) {
                worst = worst.max(((a / base_a).ln() - (b / base_b).ln()).abs());
            }
        }
        worst
    }
}

fn check(name: &'static str) {
    let case = Case::new(name);
    let found = case.predictor("").predict(&case.channels(), None, &Silent);
    let found = found.unwrap();
    let worst = case.worst_logit(&found, name == "regions");
    case.check(&found, Some(worst));
}

#[test]
fn residual_encoder() {
    check("residual");
}

#[test]
fn bottleneck_blocks_mirroring() {
    check("bottleneck");
}

#[test]
fn slices_mirroring() {
    check("flat");
}

#[test]
fn separate_axis_mirroring() {
    check("anisotropic");
}

#[test]
fn oblique_transposed_three_folds_mirroring() {
    check("oblique");
}

#[test]
fn ignore_label_best_checkpoint_inherited_configuration() {
    check("ignore_best_inherits");
}

#[test]
fn old_plans() {
    check("old_plans");
}

#[test]
fn regions_two_channels_inside_the_mask() {
    check("regions");
}

#[test]
fn every_other_normalization() {
    check("normalizations");
}

#[test]
fn nibabel_reader() {
    check("nibabel");
}

#[test]
fn pictures_in_colour_mirroring() {
    check("picture_rgb");
}

#[test]
fn grey_pictures_of_sixteen_bits_resampled() {
    check("picture_grey");
}

#[test]
fn stacks_of_pictures_with_their_spacing() {
    check("picture_stack");
}

/// nnU-Net leaves probabilities in the orientation of its network; labels are turned back.
#[test]
fn reorienting_reader() {
    let case = Case::new("reorienting");
    let found = case.predictor("").predict(&case.channels(), None, &Silent);
    case.check(&found.unwrap(), None);
}

#[test]
fn three_hundred_classes() {
    let case = Case::new("uint16");
    let found = case.predictor("").predict(&case.channels(), None, &Silent);
    let found = found.unwrap();
    let highest = found.label_map.volume.data().iter().max();
    assert!(highest.is_some_and(|&label| label > 255), "{highest:?}");
    case.check(&found, None);
}

#[test]
fn both_stages_of_a_cascade() {
    check_cascade("cascade");
}

#[test]
fn torch_resampling_of_image_labels_and_logits() {
    check_cascade("torch_resampling");
}

#[test]
fn torch_resampling_separate_axis_mirroring() {
    check("torch_anisotropic");
}

fn check_cascade(name: &'static str) {
    let case = Case::new(name);
    let channels = case.channels();
    let first = case.predictor("3d_lowres");
    let first = first.predict(&channels, None, &Silent).unwrap().label_map;
    assert_eq!(
        first.volume.data(),
        case.labels("previous.nii.gz").volume.data()
    );
    let found = case
        .predictor("3d_cascade_fullres")
        .predict(&channels, Some(&first), &Silent);
    let found = found.unwrap();
    let worst = case.worst_logit(&found, false);
    case.check(&found, Some(worst));
}

#[test]
fn postprocessing() {
    let case = Case::new("residual");
    let file = std::fs::read(case.folder.join("postprocessing.json")).unwrap();
    let steps = Postprocessing::parse(&file, "postprocessing.json").unwrap();
    assert_eq!(steps.len(), 3);
    let mut labels = case.labels("expected.nii.gz").volume.into_parts().0;
    steps.apply(labels.view_mut()).unwrap();
    assert_eq!(labels, case.labels("postprocessed.nii.gz").volume.data());
}
