//! Memory of an executor: aligned buffers, the placement of activations by liveness, and the one
//! place where a buffer is shared between tasks.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::Error;
use super::number::TwoBytes;

/// A cache line of floats.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Floats per cache line.
pub(crate) const LINE: usize = 16;

/// Zeroed floats aligned to a cache line.
#[derive(Default)]
pub(crate) struct Floats {
    lines: Vec<Line>,
}

impl Floats {
    /// `len` zeros, rounded up to whole lines.
    ///
    /// # Errors
    ///
    /// The allocator refuses; `what` is named in the message.
    pub fn zeroed(len: usize, what: &'static str) -> Result<Self, Error> {
        let count = len.div_ceil(LINE);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| Error::Memory {
            what,
            bytes: count.saturating_mul(size_of::<Line>()),
        })?;
        lines.resize(count, Line([0.0; LINE]));
        Ok(Self { lines })
    }

    /// Number of floats.
    pub fn len(&self) -> usize {
        self.lines.len() * LINE
    }

    /// The floats.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a `Line` is exactly `LINE` floats without padding (64 bytes, checked below), so `lines`
        // is `len` initialised floats.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// The floats, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        let len = self.len();
        // SAFETY: as in `as_slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// Several regions to read and one, disjoint from them, to write.
    ///
    /// # Panics
    ///
    /// `write` overlaps a read region or a region ends behind the buffer.
    pub fn split(
        &mut self,
        reads: &[Range<usize>],
        write: Range<usize>,
    ) -> (Vec<&[f32]>, &mut [f32]) {
        let base = self.as_mut_slice().as_mut_ptr();
        let len = self.len();
        assert!(write.start <= write.end && write.end <= len);
        let read = |range: &Range<usize>| {
            assert!(range.start <= range.end && range.end <= len);
            assert!(
                range.end <= write.start || write.end <= range.start,
                "a layer would overwrite its own input"
            );
            // SAFETY: the range lies in the buffer and does not touch `write`, the only region handed out
            // mutably; `self` stays mutably borrowed for as long as the slices live.
            unsafe { std::slice::from_raw_parts(base.add(range.start), range.len()) }
        };
        let reads = reads.iter().map(read).collect();
        // SAFETY: as above.
        let write = unsafe { std::slice::from_raw_parts_mut(base.add(write.start), write.len()) };
        (reads, write)
    }
}

/// Numbers as they are kept between layers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stored<S, H> {
    /// 32-bit floats.
    Single(S),
    /// 16-bit numbers.
    Half(H),
}

/// Evaluates one expression for whichever kind of numbers is stored.
macro_rules! with_stored {
    ($stored:expr, $numbers:pat => $result:expr) => {
        match $stored {
            $crate::nn::arena::Stored::Single($numbers) => $result,
            $crate::nn::arena::Stored::Half($numbers) => $result,
        }
    };
}
pub(crate) use with_stored;

/// The 16-bit numbers in the memory of 32-bit ones, two in each.
pub(crate) fn halves<H: TwoBytes>(floats: &[f32]) -> &[H] {
    // SAFETY: by the trait's contract every pattern of two bytes is a number; the floats hold twice as many, at a
    // smaller alignment.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), 2 * floats.len()) }
}

/// As [`halves`], to be changed.
pub(crate) fn halves_mut<H: TwoBytes>(floats: &mut [f32]) -> &mut [H] {
    // SAFETY: as in `halves`; any four bytes are a valid float.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 2 * floats.len()) }
}

const _: () = assert!(size_of::<Line>() == LINE * size_of::<f32>());

/// Whether no number is NaN or infinite.
pub(crate) fn all_finite(numbers: &[f32]) -> bool {
    // No early exit within a chunk: the compiler can then check a register at a time.
    let finite = |chunk: &[f32]| chunk.iter().fold(true, |all, v| all & v.is_finite());
    numbers.par_chunks(1 << 16).all(finite)
}

/// A mutable slice that tasks write disjoint parts of.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only hands out parts through `part`, whose caller promises that parts in use at the
// same time are disjoint; moving `T`s between threads is what `Send` allows.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `slice` until the borrow ends.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            life: PhantomData,
        }
    }

    /// A part to write.
    ///
    /// # Panics
    ///
    /// The part ends behind the slice.
    ///
    /// # Safety
    ///
    /// No other part in use at the same time may overlap it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds as asserted; disjoint from other parts by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// A buffer to place: its size and the steps of the run during which it must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Floats.
    pub len: usize,
    /// First and last step (inclusive).
    pub steps: [usize; 2],
}

/// Offsets for buffers such that buffers alive at the same step do not overlap, and the total length.
///
/// Largest first, each at the lowest free place: not optimal, but within a few per cent for U-Nets, whose
/// peak is at one resolution level.
pub(crate) fn place(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(buffers[index].len), index));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for index in order {
        let buffer = &buffers[index];
        let len = buffer.len.div_ceil(LINE) * LINE;
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|&&other| {
                let other = &buffers[other];
                other.steps[0] <= buffer.steps[1] && buffer.steps[0] <= other.steps[1]
            })
            .map(|&other| offsets[other]..offsets[other] + buffers[other].len.div_ceil(LINE) * LINE)
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in taken {
            if offset + len <= range.start {
                break;
            }
            offset = offset.max(range.end);
        }
        offsets[index] = offset;
        total = total.max(offset + len);
        placed.push(index);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn buffers_alive_together_do_not_overlap_and_others_share() {
        let buffers = [
            Lifetime {
                len: 64,
                steps: [0, 1],
            },
            Lifetime {
                len: 64,
                steps: [1, 2],
            },
            Lifetime {
                len: 64,
                steps: [2, 3],
            },
            Lifetime {
                len: 16,
                steps: [0, 3],
            },
        ];
        let (offsets, total) = place(&buffers);
        assert_eq!(total, 144);
        assert_eq!(offsets[0], offsets[2]);
        assert_ne!(offsets[0], offsets[1]);
    }

    #[test]
    fn floats_hold_two_halves_each() {
        let mut floats = [0f32; 3];
        let numbers: &mut [bf16] = halves_mut(&mut floats);
        assert_eq!(numbers.len(), 6);
        numbers[5] = bf16::from_f32(1.5);
        assert_eq!(halves::<bf16>(&floats)[5].to_f32(), 1.5);
        assert_eq!(floats[..2], [0.0; 2]);
    }

    #[test]
    #[should_panic(expected = "overwrite its own input")]
    fn a_layer_cannot_write_over_its_input() {
        let mut floats = Floats::zeroed(64, "test").unwrap();
        let reads = vec![0..16, 0..32];
        floats.split(&reads, 16..48);
    }

    #[test]
    fn impossible_sizes_are_refused_with_a_message() {
        let error = Floats::zeroed(usize::MAX / 8, "activations").err().unwrap();
        assert!(error.to_string().contains("activations needs"), "{error}");
    }
}
