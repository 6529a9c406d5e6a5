//! Overlapping tiles added up on a GPU, level by level.
//!
//! Tiles are cut out of slices of the image that are copied once per level, and their weighted logits stay on the GPU
//! until no tile after them covers a slice: only finished slices are copied to the host. Sums are rounded as the
//! processor rounds them, so both give the same bytes for the same logits.
//!
//! Work is queued a level at a time. While the GPU computes it, the host reads the slices that the level before
//! finished and makes the input of the next: slices are kept in a ring with room for both.

use super::driver::Address;
use super::error::Error;
use super::executor::Executor;
use super::gpu::{Argument, Gpu, arguments};
use super::memory::Buffer;
use super::pass::Source;
use super::queue::Mark;
use crate::nn::{Error as NetworkError, network::expect_len};
use half::f16;
use std::collections::VecDeque;
use std::ops::Range;

/// Numbers of a level's table before its tiles.
const HEAD: usize = 14;
/// Most numbers that the kernels count in 31 bits.
const MOST: usize = (1 << 31) - 1;

/// Room for logits of the host.
#[derive(Debug)]
pub enum Logits<'a> {
    /// In 16 bits.
    Half(&'a mut [f16]),
    /// In 32 bits.
    Single(&'a mut [f32]),
}

/// What is added up.
#[derive(Debug, Clone)]
pub struct SumsForm<'a> {
    /// Whether sums are rounded to 16 bits after every tile; else they are in 32 bits.
    pub half: bool,
    /// Rows and columns of the image.
    pub image: [usize; 2],
    /// Rows and columns of the padded image that are added up.
    pub region: [Range<usize>; 2],
    /// Most slices that one level finishes.
    pub finished: usize,
    /// Most tiles of a level.
    pub tiles: usize,
    /// Weight of a tile's voxels, `[z][y][x]`.
    pub importance: &'a [f32],
    /// Logits of the places that no tile reaches, where there may be some.
    pub background: Option<&'a [f32]>,
}

/// The tiles that start at one slice.
#[derive(Debug, Clone)]
pub struct Level<'a> {
    /// The slices of the image that the tiles see, `[slice][row][column]` of each channel.
    pub channels: Vec<&'a [f32]>,
    /// What is added to a place in the padded image to be one in `channels`, `[z, y, x]`.
    pub offset: [isize; 3],
    /// First slice of the tiles in the padded image.
    pub first: usize,
    /// First row and column of each tile in the padded image.
    pub tiles: Vec<[usize; 2]>,
    /// Slices of the padded image that these tiles are the last to cover.
    pub finished: Range<usize>,
}

impl Level<'_> {
    /// Numbers of the table of so many tiles.
    pub(super) fn numbers(tiles: usize) -> usize {
        HEAD + 2 * tiles
    }

    /// A patch that is an image of its own, not added up.
    pub(super) fn of_patch(patch: [usize; 3]) -> Table {
        let [depth, rows, columns] = patch;
        Table {
            slices: depth,
            image: [rows, columns],
            tiles: vec![[0, 0]],
            ..Table::default()
        }
    }
}

/// What the kernels know of a level: `struct Level` in kernels.cu.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub slices: usize,
    pub image: [usize; 2],
    pub offset: [isize; 3],
    pub region: [Range<usize>; 2],
    pub slot: usize,
    pub slots: usize,
    pub tiles: Vec<[usize; 2]>,
}

impl Table {
    /// Its numbers, in the kernels' order.
    pub fn numbers(&self) -> Vec<i32> {
        let [rows, columns] = &self.region;
        let head: [isize; HEAD] = [
            0,
            self.tiles.len() as isize,
            self.slices as isize,
            self.image[0] as isize,
            self.image[1] as isize,
            self.offset[0],
            self.offset[1],
            self.offset[2],
            rows.start as isize,
            rows.end as isize,
            columns.start as isize,
            columns.end as isize,
            self.slot as isize,
            self.slots as isize,
        ];
        let places = self.tiles.iter().flatten().map(|&place| place as isize);
        // Sizes of images are below 2^31, see `Sums::new`.
        head.into_iter().chain(places).map(|n| n as i32).collect()
    }
}

/// The sums of one network.
struct Ring {
    /// `[slot][class][row][column]`.
    sums: Buffer,
    /// `[slot][row][column]`.
    weights: Buffer,
    /// Per slot, whether a result is not finite.
    broken: Buffer,
}

/// Sums of the tiles of one column of an image, for every network of an executor.
pub struct Sums {
    gpu: Gpu,
    half: bool,
    patch: [usize; 3],
    channels: usize,
    classes: usize,
    image: [usize; 2],
    region: [Range<usize>; 2],
    slots: usize,
    most_tiles: usize,
    source: Source,
    importance: Buffer,
    background: Option<Buffer>,
    rings: Vec<Ring>,
    /// Slices below are cleared, or were.
    cleared: usize,
    /// Places in the queue behind which so many tiles are done.
    marks: VecDeque<(Mark, usize)>,
}

