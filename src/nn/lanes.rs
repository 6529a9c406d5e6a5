//! Row-wise helpers around the kernels: normalise while staging, store with exact sums.
//!
//! These are plain loops over channel blocks, compiled once per instruction set so that the compiler can
//! use its full register width. Only the rounding of `scale * x + shift` differs: one rounding where
//! fused multiply-add exists, two in the portable version.

use super::isa::{Isa, Vectors};
use super::number::Number;

/// What a reader applies to a raw value: `leaky_relu(scale * x + shift)`, per channel of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activation<'a> {
    /// One factor per channel of the block.
    pub scale: &'a [f32],
    /// One summand per channel of the block.
    pub shift: &'a [f32],
    /// Factor for negative results; 1 leaves them as they are.
    pub slope: f32,
}

/// How a row of blocks is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storing {
    /// Through the caches, for who reads it soon.
    Cached,
    /// Past the caches, which saves reading what is overwritten. Blocks must begin at multiples of 16 bytes, and
    /// [`settle`] must follow before another thread reads them.
    Streamed,
}

/// Writes `value` of every lane to a block, as `storing` says.
#[inline(always)]
fn store<T: Number, const B: usize>(
    to: &mut [T; B],
    value: impl Fn(usize) -> f32,
    storing: Storing,
) {
    #[cfg(target_arch = "x86_64")]
    if storing == Storing::Streamed {
        use std::arch::x86_64::{__m128i, _mm_stream_si128};
        const { assert!(size_of::<[T; B]>().is_multiple_of(16)) };
        let block: [T; B] = std::array::from_fn(|lane| T::narrow(value(lane)));
        let to = to.as_mut_ptr().cast::<__m128i>();
        let from = block.as_ptr().cast::<__m128i>();
        assert!(to.is_aligned(), "blocks begin at multiples of 16 bytes");
        for part in 0..size_of::<[T; B]>() / 16 {
            // SAFETY: both blocks hold so many parts of 16 bytes, the written ones aligned (checked above); numbers are
            // plain bits. The store belongs to the baseline of x86-64. `settle` orders it before other threads' reads.
            unsafe { _mm_stream_si128(to.add(part), from.add(part).read_unaligned()) };
        }
        return;
    }
    let _ = storing;
    for (lane, to) in to.iter_mut().enumerate() {
        *to = T::narrow(value(lane));
    }
}

/// Makes what this thread streamed visible to threads that are handed the results afterwards.
pub(crate) fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the fence belongs to the baseline of x86-64 and only orders stores.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[inline(always)]
fn stage_row_impl<T: Number, U: Number, const B: usize, const FMA: bool>(
    source: &[T],
    step: usize,
    target: &mut [U],
    activation: Activation<'_>,
) {
    let scale: &[f32; B] = activation.scale.try_into().expect("one scale per channel");
    let shift: &[f32; B] = activation.shift.try_into().expect("one shift per channel");
    let slope = activation.slope;
    let (source, _) = source.as_chunks::<B>();
    let (target, _) = target.as_chunks_mut::<B>();
    for (to, from) in target.iter_mut().zip(source.iter().step_by(step)) {
        for lane in 0..B {
            let value = if FMA {
                from[lane].widen().mul_add(scale[lane], shift[lane])
            } else {
                from[lane].widen() * scale[lane] + shift[lane]
            };
            to[lane] = U::narrow(if value < 0.0 { value * slope } else { value });
        }
    }
}

#[inline(always)]
fn store_sums_impl<T: Number, const B: usize>(
    tile: &[f32],
    width: usize,
    target: &mut [T],
    sums: &mut [f64],
    storing: Storing,
) {
    let (sum, square) = sums.split_at_mut(B);
    let sum: &mut [f64; B] = sum.try_into().expect("a sum per channel");
    let square: &mut [f64; B] = square.try_into().expect("a square sum per channel");
    let (mut s, mut q) = (*sum, *square);
    let (target, _) = target.as_chunks_mut::<B>();
    for (to, from) in target.iter_mut().zip(tile.chunks(width)) {
        let from: &[f32; B] = from[..B].try_into().expect("a block of the tile");
        store(to, |lane| from[lane], storing);
        for lane in 0..B {
            let value = f64::from(from[lane]);
            s[lane] += value;
            q[lane] += value * value;
        }
    }
    (*sum, *square) = (s, q);
}

