//! Closed surfaces from four sides, shaded and coloured.
//!
//! Parallel projection from the front, the right, the back and the left, superior on top, all at one scale. A depth buffer keeps what
//! is nearest, light comes from the viewer and a little from above, and every pixel is the mean of 2 x 2 samples. What encloses
//! another body hides it. The picture does not depend on the order in which bodies come, nor on threads that bring them.

use super::Png;
use super::canvas::{Canvas, Rgb};
use super::legend::{GAP, Legend, PAGE};
use std::sync::{Mutex, PoisonError};

/// Largest width and height of a view, in pixels.
const PANEL: usize = 420;
/// Samples per pixel along each axis.
const SAMPLES: usize = 2;
/// Room around the bodies, as a part of the view.
const MARGIN: f64 = 0.04;
/// Light that every side gets; the rest depends on the angle.
const AMBIENT: f64 = 0.3;
/// Where light comes from: to the right of the viewer, up, towards the viewer; length 1.
const LIGHT: [f64; 3] = [-0.25, 0.35, 0.902_773_504_263_389_8];

/// Axes of the positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// Right, anterior, superior.
    Ras,
    /// Left, posterior, superior.
    Lps,
}

/// A closed triangle mesh; triangles turn anticlockwise as seen from outside.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    /// Where two bodies are equally far away, the smaller number is seen.
    pub number: u16,
    /// Positions in millimetres.
    pub positions: &'a [[f64; 3]],
    /// Corners, as indices of positions.
    pub triangles: &'a [[u32; 3]],
    /// Its colour.
    pub rgb: Rgb,
    /// What the legend says.
    pub text: &'a str,
}

/// Name of a side, and the RAS directions that point right and towards the viewer in its view.
const SIDES: [(&str, [f64; 2], [f64; 2]); 4] = [
    ("anterior", [-1.0, 0.0], [0.0, 1.0]),
    ("right", [0.0, 1.0], [1.0, 0.0]),
    ("posterior", [1.0, 0.0], [0.0, -1.0]),
    ("left", [0.0, -1.0], [-1.0, 0.0]),
];

/// A picture that bodies are added to, from any thread.
pub struct Scene {
    /// +1 for RAS, -1 for LPS.
    sign: f64,
    /// Middle of the scene, RAS.
    middle: [f64; 3],
    /// Samples per millimetre.
    scale: f64,
    views: [Mutex<View>; 4],
    legend: Mutex<Vec<(u16, Rgb, String)>>,
}

/// The nearest thing at every sample.
struct View {
    width: usize,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    /// Towards the viewer, in millimetres from the middle.
    depth: f32,
    number: u16,
    rgb: Rgb,
}

impl Scene {
    /// An empty scene for bodies between the corners `low` and `high`, in millimetres along `axes`. Memory: 35 MB at most.
    pub fn new(low: [f64; 3], high: [f64; 3], axes: Axes) -> Self {
        let sign = match axes {
            Axes::Ras => 1.0,
            Axes::Lps => -1.0,
        };
        let size: [f64; 3] = std::array::from_fn(|axis| (high[axis] - low[axis]).max(0.0));
        let half = |axis: usize| f64::midpoint(low[axis], high[axis]);
        let across = size[0].max(size[1]);
        let largest = across.max(size[2]);
        let most = (PANEL * SAMPLES) as f64;
        let scale = if largest > 0.0 && largest.is_finite() {
            most / (largest * (1.0 + 2.0 * MARGIN))
        } else {
            1.0
        };
        // Whole pixels; the cast saturates, so sizes that are no numbers give the smallest picture.
        let samples = |millimetres: f64| {
            let pixels = millimetres * (1.0 + 2.0 * MARGIN) * scale / SAMPLES as f64;
            (pixels.ceil() as usize).clamp(1, PANEL) * SAMPLES
        };
        let [width, height] = [samples(across), samples(size[2])];
        let empty = Sample {
            depth: f32::NEG_INFINITY,
            number: 0,
            rgb: PAGE,
        };
        Self {
            sign,
            middle: [sign * half(0), sign * half(1), half(2)],
            scale,
            views: std::array::from_fn(|_| {
                Mutex::new(View {
                    width,
                    samples: vec![empty; width * height],
                })
            }),
            legend: Mutex::new(Vec::new()),
        }
    }

    /// Draws `body`. Cost: its triangles four times.
    pub fn add(&self, body: &Body) {
        for ((_, right, towards), view) in SIDES.iter().zip(&self.views) {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            let (half_width, half_height) = view.middle();
            let seen = |vertex: u32| -> Option<[f64; 3]> {
                let [x, y, z] = *body.positions.get(vertex as usize)?;
                let x = self.sign * x - self.middle[0];
                let y = self.sign * y - self.middle[1];
                let z = z - self.middle[2];
                Some([
                    half_width + self.scale * (right[0] * x + right[1] * y),
                    half_height - self.scale * z,
                    self.scale * (towards[0] * x + towards[1] * y),
                ])
            };
            for &[a, b, c] in body.triangles {
                if let (Some(a), Some(b), Some(c)) = (seen(a), seen(b), seen(c)) {
                    view.fill([a, b, c], body);
                }
            }
        }
        let entry = (body.number, body.rgb, body.text.to_owned());
        let mut legend = self.legend.lock().unwrap_or_else(PoisonError::into_inner);
        legend.push(entry);
    }

