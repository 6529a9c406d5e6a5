//! The picture of a case's surfaces.

use medseg::mesh::{Frame, Surface, SurfaceNet};
use medseg::report::picture::bodies::{Axes, Body, Scene};
use medseg::volume::LabelTable;

/// An empty picture for the surfaces of `net`; `None` if it has none.
pub fn scene(net: &SurfaceNet, frame: Frame) -> Option<Scene> {
    let axes = match frame {
        Frame::Ras => Axes::Ras,
        Frame::Lps => Axes::Lps,
    };
    net.bounds_mm()
        .map(|[low, high]| Scene::new(low, high, axes))
}

/// Adds a surface in its label's colour and with its name.
pub fn add(scene: &Scene, surface: &Surface, table: &LabelTable) {
    scene.add(&Body {
        number: surface.label,
        positions: &surface.positions,
        triangles: &surface.triangles,
        rgb: rgb(table, surface.label),
        text: &format!("{} {}", surface.label, table.name_of(surface.label)),
    });
}

/// The colour of a label.
pub fn rgb(table: &LabelTable, label: u16) -> [u8; 3] {
    table
        .get(label)
        .map_or_else(|| LabelTable::default_rgb(label), |known| known.rgb)
}
