//! Runs a network on patches of one size, as many of them and of their mirrored passes at a time as memory allows.

use super::error::Error;
use super::memory::Buffer;
use super::network::Network;
use super::pass::{Batch, Pass, Source};
use super::sums::Level;
use crate::nn::{Error as NetworkError, network::expect_len};

/// Most work space of a convolution, in bytes.
const WORKSPACE: usize = 2 << 30;
/// The same where memory is short.
const SMALL_WORKSPACE: usize = 32 << 20;
/// Voxels of patches and their mirrored passes that are computed together, where there are so many: eight patches of
/// 128 voxels along each axis.
const TOGETHER: usize = 8 << 21;

/// Runs networks of one kind, the folds of a model, on patches of one size; owns the memory this takes on the GPU.
///
/// Results are the same bytes on the same GPU, driver and cuDNN, as long as memory allows as many passes at a time;
/// otherwise they may differ by rounding.
pub struct Executor<'n> {
    networks: &'n [Network],
    patch: [usize; 3],
    /// Axes to be mirrored of every pass: bit 0 is z, bit 1 y, bit 2 x.
    flips: Vec<u32>,
    batch: Batch,
    workspace: usize,
    pass: Option<Pass>,
    /// For patches of the host.
    source: Option<Source>,
}

impl<'n> Executor<'n> {
    /// An executor of `networks`, at least one, for patches of `patch` voxels `[z, y, x]`, multiples of the networks'
    /// strides. Logits are means over a pass for each of `flips`, which names the axes `[z, y, x]` to be mirrored; for
    /// the patch alone `flips` is one with no axes. Memory is taken when the first patch comes.
    pub fn new(networks: &'n [Network], patch: [usize; 3], flips: &[[bool; 3]]) -> Self {
        let bits = |flip: &[bool; 3]| {
            let axes = flip.iter().enumerate();
            axes.map(|(axis, &mirrored)| u32::from(mirrored) << axis)
                .sum()
        };
        Self {
            networks,
            patch,
            flips: flips.iter().map(bits).collect(),
            batch: Batch {
                windows: 1,
                passes: flips.len(),
            },
            workspace: WORKSPACE,
            pass: None,
            source: None,
        }
    }

    /// Computes the mean of the logits `[classes][z][y][x]` of the patch `input` `[channels][z][y][x]` and of its
    /// mirror images, mirrored back, with network `index`.
    ///
    /// Where memory is short, half as many passes run at a time, and half of these.
    ///
    /// # Errors
    ///
    /// `input` or `logits` has the wrong length; a layer gives NaN or infinite results; [`NetworkError::Gpu`] when not
    /// even one pass fits or the GPU fails.
    pub fn run(
        &mut self,
        index: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), NetworkError> {
        let voxels: usize = self.patch.iter().product();
        let network = self.network(index)?;
        expect_len("the input patch", input.len(), network.channels * voxels)?;
        expect_len("the logits", logits.len(), network.classes * voxels)?;
        let mut source = match self.source.take() {
            Some(source) => source,
            None => self.own_source()?,
        };
        source.image.write(input)?;
        let level = Level::of_patch(self.patch);
        source.level.write(&level.numbers())?;
        let computed = self.compute(index, &source);
        self.source = Some(source);
        computed?;
        if let Some(pass) = &mut self.pass {
            pass.logits.read(logits)?;
        }
        self.check()
    }

    /// Computes the patch of the last [`run`](Self::run) once more with network `index` and waits for it; nothing is
    /// copied. For measuring.
    ///
    /// # Errors
    ///
    /// There was none; as [`run`](Self::run).
    pub fn again(&mut self, index: usize) -> Result<(), NetworkError> {
        let none = || Error::Refused("no patch was computed yet".to_owned());
        let source = self.source.take().ok_or_else(none)?;
        let computed = self.compute(index, &source);
        self.source = Some(source);
        computed?;
        let queue = self.network(index)?.gpu.queue();
        Ok(queue.mark()?.wait()?)
    }

