//! Distribution: every statistic of every score and label, box charts, and how many cases lie where.

use super::Content;
use super::sheet::{SERIES, Sheet, Written, chart_text, width_of};
use crate::report::numbers;
use crate::report::source::Model;
use rust_xlsxwriter::{
    Chart, ChartErrorBars, ChartErrorBarsDirection, ChartErrorBarsType, ChartFormat, ChartLine,
    ChartRange, ChartSolidFill, Color, ConditionalFormat2ColorScale, Workbook,
};

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
/// What a box is drawn from, and where it starts in the table.
const BOX: [&str; 4] = ["q1 to median", "median to q3", "min to q1", "q3 to max"];

pub fn write(workbook: &mut Workbook, content: &Content<'_>) -> Written {
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
                charts.push((score.as_str(), index, first, row - 1));
            }
        }
    }
    sheet
        .raw
        .autofilter(0, 0, row - 1, lead + 1 + STATISTICS.len() as u16)?;
    sheet.raw.set_freeze_panes(1, lead + 2)?;
    sheet.raw.set_repeat_rows(0, 0)?;
    row = histogram(&mut sheet, content, row + 1)? + 1;
    let width = (240 + 80 * content.labels.len()).clamp(480, 1200);
    for (index, (score, model, first, last)) in charts.into_iter().enumerate() {
        let mut chart = box_chart(content, name, (first, last), boxes, (score, model));
        chart.set_width(width as u32).set_height(320);
        sheet.raw.insert_chart(row + 17 * index as u32, 0, &chart)?;
    }
    Ok(())
}

/// Rows of one score of one model; returns the next free row.
fn statistics(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    (mut row, boxes): (u32, u16),
    (model, score): (&Model, &str),
) -> Result<u32, rust_xlsxwriter::XlsxError> {
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

/// Stacked columns with error bars, as the format has no box chart that every program draws.
fn box_chart(
    content: &Content<'_>,
    sheet: &str,
    (first, last): (u32, u32),
    boxes: u16,
    (score, model): (&str, usize),
) -> Chart {
    let lead = content.lead();
    let range = |col| ChartRange::new_from_range(sheet, first, col, last, col);
    let q1 = lead + 2 + 7;
    let mut chart = Chart::new(rust_xlsxwriter::ChartType::ColumnStacked);
    let whisker = |col, direction| {
        let mut bars = ChartErrorBars::new();
        bars.set_type(ChartErrorBarsType::Custom(range(col), range(col)))
            .set_direction(direction);
        bars
    };
    let color = SERIES[model % SERIES.len()];
    let mut outline = ChartLine::new();
    outline.set_color(Color::Black).set_width(0.75);
    for (index, col) in [q1, boxes, boxes + 1].into_iter().enumerate() {
        let series = chart.add_series();
        series
            .set_categories(&range(lead + 1))
            .set_values(&range(col))
            .set_gap(80);
        let mut fill = ChartSolidFill::new();
        fill.set_color(color)
            .set_transparency(if index == 1 { 30 } else { 60 });
        match index {
            0 => {
                series.set_format(ChartFormat::new().set_no_fill().set_no_border());
                series.set_y_error_bars(&whisker(boxes + 2, ChartErrorBarsDirection::Minus));
            }
            _ => {
                series.set_format(
                    ChartFormat::new()
                        .set_solid_fill(&fill)
                        .set_border(&outline),
                );
            }
        }
        if index == 2 {
            series.set_y_error_bars(&whisker(boxes + 3, ChartErrorBarsDirection::Plus));
        }
    }
    let title = numbers::title(score);
    let mut text = format!(
        "{title}: {}",
        content.word("box: quartiles; whiskers: extremes")
    );
    if lead > 0 {
        text = chart_text(&format!("{}, {text}", content.report.models[model].name));
    }
    chart.title().set_name(text.as_str());
    chart.set_alt_text(text.as_str());
    chart.y_axis().set_name(title.as_str()).set_min(0);
    if numbers::is_share(score) {
        chart.y_axis().set_max(1);
    }
    chart.legend().set_hidden();
    chart
}

/// Cases by Dice in ten steps; returns the next free row.
fn histogram(
    sheet: &mut Sheet<'_>,
    content: &Content<'_>,
    mut row: u32,
) -> Result<u32, rust_xlsxwriter::XlsxError> {
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
