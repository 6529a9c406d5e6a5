//! The flags of `medseg evaluate`, and what they mean together.

use super::items::{Items, Source};
use super::scoring::Mappings;
use super::segmenter::Segmenter;
use crate::arithmetic::Arithmetic;
use crate::flags::{Existing, Report};
use crate::outcome::Usage;
use medseg::evaluate::align::GRID_TOLERANCE_MM;
use medseg::evaluate::case::Options;
use medseg::evaluate::intensity::parse_window;
use medseg::evaluate::lesions::LesionRules;
use medseg::evaluate::results::{FailureKind, Settings};
use medseg::evaluate::summary::{Empty, Policy};
use medseg::evaluate::targets::{Mapping, Target, check_names};
use medseg::io::{labels, nifti};
use medseg::metrics::surface::Definition;
use medseg::volume::LabelTable;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Score predictions against references
#[derive(clap::Args)]
#[command(after_help = "\
PRED and REF are two label maps, or two folders whose files are paired by name; --list names
pairs one by one, --model makes the predictions from --image. A check is
[LABEL.]SCORE[.STATISTIC] with one of = < <= >= > and a number: dice=0.85, liver.dice.min>=0.7,
hd95.median<=5, missed=0. Without a label it is about all labels together, without a statistic
about the mean; = means at least for shares and at most for distances and counts.

Exit codes: 0 all scored and all checks hold; 1 failed; 2 wrong usage; 3 some cases could not be
scored; 4 all were scored, but a check or the baseline does not hold.

Examples:
  medseg evaluate -p prediction.nii.gz -r reference.nii.gz -o results.json
  medseg evaluate -p predictions/ -r references/ -o results.json --csv tables/ --labels abdomen
  medseg evaluate -p predictions/ -r references/ -o results.json --nsd 1,2 --definition google
  medseg evaluate -p predictions/ -r references/ -o results.json --fail-under dice=0.85
  medseg evaluate -p predictions/ -r references/ -o brats.json --region brats --lesions gli
  medseg evaluate -p predictions/ -r references/ -o part3.json --shard 3/10
  medseg evaluate --merge part1.json part2.json -o results.json
  medseg evaluate --list pairs.csv -o results.json --resample
  medseg evaluate --model model/ --image images/ -r references/ -o results.json
  medseg evaluate --compare a.json b.json -o comparison.json --score dice,hd95")]
