//! Parts of the page with charts and pictures.

use super::Page;
use super::charts::{self, BoxRow};
use super::encode::{base64, escape};
use super::tables::{status_word, table};
use crate::evaluate::comparison::paired;
use crate::report::markdown::{COMPARED, common_dice};
use crate::report::numbers;
use crate::report::source::verdict;
use crate::report::worst::Shown;
use std::fmt::Write;

pub fn verdicts(page: &Page<'_>, text: &mut String) {
    text.push_str("<section class=\"cards\">\n");
    for model in page.report.models {
        let results = &model.results;
        let (class, word) = match verdict(model) {
            Some(true) => ("pass", page.word("PASS")),
            Some(false) => ("fail", page.word("FAIL")),
            None => ("open", page.word("no checks were asked for")),
        };
        let _ = write!(
            text,
            "<div class=\"card\"><h2>{}</h2><p class=\"verdict {class}\">{word}</p><p>{}: {}. {}: {}.</p><ul>",
            escape(&model.name),
            page.word("cases scored"),
            results.cases.len(),
            page.word("cases not scored"),
            results.failures.len()
        );
        for check in &results.checks {
            let sign = if check.holds { "✓" } else { "✗" };
            let _ = write!(text, "<li>{sign} {}</li>", escape(&check.text));
        }
        if let Some(baseline) = &results.baseline {
            let sign = if baseline.holds() { "✓" } else { "✗" };
            let _ = write!(
                text,
                "<li>{sign} {}: {} values compared, {} worse, {} cases lost</li>",
                page.word("baseline"),
                baseline.compared,
                baseline.regressions.len(),
                baseline.lost_cases.len()
            );
        }
        text.push_str("</ul></div>\n");
    }
    text.push_str("</section>\n");
}

pub fn distributions(page: &Page<'_>, text: &mut String) {
    let _ = writeln!(
        text,
        "<section><h2>{}</h2><p class=\"note\">{}; ◆ {}</p>",
        page.word("Distribution"),
        page.word("box: quartiles; whiskers: extremes"),
        page.word("mean and 95 % bootstrap interval")
    );
    if page.report.models.len() > 1 {
        text.push_str("<p class=\"key\">");
        for (index, model) in page.report.models.iter().enumerate() {
            let _ = write!(
                text,
                "<span class=\"m{}\">■</span> {} ",
                index % 6,
                escape(&model.name)
            );
        }
        text.push_str("</p>");
    }
    text.push_str("<div class=\"charts\">\n");
    for score in page.headlines.iter().filter(|score| *score != "iou") {
        let rows = box_rows(page, score);
        if !rows.is_empty() {
            let title = numbers::title(score);
            let chart = charts::boxes(&rows, &title, numbers::is_share(score));
            let _ = writeln!(
                text,
                "<figure><figcaption>{}</figcaption>{chart}</figure>",
                escape(&title)
            );
        }
    }
    text.push_str("</div></section>\n");
}

fn box_rows(page: &Page<'_>, score: &str) -> Vec<BoxRow> {
    let mut rows = Vec::new();
    for label in &page.labels {
        for (index, model) in page.report.models.iter().enumerate() {
            let targets = &model.results.summary.labels;
            let found = targets
                .iter()
                .find(|target| target.label == *label)
                .and_then(|target| target.scores.get(score)?.distribution);
            let Some(found) = found else { continue };
            let cases = model.results.cases.iter().flat_map(|case| &case.labels);
            rows.push(BoxRow {
                name: label.clone(),
                model: index,
                five: [found.min, found.q1, found.median, found.q3, found.max],
                mean: found.mean,
                interval: found.mean_ci95,
                values: cases
                    .filter(|target| target.label == *label)
                    .filter_map(|target| target.scores.get(score).copied().flatten())
                    .collect(),
            });
        }
    }
    rows
}

