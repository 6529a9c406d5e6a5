//! Patients: one row for every case and label, with filters, flags, the course of Dice over the slices
//! and links to slices and pictures.

use super::Content;
use super::sheet::{BLUE, Sheet, Written, width_of};
use crate::evaluate::case::{CaseScores, Status, TargetScores};
use crate::report::numbers;
use crate::report::worst::worst_slice;
use rust_xlsxwriter::{
    ConditionalFormatCell, ConditionalFormatCellRule, ConditionalFormatCustomIcon,
    ConditionalFormatIconSet, ConditionalFormatIconType, ConditionalFormatType, Sparkline,
    SparklineType, Table, TableColumn, TableStyle, Workbook,
};
use std::collections::BTreeSet;

/// A case and label of a model.
struct Row<'a> {
    model: usize,
    case_index: usize,
    case: &'a CaseScores,
    target: &'a TargetScores,
}

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let mut rows = Vec::new();
    for (model, known) in content.report.models.iter().enumerate() {
        for (case_index, case) in known.results.cases.iter().enumerate() {
            let targets = case.labels.iter();
            rows.extend(targets.map(|target| Row {
                model,
                case_index,
                case,
                target,
            }));
        }
    }
    let per_sheet = content.limits.rows.saturating_sub(1).max(1);
    for (part, rows) in rows.chunks(per_sheet).enumerate() {
        let name = match part {
            0 => content.word("Patients").to_owned(),
            _ => format!("{} {}", content.word("Patients"), part + 1),
        };
        let mut sheet = Sheet::add(workbook, content, &name)?;
        write_part(&mut sheet, content, rows, part)?;
    }
    Ok(())
}

fn headings(content: &Content<'_>) -> Vec<String> {
    let word = |text| content.word(text).to_owned();
    let mut heads = Vec::new();
    if content.lead() > 0 {
        heads.push(word("model"));
    }
    heads.extend([word("case"), word("label"), word("status"), word("icon")]);
    heads.extend(content.scores.iter().map(|score| numbers::title(score)));
    heads.extend([word("TP"), word("FP"), word("FN"), word("worst slice")]);
    heads.extend([
        word("Dice by slice"),
        word("picture"),
        word("why there is no number"),
    ]);
    heads
}

