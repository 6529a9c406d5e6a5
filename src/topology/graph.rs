//! A skeleton as a graph: ends, junctions, and the branches between them.
//!
//! Skeleton voxels with more than two neighbours that touch each other make one junction; voxels with one
//! neighbour or none are tips. Chains of voxels with two neighbours are branches; a chain that closes on
//! itself is a branch without nodes. Spurs, the short side lines that thinning leaves on rough surfaces, are
//! those that hardly leave the ball inscribed at their junction.

use super::foreground::Foreground;
use super::thinning::thin;
use super::vector::{Vector, distance};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// One voxel of a skeleton.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SkeletonPoint {
    /// Its number in the [`Foreground`].
    pub index: u32,
    /// Centre in mm from the centre of the volume's first voxel, `[z, y, x]`.
    pub position_mm: [f64; 3],
    /// Distance to the background in mm: the radius of the largest ball around it.
    pub radius_mm: f64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// One voxel with at most one neighbour.
    Tip,
    /// One or several touching voxels with more than two neighbours.
    Junction,
}

/// A tip or a junction.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Which of the two.
    pub kind: NodeKind,
    /// Its voxels, as positions in [`SkeletonGraph::points`], ascending.
    pub points: Vec<u32>,
    /// Largest radius of its voxels in mm.
    pub radius_mm: f64,
    /// Branches that end here, ascending; a branch that returns to its node is listed twice.
    pub branches: Vec<u32>,
}

/// A line between two nodes, or a closed one.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Nodes at its first and last point; `None` for a closed line without nodes.
    pub nodes: Option<[u32; 2]>,
    /// Its voxels from node to node, as positions in [`SkeletonGraph::points`]; the first and the last
    /// belong to the nodes.
    pub points: Vec<u32>,
    /// Length of the line through the voxel centres in mm (a slanted line of voxels measures up to 8 % too
    /// long); a closed line includes the way back.
    pub length_mm: f64,
}

/// A skeleton with its connections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SkeletonGraph {
    /// The voxels, in scan order.
    pub points: Vec<SkeletonPoint>,
    /// Tips and junctions, by their first voxel.
    pub nodes: Vec<Node>,
    /// Lines between them.
    pub branches: Vec<Branch>,
}

impl SkeletonGraph {
    /// The graph of the skeleton voxels `skeleton` (numbers in `foreground`, ascending: what
    /// [`thin`](super::thin) gives); `depth_mm` is [`Foreground::depth_mm`]. Cost: O(skeleton voxels), apart
    /// from 4 zeroed bytes per voxel of the structure.
    pub fn new(foreground: &Foreground, depth_mm: &[f64], skeleton: &[u32]) -> Self {
        let points: Vec<SkeletonPoint> = skeleton
            .iter()
            .map(|&index| SkeletonPoint {
                index,
                position_mm: foreground.position_mm(index as usize),
                radius_mm: depth_mm[index as usize],
            })
            .collect();
        let mut numbers = vec![0_u32; foreground.len()];
        for (number, &index) in skeleton.iter().enumerate() {
            numbers[index as usize] = number as u32 + 1;
        }
        let links: Vec<Vec<u32>> = skeleton
            .iter()
            .map(|&index| {
                foreground
                    .neighbors(index as usize)
                    .filter_map(|neighbor| numbers[neighbor].checked_sub(1))
                    .collect()
            })
            .collect();
        Tracing::new(points, &links).finish()
    }

    /// The graph of the centre lines of a structure: thinned, traced, and without the spurs that hardly leave the
    /// ball inscribed at their junction (1.3 radii and one voxel). `depth_mm` is [`Foreground::depth_mm`].
    pub fn of(foreground: &Foreground, depth_mm: &[f64]) -> Self {
        let fine_mm = foreground
            .spacing_mm()
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        let skeleton = thin(foreground, depth_mm);
        Self::new(foreground, depth_mm, &skeleton).without_spurs(foreground, depth_mm, 1.3, fine_mm)
    }

    /// Nearest point of the graph for every voxel of `foreground`, by steps through the structure; `u32::MAX` in
    /// pieces without any. `component_of` is [`Foreground::components`]; components in parallel.
    pub fn owners(&self, foreground: &Foreground, component_of: &[u32]) -> Vec<u32> {
        let owner: Vec<AtomicU32> = (0..foreground.len())
            .map(|_| AtomicU32::new(u32::MAX))
            .collect();
        let at = |index: u32| &owner[index as usize];
        let mut seeds: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (number, point) in self.points.iter().enumerate() {
            at(point.index).store(number as u32, Relaxed);
            let component = component_of[point.index as usize];
            seeds.entry(component).or_default().push(point.index);
        }
        // No step leads from one component to another, so no cell is seen by two of these.
        let around = foreground.around();
        seeds.into_par_iter().for_each(|(_, mut open)| {
            let mut next = 0;
            while let Some(&index) = open.get(next) {
                next += 1;
                let number = at(index).load(Relaxed);
                let around = &around[index as usize];
                around.for_each(around.bits, |_, neighbor| {
                    if at(neighbor).load(Relaxed) == u32::MAX {
                        at(neighbor).store(number, Relaxed);
                        open.push(neighbor);
                    }
                });
            }
        });
        owner.into_iter().map(AtomicU32::into_inner).collect()
    }

