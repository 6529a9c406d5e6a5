//! Colours and names below a picture.

use super::canvas::{CHARACTER, Canvas, Rgb};

/// Colours of the page.
pub const PAGE: Rgb = [24, 24, 28];
const TEXT: Rgb = [235, 235, 235];
/// Space around what stands on the page, in pixels.
pub const GAP: usize = 8;
const LINE: usize = 2 * CHARACTER + 6;

/// A colour and its text per entry, in as many columns as the page has room for.
pub struct Legend {
    entries: Vec<(Rgb, String)>,
    columns: usize,
    width: usize,
}

impl Legend {
    /// Fits `entries` on a page of that width.
    pub fn fit(entries: Vec<(Rgb, String)>, page: usize) -> Self {
        let longest = entries
            .iter()
            .map(|(_, text)| text.chars().count())
            .max()
            .unwrap_or(0);
        let width = (longest + 5) * CHARACTER;
        let columns = ((page - GAP) / width).max(1);
        Self {
            entries,
            columns,
            width,
        }
    }

    /// Pixels from the first row to the last.
    pub fn height(&self) -> usize {
        self.entries.len().div_ceil(self.columns) * LINE
    }

    /// Draws the entries from the row `top` down.
    pub fn draw(&self, page: &mut Canvas, top: usize) {
        for (index, (color, text)) in self.entries.iter().enumerate() {
            let left = GAP + (index % self.columns) * self.width;
            let row = top + (index / self.columns) * LINE;
            page.fill(left, row, 2 * CHARACTER, 2 * CHARACTER, *color);
            page.text(left + 3 * CHARACTER, row + CHARACTER / 2, 1, text, TEXT);
        }
    }
}
