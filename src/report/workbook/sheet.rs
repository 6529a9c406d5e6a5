//! Cells, formats and page setup that all sheets share.

use super::Content;
use crate::report::numbers::{self, NOTHING};
use rust_xlsxwriter::{
    ColNum, Color, ConditionalFormat3ColorScale, ConditionalFormatType, Format, FormatAlign,
    FormatBorder, RowNum, Workbook, Worksheet, XlsxError,
};

/// Result of writing cells.
pub type Written = Result<(), XlsxError>;

/// Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
pub const BLUE: Color = Color::RGB(0x0072B2);
pub const ORANGE: Color = Color::RGB(0xE69F00);
pub const VERMILLION: Color = Color::RGB(0xD55E00);
pub const GREY: Color = Color::RGB(0x7F7F7F);
/// Colours of models in charts, in order.
pub const SERIES: [Color; 6] = [
    BLUE,
    ORANGE,
    Color::RGB(0x009E73),
    Color::RGB(0xCC79A7),
    Color::RGB(0x56B4E9),
    VERMILLION,
];
/// Ends of colour scales: bad, middle, good.
const SCALE: [Color; 3] = [
    Color::RGB(0xF4A582),
    Color::RGB(0xF7F7F7),
    Color::RGB(0x92C5DE),
];
/// Longest text of a cell in this format.
const MOST_CHARACTERS: usize = 32_000;

/// Formats of cells.
pub struct Styles {
    pub title: Format,
    pub head: Format,
    pub group: Format,
    pub text: Format,
    pub bold: Format,
    pub note: Format,
    pub nothing: Format,
    pub link: Format,
    pub pass: Format,
    pub fail: Format,
    pub count: Format,
    pub warn: Format,
}

impl Styles {
    pub fn new() -> Self {
        let plain = || Format::new().set_align(FormatAlign::VerticalCenter);
        let filled = |color: u32| {
            plain()
                .set_bold()
                .set_background_color(Color::RGB(color))
                .set_font_color(Color::White)
        };
        let heading = |color: u32| {
            filled(color)
                .set_text_wrap()
                .set_align(FormatAlign::Center)
                .set_border(FormatBorder::Thin)
                .set_border_color(Color::RGB(0xBFBFBF))
        };
        Self {
            title: plain().set_bold().set_font_size(16),
            head: heading(0x1F4E79),
            group: heading(0x2E75B6),
            text: plain(),
            bold: plain().set_bold(),
            note: plain().set_font_color(GREY),
            nothing: plain()
                .set_font_color(GREY)
                .set_italic()
                .set_align(FormatAlign::Right),
            link: plain()
                .set_font_color(BLUE)
                .set_underline(rust_xlsxwriter::FormatUnderline::Single)
                .set_align(FormatAlign::Center),
            pass: filled(0x0072B2).set_align(FormatAlign::Center),
            fail: filled(0xD55E00).set_align(FormatAlign::Center),
            count: plain().set_num_format("#,##0"),
            warn: Format::new().set_background_color(Color::RGB(0xF8C9B4)),
        }
    }

    /// The format of a score's numbers.
    pub fn score(&self, name: &str) -> Format {
        self.text
            .clone()
            .set_num_format(numbers::number_format(name))
    }
}

/// A sheet that is being written. Text is only ever written as text: what starts with `=`, `+`, `-` or
/// `@` is no formula.
pub struct Sheet<'a> {
    pub raw: &'a mut Worksheet,
    styles: &'a Styles,
}

impl<'a> Sheet<'a> {
    /// Adds a sheet, set up for A4 landscape, one page wide, with page numbers.
    pub fn add(
        workbook: &'a mut Workbook,
        content: &'a Content<'_>,
        name: &str,
    ) -> Result<Self, XlsxError> {
        let raw = workbook.add_worksheet();
        raw.set_name(name)?
            .set_landscape()
            .set_paper_size(9)
            .set_print_fit_to_pages(1, 0)
            .set_margins(0.4, 0.4, 0.6, 0.6, 0.3, 0.3)
            .set_header("&L&A")
            .set_footer("&Lmedseg&R&P / &N");
        Ok(Self {
            raw,
            styles: &content.styles,
        })
    }

