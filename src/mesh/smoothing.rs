//! Smoothing: momentum bi-Laplacian, every vertex inside its own voxel-sized box.
//!
//! One step moves every vertex half way to the mean of its neighbours and then half way back from the mean that
//! results (`x += L x / 2`, `x -= L x / 2`). The two together damp what bends on the scale of a voxel (stairs) and leave what
//! bends more slowly (anatomy) nearly alone, where plain Laplacian smoothing shrinks everything. Nesterov's momentum makes 40
//! steps do the work of about 200. After each step a vertex is clamped to a box around its corner, so no surface moves further
//! than half a voxel from the labels, whatever the number of steps.
//!
//! Distances are voxels, not millimetres: the box is then a cube, and stairs of thick slices are smoothed across their full
//! height. Positions are stored as displacements from the corner, which keeps `f32` exact far from the origin and makes the
//! clamp a constant. All updates read the state before the step, so results do not depend on the number of threads.
//!
//! Source: Nesterov 1983 for the momentum; the clamped net goes back to Gibson, "Constrained elastic surface nets", MICCAI
//! 1998. Taubin's and VTK's filters were measured against it (docs/measurements/mesh.md).

use super::Error;
use super::net::{DIRECTIONS, Net};
use crate::progress::Progress;
use rayon::prelude::*;
use std::sync::LazyLock;

/// Displacement of a vertex from its corner, in voxels along x, y, z; the fourth number is 0 and makes a vector register.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(16))]
pub(super) struct Offset(pub [f32; 4]);

impl Offset {
    pub fn xyz(self) -> [f32; 3] {
        let [x, y, z, _] = self.0;
        [x, y, z]
    }

    pub fn from_xyz([x, y, z]: [f32; 3]) -> Self {
        Self([x, y, z, 0.0])
    }

    #[inline(always)]
    fn zip(self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([join(a, e), join(b, f), join(c, g), join(d, h)])
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

/// Length of the first half of a step, as a fraction of the way to the neighbours' mean.
const STEP: f32 = 0.5;
/// The second half of a step that undoes the first where the surface bends slowly.
pub(super) const FULL_RETURN: f32 = STEP;
/// Upper bound of the momentum; without it the last steps overshoot.
const MOST_MOMENTUM: f32 = 0.95;
/// Vertices handled at a time: small enough to share work, large enough to make its cost vanish.
const BLOCK: usize = 4096;
/// Steps that follow each other through the layers at a time: what they work on stays in the cache. 1 is as slow as memory, from 4 on
/// nothing is gained.
const STEPS_AT_ONCE: usize = 4;

/// What a vertex needs to know of its neighbours' directions: lanes 0-2 the mean of the unit steps towards them, lane 3 one
/// over their number.
static DIRECTION_TABLE: LazyLock<[Offset; 64]> = LazyLock::new(|| {
    std::array::from_fn(|mask: usize| {
        let has = |direction: usize| (mask >> direction & 1) as f32;
        let share = 1.0 / (mask.count_ones().max(1)) as f32;
        Offset([
            (has(1) - has(0)) * share,
            (has(3) - has(2)) * share,
            (has(5) - has(4)) * share,
            share,
        ])
    })
});

/// The displacements of consecutive vertices.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    first: usize,
    state: &'a [Offset],
}

/// The vector from vertex `index` to the mean of its neighbours, all of which lie in `stretch`.
#[inline(always)]
fn to_neighbours(net: &Net, table: &[Offset; 64], stretch: &Stretch, index: usize) -> Offset {
    let kind = net.vertices.kind[index];
    let links = net.vertices.links[index];
    let Stretch { first, state } = *stretch;
    let at = index - first;
    let here = state[at];
    // An absent neighbour is replaced by the vertex itself and so adds nothing to the sum of differences.
    let left = state[at - usize::from(kind & 1)];
    let right = state[at + usize::from(kind >> 1 & 1)];
    // Written out: as a closure over the array it stays a call, once per vertex.
    let [a, b, c, d] = links;
    let a = state[a as usize - first];
    let b = state[b as usize - first];
    let c = state[c as usize - first];
    let d = state[d as usize - first];
    let sum = left.plus(right).plus(a.plus(b)).plus(c.plus(d));
    let Offset([x, y, z, share]) = table[usize::from(kind & DIRECTIONS)];
    let steps = Offset([x, y, z, 0.0]);
    sum.zip(here, |sum, here| (sum - 6.0 * here) * share)
        .plus(steps)
}

/// The vector from vertex `index` to the mean of its neighbours, in voxels.
pub(super) fn step_to_neighbours(net: &Net, offsets: &[Offset], index: usize) -> [f32; 3] {
    let all = Stretch {
        first: 0,
        state: offsets,
    };
    to_neighbours(net, &DIRECTION_TABLE, &all, index).xyz()
}

/// How to smooth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub iterations: usize,
    /// Length of the second half of a step, away from the neighbours: [`FULL_RETURN`] keeps what bends slowly in place, less shrinks.
    pub back: f32,
    /// Every vertex stays within this distance of its corner along each axis, in voxels.
    pub box_voxels: f32,
}

