//! The built-in tasks.
//!
//! They are task files like any other: the kidney tasks (`kidney.toml`), and every task of
//! `TotalSegmentator` 2.18 whose models are plain nnU-Nets (`totalsegmentator.toml`, written by
//! `testdata/totalsegmentator/make_tasks.py`).

use super::definition::Task;
use super::file::{self, FileError, Sources};
use crate::volume::LabelTable;
use std::collections::BTreeMap;

/// Tasks by name.
const FILES: [&str; 2] = [
    include_str!("builtin/kidney.toml"),
    include_str!("builtin/totalsegmentator.toml"),
];

/// Other names of tasks.
const ALIASES: [(&str, &str); 3] = [
    ("total", "totalseg"),
    ("total:fast", "totalseg:fast"),
    ("total:fastest", "totalseg:fastest"),
];

/// The built-in tasks with the label schemes that they name.
pub struct Catalogue<'s> {
    raw: BTreeMap<String, file::Raw>,
    scheme: &'s dyn Fn(&str) -> Option<LabelTable>,
}

impl<'s> Catalogue<'s> {
    /// Reads the built-in files; `scheme` gives label tables by name. Takes about a millisecond.
    ///
    /// # Errors
    /// [`FileError`], which a test rules out.
    pub fn new(scheme: &'s dyn Fn(&str) -> Option<LabelTable>) -> Result<Self, FileError> {
        let mut raw = BTreeMap::new();
        for text in FILES {
            raw.extend(file::parse_many(text, "built-in tasks")?);
        }
        Ok(Self { raw, scheme })
    }

    /// Names of all tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.raw.keys().map(String::as_str)
    }

    /// The task called `name`, or `None`.
    ///
    /// # Errors
    /// [`FileError`], which a test rules out.
    pub fn find(&self, name: &str) -> Result<Option<Task>, FileError> {
        let alias = ALIASES.iter().find(|(other, _)| *other == name);
        let name = alias.map_or(name, |(_, own)| own);
        let Some(raw) = self.raw.get(name) else {
            return Ok(None);
        };
        let sources = Sources {
            scheme: self.scheme,
            task: &|name| self.find(name),
        };
        file::check(raw.clone(), name, "built-in tasks", &sources).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::definition::Work;

    fn scheme(name: &str) -> Option<LabelTable> {
        LabelTable::built_in(name)
    }

    #[test]
    fn every_task_is_sound() {
        let catalogue = Catalogue::new(&scheme).unwrap();
        for name in catalogue.names() {
            let task = catalogue.find(name).unwrap().unwrap();
            assert!(!task.models().is_empty(), "{name}");
            assert!(!task.description.is_empty(), "{name}");
        }
        assert_eq!(catalogue.names().count(), 60);
        assert!(catalogue.find("totalsegg").unwrap().is_none());
    }

    #[test]
    fn totalseg_has_five_parts_and_117_classes() {
        let catalogue = Catalogue::new(&scheme).unwrap();
        let task = catalogue.find("total").unwrap().unwrap();
        assert_eq!(task.name, "totalseg");
        assert_eq!(task.labels.number_of("costal_cartilages"), Some(117));
        let models: Vec<_> = task.models().iter().map(|m| m.dataset.clone()).collect();
        assert_eq!(models, ["291", "292", "293", "294", "295"]);
        // Of a liver only the organ part is needed.
        let liver = task.labels.number_of("liver").unwrap();
        assert_eq!(task.restricted(&[liver]).models().len(), 1);
    }

    #[test]
    fn kidney_runs_all_and_leaves_out_what_it_does_not_need() {
        let catalogue = Catalogue::new(&scheme).unwrap();
        let task = catalogue.find("kidney").unwrap().unwrap();
        let models: Vec<_> = task.models().iter().map(|m| m.dataset.clone()).collect();
        // 293 has heart and vessels only.
        assert_eq!(
            models,
            ["vessel", "ureter", "tumor", "291", "292", "294", "295"]
        );
        let Work::Tasks(tasks) = &task.work else {
            panic!("{task:?}")
        };
        assert_eq!(tasks[0].channels, [0, 1]);
        let bone = task.labels.number_of("bone").unwrap();
        let bones = tasks[3].labels.values().filter(|label| **label == bone);
        // sacrum, 25 vertebrae, 10 limb and girdle bones, 24 ribs, sternum, skull
        assert_eq!(bones.count(), 62);
        // Between two tasks ranks decide every voxel: only totalseg has labels without one.
        for included in &tasks[..3] {
            let mut labels = included.labels.values();
            assert!(labels.all(|label| task.priority.contains(label)));
        }
    }
}
