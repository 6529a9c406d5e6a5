//! AMX kernels: one TDPBF16PS adds the products of 16 positions, 32 numbers of a run and 16 channels to a tile of
//! single-precision sums, sixteen times the work of a fused multiply-add of AVX-512. 16 or 32 positions x 16 or 32
//! channels in one to four tiles of sums.
//!
//! Stable Rust has no intrinsics for tiles, so the kernels are inline assembly (Intel 64 and IA-32 Architectures
//! Software Developer's Manual, volume 1 chapter 18; volume 2 for the instructions). Positions lie 16 numbers apart,
//! 32 bytes, while a row of a tile is 64 bytes: neighbouring rows of a tile overlap in the slab, and nothing is copied.
//! What is left of a run when fewer than 16 pairs remain are 8 pairs, for which there is a second pair of factor tiles
//! of half the size. Weight rows are pairs of numbers per channel, which is the order the instruction wants.
//!
//! Linux lends the tiles' 8 KiB of registers to a process that asks for them ([`is_permitted`]); a thread describes
//! their shapes before it uses them and gives them back afterwards ([`Tiles`]).

#[cfg(all(test, target_os = "linux"))]
mod software;

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;

use half::bf16;

use super::{HalfTileFn, Run};

/// Pairs of numbers that one weight tile covers; runs are multiples of half of it.
const PAIRS: usize = 16;

/// Menu of row counts for positions 16 numbers apart; see [`super::Kernel`].
pub(super) fn menu(width: usize) -> Vec<(usize, HalfTileFn)> {
    if width == 16 {
        vec![(16, tile_16x16 as HalfTileFn), (32, tile_32x16)]
    } else {
        vec![(16, tile_16x32 as HalfTileFn), (32, tile_32x32)]
    }
}

/// Whether this process may use tiles of 16-bit floats, which is asked for by calling this. Tests run the instructions
/// in software where the machine lacks them.
#[cfg(target_os = "linux")]
pub(crate) fn is_permitted() -> bool {
    let permitted = machine_permits();
    #[cfg(test)]
    if !permitted {
        software::install();
        return true;
    }
    permitted
}

/// Whether the processor has the instructions and the operating system, asked by this call, lends their registers.
#[cfg(target_os = "linux")]
fn machine_permits() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// CPUID leaf 7, EDX: AMX-BF16 and AMX-TILE.
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    /// CPUID leaf 1, ECX: the operating system keeps extended states (XGETBV may be used).
    const OSXSAVE: u32 = 1 << 27;
    /// Extended control register 0: tile shapes and tile contents are kept.
    const STATES: u32 = 1 << 17 | 1 << 18;
    /// `arch_prctl` of x86-64 and its request for a state, here the tiles' contents (asm/prctl.h).
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;

    if __cpuid(0).eax < 7
        || __cpuid(1).ecx & OSXSAVE == 0
        || __cpuid_count(7, 0).edx & FEATURES != FEATURES
    {
        return false;
    }
    let (states, refused): (u32, i64);
    // SAFETY: XGETBV of register 0 exists where OSXSAVE is set, which was found above; it changes EAX and EDX only.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack));
    }
    if states & STATES != STATES {
        return false;
    }
    // SAFETY: this call of the kernel takes two numbers, touches no memory of the process and changes RAX, RCX and
    // R11 only. Older kernels answer with an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => refused,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_permitted() -> bool {
    false
}

/// Shapes of the tiles, as LDTILECFG reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 to 3 hold sums; 4 and 5 positions, for 16 and for 8 pairs; 6 and 7 weights, likewise.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 32, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 8, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tiles of the current thread, ready for use until it is dropped.
pub(super) struct Tiles {
    /// Shapes belong to the thread that loaded them.
    thread: PhantomData<*mut ()>,
}

