//! The results document: everything that is known of an evaluation, in one JSON file.
//!
//! `docs/evaluate.md` describes the format field by field. [`VERSION`] grows when a field changes its
//! meaning or goes away; readers accept files of their own version. The same scores give the same
//! bytes: cases stand in byte order of their names, one per line, and there are no times, hosts or
//! paths in it.

use super::baseline::Regressions;
use super::case::CaseScores;
use super::gate::Verdict;
use super::intensity::Window;
use super::lesions::LesionRules;
use super::summary::{Policy, Summary, complete, summarize};
use super::targets::Target;
use crate::metrics::surface::Definition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Value of the field `schema`.
pub const SCHEMA: &str = "medseg-results";

/// Version of the format.
pub const VERSION: u32 = 1;

/// A whole evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of medseg that scored the cases.
    pub medseg: String,
    /// What was asked for.
    pub settings: Settings,
    /// Cases by name.
    pub cases: Vec<CaseScores>,
    /// What could not be scored, by name.
    pub failures: Vec<Failure>,
    /// All cases together.
    pub summary: Summary,
    /// Checks (`--fail-under`) and what came of them.
    pub checks: Vec<Verdict>,
    /// Comparison with an earlier evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Regressions>,
}

/// What was asked for: all that the scores depend on besides the files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Surface distances.
    pub definition: String,
    /// Tolerances of the normalised surface distance, in millimetres.
    pub nsd_tolerances_mm: Vec<f64>,
    /// Other tolerances of single labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nsd_tolerances_of_mm: BTreeMap<String, Vec<f64>>,
    /// Labels and regions; empty means all that occur.
    pub targets: Vec<Target>,
    /// Labels of the prediction that were renumbered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mapped: Vec<(u16, u16)>,
    /// Labels of the reference that were renumbered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mapped_reference: Vec<(u16, u16)>,
    /// Reference voxels with this label were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_label: Option<u16>,
    /// Largest distance between corresponding voxels of two grids that count as one.
    pub grid_tolerance_mm: f64,
    /// Rules by which single lesions were scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lesions: Option<LesionRules>,
    /// Names of the targets that were scored as tubes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tubes: Vec<String>,
    /// Whether surface distances were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlap_only: bool,
    /// Whether scores by slice were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_slices: bool,
    /// Whether predictions on other grids were resampled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resample: bool,
    /// Intensities that count, lower and upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The model that made the predictions in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSettings>,
    /// How cases were summed up.
    pub policy: Policy,
    /// Pattern that names the group (patient) of a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Which part of the cases this is, counted from 1, and of how many parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<[usize; 2]>,
}

/// What made the predictions, where that was this run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Name of the model's folder.
    pub name: String,
    /// Folds that were averaged.
    pub folds: Vec<String>,
    /// Whether mirrored patches were averaged.
    pub mirroring: bool,
    /// Arithmetic of the network.
    pub precision: String,
}

impl Settings {
    /// The definition, where this version knows its name.
    pub fn definition(&self) -> Option<Definition> {
        self.definition.parse().ok()
    }
}

/// Why a case has no scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is a reference and no prediction.
    MissingPrediction,
    /// There is a prediction and no reference.
    MissingReference,
    /// Several files of one name.
    Ambiguous,
    /// A file could not be read.
    Unreadable,
    /// The grids are not the same in space.
    Geometry,
    /// It would not fit the memory limit.
    Memory,
}

/// A case without scores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// Name of the case.
    pub case: String,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was found, in one line.
    pub reason: String,
}

/// A results document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Not JSON, or not of this form.
    #[error("not a results document: {0}")]
    Json(#[from] serde_json::Error),
    /// Another schema or version.
    #[error("schema {schema} version {version}, expected {SCHEMA} version {VERSION}")]
    Version {
        /// Schema found.
        schema: String,
        /// Version found.
        version: u32,
    },
    /// Documents that do not belong together.
    #[error("{0}")]
    Merge(String),
}

/// How a case is assigned to a group.
pub type GroupOf<'a> = &'a (dyn Fn(&str) -> String + Sync);

