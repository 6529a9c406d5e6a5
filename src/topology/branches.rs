//! What is measured on the branches of a skeleton: length, tortuosity, calibre, volume.
//!
//! A line of voxels is a staircase and measures up to 8 % too long, so lengths are taken along the line smoothed by a
//! Gaussian of one voxel, ends kept. Every voxel of the structure belongs to the branch whose centre line is nearest
//! through the structure; those around a junction to the thickest branch that ends there. So the volumes add up to the
//! volume of all pieces that have branches, and the mean radius is that of a round tube of the branch's volume and
//! length.

use super::foreground::Foreground;
use super::graph::SkeletonGraph;
use super::vector::{Vector, distance, polyline_length, smoothed};

/// One branch. Positions are in mm from the centre of the volume's first voxel, `[z, y, x]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchMeasures {
    /// The 26-connected piece that it belongs to, counted from 0 by first voxel.
    pub piece: u32,
    /// Nodes at its ends, as in [`Branch::nodes`](super::graph::Branch::nodes).
    pub nodes: Option<[u32; 2]>,
    /// Its smoothed centre line; that of a closed line ends where it begins.
    pub line_mm: Vec<[f64; 3]>,
    /// Largest inscribed radius at every point of `line_mm`: distance to the nearest background voxel.
    pub radii_mm: Vec<f64>,
    /// Length of the centre line.
    pub length_mm: f64,
    /// Distance between its ends; `None` for a closed line.
    pub chord_mm: Option<f64>,
    /// Length over chord, at least 1; `None` for a closed line.
    pub tortuosity: Option<f64>,
    /// Radius of the round tube of the same length and volume.
    pub mean_radius_mm: f64,
    /// Volume of the voxels that belong to it.
    pub volume_mm3: f64,
}

/// Measures the branches of `graph`, the skeleton of `foreground`, in the graph's order.
///
/// Cost: O(voxels of the structure); memory: 12 bytes for each.
pub fn measure_branches(foreground: &Foreground, graph: &SkeletonGraph) -> Vec<BranchMeasures> {
    let voxel_mm3: f64 = foreground.spacing_mm().iter().product();
    let mut voxels_at = vec![0_u32; graph.points.len()];
    let (pieces, _) = foreground.components();
    for owner in graph.owners(foreground, &pieces) {
        // Pieces whose skeleton is one voxel have an owner too; nothing has none.
        if let Some(count) = voxels_at.get_mut(owner as usize) {
            *count += 1;
        }
    }
    let branch_at = branch_of_points(graph);
    let mut volumes = vec![0.0; graph.branches.len()];
    for (branch, count) in branch_at.iter().zip(voxels_at) {
        if let Some(volume) = volumes.get_mut(*branch as usize) {
            *volume += f64::from(count) * voxel_mm3;
        }
    }
    (graph.branches.iter().zip(volumes))
        .map(|(branch, volume_mm3)| {
            let points = || branch.points.iter().map(|&at| &graph.points[at as usize]);
            let mut raw: Vec<Vector> = points().map(|point| point.position_mm).collect();
            let mut radii_mm: Vec<f64> = points().map(|point| point.radius_mm).collect();
            if branch.nodes.is_none() {
                raw.extend(raw.first().copied());
                radii_mm.extend(radii_mm.first().copied());
            }
            let line_mm = smoothed(&raw);
            let length_mm = polyline_length(&line_mm);
            let chord_mm = match (line_mm.first(), line_mm.last(), branch.nodes) {
                (Some(&first), Some(&last), Some(_)) => Some(distance(first, last)),
                _ => None,
            };
            let tortuosity = chord_mm
                .filter(|&chord| chord > 0.0)
                .map(|chord| (length_mm / chord).max(1.0));
            BranchMeasures {
                piece: points()
                    .next()
                    .map_or(0, |point| pieces[point.index as usize]),
                nodes: branch.nodes,
                mean_radius_mm: (volume_mm3 / (std::f64::consts::PI * length_mm)).sqrt(),
                line_mm,
                radii_mm,
                length_mm,
                chord_mm,
                tortuosity,
                volume_mm3,
            }
        })
        .collect()
}

