//! A prediction against its reference on one slice: the whole slice, and the structure enlarged.

use super::canvas::{BLACK, Canvas, Rgb, WHITE};
use super::slice::{Panel, Region, Slice, Turned, plane_of};
use super::{PictureError, Png, Window};
use crate::volume::{Grid, Volume};

/// Outline of the reference: blue.
pub const REFERENCE: Rgb = [86, 180, 233];
/// Outline of the prediction: orange.
pub const PREDICTION: Rgb = [255, 159, 28];
/// Outline of both at once.
const BOTH: Rgb = WHITE;
/// Most width and height of each of the two panels.
const PANEL: usize = 240;
const GAP: usize = 6;
/// Grids further apart than this are not one.
const TOLERANCE_MM: f64 = 1e-3;

/// The volumes of a case, all on one grid.
pub struct Case<'a> {
    /// The image, if there is one.
    pub image: Option<&'a Volume<f32>>,
    /// The prediction.
    pub prediction: &'a Volume<u16>,
    /// The reference.
    pub reference: &'a Volume<u16>,
}

impl Case<'_> {
    /// Pictures of the structure made of the labels `numbers` on the slices `z` along the last axis of
    /// the file, all with the same enlarged region.
    ///
    /// # Errors
    /// [`PictureError`] when the grids differ or a slice is not there.
    pub fn draw(
        &self,
        numbers: &[u16],
        z: &[usize],
        window: Window,
    ) -> Result<Vec<Png>, PictureError> {
        let grid = self.reference.grid();
        same_grid("the prediction", self.prediction.grid(), grid)?;
        if let Some(image) = self.image {
            same_grid("the image", image.grid(), grid)?;
        }
        let image = self.image.map(Turned::of).transpose()?;
        let prediction = Turned::of(self.prediction)?;
        let reference = Turned::of(self.reference)?;
        let mut slices = Vec::new();
        for &z in z {
            let (plane, index) = plane_of(self.reference, z)?;
            let prediction = prediction.slice(plane, index);
            let mask = marks(&reference.slice(plane, index), &prediction, numbers);
            slices.push((
                plane,
                image.as_ref().map(|image| image.slice(plane, index)),
                mask,
            ));
        }
        let regions = slices
            .iter()
            .filter_map(|(_, _, mask)| mask.around(|mark| mark > 0, 10.0, 40.0));
        let region = regions.reduce(union);
        Ok(slices
            .iter()
            .map(|(plane, image, mask)| {
                let image = image.as_ref().map(|slice| (slice, window));
                let whole = panel(image, mask, mask.whole(), plane.edges());
                let near = panel(image, mask, region.unwrap_or(mask.whole()), ["", ""]);
                let height = whole.height.max(near.height);
                let mut canvas = Canvas::new(2 * PANEL + GAP, height, BLACK);
                canvas.paste(
                    &whole,
                    (PANEL - whole.width) / 2,
                    (height - whole.height) / 2,
                );
                let left = PANEL + GAP + (PANEL - near.width) / 2;
                canvas.paste(&near, left, (height - near.height) / 2);
                canvas.png()
            })
            .collect())
    }
}

/// Refuses a grid that is not that of the others.
pub fn same_grid(what: &'static str, grid: &Grid, expected: &Grid) -> Result<(), PictureError> {
    grid.check_matches(expected, TOLERANCE_MM)
        .map_err(|error| PictureError::Grid {
            what,
            reason: error.to_string(),
        })
}

/// 1 where only the reference, 2 where only the prediction, 3 where both hold one of `numbers`.
fn marks(reference: &Slice<u16>, prediction: &Slice<u16>, numbers: &[u16]) -> Slice<u8> {
    let pairs = reference.values.iter().zip(&prediction.values);
    Slice {
        width: reference.width,
        height: reference.height,
        spacing_mm: reference.spacing_mm,
        values: pairs
            .map(|(a, b)| u8::from(numbers.contains(a)) + 2 * u8::from(numbers.contains(b)))
            .collect(),
    }
}

fn union(a: Region, b: Region) -> Region {
    let (left, top) = (a.left.min(b.left), a.top.min(b.top));
    Region {
        left,
        top,
        width: (a.left + a.width).max(b.left + b.width) - left,
        height: (a.top + a.height).max(b.top + b.height) - top,
    }
}

fn panel(
    image: Option<(&Slice<f32>, Window)>,
    mask: &Slice<u8>,
    region: Region,
    edges: [&str; 2],
) -> Canvas {
    let panel = Panel::fit(region, mask.spacing_mm, [PANEL, PANEL]);
    let mut canvas = panel.grey(image);
    let values = panel.values(mask);
    let of = |bit: u8| values.iter().map(|mark| mark & bit > 0).collect::<Vec<_>>();
    let (reference, prediction) = (of(1), of(2));
    for y in 0..panel.height {
        for x in 0..panel.width {
            let at = y * panel.width + x;
            let edge = |mask: &[bool]| mask[at] && panel.is_border(mask, x, y);
            let color = match (edge(&reference), edge(&prediction)) {
                (true, true) => BOTH,
                (true, false) => REFERENCE,
                (false, true) => PREDICTION,
                (false, false) => continue,
            };
            canvas.set(x, y, color);
        }
    }
    if edges[0].is_empty() {
        // A bar of 10 mm.
        let length = ((10.0 * panel.scale).round() as usize).min(panel.width);
        let low = panel.height.saturating_sub(6);
        canvas.fill(4, low, length, 2, WHITE);
        canvas.label(4, low.saturating_sub(12), "10 mm");
    } else {
        canvas.label(2, panel.height / 2, edges[0]);
        canvas.label(panel.width / 2, 2, edges[1]);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outlines_are_drawn_and_wrong_grids_refused() {
        let grid = Grid::with_spacing([2, 20, 20], [2.0, 1.0, 1.0]);
        let mut reference = Volume::filled(0_u16, grid);
        let mut prediction = reference.clone();
        for y in 5..12 {
            for x in 5..12 {
                reference.data_mut()[[1, y, x]] = 4;
                prediction.data_mut()[[1, y, x + 4]] = 4;
            }
        }
        let case = Case {
            image: None,
            prediction: &prediction,
            reference: &reference,
        };
        let window = Window {
            level: 0.0,
            width: 1.0,
        };
        let pictures = case.draw(&[4], &[1], window).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&pictures[0].0))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        for color in [REFERENCE, PREDICTION] {
            assert!(pixels.chunks(3).filter(|pixel| **pixel == color).count() > 100);
        }
        assert!(case.draw(&[4], &[2], window).is_err());
        let other = Volume::filled(0_u16, Grid::with_spacing([2, 20, 20], [2.0, 1.0, 1.5]));
        let case = Case {
            prediction: &other,
            ..case
        };
        let error = case.draw(&[4], &[1], window).unwrap_err().to_string();
        assert!(
            error.starts_with("the prediction is not on the grid"),
            "{error}"
        );
    }
}
