//! Summary: verdict, checks, one row for every label, charts, definitions.

use super::Content;
use super::sheet::{SERIES, Sheet, Written, chart_text, columns_of, width_of};
use crate::evaluate::measure::MEASURES;
use crate::evaluate::summary::TargetSummary;
use crate::report::numbers;
use crate::report::source::verdict;
use rust_xlsxwriter::{
    Chart, ChartErrorBars, ChartErrorBarsType, ChartFormat, ChartLegendPosition, ChartRange,
    ChartSolidFill, ConditionalFormatDataBar, ConditionalFormatType, Workbook, XlsxError,
};

/// Columns of the table: model, label, four counts, pooled Dice, then three for every score.
const COUNTS: [&str; 4] = ["ok", "missed", "spurious", "absent"];

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
    let word = |text| content.word(text);
    let name = word("Summary");
    let mut sheet = Sheet::add(workbook, content, name)?;
    let lead = content.lead();
    sheet.raw.set_print_fit_to_pages(1, 1);
    sheet.text_as(0, 0, word("Segmentation report"), &content.styles.title)?;
    sheet.raw.set_row_height(0, 24)?;
    let mut row = verdicts(&mut sheet, content, 2)?;
    row += 1;

    let table = row;
    let scores_at = lead + 6;
    sheet.text_as(
        table,
        scores_at,
        word("mean and 95 % bootstrap interval"),
        &content.styles.note,
    )?;
    row += 1;
    if lead > 0 {
        sheet.head(row, 0, word("model"))?;
    }
    sheet.head(row, lead, word("label"))?;
    for (index, text) in COUNTS.into_iter().enumerate() {
        sheet.head(row, lead + 1 + index as u16, content.word(text))?;
    }
    sheet.head(row, lead + 5, word("pooled Dice"))?;
    for (index, score) in content.headlines.iter().enumerate() {
        let col = scores_at + 3 * index as u16;
        let title = numbers::title(score);
        sheet.head(row, col, &format!("{title}\n{}", word("mean")))?;
        sheet.head(row, col + 1, &format!("{title}\n{}", word("CI95 low")))?;
        sheet.head(row, col + 2, &format!("{title}\n{}", word("CI95 high")))?;
        for offset in 0..3 {
            sheet.width(col + offset, 10.5)?;
        }
    }
    sheet.raw.set_row_height(row, 44)?;
    let first = row + 1;
    row = first;
    let mut blocks = Vec::new();
    for model in content.report.models {
        let labels = &model.results.summary.labels;
        let all = labels.iter().filter(|target| target.label == "*").count() as u32;
        blocks.push((row + all, row + labels.len() as u32 - 1));
        for target in labels {
            if lead > 0 {
                sheet.text(row, 0, &model.name)?;
            }
            label_row(&mut sheet, content, row, target)?;
            row += 1;
        }
    }
    let last = row - 1;
    for (index, score) in content.headlines.iter().enumerate() {
        let col = scores_at + 3 * index as u16;
        if score == "dice" {
            let bar = ConditionalFormatDataBar::new()
                .set_minimum(ConditionalFormatType::Number, 0)
                .set_maximum(ConditionalFormatType::Number, 1)
                .set_fill_color(rust_xlsxwriter::Color::RGB(0x92C5DE))
                .set_solid_fill(true);
            sheet
                .raw
                .add_conditional_format(first, col, last, col, &bar)?;
        } else {
            sheet.scale(score, (first, col), (last, col))?;
        }
    }
    let models = content.report.models.iter();
    sheet.width(
        0,
        width_of(models.map(|model| model.name.as_str())).max(22.0),
    )?;
    if lead > 0 {
        sheet.width(1, width_of(content.labels.iter().map(String::as_str)))?;
    }
    for offset in 1..6 {
        sheet.width(lead + offset, 10.0)?;
    }
    sheet.raw.set_freeze_panes(first, lead + 1)?;
    sheet.raw.set_repeat_rows(first - 1, first - 1)?;

    row += 1;
    let charts = [
        ("dice", word("mean Dice (95 % interval)"), "Dice"),
        ("hd95_mm", word("mean HD95 in mm (95 % interval)"), "mm"),
    ];
    let mut lengths = scores_at + 3 * content.headlines.len() as u16 + 1;
    let printed = lengths - 2;
    let width = (260 + 60 * content.labels.len() * content.report.models.len()).clamp(480, 1400);
    for (score, title, unit) in charts {
        let Some(index) = content.headlines.iter().position(|name| name == score) else {
            continue;
        };
        let columns = (scores_at + 3 * index as u16, lengths);
        bar_lengths(&mut sheet, content, (first - 1, first), lengths, score)?;
        lengths += 2;
        let mut chart = bars(content, name, &blocks, columns, (title, unit));
        chart.set_width(width as u32).set_height(320);
        sheet.raw.insert_chart(row, 0, &chart)?;
        row += 17;
    }
    let last = definitions(&mut sheet, content, row)?;
    sheet.raw.set_print_area(0, 0, last, printed)?;
    Ok(())
}