/// The branch that every point counts for; `u32::MAX` for points without any.
fn branch_of_points(graph: &SkeletonGraph) -> Vec<u32> {
    let mut found = vec![u32::MAX; graph.points.len()];
    let middle_radius = |branch: u32| {
        let points = &graph.branches[branch as usize].points;
        graph.points[points[points.len() / 2] as usize].radius_mm
    };
    for (number, branch) in graph.branches.iter().enumerate() {
        for &point in &branch.points {
            found[point as usize] = number as u32;
        }
    }
    for node in &graph.nodes {
        let thickest = node.branches.iter().copied().reduce(|best, other| {
            if middle_radius(other) > middle_radius(best) {
                other
            } else {
                best
            }
        });
        for &point in &node.points {
            found[point as usize] = thickest.unwrap_or(u32::MAX);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    fn measures(mask: &Array3<bool>, spacing_mm: [f64; 3]) -> Vec<BranchMeasures> {
        let foreground = Foreground::of(mask.view(), spacing_mm, |v| v).unwrap();
        let graph = SkeletonGraph::of(&foreground, &foreground.depth_mm());
        measure_branches(&foreground, &graph)
    }

    #[test]
    fn a_straight_tube_has_its_length_radius_and_volume() {
        // A round tube of 4 mm radius and 60 mm length, slices of 2 mm.
        let tube = Array3::from_shape_fn([36, 13, 13], |(z, y, x)| {
            let (dy, dx) = (y as f64 - 6.0, x as f64 - 6.0);
            (3..33).contains(&z) && dy * dy + dx * dx <= 16.5
        });
        let found = measures(&tube, [2.0, 1.0, 1.0]);
        let [branch] = &found[..] else {
            panic!("{found:?}");
        };
        let voxels = tube.iter().filter(|&&v| v).count();
        assert_eq!(branch.volume_mm3, 2.0 * voxels as f64);
        assert!((50.0..=60.0).contains(&branch.length_mm), "{branch:?}");
        assert!(branch.tortuosity.unwrap() < 1.01, "{branch:?}");
        assert!((branch.mean_radius_mm - 4.0).abs() < 0.5, "{branch:?}");
    }

    #[test]
    fn a_slanted_line_is_not_measured_as_stairs() {
        let mut mask = Array3::default([3, 45, 103]);
        for x in 0..100 {
            mask[[1, 1 + (0.4 * x as f64).round() as usize, 1 + x]] = true;
        }
        let found = measures(&mask, [1.0; 3]);
        let truth = 99.0 * 1.16_f64.sqrt();
        assert_eq!(found.len(), 1);
        assert!(
            (found[0].length_mm / truth - 1.0).abs() < 0.02,
            "{}",
            found[0].length_mm
        );
    }

    #[test]
    fn volumes_add_up_and_a_ring_has_no_chord() {
        let ring = Array3::from_shape_fn([9, 31, 31], |(z, y, x)| {
            let (dz, dy, dx) = (z as f64 - 4.0, y as f64 - 15.0, x as f64 - 15.0);
            (dz * dz + (dy.hypot(dx) - 10.0).powi(2)) <= 6.5
        });
        let found = measures(&ring, [1.0; 3]);
        let total: f64 = found.iter().map(|branch| branch.volume_mm3).sum();
        assert_eq!(total, ring.iter().filter(|&&v| v).count() as f64);
        let [branch] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((branch.chord_mm, branch.tortuosity), (None, None));
        let around = 20.0 * std::f64::consts::PI;
        assert!(
            (branch.length_mm / around - 1.0).abs() < 0.05,
            "{}",
            branch.length_mm
        );
    }
}