thread_local! {
    /// How many [`Tiles`] the thread holds.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

impl Tiles {
    /// Loads the shapes, unless the thread has them.
    ///
    /// # Safety
    ///
    /// [`is_permitted`] has said so in this process.
    pub unsafe fn take() -> Self {
        let holders = HOLDERS.get();
        if holders == 0 {
            // SAFETY: the instruction reads the 64 bytes of `SHAPES`, a description the manual allows, and exists by
            // the function's contract.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(readonly, nostack));
            }
        }
        HOLDERS.set(holders + 1);
        Self {
            thread: PhantomData,
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        let holders = HOLDERS.get() - 1;
        HOLDERS.set(holders);
        if holders == 0 {
            // Tiles in use would cost every switch of threads 8 KiB, and the core its deep sleep.
            // SAFETY: whoever holds tiles had the instructions; nobody in this thread uses the contents any more.
            unsafe { asm!("tilerelease", options(nomem, nostack)) };
        }
    }
}

/// A kernel: `start` puts zeros or old sums into its tiles of sums, `whole` adds the products of 16 pairs, `half`
/// those of 8, and `end` stores the sums.
macro_rules! kernel {
    ($name:ident, $width:literal, $zero:expr, $load:expr, $whole:expr, $half:expr, $store:expr) => {
        /// Oracle: the scalar kernel for halves. Old sums are added to first, not last.
        ///
        /// # Safety
        ///
        /// The thread holds [`Tiles`]. `a` must be readable for all positions of the tile, 16 numbers apart, plus the
        /// end of every run (two numbers per step, a multiple of 8 steps), `w` for one row of two numbers per channel
        /// and step, and `c` writable for a row of floats per position, initialised if `accumulate`.
        unsafe fn $name(
            a: *const bf16,
            runs: &[Run],
            w: *const bf16,
            c: *mut f32,
            accumulate: bool,
        ) {
            for run in runs {
                assert!(
                    run.steps.is_multiple_of(PAIRS / 2),
                    "a run of {} pairs does not fill tiles",
                    run.steps
                );
            }
            if runs.is_empty() {
                return;
            }
            // SAFETY: by the function's contract the shapes are loaded, so that every tile load and store touches
            // the 16 (or 8) rows of 64 (or 32) bytes that `SHAPES` says: positions of runs, weight rows of steps, rows
            // of `c`. The loops read `runs` within its length; a `Run` is an offset followed by a number of steps.
            // The tiles and all registers written are declared.
            unsafe {
                asm!(
                    "test {accumulate}, {accumulate}",
                    "jnz 2f",
                    $zero,
                    "jmp 3f",
                    "2:",
                    $load,
                    "3:",
                    // The next run.
                    "mov {x}, [{run}]",
                    "lea {x}, [{a} + 2*{x}]",
                    "mov {steps}, [{run} + 8]",
                    "sub {steps}, 16",
                    "jb 5f",
                    "4:",
                    $whole,
                    "add {x}, 64",
                    concat!("add {w}, 64*", $width),
                    "sub {steps}, 16",
                    "jae 4b",
                    "5:",
                    "add {steps}, 16",
                    "jz 6f",
                    $half,
                    concat!("add {w}, 32*", $width),
                    "6:",
                    "add {run}, 16",
                    "cmp {run}, {end}",
                    "jne 3b",
                    $store,
                    a = in(reg) a,
                    run = inout(reg) runs.as_ptr() => _,
                    end = in(reg) runs.as_ptr_range().end,
                    w = inout(reg) w => _,
                    c = in(reg) c,
                    x = out(reg) _,
                    steps = out(reg) _,
                    accumulate = in(reg) usize::from(accumulate),
                    // From one position to the next, and from one weight row or row of `c` to the next: both rows
                    // are four bytes per channel.
                    apart = in(reg) 32usize,
                    row = in(reg) 4 * $width as usize,
                    out("tmm0") _,
                    out("tmm1") _,
                    out("tmm2") _,
                    out("tmm3") _,
                    out("tmm4") _,
                    out("tmm5") _,
                    out("tmm6") _,
                    out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// Loads (stores, ...) a tile: `positions` are those from the 16th, `channels` those from the 16th.
macro_rules! lines {
    ($($line:literal),+ $(,)?) => { concat!($($line, "\n"),+) };
}

kernel!(
    tile_16x16,
    16,
    "tilezero tmm0",
    "tileloadd tmm0, [{c} + {row}*1]",
    lines!(
        "tileloadd tmm4, [{x} + {apart}*1]",
        "tileloadd tmm6, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
    ),
    lines!(
        "tileloadd tmm5, [{x} + {apart}*1]",
        "tileloadd tmm7, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm5, tmm7",
    ),
    "tilestored [{c} + {row}*1], tmm0"
);

kernel!(
    tile_32x16,
    16,
    lines!("tilezero tmm0", "tilezero tmm2"),
    lines!(
        "tileloadd tmm0, [{c} + {row}*1]",
        "tileloadd tmm2, [{c} + {row}*1 + 1024]",
    ),
    lines!(
        "tileloadd tmm6, [{w} + {row}*1]",
        "tileloadd tmm4, [{x} + {apart}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm4, [{x} + {apart}*1 + 512]",
        "tdpbf16ps tmm2, tmm4, tmm6",
    ),
    lines!(
        "tileloadd tmm7, [{w} + {row}*1]",
        "tileloadd tmm5, [{x} + {apart}*1]",
        "tdpbf16ps tmm0, tmm5, tmm7",
        "tileloadd tmm5, [{x} + {apart}*1 + 512]",
        "tdpbf16ps tmm2, tmm5, tmm7",
    ),
    lines!(
        "tilestored [{c} + {row}*1], tmm0",
        "tilestored [{c} + {row}*1 + 1024], tmm2",
    )
);

kernel!(
    tile_16x32,
    32,
    lines!("tilezero tmm0", "tilezero tmm1"),
    lines!(
        "tileloadd tmm0, [{c} + {row}*1]",
        "tileloadd tmm1, [{c} + {row}*1 + 64]",
    ),
    lines!(
        "tileloadd tmm4, [{x} + {apart}*1]",
        "tileloadd tmm6, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm6, [{w} + {row}*1 + 64]",
        "tdpbf16ps tmm1, tmm4, tmm6",
    ),
    lines!(
        "tileloadd tmm5, [{x} + {apart}*1]",
        "tileloadd tmm7, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm5, tmm7",
        "tileloadd tmm7, [{w} + {row}*1 + 64]",
        "tdpbf16ps tmm1, tmm5, tmm7",
    ),
    lines!(
        "tilestored [{c} + {row}*1], tmm0",
        "tilestored [{c} + {row}*1 + 64], tmm1",
    )
);

kernel!(
    tile_32x32,
    32,
    lines!(
        "tilezero tmm0",
        "tilezero tmm1",
        "tilezero tmm2",
        "tilezero tmm3"
    ),
    lines!(
        "tileloadd tmm0, [{c} + {row}*1]",
        "tileloadd tmm1, [{c} + {row}*1 + 64]",
        "tileloadd tmm2, [{c} + {row}*1 + 2048]",
        "tileloadd tmm3, [{c} + {row}*1 + 2112]",
    ),
    lines!(
        "tileloadd tmm4, [{x} + {apart}*1]",
        "tileloadd tmm6, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm4, [{x} + {apart}*1 + 512]",
        "tdpbf16ps tmm2, tmm4, tmm6",
        "tileloadd tmm6, [{w} + {row}*1 + 64]",
        "tdpbf16ps tmm3, tmm4, tmm6",
        "tileloadd tmm4, [{x} + {apart}*1]",
        "tdpbf16ps tmm1, tmm4, tmm6",
    ),
    lines!(
        "tileloadd tmm5, [{x} + {apart}*1]",
        "tileloadd tmm7, [{w} + {row}*1]",
        "tdpbf16ps tmm0, tmm5, tmm7",
        "tileloadd tmm5, [{x} + {apart}*1 + 512]",
        "tdpbf16ps tmm2, tmm5, tmm7",
        "tileloadd tmm7, [{w} + {row}*1 + 64]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm5, [{x} + {apart}*1]",
        "tdpbf16ps tmm1, tmm5, tmm7",
    ),
    lines!(
        "tilestored [{c} + {row}*1], tmm0",
        "tilestored [{c} + {row}*1 + 64], tmm1",
        "tilestored [{c} + {row}*1 + 2048], tmm2",
        "tilestored [{c} + {row}*1 + 2112], tmm3",
    )
);
