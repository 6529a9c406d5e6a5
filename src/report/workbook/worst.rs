//! Worst: the worst cases of every label, with pictures.

use super::Content;
use super::patients::status_word;
use super::sheet::{Sheet, Written, width_of};
use crate::report::numbers;
use crate::report::worst::Shown;
use rust_xlsxwriter::{Image, Workbook};

/// Height of a row with a picture, and width of its column, in pixels.
const PICTURE: [u32; 2] = [240, 500];
const HEADS: u32 = 2;

/// The row of an entry.
pub fn row_of(index: usize) -> u32 {
    HEADS + index as u32
}

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let word = |text| content.word(text);
    let mut sheet = Sheet::add(workbook, content, word("Worst"))?;
    let lead = content.lead();
    sheet.text_as(
        0,
        0,
        word("blue: reference; orange: prediction"),
        &content.styles.note,
    )?;
    let row = HEADS - 1;
    if lead > 0 {
        sheet.head(row, 0, word("model"))?;
    }
    let heads = ["label", "place", "case", "status"].map(word);
    sheet.heads(row, lead, heads)?;
    sheet.heads(row, lead + 4, ["Dice", "HD95 (mm)"])?;
    sheet.heads(row, lead + 6, [word("worst slice"), word("picture")])?;
    sheet.raw.set_row_height(row, 30)?;
    // Before the pictures, which take their size from the cell.
    sheet.raw.set_column_width_pixels(lead + 7, PICTURE[1])?;
    for (index, shown) in content.report.worst.iter().enumerate() {
        entry(&mut sheet, content, row_of(index), shown)?;
    }
    let models = content.report.models;
    let cases = models.iter().flat_map(|model| &model.results.cases);
    if lead > 0 {
        sheet.width(0, width_of(models.iter().map(|model| model.name.as_str())))?;
    }
    sheet.width(lead, width_of(content.labels.iter().map(String::as_str)))?;
    sheet.width(lead + 2, width_of(cases.map(|case| case.case.as_str())))?;
    sheet.width(lead + 3, 12.0)?;
    sheet.raw.set_freeze_panes(HEADS, 0)?;
    sheet.raw.set_repeat_rows(HEADS - 1, HEADS - 1)?;
    Ok(())
}

fn entry(sheet: &mut Sheet<'_>, content: &Content<'_>, row: u32, shown: &Shown) -> Written {
    let lead = content.lead();
    let chosen = &shown.chosen;
    let model = &content.report.models[chosen.model];
    let case = &model.results.cases[chosen.case];
    let target = &case.labels[chosen.label];
    if lead > 0 {
        sheet.text(row, 0, &model.name)?;
    }
    sheet.text(row, lead, &target.label)?;
    sheet.count(row, lead + 1, chosen.place as u64)?;
    sheet.text(row, lead + 2, &case.case)?;
    sheet.text(row, lead + 3, status_word(content, target.status))?;
    for (col, score) in (lead + 4..).zip(["dice", "hd95_mm"]) {
        let value = target.scores.get(score).copied().flatten();
        sheet.number(row, col, value, &content.styles.score(score))?;
    }
    if let Some(z) = chosen.slice {
        match content
            .slices
            .place(chosen.model, chosen.case)
            .and_then(|place| Some((place, place.row_of(z)?)))
        {
            Some((place, at)) => sheet.link(row, lead + 6, (&place.sheet, at), &z.to_string())?,
            None => sheet.count(row, lead + 6, z as u64)?,
        }
    }
    match &shown.pictures {
        Ok(pictures) => {
            let Some((z, png)) = pictures.slices.get(pictures.first) else {
                return Ok(());
            };
            sheet.raw.set_row_height_pixels(row, PICTURE[0])?;
            let dice = target.scores.get("dice").copied().flatten();
            let text = format!(
                "{}, {}, {} {z}, Dice {}",
                case.case,
                target.label,
                content.word("slice"),
                numbers::text(dice, 4)
            );
            let image = Image::new_from_buffer(&png.0)?.set_alt_text(text);
            sheet
                .raw
                .insert_image_fit_to_cell(row, lead + 7, &image, true)?;
        }
        Err(reason) => {
            let text = format!("{}: {reason}", content.word("no picture"));
            sheet.text_as(row, lead + 7, &text, &content.styles.note)?;
        }
    }
    Ok(())
}
