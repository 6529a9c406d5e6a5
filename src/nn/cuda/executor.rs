//! Runs a network on patches of one size, as many mirrored passes at a time as memory allows.

use super::dnn::{Convolution, Shape};
use super::driver::{Address, Buffer};
use super::error::Error;
use super::gpu::Argument;
use super::layout::{Layout, lanes};
use super::network::{End, Network, Step};
use crate::nn::arena::all_finite;
use crate::nn::{Error as NetworkError, network::expect_len};

/// Most work space of a convolution, in bytes.
const WORKSPACE: usize = 2 << 30;
/// The same where memory is short.
const SMALL_WORKSPACE: usize = 32 << 20;
/// The part of free memory that is left to cuDNN: one in so many.
const RESERVE: usize = 16;

/// Runs a network on patches of one size; owns the memory this takes on the GPU.
///
/// Results are the same bytes on the same GPU, driver and cuDNN, as long as memory allows as many passes at a time;
/// otherwise they may differ by rounding.
pub struct Executor<'n> {
    network: &'n Network,
    patch: [usize; 3],
    /// Passes at a time; 0 before the first run.
    items: usize,
    workspace: usize,
    pass: Option<Pass>,
}

impl Network {
    /// An executor for patches of `patch` voxels `[z, y, x]`, multiples of the network's strides. Memory is taken when
    /// the first patch comes.
    pub fn executor(&self, patch: [usize; 3]) -> Executor<'_> {
        Executor {
            network: self,
            patch,
            items: 0,
            workspace: WORKSPACE,
            pass: None,
        }
    }
}

impl Executor<'_> {
    /// Computes the mean of the logits `[classes][z][y][x]` of the patch `input` `[channels][z][y][x]` and of its
    /// mirror images: each of `flips` names the axes `[z, y, x]` to be mirrored, and logits are mirrored back. For
    /// the patch alone `flips` is one with no axes.
    ///
    /// Where memory is short, half as many passes run at a time, and half of these.
    ///
    /// # Errors
    ///
    /// `input` or `logits` has the wrong length; a layer gives NaN or infinite results; [`NetworkError::Gpu`] when not
    /// even one pass fits or the GPU fails.
    pub fn run(
        &mut self,
        input: &[f32],
        flips: &[[bool; 3]],
        logits: &mut [f32],
    ) -> Result<(), NetworkError> {
        let voxels: usize = self.patch.iter().product();
        expect_len(
            "the input patch",
            input.len(),
            self.network.channels * voxels,
        )?;
        expect_len("the logits", logits.len(), self.network.classes * voxels)?;
        if self.items == 0 || !flips.len().is_multiple_of(self.items) {
            self.pass = None;
            self.items = flips.len().max(1);
        }
        loop {
            let error = match self.attempt(input, flips, logits) {
                Ok(None) => return Ok(()),
                Ok(Some(_)) if !all_finite(input) => return Err(NetworkError::InputNotFinite),
                Ok(Some(layer)) => return Err(NetworkError::LayerNotFinite { layer }),
                Err(error) => error,
            };
            self.pass = None;
            if !(error.is_memory() && self.shrink()) {
                return Err(error.into());
            }
        }
    }

    /// Passes that run together, as far as known.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Bytes it holds on the GPU.
    pub fn bytes(&self) -> usize {
        self.pass.as_ref().map_or(0, Pass::bytes)
    }

    /// Makes do with less memory; false where that is not possible.
    fn shrink(&mut self) -> bool {
        if self.items > 1 {
            self.items = if self.items.is_multiple_of(2) {
                self.items / 2
            } else {
                1
            };
            return true;
        }
        let smaller = self.workspace > SMALL_WORKSPACE;
        self.workspace = SMALL_WORKSPACE;
        smaller
    }

    /// One try; the name of the first layer whose results are not finite.
    fn attempt(
        &mut self,
        input: &[f32],
        flips: &[[bool; 3]],
        logits: &mut [f32],
    ) -> Result<Option<String>, Error> {
        let network = self.network;
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => Pass::new(network, self.patch, self.items, self.workspace)?,
        };
        let pass = self.pass.insert(pass);
        pass.input.write(input)?;
        pass.broken.clear()?;
        let chunks = flips.len() / self.items;
        for (number, chunk) in flips.chunks(self.items).enumerate() {
            let bits = |flip: &[bool; 3]| {
                let axes = flip.iter().enumerate();
                axes.map(|(axis, &mirrored)| u32::from(mirrored) << axis)
                    .sum()
            };
            let bits: Vec<u32> = chunk.iter().map(bits).collect();
            pass.flips.write(&bits)?;
            let passes = if number + 1 == chunks {
                flips.len() as f32
            } else {
                1.0
            };
            pass.forward(network, number > 0, passes)?;
        }
        pass.logits.read(logits)?;
        let mut broken = vec![0i32; network.steps.len()];
        pass.broken.read(&mut broken)?;
        let first = broken.iter().position(|&broken| broken != 0);
        Ok(first.map(|step| network.steps[step].name.clone()))
    }
}

