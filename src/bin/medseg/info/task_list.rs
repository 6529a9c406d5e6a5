//! `medseg info --tasks`: what `infer --task` can do.

use super::as_lines;
use crate::context::{print_json, print_text};
use crate::model_store::Store;
use crate::outcome::Outcome;
use crate::task::{self, Named};
use medseg::io::display_name;
use medseg::tasks::definition::{Task, Work};
use serde_json::{Value, json};
use std::path::Path;

/// Lists all built-in tasks, or describes the one that `name` names.
pub fn run(
    name: Option<&Path>,
    model_dir: Option<&Path>,
    as_json: bool,
) -> anyhow::Result<Outcome> {
    if let Some(name) = name {
        let Named { task, base } = task::find(&name.to_string_lossy())?;
        let description = describe(&task, &Store::new(model_dir, &base), true);
        if as_json {
            print_json(&description)?;
        } else {
            print_text(&as_lines(&description))?;
        }
        return Ok(Outcome::Done);
    }
    let store = Store::new(model_dir, Path::new(""));
    let tasks = task::all()?;
    if as_json {
        let all: Vec<Value> = tasks
            .iter()
            .map(|task| describe(task, &store, false))
            .collect();
        print_json(&all)?;
        return Ok(Outcome::Done);
    }
    let width = tasks.iter().map(|task| task.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for task in &tasks {
        let models = task.models();
        let there = models
            .iter()
            .filter(|model| store.find(model).is_ok())
            .count();
        text.push_str(&format!(
            "{:width$}  {there}/{} models  {}\n",
            task.name,
            models.len(),
            task.description
        ));
    }
    print_text(&text)?;
    Ok(Outcome::Done)
}

fn describe(task: &Task, store: &Store, with_labels: bool) -> Value {
    let models: Vec<Value> = task
        .models()
        .into_iter()
        .map(|model| {
            let folder = store.find(model).ok();
            json!({
                "model": model.display(),
                "folds": model.folds,
                "folder": folder.map(|folder| display_name(&folder)),
            })
        })
        .collect();
    let foreground = || task.labels.iter().filter(|(number, _)| *number != 0);
    let mut description = json!({
        "kind": "task",
        "name": task.name,
        "description": task.description,
        "channels": task.channels,
        "label_count": foreground().count(),
        "models": models,
    });
    if let (Work::Models { input, .. }, Value::Object(fields)) = (&task.work, &mut description) {
        let spacing_mm = input.spacing_mm.map(|[z, y, x]| [x, y, z]);
        fields.insert("spacing_mm_xyz".to_owned(), json!(spacing_mm));
        let crop = input.crop.as_ref().map(|crop| crop.task.name.clone());
        fields.insert("region_from".to_owned(), json!(crop));
    }
    if let (true, Value::Object(fields)) = (with_labels, &mut description) {
        let labels =
            foreground().map(|(number, label)| json!({"label": number, "name": label.name}));
        fields.insert("labels".to_owned(), labels.collect());
    }
    description
}