pub struct Args {
    /// Label map, or folder of label maps, to score
    #[arg(short, long, value_name = "PRED", required_unless_present_any = ["merge", "compare", "list", "model"])]
    pub predictions: Option<PathBuf>,
    /// Label map, or folder of label maps, that is right
    #[arg(short, long, value_name = "REF", required_unless_present_any = ["merge", "compare", "list"])]
    pub references: Option<PathBuf>,
    /// Pairs to score instead of two folders, CSV or JSON: prediction, reference, and if need be case and image; paths
    /// are relative to the list
    #[arg(long, value_name = "FILE", conflicts_with_all = ["predictions", "references"])]
    pub list: Option<PathBuf>,
    /// Image or folder of images of the cases: adds intensities inside every label; what --model segments
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Only intensities from LO to HI count (HU in CT) [default: all]
    #[arg(
        long,
        value_name = "LO,HI",
        allow_hyphen_values = true,
        requires = "image"
    )]
    pub window: Option<String>,
    /// nnU-Net results folder that makes the predictions from --image; they are not written
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "predictions",
        requires = "image"
    )]
    pub model: Option<PathBuf>,
    /// Write the predictions of --model into this folder as well
    #[arg(long, value_name = "DIR", requires = "model")]
    pub save_predictions: Option<PathBuf>,
    /// Do not average over mirrored patches with --model: up to 8 times faster, slightly less accurate
    #[arg(long, requires = "model")]
    pub no_mirroring: bool,
    #[command(flatten)]
    pub arithmetic: Arithmetic,
    /// Results file (JSON) to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Join the results of all shards instead of scoring
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["predictions", "references", "list", "model", "shard", "resume", "dry_run"])]
    pub merge: Vec<PathBuf>,
    /// Compare results files of the same cases instead of scoring: paired differences, Wilcoxon tests, ranking
    #[arg(long, value_name = "FILE", num_args = 2.., conflicts_with_all = ["merge", "predictions", "references", "list", "model", "shard", "resume", "fail_under", "baseline", "csv", "junit", "nnunet_summary", "report", "dry_run"])]
    pub compare: Vec<PathBuf>,
    /// Scores to compare in [default: dice]
    #[arg(
        long = "score",
        value_name = "SCORE",
        value_delimiter = ',',
        requires = "compare"
    )]
    pub scores: Vec<String>,
    /// Names of labels (abdomen, brats, totalseg or a table file), or the labels to score (liver,3) [default: all that occur]
    #[arg(long, value_name = "TABLE|LIST")]
    pub labels: Option<String>,
    /// Score several labels as one, NAME=1+2+3, or brats; can be given several times
    #[arg(long = "region", value_name = "REGION")]
    pub regions: Vec<String>,
    /// Read label FROM of the predictions as TO; can be given several times
    #[arg(long = "map", value_name = "FROM=TO")]
    pub maps: Vec<String>,
    /// Read label FROM of the references as TO; can be given several times
    #[arg(long = "map-reference", value_name = "FROM=TO")]
    pub reference_maps: Vec<String>,
    /// Leave out voxels with this label in the reference
    #[arg(long, value_name = "LABEL")]
    pub ignore_label: Option<u16>,
    /// Tolerances of the normalised surface distance, in mm
    #[arg(long, value_name = "MM", value_delimiter = ',', default_values_t = [1.0, 2.0, 3.0])]
    pub nsd: Vec<f64>,
    /// Other tolerances for one label, in mm: NAME=1+2; can be given several times
    #[arg(long, value_name = "NAME=MM")]
    pub nsd_of: Vec<String>,
    /// Which surface distances: medseg, google, monai, medpy, metrics-reloaded or panoptica
    #[arg(long, value_name = "NAME", default_value_t)]
    pub definition: Definition,
    /// Only overlap, volumes and centroids: no surface distances
    #[arg(long)]
    pub overlap_only: bool,
    /// Score single lesions as a BraTS challenge does: gli, ssa, ped, men or met; also false positive and negative volumes
    #[arg(long, value_name = "RULES")]
    pub lesions: Option<LesionRules>,
    /// Labels and regions that are tubes (artery,vein): also clDice and Betti errors
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub tubes: Vec<String>,
    /// Do not score slice by slice
    #[arg(long)]
    pub no_slices: bool,
    /// How scores without a number count in the summary: nan leaves them out, worst scores missed and spurious structures as
    /// 0 and the image diagonal, zero counts every such share as 0
    #[arg(long, value_name = "RULE", default_value = "nan")]
    pub empty: Empty,
    /// Average cases of one patient first; the first group of this pattern in the case name is the patient
    #[arg(long, value_name = "REGEX")]
    pub group_by: Option<String>,
    /// How many of the worst cases to list, for each label and for all together
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub worst: usize,
    /// Seed of the bootstrap [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub seed: u64,
    /// Cases without a partner are listed and no failure
    #[arg(long)]
    pub allow_missing: bool,
    /// Largest distance of corresponding voxels of two grids that count as one, in mm
    #[arg(long, value_name = "MM", default_value_t = GRID_TOLERANCE_MM)]
    pub grid_tolerance: f64,
    /// Resample predictions on other grids to the nearest voxel instead of refusing them; the results say so
    #[arg(long)]
    pub resample: bool,
    /// Check that must hold, else exit code 4; can be given several times
    #[arg(long, value_name = "CHECK")]
    pub fail_under: Vec<String>,
    /// Earlier results file that must not be better than this one, case by case
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// By how much a score may be worse than in the baseline: dice=0.005, hd95=0.2mm; can be given several times [default: dice=0.005]
    #[arg(long, value_name = "SCORE=AMOUNT", requires = "baseline")]
    pub tolerance: Vec<String>,
    /// Folder for cases.csv, slices.csv and summary.csv
    #[arg(long, value_name = "DIR")]
    pub csv: Option<PathBuf>,
    /// JUnit XML file to write
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Markdown file to write, for job summaries
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// summary.json as nnU-Net writes it
    #[arg(long, value_name = "FILE")]
    pub nnunet_summary: Option<PathBuf>,
    /// Score only part I of N of the cases
    #[arg(long, value_name = "I/N", conflicts_with_all = ["fail_under", "baseline", "junit"])]
    pub shard: Option<String>,
    /// Take cases that an interrupted run has scored from its FILE.partial
    #[arg(long)]
    pub resume: bool,
    /// Print summary, checks and failures as one JSON document
    #[arg(long)]
    pub json: bool,
    /// Say which files belong together, and stop
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub existing: Existing,
    #[command(flatten)]
    pub report: Report,
}

impl Args {
    /// Whether a failure of this kind was declared to be none.
    pub fn tolerates(&self, kind: FailureKind) -> bool {
        let unpaired = [
            FailureKind::MissingPrediction,
            FailureKind::MissingReference,
        ];
        self.allow_missing && unpaired.contains(&kind)
    }

    /// `--shard I/N`.
    pub fn shard(&self) -> anyhow::Result<Option<[usize; 2]>> {
        let Some(text) = &self.shard else {
            return Ok(None);
        };
        text.split_once('/')
            .and_then(|(index, count)| Some([index.parse().ok()?, count.parse().ok()?]))
            .filter(|[index, count]| (1..=*count).contains(index))
            .map(Some)
            .ok_or_else(|| Usage(format!("--shard {text}: expected I/N with I from 1 to N")).into())
    }

