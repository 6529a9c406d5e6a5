//! Models read by medseg against what PyTorch reads from the same files.
//!
//! Numbers come from `testdata/model_tiny/make.py` and `testdata/model_reference.py` (torch 2.15.0, nnunetv2 2.8.1).
//! 16-bit, 32-bit and 64-bit floats convert to `f32` exactly or with one rounding, so everything is compared
//! bit for bit. The reference models are read only where `MEDSEG_SHARED` names the folder that has them.

use medseg::nn::weights::Tensor;
use medseg::nnunet::model::{Fold, Folder, Model, ModelOptions, convert_to_safetensors};
use medseg::nnunet::plans::Normalization;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};

fn testdata(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("testdata").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn tiny() -> PathBuf {
    testdata("model_tiny/nnUNetTrainer__nnUNetPlans__3d_fullres")
}

fn load(folder: &Path, checkpoint: &str) -> Model {
    let options = ModelOptions {
        checkpoint: checkpoint.to_owned(),
        ..ModelOptions::default()
    };
    Model::load(Box::new(Folder(folder.to_owned())), &options).unwrap()
}

fn summary(tensor: &Tensor) -> Value {
    let sum: f64 = tensor.data.iter().map(|&value| f64::from(value)).sum();
    let (first, last) = (tensor.data[0], tensor.data[tensor.data.len() - 1]);
    serde_json::json!([tensor.shape, sum, first, last])
}

#[test]
fn tiny_checkpoints_of_every_kind_match_torch() {
    let expected = json(&testdata("model_tiny/expected.json"));
    let files = expected["tensors"].as_object().unwrap();
    assert_eq!(files.len(), 10);
    let readable = files.iter().filter(|(name, _)| !name.contains("legacy"));
    for (checkpoint, tensors) in readable {
        let model = load(&tiny(), checkpoint);
        let weights = model.fold_weights(0).unwrap();
        assert_eq!(weights.len(), model.layout().needed.len(), "{checkpoint}");
        for (name, tensor) in &weights {
            let (found, expected) = (summary(tensor), &tensors[name]);
            assert_eq!(found[0], expected[0], "{checkpoint} {name}");
            for at in 1..4 {
                let found = found[at].as_f64().unwrap();
                let expected = expected[at].as_f64().unwrap();
                // numpy takes the sum in another order.
                let tolerance = if at == 1 { 1e-9 } else { 0.0 };
                let difference = (found - expected).abs();
                assert!(difference <= tolerance, "{checkpoint} {name}");
            }
        }
    }
}

#[test]
fn the_same_weights_whatever_the_memory_order() {
    let weights = |checkpoint: &str| load(&tiny(), checkpoint).fold_weights(0).unwrap();
    let plain = weights("checkpoint_final.pth");
    for same in [
        "transposed",
        "one_storage",
        "parameters",
        "double",
        "protocol4",
        "protocol5",
    ] {
        assert!(
            weights(&format!("checkpoint_{same}.pth")) == plain,
            "{same}"
        );
    }
}

#[test]
fn facts_of_the_tiny_model() {
    let model = load(&tiny(), "checkpoint_final.pth");
    assert_eq!(model.folds().collect::<Vec<_>>(), [Fold::Number(0)]);
    assert_eq!(model.checkpoint.mirroring_axes, Some(vec![0, 1, 2]));
    assert_eq!(model.configuration.patch_size, [8, 16, 16]);
    let spacing = [3.0, 1.5, 1.5].map(Some);
    assert_eq!(model.configuration.spacing_mm, spacing);
    let [ct, pet] = model.configuration.normalization[..] else {
        panic!("two channels");
    };
    assert!(matches!(ct, Normalization::Ct { std: 120.5, .. }));
    assert_eq!(pet, Normalization::ZScore { inside_mask: true });
    assert_eq!(model.network.in_channels, 2);
    assert_eq!(model.network.out_channels, 3);
    let description = serde_json::to_value(model.describe()).unwrap();
    assert_eq!(description["trainer"], "nnUNetTrainer");
    assert_eq!(description["classes"][2]["name"], "tumor");
    let features = &description["configuration"]["network"]["features"];
    assert_eq!(*features, serde_json::json!([2, 3, 4]));
}

#[test]
fn conversion_keeps_every_bit() {
    let model = load(&tiny(), "checkpoint_final.pth");
    let convert = || {
        let mut written = Vec::new();
        convert_to_safetensors(&model, |name, bytes| {
            written.push((name.to_owned(), bytes.to_vec()));
            Ok(())
        })
        .unwrap();
        written
    };
    let written = convert();
    assert!(written == convert(), "the same bytes every time");
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    let checkpoint = "fold_0/checkpoint_final.safetensors";
    // A folder with a dataset.json is a whole model.
    assert_eq!(names, ["plans.json", checkpoint, "dataset.json"]);

    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("renamed");
    std::fs::create_dir_all(folder.join("fold_0")).unwrap();
    for (name, bytes) in &written {
        let mut options = std::fs::File::options();
        let file = options.write(true).create_new(true).open(folder.join(name));
        file.unwrap().write_all(bytes).unwrap();
    }
    let converted = load(&folder, "checkpoint_final.pth");
    assert!(converted.fold_weights(0).unwrap() == model.fold_weights(0).unwrap());
    assert_eq!(converted.checkpoint, model.checkpoint);
    assert_eq!(converted.network, model.network);
}

#[test]
fn reference_models_match_torch() {
    let Ok(shared) = std::env::var("MEDSEG_SHARED") else {
        eprintln!("MEDSEG_SHARED is not set: reference models not compared");
        return;
    };
    let root = Path::new(&shared).join("reference/nnunet");
    let expected = json(&testdata("model_reference.json"));
    for (path, facts) in expected["checkpoints"].as_object().unwrap() {
        let (folder, file) = path.split_once("/fold_").unwrap();
        let (fold, _) = file.split_once('/').unwrap();
        let options = ModelOptions {
            folds: Some(vec![fold.parse().unwrap()]),
            ..ModelOptions::default()
        };
        let model = Model::load(Box::new(Folder(root.join(folder))), &options).unwrap();
        assert_eq!(model.configuration.name, facts["configuration"]);
        assert_eq!(
            model.checkpoint.trainer.as_deref(),
            facts["trainer"].as_str()
        );
        let axes = serde_json::to_value(&model.checkpoint.mirroring_axes).unwrap();
        assert_eq!(axes, facts["mirroring_axes"]);
        let weights = model.fold_weights(0).unwrap();
        let all = facts["tensors"].as_object().unwrap().keys();
        for unread in all.filter(|name| !weights.contains_key(*name)) {
            assert!(
                unread.starts_with("decoder.seg_layers."),
                "{path}: {unread}"
            );
        }
        for (name, tensor) in &weights {
            let values = tensor.data.iter().flat_map(|value| value.to_le_bytes());
            let digest = Sha256::digest(values.collect::<Vec<u8>>());
            let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, facts["tensors"][name], "{path}: {name}");
        }
    }
}