    /// The four views with their names, and the bodies' colours and texts.
    pub fn png(self) -> Png {
        let mut legend = self
            .legend
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        legend.sort();
        let entries = legend.into_iter().map(|(_, rgb, text)| (rgb, text));
        let panels = self.views.map(|view| {
            let view = view.into_inner().unwrap_or_else(PoisonError::into_inner);
            view.canvas()
        });
        let [width, height] = [panels[0].width.max(PANEL / 2), panels[0].height];
        let page_width = 2 * width + 3 * GAP;
        let legend = Legend::fit(entries.collect(), page_width);
        let top = 2 * (height + GAP) + GAP;
        let mut page = Canvas::new(page_width, top + legend.height() + GAP, PAGE);
        for (index, (panel, side)) in panels.iter().zip(SIDES).enumerate() {
            let left = GAP + (index % 2) * (width + GAP);
            let row = GAP + (index / 2) * (height + GAP);
            page.paste(panel, left + (width - panel.width) / 2, row);
            page.label(left, row, side.0);
        }
        legend.draw(&mut page, top);
        page.png()
    }
}

impl View {
    /// Sample coordinates of the middle.
    fn middle(&self) -> (f64, f64) {
        let height = self.samples.len() / self.width;
        (self.width as f64 / 2.0, height as f64 / 2.0)
    }

    /// Draws a triangle given by column, row and nearness of its corners, all in samples.
    fn fill(&mut self, [a, b, c]: [[f64; 3]; 3], body: &Body) {
        // Rows run down, so what turns anticlockwise to the viewer has a negative area here.
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        if area.is_nan() || area >= 0.0 {
            return;
        }
        let height = self.samples.len() / self.width;
        let span = |axis: usize, most: usize| {
            let low = a[axis].min(b[axis]).min(c[axis]);
            let high = a[axis].max(b[axis]).max(c[axis]);
            // Samples lie at halves; casts saturate.
            let first = (low - 0.5).ceil().max(0.0) as usize;
            let end = ((high - 0.5).floor() + 1.0).max(0.0) as usize;
            first..end.min(most)
        };
        let (columns, rows) = (span(0, self.width), span(1, height));
        if columns.is_empty() || rows.is_empty() {
            return;
        }
        let rgb = shade([a, b, c], body.rgb);
        for row in rows {
            let y = row as f64 + 0.5;
            for column in columns.clone() {
                let x = column as f64 + 0.5;
                let side = |p: [f64; 3], q: [f64; 3]| {
                    ((q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0])) / area
                };
                let weights = [side(b, c), side(c, a), side(a, b)];
                if weights.iter().any(|&weight| weight < 0.0) {
                    continue;
                }
                let depth = (weights[0] * a[2] + weights[1] * b[2] + weights[2] * c[2]) as f32;
                let Some(sample) = self.samples.get_mut(row * self.width + column) else {
                    continue;
                };
                if depth > sample.depth || (depth == sample.depth && body.number < sample.number) {
                    *sample = Sample {
                        depth,
                        number: body.number,
                        rgb,
                    };
                }
            }
        }
    }

    /// The mean of the samples of every pixel.
    fn canvas(&self) -> Canvas {
        let height = self.samples.len() / self.width;
        let mut canvas = Canvas::new(self.width / SAMPLES, height / SAMPLES, PAGE);
        for y in 0..canvas.height {
            for x in 0..canvas.width {
                let mut sums = [0_usize; 3];
                for row in y * SAMPLES..(y + 1) * SAMPLES {
                    let start = row * self.width + x * SAMPLES;
                    for sample in self.samples.iter().skip(start).take(SAMPLES) {
                        for (sum, value) in sums.iter_mut().zip(sample.rgb) {
                            *sum += usize::from(value);
                        }
                    }
                }
                let most = SAMPLES * SAMPLES;
                canvas.set(x, y, sums.map(|sum| ((sum + most / 2) / most) as u8));
            }
        }
        canvas
    }
}

