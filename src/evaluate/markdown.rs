//! Results as a Markdown table for job summaries and pull requests.

use super::results::Results;
use super::summary::ScoreSummary;
use std::fmt::Write;

/// Scores that get a column, where they were measured.
const COLUMNS: [(&str, &str); 6] = [
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("nsd@1", "NSD 1 mm"),
    ("nsd@2", "NSD 2 mm"),
    ("hd95_mm", "HD95 mm"),
    ("assd_mm", "ASSD mm"),
];

/// Characters that would end a cell or start markup.
pub(crate) fn cell(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace(['\n', '\r'], " ")
        .replace('<', "&lt;")
}

fn score(summary: Option<&ScoreSummary>) -> String {
    match summary.and_then(|summary| summary.distribution) {
        None => "n/a".to_owned(),
        Some(found) => match found.mean_ci95 {
            None => format!("{:.4}", found.mean),
            Some([low, high]) => format!("{:.4} ({low:.4} to {high:.4})", found.mean),
        },
    }
}

/// The checks, a table of means with their 95 % intervals by label, and what could not be scored.
pub fn document(results: &Results) -> String {
    let mut text = format!(
        "### medseg evaluate: {} cases, {} not scored\n\n",
        results.summary.cases,
        results.failures.len()
    );
    for verdict in &results.checks {
        let sign = if verdict.holds {
            "passed"
        } else {
            "**failed**"
        };
        let _ = writeln!(text, "- {sign}: {}", cell(&verdict.text));
    }
    if let Some(baseline) = &results.baseline {
        let sign = if baseline.holds() {
            "passed"
        } else {
            "**failed**"
        };
        let _ = writeln!(
            text,
            "- {sign}: baseline: {} values compared, {} worse, {} cases lost, {} new",
            baseline.compared,
            baseline.regressions.len(),
            baseline.lost_cases.len(),
            baseline.new_cases.len()
        );
        for (what, names) in [
            ("labels", &baseline.lost_labels),
            ("scores", &baseline.lost_scores),
        ] {
            if !names.is_empty() {
                let _ = writeln!(
                    text,
                    "- **lost**: {what} of the baseline that this run does not have: {}",
                    cell(&names.join(", "))
                );
            }
        }
    }
    let columns: Vec<_> = COLUMNS
        .into_iter()
        .filter(|(name, _)| {
            results
                .summary
                .labels
                .iter()
                .any(|target| target.scores.contains_key(*name))
        })
        .collect();
    text.push_str("\n| label | ok | missed | spurious | absent |");
    for (_, title) in &columns {
        let _ = write!(text, " {title} |");
    }
    text.push_str("\n|---|---|---|---|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for target in &results.summary.labels {
        let name = if target.label == "*" {
            "all"
        } else {
            &target.label
        };
        let cases = target.cases;
        let _ = write!(
            text,
            "| {} | {} | {} | {} | {} |",
            cell(name),
            cases.ok,
            cases.missed,
            cases.spurious,
            cases.both_empty
        );
        for (name, _) in &columns {
            let _ = write!(text, " {} |", score(target.scores.get(*name)));
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\nMeans over cases with 95 % bootstrap intervals; surface distances as `{}` defines them.",
        results.settings.definition
    );
    let worst = results.summary.labels.first().map(|all| &all.worst);
    if let Some(worst) = worst.filter(|worst| !worst.is_empty()) {
        let shown = worst.iter().map(|entry| {
            let (case, label) = (cell(&entry.case), cell(&entry.label));
            format!("{case} {label} {:.3}", entry.dice)
        });
        let shown: Vec<String> = shown.collect();
        let _ = writeln!(text, "\nWorst Dice: {}.", shown.join(", "));
    }
    if !results.failures.is_empty() {
        text.push_str("\nNot scored:\n\n");
        for failure in &results.failures {
            let _ = writeln!(text, "- {}: {}", cell(&failure.case), cell(&failure.reason));
        }
    }
    text
}
