//! Failures: what could not be scored, why, and what to do.

use super::Content;
use super::sheet::{Sheet, VERMILLION, Written, width_of};
use crate::report::source::failure_kind;
use rust_xlsxwriter::Workbook;

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let word = |text| content.word(text);
    let mut sheet = Sheet::add(workbook, content, word("Failures"))?;
    let lead = content.lead();
    if lead > 0 {
        sheet.head(0, 0, word("model"))?;
    }
    let heads = ["case", "kind", "reason", "what to do"].map(word);
    sheet.heads(0, lead, heads)?;
    let mut row = 1;
    let wrapped = content.styles.text.clone().set_text_wrap();
    for model in content.report.models {
        for failure in &model.results.failures {
            if lead > 0 {
                sheet.text(row, 0, &model.name)?;
            }
            sheet.text(row, lead, &failure.case)?;
            sheet.text(row, lead + 1, failure_kind(failure.kind).0)?;
            sheet.text_as(row, lead + 2, &failure.reason, &wrapped)?;
            sheet.text_as(row, lead + 3, failure_kind(failure.kind).1, &wrapped)?;
            row += 1;
        }
    }
    if row == 1 {
        sheet.text_as(1, 0, word("all cases were scored"), &content.styles.note)?;
    } else {
        sheet.raw.set_tab_color(VERMILLION);
    }
    let failures = content
        .report
        .models
        .iter()
        .flat_map(|model| &model.results.failures);
    sheet.width(
        lead,
        width_of(failures.map(|failure| failure.case.as_str())),
    )?;
    sheet.width(lead + 1, 20.0)?;
    sheet.width(lead + 2, 70.0)?;
    sheet.width(lead + 3, 50.0)?;
    sheet.raw.set_freeze_panes(1, 0)?;
    sheet.raw.set_repeat_rows(0, 0)?;
    Ok(())
}
