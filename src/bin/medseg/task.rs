//! Tasks by name or file, for `infer` and `info`.

use crate::model;
use crate::outcome::Usage;
use medseg::io::{display_name, labels};
use medseg::tasks::catalogue::Catalogue;
use medseg::tasks::definition::Task;
use medseg::tasks::file::{self, FileError, Sources};
use std::path::{Path, PathBuf};

/// How deep task files may include task files: deep enough for people, and an end to circles.
const DEEPEST: usize = 8;

/// A task and the folder that paths in it start from.
pub struct Named {
    /// The task.
    pub task: Task,
    /// Folder of the task file.
    pub base: PathBuf,
}

/// The task called `name`: a TOML file, or a built-in one.
///
/// # Errors
/// [`Usage`] for a name that is neither, with similar names; what is wrong with the file.
pub fn find(name: &str) -> anyhow::Result<Named> {
    let path = Path::new(name);
    if path.extension().is_some_and(|ending| ending == "toml") {
        let task = read(path, 0)?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        return Ok(Named { task, base });
    }
    let catalogue = Catalogue::new(&labels::scheme)?;
    match catalogue.find(name)? {
        Some(task) => Ok(Named {
            task,
            base: PathBuf::new(),
        }),
        None => {
            let start: String = name.chars().take(4).collect();
            let similar: Vec<&str> = catalogue
                .names()
                .filter(|n| n.starts_with(&start))
                .collect();
            let hint = if similar.is_empty() {
                String::new()
            } else {
                format!(" (similar: {})", similar.join(", "))
            };
            Err(Usage(format!(
                "--task {name}: there is no such task{hint}; `medseg info --tasks` lists them, a file's name ends in .toml"
            ))
            .into())
        }
    }
}

/// A built-in task.
///
/// # Errors
/// When there is none of this name.
pub fn built_in(name: &str) -> anyhow::Result<Task> {
    let catalogue = Catalogue::new(&labels::scheme)?;
    let found = catalogue.find(name)?;
    found.ok_or_else(|| anyhow::anyhow!("there is no task {name}"))
}

/// Every built-in task, by name.
///
/// # Errors
/// None that a test does not rule out.
pub fn all() -> anyhow::Result<Vec<Task>> {
    let catalogue = Catalogue::new(&labels::scheme)?;
    let names = catalogue.names().map(|name| catalogue.find(name));
    Ok(names
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?)
}

fn read(path: &Path, depth: usize) -> anyhow::Result<Task> {
    let shown = display_name(path);
    let bytes = model::read_settings(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("{shown}: is not UTF-8 text, expected a task file"))?;
    let catalogue = Catalogue::new(&labels::scheme)?;
    let other = |name: &str| -> Result<Option<Task>, FileError> {
        let ending = Path::new(name).extension();
        if ending.is_none_or(|ending| ending != "toml") {
            return catalogue.find(name);
        }
        let wrong = |problem: String| FileError {
            file: shown.clone(),
            problem,
        };
        if depth >= DEEPEST {
            return Err(wrong(format!(
                "includes {name}, which is more than {DEEPEST} files deep"
            )));
        }
        let beside = path.with_file_name(name);
        let found = read(&beside, depth + 1);
        found
            .map(Some)
            .map_err(|error| wrong(crate::outcome::one_line(&error)))
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(file::parse(
        &text,
        &name,
        &shown,
        &Sources {
            scheme: &labels::scheme,
            task: &other,
        },
    )?)
}
