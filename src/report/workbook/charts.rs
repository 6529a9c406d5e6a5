//! Charts: box charts of the scores, and the cases of two models as points. Their numbers stand in the
//! sheets Distribution and Compare.

use super::Content;
use super::sheet::{BLUE, GREY, SERIES, Sheet, Written, chart_text};
use crate::report::numbers;
use rust_xlsxwriter::{
    Chart, ChartErrorBars, ChartErrorBarsDirection, ChartErrorBarsType, ChartFormat, ChartLine,
    ChartMarker, ChartMarkerType, ChartRange, ChartSolidFill, ChartType, ColNum, Color, RowNum,
    Workbook,
};

/// Where the numbers of the boxes of one score of one model are in Distribution.
pub struct Boxes {
    pub score: String,
    pub model: usize,
    /// First and last row.
    pub rows: (RowNum, RowNum),
    /// Column of the labels.
    pub labels: ColNum,
    /// Column of the first quartile.
    pub q1: ColNum,
    /// First of the columns q1 to median, median to q3, min to q1, q3 to max.
    pub lengths: ColNum,
}

/// Where the Dice of the first model and of another are in Compare.
pub struct Points {
    /// Index of the other model.
    pub second: usize,
    /// First and last row.
    pub rows: (RowNum, RowNum),
    /// Columns of the first and of the other.
    pub columns: [ColNum; 2],
    /// Row of the first and column of both ends of the line of equal scores.
    pub line: (RowNum, ColNum),
}

/// Narrowest chart in pixels, and the percentage at which it is as wide as a landscape A4 page: 100 by the
/// letter, but other programs draw columns up to a fifth wider than Excel does.
const NARROWEST: (u32, u32) = (1040, 76);
/// Rows of 20 pixels on such a page at 100 percent, less the margins of the sheets.
const ROWS: u32 = 33;
/// Rows from the top of a chart to the next, and height of a chart in pixels: two to a page.
const STEP: (u32, u32) = (20, 390);

pub fn write(
    workbook: &mut Workbook,
    content: &Content<'_>,
    boxes: &[Boxes],
    points: &[Points],
) -> Written {
    if boxes.is_empty() && points.is_empty() {
        return Ok(());
    }
    let sheet = Sheet::add(workbook, content, content.word("Charts"))?;
    // Labels need room. A sheet that is scaled instead of fitted keeps its page breaks.
    let (narrowest, percent) = NARROWEST;
    let width = (240 + 60 * content.labels.len() as u32).clamp(narrowest, 2 * narrowest);
    let percent = percent * narrowest / width;
    sheet.raw.set_print_scale(percent as u16);
    let on_page = 100 * ROWS / percent / STEP.0;
    let drawn = boxes
        .iter()
        .map(|found| (box_chart(content, found), width))
        .chain(points.iter().map(|found| (scatter(content, found), 480)));
    let mut breaks = Vec::new();
    for (index, (mut chart, width)) in (0..).zip(drawn) {
        let row = index * STEP.0;
        chart.set_width(width).set_height(STEP.1);
        sheet.raw.insert_chart(row, 0, &chart)?;
        if index > 0 && index % on_page == 0 {
            breaks.push(row);
        }
    }
    sheet.raw.set_page_breaks(&breaks)?;
    Ok(())
}

/// Stacked columns with error bars, as the format has no box chart that every program draws.
fn box_chart(content: &Content<'_>, found: &Boxes) -> Chart {
    let sheet = content.word("Distribution");
    let (first, last) = found.rows;
    let range = |col| ChartRange::new_from_range(sheet, first, col, last, col);
    let mut chart = Chart::new(ChartType::ColumnStacked);
    let whisker = |col, direction| {
        let mut bars = ChartErrorBars::new();
        bars.set_type(ChartErrorBarsType::Custom(range(col), range(col)))
            .set_direction(direction);
        bars
    };
    let color = SERIES[found.model % SERIES.len()];
    let mut outline = ChartLine::new();
    outline.set_color(Color::Black).set_width(0.75);
    let columns = [found.q1, found.lengths, found.lengths + 1];
    for (index, col) in columns.into_iter().enumerate() {
        let series = chart.add_series();
        series
            .set_categories(&range(found.labels))
            .set_values(&range(col))
            .set_gap(80);
        let mut fill = ChartSolidFill::new();
        fill.set_color(color)
            .set_transparency(if index == 1 { 30 } else { 60 });
        if index == 0 {
            series.set_format(ChartFormat::new().set_no_fill().set_no_border());
            let down = whisker(found.lengths + 2, ChartErrorBarsDirection::Minus);
            series.set_y_error_bars(&down);
        } else {
            series.set_format(
                ChartFormat::new()
                    .set_solid_fill(&fill)
                    .set_border(&outline),
            );
        }
        if index == 2 {
            let up = whisker(found.lengths + 3, ChartErrorBarsDirection::Plus);
            series.set_y_error_bars(&up);
        }
    }
    let title = numbers::title(&found.score);
    let mut text = format!(
        "{title}: {}",
        content.word("box: quartiles; whiskers: extremes")
    );
    if content.lead() > 0 {
        let model = &content.report.models[found.model].name;
        text = chart_text(&format!("{model}, {text}"));
    }
    chart.title().set_name(text.as_str());
    chart.set_alt_text(text.as_str());
    chart.y_axis().set_name(title.as_str()).set_min(0);
    if numbers::is_share(&found.score) {
        chart.y_axis().set_max(1);
    }
    chart.legend().set_hidden();
    chart
}

/// Dice of the first and of another model as points, with the line of equal scores.
fn scatter(content: &Content<'_>, found: &Points) -> Chart {
    let sheet = content.word("Compare");
    let models = content.report.models;
    let (from, to) = found.rows;
    let [x, y] = found.columns;
    let mut fill = ChartSolidFill::new();
    fill.set_color(BLUE).set_transparency(40);
    let mut marker = ChartMarker::new();
    marker
        .set_type(ChartMarkerType::Circle)
        .set_size(5)
        .set_format(ChartFormat::new().set_solid_fill(&fill).set_no_border());
    let mut chart = Chart::new(ChartType::Scatter);
    let second = chart_text(&models[found.second].name);
    chart
        .add_series()
        .set_name(second.as_str())
        .set_categories((sheet, from, x, to, x))
        .set_values((sheet, from, y, to, y))
        .set_marker(&marker);
    let mut grey = ChartLine::new();
    grey.set_color(GREY).set_width(1);
    let mut no_marker = ChartMarker::new();
    no_marker.set_none();
    let (row, col) = found.line;
    chart
        .add_series()
        .set_name("y = x")
        .set_categories((sheet, row, col, row + 1, col))
        .set_values((sheet, row, col, row + 1, col))
        .set_format(ChartFormat::new().set_line(&grey))
        .set_marker(&no_marker);
    let title = content.word("Dice of both models");
    chart.title().set_name(title);
    chart.set_alt_text(title);
    let [x_title, y_title] =
        [0, found.second].map(|index| chart_text(&format!("Dice {}", models[index].name)));
    chart
        .x_axis()
        .set_name(x_title.as_str())
        .set_min(0)
        .set_max(1);
    chart
        .y_axis()
        .set_name(y_title.as_str())
        .set_min(0)
        .set_max(1);
    chart.legend().set_hidden();
    chart
}
