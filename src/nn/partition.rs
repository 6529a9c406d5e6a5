//! Cutting one operation into tasks: boxes, splits and chunks.
//!
//! Everything is chosen by rough estimates of cycles from the shape of the layer alone, so that results do
//! not depend on the number of threads.

use super::arena::LINE;
use super::graph::Op;
use super::kernel::{Chunk, Factors, Kernel, Run};
use super::window::{Window, output_grid};
use super::winograd::Cell;

/// How one operation is cut into tasks.
#[derive(Debug, Clone)]
pub(crate) struct OpPlan {
    /// Estimated cycles.
    pub cost: f64,
    /// Staging geometry.
    pub window: Window,
    /// Boxes along z and y.
    pub boxes: [usize; 2],
    /// Parts the groups are cut into; tasks are boxes times splits.
    pub splits: usize,
    /// Runs of the kernel.
    pub runs: Vec<Run>,
    /// Runs summed in one go.
    pub chunks: Vec<Chunk>,
    /// What the slab holds.
    pub factors: Factors,
    /// Numbers of the slab.
    pub slab_numbers: usize,
    /// Winograd's algorithm instead of the runs.
    pub cells: Option<CellPlan>,
    /// Floats of the tile or, with several chunks, of the tiles of one segment.
    pub tile_floats: usize,
}

impl OpPlan {
    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.boxes[0] * self.boxes[1] * self.splits
    }

    /// Floats of scratch a task needs.
    pub fn scratch_floats(&self) -> usize {
        let work = match &self.cells {
            Some(cells) => cells.input_floats + cells.product_floats + cells.line_floats,
            None => self.tile_floats,
        };
        self.slab_words() + work
    }

    /// Words of 32 bits of the slab, whole lines.
    pub fn slab_words(&self) -> usize {
        self.factors.words(self.slab_numbers).next_multiple_of(LINE)
    }
}

/// How a box is computed by Winograd's algorithm.
#[derive(Debug, Clone)]
pub(crate) struct CellPlan {
    /// Outputs of a cell.
    pub cell: Cell,
    /// Cells transformed together.
    pub batch: usize,
    /// Runs over the transformed inputs of one cell, point by point.
    pub runs: Vec<Run>,
    /// The runs of each point.
    pub chunks: Vec<Chunk>,
    /// Floats from one transformed input to the next.
    pub input_step: usize,
    /// Floats of transformed inputs, `[input][block][cell][16]`, a line of padding after each input: the
    /// inputs of a cell must not all fall into the same sets of the first-level cache.
    pub input_floats: usize,
    /// Floats of products of one channel group, `[point][cell][width]`, padded alike.
    pub product_floats: usize,
    /// Floats of output rows, `[z][y][column][16]`.
    pub line_floats: usize,
}

/// Weight rows after which sums start afresh, when there are many: bounds the rounding error of long
/// sums and keeps a chunk of weights (128 KiB at 32 channels) in the second-level cache.
const CHUNK_STEPS: usize = 1024;
/// Up to so many rows, one chunk.
const SINGLE_CHUNK_STEPS: usize = 1536;

/// Bytes of slab and work space that stay in the second-level cache of a core.
const FAST_BYTES: f64 = 640.0 * 1024.0;

/// Threads the partition should be able to feed.
const WORKERS: usize = 16;

/// A way to run an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// Estimated cycles.
    pub cost: f64,
    /// Output planes and rows of a box.
    pub extent: [usize; 2],
    /// Parts the groups are cut into.
    pub splits: usize,
}

/// Picks box and split for the algorithm of `op` by an estimate of cycles.
pub(crate) fn plan_op(op: &Op, grid: [usize; 3]) -> OpPlan {
    let output = output_grid(grid, op.stride);
    let Some(cell) = op.cell else {
        let (planes, rows) = (candidates(output[0], 1), candidates(output[1], 1));
        let choice = choose(op, grid, planes, rows, 0, |window| {
            compute_cycles(op, window)
        });
        return plan_boxes(op, grid, choice);
    };
    let cells = cell_plan(op, cell);
    let work = cells.input_floats + cells.product_floats;
    let planes = candidates(output[0], cell.planes);
    let rows = candidates(output[1], cell.edge);
    let choice = choose(op, grid, planes, rows, work, |window| {
        cell_cycles(op, &cells, window)
    });
    plan_boxes(op, grid, choice)
}