    pub fn text_as(&mut self, row: RowNum, col: ColNum, text: &str, format: &Format) -> Written {
        if text.chars().count() > MOST_CHARACTERS {
            let cut: String = text
                .chars()
                .take(MOST_CHARACTERS)
                .chain("…".chars())
                .collect();
            self.raw.write_string_with_format(row, col, cut, format)?;
        } else {
            self.raw.write_string_with_format(row, col, text, format)?;
        }
        Ok(())
    }

    pub fn text(&mut self, row: RowNum, col: ColNum, text: &str) -> Written {
        self.text_as(row, col, text, &self.styles.text)
    }

    pub fn head(&mut self, row: RowNum, col: ColNum, text: &str) -> Written {
        self.text_as(row, col, text, &self.styles.head)
    }

    /// A row of headings from `col` on.
    pub fn heads<S: AsRef<str>>(
        &mut self,
        row: RowNum,
        col: ColNum,
        texts: impl IntoIterator<Item = S>,
    ) -> Written {
        for (index, text) in texts.into_iter().enumerate() {
            self.head(row, col + index as ColNum, text.as_ref())?;
        }
        Ok(())
    }

    /// A number; `n/a`, `inf` or `-inf` as text where there is none.
    pub fn number(
        &mut self,
        row: RowNum,
        col: ColNum,
        value: Option<f64>,
        format: &Format,
    ) -> Written {
        match value {
            Some(value) if value.is_finite() => {
                self.raw.write_number_with_format(row, col, value, format)?;
            }
            Some(value) if !value.is_nan() => {
                self.text_as(
                    row,
                    col,
                    &numbers::text(Some(value), 0),
                    &self.styles.nothing,
                )?;
            }
            _ => self.text_as(row, col, NOTHING, &self.styles.nothing)?,
        }
        Ok(())
    }

    pub fn count(&mut self, row: RowNum, col: ColNum, value: u64) -> Written {
        let format = &self.styles.count;
        self.raw
            .write_number_with_format(row, col, value as f64, format)?;
        Ok(())
    }

    /// A link to a cell of this workbook.
    pub fn link(
        &mut self,
        row: RowNum,
        col: ColNum,
        target: (&str, RowNum),
        text: &str,
    ) -> Written {
        let (sheet, target_row) = target;
        let address = format!("internal:'{sheet}'!A{}", target_row + 1);
        self.raw.write_url_with_options(
            row,
            col,
            address.as_str(),
            text,
            "",
            Some(&self.styles.link),
        )?;
        Ok(())
    }

    pub fn width(&mut self, col: ColNum, characters: f64) -> Written {
        self.raw.set_column_width(col, characters)?;
        Ok(())
    }

    /// Colours the cells of a score from bad to good.
    pub fn scale(&mut self, score: &str, from: (RowNum, ColNum), to: (RowNum, ColNum)) -> Written {
        if to.0 < from.0 || to.1 < from.1 {
            return Ok(());
        }
        let [bad, middle, good] = SCALE;
        let scale = ConditionalFormat3ColorScale::new();
        let scale = if numbers::is_share(score) {
            scale
                .set_minimum(ConditionalFormatType::Number, 0)
                .set_midpoint(ConditionalFormatType::Number, 0.5)
                .set_maximum(ConditionalFormatType::Number, 1)
                .set_minimum_color(bad)
                .set_midpoint_color(middle)
                .set_maximum_color(good)
        } else if numbers::less_is_better(score) {
            scale
                .set_minimum_color(good)
                .set_midpoint_color(middle)
                .set_maximum_color(bad)
        } else {
            return Ok(());
        };
        self.raw
            .add_conditional_format(from.0, from.1, to.0, to.1, &scale)?;
        Ok(())
    }
}

/// Width in characters of a column that holds `texts`; wide scripts count double.
pub fn width_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> f64 {
    let most = texts.into_iter().map(columns_of).max().unwrap_or(0);
    (most as f64 + 2.0).clamp(9.0, 40.0)
}

/// Places that a text takes in a fixed-width line.
pub fn columns_of(text: &str) -> usize {
    text.chars()
        .map(|c| if u32::from(c) >= 0x1100 { 2 } else { 1 })
        .sum()
}

/// Text for names inside charts, which the format would take for a reference to cells when it starts
/// with `=` or holds `!`.
pub fn chart_text(text: &str) -> String {
    text.trim_start_matches('=').replace('!', "\u{ff01}")
}
