//! One batch of patches through a network on a GPU: its memory, and the work that is queued for it.

use super::dnn::{Convolution, Shape};
use super::driver::Address;
use super::error::Error;
use super::gpu::{Argument, arguments};
use super::layout::{Layout, lanes};
use super::memory::Buffer;
use super::network::{End, Network, Step};
use super::queue::Graph;

/// The part of free memory that is left to cuDNN: one in so many.
const RESERVE: usize = 16;

/// What is computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Tiles.
    pub windows: usize,
    /// Mirrored passes of each at a time.
    pub passes: usize,
}

/// Where tiles come from.
pub(super) struct Source {
    /// Slices of the image, `[channel][slice][row][column]`.
    pub image: Buffer,
    /// The tiles of a level, see [`Table`](super::sums::Table).
    pub level: Buffer,
}

/// How a network's work is queued.
enum Recorded {
    /// One by one the first time: libraries load what they need.
    Not,
    /// To be recorded next time.
    Soon,
    /// As a whole.
    As(Graph),
    /// One by one: it cannot be recorded.
    Never,
}

/// The memory of a batch, and how it is computed.
pub(super) struct Pass {
    pub batch: Batch,
    /// Whether channels are innermost.
    pub last: bool,
    flips_count: usize,
    layout: Layout,
    arena: Buffer,
    workspace: Buffer,
    convolutions: Vec<Option<Convolution>>,
    /// Means of the passes, `[window][class][voxel]`.
    pub logits: Buffer,
    /// Axes read backwards, of all passes.
    flips: Buffer,
    /// Moments, and their sums.
    moments: [Buffer; 2],
    /// Scale and shift.
    table: Buffer,
    /// Whether a number of the image was not finite, and per step a result.
    pub broken: Buffer,
    /// Per network, for the source that they were recorded with.
    recorded: Vec<Recorded>,
    recorded_source: [Address; 2],
}

