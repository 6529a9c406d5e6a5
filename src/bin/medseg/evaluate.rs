//! `medseg evaluate`: scores predictions against references.
//!
//! Files are paired by name, cases are scored in parallel within the memory limit, and what cannot be scored is recorded while
//! the rest goes on. The results file is the source of every other output. docs/evaluate.md defines the scores.

mod items;
mod journal;
mod memory;
mod outputs;
mod scoring;

use crate::context::Context;
use crate::flags::{Existing, Report};
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
use items::Items;
use medseg::evaluate::align::GRID_TOLERANCE_MM;
use medseg::evaluate::baseline::{self, Tolerances};
use medseg::evaluate::case::Options;
use medseg::evaluate::gate::Gate;
use medseg::evaluate::lesions::LesionRules;
use medseg::evaluate::results::{FailureKind, Results, Settings};
use medseg::evaluate::summary::{Empty, Policy};
use medseg::evaluate::targets::{Mapping, Target, check_names};
use medseg::io::{display_name, labels, nifti};
use medseg::metrics::surface::Definition;
use medseg::volume::LabelTable;
use scoring::Mappings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Score predictions against references
#[derive(clap::Args)]
#[command(after_help = "\
PRED and REF are two label maps, or two folders whose files are paired by name. A check is
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
  medseg evaluate --merge part1.json part2.json -o results.json")]
pub struct Args {
    /// Label map, or folder of label maps, to score
    #[arg(short, long, value_name = "PRED", required_unless_present = "merge")]
    predictions: Option<PathBuf>,
    /// Label map, or folder of label maps, that is right
    #[arg(short, long, value_name = "REF", required_unless_present = "merge")]
    references: Option<PathBuf>,
    /// Results file (JSON) to write; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Join the results of all shards instead of scoring
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["predictions", "references", "shard", "resume"])]
    merge: Vec<PathBuf>,
    /// Names of labels (abdomen, brats, totalseg or a table file), or the labels to score (liver,3) [default: all that occur]
    #[arg(long, value_name = "TABLE|LIST")]
    labels: Option<String>,
    /// Score several labels as one, NAME=1+2+3, or brats; can be given several times
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
    /// Read label FROM of the predictions as TO; can be given several times
    #[arg(long = "map", value_name = "FROM=TO")]
    maps: Vec<String>,
    /// Read label FROM of the references as TO; can be given several times
    #[arg(long = "map-reference", value_name = "FROM=TO")]
    reference_maps: Vec<String>,
    /// Leave out voxels with this label in the reference
    #[arg(long, value_name = "LABEL")]
    ignore_label: Option<u16>,
    /// Tolerances of the normalised surface distance, in mm
    #[arg(long, value_name = "MM", value_delimiter = ',', default_values_t = [1.0, 2.0, 3.0])]
    nsd: Vec<f64>,
    /// Other tolerances for one label, in mm: NAME=1+2; can be given several times
    #[arg(long, value_name = "NAME=MM")]
    nsd_of: Vec<String>,
    /// Which surface distances: medseg, google, monai, medpy, metrics-reloaded or panoptica
    #[arg(long, value_name = "NAME", default_value_t)]
    definition: Definition,
    /// Only overlap, volumes and centroids: no surface distances
    #[arg(long)]
    overlap_only: bool,
    /// Score single lesions as a BraTS challenge does: gli, ssa, ped, men or met; also false positive and negative volumes
    #[arg(long, value_name = "RULES")]
    lesions: Option<LesionRules>,
    /// Do not score slice by slice
    #[arg(long)]
    no_slices: bool,
    /// How scores without a number count in the summary: nan leaves them out, worst scores missed and spurious structures as
    /// 0 and the image diagonal, zero counts every such share as 0
    #[arg(long, value_name = "RULE", default_value = "nan")]
    empty: Empty,
    /// Average cases of one patient first; the first group of this pattern in the case name is the patient
    #[arg(long, value_name = "REGEX")]
    group_by: Option<String>,
    /// Seed of the bootstrap [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    seed: u64,
    /// Cases without a partner are listed and no failure
    #[arg(long)]
    allow_missing: bool,
    /// Largest distance of corresponding voxels of two grids that count as one, in mm
    #[arg(long, value_name = "MM", default_value_t = GRID_TOLERANCE_MM)]
    grid_tolerance: f64,
    /// Check that must hold, else exit code 4; can be given several times
    #[arg(long, value_name = "CHECK")]
    fail_under: Vec<String>,
    /// Earlier results file that must not be better than this one, case by case
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// By how much a score may be worse than in the baseline: dice=0.005, hd95=0.2mm; can be given several times [default: dice=0.005]
    #[arg(long, value_name = "SCORE=AMOUNT", requires = "baseline")]
    tolerance: Vec<String>,
    /// Folder for cases.csv, slices.csv and summary.csv
    #[arg(long, value_name = "DIR")]
    csv: Option<PathBuf>,
    /// JUnit XML file to write
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Markdown file to write, for job summaries
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// summary.json as nnU-Net writes it
    #[arg(long, value_name = "FILE")]
    nnunet_summary: Option<PathBuf>,
    /// Score only part I of N of the cases
    #[arg(long, value_name = "I/N", conflicts_with_all = ["fail_under", "baseline", "junit"])]
    shard: Option<String>,
    /// Take cases that an interrupted run has scored from its FILE.partial
    #[arg(long)]
    resume: bool,
    /// Print summary, checks and failures as one JSON document
    #[arg(long)]
    json: bool,
    /// Say which files belong together, and stop
    #[arg(long)]
    dry_run: bool,
    /// Replace outputs that exist
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    report: Report,
}

