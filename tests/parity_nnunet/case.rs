//! A reference case on disk, and how results are compared with it.

use crate::npz;
use half::f16;
use medseg::io::limits::Limits;
use medseg::io::nifti;
use medseg::nn::weights::ReadSeek;
use medseg::nnunet::columns::Column;
use medseg::nnunet::export::{Exported, LabelExport};
use medseg::nnunet::model::{Folder, Model, ModelFiles, ModelOptions};
use medseg::nnunet::predict_error::PredictError;
use medseg::nnunet::preprocess::Preprocessed;
use medseg::nnunet::sliding_window::LogitsSink;
use medseg::volume::{LabelTable, Volume};
use ndarray::{Array3, ArrayView3};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub struct Case {
    pub name: String,
    folder: PathBuf,
    facts: Value,
}

impl Case {
    /// The case called `name`, or `None` (with a line saying so) where the reference folder is not named.
    pub fn find(name: &str) -> Option<Self> {
        let Some(shared) = std::env::var_os("MEDSEG_SHARED") else {
            println!("case {name}: skipped, MEDSEG_SHARED is not set");
            return None;
        };
        let folder = Path::new(&shared).join("reference/nnunet").join(name);
        let facts = std::fs::read(folder.join("case.json")).unwrap();
        Some(Self {
            name: name.to_owned(),
            facts: serde_json::from_slice(&facts).unwrap(),
            folder,
        })
    }

    pub fn model(&self) -> Model {
        self.load(Box::new(Folder(only_entry(&self.folder.join("model")))))
    }

    /// The model as if it had been trained with another image reader.
    pub fn model_with_reader(&self, reader: &'static str) -> Model {
        let folder = Folder(only_entry(&self.folder.join("model")));
        self.load(Box::new(OtherReader { folder, reader }))
    }

    fn load(&self, files: Box<dyn ModelFiles>) -> Model {
        let folds = numbers(&self.facts["folds"]);
        let options = ModelOptions {
            folds: Some(
                folds
                    .iter()
                    .map(|fold| fold.to_string().parse().unwrap())
                    .collect(),
            ),
            ..ModelOptions::default()
        };
        Model::load(files, &options).unwrap()
    }

    /// Whether nnU-Net was run with mirroring, where the model allows it.
    pub fn mirrors(&self) -> bool {
        let command = self.facts["command"].as_str().unwrap();
        !command.contains("--disable_tta")
    }

    pub fn channels(&self) -> Vec<Volume<f32>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.join("input"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
            .iter()
            .flat_map(|file| nifti::read_f32(file, &Limits::UNLIMITED).unwrap().0)
            .collect()
    }

    pub fn expected_labels(&self) -> Array3<u16> {
        let mut files = std::fs::read_dir(self.folder.join("expected")).unwrap();
        let file = files
            .find_map(|entry| {
                let path = entry.unwrap().path();
                path.to_str().unwrap().ends_with(".nii.gz").then_some(path)
            })
            .unwrap();
        let table = LabelTable::default();
        let (labels, _) = nifti::read_label_map(&file, table, &Limits::UNLIMITED).unwrap();
        labels.volume.into_parts().0
    }

    pub fn npz(&self, file: &str, name: &str) -> npz::Array {
        let array = npz::read(&self.folder.join("expected").join(file), name);
        assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
        array
    }

    pub fn stage(&self, name: &str) -> &Value {
        &self.facts["stages"][name]
    }

    /// Index ranges per axis.
    pub fn ranges(&self, key: &str) -> Vec<Range<usize>> {
        ranges(&self.facts[key])
    }

    /// Where the reference patch begins; no case has padding there.
    pub fn padded_start(&self, found: &Preprocessed, patch: [usize; 3]) -> [usize; 3] {
        let shape = found.properties.network_shape;
        assert!((0..3).all(|axis| shape[axis] >= patch[axis]), "padded");
        sizes(&self.facts["patch"]["start_in_padded_array"])
            .try_into()
            .unwrap()
    }

    /// The part of the patch whose logits are stored.
    pub fn patch_center(&self, patch: [usize; 3]) -> [Range<usize>; 3] {
        let mut center = ranges(&self.facts["patch"]["logits_center_slices"]);
        while center.len() < 3 {
            center.insert(0, 0..patch[0]);
        }
        center.try_into().unwrap()
    }
}

/// A model folder whose plans name another reader class.
struct OtherReader {
    folder: Folder,
    reader: &'static str,
}