pub fn comparison(page: &Page<'_>, text: &mut String) {
    let Some((first, others)) = page.report.models.split_first() else {
        return;
    };
    if others.is_empty() {
        return;
    }
    let _ = writeln!(text, "<section><h2>{}</h2>", page.word("Compare"));
    for second in others {
        let heads = [
            "score",
            "label",
            "n",
            "mean difference",
            "CI95 low",
            "CI95 high",
            "p (Holm)",
            "win",
            "tie",
            "loss",
        ];
        let mut rows = Vec::new();
        for score in COMPARED {
            let decimals = numbers::decimals(score);
            let seed = first.results.settings.policy.seed;
            for row in paired(&first.results.cases, &second.results.cases, score, seed) {
                let shown = |value: f64| numbers::text(Some(value), decimals);
                rows.push(vec![
                    numbers::title(score),
                    row.label.clone(),
                    row.n.to_string(),
                    shown(row.mean_difference),
                    shown(row.ci95[0]),
                    shown(row.ci95[1]),
                    numbers::text(row.p_holm, 4),
                    row.wins.to_string(),
                    row.ties.to_string(),
                    row.losses.to_string(),
                ]);
            }
        }
        let _ = writeln!(
            text,
            "<h3>{} - {}</h3>",
            escape(&second.name),
            escape(&first.name)
        );
        table(text, &heads.map(|head| page.word(head)), &rows, &[0, 1]);
        let points: Vec<(f64, f64)> = common_dice(first, second)
            .into_iter()
            .map(|(_, _, a, b)| (a, b))
            .collect();
        let titles = [
            format!("Dice {}", first.name),
            format!("Dice {}", second.name),
        ];
        let chart = charts::scatter(&points, [&titles[0], &titles[1]]);
        let _ = writeln!(
            text,
            "<figure><figcaption>{}</figcaption>{chart}</figure>",
            page.word("Dice of both models")
        );
    }
    text.push_str("</section>\n");
}

pub fn worst(page: &Page<'_>, text: &mut String) {
    if page.report.worst.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "<section><h2>{}</h2><p class=\"note\">{}</p><div class=\"worst\">",
        page.word("worst cases"),
        page.word("blue: reference; orange: prediction")
    );
    for (index, shown) in page.report.worst.iter().enumerate() {
        worst_case(page, text, index, shown);
    }
    text.push_str("</div></section>\n");
}

fn worst_case(page: &Page<'_>, text: &mut String, index: usize, shown: &Shown) {
    let chosen = &shown.chosen;
    let model = &page.report.models[chosen.model];
    let case = &model.results.cases[chosen.case];
    let target = &case.labels[chosen.label];
    let score = |name: &str| {
        let value = target.scores.get(name).copied().flatten();
        numbers::text(value, numbers::decimals(name))
    };
    let name = if page.report.models.len() > 1 {
        format!("{}: ", escape(&model.name))
    } else {
        String::new()
    };
    let _ = write!(
        text,
        "<article id=\"worst{index}\"><h3>{name}{}, {}</h3><p>{}. Dice {}, HD95 {} mm</p>",
        escape(&target.label),
        escape(&case.case),
        status_word(page, target.status),
        score("dice"),
        score("hd95_mm")
    );
    match &shown.pictures {
        Ok(pictures) => {
            text.push_str("<div class=\"viewer\">");
            for (position, (z, png)) in pictures.slices.iter().enumerate() {
                let hidden = if position == pictures.first {
                    ""
                } else {
                    " hidden"
                };
                let _ = write!(
                    text,
                    "<img{hidden} data-z=\"{z}\" width=\"486\" alt=\"{}, {}, {} {z}\" src=\"data:image/png;base64,{}\">",
                    escape(&case.case),
                    escape(&target.label),
                    page.word("slice"),
                    base64(&png.0)
                );
            }
            let at = pictures.slices.get(pictures.first).map_or(0, |(z, _)| *z);
            let _ = write!(
                text,
                "<label>{} <output>{at}</output><input type=\"range\" min=\"0\" max=\"{}\" value=\"{}\"></label></div>",
                page.word("slice"),
                pictures.slices.len().saturating_sub(1),
                pictures.first
            );
        }
        Err(reason) => {
            let _ = write!(
                text,
                "<p class=\"note\">{}: {}</p>",
                page.word("no picture"),
                escape(reason)
            );
        }
    }
    let known = case.slices.as_ref();
    if let Some((z, found)) =
        known.and_then(|slices| Some((&slices.z, slices.labels.get(&target.label)?)))
    {
        let titles = [page.word("slice"), "Dice"];
        text.push_str(&charts::profile(z, &found.dice, chosen.slice, titles));
    }
    text.push_str("</article>\n");
}
