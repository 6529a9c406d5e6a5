//! Slices of volumes in the direction of display, and how they become pixels.

use super::PictureError;
use super::canvas::{BLACK, Canvas};
use super::window::Window;
use crate::geometry::orientation::{Orientation, Turn};
use crate::volume::Volume;
use ndarray::{ArrayView3, Axis};

/// Directions of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    Axial,
    Coronal,
    Sagittal,
}

impl Plane {
    /// The axis of a RAS+ `[z, y, x]` array that the slices are counted along.
    pub fn axis(self) -> usize {
        match self {
            Self::Axial => 0,
            Self::Coronal => 1,
            Self::Sagittal => 2,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    /// Letters at the left and the top edge.
    pub fn edges(self) -> [&'static str; 2] {
        match self {
            Self::Axial => ["R", "A"],
            Self::Coronal => ["R", "S"],
            Self::Sagittal => ["A", "S"],
        }
    }
}

/// The plane and index, in RAS+ order, of slice `z` along the last axis of a file.
pub fn plane_of<T>(volume: &Volume<T>, z: usize) -> Result<(Plane, usize), PictureError> {
    let [_, _, third] = Orientation::of(&volume.grid().affine)?.directions();
    let slices = volume.grid().shape[0];
    if z >= slices {
        return Err(PictureError::Slice { index: z, slices });
    }
    let plane = match third.world_axis {
        0 => Plane::Sagittal,
        1 => Plane::Coronal,
        _ => Plane::Axial,
    };
    Ok((plane, if third.positive { z } else { slices - 1 - z }))
}

/// Values of one slice, row by row from the top left as displayed.
#[derive(Debug, Clone)]
pub struct Slice<T> {
    pub width: usize,
    pub height: usize,
    /// Size of a value to the right and down, in millimetres.
    pub spacing_mm: [f64; 2],
    pub values: Vec<T>,
}

/// A volume seen in RAS+ order; nothing is copied.
pub struct Turned<'a, T> {
    pub view: ArrayView3<'a, T>,
    pub spacing_mm: [f64; 3],
}

impl<'a, T: Copy> Turned<'a, T> {
    pub fn of(volume: &'a Volume<T>) -> Result<Self, PictureError> {
        let turn = Turn::to_canonical(&volume.grid().affine)?;
        Ok(Self {
            view: turn.view(volume.data().view()),
            spacing_mm: turn.grid(volume.grid()).spacing_mm,
        })
    }

    /// One slice; all directions of display run against the RAS+ axes. `index` is below
    /// the length of the plane's axis.
    pub fn slice(&self, plane: Plane, index: usize) -> Slice<T> {
        let mut flat = self.view.index_axis(Axis(plane.axis()), index);
        flat.invert_axis(Axis(0));
        flat.invert_axis(Axis(1));
        let (height, width) = flat.dim();
        let kept: Vec<f64> = (0..3)
            .filter(|&axis| axis != plane.axis())
            .map(|axis| self.spacing_mm[axis])
            .collect();
        Slice {
            width,
            height,
            spacing_mm: [kept[1], kept[0]],
            values: flat.iter().copied().collect(),
        }
    }
}

/// Part of a slice, in values: left, top, width, height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

impl<T: Copy> Slice<T> {
    pub fn whole(&self) -> Region {
        Region {
            left: 0,
            top: 0,
            width: self.width,
            height: self.height,
        }
    }

    /// The values that `keep` keeps with `margin_mm` around them, at least `least_mm` wide and high;
    /// `None` when there are none.
    pub fn around(
        &self,
        keep: impl Fn(T) -> bool,
        margin_mm: f64,
        least_mm: f64,
    ) -> Option<Region> {
        let places = || {
            let kept = self
                .values
                .iter()
                .enumerate()
                .filter(|(_, value)| keep(**value));
            kept.map(|(index, _)| (index % self.width, index / self.width))
        };
        let ends = |values: &mut dyn Iterator<Item = usize>| {
            values.fold(None, |ends: Option<(usize, usize)>, value| {
                Some(ends.map_or((value, value), |(low, high)| {
                    (low.min(value), high.max(value))
                }))
            })
        };
        let (left, right) = ends(&mut places().map(|(x, _)| x))?;
        let (top, bottom) = ends(&mut places().map(|(_, y)| y))?;
        let widen = |low: usize, high: usize, spacing_mm: f64, most: usize| {
            let half = (((high - low) as f64 * spacing_mm / 2.0 + margin_mm).max(least_mm / 2.0)
                / spacing_mm)
                .ceil() as usize;
            let middle = usize::midpoint(low, high);
            let start = middle.saturating_sub(half);
            (start, (middle + half + 1).min(most) - start)
        };
        let (left, width) = widen(left, right, self.spacing_mm[0], self.width);
        let (top, height) = widen(top, bottom, self.spacing_mm[1], self.height);
        Some(Region {
            left,
            top,
            width,
            height,
        })
    }
}

/// A region of a slice as it lies in a panel.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    region: Region,
    pub width: usize,
    pub height: usize,
    /// Pixels per millimetre.
    pub scale: f64,
    spacing_mm: [f64; 2],
}

impl Panel {
    /// As large as fits `most` pixels in width and height, with square millimetres.
    pub fn fit(region: Region, spacing_mm: [f64; 2], most: [usize; 2]) -> Self {
        let extent = [
            region.width as f64 * spacing_mm[0],
            region.height as f64 * spacing_mm[1],
        ];
        let scale = (most[0] as f64 / extent[0]).min(most[1] as f64 / extent[1]);
        let pixels = |mm: f64, most: usize| ((mm * scale).round() as usize).clamp(1, most);
        Self {
            region,
            width: pixels(extent[0], most[0]),
            height: pixels(extent[1], most[1]),
            scale,
            spacing_mm,
        }
    }

