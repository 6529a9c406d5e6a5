//! Where a command gets its model from, and what it says about one.

use crate::context::Context;
use crate::outcome::Outcome;
use medseg::io::{Overwrite, atomic, display_name};
use medseg::nn::weights::ReadSeek;
use medseg::nnunet::describe;
use medseg::nnunet::model::{Folder, Model, ModelFiles, ModelOptions, convert_to_safetensors};
use medseg::nnunet::postprocess::Postprocessing;
use serde_json::Value;
use std::fs::File;
use std::io;
use std::path::Path;

/// Loads a model folder.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn load(path: &Path, options: &ModelOptions) -> anyhow::Result<Model> {
    anyhow::ensure!(
        path.join("plans.json").exists(),
        "{}: is no model: expected an nnU-Net results folder with plans.json, dataset.json and fold_*",
        display_name(path)
    );
    Ok(Model::load(Box::new(Folder(path.to_owned())), options)?)
}

/// What `medseg info` says about a model folder.
pub fn describe_folder(path: &Path) -> anyhow::Result<Value> {
    let model = load(path, &ModelOptions::default())?;
    let mut description = serde_json::json!({"kind": "model", "file": display_name(path)});
    if let (Value::Object(fields), Value::Object(more)) =
        (&mut description, serde_json::to_value(model.describe())?)
    {
        fields.extend(more);
    }
    Ok(description)
}

/// What `medseg info` says about a checkpoint; all of its tensors are read.
pub fn describe_weights(path: &Path) -> anyhow::Result<Value> {
    let shown = display_name(path);
    let file = File::open(path).map_err(|error| anyhow::anyhow!("cannot read {shown}: {error}"))?;
    anyhow::ensure!(
        !path.is_dir(),
        "{shown}: is a folder, expected a checkpoint"
    );
    let mut description = serde_json::json!({"kind": "weights", "file": shown});
    let details = describe::describe_checkpoint(Box::new(file), &shown)?;
    if let (Value::Object(fields), Value::Object(more)) =
        (&mut description, serde_json::to_value(details)?)
    {
        fields.extend(more);
    }
    Ok(description)
}

/// The bytes of a settings file, at most 64 MiB.
pub fn read_settings(path: &Path) -> anyhow::Result<Vec<u8>> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Folder(folder)
        .read(&name)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", display_name(path)))
}

/// Reads nnU-Net's postprocessing file, where one is named.
///
/// # Errors
/// One line that names the file and what is wrong with it; the pickled twin is refused.
pub fn postprocessing(path: Option<&Path>) -> anyhow::Result<Option<Postprocessing>> {
    let Some(path) = path else { return Ok(None) };
    let shown = display_name(path);
    Ok(Some(Postprocessing::parse(&read_settings(path)?, &shown)?))
}

/// Writes a model folder once more with safetensors checkpoints.
pub fn convert_model(
    input: &Path,
    output: &Path,
    overwrite: Overwrite,
    cx: &Context,
) -> anyhow::Result<Outcome> {
    let model = load(input, &ModelOptions::default())?;
    convert_to_safetensors(&model, |name, bytes| {
        let path = output.join(name);
        let folder = path.parent().unwrap_or(output);
        atomic::create_folder(folder).map_err(io::Error::other)?;
        atomic::write(&path, overwrite, bytes).map_err(io::Error::other)?;
        cx.detail(&format!("wrote {}", display_name(&path)));
        Ok(())
    })?;
    cx.say(&format!("wrote {}", display_name(output)));
    Ok(Outcome::Done)
}

/// The files of the model that is part of the program.
struct Embedded;

/// Name of the embedded model's folder.
const EMBEDDED_NAME: &str = "nnUNetTrainer__nnUNetPlans__3d_fullres";
/// Its files; testdata/embedded_model/README.md says how they were made.
const EMBEDDED_FILES: [(&str, &[u8]); 3] = [
    (
        "dataset.json",
        include_bytes!(
            "../../../testdata/embedded_model/nnUNetTrainer__nnUNetPlans__3d_fullres/dataset.json"
        ),
    ),
    (
        "fold_0/checkpoint_final.pth",
        include_bytes!(
            "../../../testdata/embedded_model/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
        ),
    ),
    (
        "plans.json",
        include_bytes!(
            "../../../testdata/embedded_model/nnUNetTrainer__nnUNetPlans__3d_fullres/plans.json"
        ),
    ),
];

impl ModelFiles for Embedded {
    fn name(&self) -> String {
        EMBEDDED_NAME.to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(EMBEDDED_FILES
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek + Send>> {
        EMBEDDED_FILES
            .iter()
            .find(|(file, _)| *file == name)
            .map(|(_, bytes)| Box::new(io::Cursor::new(*bytes)) as Box<dyn ReadSeek + Send>)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn display(&self, name: &str) -> String {
        format!("embedded model {name}").trim_end().to_owned()
    }
}

/// The model that is part of the program: trained on synthetic phantoms, for trying out only.
///
/// # Errors
/// When the options name a fold or configuration that it does not have.
pub fn embedded(options: &ModelOptions) -> anyhow::Result<Model> {
    Ok(Model::load(Box::new(Embedded), options)?)
}
