//! Slices: one row for every case and slice, the labels side by side.

use super::sheet::{Sheet, Written, width_of};
use super::{Content, Limits};
use crate::evaluate::case::TargetSlices;
use crate::report::Report;
use rust_xlsxwriter::Workbook;
use std::collections::BTreeMap;

/// Rows of headings.
const HEADS: u32 = 2;
/// Columns of a label: Dice, IoU, voxels of both masks.
const COLUMNS: u16 = 4;

/// Where the slices of every case stand.
pub struct Layout {
    /// For every sheet its name and the cases on it, as model and case.
    sheets: Vec<(String, Vec<(usize, usize)>)>,
    places: BTreeMap<(usize, usize), Place>,
    labels: BTreeMap<String, u16>,
}

/// Rows of one case.
#[derive(Debug, Clone)]
pub struct Place {
    pub sheet: String,
    pub first: u32,
    pub last: u32,
    z: Vec<usize>,
}

impl Place {
    /// The row of slice `z`.
    pub fn row_of(&self, z: usize) -> Option<u32> {
        let index = self.z.iter().position(|&known| known == z)?;
        Some(self.first + index as u32)
    }
}

impl Layout {
    /// Divides the cases over sheets; the slices of a case stay together.
    pub fn of(report: &Report<'_>, labels: &[String], limits: Limits) -> Self {
        let base = report.language.word("Slices");
        let name = |part: usize| match part {
            0 => base.to_owned(),
            _ => format!("{base} {}", part + 1),
        };
        let mut layout = Self {
            sheets: Vec::new(),
            places: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let lead = u16::from(report.models.len() > 1);
        for (label, index) in labels.iter().take(limits.labels).zip(0..) {
            layout
                .labels
                .insert(label.clone(), lead + 3 + COLUMNS * index);
        }
        let mut row = HEADS;
        for (model, known) in report.models.iter().enumerate() {
            for (case, scores) in known.results.cases.iter().enumerate() {
                let Some(slices) = scores.slices.as_ref().filter(|slices| !slices.z.is_empty())
                else {
                    continue;
                };
                let rows = slices.z.len() as u32;
                if layout.sheets.is_empty() || row as usize + rows as usize > limits.rows {
                    layout.sheets.push((name(layout.sheets.len()), Vec::new()));
                    row = HEADS;
                }
                let Some((sheet, cases)) = layout.sheets.last_mut() else {
                    continue;
                };
                cases.push((model, case));
                let place = Place {
                    sheet: sheet.clone(),
                    first: row,
                    last: row + rows - 1,
                    z: slices.z.clone(),
                };
                layout.places.insert((model, case), place);
                row += rows;
            }
        }
        layout
    }

    pub fn place(&self, model: usize, case: usize) -> Option<&Place> {
        self.places.get(&(model, case))
    }

    pub fn dice_column(&self, label: &str) -> Option<u16> {
        self.labels.get(label).copied()
    }
}

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    for (name, cases) in &content.slices.sheets {
        let mut sheet = Sheet::add(workbook, content, name)?;
        headings(&mut sheet, content)?;
        let mut last = HEADS;
        for &(model, case) in cases {
            last = write_case(&mut sheet, content, model, case)?;
        }
        let lead = content.lead();
        for &col in content.slices.labels.values() {
            sheet.scale("dice", (HEADS, col), (last, col))?;
        }
        let last_col = lead + 2 + COLUMNS * content.slices.labels.len() as u16;
        sheet.raw.autofilter(HEADS - 1, 0, last, last_col)?;
        sheet.raw.set_freeze_panes(HEADS, lead + 2)?;
        sheet.raw.set_repeat_rows(0, HEADS - 1)?;
    }
    Ok(())
}

fn headings(sheet: &mut Sheet<'_>, content: &Content<'_>) -> Written {
    let word = |text| content.word(text);
    let lead = content.lead();
    let row = HEADS - 1;
    if lead > 0 {
        sheet.head(row, 0, word("model"))?;
        let names = content
            .report
            .models
            .iter()
            .map(|model| model.name.as_str());
        sheet.width(0, width_of(names))?;
    }
    let heads = [
        word("case"),
        word("slice"),
        word("z from the first slice (mm)"),
    ];
    sheet.heads(row, lead, heads)?;
    let cases = content
        .report
        .models
        .iter()
        .flat_map(|model| &model.results.cases);
    sheet.width(lead, width_of(cases.map(|case| case.case.as_str())))?;
    sheet.width(lead + 2, 14.0)?;
    for (label, &col) in &content.slices.labels {
        let group = &content.styles.group;
        sheet
            .raw
            .merge_range(0, col, 0, col + COLUMNS - 1, label, group)?;
        let heads = [
            "Dice",
            "IoU",
            word("reference voxels"),
            word("predicted voxels"),
        ];
        sheet.heads(row, col, heads)?;
        for (offset, width) in [8.0, 8.0, 11.0, 11.0].into_iter().enumerate() {
            sheet.width(col + offset as u16, width)?;
        }
    }
    sheet.raw.set_row_height(row, 44)?;
    Ok(())
}

/// Returns the last row written.
fn write_case(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    model: usize,
    case: usize,
) -> Result<u32, rust_xlsxwriter::XlsxError> {
    let known = &content.report.models[model];
    let scores = &known.results.cases[case];
    let (Some(slices), Some(place)) = (&scores.slices, content.slices.place(model, case)) else {
        return Ok(HEADS);
    };
    let lead = content.lead();
    let share = content.styles.score("dice");
    let mm = content.styles.score("hd_mm");
    for (row, &z) in (place.first..).zip(&slices.z) {
        if lead > 0 {
            sheet.text(row, 0, &known.name)?;
        }
        sheet.text(row, lead, &scores.case)?;
        sheet.count(row, lead + 1, z as u64)?;
        sheet.number(
            row,
            lead + 2,
            Some(z as f64 * scores.spacing_xyz_mm[2]),
            &mm,
        )?;
    }
    let empty = TargetSlices::default();
    for (label, &col) in &content.slices.labels {
        let target = slices.labels.get(label).unwrap_or(&empty);
        for (index, row) in (place.first..=place.last).enumerate() {
            let reference = target.reference.get(index).copied().unwrap_or(0);
            let prediction = target.prediction.get(index).copied().unwrap_or(0);
            // A slice without the label on either side stays blank: there is nothing to score.
            if reference + prediction == 0 {
                continue;
            }
            let dice = target.dice.get(index).copied().flatten();
            let iou = target.iou.get(index).copied().flatten();
            sheet.number(row, col, dice, &share)?;
            sheet.number(row, col + 1, iou, &share)?;
            sheet.count(row, col + 2, reference)?;
            sheet.count(row, col + 3, prediction)?;
        }
    }
    Ok(place.last)
}
