//! Distribution: every statistic of every score and label, and how many cases lie where.

use super::Content;
use super::charts::Boxes;
use super::sheet::{Sheet, width_of};
use crate::report::numbers;
use crate::report::source::Model;
use rust_xlsxwriter::{Color, ConditionalFormat2ColorScale, Workbook, XlsxError};

const STATISTICS: [&str; 11] = [
    "n",
    "left out",
    "mean",
    "sd",
    "CI95 low",
    "CI95 high",
    "min",
    "q1",
    "median",
    "q3",
    "max",
];
/// Lengths that a box is drawn from, which a chart can only take from cells: grey, right of what is printed.
const BOX: [&str; 4] = ["q1 to median", "median to q3", "min to q1", "q3 to max"];

/// Returns where the numbers of each box chart are.
pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Result<Vec<Boxes>, XlsxError> {
    let name = content.word("Distribution");
    let mut sheet = Sheet::add(workbook, content, name)?;
    let lead = content.lead();
    if lead > 0 {
        sheet.head(0, 0, content.word("model"))?;
        let names = content
            .report
            .models
            .iter()
            .map(|model| model.name.as_str());
        sheet.width(0, width_of(names))?;
    }
    sheet.heads(0, lead, [content.word("score"), content.word("label")])?;
    sheet.heads(0, lead + 2, STATISTICS.map(|text| content.word(text)))?;
    let boxes = lead + 2 + STATISTICS.len() as u16 + 1;
    for (offset, text) in BOX.into_iter().enumerate() {
        let text = format!("{} {}", content.word("for the chart"), content.word(text));
        sheet.text_as(0, boxes + offset as u16, &text, &content.styles.note)?;
    }
    sheet.width(lead, 26.0)?;
    let all = content.word("all labels");
    sheet.width(
        lead + 1,
        width_of(content.labels.iter().map(String::as_str).chain([all])),
    )?;
    let mut row = 1;
    let mut charts = Vec::new();
    for score in &content.scores {
        for (index, model) in content.report.models.iter().enumerate() {
            let first = row;
            row = statistics(&mut sheet, content, (row, boxes), (model, score))?;
            let has_all = model
                .results
                .summary
                .labels
                .first()
                .is_some_and(|all| all.label == "*");
            let first = first + u32::from(has_all);
            if content.headlines.contains(score) && score != "iou" && row > first {
                charts.push(Boxes {
                    score: score.clone(),
                    model: index,
                    rows: (first, row - 1),
                    labels: lead + 1,
                    q1: lead + 2 + 7,
                    lengths: boxes,
                });
            }
        }
    }
    sheet
        .raw
        .autofilter(0, 0, row - 1, lead + 1 + STATISTICS.len() as u16)?;
    sheet.raw.set_freeze_panes(1, lead + 2)?;
    sheet.raw.set_repeat_rows(0, 0)?;
    row = histogram(&mut sheet, content, row + 1)?;
    sheet.raw.set_print_area(0, 0, row, boxes - 1)?;
    Ok(charts)
}

/// Rows of one score of one model; returns the next free row.
fn statistics(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    (mut row, boxes): (u32, u16),
    (model, score): (&Model, &str),
) -> Result<u32, XlsxError> {
    let lead = content.lead();
    let format = content.styles.score(score);
    for target in &model.results.summary.labels {
        let Some(found) = target.scores.get(score) else {
            continue;
        };
        if lead > 0 {
            sheet.text(row, 0, &model.name)?;
        }
        sheet.text(row, lead, &numbers::title(score))?;
        let label = if target.label == "*" {
            content.word("all labels")
        } else {
            &target.label
        };
        sheet.text(row, lead + 1, label)?;
        let known = found.distribution;
        sheet.count(row, lead + 2, known.map_or(0, |known| known.n) as u64)?;
        sheet.count(row, lead + 3, found.left_out as u64)?;
        let interval = known.and_then(|known| known.mean_ci95);
        let values = [
            known.map(|known| known.mean),
            known.and_then(|known| known.sd),
            interval.map(|ends| ends[0]),
            interval.map(|ends| ends[1]),
            known.map(|known| known.min),
            known.map(|known| known.q1),
            known.map(|known| known.median),
            known.map(|known| known.q3),
            known.map(|known| known.max),
        ];
        for (col, value) in (lead + 4..).zip(values) {
            sheet.number(row, col, value, &format)?;
        }
        if let Some(known) = known {
            let lengths = [
                known.median - known.q1,
                known.q3 - known.median,
                known.q1 - known.min,
                known.max - known.q3,
            ];
            for (col, length) in (boxes..).zip(lengths) {
                sheet.number(row, col, Some(length), &content.styles.note)?;
            }
        }
        row += 1;
    }
    Ok(row)
}

/// Cases by Dice in ten steps; returns the next free row.
fn histogram(sheet: &mut Sheet<'_>, content: &Content<'_>, mut row: u32) -> Result<u32, XlsxError> {
    let lead = content.lead();
    sheet.text_as(
        row,
        lead,
        content.word("cases by Dice"),
        &content.styles.bold,
    )?;
    row += 1;
    if lead > 0 {
        sheet.head(row, 0, content.word("model"))?;
    }
    sheet.head(row, lead, content.word("label"))?;
    let steps = (0..10).map(|step| {
        format!(
            "{:.1}-{:.1}",
            f64::from(step) / 10.0,
            f64::from(step + 1) / 10.0
        )
    });
    sheet.heads(row, lead + 1, steps)?;
    row += 1;
    let first = row;
    for model in content.report.models {
        for (label, counts) in dice_histogram(model) {
            if lead > 0 {
                sheet.text(row, 0, &model.name)?;
            }
            sheet.text(row, lead, label)?;
            for (col, count) in (lead + 1..).zip(counts) {
                sheet.count(row, col, count)?;
            }
            row += 1;
        }
    }
    if row > first {
        let heat = ConditionalFormat2ColorScale::new()
            .set_minimum_color(Color::White)
            .set_maximum_color(Color::RGB(0x56B4E9));
        sheet
            .raw
            .add_conditional_format(first, lead + 1, row - 1, lead + 10, &heat)?;
    }
    Ok(row)
}

/// Cases of every label by Dice: ten steps of 0.1, the last with 1 itself.
fn dice_histogram(model: &Model) -> Vec<(&str, [u64; 10])> {
    let first = model.results.cases.first();
    let labels = first.map_or(&[][..], |case| &case.labels);
    labels
        .iter()
        .enumerate()
        .map(|(index, target)| {
            let mut counts = [0; 10];
            let targets = model
                .results
                .cases
                .iter()
                .filter_map(|case| case.labels.get(index));
            for dice in targets.filter_map(|target| target.scores.get("dice").copied().flatten()) {
                counts[((dice * 10.0) as usize).min(9)] += 1;
            }
            (target.label.as_str(), counts)
        })
        .collect()
}
