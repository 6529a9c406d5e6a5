//! Minimum of a function of several variables without derivatives.
//!
//! Powell's method: minimise along every direction of a set in turn, then replace the direction that helped most by the
//! way that was covered in all. Source: Powell, An efficient method for finding the minimum of a function of several
//! variables without calculating derivatives, The Computer Journal 7, 1964; lines by Brent's combination of golden
//! sections and parabolas (Algorithms for Minimization without Derivatives, 1973, chapter 5).

/// `1 - 1 / phi`: golden sections.
const GOLDEN: f64 = 0.381_966_011_250_105_1;
/// Most steps to find an interval that holds a minimum, each 1.6 times the one before.
const MOST_WIDENINGS: usize = 12;
/// Most evaluations along one line after that.
const MOST_LINE_STEPS: usize = 30;
/// Most rounds over all directions.
const MOST_ROUNDS: usize = 12;

/// Variables and the function's value there.
pub(super) type Minimum<const N: usize> = ([f64; N], f64);

/// The minimum that is found from `start`. `step` is the first step along every axis; lines are followed to `tolerance`, and
/// the search ends when a round moves less than it.
pub(super) fn minimum<const N: usize>(
    start: [f64; N],
    step: f64,
    tolerance: f64,
    of: &mut dyn FnMut([f64; N]) -> f64,
) -> Minimum<N> {
    let mut directions: Vec<[f64; N]> = (0..N)
        .map(|axis| std::array::from_fn(|other| if other == axis { 1.0 } else { 0.0 }))
        .collect();
    let mut best = (start, of(start));
    let mut step = step;
    for _ in 0..MOST_ROUNDS {
        let before = best;
        let mut most = (0.0, 0);
        for (number, direction) in directions.iter().enumerate() {
            let value = best.1;
            best = along(best, direction, step, tolerance, of);
            if value - best.1 > most.0 {
                most = (value - best.1, number);
            }
        }
        let covered: [f64; N] = std::array::from_fn(|axis| best.0[axis] - before.0[axis]);
        let length = covered.iter().map(|way| way * way).sum::<f64>().sqrt();
        if length < tolerance {
            break;
        }
        let covered = covered.map(|way| way / length);
        // Powell's criterion: the set must keep spanning the space.
        let beyond = of(std::array::from_fn(|axis| {
            2.0 * best.0[axis] - before.0[axis]
        }));
        let gained = before.1 - best.1 - most.0;
        let curved = 2.0 * (before.1 - 2.0 * best.1 + beyond) * gained * gained;
        if beyond < before.1 && curved < most.0 * (before.1 - beyond) * (before.1 - beyond) {
            best = along(best, &covered, length.min(step), tolerance, of);
            directions.remove(most.1);
            directions.push(covered);
        }
        step = step.min(length).max(2.0 * tolerance);
    }
    best
}

/// The minimum along a line through `best`.
fn along<const N: usize>(
    best: Minimum<N>,
    direction: &[f64; N],
    step: f64,
    tolerance: f64,
    of: &mut dyn FnMut([f64; N]) -> f64,
) -> Minimum<N> {
    let at = |way: f64| std::array::from_fn(|axis| best.0[axis] + way * direction[axis]);
    let mut value = |way: f64| of(at(way));
    // Three ways of which the middle one is lowest.
    let (mut low, mut middle) = ((0.0, best.1), (step, value(step)));
    if middle.1 > low.1 {
        (low, middle) = (middle, low);
    }
    let mut high = (middle.0 + 1.6 * (middle.0 - low.0), f64::INFINITY);
    let mut is_found = false;
    for _ in 0..MOST_WIDENINGS {
        high.1 = value(high.0);
        if high.1 >= middle.1 {
            is_found = true;
            break;
        }
        (low, middle) = (middle, high);
        high.0 = middle.0 + 1.6 * (middle.0 - low.0);
    }
    if is_found {
        middle = brent([low.0, high.0], middle, tolerance, &mut value);
    }
    if middle.1 < best.1 {
        (at(middle.0), middle.1)
    } else {
        best
    }
}

/// The minimum in an interval around `middle`.
fn brent(
    interval: [f64; 2],
    middle: (f64, f64),
    tolerance: f64,
    of: &mut dyn FnMut(f64) -> f64,
) -> (f64, f64) {
    let [mut low, mut high] = interval;
    if low > high {
        (low, high) = (high, low);
    }
    let (mut best, mut second, mut third) = (middle, middle, middle);
    let (mut last, mut before) = (0.0_f64, 0.0_f64);
    for _ in 0..MOST_LINE_STEPS {
        let centre = 0.5 * (low + high);
        if (best.0 - centre).abs() + 0.5 * (high - low) <= tolerance {
            break;
        }
        // The lowest point of the parabola through three points, as a step from the best.
        let r = (best.0 - second.0) * (best.1 - third.1);
        let q = (best.0 - third.0) * (best.1 - second.1);
        let parabola = ((best.0 - third.0) * q - (best.0 - second.0) * r) / (2.0 * (r - q));
        let inside = low < best.0 + parabola && best.0 + parabola < high;
        let way = if parabola.is_finite() && inside && parabola.abs() < 0.5 * before.abs() {
            before = last;
            parabola
        } else {
            before = if best.0 < centre {
                high - best.0
            } else {
                low - best.0
            };
            GOLDEN * before
        };
        let smallest = 0.5 * tolerance;
        let way = if way.abs() < smallest {
            smallest.copysign(way)
        } else {
            way
        };
        last = way;
        let tried = (best.0 + way, of(best.0 + way));
        if tried.1 <= best.1 {
            if way > 0.0 {
                low = best.0;
            } else {
                high = best.0;
            }
            (third, second, best) = (second, best, tried);
        } else {
            if way > 0.0 {
                high = tried.0;
            } else {
                low = tried.0;
            }
            if tried.1 <= second.1 || second.0 == best.0 {
                (third, second) = (second, tried);
            } else if tried.1 <= third.1 || third.0 == best.0 || third.0 == second.0 {
                third = tried;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_valley_is_followed_to_its_end() {
        let mut calls = 0;
        let mut rosenbrock = |[x, y]: [f64; 2]| {
            calls += 1;
            10.0 * (y - x * x).powi(2) + (1.0 - x).powi(2)
        };
        let (found, value) = minimum([-1.2, 1.0], 0.5, 1e-5, &mut rosenbrock);
        assert!(
            (found[0] - 1.0).abs() < 1e-2 && (found[1] - 1.0).abs() < 2e-2,
            "{found:?} {value}"
        );
        assert!(calls < 1500, "{calls}");
    }

    #[test]
    fn turned_ellipsoids_and_flat_functions() {
        let centre = [3.0, -7.0, 1.5, 0.25, -0.5, 11.0];
        let mut bowl = |at: [f64; 6]| {
            let off: [f64; 6] = std::array::from_fn(|axis| at[axis] - centre[axis]);
            let sum: f64 = off.iter().sum();
            off.iter()
                .zip(1..)
                .map(|(way, n)| f64::from(n) * way * way)
                .sum::<f64>()
                + sum * sum
        };
        let (found, _) = minimum([0.0; 6], 2.0, 1e-4, &mut bowl);
        for (found, expected) in found.iter().zip(centre) {
            assert!((found - expected).abs() < 1e-2, "{found} {expected}");
        }
        assert_eq!(
            minimum([1.0, 2.0], 1.0, 1e-3, &mut |_| 5.0),
            ([1.0, 2.0], 5.0)
        );
    }
}