/// The cheapest of all boxes and splits, where a task keeps `work_floats` next to the slab and `compute`
/// estimates the cycles of one box.
fn choose(
    op: &Op,
    grid: [usize; 3],
    planes: impl Iterator<Item = usize>,
    rows: impl Iterator<Item = usize>,
    work_floats: usize,
    compute: impl Fn(&Window) -> f64,
) -> Choice {
    let output = output_grid(grid, op.stride);
    // Cells of an upsampled row belong to one task: rows are what tasks write exclusively.
    let units = op.packed.groups.len() / op.packed.cells;
    let rows: Vec<usize> = rows.collect();
    let mut best: Option<Choice> = None;
    for planes in planes {
        for &rows in &rows {
            let window = window_for(op, grid, [planes, rows]);
            let boxes = output[0].div_ceil(planes) * output[1].div_ceil(rows);
            let numbers = window.slab_numbers();
            let words = op.packed.factors.words(numbers) + work_floats;
            let staging = numbers as f64 * 0.3;
            let bytes = (words * size_of::<f32>()) as f64;
            // Beyond the second-level cache every tap waits a little longer.
            let spill = 1.0 + 0.1 * (bytes / FAST_BYTES - 1.0).clamp(0.0, 8.0);
            let compute = compute(&window) * spill;
            for splits in (1..=units.min(WORKERS)).filter(|s| units.is_multiple_of(*s) || *s <= 4) {
                let tasks = boxes * splits;
                let task = compute / splits as f64 + staging + 3000.0;
                let idle = tasks.div_ceil(WORKERS) as f64 * WORKERS as f64 / tasks as f64;
                let cost = task * tasks as f64 * (0.8 + 0.2 * idle);
                if best.as_ref().is_none_or(|best| cost < best.cost) {
                    best = Some(Choice {
                        cost,
                        extent: [planes, rows],
                        splits,
                    });
                }
            }
        }
    }
    best.expect("there is always a box of one row")
}

/// Bytes of transformed inputs that leave room for the rest in the second-level cache.
const CELL_BYTES: usize = 240 * 1024;

/// Batch and scratch of Winograd's algorithm for `op`.
pub(crate) fn cell_plan(op: &Op, cell: Cell) -> CellPlan {
    let points = cell.count();
    let kernels = &op.packed.kernels;
    let per_cell = cell.input_count() * op.blocks_in * op.block_in;
    let batch = if cell.edge == 2 && (cell.stride == 1 || op.blocks_in <= 2) {
        (CELL_BYTES / size_of::<f32>() / per_cell / 28).clamp(1, 4) * 28
    } else {
        14
    };
    let input_step = (op.blocks_in * batch + 1) * LINE;
    let [_, height, width] = cell.points();
    let [_, input_height, input_width] = cell.inputs();
    let (mut runs, mut chunks) = (Vec::new(), Vec::with_capacity(points));
    for point in 0..points {
        let first = runs.len();
        for [z, y, x] in cell.parts([
            point / (height * width),
            point / width % height,
            point % width,
        ]) {
            let input = (z * input_height + y) * input_width + x;
            runs.extend((0..op.blocks_in).map(|block| Run {
                offset: input * input_step + block * batch * LINE,
                steps: LINE,
            }));
        }
        chunks.push(Chunk {
            runs: first..runs.len(),
            steps: 0..(runs.len() - first) * LINE,
            reach: runs.last().map_or(0, |run| run.offset + LINE),
        });
    }
    let widest = kernels.iter().map(|k| k.width).max().unwrap_or(0);
    let slack = kernels.iter().map(Kernel::max_rows).max().unwrap_or(0);
    let lines = cell.planes * cell.edge * cell.edge;
    CellPlan {
        cell,
        batch,
        runs,
        chunks,
        input_step,
        input_floats: cell.input_count() * input_step + slack * LINE,
        product_floats: points * (batch * widest + LINE) + slack * widest,
        line_floats: lines * batch * op.block_in,
    }
}

/// Rough cycles for one box by Winograd's algorithm: transforms, products, and reading the weights once per
/// batch.
fn cell_cycles(op: &Op, cells: &CellPlan, window: &Window) -> f64 {
    let packed = &op.packed;
    let points = cells.cell.count() as f64;
    let inputs_per_cell = cells.cell.input_count() as f64;
    let [planes, edge, _] = cells.cell.outputs();
    let count = window.extent[0].div_ceil(planes)
        * window.extent[1].div_ceil(edge)
        * window.output[2].div_ceil(edge);
    let inputs = (op.blocks_in * op.block_in) as f64;
    let registers = packed
        .groups
        .iter()
        .step_by(packed.cells)
        .map(|group| packed.kernels[group.kernel].width.div_ceil(16))
        .sum::<usize>() as f64;
    let transforms = inputs_per_cell * op.blocks_in as f64 * 4.0 + points * registers * 5.0;
    let products = registers * (inputs_per_cell * inputs * 0.5 + points * 4.0);
    let batches = count.div_ceil(cells.batch) as f64;
    let weights = inputs_per_cell * inputs * registers * 64.0 / 24.0;
    count as f64 * (transforms + products) + batches * weights
}

