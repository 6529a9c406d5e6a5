//! Tables of the page.

use super::Page;
use super::charts::spark;
use super::encode::escape;
use crate::evaluate::case::Status;
use crate::report::numbers;
use crate::report::source::{failure_kind, number_name, settings};
use std::fmt::Write;

/// A table that sorts by any column. Columns in `text_columns` are left-aligned text; in the others
/// what is no number (`n/a`) sorts last.
pub fn table(text: &mut String, heads: &[&str], rows: &[Vec<String>], text_columns: &[usize]) {
    start(text, "", heads);
    for row in rows {
        text.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            if text_columns.contains(&column) {
                let _ = write!(text, "<td class=\"t\">{}</td>", escape(cell));
            } else {
                let _ = write!(text, "<td>{}</td>", escape(cell));
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
}

fn start(text: &mut String, id: &str, heads: &[&str]) {
    let id = if id.is_empty() {
        String::new()
    } else {
        format!(" id=\"{id}\"")
    };
    let _ = write!(text, "<div class=\"scroll\"><table{id}><thead><tr>");
    for head in heads {
        let _ = write!(
            text,
            "<th scope=\"col\"><button type=\"button\">{}</button></th>",
            escape(head)
        );
    }
    text.push_str("</tr></thead><tbody>\n");
}

pub fn status_word(page: &Page<'_>, status: Status) -> &'static str {
    page.word(match status {
        Status::Ok => "ok",
        Status::Missed => "missed",
        Status::Spurious => "spurious",
        Status::BothEmpty => "absent",
    })
}

pub fn summary(page: &Page<'_>, text: &mut String) {
    let several = page.report.models.len() > 1;
    let mut heads = vec![
        page.word("label"),
        page.word("ok"),
        page.word("missed"),
        page.word("spurious"),
        page.word("absent"),
    ];
    if several {
        heads.insert(0, page.word("model"));
    }
    let titles: Vec<String> = page
        .headlines
        .iter()
        .map(|score| numbers::title(score))
        .collect();
    heads.extend(titles.iter().map(String::as_str));
    let mut rows = Vec::new();
    for model in page.report.models {
        for target in &model.results.summary.labels {
            let name = if target.label == "*" {
                page.word("all labels")
            } else {
                &target.label
            };
            let cases = target.cases;
            let counts = [cases.ok, cases.missed, cases.spurious, cases.both_empty];
            let mut row = if several {
                vec![model.name.clone()]
            } else {
                Vec::new()
            };
            row.push(name.to_owned());
            row.extend(counts.map(|count| count.to_string()));
            for score in &page.headlines {
                let decimals = numbers::decimals(score);
                let found = target
                    .scores
                    .get(score)
                    .and_then(|found| found.distribution);
                let mean = numbers::text(found.map(|found| found.mean), decimals);
                row.push(match found.and_then(|found| found.mean_ci95) {
                    Some([low, high]) => format!("{mean} ({low:.decimals$} - {high:.decimals$})"),
                    None => mean,
                });
            }
            rows.push(row);
        }
    }
    let _ = writeln!(
        text,
        "<section><h2>{}</h2><p class=\"note\">{}</p>",
        page.word("Summary"),
        page.word("mean and 95 % bootstrap interval")
    );
    table(text, &heads, &rows, if several { &[0, 1] } else { &[0] });
    text.push_str("</section>\n");
}

/// One row for every case and label, with a filter by text and by status.
pub fn patients(page: &Page<'_>, text: &mut String) {
    let _ = write!(
        text,
        "<section><h2>{}</h2><p class=\"controls\"><label>{} <input id=\"filter\" type=\"search\"></label> \
         <label>{} <select id=\"status\"><option value=\"\">{}</option>",
        page.word("Patients"),
        page.word("filter"),
        page.word("status"),
        page.word("all")
    );
    for status in [
        Status::Ok,
        Status::Missed,
        Status::Spurious,
        Status::BothEmpty,
    ] {
        let _ = write!(
            text,
            "<option value=\"{}\">{}</option>",
            status.name(),
            status_word(page, status)
        );
    }
    let _ = writeln!(
        text,
        "</select></label> {}: <output id=\"shown\"></output>. <span class=\"note\">{}</span></p>",
        page.word("shown rows"),
        page.word("click a heading to sort")
    );
    let several = page.report.models.len() > 1;
    let mut heads = vec![page.word("case"), page.word("label"), page.word("status")];
    if several {
        heads.insert(0, page.word("model"));
    }
    let titles: Vec<String> = page
        .scores
        .iter()
        .map(|score| numbers::title(score))
        .collect();
    heads.extend(titles.iter().map(String::as_str));
    heads.push(page.word("Dice by slice"));
    start(text, "patients", &heads);
    for (model_index, model) in page.report.models.iter().enumerate() {
        for (case_index, case) in model.results.cases.iter().enumerate() {
            for (label_index, target) in case.labels.iter().enumerate() {
                let _ = write!(text, "<tr data-status=\"{}\">", target.status.name());
                if several {
                    let _ = write!(text, "<td class=\"t\">{}</td>", escape(&model.name));
                }
                let _ = write!(text, "<td class=\"t\">{}</td>", escape(&case.case));
                let worst = page.report.worst.iter().position(|shown| {
                    let chosen = &shown.chosen;
                    (chosen.model, chosen.case, chosen.label)
                        == (model_index, case_index, label_index)
                });
                let label = escape(&target.label);
                let _ = match worst {
                    Some(index) => write!(
                        text,
                        "<td class=\"t\"><a href=\"#worst{index}\">{label}</a></td>"
                    ),
                    None => write!(text, "<td class=\"t\">{label}</td>"),
                };
                let _ = write!(
                    text,
                    "<td class=\"t s-{}\">{}</td>",
                    target.status.name(),
                    status_word(page, target.status)
                );
                for score in &page.scores {
                    let value = target.scores.get(score).copied().flatten();
                    let low =
                        score == "dice" && value.is_some_and(|dice| dice < page.report.flag_below);
                    let class = if low { " class=\"low\"" } else { "" };
                    let reason = target.undefined.get(score).filter(|_| value.is_none());
                    let reason = reason.map_or_else(String::new, |reason| {
                        format!(" title=\"{}\"", escape(reason))
                    });
                    let shown = numbers::text(value, numbers::decimals(score));
                    let _ = write!(text, "<td{class}{reason}>{shown}</td>");
                }
                let course = case.slices.as_ref().and_then(|slices| {
                    Some(spark(&slices.z, &slices.labels.get(&target.label)?.dice))
                });
                let _ = writeln!(text, "<td>{}</td></tr>", course.unwrap_or_default());
            }
        }
    }
    text.push_str("</tbody></table></div></section>\n");
}

pub fn confusion(page: &Page<'_>, text: &mut String) {
    let _ = writeln!(
        text,
        "<section><h2>{}</h2><p class=\"note\">{}</p>",
        page.word("Confusion"),
        page.word("share of the reference")
    );
    for model in page.report.models {
        let confusion = &model.results.summary.confusion;
        if page.report.models.len() > 1 {
            let _ = writeln!(text, "<h3>{}</h3>", escape(&model.name));
        }
        let _ = write!(
            text,
            "<div class=\"scroll\"><table class=\"heat\"><thead><tr><th>{} \\ {}</th>",
            page.word("reference"),
            page.word("prediction")
        );
        let names: Vec<String> = confusion
            .labels
            .iter()
            .map(|&number| escape(&number_name(model, number)))
            .collect();
        for name in &names {
            let _ = write!(text, "<th scope=\"col\">{name}</th>");
        }
        let _ = writeln!(text, "<th>{}</th></tr></thead><tbody>", page.word("total"));
        for (row, name) in confusion.matrix.iter().zip(&names) {
            let total: u64 = row.iter().sum();
            let _ = write!(text, "<tr><th scope=\"row\">{name}</th>");
            for &count in row {
                let share = (total > 0).then(|| count as f64 / total as f64);
                // The darkest ground still lets the text be read.
                let alpha = share.unwrap_or(0.0) * 0.55;
                let _ = write!(
                    text,
                    "<td style=\"background:rgba(86,180,233,{alpha:.3})\">{}<small>{count}</small></td>",
                    numbers::text(share, 4)
                );
            }
            let _ = writeln!(text, "<td>{total}</td></tr>");
        }
        text.push_str("</tbody></table></div>\n");
    }
    text.push_str("</section>\n");
}

pub fn failures(page: &Page<'_>, text: &mut String) {
    let _ = writeln!(text, "<section><h2>{}</h2>", page.word("Failures"));
    let mut rows = Vec::new();
    for model in page.report.models {
        for failure in &model.results.failures {
            let (kind, remedy) = failure_kind(failure.kind);
            rows.push(vec![
                model.name.clone(),
                failure.case.clone(),
                kind.to_owned(),
                failure.reason.clone(),
                remedy.to_owned(),
            ]);
        }
    }
    if rows.is_empty() {
        let _ = write!(text, "<p>{}</p>", page.word("all cases were scored"));
    } else {
        let heads = ["model", "case", "kind", "reason", "what to do"].map(|head| page.word(head));
        table(text, &heads, &rows, &[0, 1, 2, 3, 4]);
    }
    text.push_str("</section>\n");
}

pub fn run(page: &Page<'_>, text: &mut String) {
    let _ = writeln!(text, "<section><h2>{}</h2>", page.word("Run"));
    let columns: Vec<_> = page
        .report
        .models
        .iter()
        .map(|model| settings(page.report.language, model))
        .collect();
    let mut heads = vec![page.word("setting")];
    heads.extend(page.report.models.iter().map(|model| model.name.as_str()));
    let names = columns.first().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = names
        .iter()
        .enumerate()
        .map(|(index, (name, _))| {
            let values = columns.iter().map(|column| column[index].1.clone());
            std::iter::once((*name).to_owned()).chain(values).collect()
        })
        .collect();
    let all: Vec<usize> = (0..heads.len()).collect();
    table(text, &heads, &rows, &all);
    text.push_str("</section>\n");
}