    /// The value under a pixel.
    fn value<T: Copy>(&self, slice: &Slice<T>, x: usize, y: usize) -> Option<T> {
        let (u, v) = self.place(x, y);
        let (u, v) = (u.round().max(0.0) as usize, v.round().max(0.0) as usize);
        let (u, v) = (u.min(slice.width - 1), v.min(slice.height - 1));
        slice.values.get(v * slice.width + u).copied()
    }

    /// Where the middle of a pixel lies between the middles of values.
    fn place(&self, x: usize, y: usize) -> (f64, f64) {
        let along = |pixel: usize, first: usize, spacing_mm: f64| {
            first as f64 + (pixel as f64 + 0.5) / (self.scale * spacing_mm) - 0.5
        };
        (
            along(x, self.region.left, self.spacing_mm[0]),
            along(y, self.region.top, self.spacing_mm[1]),
        )
    }

    /// Grey values, linear between voxels; black without an image.
    pub fn grey(&self, image: Option<(&Slice<f32>, Window)>) -> Canvas {
        let mut canvas = Canvas::new(self.width, self.height, BLACK);
        let Some((slice, window)) = image else {
            return canvas;
        };
        let at = |u: usize, v: usize| {
            let (u, v) = (u.min(slice.width - 1), v.min(slice.height - 1));
            slice
                .values
                .get(v * slice.width + u)
                .copied()
                .unwrap_or(f32::NAN)
        };
        for y in 0..self.height {
            for x in 0..self.width {
                let (u, v) = self.place(x, y);
                let (u, v) = (u.max(0.0), v.max(0.0));
                let (left, top) = (u as usize, v as usize);
                let (right, down) = ((u - left as f64) as f32, (v - top as f64) as f32);
                let upper = at(left, top) * (1.0 - right) + at(left + 1, top) * right;
                let lower = at(left, top + 1) * (1.0 - right) + at(left + 1, top + 1) * right;
                let grey = window.grey(upper * (1.0 - down) + lower * down);
                canvas.set(x, y, [grey; 3]);
            }
        }
        canvas
    }

    /// The values of the pixels, row by row.
    pub fn values<T: Copy + Default>(&self, slice: &Slice<T>) -> Vec<T> {
        (0..self.height)
            .flat_map(|y| (0..self.width).map(move |x| (x, y)))
            .map(|(x, y)| self.value(slice, x, y).unwrap_or_default())
            .collect()
    }

    /// Pixels at the border of areas of one value, on their inside; the edge of the panel is none.
    pub fn is_border<T: Copy + PartialEq>(&self, values: &[T], x: usize, y: usize) -> bool {
        let at = |x: usize, y: usize| values.get(y * self.width + x);
        let here = at(x, y);
        (x > 0 && at(x - 1, y) != here)
            || (x + 1 < self.width && at(x + 1, y) != here)
            || (y > 0 && at(x, y - 1) != here)
            || (y + 1 < self.height && at(x, y + 1) != here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Grid;
    use ndarray::Array3;

    /// 2 x 3 x 4 voxels whose value is 100 z + 10 y + x, in LPS order.
    fn lps() -> Volume<f32> {
        let mut grid = Grid::with_spacing([2, 3, 4], [3.0, 2.0, 1.0]);
        grid.affine.linear[0][0] *= -1.0;
        grid.affine.linear[1][1] *= -1.0;
        let data = Array3::from_shape_fn((2, 3, 4), |(z, y, x)| (100 * z + 10 * y + x) as f32);
        Volume::new(data, grid).unwrap()
    }

    #[test]
    fn axial_slices_of_lps_files_are_shown_as_they_lie() {
        let volume = lps();
        let (plane, index) = plane_of(&volume, 1).unwrap();
        assert_eq!((plane, index), (Plane::Axial, 1));
        let slice = Turned::of(&volume).unwrap().slice(plane, index);
        assert_eq!((slice.width, slice.height), (4, 3));
        assert_eq!(slice.spacing_mm, [1.0, 2.0]);
        assert_eq!(slice.values[..5], [100.0, 101.0, 102.0, 103.0, 110.0]);
        assert!(plane_of(&volume, 2).is_err());
    }

    #[test]
    fn coronal_slices_have_the_head_on_top() {
        let volume = lps();
        let slice = Turned::of(&volume).unwrap().slice(Plane::Coronal, 2);
        assert_eq!(slice.spacing_mm, [1.0, 3.0]);
        // Slice 2 from posterior is the first row of the file; superior first.
        assert_eq!(
            slice.values,
            [100.0, 101.0, 102.0, 103.0, 0.0, 1.0, 2.0, 3.0]
        );
    }

    #[test]
    fn pixels_are_square_in_millimetres() {
        let slice = Turned::of(&lps())
            .map(|turned| turned.slice(Plane::Axial, 0))
            .unwrap();
        let panel = Panel::fit(slice.whole(), slice.spacing_mm, [40, 40]);
        assert_eq!((panel.width, panel.height), (27, 40));
        let region = slice.around(|value| value == 11.0, 0.0, 0.0).unwrap();
        assert_eq!(
            region,
            Region {
                left: 1,
                top: 1,
                width: 1,
                height: 1
            }
        );
        assert_eq!(slice.around(|value| value == 99.0, 0.0, 0.0), None);
    }
}
