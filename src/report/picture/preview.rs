//! An image with a label map at a glance: three planes, a montage of axial slices, the labels.

use super::canvas::{Canvas, Rgb};
use super::legend::{GAP, Legend, PAGE};
use super::overlay::same_grid;
use super::slice::{Panel, Plane, Turned};
use super::{PictureError, Png, Window};
use crate::volume::{LabelMap, LabelTable, Volume};
use std::collections::BTreeSet;

/// Size of a plane and of a slice of the montage, in pixels.
const PLANE: usize = 320;
const TILE: usize = 180;

/// How a preview is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Intensities that are seen.
    pub window: Window,
    /// How many axial slices the montage has; 0 for none.
    pub montage: usize,
    /// How much labels cover the image, from 0 to 1; outlines are always drawn.
    pub opacity: f32,
}

/// The picture of `image`, with the labels of `mask` on it.
///
/// The planes meet in the middle of the labels, or of the image. The montage spreads over the slices
/// that hold a label, or over all.
///
/// # Errors
/// [`PictureError`] when the mask is on another grid.
pub fn draw(
    image: &Volume<f32>,
    mask: Option<&LabelMap>,
    style: Style,
) -> Result<Png, PictureError> {
    if let Some(mask) = mask {
        same_grid("the mask", mask.grid(), image.grid())?;
    }
    let scene = Scene {
        image: Turned::of(image)?,
        mask: mask.map(|mask| Turned::of(&mask.volume)).transpose()?,
        table: mask.map(|mask| &mask.table),
        style,
    };
    let planes = [Plane::Axial, Plane::Coronal, Plane::Sagittal];
    let (middle, rows) = scene.middle();
    let mut panels = Vec::new();
    let mut seen = BTreeSet::new();
    for plane in planes {
        panels.push(scene.panel(plane, middle[plane.axis()], PLANE, &mut seen));
    }
    let mut tiles = Vec::new();
    for index in 0..style.montage {
        // The middles of equal parts, from the head down.
        let share = (index as f64 + 0.5) / style.montage as f64;
        let slice = rows[1] - ((rows[1] - rows[0]) as f64 * share).round() as usize;
        tiles.push(scene.panel(Plane::Axial, slice, TILE, &mut seen));
    }
    let width = 3 * PLANE + 4 * GAP;
    let columns = (width - GAP) / (TILE + GAP);
    let tile_rows = tiles.len().div_ceil(columns);
    let tile_height = tiles.iter().map(|tile| tile.height).max().unwrap_or(0);
    let plane_height = panels.iter().map(|panel| panel.height).max().unwrap_or(0);
    let legend = Legend::fit(scene.legend(&seen), width);
    let height = plane_height + 2 * GAP + tile_rows * (tile_height + GAP) + legend.height() + GAP;
    let mut page = Canvas::new(width, height, PAGE);
    for (index, panel) in panels.iter().enumerate() {
        let left = GAP + index * (PLANE + GAP) + (PLANE - panel.width) / 2;
        page.paste(panel, left, GAP + (plane_height - panel.height) / 2);
    }
    let mut top = plane_height + 2 * GAP;
    for (index, tile) in tiles.iter().enumerate() {
        let left = GAP + (index % columns) * (TILE + GAP) + (TILE - tile.width) / 2;
        page.paste(tile, left, top + (index / columns) * (tile_height + GAP));
    }
    top += tile_rows * (tile_height + GAP);
    legend.draw(&mut page, top);
    Ok(page.png())
}

struct Scene<'a> {
    image: Turned<'a, f32>,
    mask: Option<Turned<'a, u16>>,
    table: Option<&'a LabelTable>,
    style: Style,
}

impl Scene<'_> {
    /// The voxel in which the planes meet, `[z, y, x]`, and the first and last axial slice to spread a
    /// montage over.
    fn middle(&self) -> ([usize; 3], [usize; 2]) {
        let (z, y, x) = self.image.view.dim();
        let mut low = [z, y, x];
        let mut high = [0; 3];
        if let Some(mask) = &self.mask {
            for ((z, y, x), _) in mask.view.indexed_iter().filter(|(_, label)| **label > 0) {
                for (axis, at) in [z, y, x].into_iter().enumerate() {
                    low[axis] = low[axis].min(at);
                    high[axis] = high[axis].max(at);
                }
            }
        }
        if low[0] > high[0] {
            return ([z / 2, y / 2, x / 2], [0, z.saturating_sub(1)]);
        }
        let middle = [0, 1, 2].map(|axis| usize::midpoint(low[axis], high[axis]));
        (middle, [low[0], high[0]])
    }

    fn panel(&self, plane: Plane, index: usize, size: usize, seen: &mut BTreeSet<u16>) -> Canvas {
        let slice = self.image.slice(plane, index);
        let panel = Panel::fit(slice.whole(), slice.spacing_mm, [size, size]);
        let mut canvas = panel.grey(Some((&slice, self.style.window)));
        if let Some(mask) = &self.mask {
            let values = panel.values(&mask.slice(plane, index));
            for (at, &label) in values.iter().enumerate().filter(|(_, label)| **label > 0) {
                seen.insert(label);
                let (x, y) = (at % panel.width, at / panel.width);
                let border = panel.is_border(&values, x, y);
                let share = if border { 1.0 } else { self.style.opacity };
                canvas.blend(x, y, self.color(label), share);
            }
        }
        if size == PLANE {
            let [left, top] = plane.edges();
            canvas.label(2, panel.height / 2, left);
            canvas.label(panel.width / 2, 2, top);
            canvas.label(2, 2, &format!("{} {index}", plane.name()));
        } else {
            canvas.label(2, 2, &index.to_string());
        }
        canvas
    }

    fn color(&self, label: u16) -> Rgb {
        let known = self.table.and_then(|table| table.get(label));
        known.map_or_else(|| LabelTable::default_rgb(label), |label| label.rgb)
    }

    /// Colour and text of the labels in the picture.
    fn legend(&self, seen: &BTreeSet<u16>) -> Vec<(Rgb, String)> {
        let name = |label: u16| self.table.map(|table| table.name_of(label));
        seen.iter()
            .map(|&label| {
                let text = format!("{label} {}", name(label).unwrap_or_default());
                (self.color(label), text)
            })
            .collect()
    }
}