impl Args {
    fn existing(&self) -> Existing {
        Existing {
            force: self.force,
            skip_existing: false,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, cx: &Context) -> anyhow::Result<Outcome> {
    let gates = args
        .fail_under
        .iter()
        .map(|text| Gate::parse(text))
        .collect::<Result<Vec<_>, _>>();
    let gates = gates.map_err(|error| Usage(error.to_string()))?;
    let tolerances =
        Tolerances::parse(&args.tolerance).map_err(|error| Usage(error.to_string()))?;
    outputs::check(args)?;
    let mut results = if args.merge.is_empty() {
        let items = Items::find(args)?;
        if args.dry_run {
            return items.list(args, cx);
        }
        score(args, cx, &items)?
    } else {
        merge(&args.merge)?
    };
    let broken = results
        .failures
        .iter()
        .filter(|failure| !args.tolerates(failure.kind))
        .count();
    for gate in &gates {
        results.checks.push(gate.check(&results.summary, broken)?);
    }
    if let Some(path) = &args.baseline {
        let before = read_results(path)?;
        results.baseline = Some(baseline::compare(
            &results.cases,
            &before.cases,
            &tolerances,
        ));
    }
    outputs::write(args, cx, &results)?;
    let held = results.checks.iter().all(|verdict| verdict.holds)
        && results
            .baseline
            .as_ref()
            .is_none_or(baseline::Regressions::holds);
    if broken > 0 && results.cases.is_empty() {
        let reasons: Vec<&str> = results
            .failures
            .iter()
            .map(|f| f.reason.as_str())
            .take(3)
            .collect();
        anyhow::bail!("no case could be scored: {}", reasons.join("; "));
    }
    Ok(match (broken, held) {
        (1.., _) => Outcome::SomeFailed,
        (0, false) => Outcome::CheckFailed,
        (0, true) => Outcome::Done,
    })
}

impl Args {
    /// Whether a failure of this kind was declared to be none.
    fn tolerates(&self, kind: FailureKind) -> bool {
        let unpaired = [
            FailureKind::MissingPrediction,
            FailureKind::MissingReference,
        ];
        self.allow_missing && unpaired.contains(&kind)
    }

    /// `--shard I/N`.
    fn shard(&self) -> anyhow::Result<Option<[usize; 2]>> {
        let Some(text) = &self.shard else {
            return Ok(None);
        };
        text.split_once('/')
            .and_then(|(index, count)| Some([index.parse().ok()?, count.parse().ok()?]))
            .filter(|[index, count]| (1..=*count).contains(index))
            .map(Some)
            .ok_or_else(|| Usage(format!("--shard {text}: expected I/N with I from 1 to N")).into())
    }

    /// What to score and what the results file says about it.
    fn options(&self, items: &Items) -> anyhow::Result<(Options, Mappings, Settings)> {
        let usage = |error: &dyn std::fmt::Display| Usage(error.to_string());
        let (table, mut targets) = self.labels(items)?;
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
            policy: Policy {
                empty: self.empty,
                seed: self.seed,
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
        };
        Ok((options, mappings, settings))
    }

    /// `--labels`: the table of names, and the targets where labels are listed.
    fn labels(&self, items: &Items) -> anyhow::Result<(LabelTable, Vec<Target>)> {
        let table_of = |path: &Path| {
            let (_, extensions) = nifti::read_header(path).ok()?;
            labels::table_in_extensions(&extensions)
        };
        let in_file = || {
            let (prediction, reference) = items.first_pair.as_ref()?;
            table_of(reference).or_else(|| table_of(prediction))
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

fn score(args: &Args, cx: &Context, items: &Items) -> anyhow::Result<Results> {
    let (options, mappings, settings) = args.options(items)?;
    let group = settings.group_by.as_deref().map(grouping).transpose()?;
    let job = scoring::Job {
        args,
        cx,
        options: &options,
        mappings: &mappings,
        settings: &settings,
    };
    let (cases, failures) = job.run(items)?;
    Ok(Results::new(settings, cases, failures, group.as_deref()))
}

fn merge(files: &[PathBuf]) -> anyhow::Result<Results> {
    let shards = files
        .iter()
        .map(|path| read_results(path))
        .collect::<Result<Vec<_>, _>>()?;
    let pattern = shards
        .first()
        .and_then(|shard| shard.settings.group_by.clone());
    let group = pattern.as_deref().map(grouping).transpose()?;
    Ok(Results::merge(shards, group.as_deref())?)
}

fn read_results(path: &Path) -> anyhow::Result<Results> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", display_name(path)))?;
    Results::from_json(&text).with_context(|| display_name(path))
}

/// Names the group of a case.
type Grouping = Box<dyn Fn(&str) -> String + Sync>;

/// The group of a case by `--group-by`: the first group of the pattern, else all that it matches, else
/// the case itself.
fn grouping(pattern: &str) -> anyhow::Result<Grouping> {
    let regex = regex_lite::Regex::new(pattern)
        .map_err(|error| Usage(format!("--group-by {pattern:?}: {error}")))?;
    Ok(Box::new(move |case| {
        let found = regex
            .captures(case)
            .and_then(|found| found.get(1).or_else(|| found.get(0)));
        found.map_or(case, |found| found.as_str()).to_owned()
    }))
}
