//! Weights in the order the kernels read them.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::arena::{Floats, Stored, halves, halves_mut};
use super::kernel::{Factors, Kernel, Numbers};
use super::number::Number;
use super::window::{Tap, taps};
use super::winograd::{Cell, transform_weights};
use super::{Error, Isa, Precision};

/// A stretch of channels an operation reads: from the image or from an earlier result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Feed {
    /// Index of the value read; `None` is the network's input image.
    pub value: Option<usize>,
    /// Real channels.
    pub channels: usize,
}

/// Output channels computed together, and where their weights are.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Index of the kernel in [`Packed::kernels`].
    pub kernel: usize,
    /// First output channel.
    pub first: usize,
    /// Position inside the upsampled cell `[z, y, x]`; zero unless the convolution is transposed.
    pub cell: [usize; 3],
    /// Numbers of [`Packed::weights`].
    pub weights: Range<usize>,
}

/// Weights of one layer, packed for one instruction set.
pub(crate) struct Packed {
    /// Kernels by width.
    pub kernels: Vec<Kernel>,
    /// Groups, output channels outermost, then cells.
    pub groups: Vec<Group>,
    /// Cells per stretch of output channels.
    pub cells: usize,
    /// What the kernels multiply.
    pub factors: Factors,
    /// All weights, as what the kernels multiply.
    weights: Floats,
}

/// The shape of a layer's weights as far as packing needs it.
pub(crate) struct Shape<'a> {
    /// What is read, in order; all stored in blocks of `block_in`.
    pub feeds: &'a [Feed],
    /// Floats per staged position.
    pub block_in: usize,
    /// Kernel of the staged convolution.
    pub kernel: [usize; 3],
    /// Stride of the staged convolution.
    pub stride: [usize; 3],
    /// Output channels.
    pub channels_out: usize,
    /// Block they are stored in.
    pub block_out: usize,
    /// Cells of a transposed convolution, points of Winograd's algorithm; all 1 otherwise.
    pub cells: [usize; 3],
    /// The cell that the points belong to.
    pub points_of: Option<Cell>,
}

impl Shape<'_> {
    /// Channel blocks staged.
    pub fn blocks(&self) -> usize {
        self.feeds
            .iter()
            .map(|feed| feed.channels.div_ceil(self.block_in))
            .sum()
    }

    /// The shape of the weights transformed for `cell`: a matrix per point.
    pub fn for_cell(&self, cell: Cell) -> Self {
        Self {
            kernel: [1; 3],
            stride: [1; 3],
            cells: cell.points(),
            points_of: Some(cell),
            ..*self
        }
    }

    /// What the products of `cell` are summed over, besides channels and taps.
    fn parts(&self, cell: [usize; 3]) -> Vec<[usize; 3]> {
        self.points_of
            .map_or_else(|| vec![cell], |points| points.parts(cell))
    }

    /// The cells by which Winograd's algorithm may compute this convolution.
    pub fn winograd_cells(&self, precision: Precision) -> Vec<Cell> {
        let planes = match self.kernel {
            [3, 3, 3] => Some(false),
            [1, 3, 3] => Some(true),
            _ => None,
        };
        let blocks = self.block_in == 16 && self.block_out == 16;
        let stored = self.feeds.iter().all(|feed| feed.value.is_some());
        let Some(flat) = planes.filter(|_| blocks && stored) else {
            return Vec::new();
        };
        let stride = self.stride[2];
        if self.stride != [if flat { 1 } else { stride }, stride, stride] {
            return Vec::new();
        }
        let edges: &[usize] = match precision {
            _ if stride == 2 => &[2],
            Precision::Fp32 => &[2],
            Precision::Fast32 | Precision::Bf16 => &[2, 4],
        };
        let channels: usize = self.feeds.iter().map(|feed| feed.channels).sum();
        edges
            .iter()
            .map(|&edge| Cell {
                planes: if flat { 1 } else { edge },
                edge,
                stride,
            })
            .filter(|cell| cell.input_count() * channels * self.channels_out <= TRANSFORMED_FLOATS)
            .collect()
    }

    /// The input channel of the weight tensor that lane `lane` of staged block `block` holds; `None` for
    /// padding.
    fn channel(&self, block: usize, lane: usize) -> Option<usize> {
        let (mut first_block, mut first_channel) = (0, 0);
        for feed in self.feeds {
            let blocks = feed.channels.div_ceil(self.block_in);
            if block < first_block + blocks {
                let channel = (block - first_block) * self.block_in + lane;
                return (channel < feed.channels).then_some(first_channel + channel);
            }
            first_block += blocks;
            first_channel += feed.channels;
        }
        None
    }
}

impl Packed {
    /// Kernels and groups for `shape`, without weights yet: enough to plan with.
    pub fn layout(isa: Isa, factors: Factors, shape: &Shape<'_>) -> Self {
        let widths = Kernel::widths(isa, shape.channels_out, shape.block_out);
        let mut kernels: Vec<Kernel> = Vec::new();
        for &width in &widths {
            if kernels.iter().all(|kernel| kernel.width != width) {
                kernels.push(Kernel::select(isa, factors, width, shape.block_in));
            }
        }
        let pack = kernels.first().map_or(1, |kernel| kernel.pack);
        let steps: usize = taps(shape.kernel, shape.stride, shape.blocks())
            .iter()
            .map(|tap| (tap.count * shape.block_in).div_ceil(pack))
            .sum();
        let [cz, cy, cx] = shape.cells;
        let cells = cz * cy * cx;
        let mut groups = Vec::new();
        let (mut first, mut end) = (0, 0);
        for &width in &widths {
            let kernel = kernels
                .iter()
                .position(|kernel| kernel.width == width)
                .expect("every width has its kernel");
            for cell in 0..cells {
                let start = end;
                let cell = [cell / (cy * cx), cell / cx % cy, cell % cx];
                end += shape.parts(cell).len() * steps * pack * width;
                groups.push(Group {
                    kernel,
                    first,
                    cell,
                    weights: start..end,
                });
            }
            first += width;
        }
        Self {
            kernels,
            groups,
            cells,
            factors,
            weights: Floats::default(),
        }
    }

