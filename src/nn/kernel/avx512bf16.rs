//! AVX512_BF16 kernels: VDPBF16PS multiplies pairs of 16-bit floats and adds both products to a single-precision
//! sum, twice the work of a fused multiply-add. 14 positions x 32 channels or 28 positions x 16 channels in 28
//! registers, 24 positions x 8 channels in half registers.

// Indexed loops of constant length are what the compiler turns into registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, __m512i, _mm256_add_ps, _mm256_dpbf16_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_dpbf16_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::mem::transmute;

use half::bf16;

use super::avx512::store;
use super::{HalfTileFn, Run};

/// Menu of row counts; see [`super::Kernel`].
pub(super) fn menu(width: usize, stride: usize) -> Vec<(usize, HalfTileFn)> {
    fn strided<const STRIDE: usize>(width: usize) -> Vec<(usize, HalfTileFn)> {
        match width {
            8 => vec![
                (4, narrow_tile::<4, STRIDE> as HalfTileFn),
                (8, narrow_tile::<8, STRIDE>),
                (12, narrow_tile::<12, STRIDE>),
                (16, narrow_tile::<16, STRIDE>),
                (20, narrow_tile::<20, STRIDE>),
                (24, narrow_tile::<24, STRIDE>),
            ],
            16 => vec![
                (4, tile::<1, 4, STRIDE> as HalfTileFn),
                (8, tile::<1, 8, STRIDE>),
                (12, tile::<1, 12, STRIDE>),
                (16, tile::<1, 16, STRIDE>),
                (20, tile::<1, 20, STRIDE>),
                (24, tile::<1, 24, STRIDE>),
                (28, tile::<1, 28, STRIDE>),
            ],
            _ => vec![
                (2, tile::<2, 2, STRIDE> as HalfTileFn),
                (4, tile::<2, 4, STRIDE>),
                (6, tile::<2, 6, STRIDE>),
                (8, tile::<2, 8, STRIDE>),
                (10, tile::<2, 10, STRIDE>),
                (12, tile::<2, 12, STRIDE>),
                (13, tile::<2, 13, STRIDE>),
                (14, tile::<2, 14, STRIDE>),
            ],
        }
    }
    match stride {
        8 => strided::<8>(width),
        _ => strided::<16>(width),
    }
}

/// `V` registers of 16 channels times `M` positions; oracle: the scalar kernel.
///
/// # Safety
///
/// The machine has AVX-512 F and BF16. `a` must be readable for `(M - 1) * STRIDE` numbers plus the end of every
/// run (two numbers per step), `w` for one row of `32 V` numbers per step and `c` writable for `M` rows of
/// `16 V` floats.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const V: usize, const M: usize, const STRIDE: usize>(
    a: *const bf16,
    runs: &[Run],
    w: *const bf16,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    let mut row = w;
    for run in runs {
        // SAFETY: by the function's contract every run is readable for all `M` positions, two numbers per step,
        // there is a weight row per step, and the pointers move at most one past the end of what they walk.
        // A register of 512 bits may be seen as 32 numbers of 16.
        unsafe {
            let mut x = a.add(run.offset);
            for _ in 0..run.steps {
                let mut weights = [_mm512_setzero_si512(); V];
                for v in 0..V {
                    weights[v] = _mm512_loadu_si512(row.add(32 * v).cast());
                }
                for m in 0..M {
                    let pair = x.add(m * STRIDE).cast::<i32>().read_unaligned();
                    let value = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                    for v in 0..V {
                        let weights = transmute::<__m512i, __m512bh>(weights[v]);
                        sums[m][v] = _mm512_dpbf16_ps(sums[m][v], value, weights);
                    }
                }
                row = row.add(32 * V);
                x = x.add(2);
            }
        }
    }
    // SAFETY: by the function's contract `c` holds `M` rows of `16 V` floats.
    unsafe { store(&sums, c, accumulate) };
}

/// 8 channels times `M` positions; oracle: the scalar kernel.
///
/// # Safety
///
/// As [`tile`], with AVX-512 VL, rows of 16 numbers in `w` and of 8 floats in `c`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn narrow_tile<const M: usize, const STRIDE: usize>(
    a: *const bf16,
    runs: &[Run],
    w: *const bf16,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [_mm256_setzero_ps(); M];
    let mut row = w;
    for run in runs {
        // SAFETY: as in `tile`, for registers of 256 bits.
        unsafe {
            let mut x = a.add(run.offset);
            for _ in 0..run.steps {
                let weights = _mm256_loadu_si256(row.cast());
                let weights = transmute::<__m256i, __m256bh>(weights);
                for m in 0..M {
                    let pair = x.add(m * STRIDE).cast::<i32>().read_unaligned();
                    let value = transmute::<__m256i, __m256bh>(_mm256_set1_epi32(pair));
                    sums[m] = _mm256_dpbf16_ps(sums[m], value, weights);
                }
                row = row.add(16);
                x = x.add(2);
            }
        }
    }
    for m in 0..M {
        // SAFETY: by the function's contract `c` holds `M` rows of 8 floats.
        unsafe {
            let target = c.add(m * 8);
            let sum = if accumulate {
                _mm256_add_ps(sums[m], _mm256_loadu_ps(target))
            } else {
                sums[m]
            };
            _mm256_storeu_ps(target, sum);
        }
    }
}
