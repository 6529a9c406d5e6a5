//! Scores of one prediction against its reference.

use super::intensity::Intensity;
use super::lesions::{LesionRules, LesionScores, score_lesions, stray_volumes};
use super::targets::Target;
use super::tubes;
use crate::metrics::mask_bits::MaskBits;
use crate::metrics::overlap::ShapesDiffer;
use crate::metrics::pair_counts::{Counts, PairCounts, count_pairs};
use crate::metrics::surface::{Definition, SurfaceScores, surface_scores};
use crate::volume::{Grid, LabelTable, Volume};
use ndarray::Zip;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to compute for every case.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What to score; empty means every label that occurs in the pair, background left out.
    pub targets: Vec<Target>,
    /// Names of labels that occur.
    pub table: LabelTable,
    /// Voxels with this label in the reference are left out everywhere.
    pub ignore_label: Option<u16>,
    /// Whether to measure surface distances.
    pub surfaces: bool,
    /// Which surface distances.
    pub definition: Definition,
    /// Tolerances of the normalised surface distance, in millimetres.
    pub tolerances_mm: Vec<f64>,
    /// Other tolerances for the targets of these names.
    pub tolerances_of: BTreeMap<String, Vec<f64>>,
    /// Whether to score slice by slice.
    pub slices: bool,
    /// Rules by which to score single lesions.
    pub lesions: Option<LesionRules>,
    /// Names of targets that are tubes ([`super::tubes`]).
    pub tubes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            table: LabelTable::default(),
            ignore_label: None,
            surfaces: true,
            definition: Definition::default(),
            tolerances_mm: vec![1.0, 2.0, 3.0],
            tolerances_of: BTreeMap::new(),
            slices: true,
            lesions: None,
            tubes: Vec::new(),
        }
    }
}

/// Which of the two masks hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Both.
    Ok,
    /// Only the reference: the structure was not found.
    Missed,
    /// Only the prediction: a structure that is not there was found.
    Spurious,
    /// Neither.
    BothEmpty,
}

impl Status {
    /// Name in all outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missed => "missed",
            Self::Spurious => "spurious",
            Self::BothEmpty => "both_empty",
        }
    }

    fn of(counts: &Counts) -> Self {
        match (counts.reference() > 0, counts.prediction() > 0) {
            (true, true) => Self::Ok,
            (true, false) => Self::Missed,
            (false, true) => Self::Spurious,
            (false, false) => Self::BothEmpty,
        }
    }
}

/// Scores of one target in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetScores {
    /// Name of the label or region.
    pub label: String,
    /// The label numbers that belong to it.
    pub numbers: Vec<u16>,
    /// Which masks hold anything.
    pub status: Status,
    /// Voxels in both masks.
    pub tp: u64,
    /// Voxels in the prediction only.
    pub fp: u64,
    /// Voxels in the reference only.
    #[serde(rename = "fn")]
    pub fn_: u64,
    /// Voxels in neither.
    pub tn: u64,
    /// Scores by name ([`super::measure`] lists them); `None` where there is no number.
    pub scores: BTreeMap<String, Option<f64>>,
    /// Why a score has no number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undefined: BTreeMap<String, String>,
    /// Scores of single lesions, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lesions: Option<LesionScores>,
    /// Intensities of the image inside both masks, where there is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intensity: Option<Intensity>,
}

impl TargetScores {
    /// The counts together.
    pub fn counts(&self) -> Counts {
        Counts {
            tp: self.tp,
            fp: self.fp,
            fn_: self.fn_,
            tn: self.tn,
        }
    }
}

/// Counts and overlap of one target, slice by slice; one entry per slice listed in
/// [`SliceScores::z`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TargetSlices {
    /// Voxels in both masks.
    pub both: Vec<u64>,
    /// Dice coefficient; `None` where the slice has no voxel of the target.
    pub dice: Vec<Option<f64>>,
    /// Intersection over union; `None` as for Dice.
    pub iou: Vec<Option<f64>>,
    /// Voxels in the prediction.
    pub prediction: Vec<u64>,
    /// Voxels in the reference.
    pub reference: Vec<u64>,
}

/// Scores slice by slice along the last axis of the file (z).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SliceScores {
    /// Scores by target.
    pub labels: BTreeMap<String, TargetSlices>,
    /// Indices of the slices that hold a voxel of any target.
    pub z: Vec<usize>,
}