impl Sums {
    /// Takes the memory of sums of `form` beside that of `executor`, and decides how many tiles it computes together.
    ///
    /// # Errors
    ///
    /// Memory does not suffice; [`NetworkError::Length`] for weights or a background of another size.
    pub fn new(executor: &mut Executor<'_>, form: &SumsForm<'_>) -> Result<Self, NetworkError> {
        let patch = executor.patch();
        let networks = executor.networks();
        let Some(network) = networks.first() else {
            return Err(Error::Refused("no network to add up".to_owned()).into());
        };
        let voxels: usize = patch.iter().product();
        expect_len("weights of a tile", form.importance.len(), voxels)?;
        if let Some(background) = form.background {
            expect_len("a background", background.len(), network.classes)?;
        }
        let slots = patch[0] + form.finished;
        let plane = form.region[0].len() * form.region[1].len();
        let slice = form.image[0] * form.image[1];
        let counted = [
            network.channels * patch[0] * slice,
            slots * plane,
            form.region[0].end + patch[1],
            form.region[1].end + patch[2],
        ];
        if counted.iter().any(|&count| count > MOST) {
            let [rows, columns] = form.image;
            let text = format!("slices of {rows} x {columns} voxels are too large for a GPU");
            return Err(Error::Refused(text).into());
        }
        executor.plan_windows(form.tiles);
        let gpu = network.gpu().clone();
        let queue = gpu.queue();
        let number = if form.half { 2 } else { 4 };
        let tables = 4 * Level::numbers(form.tiles);
        let source = Source {
            image: Buffer::new(
                queue,
                4 * network.channels * patch[0] * slice,
                "slices of the image",
            )?,
            level: Buffer::new(queue, tables, "places of tiles")?,
        };
        let importance = Buffer::of(queue, form.importance, "weights of a tile")?;
        let background = form
            .background
            .map(|logits| Buffer::of(queue, logits, "background"));
        let ring = |_| -> Result<Ring, Error> {
            let sums = number * slots * network.classes * plane;
            Ok(Ring {
                sums: Buffer::new(queue, sums, "sums of tiles")?,
                weights: Buffer::new(queue, number * slots * plane, "sums of weights")?,
                broken: Buffer::new(queue, 4 * slots, "flags")?,
            })
        };
        let rings = (0..networks.len()).map(ring).collect::<Result<_, _>>()?;
        Ok(Self {
            half: form.half,
            patch,
            channels: network.channels,
            classes: network.classes,
            image: form.image,
            region: form.region.clone(),
            slots,
            most_tiles: form.tiles,
            source,
            importance,
            background: background.transpose()?,
            rings,
            cleared: 0,
            marks: VecDeque::new(),
            gpu,
        })
    }

    /// Queues a level for all networks. Levels come in ascending order; the slices that the last but one finished
    /// were read.
    ///
    /// # Errors
    ///
    /// Not even one pass fits beside the sums; the GPU fails; slices or tiles of other sizes than announced.
    pub fn queue(
        &mut self,
        executor: &mut Executor<'_>,
        level: &Level<'_>,
    ) -> Result<(), NetworkError> {
        let slice = self.image[0] * self.image[1];
        let slices = level
            .channels
            .first()
            .map_or(0, |channel| channel.len() / slice);
        if level.tiles.len() > self.most_tiles
            || slices > self.patch[0]
            || level.channels.len() != self.channels
        {
            return Err(Error::Refused("a level is larger than announced".to_owned()).into());
        }
        for (index, channel) in level.channels.iter().enumerate() {
            expect_len("slices of a channel", channel.len(), slices * slice)?;
            self.source
                .image
                .write_at(4 * index * self.patch[0] * slice, channel)?;
        }
        let table = Table {
            slices,
            image: self.image,
            offset: level.offset,
            region: self.region.clone(),
            slot: level.first % self.slots,
            slots: self.slots,
            tiles: level.tiles.clone(),
        };
        self.source.level.write(&table.numbers())?;
        self.clear(self.cleared.max(level.first)..level.first + self.patch[0])?;
        for index in 0..self.rings.len() {
            let mut done = 0;
            while done < level.tiles.len() {
                let windows = executor.compute(index, &self.source)?;
                let now = windows.min(level.tiles.len() - done);
                for window in 0..now {
                    self.weigh(executor, index, window)?;
                }
                self.advance(windows)?;
                done += now;
                self.marks.push_back((self.gpu.queue().mark()?, now));
            }
            self.divide(index, &level.finished)?;
        }
        self.marks.push_back((self.gpu.queue().mark()?, 0));
        Ok(())
    }