    /// The weights of a group.
    pub fn weights(&self, group: &Group) -> Numbers<'_> {
        let weights = self.weights.as_slice();
        match self.factors {
            Factors::Single => Stored::Single(&weights[group.weights.clone()]),
            Factors::Half => Stored::Half(&halves(weights)[group.weights.clone()]),
        }
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.floats() * size_of::<f32>()
    }

    /// Words of 32 bits of all weights.
    pub fn floats(&self) -> usize {
        let numbers = self.groups.last().map_or(0, |group| group.weights.end);
        self.factors.words(numbers)
    }

    /// Takes in `weight(output channel, input channel, tap, cell)`, for the shape of the layout.
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub fn fill(
        &mut self,
        shape: &Shape<'_>,
        weight: impl Fn(usize, usize, [usize; 3], [usize; 3]) -> f32 + Sync,
    ) -> Result<(), Error> {
        let mut weights = Floats::zeroed(self.floats(), "network weights")?;
        let numbers = weights.as_mut_slice();
        match self.factors {
            Factors::Single => self.fill_groups(shape, numbers, weight),
            Factors::Half => self.fill_groups(shape, halves_mut::<bf16>(numbers), weight),
        }
        self.weights = weights;
        Ok(())
    }

    /// Writes `weight(output channel, input channel, tap, cell)` to the places of the groups in `rest`.
    fn fill_groups<T: Number + Send>(
        &self,
        shape: &Shape<'_>,
        mut rest: &mut [T],
        weight: impl Fn(usize, usize, [usize; 3], [usize; 3]) -> f32 + Sync,
    ) {
        let pack = self.kernels.first().map_or(1, |kernel| kernel.pack);
        let taps = taps(shape.kernel, shape.stride, shape.blocks());
        let mut parts = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let (part, behind) = rest.split_at_mut(group.weights.len());
            parts.push((group, part));
            rest = behind;
        }
        let kernels = &self.kernels;
        parts.into_par_iter().for_each(|(group, data)| {
            let width = kernels[group.kernel].width;
            let outputs = width.min(shape.channels_out - group.first);
            let mut row = 0;
            let parts = shape.parts(group.cell);
            for (part, &tap) in parts
                .iter()
                .flat_map(|part| taps.iter().map(move |tap| (*part, tap)))
            {
                for step in 0..(tap.count * shape.block_in).div_ceil(pack) {
                    for lane in 0..pack {
                        let Some((channel, at)) = locate(shape, tap, step * pack + lane) else {
                            continue;
                        };
                        for n in 0..outputs {
                            data[row + n * pack + lane] =
                                T::narrow(weight(group.first + n, channel, at, part));
                        }
                    }
                    row += pack * width;
                }
            }
        });
    }

    /// Takes in weights `[out][in][z][y][x]` transformed for `cell`; the layout is that of
    /// [`Shape::for_cell`].
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub fn fill_transformed(
        &mut self,
        shape: &Shape<'_>,
        cell: Cell,
        data: &[f32],
    ) -> Result<(), Error> {
        let volume: usize = shape.kernel.iter().product();
        let points = cell.input_count();
        let channels: usize = shape.feeds.iter().map(|feed| feed.channels).sum();
        // `[out][transformed input][in]`: packing walks along input channels.
        let mut transformed =
            Floats::zeroed(shape.channels_out * points * channels, "network weights")?;
        transformed
            .as_mut_slice()
            .par_chunks_mut(points * channels)
            .zip(data.par_chunks(channels * volume))
            .for_each(|(to, from)| {
                for (channel, kernel) in from.chunks(volume).enumerate() {
                    let values = transform_weights(kernel, cell);
                    for (point, value) in values.into_iter().enumerate() {
                        to[point * channels + channel] = value;
                    }
                }
            });
        let transformed = transformed.as_slice();
        let [_, height, width] = cell.inputs();
        self.fill(&shape.for_cell(cell), |co, ci, _, [z, y, x]| {
            transformed[(co * points + (z * height + y) * width + x) * channels + ci]
        })
    }
}

/// Most transformed weights of a layer (64 MiB): beyond, layers are at so low a resolution that reading up to
/// 8 times the weights costs more than it saves.
const TRANSFORMED_FLOATS: usize = 16 << 20;

/// Input channel and kernel index of float `index` of a run.
fn locate(shape: &Shape<'_>, tap: Tap, index: usize) -> Option<(usize, [usize; 3])> {
    let along_x = index / shape.block_in;
    if along_x >= tap.count {
        return None;
    }
    let channel = shape.channel(tap.block, index % shape.block_in)?;
    let x = tap.phase + along_x * shape.stride[2];
    Some((channel, [tap.zy[0], tap.zy[1], x]))
}
