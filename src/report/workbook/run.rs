//! Run: what the numbers were made from.

use super::Content;
use super::sheet::{Sheet, Written, width_of};
use crate::report::source::settings;
use rust_xlsxwriter::Workbook;

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let word = |text| content.word(text);
    let mut sheet = Sheet::add(workbook, content, word("Run"))?;
    let models = content.report.models;
    sheet.head(0, 0, word("setting"))?;
    sheet.heads(0, 1, models.iter().map(|model| &model.name))?;
    let mut row = 1;
    let columns: Vec<_> = models
        .iter()
        .map(|model| settings(content.report.language, model))
        .collect();
    for index in 0..columns.first().map_or(0, Vec::len) {
        for (col, settings) in (1..).zip(&columns) {
            let (name, value) = &settings[index];
            sheet.text(row, 0, name)?;
            sheet.text_as(
                row,
                col,
                value,
                &content.styles.text.clone().set_text_wrap(),
            )?;
        }
        row += 1;
    }
    row += 1;
    sheet.text_as(row, 0, word("grid of the cases"), &content.styles.bold)?;
    row += 1;
    let heads = [
        "case",
        "shape x, y, z",
        "spacing x, y, z (mm)",
        "prediction",
        "reference",
        "model",
    ];
    let shown = if models.len() > 1 { 6 } else { 5 };
    sheet.heads(row, 0, heads[..shown].iter().map(|text| content.word(text)))?;
    row += 1;
    for model in models {
        for case in &model.results.cases {
            let joined = |values: [String; 3]| values.join(" x ");
            sheet.text(row, 0, &case.case)?;
            sheet.text(row, 1, &joined(case.shape_xyz.map(|n| n.to_string())))?;
            sheet.text(
                row,
                2,
                &joined(case.spacing_xyz_mm.map(|mm| format!("{mm}"))),
            )?;
            sheet.text(row, 3, &case.prediction)?;
            sheet.text(row, 4, &case.reference)?;
            if models.len() > 1 {
                sheet.text(row, 5, &model.name)?;
            }
            row += 1;
        }
    }
    let cases = models.iter().flat_map(|model| &model.results.cases);
    sheet.width(0, width_of(cases.map(|case| case.case.as_str())).max(30.0))?;
    for col in 1..=5.max(models.len() as u16) {
        sheet.width(col, 34.0)?;
    }
    sheet.raw.set_freeze_panes(1, 1)?;
    Ok(())
}