impl Results {
    /// Sorts, completes and sums up what was scored.
    pub fn new(
        settings: Settings,
        mut cases: Vec<CaseScores>,
        mut failures: Vec<Failure>,
        group_of: Option<GroupOf<'_>>,
    ) -> Self {
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        failures.sort();
        complete(&mut cases);
        let summary = summarize(&cases, settings.policy, group_of);
        Self {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            medseg: env!("CARGO_PKG_VERSION").to_owned(),
            settings,
            cases,
            failures,
            summary,
            checks: Vec::new(),
            baseline: None,
        }
    }

    /// The document as JSON: valid, one case per line, ending in a newline.
    ///
    /// # Errors
    /// None in practice: everything in here can be written as JSON.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut field = |name: &str, value: Vec<u8>| {
            text.extend(if text.is_empty() {
                b"{\n" as &[u8]
            } else {
                b",\n"
            });
            text.extend(format!("\"{name}\": ").as_bytes());
            text.extend(value);
        };
        field("schema", serde_json::to_vec(&self.schema)?);
        field("version", serde_json::to_vec(&self.version)?);
        field("medseg", serde_json::to_vec(&self.medseg)?);
        field("settings", serde_json::to_vec(&self.settings)?);
        field("cases", lines(&self.cases)?);
        field("failures", lines(&self.failures)?);
        field("summary", serde_json::to_vec(&self.summary)?);
        field("checks", lines(&self.checks)?);
        if let Some(baseline) = &self.baseline {
            field("baseline", serde_json::to_vec(baseline)?);
        }
        text.extend(b"\n}\n");
        Ok(text)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`ResultsError::Json`], [`ResultsError::Version`].
    pub fn from_json(text: &[u8]) -> Result<Self, ResultsError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            version: u32,
        }
        let Head { schema, version } = serde_json::from_slice(text)?;
        if schema != SCHEMA || version != VERSION {
            return Err(ResultsError::Version { schema, version });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Joins the shards of one evaluation into what a single run would have written.
    ///
    /// # Errors
    /// [`ResultsError::Merge`] when a shard is missing or doubled, when settings differ, or when two
    /// shards have scored the same case.
    pub fn merge(shards: Vec<Self>, group_of: Option<GroupOf<'_>>) -> Result<Self, ResultsError> {
        let refuse = |text: String| Err(ResultsError::Merge(text));
        let Some(first) = shards.first() else {
            return refuse("no shard to merge".to_owned());
        };
        let mut settings = first.settings.clone();
        let Some([_, count]) = settings.shard.take() else {
            return refuse("a results file without a shard number cannot be merged".to_owned());
        };
        let mut seen = vec![0; count];
        for shard in &shards {
            let mut other = shard.settings.clone();
            let number = other.shard.take();
            if other != settings || shard.medseg != first.medseg {
                return refuse(
                    "the shards were made with different settings or versions".to_owned(),
                );
            }
            match number {
                Some([index, of]) if of == count && (1..=count).contains(&index) => {
                    seen[index - 1] += 1;
                }
                _ => return refuse(format!("a shard is not one of {count}")),
            }
        }
        let listed = |wrong: fn(&usize) -> bool| {
            let numbers = (1..=count).zip(&seen).filter(|(_, times)| wrong(times));
            numbers
                .map(|(index, _)| index.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (missing, doubled) = (listed(|&times| times == 0), listed(|&times| times > 1));
        if !missing.is_empty() {
            return refuse(format!("of {count} shards, these are missing: {missing}"));
        }
        if !doubled.is_empty() {
            return refuse(format!("these shards are there more than once: {doubled}"));
        }
        let mut cases = Vec::new();
        let mut failures = Vec::new();
        for shard in shards {
            cases.extend(shard.cases);
            failures.extend(shard.failures);
        }
        let merged = Self::new(settings, cases, failures, group_of);
        let twice = merged
            .cases
            .windows(2)
            .find(|pair| pair[0].case == pair[1].case);
        if let Some(pair) = twice {
            return refuse(format!("case {} was scored in two shards", pair[0].case));
        }
        Ok(merged)
    }
}

/// A JSON array with one element per line.
fn lines<T: Serialize>(items: &[T]) -> serde_json::Result<Vec<u8>> {
    let mut text = b"[".to_vec();
    for (index, item) in items.iter().enumerate() {
        text.extend(if index == 0 { b"\n" as &[u8] } else { b",\n" });
        serde_json::to_writer(&mut text, item)?;
    }
    text.extend(if items.is_empty() {
        b"]" as &[u8]
    } else {
        b"\n]"
    });
    Ok(text)
}
