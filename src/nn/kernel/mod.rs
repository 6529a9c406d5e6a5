//! The register-blocked matrix kernel behind every layer.
//!
//! One call computes a tile of `rows` consecutive output positions times `width` output channels:
//! `c[m][n] = sum over runs, over i: slab[m * stride + run.offset + i] * weights[step][n]`. A run is a
//! stretch of staged floats that are contiguous for each position: the channels of one block for
//! all taps along x. Everything a layer knows about kernel size, stride and padding is in the run
//! offsets, so the kernels have no edge cases.
//!
//! Kernels multiply single-precision numbers or, for `bf16` ([`Factors::Half`]), pairs of 16-bit floats whose
//! products are summed in single precision: slab, runs and weights then count 16-bit numbers, two to a
//! step (`pack` = 2).
//!
//! Width 8 on AVX-512 would leave half of each register empty; there a register holds the products of
//! two neighbouring floats of the run (`pack` = 2) and the halves are added at the end.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use half::bf16;

use super::arena::Stored;
use super::isa::{Isa, Vectors};

/// What a kernel multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factors {
    /// 32-bit floats.
    Single,
    /// 16-bit floats with the exponent of 32-bit ones.
    Half,
}

impl Factors {
    /// Words of 32 bits that hold so many numbers.
    pub fn words(self, numbers: usize) -> usize {
        match self {
            Self::Single => numbers,
            Self::Half => numbers.div_ceil(2),
        }
    }
}

/// A stretch of staged numbers every position of a tile multiplies with successive weight rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Run {
    /// Numbers from a position's own place in the slab to the stretch.
    pub offset: usize,
    /// Weight rows, i.e. numbers divided by the kernel's `pack`.
    pub steps: usize,
}

/// Runs whose products are summed in one go, before they are added to what is in `c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// First and past-the-last run.
    pub runs: std::ops::Range<usize>,
    /// First and past-the-last weight row.
    pub steps: std::ops::Range<usize>,
    /// Numbers from a position to the end of the farthest run.
    pub reach: usize,
}

/// `a`: slab at the tile's first position; `runs`; `w`: weight rows of the chunk; `c`: the tile
/// `[rows][width]`; whether to add to `c` or overwrite it.
type TileFn = unsafe fn(a: *const f32, runs: &[Run], w: *const f32, c: *mut f32, accumulate: bool);

/// As [`TileFn`] for 16-bit floats.
type HalfTileFn =
    unsafe fn(a: *const bf16, runs: &[Run], w: *const bf16, c: *mut f32, accumulate: bool);

/// The kernels of one instruction set for one tile width and position stride.
#[derive(Clone)]
pub(crate) struct Kernel {
    /// Output channels of a tile.
    pub width: usize,
    /// Consecutive numbers of a run that one weight row covers (1 or 2).
    pub pack: usize,
    /// Numbers from one position to the next in the slab.
    stride: usize,
    /// Row counts available, ascending, multiples of the first.
    rows: Vec<usize>,
    /// Whether the kernels need [`amx::Tiles`].
    tiled: bool,
    /// Their kernels.
    menu: Stored<Vec<TileFn>, Vec<HalfTileFn>>,
}

/// Staged numbers or weights.
pub(crate) type Numbers<'a> = Stored<&'a [f32], &'a [bf16]>;

impl<'a> Numbers<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Stored::Single(numbers) => numbers.len(),
            Stored::Half(numbers) => numbers.len(),
        }
    }

    /// Some of them.
    pub fn part(self, range: std::ops::Range<usize>) -> Numbers<'a> {
        match self {
            Stored::Single(numbers) => Stored::Single(&numbers[range]),
            Stored::Half(numbers) => Stored::Half(&numbers[range]),
        }
    }
}

/// A tile of a stretch of positions: where it starts and which kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileSlot {
    /// First position, relative to the stretch.
    pub start: usize,
    /// Positions wanted; the kernel may compute more and leave garbage behind them.
    pub rows: usize,
    /// Index into the kernel's menu.
    entry: usize,
}

