//! Times what vessel repair does before it looks for bridges: listing the voxels of a label, their depth, their
//! components, their skeleton. `topology_times MASK.nii.gz LABEL [REPETITIONS]` prints seconds per stage, one
//! line of JSON per repetition, and checks nothing.

use medseg::io::{Limits, nifti};
use medseg::topology::{Connectivity, Foreground, label_components, thin};
use medseg::volume::LabelTable;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which label map?")?;
    let label: u16 = arguments.next().ok_or("which label?")?.parse()?;
    let repetitions: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let reader = nifti::Reader::open(std::path::Path::new(&path), &Limits::detect())?;
    let (map, _) = reader.into_label_map(LabelTable::default())?;
    let spacing_mm = map.grid().spacing_mm;
    let labels = map.volume.data();
    let mask = labels.mapv(|value| value == label);
    for _ in 0..repetitions {
        let mut clock = Instant::now();
        let mut lap = || {
            let seconds = clock.elapsed().as_secs_f64();
            clock = Instant::now();
            seconds
        };
        let foreground = Foreground::of(labels.view(), spacing_mm, |value| value == label)?;
        let list = lap();
        let depth = foreground.depth_mm();
        let distance = lap();
        let (_, pieces) = foreground.components();
        let components = lap();
        let skeleton = thin(&foreground, &depth);
        let thinning = lap();
        let dense = label_components(mask.view(), Connectivity::TwentySix)?;
        let dense_components = lap();
        println!(
            "{{\"voxels\": {}, \"pieces\": {pieces}, \"skeleton\": {}, \"list\": {list:.4}, \"distance\": {distance:.4}, \
             \"components\": {components:.4}, \"thinning\": {thinning:.4}, \"whole\": {:.4}, \
             \"dense_components\": {dense_components:.4}, \"dense_pieces\": {}}}",
            foreground.len(),
            skeleton.len(),
            list + distance + components + thinning,
            dense.len(),
        );
    }
    Ok(())
}
