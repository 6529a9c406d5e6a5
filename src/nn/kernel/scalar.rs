//! Portable kernels: the plain statement of what the others compute.

use half::bf16;

use super::{HalfTileFn, Run, TileFn};

/// Menu of row counts; see [`super::Kernel`].
pub(super) fn menu(width: usize, stride: usize) -> (usize, Vec<(usize, TileFn)>) {
    fn strided<const W: usize>(stride: usize) -> TileFn {
        match stride {
            1 => tile::<W, 1>,
            2 => tile::<W, 2>,
            4 => tile::<W, 4>,
            8 => tile::<W, 8>,
            _ => tile::<W, 16>,
        }
    }
    let func = if width == 8 {
        strided::<8>(stride)
    } else {
        strided::<16>(stride)
    };
    (1, vec![(ROWS, func)])
}

/// Positions per call.
const ROWS: usize = 4;

/// # Safety
///
/// `a` must be readable for `(ROWS - 1) * STRIDE` floats plus the end of every run, `w` for one row of
/// `W` floats per step and `c` writable for `ROWS * W` floats.
unsafe fn tile<const W: usize, const STRIDE: usize>(
    a: *const f32,
    runs: &[Run],
    w: *const f32,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[0f32; W]; ROWS];
    let mut row = w;
    for run in runs {
        for step in 0..run.steps {
            // SAFETY: by the function's contract there is one weight row per step.
            let weights = unsafe { row.cast::<[f32; W]>().read_unaligned() };
            for (m, sum) in sums.iter_mut().enumerate() {
                // SAFETY: by the function's contract the run is readable for every position.
                let x = unsafe { *a.add(run.offset + step + m * STRIDE) };
                for (s, weight) in sum.iter_mut().zip(&weights) {
                    *s += x * weight;
                }
            }
            // SAFETY: moves at most one past the last row.
            row = unsafe { row.add(W) };
        }
    }
    // SAFETY: by the function's contract `c` holds `ROWS` rows of `W`.
    unsafe { store(&sums, c, accumulate) };
}

/// Writes `sums` to the rows of `c` or adds them to what is there.
///
/// # Safety
///
/// `c` must be writable for `ROWS * W` floats, and initialised where it is added to.
unsafe fn store<const W: usize>(sums: &[[f32; W]; ROWS], c: *mut f32, accumulate: bool) {
    for (n, value) in sums.as_flattened().iter().enumerate() {
        // SAFETY: by the function's contract.
        unsafe {
            let target = c.add(n);
            *target = if accumulate { *target + value } else { *value };
        }
    }
}

/// Kernels for pairs of 16-bit floats, the oracle of tiles: 16 channels, positions 16 numbers apart.
pub(super) fn half_menu() -> Vec<(usize, HalfTileFn)> {
    vec![(ROWS, half_tile::<16, 16> as HalfTileFn)]
}

/// Products of 16-bit floats are exact in single precision; the second of a pair is added first.
///
/// # Safety
///
/// `a` must be readable for `(ROWS - 1) * STRIDE` numbers plus the end of every run (two numbers per step),
/// `w` for one row of `2 W` numbers per step and `c` writable for `ROWS * W` floats.
unsafe fn half_tile<const W: usize, const STRIDE: usize>(
    a: *const bf16,
    runs: &[Run],
    w: *const bf16,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[0f32; W]; ROWS];
    let mut row = w;
    for run in runs {
        for step in 0..run.steps {
            // SAFETY: by the function's contract there is one row of `W` pairs per step.
            let weights = unsafe { row.cast::<[[bf16; 2]; W]>().read_unaligned() };
            for (m, sum) in sums.iter_mut().enumerate() {
                // SAFETY: by the function's contract the run is readable for every position.
                let [x, y] = unsafe {
                    let pair = a.add(run.offset + 2 * step + m * STRIDE);
                    pair.cast::<[bf16; 2]>().read_unaligned()
                };
                for (s, [first, second]) in sum.iter_mut().zip(&weights) {
                    *s += y.to_f32() * second.to_f32();
                    *s += x.to_f32() * first.to_f32();
                }
            }
            // SAFETY: moves at most one past the last row.
            row = unsafe { row.add(2 * W) };
        }
    }
    // SAFETY: by the function's contract `c` holds `ROWS` rows of `W`.
    unsafe { store(&sums, c, accumulate) };
}