    /// Waits until some of the queued tiles are done, and says how many; `None` once all are. Then the
    /// [executor](Executor::check) knows whether their numbers were finite.
    ///
    /// # Errors
    ///
    /// The GPU fails.
    pub fn wait_for_some(&mut self) -> Option<Result<usize, NetworkError>> {
        let (mark, tiles) = self.marks.pop_front()?;
        Some(mark.wait().map(|()| tiles).map_err(NetworkError::from))
    }

    /// Copies the logits `[class][row][column]` of network `index` in a finished slice of the padded image; false where
    /// one is not finite. The level that finished it was waited for.
    ///
    /// # Errors
    ///
    /// The GPU fails; `to` is of another type or length than the sums.
    pub fn read(&self, index: usize, slice: usize, to: Logits<'_>) -> Result<bool, NetworkError> {
        let (ring, slot) = (&self.rings[index], slice % self.slots);
        let plane = self.region[0].len() * self.region[1].len();
        let count = self.classes * plane;
        let mut broken = [0i32];
        ring.broken.read_now(4 * slot, &mut broken)?;
        match to {
            Logits::Half(to) if self.half => {
                expect_len("a slice of logits", to.len(), count)?;
                ring.sums.read_now(2 * slot * count, to)?;
            }
            Logits::Single(to) if !self.half => {
                expect_len("a slice of logits", to.len(), count)?;
                ring.sums.read_now(4 * slot * count, to)?;
            }
            _ => return Err(Error::Refused("sums are of another type".to_owned()).into()),
        }
        Ok(broken == [0])
    }

    /// Makes slices of the padded image zeros, which follow one another and were not in use.
    fn clear(&mut self, slices: Range<usize>) -> Result<(), Error> {
        let plane = self.region[0].len() * self.region[1].len();
        let number = if self.half { 2 } else { 4 };
        self.cleared = slices.end;
        let mut next = slices.start;
        while next < slices.end {
            let slot = next % self.slots;
            let count = (slices.end - next).min(self.slots - slot);
            for ring in &mut self.rings {
                let logits = number * self.classes * plane;
                ring.sums.clear_part(slot * logits, count * logits)?;
                ring.weights
                    .clear_part(slot * number * plane, count * number * plane)?;
                ring.broken.clear_part(4 * slot, 4 * count)?;
            }
            next += count;
        }
        Ok(())
    }

    /// Adds one of the tiles that were computed last.
    fn weigh(&self, executor: &Executor<'_>, index: usize, window: usize) -> Result<(), Error> {
        let Some(logits) = executor.logits() else {
            return Ok(());
        };
        let voxels: usize = self.patch.iter().product();
        let (ring, [depth, height, width]) = (&self.rings[index], self.patch);
        let first = 4 * window * self.classes * voxels;
        self.launch(
            "weigh",
            voxels,
            arguments![
                logits.address() + first as Address,
                self.importance.address(),
                ring.sums.address(),
                ring.weights.address(),
                self.source.level.address(),
                window,
                self.classes,
                depth,
                height,
                width,
            ],
        )
    }

    /// Goes on to the next tiles.
    fn advance(&self, windows: usize) -> Result<(), Error> {
        let level = self.source.level.address();
        // SAFETY: the table is as long as the tiles that it counts.
        unsafe { self.gpu.launch("next_tiles", 1, arguments![level, windows]) }
    }

    /// Makes logits of the sums in slices that are finished.
    fn divide(&self, index: usize, slices: &Range<usize>) -> Result<(), Error> {
        let ring = &self.rings[index];
        let plane = self.region[0].len() * self.region[1].len();
        let background = self.background.as_ref();
        self.launch(
            "divide",
            slices.len() * plane,
            arguments![
                ring.sums.address(),
                ring.weights.address(),
                background.map_or(0, Buffer::address),
                ring.broken.address(),
                slices.start % self.slots,
                slices.len(),
                self.slots,
                self.classes,
                plane,
            ],
        )
    }

    /// Runs a kernel for this type of sums.
    fn launch(&self, kernel: &str, threads: usize, arguments: &[Argument]) -> Result<(), Error> {
        let numbers = if self.half { "f16" } else { "f32" };
        // SAFETY: the buffers have room for all slots and classes of the region, for the tiles of the table and the
        // voxels of the patch; null stands for no background.
        unsafe {
            self.gpu
                .launch(&format!("{kernel}_{numbers}"), threads, arguments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_long_as_the_kernels_think() {
        let patch = Level::of_patch([3, 4, 5]);
        let numbers = patch.numbers();
        assert_eq!(numbers.len(), Level::numbers(1));
        assert_eq!(numbers[..5], [0, 1, 3, 4, 5]);
        let source = include_str!("kernels.cu");
        let text = source.split_once("struct Level {").unwrap().1;
        let text = text.split_once("};").unwrap().0;
        let members: usize = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("int "))
            .map(|line| line.split(';').next().unwrap().split(',').count())
            .sum();
        // One member is an array of three.
        assert_eq!(members + 2, HEAD);
    }
}