/// The plan for one choice of boxes and splits.
pub(crate) fn plan_boxes(op: &Op, grid: [usize; 3], choice: Choice) -> OpPlan {
    let Choice {
        cost,
        extent,
        splits,
    } = choice;
    let output = output_grid(grid, op.stride);
    let window = window_for(op, grid, extent);
    let pack = op.packed.kernels[0].pack;
    let runs = window.runs(pack);
    let chunks = chunks(&runs, pack);
    let tile_floats = op
        .packed
        .kernels
        .iter()
        .map(|kernel| tile_floats(kernel, &window, chunks.len()))
        .max()
        .unwrap_or(0);
    OpPlan {
        cost,
        boxes: [output[0].div_ceil(extent[0]), output[1].div_ceil(extent[1])],
        splits,
        factors: op.packed.factors,
        slab_numbers: window.slab_numbers(),
        tile_floats,
        cells: op.cell.map(|cell| cell_plan(op, cell)),
        window,
        runs,
        chunks,
    }
}

/// Box sizes to try along an axis of `n`, multiples of `unit`.
fn candidates(n: usize, unit: usize) -> impl Iterator<Item = usize> {
    let sizes = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 48, 64];
    let whole = n.next_multiple_of(unit);
    sizes
        .into_iter()
        .filter(move |&size| size < whole && size % unit == 0)
        .chain(std::iter::once(whole))
}

fn window_for(op: &Op, grid: [usize; 3], extent: [usize; 2]) -> Window {
    let window = Window::new(
        op.kernel,
        op.stride,
        grid,
        op.blocks_in,
        op.block_in,
        extent,
    );
    match op.cell {
        Some(cell) => window.for_cells(cell),
        None => window,
    }
}

/// Rough cycles for the products of one box: those of the kernel, and what every tile costs besides.
fn compute_cycles(op: &Op, window: &Window) -> f64 {
    let per_kernel: Vec<f64> = op
        .packed
        .kernels
        .iter()
        .map(|kernel| {
            let steps = op.packed.groups[0].weights.len() / op.packed.kernels[0].width;
            let steps = steps / kernel.pack;
            window
                .segments(window.extent, kernel.max_rows())
                .into_iter()
                .map(|(_, count)| {
                    kernel.cycles(count, steps) + kernel.tile_count(count) as f64 * 30.0
                })
                .sum()
        })
        .collect();
    let products: f64 = op
        .packed
        .groups
        .iter()
        .map(|group| per_kernel[group.kernel])
        .sum();
    // Every box reads all weights once, 24 bytes a cycle.
    products + op.packed.floats() as f64 * 4.0 / 24.0
}

/// Floats a worker needs to hold sums of one group.
fn tile_floats(kernel: &Kernel, window: &Window, chunks: usize) -> usize {
    if chunks == 1 {
        return kernel.max_rows() * kernel.width;
    }
    let longest = window
        .segments(window.extent, kernel.max_rows())
        .into_iter()
        .map(|(_, count)| kernel.tile_count(count))
        .max()
        .unwrap_or(0);
    longest * kernel.max_rows() * kernel.width
}

/// Cuts the runs into chunks of similar length.
fn chunks(runs: &[Run], pack: usize) -> Vec<Chunk> {
    let total: usize = runs.iter().map(|run| run.steps).sum();
    let count = if total * pack <= SINGLE_CHUNK_STEPS {
        1
    } else {
        (total * pack).div_ceil(CHUNK_STEPS)
    };
    let mut chunks = Vec::with_capacity(count);
    let (mut first, mut steps, mut done) = (0, 0, 0);
    for (index, run) in runs.iter().enumerate() {
        steps += run.steps;
        let last = index + 1 == runs.len();
        if last || (done + steps) * count >= (chunks.len() + 1) * total {
            let range = first..index + 1;
            chunks.push(Chunk {
                reach: runs[range.clone()]
                    .iter()
                    .map(|run| run.offset + run.steps * pack)
                    .max()
                    .unwrap_or(0),
                runs: range,
                steps: done..done + steps,
            });
            done += steps;
            (first, steps) = (index + 1, 0);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_runs_once_and_reach_their_ends() {
        let runs: Vec<Run> = (0..90)
            .map(|index| Run {
                offset: index * 7,
                steps: 48,
            })
            .collect();
        let chunks = chunks(&runs, 1);
        assert_eq!(chunks.len(), 5);
        assert_eq!(chunks[0].runs.start, 0);
        assert_eq!(chunks[4].runs.end, 90);
        assert_eq!(chunks[4].steps.end, 90 * 48);
        for pair in chunks.windows(2) {
            assert_eq!(pair[0].runs.end, pair[1].runs.start);
            assert_eq!(pair[0].steps.end, pair[1].steps.start);
        }
        for chunk in &chunks {
            let end = runs[chunk.runs.end - 1];
            assert_eq!(chunk.reach, end.offset + end.steps);
        }
    }
}