#[inline(always)]
fn store_biased_impl<T: Number, const B: usize>(
    tile: &[f32],
    width: usize,
    target: &mut [T],
    step: usize,
    bias: &[f32],
    storing: Storing,
) {
    let bias: &[f32; B] = bias.try_into().expect("one bias per channel");
    let (target, _) = target.as_chunks_mut::<B>();
    for (to, from) in target.iter_mut().step_by(step).zip(tile.chunks(width)) {
        let from: &[f32; B] = from[..B].try_into().expect("a block of the tile");
        store(to, |lane| from[lane] + bias[lane], storing);
    }
}

macro_rules! compile_for {
    ($module:ident, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $module {
            use super::{Activation, Number, Storing, store_biased_impl, store_sums_impl};

            #[target_feature(enable = $features)]
            pub(super) fn stage_row<T: Number, U: Number, const B: usize>(
                source: &[T],
                step: usize,
                target: &mut [U],
                activation: Activation<'_>,
            ) {
                super::stage_row_impl::<T, U, B, true>(source, step, target, activation);
            }

            #[target_feature(enable = $features)]
            pub(super) fn store_sums<T: Number, const B: usize>(
                tile: &[f32],
                width: usize,
                target: &mut [T],
                sums: &mut [f64],
                storing: Storing,
            ) {
                store_sums_impl::<T, B>(tile, width, target, sums, storing);
            }

            #[target_feature(enable = $features)]
            pub(super) fn store_biased<T: Number, const B: usize>(
                tile: &[f32],
                width: usize,
                target: &mut [T],
                step: usize,
                bias: &[f32],
                storing: Storing,
            ) {
                store_biased_impl::<T, B>(tile, width, target, step, bias, storing);
            }
        }
    };
}

compile_for!(avx2, "avx2,fma");
compile_for!(avx512, "avx512f,avx512bw,avx512dq,avx512vl");

