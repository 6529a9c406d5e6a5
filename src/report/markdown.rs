//! Markdown for job summaries: each model as `medseg evaluate` shows it, then the comparison.

use super::Report;
use super::numbers;
use super::source::Model;
use crate::evaluate::comparison::paired;
use crate::evaluate::summary::{Empty, counted_value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Scores in which models are compared, where both were measured.
pub const COMPARED: [&str; 4] = ["dice", "nsd@1", "nsd@2", "hd95_mm"];

/// The document.
pub fn document(report: &Report<'_>) -> String {
    let mut text = String::new();
    for model in report.models {
        if report.models.len() > 1 {
            let _ = writeln!(text, "## {}\n", cell(&model.name));
        }
        text.push_str(&crate::evaluate::markdown::document(&model.results));
        text.push('\n');
    }
    let Some((first, others)) = report.models.split_first() else {
        return text;
    };
    for second in others {
        let _ = writeln!(
            text,
            "### {}: {} - {}\n",
            report.language.word("difference"),
            cell(&second.name),
            cell(&first.name)
        );
        let heads = [
            "score",
            "label",
            "n",
            "mean difference",
            "p (Holm)",
            "win",
            "tie",
            "loss",
        ];
        let heads: Vec<&str> = heads.map(|text| report.language.word(text)).to_vec();
        let _ = writeln!(
            text,
            "| {} |\n|{}",
            heads.join(" | "),
            "---|".repeat(heads.len())
        );
        let seed = first.results.settings.policy.seed;
        for score in COMPARED {
            for row in paired(&first.results.cases, &second.results.cases, score, seed) {
                let decimals = numbers::decimals(score);
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {:+.decimals$} ({:+.decimals$} to {:+.decimals$}) | {} | {} | {} | {} |",
                    numbers::title(score),
                    cell(&row.label),
                    row.n,
                    row.mean_difference,
                    row.ci95[0],
                    row.ci95[1],
                    numbers::text(row.p_holm, 4),
                    row.wins,
                    row.ties,
                    row.losses
                );
            }
        }
        text.push('\n');
    }
    text
}

/// Characters that would end a cell or start markup.
fn cell(text: &str) -> String {
    crate::evaluate::markdown::cell(text)
}

/// Case, label and Dice of two models where both have a number; missed and spurious structures count
/// as 0, as in the comparison.
pub fn common_dice<'a>(first: &'a Model, second: &'a Model) -> Vec<(&'a str, &'a str, f64, f64)> {
    let values = |model: &'a Model| -> Vec<((&'a str, &'a str), f64)> {
        let cases = model.results.cases.iter();
        cases
            .flat_map(|case| case.labels.iter().map(move |target| (case, target)))
            .filter_map(|(case, target)| {
                let dice = counted_value("dice", target, case.diagonal_mm, Empty::Worst)?;
                Some(((case.case.as_str(), target.label.as_str()), dice))
            })
            .collect()
    };
    let others: BTreeMap<_, _> = values(second).into_iter().collect();
    values(first)
        .into_iter()
        .filter_map(|((case, label), dice)| Some((case, label, dice, *others.get(&(case, label))?)))
        .collect()
}
