//! Confusion: voxels by reference label (rows) and predicted label (columns), as counts and as shares
//! of the row, with recall and precision at the margins.

use super::Content;
use super::sheet::{Sheet, Written, width_of};
use crate::report::source::{Model, number_name};
use rust_xlsxwriter::{Color, ConditionalFormat2ColorScale, ConditionalFormatType, Workbook};

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let mut sheet = Sheet::add(workbook, content, content.word("Confusion"))?;
    let mut row = 0;
    let mut names = Vec::new();
    for model in content.report.models {
        if content.lead() > 0 {
            sheet.text_as(row, 0, &model.name, &content.styles.title)?;
            row += 1;
        }
        row = counts(&mut sheet, content, model, row)?;
        row = shares(&mut sheet, content, model, row + 1)? + 1;
        names.extend(labels(model));
    }
    let word_width = width_of([content.word("reference")]);
    sheet.width(
        0,
        width_of(names.iter().map(String::as_str)).max(word_width) + 6.0,
    )?;
    let most = content
        .report
        .models
        .iter()
        .map(|model| labels(model).len())
        .max();
    for col in 1..=(most.unwrap_or(0) as u16 + 2).min(16_000) {
        sheet.width(col, 14.0)?;
    }
    sheet.raw.set_freeze_panes(0, 1)?;
    Ok(())
}

fn labels(model: &Model) -> Vec<String> {
    let numbers = model.results.summary.confusion.labels.iter();
    numbers.map(|&number| number_name(model, number)).collect()
}

fn heading(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    row: u32,
    title: &str,
    model: &Model,
    margins: &[&'static str],
) -> Written {
    sheet.text_as(row, 0, title, &content.styles.bold)?;
    let corner = format!(
        "{} \\ {}",
        content.word("reference"),
        content.word("prediction")
    );
    sheet.head(row + 1, 0, &corner)?;
    sheet.raw.set_row_height(row + 1, 32)?;
    let names = labels(model);
    sheet.heads(row + 1, 1, &names)?;
    let margins = margins.iter().map(|margin| content.word(margin));
    sheet.heads(row + 1, 1 + names.len() as u16, margins)
}

fn counts(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    model: &Model,
    row: u32,
) -> Result<u32, rust_xlsxwriter::XlsxError> {
    let matrix = &model.results.summary.confusion.matrix;
    heading(
        sheet,
        content,
        row,
        content.word("voxels"),
        model,
        &["total", "recall"],
    )?;
    let share = content.styles.score("recall");
    let bold = content.styles.count.clone().set_bold();
    let width = matrix.len() as u16;
    let mut at = row + 2;
    for (index, (counts, name)) in matrix.iter().zip(labels(model)).enumerate() {
        sheet.head(at, 0, &name)?;
        for (col, &count) in counts.iter().enumerate() {
            if col == index {
                sheet.number(at, 1 + col as u16, Some(count as f64), &bold)?;
            } else {
                sheet.count(at, 1 + col as u16, count)?;
            }
        }
        let total: u64 = counts.iter().sum();
        sheet.count(at, width + 1, total)?;
        let right = counts.get(index).copied().unwrap_or(0);
        sheet.number(at, width + 2, ratio(right, total), &share)?;
        at += 1;
    }
    sheet.head(at, 0, content.word("total"))?;
    sheet.head(at + 1, 0, content.word("precision"))?;
    for index in 0..matrix.len() {
        let column = || matrix.iter().filter_map(|row| row.get(index));
        let total: u64 = column().sum();
        let right = matrix
            .get(index)
            .and_then(|row| row.get(index))
            .copied()
            .unwrap_or(0);
        sheet.count(at, 1 + index as u16, total)?;
        sheet.number(at + 1, 1 + index as u16, ratio(right, total), &share)?;
    }
    Ok(at + 2)
}

fn shares(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    model: &Model,
    row: u32,
) -> Result<u32, rust_xlsxwriter::XlsxError> {
    let matrix = &model.results.summary.confusion.matrix;
    heading(
        sheet,
        content,
        row,
        content.word("share of the reference"),
        model,
        &[],
    )?;
    let plain = content.styles.score("recall");
    let bold = plain.clone().set_bold();
    let first = row + 2;
    let mut at = first;
    for (index, (counts, name)) in matrix.iter().zip(labels(model)).enumerate() {
        sheet.head(at, 0, &name)?;
        let total: u64 = counts.iter().sum();
        for (col, &count) in counts.iter().enumerate() {
            let style = if col == index { &bold } else { &plain };
            sheet.number(at, 1 + col as u16, ratio(count, total), style)?;
        }
        at += 1;
    }
    if !matrix.is_empty() {
        let heat = ConditionalFormat2ColorScale::new()
            .set_minimum(ConditionalFormatType::Number, 0)
            .set_maximum(ConditionalFormatType::Number, 1)
            .set_minimum_color(Color::White)
            .set_maximum_color(Color::RGB(0x56B4E9));
        let last_col = matrix.len() as u16;
        sheet
            .raw
            .add_conditional_format(first, 1, at - 1, last_col, &heat)?;
    }
    Ok(at)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
