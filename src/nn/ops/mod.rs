//! Running one operation: tasks over boxes, staging, kernel, epilogue.

mod finish;
pub(crate) mod pointwise;
mod stage;
#[cfg(test)]
mod tests;
mod winograd;

use std::ops::Range;
use std::sync::Mutex;

use half::bf16;
use rayon::prelude::*;

use super::arena::{Floats, Shared, Stored, all_finite, halves, halves_mut};
use super::graph::{Finish, Op, Value};
use super::kernel::{Factors, Numbers};
use super::lanes::{Storing, settle};
use super::number::Compact;
use super::pack::Group;
use super::partition::OpPlan;
use super::{Error, Isa};

/// Scratch buffers for workers, as many as ever worked at once.
pub(crate) struct ScratchPool {
    free: Mutex<Vec<Floats>>,
    floats: usize,
}

impl ScratchPool {
    /// `count` buffers of `floats`.
    pub fn new(count: usize, floats: usize) -> Result<Self, Error> {
        let free = (0..count)
            .map(|_| Floats::zeroed(floats, "scratch of a worker"))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            free: Mutex::new(free),
            floats,
        })
    }

    /// Lends a buffer to `work`.
    fn with<R>(&self, work: impl FnOnce(&mut [f32]) -> R) -> Result<R, Error> {
        let lent = self.free.lock().map_or(None, |mut free| free.pop());
        let mut buffer = match lent {
            Some(buffer) => buffer,
            None => Floats::zeroed(self.floats, "scratch of a worker")?,
        };
        let result = work(buffer.as_mut_slice());
        if let Ok(mut free) = self.free.lock() {
            free.push(buffer);
        }
        Ok(result)
    }
}

/// One input of an operation while it runs.
pub(crate) enum Input<'a> {
    /// The caller's patch `[channels][z][y][x]`, read backwards along flipped axes.
    Image {
        /// Voxels.
        data: &'a [f32],
        /// Real channels.
        channels: usize,
        /// Axes read backwards.
        flip: [bool; 3],
    },
    /// An earlier result.
    Value {
        /// Blocks `[block][z][y][x][channel]`.
        data: Stored<&'a [f32], &'a [Compact]>,
        /// What it is.
        value: &'a Value,
        /// Scale per padded channel.
        scale: &'a [f32],
        /// Shift per padded channel.
        shift: &'a [f32],
    },
}

/// Where an operation writes.
pub(crate) enum Target<'a> {
    /// A region of the arena.
    Value {
        /// Blocks `[block][z][y][x][channel]`.
        data: Stored<&'a mut [f32], &'a mut [Compact]>,
        /// What it is.
        value: &'a Value,
        /// Partial sums `[box][2][padded channels]` of a normalised value.
        partials: &'a mut [f64],
    },
    /// The caller's logits `[class][z][y][x]`.
    Logits {
        /// Logits.
        data: &'a mut [f32],
        /// Axes written backwards.
        flip: [bool; 3],
        /// Whether to add to what is there.
        add: bool,
    },
    /// Logits that are handed on box by box and never stored as a patch.
    Boxes {
        /// Takes every box, from any thread.
        take: &'a TakeLogits<'a>,
        /// Memory of the boxes in use.
        pool: &'a ScratchPool,
    },
}

/// Logits of a box of a patch: all voxels of some planes and rows, for some of the classes.
#[derive(Debug, Clone)]
pub struct LogitsBox<'a> {
    /// Classes.
    pub heads: Range<usize>,
    /// First voxel `[z, y, x]` in the patch.
    pub start: [usize; 3],
    /// Planes, rows and columns.
    pub shape: [usize; 3],
    /// `[class][plane][row][column]`; planes, rows and columns follow each other without gaps.
    pub values: &'a [f32],
    /// From one class to the next in `values`.
    pub head_stride: usize,
}

impl LogitsBox<'_> {
    /// The row `row` of plane `plane` of class `head`, all counted from the box's first.
    pub fn row(&self, head: usize, plane: usize, row: usize) -> &[f32] {
        let [_, rows, width] = self.shape;
        let first = head * self.head_stride + (plane * rows + row) * width;
        &self.values[first..first + width]
    }
}

/// Takes boxes of logits: disjoint ones, in any order and from several threads at once.
pub type TakeLogits<'a> = dyn Fn(LogitsBox<'_>) + Sync + 'a;

