//! The register of the transforms on every instruction set.

use super::LANES;

/// Sixteen floats and what the transforms do with them.
pub(super) trait Vector: Copy {
    /// # Safety
    ///
    /// The instruction set is there and 16 floats are readable.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    ///
    /// The instruction set is there and 16 floats are writable.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    ///
    /// The instruction set is there.
    unsafe fn plus(self, other: Self) -> Self;
    /// # Safety
    ///
    /// The instruction set is there.
    unsafe fn minus(self, other: Self) -> Self;
    /// # Safety
    ///
    /// The instruction set is there.
    unsafe fn times(self, factor: f32) -> Self;
    /// `self + factor * other`.
    ///
    /// # Safety
    ///
    /// The instruction set is there.
    unsafe fn plus_scaled(self, factor: f32, other: Self) -> Self;
}

impl Vector for [f32; LANES] {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by contract.
        unsafe { from.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by contract.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }
    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }
    #[inline(always)]
    unsafe fn times(self, factor: f32) -> Self {
        std::array::from_fn(|lane| self[lane] * factor)
    }
    #[inline(always)]
    unsafe fn plus_scaled(self, factor: f32, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + factor * other[lane])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use crate::nn::winograd::LANES;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
        _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    impl Vector for __m512 {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by contract.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: by contract.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe { _mm512_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe { _mm512_sub_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn times(self, factor: f32) -> Self {
            // SAFETY: by contract.
            unsafe { _mm512_mul_ps(_mm512_set1_ps(factor), self) }
        }
        #[inline(always)]
        unsafe fn plus_scaled(self, factor: f32, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe { _mm512_fmadd_ps(_mm512_set1_ps(factor), other, self) }
        }
    }

    impl Vector for [__m256; 2] {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by contract.
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))] }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: by contract.
            unsafe {
                _mm256_storeu_ps(to, self[0]);
                _mm256_storeu_ps(to.add(LANES / 2), self[1]);
            }
        }
        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe {
                [
                    _mm256_add_ps(self[0], other[0]),
                    _mm256_add_ps(self[1], other[1]),
                ]
            }
        }
        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe {
                [
                    _mm256_sub_ps(self[0], other[0]),
                    _mm256_sub_ps(self[1], other[1]),
                ]
            }
        }
        #[inline(always)]
        unsafe fn times(self, factor: f32) -> Self {
            // SAFETY: by contract.
            unsafe { self.map(|half| _mm256_mul_ps(_mm256_set1_ps(factor), half)) }
        }
        #[inline(always)]
        unsafe fn plus_scaled(self, factor: f32, other: Self) -> Self {
            // SAFETY: by contract.
            unsafe {
                let factor = _mm256_set1_ps(factor);
                [
                    _mm256_fmadd_ps(factor, other[0], self[0]),
                    _mm256_fmadd_ps(factor, other[1], self[1]),
                ]
            }
        }
    }
}