/// Smooths from the displacements `start`, one per vertex.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn smooth(
    net: &Net,
    start: Vec<Offset>,
    steps: Steps,
    progress: &dyn Progress,
) -> Result<Vec<Offset>, Error> {
    let mut wave = Wave {
        net,
        steps,
        starts: starts(&net.vertices.per_layer),
        ahead: start.clone(),
        half: vec![Offset::default(); start.len()],
        current: start,
    };
    let mut time = 1.0_f32;
    let momenta: Vec<f32> = (0..steps.iterations)
        .map(|_| {
            let next_time = f32::midpoint(1.0, (1.0 + 4.0 * time * time).sqrt());
            let after_next = f32::midpoint(1.0, (1.0 + 4.0 * next_time * next_time).sqrt());
            time = next_time;
            ((next_time - 1.0) / after_next).min(MOST_MOMENTUM)
        })
        .collect();
    for momenta in momenta.chunks(STEPS_AT_ONCE) {
        if progress.interrupted() {
            return Err(Error::Interrupted);
        }
        wave.run(momenta);
        progress.advance(momenta.len() as u64);
    }
    Ok(wave.current)
}

/// Several steps that run through the layers one behind the other.
///
/// A half step at a layer needs the half step before it at this layer and its two neighbours. So when half step `s` of a batch is at
/// layer `t - 2 s`, all half steps can work at once, and whatever a layer of one needs has been made at times before `t`. At
/// any time the layers that are written of an array lie four apart, and what is read lies in the three between them.
struct Wave<'a> {
    net: &'a Net,
    steps: Steps,
    /// First vertex of every layer, and the number of vertices.
    starts: Vec<usize>,
    /// The vertices after the last whole step.
    current: Vec<Offset>,
    /// The same, moved on by the momentum.
    ahead: Vec<Offset>,
    /// The vertices after the first half of a step.
    half: Vec<Offset>,
}

/// A block of vertices in one half step.
enum Work<'a> {
    Forth {
        first: usize,
        ahead: Stretch<'a>,
        half: &'a mut [Offset],
    },
    Back {
        first: usize,
        momentum: f32,
        half: Stretch<'a>,
        current: &'a mut [Offset],
        ahead: &'a mut [Offset],
    },
}

impl Wave<'_> {
    /// Makes one step per momentum.
    fn run(&mut self, momenta: &[f32]) {
        let layers = self.starts.len() - 1;
        for time in 0..layers + 4 * momenta.len() - 2 {
            // Layers in ascending order are steps in descending order.
            let at = |delay: usize| {
                let layer = time.checked_sub(delay).filter(|&layer| layer < layers);
                layer.map(|layer| (self.starts[layer], self.starts[layer + 1]))
            };
            let forth: Vec<(usize, usize)> = (0..momenta.len())
                .rev()
                .filter_map(|step| at(4 * step))
                .collect();
            let back: Vec<((usize, usize), f32)> = (0..momenta.len())
                .rev()
                .filter_map(|step| Some((at(4 * step + 2)?, momenta[step])))
                .collect();
            let back_layers: Vec<(usize, usize)> = back.iter().map(|entry| entry.0).collect();
            let (half, half_between) = carve(&mut self.half, &forth);
            let (ahead, ahead_between) = carve(&mut self.ahead, &back_layers);
            let (current, _) = carve(&mut self.current, &back_layers);

            let mut work = Vec::new();
            for (&(start, _), half) in forth.iter().zip(half) {
                let ahead = covering(&ahead_between, start);
                for (block, half) in half.chunks_mut(BLOCK).enumerate() {
                    let first = start + block * BLOCK;
                    work.push(Work::Forth { first, ahead, half });
                }
            }
            for ((&((start, _), momentum), current), ahead) in back.iter().zip(current).zip(ahead) {
                let half = covering(&half_between, start);
                let blocks = current.chunks_mut(BLOCK).zip(ahead.chunks_mut(BLOCK));
                for (block, (current, ahead)) in blocks.enumerate() {
                    work.push(Work::Back {
                        first: start + block * BLOCK,
                        momentum,
                        half,
                        current,
                        ahead,
                    });
                }
            }
            let (net, steps) = (self.net, self.steps);
            work.into_par_iter().for_each(|work| work.run(net, steps));
        }
    }
}