/// The colour of a triangle under the light.
fn shade([a, b, c]: [[f64; 3]; 3], rgb: Rgb) -> Rgb {
    // Rows run down: turned up for the normal, which then points to the viewer for what is seen.
    let edge = |p: [f64; 3]| [p[0] - a[0], a[1] - p[1], p[2] - a[2]];
    let (u, v) = (edge(b), edge(c));
    let normal = [
        u[1] * v[2] - u[2] * v[1],
        u[2] * v[0] - u[0] * v[2],
        u[0] * v[1] - u[1] * v[0],
    ];
    let length = normal.iter().map(|n| n * n).sum::<f64>().sqrt();
    let facing = normal.iter().zip(LIGHT).map(|(n, l)| n * l).sum::<f64>();
    let light = AMBIENT + (1.0 - AMBIENT) * (facing / length).max(0.0);
    // The cast saturates, also for a triangle without area.
    rgb.map(|value| (f64::from(value) * light).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six faces between two corners.
    fn cuboid(low: [f64; 3], high: [f64; 3]) -> (Vec<[f64; 3]>, Vec<[u32; 3]>) {
        let positions = (0..8)
            .map(|corner: usize| {
                std::array::from_fn(|axis| {
                    if corner >> axis & 1 == 1 {
                        high[axis]
                    } else {
                        low[axis]
                    }
                })
            })
            .collect();
        let quads = [
            [0, 2, 3, 1],
            [4, 5, 7, 6],
            [0, 1, 5, 4],
            [2, 6, 7, 3],
            [0, 4, 6, 2],
            [1, 3, 7, 5],
        ];
        let triangles = quads
            .iter()
            .flat_map(|&[a, b, c, d]| [[a, b, c], [a, c, d]])
            .collect();
        (positions, triangles)
    }

    /// The colour of the view's sample at parts of its width and height.
    fn seen(scene: &Scene, side: &str, across: f64, down: f64) -> Rgb {
        let index = SIDES.iter().position(|entry| entry.0 == side).unwrap();
        let view = scene.views[index].lock().unwrap();
        let height = view.samples.len() / view.width;
        let column = (across * view.width as f64) as usize;
        let row = (down * height as f64) as usize;
        view.samples[row * view.width + column].rgb
    }

    fn drawn(order: [usize; 2], axes: Axes) -> Scene {
        // Red lies right and in front of blue, seen in RAS.
        let boxes = [
            (1, [255, 0, 0], cuboid([0.0, 0.0, 0.0], [9.0, 10.0, 10.0])),
            (
                2,
                [0, 0, 255],
                cuboid([-10.0, -10.0, 0.0], [4.0, 0.0, 10.0]),
            ),
        ];
        let scene = Scene::new([-10.0, -10.0, 0.0], [10.0, 10.0, 20.0], axes);
        for index in order {
            let (number, rgb, (positions, triangles)) = &boxes[index];
            scene.add(&Body {
                number: *number,
                positions,
                triangles,
                rgb: *rgb,
                text: "box",
            });
        }
        scene
    }

    fn is_red(rgb: Rgb) -> bool {
        rgb[0] > 80 && rgb[2] == 0
    }

    fn is_blue(rgb: Rgb) -> bool {
        rgb[2] > 80 && rgb[0] == 0
    }

    #[test]
    fn every_side_shows_what_is_nearest_there() {
        let scene = drawn([0, 1], Axes::Ras);
        // The patient's right is on the left of the front view.
        assert!(is_red(seen(&scene, "anterior", 0.3, 0.7)));
        assert!(is_red(seen(&scene, "anterior", 0.45, 0.7)));
        assert!(is_blue(seen(&scene, "anterior", 0.7, 0.7)));
        assert!(is_blue(seen(&scene, "posterior", 0.6, 0.7)));
        assert!(is_red(seen(&scene, "posterior", 0.8, 0.7)));
        // Anterior is on the right as seen from the right.
        assert!(is_red(seen(&scene, "right", 0.7, 0.7)));
        assert!(is_blue(seen(&scene, "right", 0.3, 0.7)));
        assert!(is_red(seen(&scene, "left", 0.3, 0.7)));
        for (side, ..) in SIDES {
            assert_eq!(seen(&scene, side, 0.5, 0.2), PAGE, "above the boxes");
        }
    }

    #[test]
    fn lps_is_the_same_scene_turned_by_half() {
        let scene = drawn([0, 1], Axes::Lps);
        assert!(is_red(seen(&scene, "posterior", 0.3, 0.7)));
        assert!(is_blue(seen(&scene, "anterior", 0.6, 0.7)));
    }

    #[test]
    fn the_order_of_bodies_does_not_matter() {
        let png = drawn([0, 1], Axes::Ras).png();
        assert!(png == drawn([1, 0], Axes::Ras).png());
        assert!(png.0.len() > 1000);
    }

    #[test]
    fn faces_towards_the_light_are_brighter() {
        let towards = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]];
        let steep = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, -9.0]];
        let white = [255; 3];
        assert!(shade(towards, white)[0] > shade(steep, white)[0]);
        assert!(shade(steep, white)[0] >= 76);
    }

    #[test]
    fn broken_numbers_draw_nothing() {
        let scene = Scene::new([f64::NAN; 3], [f64::INFINITY; 3], Axes::Ras);
        scene.add(&Body {
            number: 1,
            positions: &[[f64::NAN; 3], [0.0; 3], [f64::INFINITY, 1.0, 1.0]],
            triangles: &[[0, 1, 2], [0, 1, 9]],
            rgb: [255; 3],
            text: "none",
        });
        assert!(!scene.png().0.is_empty());
    }
}
