//! The surfaces of what the demo found, as one file and as a picture.

use crate::smooth::scene;
use anyhow::Context as _;
use medseg::io::atomic::{self, AtomicFile};
use medseg::io::{Overwrite, display_name};
use medseg::mesh::write::{Part, plain_name, write_glb};
use medseg::mesh::{Frame, Options, Surface, SurfaceNet};
use medseg::progress::Silent;
use medseg::volume::LabelMap;
use rayon::prelude::*;
use std::path::Path;

/// Names of the files, in the folder of the demo.
pub const FILES: [&str; 2] = ["surfaces.glb", "surfaces.png"];

/// Makes the surfaces of `map` and writes [`FILES`].
pub fn write(
    folder: &Path,
    overwrite: Overwrite,
    map: &LabelMap,
    limit_bytes: u64,
) -> anyhow::Result<()> {
    let options = Options {
        normals: true,
        limit_bytes,
        ..Options::default()
    };
    let net = SurfaceNet::build(map, &options, &Silent)?;
    let labels: Vec<u16> = net.labels().collect();
    let surfaces: Vec<Surface> = labels.par_iter().map(|&label| net.surface(label)).collect();
    let names: Vec<String> = labels
        .iter()
        .map(|&label| plain_name(&map.table.name_of(label)))
        .collect();
    let parts: Vec<Part> = surfaces
        .iter()
        .zip(&names)
        .map(|(surface, name)| Part {
            surface,
            name,
            rgb: scene::rgb(&map.table, surface.label),
        })
        .collect();
    let [objects, picture] = FILES.map(|name| folder.join(name));
    let mut file = AtomicFile::create(&objects, overwrite)?;
    write_glb(&mut file, &parts, Frame::Ras)
        .with_context(|| format!("writing {}", display_name(&objects)))?;
    file.commit()?;
    if let Some(scene) = scene::scene(&net, Frame::Ras) {
        for surface in &surfaces {
            scene::add(&scene, surface, &map.table);
        }
        atomic::write(&picture, overwrite, &scene.png().0)?;
    }
    Ok(())
}