/// Verdict and checks of every model; returns the next free row.
fn verdicts(sheet: &mut Sheet<'_>, content: &Content<'_>, mut row: u32) -> Result<u32, XlsxError> {
    let word = |text| content.word(text);
    let styles = &content.styles;
    for model in content.report.models {
        let results = &model.results;
        if content.lead() > 0 {
            sheet.text_as(row, 0, &model.name, &styles.bold)?;
            row += 1;
        }
        sheet.text(row, 0, word("verdict"))?;
        match verdict(model) {
            Some(true) => sheet.text_as(row, 1, word("PASS"), &styles.pass)?,
            Some(false) => sheet.text_as(row, 1, word("FAIL"), &styles.fail)?,
            None => sheet.text_as(row, 1, word("no checks were asked for"), &styles.note)?,
        }
        row += 1;
        for check in &results.checks {
            let sign = if check.holds {
                word("holds")
            } else {
                word("fails")
            };
            sheet.text(row, 0, word("check"))?;
            let style = if check.holds {
                &styles.text
            } else {
                &styles.bold
            };
            sheet.text_as(row, 1, sign, style)?;
            sheet.text(row, 2, &check.text)?;
            row += 1;
        }
        if let Some(baseline) = &results.baseline {
            let sign = if baseline.holds() {
                word("holds")
            } else {
                word("fails")
            };
            sheet.text(row, 0, word("baseline"))?;
            sheet.text(row, 1, sign)?;
            let text = format!(
                "{} values compared, {} worse, {} cases lost, {} new",
                baseline.compared,
                baseline.regressions.len(),
                baseline.lost_cases.len(),
                baseline.new_cases.len()
            );
            sheet.text(row, 2, &text)?;
            row += 1;
        }
        let all = results
            .summary
            .labels
            .iter()
            .filter(|target| target.label != "*");
        let (missed, spurious) = all.fold((0, 0), |(missed, spurious), target| {
            (
                missed + target.cases.missed,
                spurious + target.cases.spurious,
            )
        });
        let counts = [
            (word("cases scored"), results.cases.len()),
            (word("cases not scored"), results.failures.len()),
            (word("missed structures"), missed),
            (word("spurious structures"), spurious),
        ];
        for (text, count) in counts {
            sheet.text(row, 0, text)?;
            sheet.count(row, 1, count as u64)?;
            row += 1;
        }
    }
    Ok(row)
}

fn label_row(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    row: u32,
    target: &TargetSummary,
) -> Written {
    let lead = content.lead();
    if target.label == "*" {
        sheet.text_as(row, lead, content.word("all labels"), &content.styles.bold)?;
    } else {
        sheet.text(row, lead, &target.label)?;
    }
    let cases = target.cases;
    let counts = [cases.ok, cases.missed, cases.spurious, cases.both_empty];
    for (index, count) in counts.into_iter().enumerate() {
        sheet.count(row, lead + 1 + index as u16, count as u64)?;
    }
    sheet.number(
        row,
        lead + 5,
        target.pooled_dice,
        &content.styles.score("dice"),
    )?;
    for (index, score) in content.headlines.iter().enumerate() {
        let found = target
            .scores
            .get(score)
            .and_then(|found| found.distribution);
        let interval = found.and_then(|found| found.mean_ci95);
        let format = content.styles.score(score);
        let col = lead + 6 + 3 * index as u16;
        sheet.number(row, col, found.map(|found| found.mean), &format)?;
        sheet.number(row, col + 1, interval.map(|ends| ends[0]), &format)?;
        sheet.number(row, col + 2, interval.map(|ends| ends[1]), &format)?;
    }
    Ok(())
}

