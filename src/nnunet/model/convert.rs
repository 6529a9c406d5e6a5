//! A model folder without pickles.

use super::{Error, FoldFile, Model, read};
use crate::nn::weights::safetensors;
use std::io;

/// Writes the model once more with safetensors checkpoints: `plans.json` and `dataset.json` byte for byte, and for
/// every fold the tensors inference reads (as 32-bit floats) with configuration, trainer and
/// mirroring axes in the header. [`Model::load`] gives the same model from both.
///
/// `write` gets a name relative to the new model and the file's bytes; it decides how they reach the disk. One fold
/// at a time is in memory, twice.
///
/// # Errors
/// As [`Model::fold_weights`], and [`Error::Io`] for what `write` reports.
pub fn convert_to_safetensors(
    model: &Model,
    mut write: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let mut put = |name: &str, bytes: &[u8]| {
        write(name, bytes).map_err(|error| Error::Io {
            file: name.to_owned(),
            error,
        })
    };
    put("plans.json", &read(&*model.files, "plans.json")?)?;
    let dataset = read(&*model.files, "dataset.json")?;
    // The folder may get another name, so the header says which configuration this is in any case.
    let mut info = model.checkpoint.clone();
    info.configuration = Some(model.configuration.name.clone());
    let metadata = info.to_metadata();
    for (position, FoldFile { file, .. }) in model.folds.iter().enumerate() {
        let weights = model.fold_weights(position)?;
        let stem = file
            .strip_suffix(".pth")
            .or_else(|| file.strip_suffix(".safetensors"))
            .unwrap_or(file);
        let name = format!("{stem}.safetensors");
        let mut bytes = Vec::new();
        safetensors::write(&weights, &metadata, &mut bytes).map_err(|error| Error::Io {
            file: name.clone(),
            error,
        })?;
        put(&name, &bytes)?;
    }
    // Last: where it is, the model is whole.
    put("dataset.json", &dataset)
}
