//! Compare: every model against the first, label by label, and the Dice of every case of both.

use super::Content;
use super::charts::Points;
use super::sheet::{Sheet, Written, width_of};
use crate::evaluate::comparison::{Paired, paired, rank};
use crate::report::markdown::{COMPARED, common_dice};
use crate::report::numbers;
use rust_xlsxwriter::{ConditionalFormatIconSet, ConditionalFormatIconType, Workbook, XlsxError};

const HEADS: [&str; 14] = [
    "second",
    "first",
    "score",
    "label",
    "n",
    "mean difference",
    "CI95 low",
    "CI95 high",
    "p",
    "p (Holm)",
    "win",
    "tie",
    "loss",
    "trend",
];

/// Column of the ends of the line y = x.
const LINE: u16 = HEADS.len() as u16;

/// Returns where the numbers of each chart of points are.
pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Result<Vec<Points>, XlsxError> {
    let mut sheet = Sheet::add(workbook, content, content.word("Compare"))?;
    let models = content.report.models;
    let Some((first, others)) = models.split_first() else {
        return Ok(Vec::new());
    };
    sheet.heads(0, 0, HEADS.map(|text| content.word(text)))?;
    sheet.raw.set_row_height(0, 30)?;
    let mut row = 1;
    for second in others {
        let names = (first.name.as_str(), second.name.as_str());
        for score in COMPARED
            .iter()
            .copied()
            .filter(|score| content.scores.iter().any(|s| s == score))
        {
            let seed = first.results.settings.policy.seed;
            for found in paired(&first.results.cases, &second.results.cases, score, seed) {
                difference(&mut sheet, content, row, names, &found)?;
                row += 1;
            }
        }
    }
    if row > 1 {
        let arrows = ConditionalFormatIconSet::new()
            .set_icon_type(ConditionalFormatIconType::ThreeArrowsGray)
            .set_icons(&[-1, 0, 1].map(|from| {
                rust_xlsxwriter::ConditionalFormatCustomIcon::new()
                    .set_rule(rust_xlsxwriter::ConditionalFormatType::Number, from)
            }))
            .show_icons_only(true);
        sheet
            .raw
            .add_conditional_format(1, 13, row - 1, 13, &arrows)?;
    }
    row = ranking(&mut sheet, content, row + 1)?;
    sheet.width(0, width_of(models.iter().map(|model| model.name.as_str())))?;
    sheet.width(1, width_of(models.iter().map(|model| model.name.as_str())))?;
    sheet.width(3, width_of(content.labels.iter().map(String::as_str)))?;
    for col in [2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
        sheet.width(col, 12.0)?;
    }
    sheet.raw.set_freeze_panes(1, 0)?;
    sheet.raw.set_repeat_rows(0, 0)?;
    points(&mut sheet, content, row + 1)
}

fn difference(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    row: u32,
    (first, second): (&str, &str),
    found: &Paired,
) -> Written {
    let format = content.styles.score(&found.score);
    let p = content.styles.text.clone().set_num_format("0.0000");
    sheet.text(row, 0, second)?;
    sheet.text(row, 1, first)?;
    sheet.text(row, 2, &numbers::title(&found.score))?;
    sheet.text(row, 3, &found.label)?;
    sheet.count(row, 4, found.n as u64)?;
    sheet.number(row, 5, Some(found.mean_difference), &format)?;
    sheet.number(row, 6, Some(found.ci95[0]), &format)?;
    sheet.number(row, 7, Some(found.ci95[1]), &format)?;
    sheet.number(row, 8, found.test.map(|test| test.p), &p)?;
    sheet.number(row, 9, found.p_holm, &p)?;
    for (col, count) in (10..).zip([found.wins, found.ties, found.losses]) {
        sheet.count(row, col, count as u64)?;
    }
    // An arrow only where the interval leaves out zero: up is better, whatever the score.
    let better = if numbers::less_is_better(&found.score) {
        -1.0
    } else {
        1.0
    };
    let trend = match found.ci95 {
        [low, _] if low > 0.0 => better,
        [_, high] if high < 0.0 => -better,
        _ => 0.0,
    };
    sheet.number(row, 13, Some(trend), &content.styles.text)
}

/// Returns the next free row.
fn ranking(sheet: &mut Sheet<'_>, content: &Content<'_>, mut row: u32) -> Result<u32, XlsxError> {
    let models = content.report.models;
    let cases: Vec<_> = models
        .iter()
        .map(|model| model.results.cases.as_slice())
        .collect();
    let seed = models
        .first()
        .map_or(0, |model| model.results.settings.policy.seed);
    sheet.text_as(
        row,
        0,
        content.word("ranking by Dice"),
        &content.styles.bold,
    )?;
    row += 1;
    let heads = ["model", "mean", "rank of the mean", "mean of the ranks"];
    sheet.heads(row, 0, heads.map(|text| content.word(text)))?;
    row += 1;
    for found in rank(&cases, "dice", seed) {
        sheet.text(row, 0, &models[found.index].name)?;
        let format = content.styles.score("dice");
        sheet.number(row, 1, Some(found.mean), &format)?;
        let places = content.styles.score("hd_mm");
        sheet.number(row, 2, Some(found.aggregate_then_rank), &places)?;
        sheet.number(row, 3, Some(found.rank_then_aggregate), &places)?;
        row += 1;
    }
    Ok(row)
}

/// Dice of the first and of each other model, case by case; returns where each pair is.
fn points(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    mut row: u32,
) -> Result<Vec<Points>, XlsxError> {
    let mut charts = Vec::new();
    let Some((first, others)) = content.report.models.split_first() else {
        return Ok(charts);
    };
    let format = content.styles.score("dice");
    // Ends of the line y = x: grey, right of what is printed.
    let line = row;
    for (index, end) in [0.0, 1.0].into_iter().enumerate() {
        sheet.number(line + index as u32, LINE, Some(end), &content.styles.note)?;
    }
    for (index, second) in others.iter().enumerate() {
        sheet.heads(row, 0, [content.word("case"), content.word("label")])?;
        sheet.head(row, 2, &format!("Dice {}", first.name))?;
        sheet.head(row, 3, &format!("Dice {}", second.name))?;
        row += 1;
        let from = row;
        for (case, label, a, b) in common_dice(first, second) {
            sheet.text(row, 0, case)?;
            sheet.text(row, 1, label)?;
            sheet.number(row, 2, Some(a), &format)?;
            sheet.number(row, 3, Some(b), &format)?;
            row += 1;
        }
        if row > from {
            charts.push(Points {
                second: index + 1,
                rows: (from, row - 1),
                columns: [2, 3],
                line: (line, LINE),
            });
        }
        row += 1;
    }
    sheet
        .raw
        .set_print_area(0, 0, row - 1, HEADS.len() as u16 - 1)?;
    Ok(charts)
}
