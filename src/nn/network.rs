//! A network ready to run: packed weights, and executors that own the memory of one patch size.

use super::arch::UnetSpec;
use super::arena::{Floats, Stored, all_finite, halves, halves_mut};
use super::graph::{Finish, Graph, build, check};
use super::number::Compact;
use super::ops::pointwise::{self, Source};
use super::ops::{self, Input, ScratchPool, TakeLogits, Target};
use super::plan::{Plan, level_grids};
use super::weights::Weights;
use super::{Compute, Error};

/// A U-Net with its weights packed for one instruction set. Immutable; share it between threads.
pub struct Network {
    spec: UnetSpec,
    compute: Compute,
    graph: Graph,
}

impl Network {
    /// Checks every tensor of `spec` in `weights` by name and shape (dynamic_network_architectures 0.4.4
    /// `PlainConvUNet`, canonical `.conv.`/`.norm.` names) and packs them for [`Compute::default`]. Tensors the architecture does not name, such as deep-supervision heads, are ignored.
    ///
    /// Memory: about as many bytes as the weights; time: one pass over them.
    ///
    /// # Errors
    ///
    /// A tensor is missing or has another shape; the architecture is outside what the engine runs
    /// (odd kernels up to 7, strides 1 or 2, at least two stages, full resolution in the first); memory.
    pub fn new(spec: &UnetSpec, weights: &Weights) -> Result<Self, Error> {
        Self::with_compute(spec, weights, Compute::default(), None)
    }

    /// Like [`Network::new`], for a given instruction set and precision. Each layer gets the algorithm that is
    /// fastest on `patch` `[z, y, x]`, by default about 2 million voxels of a cube or 512x512 of a slice; the network
    /// runs on others too, more slowly.
    ///
    /// # Errors
    ///
    /// As [`Network::new`], and if this machine lacks the instruction set.
    pub fn with_compute(
        spec: &UnetSpec,
        weights: &Weights,
        compute: Compute,
        patch: Option<[usize; 3]>,
    ) -> Result<Self, Error> {
        compute.isa.require()?;
        check(spec)?;
        let usual = if spec.spatial_dims == 3 {
            [128; 3]
        } else {
            [1, 512, 512]
        };
        let strides = spec.stages.iter().map(|stage| stage.stride);
        let grids = level_grids(strides, patch.unwrap_or(usual).map(|n| n.max(1)));
        Ok(Self {
            graph: build(spec, weights, compute, &grids)?,
            spec: spec.clone(),
            compute,
        })
    }

    /// The operations and the values between them.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The architecture.
    pub(crate) fn spec(&self) -> &UnetSpec {
        &self.spec
    }

    /// Channels of the input patch.
    pub fn in_channels(&self) -> usize {
        self.spec.in_channels
    }

    /// Channels of the logits: classes or regions.
    pub fn out_channels(&self) -> usize {
        self.spec.out_channels
    }

