//! The course of a bridge: a smooth curve, or the cheapest way round what is in the way.

use super::pieces::least;
use crate::geometry::distance::distance_to;
use crate::topology::foreground::STEPS;
use crate::topology::vector::{
    Vector, add, between, distance, norm, polyline_length, scale, smoothed,
};
use ndarray::{Array3, Zip};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A cubic Hermite curve from `from` to `to` whose end slopes are `leaving` and `entering` times the
/// distance, in steps of at most `step_mm` along the chord.
pub(super) fn hermite(
    from: Vector,
    leaving: Vector,
    to: Vector,
    entering: Vector,
    step_mm: f64,
) -> Vec<Vector> {
    let chord = distance(from, to);
    let steps = ((chord / step_mm) as usize + 2).max(4);
    (0..=steps)
        .map(|step| {
            let u = step as f64 / steps as f64;
            let (u2, u3) = (u * u, u * u * u);
            let ends = add(
                scale(from, 2.0 * u3 - 3.0 * u2 + 1.0),
                scale(to, 3.0 * u2 - 2.0 * u3),
            );
            let slopes = add(
                scale(leaving, (u3 - 2.0 * u2 + u) * chord),
                scale(entering, (u3 - u2) * chord),
            );
            add(ends, slopes)
        })
        .collect()
}

/// The voxels that a line runs through, each sharing a face with the next.
pub(super) fn face_connected(line: &[Vector], spacing_mm: [f64; 3]) -> Vec<[isize; 3]> {
    let nearest = |point: Vector| -> [isize; 3] {
        std::array::from_fn(|axis| (point[axis] / spacing_mm[axis]).round() as isize)
    };
    let step = 0.25 * least(spacing_mm);
    let mut chain: Vec<[isize; 3]> = Vec::new();
    let ends = line.windows(2).flat_map(|pair| {
        let steps = (distance(pair[0], pair[1]) / step) as usize + 1;
        (0..=steps).map(move |at| between(pair[0], pair[1], at as f64 / steps as f64))
    });
    for point in line.first().copied().into_iter().chain(ends) {
        let voxel = nearest(point);
        let Some(&(mut at)) = chain.last() else {
            chain.push(voxel);
            continue;
        };
        // Diagonal steps go axis by axis, x first.
        for axis in [2, 1, 0] {
            while at[axis] != voxel[axis] {
                at[axis] += (voxel[axis] - at[axis]).signum();
                chain.push(at);
            }
        }
    }
    chain
}

/// The cheapest way from the start of `line` to its end around blocked voxels, or `None`.
///
/// Every millimetre costs 1, plus the square of the distance to `line` in radii halved, plus a penalty for
/// squeezing past what is blocked. Searched in a box around the line with three radii to spare.
pub(super) fn detour(
    line: &[Vector],
    radius_mm: f64,
    spacing_mm: [f64; 3],
    blocked: impl Fn([isize; 3]) -> bool + Sync,
) -> Option<Vec<Vector>> {
    let voxels = face_connected(line, spacing_mm);
    let (&first, &last) = (voxels.first()?, voxels.last()?);
    let mut low = first;
    let mut high = first;
    for voxel in &voxels {
        for axis in 0..3 {
            low[axis] = low[axis].min(voxel[axis]);
            high[axis] = high[axis].max(voxel[axis]);
        }
    }
    for axis in 0..3 {
        let margin = 6 + (3.0 * radius_mm / spacing_mm[axis]).ceil() as isize;
        low[axis] -= margin;
        high[axis] += margin;
    }
    let shape: [usize; 3] = std::array::from_fn(|axis| (high[axis] - low[axis] + 1) as usize);
    let inside = |voxel: [isize; 3]| -> [usize; 3] {
        std::array::from_fn(|axis| (voxel[axis] - low[axis]) as usize)
    };
    let mut wall = Array3::from_shape_fn(shape, |(z, y, x)| {
        blocked([
            z as isize + low[0],
            y as isize + low[1],
            x as isize + low[2],
        ])
    });
    let (start, goal) = (inside(first), inside(last));
    let mut on_line = Array3::from_elem(shape, false);
    for &voxel in &voxels {
        on_line[inside(voxel)] = true;
    }
    let to_line = distance_to(on_line.view(), spacing_mm, |&v| v);
    let mut price = distance_to(wall.view(), spacing_mm, |&v| v);
    let thick = radius_mm.max(least(spacing_mm));
    Zip::from(&mut price).and(&to_line).for_each(|price, &off| {
        *price = 1.0 + 0.5 * (off / thick).powi(2) + 2.0 * (-*price / thick).exp();
    });
    wall[start] = false;
    wall[goal] = false;
    let way = cheapest(&wall, &price, start, goal, spacing_mm)?;
    let points: Vec<Vector> = way
        .into_iter()
        .map(|voxel| {
            std::array::from_fn(|axis| (voxel[axis] as isize + low[axis]) as f64 * spacing_mm[axis])
        })
        .collect();
    let chord = distance(*line.first()?, *line.last()?);
    // Smoothing may cut a corner.
    let smooth = smoothed(&points);
    let is_free = face_connected(&smooth, spacing_mm)
        .into_iter()
        .all(|voxel| voxel == first || voxel == last || !blocked(voxel));
    let smooth = if is_free { smooth } else { points };
    (polyline_length(&smooth) <= 1.8 * chord + 4.0 * least(spacing_mm)).then_some(smooth)
}

