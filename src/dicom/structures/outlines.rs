//! Outlines of the pixels of a label in one slice, as closed polygons.
//!
//! Outlines run along the edges between pixels, so that their area is exactly that of the pixels and no
//! pixel centre lies on a line: any filling rule gives the mask back. Pixels that touch at a corner
//! only are apart (4-connected). A hole is joined to the polygon around it by a channel of no width,
//! as PS3.3 C.8.8.6.3 asks of closed planar contours.
//!
//! Cost: a pass over the slice, and time and memory proportional to the length of the outlines.

use std::collections::BTreeMap;

/// A corner between pixels, `(x, y)`: pixel (x, y) lies to the lower right of it.
pub(super) type Corner = [i32; 2];

/// Directions right, down, left, up, with y running down.
const STEPS: [Corner; 4] = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/// One slice of a label map.
pub(super) struct Slice<'a> {
    pub labels: &'a [u16],
    pub columns: usize,
}

impl Slice<'_> {
    fn is(&self, label: u16, [x, y]: Corner) -> bool {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else {
            return false;
        };
        x < self.columns && self.labels.get(y * self.columns + x) == Some(&label)
    }

    /// The polygons of `label`, each with at least four corners, in order of their topmost pixels. Corners
    /// on straight lines are left out.
    pub fn outlines(&self, label: u16) -> Vec<Vec<Corner>> {
        let rows = self.labels.len() / self.columns.max(1);
        let mut traced = Edges::default();
        let (mut polygons, mut holes) = (Vec::new(), Vec::new());
        for y in 0..rows as i32 {
            for x in 0..self.columns as i32 {
                if !self.is(label, [x, y]) {
                    continue;
                }
                // Upper edges run right with the pixel below them, lower edges left: an outline that
                // is met first at an upper edge goes around pixels, one at a lower edge around a hole.
                if !self.is(label, [x, y - 1]) && !traced.contains([x, y]) {
                    polygons.push(self.trace(label, [x, y], 0, &mut traced));
                }
                if !self.is(label, [x, y + 1]) && !traced.contains_lower([x, y]) {
                    holes.push(self.trace(label, [x + 1, y + 1], 2, &mut traced));
                }
            }
        }
        join_holes(&mut polygons, holes);
        polygons.iter().map(|polygon| corners(polygon)).collect()
    }

    /// Follows the edges with the pixels on the right-hand side, from `start` in direction `heading`, one
    /// pixel edge after the other.
    fn trace(&self, label: u16, start: Corner, heading: usize, traced: &mut Edges) -> Vec<Corner> {
        let (mut at, mut direction) = (start, heading);
        let mut outline = Vec::new();
        loop {
            outline.push(at);
            traced.insert(at, direction);
            at = moved(at, direction);
            // Sharpest turn to the right first: pixels that touch at a corner stay apart.
            let turns = [1, 0, 3, 2].map(|turn| (direction + turn) % 4);
            let open = turns.into_iter().find(|&next| {
                let (right, left) = beside(at, next);
                self.is(label, right) && !self.is(label, left)
            });
            direction = open.unwrap_or(direction);
            if (at == start && direction == heading) || open.is_none() {
                return outline;
            }
        }
    }
}

fn moved([x, y]: Corner, direction: usize) -> Corner {
    let [dx, dy] = STEPS.get(direction).copied().unwrap_or_default();
    [x + dx, y + dy]
}

/// The pixels to the right and to the left of the edge that leaves a corner.
fn beside([x, y]: Corner, direction: usize) -> (Corner, Corner) {
    match direction {
        0 => ([x, y], [x, y - 1]),
        1 => ([x - 1, y], [x, y]),
        2 => ([x - 1, y - 1], [x - 1, y]),
        _ => ([x, y - 1], [x - 1, y - 1]),
    }
}

/// Horizontal edges that are part of an outline already, by their pixel.
#[derive(Default)]
struct Edges {
    upper: std::collections::BTreeSet<Corner>,
    lower: std::collections::BTreeSet<Corner>,
}

impl Edges {
    fn insert(&mut self, [x, y]: Corner, direction: usize) {
        match direction {
            0 => self.upper.insert([x, y]),
            2 => self.lower.insert([x - 1, y - 1]),
            _ => false,
        };
    }

    fn contains(&self, pixel: Corner) -> bool {
        self.upper.contains(&pixel)
    }

    fn contains_lower(&self, pixel: Corner) -> bool {
        self.lower.contains(&pixel)
    }
}