    /// The arithmetic the weights are packed for.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.graph.ops.iter().map(|op| op.packed.bytes()).sum()
    }

    /// Lays out memory and work for a `patch` `[z, y, x]` (`[1, y, x]` for a 2-D network) without
    /// allocating it.
    ///
    /// # Errors
    ///
    /// The patch is empty, not a multiple of the total stride, or too large to address.
    pub fn plan(&self, patch: [usize; 3]) -> Result<Plan, Error> {
        let stride = self.spec.total_stride();
        let flat = self.spec.spatial_dims == 3 || patch[0] == 1;
        let fits = (0..3).all(|axis| patch[axis] > 0 && patch[axis].is_multiple_of(stride[axis]));
        if !fits || !flat {
            return Err(Error::PatchShape { patch, stride });
        }
        let too_large = Error::Memory {
            what: "a patch of this size",
            bytes: usize::MAX,
        };
        // Staging adds padding to the patch; this bound keeps all products of sizes below overflow.
        let voxels = patch
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n));
        match voxels {
            Some(voxels) if voxels < 1 << 40 => {}
            _ => return Err(too_large),
        }
        let strides = self.spec.stages.iter().map(|stage| stage.stride);
        Plan::new(&self.graph, strides, patch)
    }

    /// Allocates the memory of [`Network::plan`] and scratch for each thread of the current rayon pool.
    ///
    /// # Errors
    ///
    /// As [`Network::plan`]; the memory is not to be had.
    pub fn executor(&self, patch: [usize; 3]) -> Result<Executor<'_>, Error> {
        let plan = self.plan(patch)?;
        // The largest first: a patch that does not fit is refused before any page is touched.
        let arena = Floats::zeroed(plan.arena_floats, "network activations")?;
        let mut partials = Vec::new();
        partials
            .try_reserve_exact(plan.partial_sums)
            .map_err(|_| Error::Memory {
                what: "partial sums",
                bytes: plan.partial_sums * size_of::<f64>(),
            })?;
        partials.resize(plan.partial_sums, 0.0);
        Ok(Executor {
            arena,
            norms: Floats::zeroed(plan.norm_floats, "normalisation factors")?,
            scratch: ScratchPool::new(rayon::current_num_threads(), plan.scratch_floats)?,
            boxes: ScratchPool::new(0, plan.box_floats)?,
            partials,
            network: self,
            plan,
        })
    }
}

/// Runs a network on patches of one size; owns all memory this takes.
///
/// Work is spread over the current rayon pool. Results are the same bytes for any number of threads;
/// they differ between instruction sets by rounding.
pub struct Executor<'n> {
    network: &'n Network,
    plan: Plan,
    arena: Floats,
    norms: Floats,
    partials: Vec<f64>,
    scratch: ScratchPool,
    boxes: ScratchPool,
}

/// Where a forward pass leaves its logits.
enum Output<'a> {
    /// In a patch `[classes][z][y][x]`, un-flipped, in place of what is there or added to it.
    Patch {
        logits: &'a mut [f32],
        flip: [bool; 3],
        add: bool,
    },
    /// With the caller, box by box.
    Boxes(&'a TakeLogits<'a>),
}

impl Output<'_> {
    /// Axes along which the image is read backwards.
    fn flip(&self) -> [bool; 3] {
        match self {
            Self::Patch { flip, .. } => *flip,
            Self::Boxes(_) => [false; 3],
        }
    }
}