/// A region of the arena that tasks write disjoint parts of.
type SharedNumbers<'a> = Stored<Shared<'a, f32>, Shared<'a, Compact>>;

/// The shared form of [`Target`] that tasks write through.
enum Sink<'a> {
    Value {
        data: SharedNumbers<'a>,
        value: &'a Value,
        partials: Shared<'a, f64>,
        storing: Storing,
    },
    Logits {
        data: Shared<'a, f32>,
        /// First class, first voxel and size of what `data` holds.
        first_head: usize,
        origin: [usize; 3],
        grid: [usize; 3],
        flip: [bool; 3],
        add: bool,
    },
    Boxes {
        take: &'a TakeLogits<'a>,
        pool: &'a ScratchPool,
    },
}

/// What every task of an operation knows.
struct Job<'a> {
    isa: Isa,
    op: &'a Op,
    plan: &'a OpPlan,
    inputs: &'a [Input<'a>],
    sink: Sink<'a>,
}

/// The box of one task: first plane and row, and how many of each.
#[derive(Clone, Copy)]
struct Extent {
    index: usize,
    first: [usize; 2],
    count: [usize; 2],
}

/// Runs `op` on the current thread pool.
///
/// # Errors
///
/// More workers than planned for, and no memory for their scratch.
pub(crate) fn run(
    isa: Isa,
    op: &Op,
    plan: &OpPlan,
    inputs: &[Input<'_>],
    target: Target<'_>,
    scratch: &ScratchPool,
) -> Result<(), Error> {
    let storing = storing(&target);
    let sink = match target {
        Target::Value {
            data,
            value,
            partials,
        } => Sink::Value {
            data: match data {
                Stored::Single(data) => Stored::Single(Shared::new(data)),
                Stored::Half(data) => Stored::Half(Shared::new(data)),
            },
            value,
            partials: Shared::new(partials),
            storing,
        },
        Target::Logits { data, flip, add } => Sink::Logits {
            data: Shared::new(data),
            first_head: 0,
            origin: [0; 3],
            grid: plan.window.output,
            flip,
            add,
        },
        Target::Boxes { take, pool } => Sink::Boxes { take, pool },
    };
    let job = Job {
        isa,
        op,
        plan,
        inputs,
        sink,
    };
    (0..plan.tasks())
        .into_par_iter()
        .with_max_len(1)
        .try_for_each(|task| scratch.with(|buffer| job.task(task, buffer))?)
}

/// Results of more bytes than this are streamed: they will have left the caches before they are read.
const CACHED_BYTES: usize = 16 << 20;

/// How results are written. Blocks of 16-bit numbers are half a cache line, for which streaming is slower.
fn storing(target: &Target<'_>) -> Storing {
    match target {
        Target::Value {
            data: Stored::Single(data),
            ..
        } if size_of_val(*data) > CACHED_BYTES => Storing::Streamed,
        _ => Storing::Cached,
    }
}

impl Job<'_> {
    /// Computes the groups of one split in one box and lets others see the results.
    fn task(&self, task: usize, scratch: &mut [f32]) -> Result<(), Error> {
        let result = self.compute(task, scratch);
        settle();
        result
    }

    fn compute(&self, task: usize, scratch: &mut [f32]) -> Result<(), Error> {
        let plan = self.plan;
        let (index, split) = (task / plan.splits, task % plan.splits);
        let window = &plan.window;
        let corner = [index / plan.boxes[1], index % plan.boxes[1]];
        let first: [usize; 2] = std::array::from_fn(|axis| corner[axis] * window.extent[axis]);
        let count =
            std::array::from_fn(|axis| window.extent[axis].min(window.output[axis] - first[axis]));
        let extent = Extent {
            index,
            first,
            count,
        };
        let (slab, rest) = scratch.split_at_mut(plan.slab_words());
        let staged = match &plan.cells {
            // Whole cells, zeros beyond the volume.
            Some(cells) => [
                count[0].next_multiple_of(cells.cell.planes),
                count[1].next_multiple_of(cells.cell.edge),
            ],
            None => count,
        };
        let numbers: Numbers<'_> = match plan.factors {
            Factors::Single => {
                stage::stage(self.isa, window, first, staged, self.inputs, slab);
                Stored::Single(slab)
            }
            Factors::Half => {
                let halved: &mut [bf16] = halves_mut(slab);
                stage::stage(self.isa, window, first, staged, self.inputs, halved);
                Stored::Half(halves(slab))
            }
        };
        let (groups, cells) = (&self.op.packed.groups, self.op.packed.cells);
        let units = groups.len() / cells;
        let (from, to) = (
            split * units / plan.splits,
            (split + 1) * units / plan.splits,
        );
        if let (Some(cell_plan), Stored::Single(slab)) = (&plan.cells, numbers) {
            self.winograd(cell_plan, from..to, extent, slab, rest);
            return Ok(());
        }
        let tile = &mut rest[..plan.tile_floats];
        let groups = &groups[from * cells..to * cells];
        if let Sink::Boxes { take, pool } = self.sink {
            return pool
                .with(|values| self.hand_on(groups, extent, numbers, tile, values, take))?;
        }
        for group in groups {
            self.group(group, extent, numbers, tile);
        }
        Ok(())
    }

    /// Computes the logits of `groups` in one box into `values` and hands them on.
    fn hand_on(
        &self,
        groups: &[Group],
        extent: Extent,
        slab: Numbers<'_>,
        tile: &mut [f32],
        values: &mut [f32],
        take: &TakeLogits<'_>,
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (groups.first(), groups.last()) else {
            return Ok(());
        };
        let end = last.first + self.op.packed.kernels[last.kernel].width;
        let heads = first.first..end.min(self.op.channels_out);
        let start = [extent.first[0], extent.first[1], 0];
        let shape = [extent.count[0], extent.count[1], self.plan.window.output[2]];
        let voxels: usize = shape.iter().product();
        let values = &mut values[..heads.len() * voxels];
        let boxed = Job {
            sink: Sink::Logits {
                data: Shared::new(values),
                first_head: heads.start,
                origin: start,
                grid: shape,
                flip: [false; 3],
                add: false,
            },
            ..*self
        };
        for group in groups {
            boxed.group(group, extent, slab, tile);
        }
        if !all_finite(values) {
            let layer = self.op.name.clone();
            return Err(Error::LayerNotFinite { layer });
        }
        take(LogitsBox {
            heads,
            start,
            shape,
            values,
            head_stride: voxels,
        });
        Ok(())
    }

    /// Computes one group of output channels in one box.
    fn group(&self, group: &Group, extent: Extent, slab: Numbers<'_>, tile: &mut [f32]) {
        let (plan, packed) = (self.plan, &self.op.packed);
        let kernel = &packed.kernels[group.kernel];
        let ready = kernel.ready();
        let weights = packed.weights(group);
        let row = kernel.width * kernel.pack;
        let mut sums = [0f64; 64];
        let segments = plan.window.segments(extent.count, kernel.max_rows());
        for (first, count) in segments {
            let last = plan.chunks.len() - 1;
            // With several chunks each tile keeps its sums until the last; tiles may overrun their
            // positions, so they have a place of full size each.
            let place = if last > 0 {
                kernel.max_rows() * kernel.width
            } else {
                0
            };
            for (index, chunk) in plan.chunks.iter().enumerate() {
                let weights = weights.part(chunk.steps.start * row..chunk.steps.end * row);
                for (number, slot) in kernel.tiles(count).enumerate() {
                    let position = first + slot.start;
                    let c = &mut tile[number * place..];
                    ready.run(
                        slot,
                        slab,
                        position,
                        &plan.runs,
                        chunk,
                        weights,
                        c,
                        index > 0,
                    );
                    if index == last {
                        self.finish(group, extent, position, slot.rows, c, &mut sums);
                    }
                }
            }
        }
        self.keep_sums(group.first, kernel.width, extent.index, &sums);
    }

    /// Stores the partial sums of a group, if the operation gathers any.
    fn keep_sums(&self, first: usize, width: usize, index: usize, sums: &[f64; 64]) {
        let Sink::Value {
            value, partials, ..
        } = &self.sink
        else {
            return;
        };
        if !matches!(self.op.finish, Finish::Normalised { .. }) {
            return;
        }
        let (block, padded) = (value.block, value.padded());
        for (number, pair) in sums.chunks(2 * block).take(width / block).enumerate() {
            for (moment, half) in pair.chunks(block).enumerate() {
                let start = (index * 2 + moment) * padded + first + number * block;
                // SAFETY: each task owns the boxes and channels of its index and groups; nobody else
                // writes this stretch.
                let part = unsafe { partials.part(start, block) };
                part.copy_from_slice(half);
            }
        }
    }
}