/// Dijkstra's algorithm over 26 neighbours; equal costs go by position.
fn cheapest(
    wall: &Array3<bool>,
    price: &Array3<f64>,
    start: [usize; 3],
    goal: [usize; 3],
    spacing_mm: [f64; 3],
) -> Option<Vec<[usize; 3]>> {
    let mut cost = Array3::from_elem(wall.dim(), f64::INFINITY);
    let mut came = Array3::from_elem(wall.dim(), u8::MAX);
    let lengths = STEPS.map(|step| {
        norm(std::array::from_fn(|axis| {
            step[axis] as f64 * spacing_mm[axis]
        }))
    });
    let moved = |at: [usize; 3], step: [isize; 3], sign: isize| -> [usize; 3] {
        // Leaving the box wraps to an index that no volume has.
        std::array::from_fn(|axis| at[axis].wrapping_add_signed(sign * step[axis]))
    };
    cost[start] = 0.0;
    let mut open = BinaryHeap::from([Reverse((0_u64, start))]);
    while let Some(Reverse((bits, at))) = open.pop() {
        let so_far = f64::from_bits(bits);
        if at == goal {
            break;
        }
        if so_far > cost[at] {
            continue;
        }
        for (number, step) in STEPS.into_iter().enumerate() {
            let next = moved(at, step, 1);
            // Diagonal steps are drawn axis by axis, x first: those voxels must be free too.
            let corners = [[0, 0, step[2]], [0, step[1], step[2]], step];
            if corners
                .into_iter()
                .any(|part| wall.get(moved(at, part, 1)).copied().unwrap_or(true))
            {
                continue;
            }
            let total = so_far + lengths[number] * 0.5 * (price[at] + price[next]);
            if total < cost[next] {
                cost[next] = total;
                came[next] = number as u8;
                open.push(Reverse((total.to_bits(), next)));
            }
        }
    }
    let mut way = vec![goal];
    let mut at = goal;
    while at != start {
        let step = STEPS.get(usize::from(came[at]))?;
        at = moved(at, *step, -1);
        way.push(at);
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_it_should_and_a_straight_one_is_straight() {
        let line = hermite(
            [0.0; 3],
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 8.0],
            [0.0, 0.0, 1.0],
            0.5,
        );
        assert_eq!((line[0], line[line.len() - 1]), ([0.0; 3], [0.0, 0.0, 8.0]));
        assert!((polyline_length(&line) - 8.0).abs() < 1e-9);
        let still = hermite([1.0; 3], [0.0; 3], [1.0; 3], [0.0; 3], 0.5);
        assert!(still.iter().all(|point| distance(*point, [1.0; 3]) < 1e-12));
    }

    #[test]
    fn every_voxel_shares_a_face_with_the_next() {
        let chain = face_connected(
            &[[0.0; 3], [3.0, 4.0, 5.0], [-2.0, 0.0, 1.0]],
            [3.0, 1.0, 0.7],
        );
        for pair in chain.windows(2) {
            let steps: usize = (0..3)
                .map(|axis| pair[0][axis].abs_diff(pair[1][axis]))
                .sum();
            assert_eq!(steps, 1, "{pair:?}");
        }
        assert_eq!(face_connected(&[[0.0; 3]], [1.0; 3]), [[0; 3]]);
        assert!(face_connected(&[], [1.0; 3]).is_empty());
    }

    #[test]
    fn a_wall_is_walked_round_and_a_closed_one_is_not() {
        let line = [[0.0; 3], [0.0, 0.0, 12.0]];
        let plate = |voxel: [isize; 3]| voxel[2] == 6 && voxel[0].abs() <= 2 && voxel[1].abs() <= 2;
        let way = detour(&line, 1.5, [1.0; 3], plate).unwrap();
        assert!(
            face_connected(&way, [1.0; 3])
                .iter()
                .all(|&voxel| !plate(voxel))
        );
        assert!(polyline_length(&way) > 12.5);
        assert!(detour(&line, 1.5, [1.0; 3], |voxel| voxel[2] == 6).is_none());
    }
}