/// Voxels by label of the reference and of the prediction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confusion {
    /// Labels that occur, ascending.
    pub labels: Vec<u16>,
    /// `matrix[r][p]`: voxels with `labels[r]` in the reference and `labels[p]` in the prediction.
    pub matrix: Vec<Vec<u64>>,
}

/// Everything that is known of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseScores {
    /// Name of the case.
    pub case: String,
    /// File name of the prediction.
    #[serde(default)]
    pub prediction: String,
    /// File name of the reference.
    #[serde(default)]
    pub reference: String,
    /// File name of the image, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Whether the prediction had to be resampled onto the reference's grid.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resampled: bool,
    /// Length of the diagonal of the image in millimetres: the worst distance there can be.
    pub diagonal_mm: f64,
    /// Voxels along x, y, z.
    pub shape_xyz: [usize; 3],
    /// Voxel size along x, y, z.
    pub spacing_xyz_mm: [f64; 3],
    /// Scores of every target.
    pub labels: Vec<TargetScores>,
    /// Scores slice by slice, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<SliceScores>,
    /// Voxels by label.
    pub confusion: Confusion,
}

/// Most bytes that reading and scoring a pair takes at once, for files of `voxels` voxels each and with
/// `threads` threads: both label maps, a turned copy of the prediction, and the bits of one label; with
/// single lesions or tubes also masks and component numbers, or what thinning takes of a box that is all
/// tube, for each label that is being scored.
pub fn bytes_needed(voxels: [u64; 2], options: &Options, threads: usize) -> u64 {
    let [a, b] = voxels;
    let most = a.max(b);
    let maps = a.saturating_add(b).saturating_mul(2);
    let lesions: u64 = if options.lesions.is_some() { 16 } else { 0 };
    let tubes: u64 = if options.tubes.is_empty() { 0 } else { 34 };
    let per_target = lesions.max(tubes);
    maps.saturating_add(most.saturating_mul(3 + per_target.saturating_mul(threads as u64)))
}

/// Scores one pair on one grid (see [`super::align`]); `case` is its name. One pass over both volumes
/// for all counts, then the surfaces of each target inside its own box, targets in parallel.
///
/// # Errors
/// [`ShapesDiffer`] when the volumes are not on one grid.
pub fn score_case(
    case: &str,
    prediction: &Volume<u16>,
    reference: &Volume<u16>,
    options: &Options,
) -> Result<CaseScores, ShapesDiffer> {
    let mut pairs = count_pairs(prediction.data().view(), reference.data().view())?;
    if let Some(ignored) = options.ignore_label {
        pairs = pairs.without_reference_label(ignored);
    }
    let confusion = confusion(&pairs);
    let occurring: Vec<Target>;
    let targets = if options.targets.is_empty() {
        let labels = confusion.labels.iter().filter(|&&label| label != 0);
        occurring = labels
            .map(|&label| Target::label(label, &options.table))
            .collect();
        &occurring
    } else {
        &options.targets
    };
    let grid = reference.grid();
    let labels = targets
        .par_iter()
        .map(|target| score_target(target, &pairs, prediction, reference, options))
        .collect();
    let [z, y, x] = grid.shape;
    let [dz, dy, dx] = grid.spacing_mm;
    Ok(CaseScores {
        case: case.to_owned(),
        prediction: String::new(),
        reference: String::new(),
        image: String::new(),
        resampled: false,
        diagonal_mm: diagonal_mm(grid),
        shape_xyz: [x, y, z],
        spacing_xyz_mm: [dx, dy, dz],
        labels,
        slices: options.slices.then(|| slice_scores(&pairs, targets)),
        confusion,
    })
}

/// Distance between the outer corners of the image.
fn diagonal_mm(grid: &Grid) -> f64 {
    let edge = |(&count, mm): (&usize, f64)| (count as f64 * mm).powi(2);
    grid.shape
        .iter()
        .zip(grid.spacing_mm)
        .map(edge)
        .sum::<f64>()
        .sqrt()
}