macro_rules! dispatch {
    ($isa:expr, $block:expr, $name:ident<$($hole:tt),+>, $scalar8:expr, $scalar16:expr, ($($arg:expr),*)) => {
        match ($isa.vectors(), $block) {
            (Vectors::Scalar, 8) => $scalar8($($arg),*),
            (Vectors::Scalar, _) => $scalar16($($arg),*),
            // SAFETY: an `Isa` other than `Scalar` reaches the engine only after `Isa::require` found it
            // on this machine.
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx2, 8) => unsafe { avx2::$name::<$($hole,)+ 8>($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx2, _) => unsafe { avx2::$name::<$($hole,)+ 16>($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx512, 8) => unsafe { avx512::$name::<$($hole,)+ 8>($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Vectors::Avx512, _) => unsafe { avx512::$name::<$($hole,)+ 16>($($arg),*) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("only the portable code exists on this machine"),
        }
    };
}

/// Copies every `step`-th block of `source` to `target`, activated, until one of them ends.
pub(crate) fn stage_row<T: Number, U: Number>(
    isa: Isa,
    block: usize,
    source: &[T],
    step: usize,
    target: &mut [U],
    activation: Activation<'_>,
) {
    dispatch!(
        isa,
        block,
        stage_row<_, _>,
        stage_row_impl::<_, _, 8, false>,
        stage_row_impl::<_, _, 16, false>,
        (source, step, target, activation)
    );
}

/// Copies the first `block` channels of each tile row (rows `width` apart) to `target` and adds values and
/// squares to `sums` (`[2][block]`).
pub(crate) fn store_sums<T: Number>(
    isa: Isa,
    block: usize,
    tile: &[f32],
    width: usize,
    target: &mut [T],
    sums: &mut [f64],
    storing: Storing,
) {
    dispatch!(
        isa,
        block,
        store_sums<_>,
        store_sums_impl::<_, 8>,
        store_sums_impl::<_, 16>,
        (tile, width, target, sums, storing)
    );
}

/// Writes the first `block` channels of each tile row plus `bias` to every `step`-th block of `target`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn store_biased<T: Number>(
    isa: Isa,
    block: usize,
    tile: &[f32],
    width: usize,
    target: &mut [T],
    step: usize,
    bias: &[f32],
    storing: Storing,
) {
    dispatch!(
        isa,
        block,
        store_biased<_>,
        store_biased_impl::<_, 8>,
        store_biased_impl::<_, 16>,
        (tile, width, target, step, bias, storing)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::number::Compact;

    #[test]
    fn staging_scales_shifts_and_bends() {
        for isa in Isa::available() {
            for block in [8, 16] {
                let source: Vec<f32> = (0..3 * block).map(|i| i as f32 - 10.0).collect();
                let (scale, shift) = (vec![2.0; block], vec![1.0; block]);
                let activation = Activation {
                    scale: &scale,
                    shift: &shift,
                    slope: 0.5,
                };
                let mut target = vec![0.0; 2 * block];
                stage_row(isa, block, &source, 2, &mut target, activation);
                for (i, value) in target.iter().enumerate() {
                    let x = source[i / block * 2 * block + i % block] * 2.0 + 1.0;
                    assert_eq!(*value, if x < 0.0 { 0.5 * x } else { x });
                }
            }
        }
    }

    #[test]
    fn compact_numbers_are_the_same_on_every_instruction_set() {
        let special = [
            0.0,
            -0.0,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            1e-45,
        ];
        let tie = f32::from_bits(0x3f80_8000);
        let mut tile: Vec<f32> = special.into_iter().chain([tie, -tie, 1.01]).collect();
        tile.extend((0..54).map(|i| (i as f32 - 20.0) * 0.377));
        for isa in Isa::available() {
            for block in [8, 16] {
                let mut target = vec![Compact::narrow(0.0); 64 / block * block];
                let bias = vec![0.0; block];
                store_biased(
                    isa,
                    block,
                    &tile,
                    block,
                    &mut target,
                    1,
                    &bias,
                    Storing::Cached,
                );
                let (one, zero) = (vec![1.0; block], vec![0.0; block]);
                let activation = Activation {
                    scale: &one,
                    shift: &zero,
                    slope: 1.0,
                };
                let mut back = vec![0.0; target.len()];
                stage_row(isa, block, &target, 1, &mut back, activation);
                for (index, &value) in tile.iter().enumerate() {
                    let expected = Compact::narrow(value + 0.0);
                    assert!(
                        target[index] == expected,
                        "{value} {:?} {}",
                        target[index],
                        isa.name()
                    );
                    assert!(back[index] == expected.widen() || value.is_nan());
                }
            }
        }
    }

    #[test]
    fn sums_are_exact_for_integers() {
        for isa in Isa::available() {
            for block in [8, 16] {
                let width = 2 * block;
                let tile: Vec<f32> = (0..3 * width).map(|i| i as f32).collect();
                let (mut target, mut sums) = (vec![0.0; 3 * block], vec![0.0; 2 * block]);
                store_sums(
                    isa,
                    block,
                    &tile[block..],
                    width,
                    &mut target,
                    &mut sums,
                    Storing::Cached,
                );
                for lane in 0..block {
                    let column: Vec<f64> = (0..3)
                        .map(|row| (row * width + block + lane) as f64)
                        .collect();
                    assert_eq!(sums[lane], column.iter().sum::<f64>());
                    assert_eq!(
                        sums[block + lane],
                        column.iter().map(|v| v * v).sum::<f64>()
                    );
                    assert_eq!(f64::from(target[2 * block + lane]), column[2]);
                }
            }
        }
    }

    #[test]
    fn streamed_blocks_are_those_written_through_the_caches() {
        fn check<T: Number + PartialEq + std::fmt::Debug>(isa: Isa, block: usize, zero: T) {
            let width = 2 * block;
            let tile: Vec<f32> = (0..5 * width).map(|i| (i as f32 * 0.3).sin()).collect();
            let bias: Vec<f32> = (0..block).map(|i| i as f32).collect();
            // Room to begin at a multiple of 64 bytes.
            let mut memory = vec![zero; 2 * (9 * block + 64)];
            let skipped = memory.as_ptr().align_offset(64);
            let targets = &mut memory[skipped..skipped + 18 * block];
            let (cached, streamed) = targets.split_at_mut(9 * block);
            let (mut one, mut other) = (vec![0.0; 2 * block], vec![0.0; 2 * block]);
            for (to, sums, storing) in [
                (&mut *cached, &mut one, Storing::Cached),
                (&mut *streamed, &mut other, Storing::Streamed),
            ] {
                store_sums(
                    isa,
                    block,
                    &tile,
                    width,
                    &mut to[..5 * block],
                    sums,
                    storing,
                );
                let rest = &mut to[5 * block..];
                store_biased(isa, block, &tile, width, rest, 2, &bias, storing);
                settle();
            }
            assert_eq!(cached, streamed);
            assert_eq!(one, other);
            assert!(cached[..5 * block].iter().any(|value| *value != zero));
        }
        for isa in Isa::available() {
            for block in [8, 16] {
                check(isa, block, 0f32);
                check(isa, block, Compact::narrow(0.0));
            }
        }
    }
}