impl Kernel {
    /// Kernels for tiles of `width` (8, 16 or 32) channels over positions `stride` floats apart (1, 2, 4, 8 or 16; for
    /// half factors 16, at widths from 16).
    pub fn select(isa: Isa, factors: Factors, width: usize, stride: usize) -> Self {
        let tiled = isa == Isa::Amx && factors == Factors::Half;
        let (pack, rows, menu) = match factors {
            Factors::Single => {
                let (pack, menu) = match isa.vectors() {
                    Vectors::Scalar => scalar::menu(width, stride),
                    #[cfg(target_arch = "x86_64")]
                    Vectors::Avx2 => avx2::menu(width, stride),
                    #[cfg(target_arch = "x86_64")]
                    Vectors::Avx512 => avx512::menu(width, stride),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => unreachable!("only the portable kernels exist on this machine"),
                };
                let (rows, menu) = menu.into_iter().unzip();
                (pack, rows, Stored::Single(menu))
            }
            Factors::Half => {
                let menu = match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Amx => amx::menu(width),
                    _ => scalar::half_menu(),
                };
                let (rows, menu) = menu.into_iter().unzip();
                (2, rows, Stored::Half(menu))
            }
        };
        Self {
            width,
            pack,
            stride,
            rows,
            tiled,
            menu,
        }
    }

    /// Widths of the tiles that cover `channels` output channels stored in blocks of `block`.
    pub fn widths(isa: Isa, channels: usize, block: usize) -> Vec<usize> {
        let mut blocks = channels.div_ceil(block);
        let mut widths = Vec::new();
        while blocks > 0 {
            let wide = isa.vectors() == Vectors::Avx512;
            let pair = wide && block == 16 && blocks >= 2;
            widths.push(if pair { 2 * block } else { block });
            blocks -= if pair { 2 } else { 1 };
        }
        widths
    }

    /// Most positions one call computes.
    pub fn max_rows(&self) -> usize {
        self.rows.last().copied().unwrap_or(1)
    }

    /// Number of tiles for a stretch of `positions`.
    pub fn tile_count(&self, positions: usize) -> usize {
        positions.div_ceil(self.max_rows())
    }

    /// Rough cycles of `rows` positions over so many weight rows: two registers of products a cycle; or a tile of 16
    /// positions, 16 pairs and 16 channels in 16 cycles, of which runs that end half way fill three quarters.
    pub fn cycles(&self, rows: usize, steps: usize) -> f64 {
        let registers = (self.width * self.pack).div_ceil(16);
        let step = if self.tiled { 1.0 / 24.0 } else { 0.5 };
        rows as f64 * registers as f64 * (steps as f64 * step + 4.0)
    }

    /// Cuts a stretch of `positions` into tiles of nearly equal size, all but the last of whole smallest tiles.
    pub fn tiles(&self, positions: usize) -> impl Iterator<Item = TileSlot> + '_ {
        let count = self.tile_count(positions);
        let unit = self.rows.first().copied().unwrap_or(1);
        let units = positions.div_ceil(unit);
        (0..count).map(move |index| {
            let start = index * units / count * unit;
            let rows = ((index + 1) * units / count * unit).min(positions) - start;
            let entry = self
                .rows
                .iter()
                .position(|&most| most >= rows)
                .expect("tiles are no larger than the largest kernel");
            TileSlot { start, rows, entry }
        })
    }

    /// Makes the current thread ready to run the kernel.
    pub fn ready(&self) -> Ready<'_> {
        Ready {
            kernel: self,
            // SAFETY: only kernels of `Isa::Amx` are tiled, and that set is available only if tiles are permitted.
            #[cfg(target_arch = "x86_64")]
            _tiles: self.tiled.then(|| unsafe { amx::Tiles::take() }),
        }
    }
}

/// A kernel that the current thread can run.
pub(crate) struct Ready<'a> {
    kernel: &'a Kernel,
    #[cfg(target_arch = "x86_64")]
    _tiles: Option<amx::Tiles>,
}

impl Ready<'_> {
    /// Computes one tile into `c` (`[rows of the kernel][width]`).
    ///
    /// `first` is the slab position (not float) of the tile; `weights` holds `chunk.steps` rows.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        tile: TileSlot,
        slab: Numbers<'_>,
        first: usize,
        runs: &[Run],
        chunk: &Chunk,
        weights: Numbers<'_>,
        c: &mut [f32],
        accumulate: bool,
    ) {
        let kernel = self.kernel;
        let rows = kernel.rows[tile.entry];
        let start = first * kernel.stride;
        assert!(
            start + (rows - 1) * kernel.stride + chunk.reach <= slab.len(),
            "tile reaches past the slab"
        );
        assert!(
            c.len() >= rows * kernel.width,
            "tile larger than its target"
        );
        let steps: usize = chunk.steps.len();
        assert!(weights.len() >= steps * kernel.pack * kernel.width);
        let runs = &runs[chunk.runs.clone()];
        debug_assert_eq!(runs.iter().map(|run| run.steps).sum::<usize>(), steps);
        debug_assert!(
            runs.iter()
                .all(|run| run.offset + run.steps * kernel.pack <= chunk.reach)
        );
        // SAFETY: every number the kernel reads from the slab lies below `start + (rows - 1) * stride +
        // reach` because no run ends behind `reach` (checked when the chunk is built and in debug
        // builds here); it reads `steps` weight rows and writes `rows * width` floats, all asserted
        // above. The kernel's instruction set is available: a `Kernel` is selected with an `Isa` that
        // was checked when the network was built, and this thread holds the tiles if the kernel needs them.
        unsafe {
            match (&kernel.menu, slab, weights) {
                (Stored::Single(menu), Stored::Single(slab), Stored::Single(weights)) => {
                    let (slab, weights) = (slab.as_ptr().add(start), weights.as_ptr());
                    menu[tile.entry](slab, runs, weights, c.as_mut_ptr(), accumulate);
                }
                (Stored::Half(menu), Stored::Half(slab), Stored::Half(weights)) => {
                    let (slab, weights) = (slab.as_ptr().add(start), weights.as_ptr());
                    menu[tile.entry](slab, runs, weights, c.as_mut_ptr(), accumulate);
                }
                _ => unreachable!("slab and weights are made for the kernel"),
            }
        }
    }
}