    /// What to score and what the results file says about it; `model` is what `--model` says about itself.
    pub fn options(
        &self,
        items: &Items,
        model: Option<&Segmenter>,
    ) -> anyhow::Result<(Options, Mappings, Settings)> {
        let usage = |error: &dyn std::fmt::Display| Usage(error.to_string());
        let (table, mut targets) = self.labels(items, model)?;
        let mapping = |pairs: &[String]| Mapping::parse(pairs).map_err(|error| usage(&error));
        let mut mappings = Mappings {
            prediction: mapping(&self.maps)?,
            reference: mapping(&self.reference_maps)?,
        };
        for region in &self.regions {
            if region == "brats" {
                mappings.prediction.extend(&Mapping::brats());
                mappings.reference.extend(&Mapping::brats());
            }
            targets.extend(Target::parse_region(region, &table).map_err(|error| usage(&error))?);
        }
        check_names(&targets).map_err(|error| usage(&error))?;
        let valid = |mm: &f64| mm.is_finite() && *mm >= 0.0;
        if !self.nsd.iter().all(valid) || !valid(&self.grid_tolerance) {
            return Err(Usage("tolerances are numbers from 0 up, in mm".to_owned()).into());
        }
        let mut tolerances_of = BTreeMap::new();
        for text in &self.nsd_of {
            let entry = text.split_once('=').and_then(|(name, list)| {
                let list: Option<Vec<f64>> = list
                    .split('+')
                    .map(|mm| mm.parse().ok().filter(valid))
                    .collect();
                Some((name.to_owned(), list?))
            });
            let (name, list) = entry
                .ok_or_else(|| Usage(format!("--nsd-of {text}: expected NAME=MM or NAME=MM+MM")))?;
            tolerances_of.insert(name, list);
        }
        let tubes = self.tubes(&targets, &table)?;
        let window = match &self.window {
            None => None,
            Some(text) => Some(parse_window(text).ok_or_else(|| {
                Usage(format!(
                    "--window {text}: expected LO,HI with LO below HI, for example -150,250"
                ))
            })?),
        };
        let settings = Settings {
            definition: self.definition.to_string(),
            nsd_tolerances_mm: self.nsd.clone(),
            nsd_tolerances_of_mm: tolerances_of.clone(),
            targets: targets.clone(),
            mapped: mappings.prediction.pairs().to_vec(),
            mapped_reference: mappings.reference.pairs().to_vec(),
            ignore_label: self.ignore_label,
            grid_tolerance_mm: self.grid_tolerance,
            lesions: self.lesions,
            tubes: tubes.clone(),
            overlap_only: self.overlap_only,
            no_slices: self.no_slices,
            resample: self.resample,
            window,
            model: model.map(Segmenter::settings),
            policy: Policy {
                empty: self.empty,
                seed: self.seed,
                worst: self.worst,
            },
            group_by: self.group_by.clone(),
            shard: self.shard()?,
        };
        let options = Options {
            targets,
            table,
            ignore_label: self.ignore_label,
            surfaces: !self.overlap_only,
            definition: self.definition,
            tolerances_mm: self.nsd.clone(),
            tolerances_of,
            slices: !self.no_slices,
            lesions: self.lesions,
            tubes,
        };
        Ok((options, mappings, settings))
    }

    /// `--tubes`: names of targets, which may be given as numbers.
    fn tubes(&self, targets: &[Target], table: &LabelTable) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for text in &self.tubes {
            if targets.iter().any(|target| target.name == *text) {
                names.push(text.clone());
                continue;
            }
            let numbers = labels::parse_label_list(text, table)
                .map_err(|error| Usage(format!("--tubes: {error}")))?;
            names.extend(numbers.into_iter().map(|number| table.name_of(number)));
        }
        Ok(names)
    }

    /// `--labels`: the table of names, and the targets where labels are listed.
    fn labels(
        &self,
        items: &Items,
        model: Option<&Segmenter>,
    ) -> anyhow::Result<(LabelTable, Vec<Target>)> {
        let table_of = |path: &Path| {
            let (_, extensions) = nifti::read_header(path).ok()?;
            labels::table_in_extensions(&extensions)
        };
        let in_file = || {
            let files = items.first_pair.as_ref()?;
            let of_prediction = || match (&files.prediction, model) {
                (Source::File(path), _) => table_of(path),
                (Source::Images(_), model) => model.map(Segmenter::table),
            };
            table_of(&files.reference).or_else(of_prediction)
        };
        let Some(text) = &self.labels else {
            return Ok((in_file().unwrap_or_default(), Vec::new()));
        };
        if labels::scheme(text).is_some() || Path::new(text).exists() {
            return Ok((labels::scheme_or_file(Path::new(text))?, Vec::new()));
        }
        // Numbers alone do not say that they are those of the built-in scheme.
        let numbers_only = text
            .split(',')
            .all(|entry| entry.trim().parse::<u16>().is_ok());
        let table = match in_file() {
            Some(table) => table,
            None if numbers_only => LabelTable::default(),
            None => LabelTable::abdomen(),
        };
        let numbers = labels::parse_label_list(text, &table)?;
        let targets = numbers
            .into_iter()
            .map(|number| Target::label(number, &table))
            .collect();
        Ok((table, targets))
    }
}