/// Lengths of the error bars, which a chart can only take from cells: grey, right of what is printed.
fn bar_lengths(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    (head, first): (u32, u32),
    col: u16,
    score: &str,
) -> Written {
    let title = numbers::title(score);
    for (offset, sign) in ["-", "+"].into_iter().enumerate() {
        let text = format!("{} {title} {sign}", content.word("for the chart"));
        sheet.text_as(head, col + offset as u16, &text, &content.styles.note)?;
    }
    let models = content.report.models.iter();
    let rows = models.flat_map(|model| &model.results.summary.labels);
    for (row, target) in (first..).zip(rows) {
        let found = target
            .scores
            .get(score)
            .and_then(|found| found.distribution);
        if let Some((mean, [low, high])) =
            found.and_then(|found| Some((found.mean, found.mean_ci95?)))
        {
            let format = &content.styles.note;
            sheet.number(row, col, Some(mean - low), format)?;
            sheet.number(row, col + 1, Some(high - mean), format)?;
        }
    }
    Ok(())
}

/// Mean by label with the interval as error bars, one series per model. `columns` are those of the
/// mean and of the lengths.
fn bars(
    content: &Content<'_>,
    sheet: &str,
    blocks: &[(u32, u32)],
    columns: (u16, u16),
    (title, unit): (&str, &str),
) -> Chart {
    let mut chart = Chart::new_column();
    let labels = content.lead();
    let (mean, lengths) = columns;
    for (index, (model, &(first, last))) in content.report.models.iter().zip(blocks).enumerate() {
        let range = |col| ChartRange::new_from_range(sheet, first, col, last, col);
        let mut errors = ChartErrorBars::new();
        errors.set_type(ChartErrorBarsType::Custom(
            range(lengths + 1),
            range(lengths),
        ));
        let fill = ChartSolidFill::new()
            .set_color(SERIES[index % SERIES.len()])
            .clone();
        chart
            .add_series()
            .set_name(chart_text(&model.name).as_str())
            .set_categories(&range(labels))
            .set_values(&range(mean))
            .set_format(ChartFormat::new().set_solid_fill(&fill))
            .set_gap(60)
            .set_y_error_bars(&errors);
    }
    chart.title().set_name(title);
    chart.y_axis().set_name(unit).set_min(0);
    if unit == "Dice" {
        chart.y_axis().set_max(1);
    }
    chart.set_alt_text(title);
    if blocks.len() > 1 {
        chart.legend().set_position(ChartLegendPosition::Bottom);
    } else {
        chart.legend().set_hidden();
    }
    chart
}

/// Returns the last row.
fn definitions(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    mut row: u32,
) -> Result<u32, XlsxError> {
    let Some(model) = content.report.models.first() else {
        return Ok(row);
    };
    sheet.text_as(row, 0, content.word("definitions"), &content.styles.bold)?;
    row += 1;
    for score in &content.headlines {
        let meaning = match score.strip_prefix("nsd@") {
            Some(mm) => format!("share of both surfaces within {mm} mm of the other"),
            None => MEASURES
                .iter()
                .find(|(name, _, _)| name == score)
                .map_or_else(String::new, |(_, _, meaning)| (*meaning).to_owned()),
        };
        sheet.text(row, 0, &numbers::title(score))?;
        sheet.text(row, 1, &meaning)?;
        row += 1;
    }
    let settings = &model.results.settings;
    sheet.text(row, 0, content.word("definition of surface distances"))?;
    sheet.text(row, 1, &settings.definition)?;
    let widest = columns_of(content.word("definition of surface distances")) as f64 + 2.0;
    sheet.width(0, widest.max(22.0))?;
    sheet.text_as(
        row + 2,
        0,
        content.word("Research use only; not a medical device."),
        &content.styles.note,
    )?;
    Ok(row + 2)
}
