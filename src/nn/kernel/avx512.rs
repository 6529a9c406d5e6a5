//! AVX-512 kernels: 14 positions x 32 channels or 28 positions x 16 channels in 28 registers, and
//! 24 positions x 8 channels x 2 floats of the run in 24 registers.

// Indexed loops of constant length are what the compiler turns into registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::{
    __m512, _mm256_add_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castps512_ps256, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_permute_ps,
    _mm512_permutexvar_ps, _mm512_set1_pd, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use super::{Run, TileFn};

/// Menu of row counts; see [`super::Kernel`].
pub(super) fn menu(width: usize, stride: usize) -> (usize, Vec<(usize, TileFn)>) {
    fn strided<const STRIDE: usize>(width: usize) -> (usize, Vec<(usize, TileFn)>) {
        match width {
            8 => (
                2,
                vec![
                    (4, pair_tile::<4, STRIDE> as TileFn),
                    (8, pair_tile::<8, STRIDE>),
                    (12, pair_tile::<12, STRIDE>),
                    (16, pair_tile::<16, STRIDE>),
                    (20, pair_tile::<20, STRIDE>),
                    (24, pair_tile::<24, STRIDE>),
                ],
            ),
            16 => (
                1,
                vec![
                    (4, tile::<1, 4, STRIDE> as TileFn),
                    (8, tile::<1, 8, STRIDE>),
                    (12, tile::<1, 12, STRIDE>),
                    (16, tile::<1, 16, STRIDE>),
                    (20, tile::<1, 20, STRIDE>),
                    (24, tile::<1, 24, STRIDE>),
                    (28, tile::<1, 28, STRIDE>),
                ],
            ),
            _ => (
                1,
                vec![
                    (2, tile::<2, 2, STRIDE> as TileFn),
                    (4, tile::<2, 4, STRIDE>),
                    (6, tile::<2, 6, STRIDE>),
                    (8, tile::<2, 8, STRIDE>),
                    (10, tile::<2, 10, STRIDE>),
                    (12, tile::<2, 12, STRIDE>),
                    (13, tile::<2, 13, STRIDE>),
                    (14, tile::<2, 14, STRIDE>),
                ],
            ),
        }
    }
    match stride {
        1 => strided::<1>(width),
        2 => strided::<2>(width),
        4 => strided::<4>(width),
        8 => strided::<8>(width),
        _ => strided::<16>(width),
    }
}

/// `V` registers of 16 channels times `M` positions; oracle: the scalar kernel.
///
/// # Safety
///
/// The machine has AVX-512F. `a` must be readable for `(M - 1) * STRIDE` floats plus the end of every
/// run, `w` for one row of `16 V` floats per step and `c` writable for `M` rows of `16 V` floats.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<const V: usize, const M: usize, const STRIDE: usize>(
    a: *const f32,
    runs: &[Run],
    w: *const f32,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let mut row = w;
    for run in runs {
        // SAFETY: by the function's contract every run is readable for all `M` positions, there is a weight
        // row per step, and the pointers move at most one past the end of what they walk.
        unsafe {
            let mut x = a.add(run.offset);
            for _ in 0..run.steps {
                let mut weights = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    weights[v] = _mm512_loadu_ps(row.add(16 * v));
                }
                for m in 0..M {
                    let value = _mm512_set1_ps(*x.add(m * STRIDE));
                    for v in 0..V {
                        sums[m][v] = _mm512_fmadd_ps(value, weights[v], sums[m][v]);
                    }
                }
                row = row.add(16 * V);
                x = x.add(1);
            }
        }
    }
    // SAFETY: by the function's contract `c` holds `M` rows of `16 V` floats.
    unsafe { store(&sums, c, accumulate) };
}

/// Writes `sums` to the rows of `c` or adds them to what is there.
///
/// # Safety
///
/// The machine has AVX-512F. `c` is writable for `M` rows of `16 V` floats, and initialised where it is added to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn store<const V: usize, const M: usize>(
    sums: &[[__m512; V]; M],
    c: *mut f32,
    accumulate: bool,
) {
    for m in 0..M {
        for v in 0..V {
            // SAFETY: by the function's contract `c` holds `M` rows of `16 V` floats.
            unsafe {
                let target = c.add((m * V + v) * 16);
                let sum = if accumulate {
                    _mm512_add_ps(sums[m][v], _mm512_loadu_ps(target))
                } else {
                    sums[m][v]
                };
                _mm512_storeu_ps(target, sum);
            }
        }
    }
}

/// 8 channels times `M` positions; lane `2 n + j` sums the products of the run's floats of parity `j` for
/// channel `n`; oracle: the scalar kernel.
///
/// # Safety
///
/// The machine has AVX-512F, DQ and VL. `a` must be readable for `(M - 1) * STRIDE` floats plus the end of
/// every run (two floats per step), `w` for one row of 16 floats per step and `c` writable for `M` rows of
/// 8 floats.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pair_tile<const M: usize, const STRIDE: usize>(
    a: *const f32,
    runs: &[Run],
    w: *const f32,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [_mm512_setzero_ps(); M];
    let mut row = w;
    for run in runs {
        // SAFETY: by the function's contract every run is readable for all `M` positions, two floats per
        // step, there is a weight row per step, and the pointers move at most one past the end.
        unsafe {
            let mut x = a.add(run.offset);
            for _ in 0..run.steps {
                let weights = _mm512_loadu_ps(row);
                for m in 0..M {
                    let pair = x.add(m * STRIDE).cast::<f64>().read_unaligned();
                    let value = _mm512_castpd_ps(_mm512_set1_pd(pair));
                    sums[m] = _mm512_fmadd_ps(value, weights, sums[m]);
                }
                row = row.add(16);
                x = x.add(2);
            }
        }
    }
    let mut kept = [[0f32; 16]; M];
    for m in 0..M {
        // SAFETY: a row of `kept` is 16 floats.
        unsafe { _mm512_storeu_ps(kept[m].as_mut_ptr(), sums[m]) };
    }
    // SAFETY: by the function's contract `c` holds `M` rows of 8 floats.
    unsafe { fold_pairs(&kept, c, accumulate) };
}

/// Adds the halves of each row. Not inlined: half registers would confine the sums of the caller's loop to
/// the lower sixteen registers.
///
/// # Safety
///
/// The machine has AVX-512F and VL. `c` holds 8 floats per row.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fold_pairs(rows: &[[f32; 16]], c: *mut f32, accumulate: bool) {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    for (m, row) in rows.iter().enumerate() {
        // SAFETY: `row` is 16 floats, and `c` holds 8 for it by the function's contract.
        unsafe {
            let sum = _mm512_loadu_ps(row.as_ptr());
            let both = _mm512_add_ps(sum, _mm512_permute_ps::<0b1011_0001>(sum));
            let mut sum = _mm512_castps512_ps256(_mm512_permutexvar_ps(even, both));
            let target = c.add(m * 8);
            if accumulate {
                sum = _mm256_add_ps(sum, _mm256_loadu_ps(target));
            }
            _mm256_storeu_ps(target, sum);
        }
    }
}
