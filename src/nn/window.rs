//! How a layer's input is laid out in scratch so that every kernel tap is a constant offset.
//!
//! A task computes a box of output planes and rows (full width). Its input, zero padding included, is
//! staged as `[channel block][phase z][phase y][phase x][plane][row][column][channel]`:
//!
//! * Rows are `pitch = width + pad` columns apart: the zero columns left of one row are also the right
//!   padding of the row before, so output positions run straight over row ends and only `pad` columns
//!   per row are computed in vain. Boxes of full height share their zero rows between planes alike.
//! * A stride of 2 is staged by parity: phase `p` holds padded coordinates `2 t + p`, which makes tap `k`
//!   of output `t` the element `t + k / 2` of phase `k % 2` - a convolution of stride 1 again.
//! * The taps along x of one channel block are contiguous floats: one [`Run`].

use super::kernel::Run;
use super::winograd::Cell;

/// One stretch of taps in the order weights are packed in: block, then z, then y, then phase along x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tap {
    /// Channel block of the concatenated input.
    pub block: usize,
    /// Kernel index along z and y.
    pub zy: [usize; 2],
    /// Phase along x: taps `phase, phase + stride, ...`.
    pub phase: usize,
    /// Number of taps along x.
    pub count: usize,
}

/// All taps of a kernel over `blocks` channel blocks, in packing order.
pub(crate) fn taps(kernel: [usize; 3], stride: [usize; 3], blocks: usize) -> Vec<Tap> {
    let mut taps = Vec::new();
    for block in 0..blocks {
        for z in 0..kernel[0] {
            for y in 0..kernel[1] {
                for phase in 0..stride[2].min(kernel[2]) {
                    taps.push(Tap {
                        block,
                        zy: [z, y],
                        phase,
                        count: (kernel[2] - phase).div_ceil(stride[2]),
                    });
                }
            }
        }
    }
    taps
}

/// The output grid of a convolution with odd kernel and "same" padding.
pub(crate) fn output_grid(input: [usize; 3], stride: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|axis| (input[axis] - 1) / stride[axis] + 1)
}

/// The staging geometry of one layer for boxes of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Kernel `[z, y, x]`, odd.
    pub kernel: [usize; 3],
    /// Stride `[z, y, x]`.
    pub stride: [usize; 3],
    /// Input grid.
    pub input: [usize; 3],
    /// Output grid.
    pub output: [usize; 3],
    /// Output planes and rows of a full box.
    pub extent: [usize; 2],
    /// Channel blocks staged.
    pub blocks: usize,
    /// Numbers per position and block.
    pub block: usize,
    /// Rows from one staged plane to the next.
    pub rows: usize,
    /// Positions from one staged row to the next.
    pub pitch: usize,
    /// Whether zero rows are shared between planes.
    pub shared_rows: bool,
    /// Staged positions from one output to the next.
    pub steps: [usize; 3],
}

/// Positions of slack behind a slab: tiles may compute a few positions too many.
const SLACK: usize = 32;

impl Window {
    /// Geometry for boxes of `extent` output planes and rows.
    pub fn new(
        kernel: [usize; 3],
        stride: [usize; 3],
        input: [usize; 3],
        blocks: usize,
        block: usize,
        extent: [usize; 2],
    ) -> Self {
        let output = output_grid(input, stride);
        let shared_rows = extent[1] == output[1] && stride[1] == 1;
        let halo = (kernel[1] - 1) / if shared_rows { 2 } else { stride[1] };
        Self {
            kernel,
            stride,
            input,
            output,
            extent,
            blocks,
            block,
            rows: extent[1] + halo,
            pitch: output[2] + (kernel[2] - 1) / 2,
            shared_rows,
            steps: [1; 3],
        }
    }

    /// The same for Winograd's algorithm: every row and plane is staged with zeros up to the end of the last
    /// cell, and nothing is shared, because a cell mixes all it reads. A stride is left to the cell.
    pub fn for_cells(mut self, cell: Cell) -> Self {
        self.shared_rows = false;
        self.stride = [1; 3];
        self.steps = cell.steps();
        self.rows = self.staged(1, self.extent[1]);
        self.pitch = self.staged(2, self.output[2].next_multiple_of(cell.edge));
        self
    }