/// The memory of so many passes at a time.
struct Pass {
    layout: Layout,
    arena: Buffer,
    workspace: Buffer,
    convolutions: Vec<Option<Convolution>>,
    /// The patch as given.
    input: Buffer,
    logits: Buffer,
    /// Axes read backwards, per item.
    flips: Buffer,
    /// Moments, and their sums.
    moments: [Buffer; 2],
    /// Scale and shift.
    table: Buffer,
    /// Per step, whether a result was not finite.
    broken: Buffer,
}

impl Pass {
    fn new(
        network: &Network,
        patch: [usize; 3],
        items: usize,
        workspace: usize,
    ) -> Result<Self, Error> {
        let layout = Layout::new(network, patch, items)?;
        let queue = network.gpu.queue();
        let voxels: usize = patch.iter().product();
        let sizes = [
            ("activations", layout.bytes),
            ("the patch", 4 * network.channels * voxels),
            ("logits", 4 * network.classes * voxels),
            ("statistics", 8 * layout.moments),
            ("statistics", 8 * (layout.moments / 32 + 2 * layout.rows)),
            ("statistics", 8 * layout.rows),
            ("mirroring", 4 * items),
            ("flags", 4 * network.steps.len()),
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
        let buffers: [Buffer; 8] = buffers
            .try_into()
            .map_err(|_| Error::Refused("a pass has another number of buffers".to_owned()))?;
        let [arena, input, logits, moments, sums, table, flips, broken] = buffers;
        Ok(Self {
            layout,
            arena,
            workspace,
            convolutions,
            input,
            logits,
            flips,
            moments: [moments, sums],
            table,
            broken,
        })
    }

    fn bytes(&self) -> usize {
        let [moments, sums] = &self.moments;
        let all = [
            &self.arena,
            &self.workspace,
            &self.input,
            &self.logits,
            &self.flips,
            moments,
            sums,
            &self.table,
            &self.broken,
        ];
        all.into_iter().map(Buffer::bytes).sum()
    }

    /// One pass over the items; logits are added up with `add` and divided by `passes`.
    fn forward(&mut self, network: &Network, add: bool, passes: f32) -> Result<(), Error> {
        let image = self.arena.address() + self.layout.image as Address;
        let [depth, height, width] = self.layout.grids[0];
        let (items, channels) = (self.layout.items, network.channels);
        self.launch(
            network,
            "gather",
            items * channels * depth * height * width,
            &[
                Argument::Address(self.input.address()),
                Argument::Address(image),
                Argument::Address(self.flips.address()),
                Argument::Count(items),
                Argument::Count(channels),
                Argument::Count(depth),
                Argument::Count(height),
                Argument::Count(width),
                Argument::Count(usize::from(network.last)),
            ],
        )?;
        for index in 0..network.steps.len() {
            self.average(network, index)?;
            match network.steps[index].finish {
                End::Logits { .. } => self.head(network, index, add, passes)?,
                _ => self.convolve(network, index)?,
            }
        }
        Ok(())
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
            &[
                Argument::Address(self.value(pool.from)),
                Argument::Address(self.value(pool.to)),
                Argument::Count(items),
                Argument::Count(value.channels),
                Argument::Count(depth),
                Argument::Count(height),
                Argument::Count(width),
                Argument::Count(fz),
                Argument::Count(fy),
                Argument::Count(fx),
                Argument::Count(usize::from(network.last)),
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
        let last = Argument::Count(usize::from(network.last));
        let kind = &network.values[value];
        let (items, channels) = (self.layout.items, kind.channels);
        let voxels: usize = self.layout.grids[kind.level].iter().product();
        let rows = items * channels;
        let mut length = lanes(voxels);
        self.launch(
            network,
            "moments",
            rows * length,
            &[
                Argument::Address(self.value(value)),
                Argument::Address(self.moments[0].address()),
                Argument::Count(items),
                Argument::Count(channels),
                Argument::Count(voxels),
                Argument::Count(length),
                last,
            ],
        )?;
        let mut sums = &self.moments[0];
        if length > 32 {
            sums = &self.moments[1];
            let shorter = length.div_ceil(32);
            let arguments = [
                Argument::Address(self.moments[0].address()),
                Argument::Address(sums.address()),
                Argument::Count(2 * rows),
                Argument::Count(length),
            ];
            self.launch_plain(network, "fold", 2 * rows * shorter, &arguments)?;
            length = shorter;
        }
        self.launch_plain(
            network,
            "factors",
            rows,
            &[
                Argument::Address(sums.address()),
                Argument::Address(gamma.address()),
                Argument::Address(beta.address()),
                Argument::Address(self.table.address()),
                Argument::Address(self.broken.address() + 4 * index as Address),
                Argument::Count(items),
                Argument::Count(channels),
                Argument::Count(length),
                Argument::Count(voxels),
                Argument::Double(network.epsilon),
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
            rows * voxels,
            &[
                Argument::Address(self.value(value)),
                Argument::Address(self.table.address()),
                Argument::Single(slope),
                Argument::Address(step.after.map_or(0, |added| self.value(added))),
                Argument::Address(copy),
                Argument::Count(wide),
                Argument::Count(first),
                Argument::Count(items),
                Argument::Count(channels),
                Argument::Count(voxels),
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
            items * channels * voxels,
            &[
                Argument::Address(self.value(value)),
                Argument::Address(bias.address()),
                Argument::Address(to),
                Argument::Count(wide),
                Argument::Count(first),
                Argument::Count(items),
                Argument::Count(channels),
                Argument::Count(voxels),
                Argument::Count(usize::from(network.last)),
            ],
        )
    }

    fn head(&self, network: &Network, index: usize, add: bool, passes: f32) -> Result<(), Error> {
        let step = &network.steps[index];
        let End::Logits { bias } = &step.finish else {
            return Ok(());
        };
        let [depth, height, width] = self.layout.grids[0];
        self.launch(
            network,
            "head",
            depth * height * width,
            &[
                Argument::Address(self.source(step, index)),
                Argument::Address(step.weights.address()),
                Argument::Address(bias.address()),
                Argument::Address(self.logits.address()),
                Argument::Address(self.flips.address()),
                Argument::Address(self.broken.address() + 4 * index as Address),
                Argument::Count(self.layout.items),
                Argument::Count(step.channels[0]),
                Argument::Count(step.channels[1]),
                Argument::Count(depth),
                Argument::Count(height),
                Argument::Count(width),
                Argument::Count(usize::from(add)),
                Argument::Single(passes),
                Argument::Count(usize::from(network.last)),
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
