//! The workbook (.xlsx): one file here for each sheet.
//!
//! Cells hold the numbers of the results document at full precision; formats only round what is
//! displayed. Sheets are split before they reach the row limit of the format. The document date is fixed.
//! Writing costs memory for every cell, about 200 bytes each.

mod charts;
mod compare;
mod confusion;
mod distribution;
mod failures;
mod patients;
mod run;
mod sheet;
mod slices;
mod summary;
mod worst;

use super::Report;
use super::source::{headline_scores, label_names, score_names};
use rust_xlsxwriter::{DocProperties, ExcelDateTime, Workbook, XlsxError};
use sheet::Styles;

/// How sheets are divided.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most rows of a sheet, headings included; the format ends at 1 048 576.
    pub rows: usize,
    /// Most labels side by side; the format ends at 16 384 columns.
    pub labels: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 1_000_000,
            labels: 2_000,
        }
    }
}

/// What all sheets are written from.
struct Content<'a> {
    report: &'a Report<'a>,
    limits: Limits,
    styles: Styles,
    labels: Vec<String>,
    scores: Vec<String>,
    headlines: Vec<String>,
    slices: slices::Layout,
}

impl Content<'_> {
    fn word(&self, english: &'static str) -> &'static str {
        self.report.language.word(english)
    }

    /// Columns before the case: 1 with the name of the model when there are several.
    fn lead(&self) -> u16 {
        u16::from(self.report.models.len() > 1)
    }
}

/// The workbook as bytes of a file.
///
/// # Errors
/// When the contents cannot be a workbook; none is known for checked [`super::source::Model`]s.
pub fn document(report: &Report<'_>, limits: Limits) -> Result<Vec<u8>, XlsxError> {
    let labels = label_names(report.models);
    let content = Content {
        report,
        limits,
        styles: Styles::new(),
        slices: slices::Layout::of(report, &labels, limits),
        labels,
        scores: score_names(report.models),
        headlines: headline_scores(report.models),
    };
    let mut workbook = Workbook::new();
    let date = ExcelDateTime::from_ymd(2000, 1, 1)?;
    workbook.set_properties(
        &DocProperties::new()
            .set_title(content.word("Segmentation report"))
            .set_author("medseg")
            .set_comment(content.word("Research use only; not a medical device."))
            .set_creation_datetime(&date),
    );
    summary::write(&mut workbook, &content)?;
    patients::write(&mut workbook, &content)?;
    slices::write(&mut workbook, &content)?;
    confusion::write(&mut workbook, &content)?;
    let boxes = distribution::write(&mut workbook, &content)?;
    worst::write(&mut workbook, &content)?;
    let points = match report.models.len() {
        0 | 1 => Vec::new(),
        _ => compare::write(&mut workbook, &content)?,
    };
    charts::write(&mut workbook, &content, &boxes, &points)?;
    failures::write(&mut workbook, &content)?;
    run::write(&mut workbook, &content)?;
    workbook.save_to_buffer()
}