/// Joins every hole to the polygon above its topmost corner. `holes` come in order of their topmost rows,
/// so that what lies above one is a polygon or a hole that is joined already.
fn join_holes(polygons: &mut [Vec<Corner>], holes: Vec<Vec<Corner>>) {
    if holes.is_empty() {
        return;
    }
    let mut owners: BTreeMap<Corner, usize> = BTreeMap::new();
    for (owner, polygon) in polygons.iter().enumerate() {
        owners.extend(polygon.iter().map(|&corner| (corner, owner)));
    }
    for hole in holes {
        let top = hole.iter().enumerate().min_by_key(|(_, [x, y])| (*y, *x));
        let Some((from, &[x, y])) = top else { continue };
        // The column above the corner lies within the pixels up to the next outline.
        let above = (0..y)
            .rev()
            .find_map(|y| Some(([x, y], *owners.get(&[x, y])?)));
        let Some((end, owner)) = above else { continue };
        let Some(polygon) = polygons.get_mut(owner) else {
            continue;
        };
        let Some(place) = polygon.iter().position(|&corner| corner == end) else {
            continue;
        };
        owners.extend(hole.iter().map(|&corner| (corner, owner)));
        // Down the channel, around the hole, and up again.
        let mut detour: Vec<Corner> = hole
            .iter()
            .cycle()
            .skip(from)
            .take(hole.len())
            .copied()
            .collect();
        detour.extend([[x, y], end]);
        polygon.splice(place + 1..place + 1, detour);
    }
}

/// An outline without the corners at which it goes straight on.
fn corners(outline: &[Corner]) -> Vec<Corner> {
    let count = outline.len();
    let at = |index: usize| {
        outline
            .get(index % count.max(1))
            .copied()
            .unwrap_or_default()
    };
    let heading = |[a, b]: Corner, [c, d]: Corner| [(c - a).signum(), (d - b).signum()];
    (0..count)
        .filter(|&index| {
            let (before, here, after) = (at(index + count - 1), at(index), at(index + 1));
            heading(before, here) != heading(here, after)
        })
        .map(at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slice(picture: &[&str]) -> (Vec<u16>, usize) {
        let labels = picture
            .iter()
            .flat_map(|row| row.bytes())
            .map(|byte| u16::from(byte == b'#'));
        (labels.collect(), picture[0].len())
    }

    /// Twice the area inside, pixels on the right-hand side counted as positive.
    fn doubled_area(polygon: &[Corner]) -> i32 {
        let next = polygon.iter().cycle().skip(1);
        let pairs = polygon.iter().zip(next);
        pairs.map(|([a, b], [c, d])| a * d - b * c).sum()
    }

    /// Whether the centre of pixel (x, y) lies inside by the even-odd rule.
    fn holds(polygon: &[Corner], x: usize, y: usize) -> bool {
        let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
        let next = polygon.iter().cycle().skip(1);
        let crossings = polygon.iter().zip(next).filter(|(a, b)| {
            let [a, b] = [a, b].map(|c| c.map(f64::from));
            a[0] == b[0] && a[0] > x && (a[1] > y) != (b[1] > y)
        });
        crossings.count() % 2 == 1
    }

    fn check(labels: &[u16], columns: usize) -> Vec<Vec<Corner>> {
        let polygons = Slice { labels, columns }.outlines(1);
        for (index, &label) in labels.iter().enumerate() {
            let (x, y) = (index % columns, index / columns);
            let inside = polygons.iter().filter(|p| holds(p, x, y)).count();
            assert_eq!(inside, usize::from(label == 1), "({x}, {y}) {polygons:?}");
        }
        let area: i32 = polygons.iter().map(|p| doubled_area(p)).sum();
        let pixels = labels.iter().filter(|&&label| label == 1).count();
        assert_eq!(area, 2 * pixels as i32);
        polygons
    }

    #[test]
    fn pixels_and_pixels_at_a_corner_are_squares() {
        let (labels, columns) = slice(&["#.", ".#"]);
        let polygons = check(&labels, columns);
        assert_eq!(polygons.len(), 2);
        assert_eq!(polygons[0], [[0, 0], [1, 0], [1, 1], [0, 1]]);
        assert!(check(&[0; 6], 3).is_empty());
    }

    #[test]
    fn holes_within_holes_are_joined() {
        let (labels, columns) = slice(&[
            "#########",
            "#...#...#",
            "#.#.#####",
            "#...#.#.#",
            "#########",
        ]);
        let polygons = check(&labels, columns);
        assert_eq!(
            polygons.len(),
            2,
            "the ring with four holes, and the island"
        );
    }

    proptest! {
        #[test]
        fn any_picture_comes_back(labels in prop::collection::vec(0..3_u16, 48), columns in 1..13_usize) {
            let whole = labels.len() / columns * columns;
            check(&labels[..whole], columns);
        }
    }
}