fn score_target(
    target: &Target,
    pairs: &PairCounts,
    prediction: &Volume<u16>,
    reference: &Volume<u16>,
    options: &Options,
) -> TargetScores {
    let inside = |label: u16| target.contains(label);
    let counts = pairs.counts(inside);
    let status = Status::of(&counts);
    let grid = reference.grid();
    let mut scores = Scores::new(status);
    scores.overlap(&counts, grid.voxel_volume_mm3());
    let centroid = |[p, r]: [[f64; 3]; 2]| {
        (0..3)
            .map(|axis| ((p[axis] - r[axis]) * grid.spacing_mm[axis]).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let [p, r] = pairs.centroids(inside);
    scores.set(
        "centroid_distance_mm",
        p.zip(r).map(|(p, r)| centroid([p, r])),
    );
    if options.surfaces {
        let tolerances = options.tolerances_of.get(&target.name);
        let tolerances_mm = tolerances.unwrap_or(&options.tolerances_mm);
        let surfaces = (status == Status::Ok)
            .then(|| surfaces_of(target, pairs, prediction, reference, tolerances_mm, options))
            .flatten();
        scores.surfaces(surfaces.as_ref(), tolerances_mm);
    }
    if options.tubes.contains(&target.name) {
        let found = tubes_of(target, pairs, prediction, reference, options.ignore_label);
        for (name, value) in tubes::NAMES.into_iter().zip(found) {
            scores.set(name, value);
        }
    }
    let lesions = options.lesions.and_then(|rules| {
        lesions_of(
            target,
            prediction,
            reference,
            (rules, options.ignore_label),
            &mut scores,
        )
    });
    TargetScores {
        label: target.name.clone(),
        numbers: target.labels.clone(),
        status,
        tp: counts.tp,
        fp: counts.fp,
        fn_: counts.fn_,
        tn: counts.tn,
        scores: scores.scores,
        undefined: scores.undefined,
        lesions,
        intensity: None,
    }
}

/// Lesions of one target; volumes without any overlap become scores of their own.
fn lesions_of(
    target: &Target,
    prediction: &Volume<u16>,
    reference: &Volume<u16>,
    (rules, ignored): (LesionRules, Option<u16>),
    scores: &mut Scores,
) -> Option<LesionScores> {
    let [p, r] = [prediction, reference].map(|volume| {
        Zip::from(volume.data())
            .and(reference.data())
            .map_collect(|&label, &reference| target.contains(label) && Some(reference) != ignored)
    });
    let spacing_mm = reference.grid().spacing_mm;
    // Beyond 2^32 pieces there are no lesions to speak of: no scores.
    let strays = stray_volumes(p.view(), r.view(), spacing_mm).ok();
    scores.set("false_positive_volume_ml", strays.map(|[fp, _]| fp));
    scores.set("false_negative_volume_ml", strays.map(|[_, fn_]| fn_));
    score_lesions(p.view(), r.view(), spacing_mm, rules).ok()
}

fn tubes_of(
    target: &Target,
    pairs: &PairCounts,
    prediction: &Volume<u16>,
    reference: &Volume<u16>,
    ignored: Option<u16>,
) -> [Option<f64>; 3] {
    let Some(bounds) = pairs.bounds(|label| target.contains(label)) else {
        return [None; 3];
    };
    tubes::tube_scores(
        prediction.data().view(),
        reference.data().view(),
        bounds,
        reference.grid().spacing_mm,
        |label, reference| target.contains(label) && Some(reference) != ignored,
    )
}

fn surfaces_of(
    target: &Target,
    pairs: &PairCounts,
    prediction: &Volume<u16>,
    reference: &Volume<u16>,
    tolerances_mm: &[f64],
    options: &Options,
) -> Option<SurfaceScores> {
    let bounds = pairs.bounds(|label| target.contains(label))?;
    let (prediction, spacing_mm) = (prediction.data().view(), reference.grid().spacing_mm);
    let reference = reference.data().view();
    let [r, p] = match (target.labels.as_slice(), options.ignore_label) {
        // The common case, whose comparison the compiler turns into vector instructions.
        (&[only], None) => [reference, prediction]
            .map(|volume| MaskBits::of(volume, bounds, |label| label == only)),
        (_, None) => [reference, prediction]
            .map(|volume| MaskBits::of(volume, bounds, |label| target.contains(label))),
        (_, Some(ignored)) => [reference, prediction].map(|volume| {
            MaskBits::of_pairs(volume, reference, bounds, |label, reference| {
                target.contains(label) && reference != ignored
            })
        }),
    };
    surface_scores(&r, &p, spacing_mm, tolerances_mm, options.definition)
}

/// Scores under construction.
struct Scores {
    status: Status,
    scores: BTreeMap<String, Option<f64>>,
    undefined: BTreeMap<String, String>,
}

impl Scores {
    fn new(status: Status) -> Self {
        Self {
            status,
            scores: BTreeMap::new(),
            undefined: BTreeMap::new(),
        }
    }

    fn set(&mut self, name: &str, value: Option<f64>) {
        if value.is_none() {
            let reason = match (self.status, name) {
                (Status::BothEmpty, _) => "reference and prediction are empty",
                (Status::Spurious, _) => "the reference is empty",
                (Status::Missed, _) => "the prediction is empty",
                (Status::Ok, "specificity") => "the reference fills the volume",
                (Status::Ok, _) => "not defined",
            };
            self.undefined.insert(name.to_owned(), reason.to_owned());
        }
        self.scores.insert(name.to_owned(), value);
    }

    fn overlap(&mut self, counts: &Counts, voxel_mm3: f64) {
        self.set("dice", counts.dice());
        self.set("iou", counts.iou());
        self.set("precision", counts.precision());
        self.set("recall", counts.recall());
        self.set("specificity", counts.specificity());
        let ml = |voxels: f64| Some(voxels * voxel_mm3 / 1000.0);
        self.set("volume_prediction_ml", ml(counts.prediction() as f64));
        self.set("volume_reference_ml", ml(counts.reference() as f64));
        self.set(
            "volume_difference_ml",
            ml(counts.fp as f64 - counts.fn_ as f64),
        );
        self.set(
            "relative_volume_difference",
            counts.relative_volume_difference(),
        );
    }

    fn surfaces(&mut self, found: Option<&SurfaceScores>, tolerances_mm: &[f64]) {
        self.set("hd_mm", found.map(|s| s.hd_mm));
        self.set("hd95_mm", found.map(|s| s.hd95_mm));
        self.set("assd_mm", found.map(|s| s.assd_mm));
        self.set("masd_mm", found.map(|s| s.masd_mm));
        for (index, tolerance_mm) in tolerances_mm.iter().enumerate() {
            let value = match (found, self.status) {
                (Some(found), _) => found.nsd.get(index).copied(),
                // Nothing of the surface that is there lies near the other.
                (None, Status::Missed | Status::Spurious) => Some(0.0),
                _ => None,
            };
            self.set(&format!("nsd@{tolerance_mm}"), value);
        }
    }
}

fn confusion(pairs: &PairCounts) -> Confusion {
    let counts = pairs.confusion();
    let mut labels: Vec<u16> = counts.keys().flat_map(|&(p, r)| [p, r]).collect();
    labels.sort_unstable();
    labels.dedup();
    let matrix = labels
        .iter()
        .map(|&r| {
            labels
                .iter()
                .map(|&p| counts.get(&(p, r)).copied().unwrap_or(0))
                .collect()
        })
        .collect();
    Confusion { labels, matrix }
}

fn slice_scores(pairs: &PairCounts, targets: &[Target]) -> SliceScores {
    let counts: Vec<Vec<Counts>> = targets
        .iter()
        .map(|target| pairs.counts_per_slice(|label| target.contains(label)))
        .collect();
    let holds = |counts: &Counts| counts.tp + counts.fp + counts.fn_ > 0;
    let z: Vec<usize> = (0..pairs.shape()[0])
        .filter(|&z| counts.iter().any(|target| target.get(z).is_some_and(holds)))
        .collect();
    let labels = targets
        .iter()
        .zip(&counts)
        .map(|(target, counts)| {
            let rows = || z.iter().filter_map(|&z| counts.get(z));
            let slices = TargetSlices {
                both: rows().map(|counts| counts.tp).collect(),
                dice: rows().map(Counts::dice).collect(),
                iou: rows().map(Counts::iou).collect(),
                prediction: rows().map(Counts::prediction).collect(),
                reference: rows().map(Counts::reference).collect(),
            };
            (target.name.clone(), slices)
        })
        .collect();
    SliceScores { labels, z }
}