impl ModelFiles for OtherReader {
    fn name(&self) -> String {
        self.folder.name()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.folder.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek + Send>> {
        self.folder.open(name)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let bytes = self.folder.read(name)?;
        if name != "plans.json" {
            return Ok(bytes);
        }
        let mut plans: Value = serde_json::from_slice(&bytes)?;
        plans["image_reader_writer"] = self.reader.into();
        Ok(serde_json::to_vec(&plans)?)
    }

    fn display(&self, name: &str) -> String {
        self.folder.display(name)
    }
}

fn only_entry(folder: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(folder).unwrap();
    entries.next().unwrap().unwrap().path()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

pub fn sizes(value: &Value) -> Vec<usize> {
    numbers(value)
        .into_iter()
        .map(|size| size as usize)
        .collect()
}

fn ranges(value: &Value) -> Vec<Range<usize>> {
    let list = value.as_array().unwrap();
    list.iter()
        .map(|pair| {
            let pair = sizes(pair);
            pair[0]..pair[1]
        })
        .collect()
}

pub fn sha256(values: &[f32]) -> String {
    let mut digest = Sha256::new();
    for value in values {
        digest.update(value.to_le_bytes());
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Exports logits and keeps the centre that the reference stores, as `[heads, z, y, x]`.
pub struct Tee {
    export: LabelExport<f16>,
    ranges: Vec<Range<usize>>,
    width: usize,
    plane: usize,
    /// Per kept slice: all heads.
    kept: Vec<Vec<Vec<f16>>>,
}

impl Tee {
    pub fn new(
        export: LabelExport<f16>,
        ranges: Vec<Range<usize>>,
        preprocessed: &Preprocessed,
    ) -> Self {
        let [_, height, width] = preprocessed.properties.network_shape;
        Self {
            export,
            ranges,
            width,
            plane: height * width,
            kept: Vec::new(),
        }
    }

    pub fn finish(self) -> (Exported, Vec<f16>) {
        let heads = self.kept[0].len();
        let center = (0..heads)
            .flat_map(|head| self.kept.iter().flat_map(move |slice| slice[head].clone()))
            .collect();
        (self.export.finish(), center)
    }
}

impl LogitsSink<f16> for Tee {
    fn begin(&mut self, column: &Column) -> Result<(), PredictError> {
        self.export.begin(column)
    }

    fn accept(&mut self, z: usize, logits: &mut Vec<f16>) -> Result<(), PredictError> {
        if self.ranges[0].contains(&z) {
            let heads = logits.chunks_exact(self.plane).map(|head| {
                let rows = self.ranges[1].clone();
                rows.flat_map(|y| {
                    let x = &self.ranges[2];
                    head[y * self.width + x.start..y * self.width + x.end].to_vec()
                })
                .collect()
            });
            self.kept.push(heads.collect());
        }
        self.export.accept(z, logits)
    }
}

/// Where two label maps differ.
pub struct Differences {
    differing: usize,
    voxels: usize,
    /// Label, voxels in the reference, Dice.
    dice: Vec<(u16, usize, f64)>,
}

impl Differences {
    pub fn between(found: &Array3<u16>, expected: &Array3<u16>) -> Self {
        assert_eq!(found.dim(), expected.dim());
        let pairs = || found.iter().zip(expected);
        let highest = expected.iter().chain(found).copied().max().unwrap_or(0);
        let count =
            |labels: ArrayView3<'_, u16>, label| labels.iter().filter(|&&l| l == label).count();
        let dice = (1..=highest)
            .map(|label| {
                let both = pairs().filter(|&(&a, &b)| a == label && b == label).count();
                let (own, other) = (count(found.view(), label), count(expected.view(), label));
                (label, other, 2.0 * both as f64 / (own + other) as f64)
            })
            .filter(|(_, _, dice)| !dice.is_nan())
            .collect();
        Self {
            differing: pairs().filter(|(a, b)| a != b).count(),
            voxels: found.len(),
            dice,
        }
    }

    pub fn per_million(&self) -> f64 {
        self.differing as f64 * 1e6 / self.voxels as f64
    }

    pub fn check(&self, per_million: f64) {
        assert!(self.per_million() <= per_million, "{self}");
        for &(label, count, dice) in &self.dice {
            assert!(count < 1000 || dice >= 0.9999, "label {label}: {dice}");
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lowest = self
            .dice
            .iter()
            .map(|(_, _, dice)| *dice)
            .fold(1.0, f64::min);
        write!(
            f,
            "{} of {} voxels differ ({:.2} per million), lowest Dice {lowest:.6}",
            self.differing,
            self.voxels,
            self.per_million()
        )
    }
}