fn write_part(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    rows: &[Row<'_>],
    part: usize,
) -> Written {
    let heads = headings(content);
    let last_col = heads.len() as u16 - 1;
    let last = rows.len() as u32;
    let columns: Vec<TableColumn> = heads
        .iter()
        .map(|head| {
            TableColumn::new()
                .set_header(head)
                .set_header_format(&content.styles.head)
        })
        .collect();
    let table = Table::new()
        .set_name(format!("Patients{}", part + 1))
        .set_style(TableStyle::Light1)
        .set_columns(&columns)
        .set_alt_text(content.word("per-case scores"));
    sheet.raw.add_table(0, 0, last, last_col, &table)?;
    sheet.raw.set_paper_size(8);
    sheet.raw.set_row_height(0, 48)?;
    for (row, entry) in (1..).zip(rows) {
        write_row(sheet, content, row, entry)?;
    }
    let lead = content.lead();
    let scores_at = lead + 4;
    icons(sheet, lead + 3, last)?;
    for (index, score) in content.scores.iter().enumerate() {
        let col = scores_at + index as u16;
        if score == "dice" {
            let low = ConditionalFormatCell::new()
                .set_rule(ConditionalFormatCellRule::LessThan(
                    content.report.flag_below,
                ))
                .set_format(&content.styles.warn)
                .set_stop_if_true(true);
            sheet.raw.add_conditional_format(1, col, last, col, &low)?;
        } else if content.headlines.contains(score) {
            sheet.scale(score, (1, col), (last, col))?;
        }
        sheet.width(
            col,
            if score.ends_with("_ml") || score.len() > 12 {
                13.0
            } else {
                10.5
            },
        )?;
    }
    if lead > 0 {
        let names = content
            .report
            .models
            .iter()
            .map(|model| model.name.as_str());
        sheet.width(0, width_of(names))?;
    }
    sheet.width(
        lead,
        width_of(rows.iter().map(|row| row.case.case.as_str())),
    )?;
    sheet.width(
        lead + 1,
        width_of(content.labels.iter().map(String::as_str)),
    )?;
    sheet.width(lead + 2, 12.0)?;
    sheet.width(lead + 3, 8.0)?;
    let counts_at = scores_at + content.scores.len() as u16;
    for (offset, width) in [11.0, 11.0, 11.0, 10.0, 24.0, 10.0, 36.0]
        .into_iter()
        .enumerate()
    {
        sheet.width(counts_at + offset as u16, width)?;
    }
    sheet.raw.set_freeze_panes(1, lead + 2)?;
    sheet.raw.set_repeat_rows(0, 0)?;
    Ok(())
}

fn write_row(sheet: &mut Sheet<'_>, content: &Content<'_>, row: u32, entry: &Row<'_>) -> Written {
    let lead = content.lead();
    let Row {
        model,
        case_index,
        case,
        target,
    } = *entry;
    if lead > 0 {
        sheet.text(row, 0, &content.report.models[model].name)?;
    }
    sheet.text(row, lead, &case.case)?;
    sheet.text(row, lead + 1, &target.label)?;
    sheet.text(row, lead + 2, status_word(content, target.status))?;
    let rank = match target.status {
        Status::Ok => Some(2.0),
        Status::Spurious => Some(1.0),
        Status::Missed => Some(0.0),
        Status::BothEmpty => None,
    };
    if rank.is_some() {
        sheet.number(row, lead + 3, rank, &content.styles.text)?;
    }
    let mut col = lead + 4;
    for score in &content.scores {
        let value = target.scores.get(score).copied().flatten();
        sheet.number(row, col, value, &content.styles.score(score))?;
        col += 1;
    }
    for count in [target.tp, target.fp, target.fn_] {
        sheet.count(row, col, count)?;
        col += 1;
    }
    let place = content.slices.place(model, case_index);
    if let (Some(z), Some(place)) = (worst_slice(case, &target.label), &place)
        && let Some(at) = place.row_of(z)
    {
        sheet.link(row, col, (&place.sheet, at), &z.to_string())?;
    }
    if let Some(place) = &place
        && let Some(dice) = content.slices.dice_column(&target.label)
    {
        let course = Sparkline::new()
            .set_range((place.sheet.as_str(), place.first, dice, place.last, dice))
            .set_custom_min(0)
            .set_custom_max(1)
            .set_sparkline_color(BLUE)
            // Lines would vanish in programs that draw none across the blanks of other slices.
            .set_type(SparklineType::Column);
        sheet.raw.add_sparkline(row, col + 1, &course)?;
    }
    let shown = content.report.worst.iter().position(|shown| {
        let chosen = &shown.chosen;
        let label = content.report.models[model].results.cases[case_index]
            .labels
            .get(chosen.label);
        (chosen.model, chosen.case) == (model, case_index)
            && label.is_some_and(|label| label.label == target.label)
    });
    if let Some(index) = shown {
        let at = super::worst::row_of(index);
        sheet.link(
            row,
            col + 2,
            (content.word("Worst"), at),
            content.word("picture"),
        )?;
    }
    let reasons: BTreeSet<&str> = target.undefined.values().map(String::as_str).collect();
    if !reasons.is_empty() {
        let reasons: Vec<&str> = reasons.into_iter().collect();
        sheet.text_as(row, col + 3, &reasons.join("; "), &content.styles.note)?;
    }
    Ok(())
}

/// A status in the language of the report.
pub fn status_word(content: &Content<'_>, status: Status) -> &'static str {
    content.word(match status {
        Status::Ok => "ok",
        Status::Missed => "missed",
        Status::Spurious => "spurious",
        Status::BothEmpty => "absent",
    })
}

/// Tick, exclamation mark and cross: shapes that need no colour. 2 is ok, 1 spurious, 0 missed.
fn icons(sheet: &mut Sheet<'_>, col: u16, last: u32) -> Written {
    let from = |value: u32| {
        ConditionalFormatCustomIcon::new().set_rule(ConditionalFormatType::Number, value)
    };
    let set = ConditionalFormatIconSet::new()
        .set_icon_type(ConditionalFormatIconType::ThreeSymbols)
        .set_icons(&[from(0), from(1), from(2)])
        .show_icons_only(true);
    sheet.raw.add_conditional_format(1, col, last, col, &set)?;
    Ok(())
}