impl Pass {
    /// Takes the memory of a batch of `network`, or of others of its kind. `flips` are those of all passes, as bits.
    ///
    /// # Errors
    ///
    /// It does not suffice, or cuDNN cannot convolve in it.
    pub fn new(
        network: &Network,
        patch: [usize; 3],
        batch: Batch,
        flips: &[u32],
        workspace: usize,
    ) -> Result<Self, Error> {
        let items = batch.windows * batch.passes;
        let layout = Layout::new(network, patch, items)?;
        let queue = network.gpu.queue();
        let voxels: usize = patch.iter().product();
        let sizes = [
            ("activations", layout.bytes),
            ("logits", 4 * batch.windows * network.classes * voxels),
            ("statistics", 8 * layout.moments),
            ("statistics", 8 * (layout.moments / 32 + 2 * layout.rows)),
            ("statistics", 8 * layout.rows),
            ("mirroring", 4 * flips.len()),
            ("flags", 4 * (1 + network.steps.len())),
        ];
        let free = queue.free_memory()?;
        let bytes: usize = sizes.iter().map(|(_, bytes)| bytes).sum();
        if bytes > free - free / RESERVE {
            let what = "a patch";
            return Err(Error::Memory { what, bytes });
        }
        let (mut convolutions, mut most) = (Vec::new(), 0);
        let mut dnn = network.gpu.dnn();
        for step in &network.steps {
            let planned = match step.finish {
                End::Logits { .. } => None,
                _ => {
                    let shape = shape(network, step, &layout);
                    let limit = workspace.min(free - free / RESERVE - bytes);
                    let made = Convolution::new(&mut dnn, network.arithmetic, &shape, limit);
                    let made = made.map_err(|error| at(step, error))?;
                    most = most.max(made.workspace());
                    Some(made)
                }
            };
            convolutions.push(planned);
        }
        drop(dnn);
        let mut buffers = Vec::new();
        for (what, bytes) in sizes {
            buffers.push(Buffer::new(queue, bytes, what)?);
        }
        let workspace = Buffer::new(queue, most, "work space of cuDNN")?;
        let buffers: [Buffer; 7] = buffers
            .try_into()
            .map_err(|_| Error::Refused("a pass has another number of buffers".to_owned()))?;
        let [
            arena,
            logits,
            moments,
            sums,
            table,
            mut mirroring,
            mut broken,
        ] = buffers;
        mirroring.write(flips)?;
        broken.clear()?;
        Ok(Self {
            batch,
            last: network.last,
            flips_count: flips.len(),
            layout,
            arena,
            workspace,
            convolutions,
            logits,
            flips: mirroring,
            moments: [moments, sums],
            table,
            broken,
            recorded: Vec::new(),
            recorded_source: [0; 2],
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        let [moments, sums] = &self.moments;
        let all = [
            &self.arena,
            &self.workspace,
            &self.logits,
            &self.flips,
            moments,
            sums,
            &self.table,
            &self.broken,
        ];
        all.into_iter().map(Buffer::bytes).sum()
    }

    /// Queues the next tiles of `source` for `network`, number `index` of those it is used for: means of the logits of
    /// all passes. The first time one by one, later as a graph where it can be recorded.
    pub fn compute(
        &mut self,
        network: &Network,
        index: usize,
        source: &Source,
    ) -> Result<(), Error> {
        let from = [&source.image, &source.level].map(Buffer::address);
        if self.recorded_source != from {
            self.recorded.clear();
            self.recorded_source = from;
        }
        while self.recorded.len() <= index {
            self.recorded.push(Recorded::Not);
        }
        // SAFETY: it works on this pass's own memory, on the network's, which outlives it, and on the source, which is
        // the one of the recording.
        let launch = |graph: &Graph| unsafe { graph.launch() };
        let recorded = std::mem::replace(&mut self.recorded[index], Recorded::Never);
        self.recorded[index] = match recorded {
            Recorded::Not => {
                self.forward(network, source)?;
                Recorded::Soon
            }
            Recorded::Soon => match network.gpu.queue().record(|| self.forward(network, source)) {
                Ok(graph) => {
                    launch(&graph)?;
                    Recorded::As(graph)
                }
                Err(_) => {
                    self.forward(network, source)?;
                    Recorded::Never
                }
            },
            Recorded::As(graph) => {
                launch(&graph)?;
                Recorded::As(graph)
            }
            Recorded::Never => {
                self.forward(network, source)?;
                Recorded::Never
            }
        };
        Ok(())
    }

    /// Queues all passes over the next tiles.
    fn forward(&mut self, network: &Network, source: &Source) -> Result<(), Error> {
        let chunks = self.flips_count / self.batch.passes;
        for chunk in 0..chunks {
            self.gather(network, source, chunk)?;
            for index in 0..network.steps.len() {
                self.average(network, index)?;
                match network.steps[index].finish {
                    End::Logits { .. } => self.head(network, index, chunk)?,
                    _ => self.convolve(network, index)?,
                }
            }
        }
        Ok(())
    }

    /// Where the flips of a chunk of passes are.
    fn flips(&self, chunk: usize) -> Address {
        self.flips.address() + (4 * chunk * self.batch.passes) as Address
    }

    /// Threads for so many numbers, which kernels take in packs of 16 bytes where shapes allow it.
    fn threads(network: &Network, numbers: usize) -> usize {
        numbers.div_ceil(16 / network.arithmetic.bytes())
    }

    /// Where it is noted that step `index` gives numbers that are not finite.
    fn flag(&self, index: usize) -> Address {
        self.broken.address() + 4 * (1 + index) as Address
    }

    /// Cuts the tiles out, mirrored.
    fn gather(&self, network: &Network, source: &Source, chunk: usize) -> Result<(), Error> {
        let image = self.arena.address() + self.layout.image as Address;
        let [depth, height, width] = self.layout.grids[0];
        let (items, channels) = (self.layout.items, network.channels);
        self.launch(
            network,
            "gather",
            items * channels * depth * height * width,
            arguments![
                source.image.address(),
                image,
                self.flips(chunk),
                source.level.address(),
                self.broken.address(),
                self.batch.passes,
                items,
                channels,
                depth,
                height,
                width,
                network.last,
            ],
        )
    }

    /// Where step `index` reads.
    fn source(&self, step: &Step, index: usize) -> Address {
        let offset = match (self.layout.joined[index], &step.reads[..]) {
            (Some(offset), _) => offset,
            (None, [value, ..]) => self.layout.values[*value],
            (None, []) => self.layout.image,
        };
        self.arena.address() + offset as Address
    }

    fn value(&self, value: usize) -> Address {
        self.arena.address() + self.layout.values[value] as Address
    }

    /// Where a value is needed once more, beside others: address, channels there and the first of its own.
    fn copy(&self, network: &Network, value: usize) -> Option<(Address, usize, usize)> {
        let (step, first) = self.layout.copies[value]?;
        let offset = self.layout.joined[step]?;
        let wide = network.steps[step].channels[0];
        Some((self.arena.address() + offset as Address, wide, first))
    }

    /// Averages what a step needs averaged before it.
    fn average(&self, network: &Network, index: usize) -> Result<(), Error> {
        let Some(pool) = network.steps[index].before else {
            return Ok(());
        };
        let value = &network.values[pool.to];
        let [depth, height, width] = self.layout.grids[value.level];
        let [fz, fy, fx] = pool.factor;
        let items = self.layout.items;
        self.launch(
            network,
            "average",
            items * value.channels * depth * height * width,
            arguments![
                self.value(pool.from),
                self.value(pool.to),
                items,
                value.channels,
                depth,
                height,
                width,
                fz,
                fy,
                fx,
                network.last,
            ],
        )
    }

    /// Convolves and finishes the result.
    fn convolve(&mut self, network: &Network, index: usize) -> Result<(), Error> {
        let step = &network.steps[index];
        let Some(value) = step.output() else {
            return Ok(());
        };
        let (from, to) = (self.source(step, index), self.value(value));
        let workspace = self.workspace.address();
        if let Some(convolution) = &mut self.convolutions[index] {
            let mut dnn = network.gpu.dnn();
            // SAFETY: the layout gave both tensors the room of their shapes, the weights were uploaded for this step,
            // and the work space is as large as any convolution of the pass asked for.
            let done =
                unsafe { convolution.run(&mut dnn, from, step.weights.address(), to, workspace) };
            done.map_err(|error| at(step, error))?;
        }
        match &step.finish {
            End::Normalised { gamma, beta, .. } => {
                self.normalise(network, index, value, gamma, beta)
            }
            End::Upsampled { bias, .. } => self.add_bias(network, value, bias),
            End::Logits { .. } => Ok(()),
        }
    }

    /// Instance norm, what is added to it, and LeakyReLU.
    fn normalise(
        &self,
        network: &Network,
        index: usize,
        value: usize,
        gamma: &Buffer,
        beta: &Buffer,
    ) -> Result<(), Error> {
        let step = &network.steps[index];
        let last = network.last;
        let kind = &network.values[value];
        let (items, channels) = (self.layout.items, kind.channels);
        let voxels: usize = self.layout.grids[kind.level].iter().product();
        let rows = items * channels;
        let mut length = lanes(voxels);
        self.launch(
            network,
            "moments",
            Self::threads(network, rows * length),
            arguments![
                self.value(value),
                self.moments[0].address(),
                items,
                channels,
                voxels,
                length,
                last,
            ],
        )?;
        let [mut sums, mut shorter_sums] = [&self.moments[0], &self.moments[1]];
        while length > 32 {
            let shorter = length.div_ceil(32);
            let arguments = arguments![sums.address(), shorter_sums.address(), 2 * rows, length,];
            self.launch_plain(network, "fold", 2 * rows * shorter, arguments)?;
            std::mem::swap(&mut sums, &mut shorter_sums);
            length = shorter;
        }
        self.launch_plain(
            network,
            "factors",
            rows,
            arguments![
                sums.address(),
                gamma.address(),
                beta.address(),
                self.table.address(),
                self.flag(index),
                items,
                channels,
                length,
                voxels,
                network.epsilon,
            ],
        )?;
        let slope = if step.after.is_some() {
            network.sum_slope
        } else {
            kind.slope
        };
        let (copy, wide, first) = self.copy(network, value).unwrap_or((0, channels, 0));
        self.launch(
            network,
            "normalise",
            Self::threads(network, rows * voxels),
            arguments![
                self.value(value),
                self.table.address(),
                slope,
                step.after.map_or(0, |added| self.value(added)),
                copy,
                wide,
                first,
                items,
                channels,
                voxels,
                last,
            ],
        )
    }

    /// The bias of an upsampled value, which goes where it is needed beside others.
    fn add_bias(&self, network: &Network, value: usize, bias: &Buffer) -> Result<(), Error> {
        let kind = &network.values[value];
        let (items, channels) = (self.layout.items, kind.channels);
        let voxels: usize = self.layout.grids[kind.level].iter().product();
        let own = (self.value(value), channels, 0);
        let (to, wide, first) = self.copy(network, value).unwrap_or(own);
        self.launch(
            network,
            "biased",
            Self::threads(network, items * channels * voxels),
            arguments![
                self.value(value),
                bias.address(),
                to,
                wide,
                first,
                items,
                channels,
                voxels,
                network.last,
            ],
        )
    }

    /// Logits of a chunk of passes, added to those of the chunks before; the last makes them means.
    fn head(&self, network: &Network, index: usize, chunk: usize) -> Result<(), Error> {
        let step = &network.steps[index];
        let End::Logits { bias } = &step.finish else {
            return Ok(());
        };
        let [depth, height, width] = self.layout.grids[0];
        let Batch { windows, passes } = self.batch;
        let is_last = (chunk + 1) * passes == self.flips_count;
        let divisor = if is_last { self.flips_count } else { 1 };
        self.launch(
            network,
            "head",
            windows * depth * height * width,
            arguments![
                self.source(step, index),
                step.weights.address(),
                bias.address(),
                self.logits.address(),
                self.flips(chunk),
                self.flag(index),
                windows,
                passes,
                step.channels[0],
                step.channels[1],
                depth,
                height,
                width,
                chunk > 0,
                divisor as f32,
                network.last,
            ],
        )
    }

    fn launch(
        &self,
        network: &Network,
        kernel: &str,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        // SAFETY: every address comes from a buffer of this pass or of the network, at the offset and with the room
        // that the layout gave the tensor whose sizes are the other arguments; null stands for none.
        unsafe {
            network
                .gpu
                .launch_typed(kernel, network.arithmetic, threads, arguments)
        }
    }

    fn launch_plain(
        &self,
        network: &Network,
        kernel: &str,
        threads: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        // SAFETY: as in `launch`.
        unsafe { network.gpu.launch(kernel, threads, arguments) }
    }
}

/// The convolution of a step.
fn shape(network: &Network, step: &Step, layout: &Layout) -> Shape {
    let skipped = usize::from(network.flat);
    let spatial = |sizes: [usize; 3]| sizes[skipped..].to_vec();
    let [from, to] = step.levels.map(|level| spatial(layout.grids[level]));
    Shape {
        items: layout.items,
        channels: step.channels,
        from,
        to,
        kernel: spatial(step.kernel),
        stride: spatial(step.stride),
        transposed: matches!(step.finish, End::Upsampled { .. }),
        last: network.last,
    }
}

/// An error of cuDNN with the layer it came in.
fn at(step: &Step, error: Error) -> Error {
    match error {
        Error::Call {
            call,
            code,
            meaning,
        } => Error::Call {
            call,
            code,
            meaning: format!("{meaning}, in layer {}", step.name),
        },
        Error::Refused(text) => Error::Refused(format!("{text}: {}", step.name)),
        other => other,
    }
}