    /// Positions staged along an axis for so many outputs, without those shared.
    fn staged(&self, axis: usize, outputs: usize) -> usize {
        (outputs - 1) * self.steps[axis] + 1 + (self.kernel[axis] - 1) / self.stride[axis]
    }

    /// Zero padding before the first element of an axis.
    pub fn pad(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) / 2
    }

    /// Number of staged phases along an axis.
    pub fn phases(&self, axis: usize) -> usize {
        self.stride[axis].min(self.kernel[axis])
    }

    /// Planes staged for `planes` output planes.
    pub fn staged_planes(&self, planes: usize) -> usize {
        self.staged(0, planes)
    }

    /// Rows written per plane for `rows` output rows; the rest of the plane's rows stays unused.
    pub fn staged_rows(&self, rows: usize) -> usize {
        if self.shared_rows {
            self.rows
        } else {
            self.staged(1, rows)
        }
    }

    /// Zero positions behind the last staged plane.
    pub fn tail(&self) -> usize {
        self.pad(2)
            + if self.shared_rows {
                self.pad(1) * self.pitch
            } else {
                0
            }
    }

    /// Positions of one phase of one channel block.
    pub fn phase_positions(&self) -> usize {
        self.staged_planes(self.extent[0]) * self.rows * self.pitch + self.tail()
    }

    /// First position of a phase of a channel block.
    pub fn phase_start(&self, block: usize, phase: [usize; 3]) -> usize {
        let index = ((block * self.phases(0) + phase[0]) * self.phases(1) + phase[1])
            * self.phases(2)
            + phase[2];
        index * self.phase_positions()
    }

    /// Numbers of the slab.
    pub fn slab_numbers(&self) -> usize {
        (self.phase_start(self.blocks, [0; 3]) + SLACK) * self.block
    }

    /// The runs of the kernel, in packing order, for kernels that take `pack` floats per step.
    pub fn runs(&self, pack: usize) -> Vec<Run> {
        taps(self.kernel, self.stride, self.blocks)
            .into_iter()
            .map(|tap| {
                let [z, y] = tap.zy;
                let phase = [z % self.stride[0], y % self.stride[1], tap.phase];
                let position = self.phase_start(tap.block, phase)
                    + ((z / self.stride[0]) * self.rows + y / self.stride[1]) * self.pitch;
                Run {
                    offset: position * self.block,
                    steps: (tap.count * self.block).div_ceil(pack),
                }
            })
            .collect()
    }

    /// Stretches of output positions (first, count) of a box: one per plane or, where that needs fewer
    /// tiles of `tile` positions, one over all planes.
    pub fn segments(&self, extent: [usize; 2], tile: usize) -> Vec<(usize, usize)> {
        let plane = (extent[1] - 1) * self.pitch + self.output[2];
        let whole = (extent[0] - 1) * self.rows * self.pitch + plane;
        if whole.div_ceil(tile) < extent[0] * plane.div_ceil(tile) {
            vec![(0, whole)]
        } else {
            (0..extent[0])
                .map(|z| (z * self.rows * self.pitch, plane))
                .collect()
        }
    }

    /// Calls `emit(plane, row, x, first, count)` for each stretch of real output positions among `rows`
    /// positions starting at `position`; `first` counts from `position`.
    pub fn for_each_row(
        &self,
        extent: [usize; 2],
        position: usize,
        rows: usize,
        mut emit: impl FnMut(usize, usize, usize, usize, usize),
    ) {
        let per_plane = self.rows * self.pitch;
        let mut done = 0;
        while done < rows {
            let p = position + done;
            let (plane, row, x) = (
                p / per_plane,
                p % per_plane / self.pitch,
                p % per_plane % self.pitch,
            );
            let left = rows - done;
            if row < extent[1] && plane < extent[0] && x < self.output[2] {
                let count = left.min(self.output[2] - x);
                emit(plane, row, x, done, count);
                done += count;
            } else {
                done += left.min(self.pitch - x);
            }
        }
    }
}
