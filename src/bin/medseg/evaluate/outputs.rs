//! What a run leaves behind: the results file and everything made from it.

use super::Args;
use super::scoring::Job;
use crate::context::{Context, print_json, print_text};
use medseg::evaluate::comparison::Comparison;
use medseg::evaluate::results::Results;
use medseg::evaluate::{csv, junit, markdown, nnunet_summary};
use medseg::io::{Overwrite, atomic};
use medseg::provenance::{CaseRecord, Status};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Names of the tables in the folder of `--csv`.
const TABLES: [&str; 3] = ["cases.csv", "slices.csv", "summary.csv"];

/// Every file that will be written.
fn files(args: &Args) -> Vec<PathBuf> {
    let mut files = vec![args.output.clone()];
    if let Some(folder) = &args.csv {
        files.extend(TABLES.iter().map(|name| folder.join(name)));
    }
    let others = [&args.junit, &args.markdown, &args.nnunet_summary];
    files.extend(others.into_iter().flatten().cloned());
    files
}

/// Refuses outputs that exist, before any work.
pub fn check(args: &Args) -> anyhow::Result<()> {
    if args.dry_run {
        return Ok(());
    }
    for folder in [&args.csv, &args.save_predictions].into_iter().flatten() {
        atomic::create_folder(folder)?;
    }
    for file in files(args) {
        atomic::check_output(&file, args.existing.overwrite_companions())?;
    }
    Ok(())
}

/// Writes all outputs and tells what came out.
pub fn write(args: &Args, cx: &Context, results: &Results) -> anyhow::Result<()> {
    let overwrite = args.existing.overwrite_companions();
    let save = |path: &Path, text: &str| atomic::write(path, overwrite, text.as_bytes());
    if let Some(folder) = &args.csv {
        let tables = [
            csv::cases(results),
            csv::slices(results),
            csv::summary(results),
        ];
        for (name, text) in TABLES.iter().zip(tables) {
            save(&folder.join(name), &text)?;
        }
    }
    if let Some(path) = &args.junit {
        save(path, &junit::document(results))?;
    }
    let report = markdown::document(results);
    if let Some(path) = &args.markdown {
        save(path, &report)?;
    }
    if let Some(path) = &args.nnunet_summary {
        let folder = |path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path| {
                    if path.is_dir() {
                        path
                    } else {
                        path.parent().unwrap_or(path)
                    }
                })
                .map(|path| path.display().to_string())
                .unwrap_or_default()
        };
        let text = nnunet_summary::document(
            results,
            &folder(&args.predictions),
            &folder(&args.references),
        );
        save(path, &text)?;
    }
    // Last: who sees the results file can rely on the others.
    let text = results.to_json()?;
    atomic::write(&args.output, overwrite_of(args), &text)?;
    Job::forget(&args.output);
    if args.json {
        print_json(&json!({
            "cases": results.cases.len(),
            "failures": results.failures,
            "summary": results.summary.labels,
            "checks": results.checks,
            "baseline": results.baseline,
        }))?;
    } else if args.output != Path::new("-") && args.merge.is_empty() {
        print_text(&report)?;
    }
    run_report(args, cx, results)
}

/// Writes the document of `--compare` and tells what came out.
pub fn write_comparison(args: &Args, comparison: &Comparison) -> anyhow::Result<()> {
    let overwrite = args.existing.overwrite_companions();
    let text = comparison.to_markdown();
    if let Some(path) = &args.markdown {
        atomic::write(path, overwrite, text.as_bytes())?;
    }
    let mut document = serde_json::to_vec_pretty(comparison)?;
    document.push(b'\n');
    atomic::write(&args.output, overwrite_of(args), &document)?;
    match (args.json, args.output == Path::new("-")) {
        (_, true) => Ok(()),
        (true, false) => print_json(comparison),
        (false, false) => print_text(&text),
    }
}

/// Standard output is always there to be written.
fn overwrite_of(args: &Args) -> Overwrite {
    if args.output == Path::new("-") {
        Overwrite::Force
    } else {
        args.existing.overwrite_companions()
    }
}

fn run_report(args: &Args, cx: &Context, results: &Results) -> anyhow::Result<()> {
    let mut report = cx.run_report();
    let record = |case: &str, error: Option<String>| {
        let failed = error.is_some();
        let status = if failed { Status::Failed } else { Status::Done };
        let mut record = CaseRecord::new(case, status);
        record.error = error;
        record
    };
    report
        .cases
        .extend(results.cases.iter().map(|case| record(&case.case, None)));
    report.cases.extend(
        results
            .failures
            .iter()
            .map(|failure| record(&failure.case, Some(failure.reason.clone()))),
    );
    cx.write_run_report(report, args.report.report.as_deref())
}