impl Executor<'_> {
    /// Bytes this executor holds apart from scratch; equals [`Plan::arena_bytes`].
    pub fn arena_bytes(&self) -> usize {
        (self.arena.len() + self.norms.len()) * size_of::<f32>()
            + self.partials.len() * size_of::<f64>()
    }

    /// The plan this executor follows.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Computes the logits `[classes][z][y][x]` of the patch `input` `[channels][z][y][x]`.
    ///
    /// A level with a single voxel normalises to its shift.
    ///
    /// # Errors
    ///
    /// `input` or `output` has the wrong length; [`Error::LayerNotFinite`] names the first layer whose results
    /// are NaN or infinite, [`Error::InputNotFinite`] blames the input; scratch for more
    /// threads than there were at construction is not to be had.
    pub fn run(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), Error> {
        self.run_flipped(input, [false; 3], output)
    }

    /// Like [`Executor::run`], handing the logits on in boxes as soon as they are computed: no patch of
    /// logits is ever stored. Every voxel and class comes once, with the numbers of [`Executor::run`].
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub fn run_boxes(&mut self, input: &[f32], take: &TakeLogits<'_>) -> Result<(), Error> {
        self.forward(input, &mut Output::Boxes(take), &mut |_| ())
    }

    /// Like [`Executor::run`], telling `watch` the index of each layer of [`Network::layers`] when it is done.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub fn run_watched(
        &mut self,
        input: &[f32],
        output: &mut [f32],
        watch: &mut dyn FnMut(usize),
    ) -> Result<(), Error> {
        self.patch(input, [false; 3], false, output, watch)
    }

    /// Like [`Executor::run`] on the patch mirrored along the axes `flip` `[z, y, x]`, with the logits
    /// mirrored back: the same numbers as copying the flipped patch, without the copies.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub fn run_flipped(
        &mut self,
        input: &[f32],
        flip: [bool; 3],
        output: &mut [f32],
    ) -> Result<(), Error> {
        self.patch(input, flip, false, output, &mut |_| ())
    }

    /// Like [`Executor::run_flipped`], adding the logits to `output`: one step of test-time mirroring.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub fn run_accumulate(
        &mut self,
        input: &[f32],
        flip: [bool; 3],
        output: &mut [f32],
    ) -> Result<(), Error> {
        self.patch(input, flip, true, output, &mut |_| ())
    }

    fn patch(
        &mut self,
        input: &[f32],
        flip: [bool; 3],
        add: bool,
        logits: &mut [f32],
        watch: &mut dyn FnMut(usize),
    ) -> Result<(), Error> {
        let voxels: usize = self.plan.patch.iter().product();
        let expected = self.network.out_channels() * voxels;
        expect_len("the logits", logits.len(), expected)?;
        self.forward(input, &mut Output::Patch { logits, flip, add }, watch)
    }

    fn forward(
        &mut self,
        input: &[f32],
        output: &mut Output<'_>,
        watch: &mut dyn FnMut(usize),
    ) -> Result<(), Error> {
        let voxels: usize = self.plan.patch.iter().product();
        let network = self.network;
        expect_len(
            "the input patch",
            input.len(),
            network.in_channels() * voxels,
        )?;
        for index in 0..network.graph.ops.len() {
            self.average(index);
            self.step(index, input, output)?;
            if !self.normalise(index) {
                return Err(self.blame(index, input));
            }
            self.add(index);
            watch(index);
        }
        match output {
            Output::Patch { logits, .. } if !all_finite(logits) => {
                Err(self.blame(network.graph.ops.len() - 1, input))
            }
            _ => Ok(()),
        }
    }

    /// The error for operation `index`, the first whose results were seen not to be finite. What it reads may
    /// have come from a layer that gathers no sums.
    fn blame(&self, index: usize, input: &[f32]) -> Error {
        if !all_finite(input) {
            return Error::InputNotFinite;
        }
        let graph = &self.network.graph;
        let unseen = graph.ops[index].feeds.iter().find_map(|feed| {
            let value = feed.value?;
            let kept = &self.arena.as_slice()[self.plan.region(graph, value)];
            let broken = if graph.halves {
                !halves::<Compact>(kept)
                    .iter()
                    .all(|number| number.is_finite())
            } else {
                !all_finite(kept)
            };
            let writer = || graph.ops.iter().find(|op| op.output() == Some(value));
            broken.then(writer).flatten()
        });
        let layer = unseen.unwrap_or(&graph.ops[index]).name.clone();
        Error::LayerNotFinite { layer }
    }

    /// Runs one operation.
    fn step(&mut self, index: usize, image: &[f32], output: &mut Output<'_>) -> Result<(), Error> {
        let graph = &self.network.graph;
        let (op, plan) = (&graph.ops[index], &self.plan);
        let region = |value: usize| plan.region(graph, value);
        let read_values = || op.feeds.iter().filter_map(|feed| feed.value);
        let reads: Vec<_> = read_values().map(region).collect();
        let write = op.output().map_or(0..0, region);
        let (read, written) = self.arena.split(&reads, write);
        let norms = self.norms.as_slice();
        let inputs: Vec<Input<'_>> = if read.is_empty() {
            vec![Input::Image {
                data: image,
                channels: self.network.in_channels(),
                flip: output.flip(),
            }]
        } else {
            read.into_iter()
                .zip(read_values())
                .map(|(data, value)| {
                    let (scale, shift) = plan.norm(graph, norms, value);
                    Input::Value {
                        data: if graph.halves {
                            Stored::Half(halves(data))
                        } else {
                            Stored::Single(data)
                        },
                        value: &graph.values[value],
                        scale,
                        shift,
                    }
                })
                .collect()
        };
        let target = match op.output() {
            Some(value) => Target::Value {
                data: if graph.halves {
                    Stored::Half(halves_mut(written))
                } else {
                    Stored::Single(written)
                },
                value: &graph.values[value],
                partials: &mut self.partials,
            },
            None => match output {
                Output::Patch { logits, flip, add } => Target::Logits {
                    data: logits,
                    flip: *flip,
                    add: *add,
                },
                Output::Boxes(take) => Target::Boxes {
                    take: *take,
                    pool: &self.boxes,
                },
            },
        };
        let isa = self.network.compute.isa;
        ops::run(isa, op, &plan.ops[index], &inputs, target, &self.scratch)
    }

    /// Averages what an operation needs averaged before it.
    fn average(&mut self, index: usize) {
        let (graph, plan) = (&self.network.graph, &self.plan);
        let Some(pool) = graph.ops[index].before else {
            return;
        };
        let grid = plan.grids[graph.values[pool.to].level];
        let (from, to) = (plan.region(graph, pool.from), plan.region(graph, pool.to));
        let (read, written) = self.arena.split(&[from], to);
        let norms = self.norms.as_mut_slice();
        let (scale, shift) = plan.norm(graph, norms, pool.from);
        let source = Source {
            data: read[0],
            value: &graph.values[pool.from],
            scale,
            shift,
        };
        pointwise::average(written, grid, &source, pool.factor);
        plan.unscale(graph, norms, pool.to);
    }

    /// Adds what an operation's normalised result is to be added to.
    fn add(&mut self, index: usize) {
        let (graph, plan) = (&self.network.graph, &self.plan);
        let op = &graph.ops[index];
        let (Some(added), Some(sum)) = (op.after, op.output()) else {
            return;
        };
        let (from, to) = (plan.region(graph, added), plan.region(graph, sum));
        let (read, written) = self.arena.split(&[from], to);
        let norms = self.norms.as_mut_slice();
        let (scale, shift) = plan.norm(graph, norms, added);
        let source = Source {
            data: read[0],
            value: &graph.values[added],
            scale,
            shift,
        };
        let (scale, shift) = plan.norm(graph, norms, sum);
        let slope = self.network.spec.negative_slope;
        pointwise::add(written, scale, shift, &source, slope);
        plan.unscale(graph, norms, sum);
    }

    /// Turns the sums of an operation into the scale and shift its readers apply; whether they are finite.
    ///
    /// The sums have seen every result: one that is not finite shows in them. Mean and variance come from `f64` sums of the exact values, added box by box in a fixed order.
    fn normalise(&mut self, index: usize) -> bool {
        let graph = &self.network.graph;
        let op = &graph.ops[index];
        let Some(value) = op.output() else {
            return true;
        };
        let padded = graph.values[value].padded();
        let start = self.plan.norms[value];
        let norm = &mut self.norms.as_mut_slice()[start..start + 2 * padded];
        let (scale, shift) = norm.split_at_mut(padded);
        scale.fill(1.0);
        shift.fill(0.0);
        let Finish::Normalised { gamma, beta, .. } = &op.finish else {
            return true;
        };
        let plan = &self.plan.ops[index];
        let boxes = plan.boxes[0] * plan.boxes[1];
        let count = plan.window.output.iter().product::<usize>() as f64;
        for channel in 0..op.channels_out {
            let (mut sum, mut squares) = (0.0, 0.0);
            for pair in self.partials.chunks(2 * padded).take(boxes) {
                sum += pair[channel];
                squares += pair[padded + channel];
            }
            let mean = sum / count;
            // NaN must survive to be reported: `max` would turn it into 0.
            let variance = squares / count - mean * mean;
            let variance = if variance < 0.0 { 0.0 } else { variance };
            let factor = f64::from(gamma[channel]) / (variance + self.network.spec.norm_eps).sqrt();
            scale[channel] = factor as f32;
            shift[channel] = (f64::from(beta[channel]) - mean * factor) as f32;
        }
        all_finite(norm)
    }
}

/// An error unless a slice has the length it must have.
pub(crate) fn expect_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            found,
            expected,
        })
    }
}
