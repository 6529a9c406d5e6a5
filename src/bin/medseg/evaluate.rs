//! `medseg evaluate`: scores predictions against references.
//!
//! Files are paired by name, cases are scored in parallel within the memory limit, and what cannot be scored is recorded while
//! the rest goes on. The results file is the source of every other output. docs/evaluate.md defines the scores.

mod args;
mod items;
mod journal;
mod outputs;
mod scoring;
mod segmenter;

use crate::context::Context;
use crate::outcome::{Outcome, Usage};
use anyhow::Context as _;
pub use args::Args;
use items::Items;
use medseg::evaluate::baseline::{self, Tolerances};
use medseg::evaluate::case::CaseScores;
use medseg::evaluate::comparison::Comparison;
use medseg::evaluate::gate::Gate;
use medseg::evaluate::measure::full_name;
use medseg::evaluate::results::Results;
use medseg::io::atomic::Plan;
use medseg::io::batch::case_name;
use medseg::io::display_name;
use segmenter::Segmenter;
use std::path::{Path, PathBuf};

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
    if args.existing.skip_existing && args.existing.plan(&args.output)? == Plan::Skip {
        cx.say(&format!("{}: exists, skipped", display_name(&args.output)));
        return Ok(Outcome::Done);
    }
    outputs::check(args)?;
    if !args.compare.is_empty() {
        return compare(args);
    }
    let mut results = if args.merge.is_empty() {
        let model = Segmenter::load(args, cx)?;
        let items = Items::find(args, model.as_ref())?;
        if args.dry_run {
            return items.print(args, cx);
        }
        score(args, cx, &items, model.as_ref())?
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

fn score(
    args: &Args,
    cx: &Context,
    items: &Items,
    model: Option<&Segmenter>,
) -> anyhow::Result<Results> {
    let (options, mappings, settings) = args.options(items, model)?;
    let group = settings.group_by.as_deref().map(grouping).transpose()?;
    let job = scoring::Job {
        args,
        cx,
        options: &options,
        mappings: &mappings,
        settings: &settings,
        model,
    };
    let (cases, failures) = job.run(items)?;
    for tube in &options.tubes {
        let occurs = |case: &CaseScores| case.labels.iter().any(|target| target.label == *tube);
        if !cases.iter().any(occurs) {
            cx.warn(
                "tubes",
                &format!("--tubes {tube}: no case has this label or region"),
            );
        }
    }
    Ok(Results::new(settings, cases, failures, group.as_deref()))
}

/// `--compare`: several results files against each other.
fn compare(args: &Args) -> anyhow::Result<Outcome> {
    let name = |path: &Path| case_name(path).to_string_lossy().into_owned();
    let stem = |path: &Path| name(path).trim_end_matches(".json").to_owned();
    let evaluations = args
        .compare
        .iter()
        .map(|path| {
            let short = args
                .compare
                .iter()
                .filter(|other| stem(other) == stem(path));
            let unique = short.count() == 1;
            let shown = if unique {
                stem(path)
            } else {
                display_name(path)
            };
            Ok((shown, read_results(path)?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let scores = if args.scores.is_empty() {
        vec!["dice".to_owned()]
    } else {
        let full = |text: &String| {
            full_name(text).ok_or_else(|| Usage(format!("--score {text}: is no score")))
        };
        args.scores
            .iter()
            .map(full)
            .collect::<Result<Vec<_>, _>>()?
    };
    let comparison = Comparison::new(&evaluations, &scores, args.seed)?;
    outputs::write_comparison(args, &comparison)?;
    Ok(Outcome::Done)
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
