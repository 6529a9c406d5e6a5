//! Where the models of tasks lie.
//!
//! A root holds dataset folders (`Dataset291_Name/Trainer__Plans__Configuration`), as nnU-Net's results folder and
//! TotalSegmentator's do, or model folders. Roots: `--model-dir` or `MEDSEG_MODELS`, then
//! `~/.totalsegmentator/nnunet/results`.

use anyhow::Context as _;
use medseg::io::display_name;
use medseg::tasks::definition::ModelRef;
use std::path::{Path, PathBuf};

/// Where a user's models lie.
#[derive(clap::Args)]
pub struct ModelFolder {
    /// Folder that holds the models of tasks; ~/.totalsegmentator is searched after it
    #[arg(
        long,
        value_name = "DIR",
        env = "MEDSEG_MODELS",
        hide_env_values = true
    )]
    pub model_dir: Option<PathBuf>,
}

/// The folders that are searched, in order.
pub struct Store {
    roots: Vec<PathBuf>,
    /// What relative paths in a task file start from.
    base: PathBuf,
}

impl Store {
    /// `named` is `--model-dir`; `base` the folder of the task file.
    pub fn new(named: Option<&Path>, base: &Path) -> Self {
        let mut roots: Vec<PathBuf> = named.map(Path::to_owned).into_iter().collect();
        if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            roots.push(PathBuf::from(home).join(".totalsegmentator/nnunet/results"));
        }
        // A TotalSegmentator or nnU-Net home holds its results further down.
        let inner: Vec<PathBuf> = roots.iter().map(|r| r.join("nnunet/results")).collect();
        roots.extend(inner);
        Self {
            roots,
            base: base.to_owned(),
        }
    }

    /// The folder of a model.
    ///
    /// # Errors
    /// Where nothing fits, with the folders searched; where several do.
    pub fn find(&self, model: &ModelRef) -> anyhow::Result<PathBuf> {
        let path = Path::new(&model.dataset);
        if path.is_absolute() || path.components().count() > 1 {
            return configuration(&self.base.join(path), model);
        }
        for root in &self.roots {
            if let Some(dataset) = dataset(root, &model.dataset)? {
                return configuration(&dataset, model);
            }
        }
        let roots: Vec<String> = self.roots.iter().take(2).map(|r| display_name(r)).collect();
        let shown = match model.dataset.parse::<u32>() {
            Ok(number) => format!("Dataset{number:03}_*"),
            Err(_) => format!("{0} or Dataset*_{0}", model.dataset),
        };
        anyhow::bail!(
            "model {}: there is no folder {shown} in {}; name the folder that holds the models with --model-dir or \
             MEDSEG_MODELS",
            model.display(),
            if roots.is_empty() {
                "any known place".to_owned()
            } else {
                roots.join(" or ")
            }
        )
    }
}

/// The folder in `root` that is called as the dataset, or nothing.
fn dataset(root: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let fits = |folder: &str| match name.parse::<u32>() {
        Ok(number) => folder.starts_with(&format!("Dataset{number:03}_")),
        Err(_) => {
            let after_number = folder
                .strip_prefix("Dataset")
                .and_then(|rest| rest.split_once('_'))
                .map(|(_, rest)| rest);
            folder.eq_ignore_ascii_case(name)
                || after_number.is_some_and(|rest| rest.eq_ignore_ascii_case(name))
        }
    };
    let found = folders(root, &fits)?;
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        [first, second, ..] => anyhow::bail!(
            "{} and {} are both called {name}: name one of them in the task file",
            display_name(first),
            display_name(second)
        ),
    }
}

/// The model folder within a dataset folder, or the folder itself where it is one.
fn configuration(dataset: &Path, model: &ModelRef) -> anyhow::Result<PathBuf> {
    let shown = display_name(dataset);
    if dataset.join("plans.json").exists() {
        return Ok(dataset.to_owned());
    }
    let asked = [&model.trainer, &model.plans, &model.configuration];
    let fits = |folder: &str| {
        let parts: Vec<&str> = folder.split("__").collect();
        parts.len() == 3
            && asked
                .iter()
                .zip(&parts)
                .all(|(asked, part)| asked.as_deref().is_none_or(|asked| asked == *part))
    };
    let has_plans = |folder: &PathBuf| folder.join("plans.json").exists();
    let all: Vec<PathBuf> = folders(dataset, &|_| true)?
        .into_iter()
        .filter(has_plans)
        .collect();
    let fitting = |folder: &&PathBuf| {
        folder
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(fits)
    };
    let found: Vec<&PathBuf> = all.iter().filter(fitting).collect();
    let names = |folders: &[&PathBuf]| {
        let names = folders.iter().filter_map(|f| f.file_name());
        names
            .map(|n| n.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (found.as_slice(), all.as_slice()) {
        ([only], _) => Ok((*only).clone()),
        ([], []) => anyhow::bail!(
            "{shown}: holds no model: expected {} with plans.json, dataset.json and fold_*",
            model.display()
        ),
        ([], others) => anyhow::bail!(
            "{shown}: has no {}, only {}",
            model.display(),
            names(&others.iter().collect::<Vec<_>>())
        ),
        (several, _) => anyhow::bail!(
            "{shown}: holds several models, {}: the task must say which by trainer, plans and configuration",
            names(several)
        ),
    }
}

/// Folders in `parent` whose name fits, sorted; none where there is no such folder.
fn folders(parent: &Path, fits: &dyn Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", display_name(parent)))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", display_name(parent)))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if fits(&name) && path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