impl Work<'_> {
    fn run(self, net: &Net, steps: Steps) {
        let table = &*DIRECTION_TABLE;
        match self {
            Work::Forth { first, ahead, half } => {
                for (index, half) in (first..).zip(half) {
                    let pull = to_neighbours(net, table, &ahead, index);
                    let at = ahead.state[index - ahead.first];
                    *half = at.zip(pull, |at, pull| at + STEP * pull);
                }
            }
            Work::Back {
                first,
                momentum,
                half,
                current,
                ahead,
            } => {
                let Steps {
                    back, box_voxels, ..
                } = steps;
                for (index, (current, ahead)) in (first..).zip(current.iter_mut().zip(ahead)) {
                    let pull = to_neighbours(net, table, &half, index);
                    let next = half.state[index - half.first].zip(pull, |at, pull| {
                        (at - back * pull).clamp(-box_voxels, box_voxels)
                    });
                    *ahead = next.zip(*current, |next, now| next + momentum * (next - now));
                    *current = next;
                }
            }
        }
    }
}

/// Where each of consecutive pieces of the given lengths starts, and where the last ends.
fn starts(lengths: &[usize]) -> Vec<usize> {
    let mut end = 0;
    let mut starts = vec![0];
    starts.extend(lengths.iter().map(|length| {
        end += length;
        end
    }));
    starts
}

/// Takes the given ascending ranges out of `all`; what lies before, between and behind them comes second.
fn carve<'a>(
    all: &'a mut [Offset],
    ranges: &[(usize, usize)],
) -> (Vec<&'a mut [Offset]>, Vec<Stretch<'a>>) {
    let (mut taken, mut between) = (Vec::new(), Vec::new());
    let (mut rest, mut first) = (all, 0);
    for &(start, end) in ranges {
        let (before, other) = rest.split_at_mut(start - first);
        let (range, other) = other.split_at_mut(end - start);
        between.push(Stretch {
            first,
            state: before,
        });
        taken.push(range);
        (rest, first) = (other, end);
    }
    between.push(Stretch { first, state: rest });
    (taken, between)
}

/// The stretch that vertex `index` lies in, or would if it were there.
fn covering<'a>(stretches: &[Stretch<'a>], index: usize) -> Stretch<'a> {
    let place = stretches.partition_point(|stretch| stretch.first <= index);
    stretches[place.max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// One half step after the other over all vertices.
    fn plain(net: &Net, start: Vec<Offset>, steps: Steps) -> Vec<Offset> {
        let (mut current, mut ahead) = (start.clone(), start);
        let mut time = 1.0_f32;
        for _ in 0..steps.iterations {
            let pull = |state: &[Offset], index: usize| {
                let all = Stretch { first: 0, state };
                to_neighbours(net, &DIRECTION_TABLE, &all, index)
            };
            let half: Vec<Offset> = (0..ahead.len())
                .map(|index| ahead[index].zip(pull(&ahead, index), |at, pull| at + STEP * pull))
                .collect();
            let next_time = f32::midpoint(1.0, (1.0 + 4.0 * time * time).sqrt());
            let after_next = f32::midpoint(1.0, (1.0 + 4.0 * next_time * next_time).sqrt());
            let momentum = ((next_time - 1.0) / after_next).min(MOST_MOMENTUM);
            time = next_time;
            for index in 0..half.len() {
                let next = half[index].zip(pull(&half, index), |at, pull| {
                    (at - steps.back * pull).clamp(-steps.box_voxels, steps.box_voxels)
                });
                ahead[index] = next.zip(current[index], |next, now| next + momentum * (next - now));
                current[index] = next;
            }
        }
        current
    }

    #[test]
    fn steps_behind_each_other_give_what_steps_one_by_one_give() {
        // Deep and flat maps, empty layers in the middle, numbers of steps that do and do not fill a batch.
        for (shape, iterations) in [
            ([1, 9, 9], 5),
            ([40, 6, 7], 9),
            ([17, 33, 70], 8),
            ([3, 1, 1], 1),
        ] {
            let [nz, ny, nx] = shape;
            let labels: Vec<u16> = (0..nz * ny * nx)
                .map(|index| {
                    let (x, y, z) = (index % nx, index / nx % ny, index / nx / ny);
                    let is_empty = nz > 20 && (12..25).contains(&z);
                    if is_empty {
                        0
                    } else {
                        ((x * x + 3 * y * z + x * y) / 23 % 3) as u16
                    }
                })
                .collect();
            let net = Net::build(&labels, shape, &|_| Ok(())).unwrap();
            let start: Vec<Offset> = (0..net.vertices.len())
                .map(|index| {
                    Offset::from_xyz([0, 1, 2].map(|axis| ((index + axis) % 7) as f32 / 20.0))
                })
                .collect();
            let steps = Steps {
                iterations,
                back: 0.4,
                box_voxels: 0.5,
            };
            let found = smooth(&net, start.clone(), steps, &Silent).unwrap();
            assert!(found == plain(&net, start, steps), "{shape:?}");
        }
    }
}