    /// The graph without spurs: branches from a junction to a tip whose end is at most `reach` times the
    /// junction's radius plus `slack_mm` away from the junction, taken along the line and to the surface.
    /// Repeated until there are none. Points are dropped with their branches.
    #[must_use]
    pub fn without_spurs(
        &self,
        foreground: &Foreground,
        depth_mm: &[f64],
        reach: f64,
        slack_mm: f64,
    ) -> Self {
        let mut graph = self.clone();
        loop {
            let mut dropped = vec![false; graph.points.len()];
            for branch in &graph.branches {
                let Some(ends) = branch.nodes else { continue };
                let [a, b] = ends.map(|node| &graph.nodes[node as usize]);
                let (tip, junction) = match (a.kind, b.kind) {
                    (NodeKind::Tip, NodeKind::Junction) => (a, b),
                    (NodeKind::Junction, NodeKind::Tip) => (b, a),
                    _ => continue,
                };
                if branch.length_mm + tip.radius_mm <= reach * junction.radius_mm + slack_mm {
                    for point in &branch.points {
                        dropped[*point as usize] |= !junction.points.contains(point);
                    }
                }
            }
            if !dropped.contains(&true) {
                return graph;
            }
            let kept: Vec<u32> = (graph.points.iter().zip(&dropped))
                .filter(|(_, dropped)| !**dropped)
                .map(|(point, _)| point.index)
                .collect();
            graph = Self::new(foreground, depth_mm, &kept);
        }
    }

    /// Length of all branches together in mm.
    pub fn length_mm(&self) -> f64 {
        self.branches.iter().map(|branch| branch.length_mm).sum()
    }

    /// Every tip with the line that leads away from it: points from the tip to the next node, both
    /// included. An isolated voxel is a tip whose line is itself; a line with two tips comes twice.
    pub fn tips(&self) -> Vec<Vec<u32>> {
        let mut tips = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if node.kind != NodeKind::Tip {
                continue;
            }
            let Some(&branch) = node.branches.first() else {
                tips.push(node.points.clone());
                continue;
            };
            let branch = &self.branches[branch as usize];
            let mut line = branch.points.clone();
            if branch.nodes.is_some_and(|ends| ends[0] != number as u32) {
                line.reverse();
            }
            tips.push(line);
        }
        tips
    }
}

/// Builds nodes, then walks from each along every link.
struct Tracing<'a> {
    graph: SkeletonGraph,
    links: &'a [Vec<u32>],
    /// Node of every point, plus one.
    node_of: Vec<u32>,
    visited: Vec<bool>,
}

impl<'a> Tracing<'a> {
    fn new(points: Vec<SkeletonPoint>, links: &'a [Vec<u32>]) -> Self {
        let count = points.len();
        Self {
            graph: SkeletonGraph {
                points,
                ..SkeletonGraph::default()
            },
            links,
            node_of: vec![0; count],
            visited: vec![false; count],
        }
    }

    fn finish(mut self) -> SkeletonGraph {
        for point in 0..self.links.len() as u32 {
            if self.links[point as usize].len() != 2 && self.node_of[point as usize] == 0 {
                self.add_node(point);
            }
        }
        for node in 0..self.graph.nodes.len() as u32 {
            for point in self.graph.nodes[node as usize].points.clone() {
                self.visited[point as usize] = true;
                for &next in &self.links[point as usize] {
                    let other = self.node_of[next as usize];
                    // Lines between touching nodes are found from the node with the smaller number.
                    if other == 0 && !self.visited[next as usize] || other > node + 1 {
                        self.walk(point, next);
                    }
                }
            }
        }
        for point in 0..self.links.len() as u32 {
            if !self.visited[point as usize] {
                self.close(point);
            }
        }
        for (number, branch) in self.graph.branches.iter().enumerate() {
            for node in branch.nodes.into_iter().flatten() {
                self.graph.nodes[node as usize].branches.push(number as u32);
            }
        }
        self.graph
    }

    fn add_node(&mut self, first: u32) {
        let number = self.graph.nodes.len() as u32 + 1;
        let is_junction = |point: u32| self.links[point as usize].len() > 2;
        let mut points = vec![first];
        self.node_of[first as usize] = number;
        let mut open = 0;
        while let Some(&point) = points.get(open).filter(|&&point| is_junction(point)) {
            for &next in &self.links[point as usize] {
                if is_junction(next) && self.node_of[next as usize] == 0 {
                    self.node_of[next as usize] = number;
                    points.push(next);
                }
            }
            open += 1;
        }
        points.sort_unstable();
        let radii = points
            .iter()
            .map(|&point| self.graph.points[point as usize].radius_mm);
        self.graph.nodes.push(Node {
            kind: if is_junction(first) {
                NodeKind::Junction
            } else {
                NodeKind::Tip
            },
            radius_mm: radii.fold(0.0, f64::max),
            points,
            branches: Vec::new(),
        });
    }