    /// Memory for one patch of the host.
    fn own_source(&self) -> Result<Source, Error> {
        let network = &self.networks[0];
        let voxels: usize = self.patch.iter().product();
        let queue = network.gpu.queue();
        Ok(Source {
            image: Buffer::new(queue, 4 * network.channels * voxels, "the patch")?,
            level: Buffer::new(queue, 4 * Level::numbers(1), "a tile")?,
        })
    }

    /// Chooses how many tiles are computed together where `tiles` are to be.
    pub(super) fn plan_windows(&mut self, tiles: usize) {
        let voxels: usize = self.patch.iter().product();
        let most = (TOGETHER / (voxels * self.flips.len())).clamp(1, tiles.max(1));
        self.set_windows(tiles.max(1).div_ceil(tiles.max(1).div_ceil(most)));
    }

    fn set_windows(&mut self, windows: usize) {
        if self.batch.windows != windows {
            self.batch.windows = windows;
            self.pass = None;
        }
    }

    /// Queues the next tiles of `source` for network `index`, and says how many. Their logits follow one another in
    /// [`logits`](Self::logits).
    pub(super) fn compute(&mut self, index: usize, source: &Source) -> Result<usize, NetworkError> {
        let network = self.network(index)?;
        loop {
            let error = match self.attempt(network, index, source) {
                Ok(()) => return Ok(self.batch.windows),
                Err(error) => error,
            };
            self.pass = None;
            if !(error.is_memory() && self.shrink()) {
                return Err(error.into());
            }
        }
    }

    fn attempt(&mut self, network: &Network, index: usize, source: &Source) -> Result<(), Error> {
        let usable = |pass: &Pass| pass.batch == self.batch && pass.last == network.last;
        let pass = match self.pass.take().filter(usable) {
            Some(pass) => pass,
            None => Pass::new(network, self.patch, self.batch, &self.flips, self.workspace)?,
        };
        self.pass.insert(pass).compute(network, index, source)
    }

    /// Makes do with less memory; false where that is not possible.
    fn shrink(&mut self) -> bool {
        let Batch { windows, passes } = &mut self.batch;
        if *windows > 1 {
            *windows /= 2;
            return true;
        }
        if *passes > 1 {
            *passes = if passes.is_multiple_of(2) {
                *passes / 2
            } else {
                1
            };
            return true;
        }
        let smaller = self.workspace > SMALL_WORKSPACE;
        self.workspace = SMALL_WORKSPACE;
        smaller
    }

    /// Whether all numbers were finite, once the work queued so far is done.
    ///
    /// # Errors
    ///
    /// The first layer, or the input, whose numbers were not; the GPU fails.
    pub fn check(&mut self) -> Result<(), NetworkError> {
        let (Some(pass), Some(network)) = (&mut self.pass, self.networks.first()) else {
            return Ok(());
        };
        let mut broken = vec![0i32; 1 + network.steps.len()];
        pass.broken.read_now(0, &mut broken)?;
        let Some(first) = broken.iter().position(|&broken| broken != 0) else {
            return Ok(());
        };
        pass.broken.clear()?;
        Err(match first.checked_sub(1) {
            None => NetworkError::InputNotFinite,
            Some(step) => NetworkError::LayerNotFinite {
                layer: network.steps[step].name.clone(),
            },
        })
    }

    fn network(&self, index: usize) -> Result<&'n Network, Error> {
        let found = self.networks.get(index);
        found.ok_or_else(|| Error::Refused(format!("there is no network number {index}")))
    }

    /// The networks.
    pub(super) fn networks(&self) -> &'n [Network] {
        self.networks
    }

    /// Voxels of a patch, `[z, y, x]`.
    pub(super) fn patch(&self) -> [usize; 3] {
        self.patch
    }

    /// Where the logits of the tiles computed last are.
    pub(super) fn logits(&self) -> Option<&Buffer> {
        self.pass.as_ref().map(|pass| &pass.logits)
    }

    /// Tiles, and mirrored passes of each, that are computed together.
    pub fn batch(&self) -> [usize; 2] {
        [self.batch.windows, self.batch.passes]
    }

    /// Bytes it holds on the GPU.
    pub fn bytes(&self) -> usize {
        let source = self.source.as_ref();
        let source = source.map_or(0, |source| source.image.bytes() + source.level.bytes());
        source + self.pass.as_ref().map_or(0, Pass::bytes)
    }
}