    fn position(&self, point: u32) -> Vector {
        self.graph.points[point as usize].position_mm
    }

    /// Follows the line that leaves node point `from` over `next` to its other node.
    fn walk(&mut self, from: u32, next: u32) {
        let mut points = vec![from, next];
        let (mut before, mut at) = (from, next);
        while self.node_of[at as usize] == 0 {
            self.visited[at as usize] = true;
            let Some(&ahead) = self.links[at as usize].iter().find(|&&link| link != before) else {
                break;
            };
            (before, at) = (at, ahead);
            points.push(at);
        }
        let nodes = [from, at].map(|point| self.node_of[point as usize].saturating_sub(1));
        self.add_branch(Some(nodes), points, false);
    }

    /// A closed line through `first` on which no node lies.
    fn close(&mut self, first: u32) {
        let mut points = vec![first];
        self.visited[first as usize] = true;
        let mut at = first;
        while let Some(&next) = self.links[at as usize]
            .iter()
            .find(|&&link| !self.visited[link as usize])
        {
            self.visited[next as usize] = true;
            points.push(next);
            at = next;
        }
        self.add_branch(None, points, true);
    }

    fn add_branch(&mut self, nodes: Option<[u32; 2]>, points: Vec<u32>, closed: bool) {
        let step = |a: u32, b: u32| distance(self.position(a), self.position(b));
        let mut length_mm: f64 = points.windows(2).map(|pair| step(pair[0], pair[1])).sum();
        if let (true, Some(&first), Some(&last)) = (closed, points.first(), points.last()) {
            length_mm += step(last, first);
        }
        self.graph.branches.push(Branch {
            nodes,
            points,
            length_mm,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    fn graph(shape: [usize; 3], voxels: &[[usize; 3]], spacing_mm: [f64; 3]) -> SkeletonGraph {
        let mut mask = Array3::<bool>::default(shape);
        for &voxel in voxels {
            mask[voxel] = true;
        }
        let foreground = Foreground::of(mask.view(), spacing_mm, |v| v).unwrap();
        let all: Vec<u32> = (0..foreground.len() as u32).collect();
        SkeletonGraph::new(&foreground, &foreground.depth_mm(), &all)
    }

    #[test]
    fn a_line_has_two_tips_and_one_branch() {
        let graph = graph(
            [1, 1, 6],
            &[[0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4]],
            [1.0, 1.0, 2.0],
        );
        assert_eq!((graph.nodes.len(), graph.branches.len()), (2, 1));
        assert_eq!(graph.length_mm(), 6.0);
        assert_eq!(graph.tips(), [vec![0, 1, 2, 3], vec![3, 2, 1, 0]]);
    }

    #[test]
    fn one_and_two_voxels() {
        let one = graph([1, 1, 1], &[[0; 3]], [1.0; 3]);
        assert_eq!((one.nodes.len(), one.branches.len()), (1, 0));
        assert_eq!(one.tips(), [vec![0]]);
        let two = graph([1, 1, 2], &[[0; 3], [0, 0, 1]], [1.0; 3]);
        assert_eq!((two.nodes.len(), two.branches.len()), (2, 1));
        assert_eq!(two.tips().len(), 2);
        assert_eq!(graph([1, 1, 1], &[], [1.0; 3]), SkeletonGraph::default());
    }

    #[test]
    fn a_cross_has_one_junction_and_four_branches() {
        let voxels: Vec<[usize; 3]> = (0..7).flat_map(|i| [[0, 3, i], [0, i, 3]]).collect();
        let graph = graph([1, 7, 7], &voxels, [1.0; 3]);
        let junctions = graph
            .nodes
            .iter()
            .filter(|node| node.kind == NodeKind::Junction);
        assert_eq!(junctions.count(), 1);
        assert_eq!(graph.branches.len(), 4);
        assert_eq!(graph.tips().len(), 4);
    }

    #[test]
    fn a_ring_is_a_branch_without_nodes() {
        let ring = [[0, 0, 1], [0, 1, 0], [0, 1, 2], [0, 2, 1]];
        let graph = graph([1, 3, 3], &ring, [1.0; 3]);
        assert!(graph.nodes.is_empty() && graph.tips().is_empty());
        assert_eq!(graph.branches.len(), 1);
        assert!((graph.length_mm() - 4.0 * 2.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_short_side_line_goes() {
        let mut mask = Array3::<bool>::default([1, 3, 9]);
        for voxel in (0..9).map(|x| [0, 2, x]).chain([[0, 1, 4], [0, 0, 4]]) {
            mask[voxel] = true;
        }
        let foreground = Foreground::of(mask.view(), [1.0; 3], |v| v).unwrap();
        let depth = foreground.depth_mm();
        let all: Vec<u32> = (0..foreground.len() as u32).collect();
        let graph = SkeletonGraph::new(&foreground, &depth, &all);
        assert_eq!((graph.points.len(), graph.tips().len()), (11, 3));
        let pruned = graph.without_spurs(&foreground, &depth, 1.3, 1.0);
        assert_eq!((pruned.points.len(), pruned.tips().len()), (10, 2));
    }
}
