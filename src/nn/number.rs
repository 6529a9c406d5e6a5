//! Numbers as they are kept between layers.

use half::bf16;

/// A number as it is kept between layers.
pub(crate) trait Number: Copy {
    /// As a single-precision number, exactly.
    fn widen(self) -> f32;
    /// The nearest number, ties to even.
    fn narrow(value: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // Without branches, unlike `bf16::from_f32`: a register of values at a time.
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let quiet = bits | 0x0040_0000;
        let kept = if value.is_nan() { quiet } else { rounded };
        Self::from_bits((kept >> 16) as u16)
    }
}

/// A floating-point number of 16 bits: a sign, 6 bits of exponent and 9 of mantissa.
///
/// Results of convolutions need neither the range of bf16 (8 and 7 bits), which is that of single precision, nor may
/// they end at the 65,504 of IEEE 754's half precision (5 and 10). Between 9.3e-10 and 4.2e9 numbers are kept to 1 part
/// in 1024, four times as exactly as in bf16. Smaller ones become zero, larger ones infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Compact(u16);

/// Bits of a single-precision mantissa that are dropped.
const DROPPED: u32 = 23 - 9;
/// What the exponent of a single-precision number is larger by, in place.
const BIAS: u32 = (127 - 31) << 23;
/// The exponent of infinity and of what is no number, in place.
const BEYOND: u16 = 0x3f << 9;
/// Magnitude bits.
const MAGNITUDE: u16 = 0x7fff;

impl Compact {
    /// Whether it is a number and not infinite.
    pub fn is_finite(self) -> bool {
        self.0 & BEYOND != BEYOND
    }
}

impl Number for Compact {
    #[inline(always)]
    fn widen(self) -> f32 {
        let magnitude = self.0 & MAGNITUDE;
        let bits = u32::from(magnitude) << DROPPED;
        let bits = match magnitude {
            0 => 0,
            BEYOND.. => bits | 0x7f80_0000,
            _ => bits + BIAS,
        };
        f32::from_bits(bits | u32::from(self.0 & !MAGNITUDE) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let magnitude = value.to_bits() & 0x7fff_ffff;
        let rounded = magnitude + ((1 << (DROPPED - 1)) - 1) + (magnitude >> DROPPED & 1);
        let moved = rounded.wrapping_sub(BIAS) >> DROPPED;
        let kept = if value.is_nan() {
            u32::from(MAGNITUDE)
        } else if rounded < BIAS + (1 << 23) {
            0
        } else {
            moved.min(u32::from(BEYOND))
        };
        Self(kept as u16 | (value.to_bits() >> 16) as u16 & !MAGNITUDE)
    }
}

/// Numbers of two bytes for which every pattern of bits is valid.
///
/// # Safety
///
/// The type has exactly these properties.
pub(crate) unsafe trait TwoBytes: Copy {}

// SAFETY: a transparent `u16`.
unsafe impl TwoBytes for bf16 {}
// SAFETY: a transparent `u16`.
unsafe impl TwoBytes for Compact {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_numbers_are_the_nearest_with_nine_bits_of_mantissa() {
        let kept = |value: f32| Compact::narrow(value).widen();
        for value in [0.0, 1.0, -1.5, 0.001953125, 1023.0, -3.0e9_f32.round()] {
            assert!(
                (kept(value) - value).abs() <= value.abs() / 1024.0,
                "{value}"
            );
        }
        let step = 1.0 / 512.0;
        for (value, expected) in [
            (1.0 + step, 1.0 + step),
            (1.0 + 0.5 * step, 1.0),
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),
            (1.0 + 0.51 * step, 1.0 + step),
            (2.0 - 0.4 * step, 2.0),
            (-0.0, -0.0),
        ] {
            assert_eq!(kept(value).to_bits(), f32::to_bits(expected), "{value}");
        }
        let mut value = 1.1e-9_f32;
        while value < 4e9 {
            for sign in [1.0, -1.0] {
                let distance = (kept(sign * value) - sign * value).abs();
                assert!(distance <= value / 1024.0, "{value} {distance}");
            }
            value *= 1.000_37;
        }
    }

    #[test]
    fn the_ends_of_the_range_are_zero_and_infinity() {
        let kept = |value: f32| Compact::narrow(value).widen();
        for tiny in [f32::MIN_POSITIVE, 1e-45, 9e-10] {
            assert_eq!(kept(tiny), 0.0);
        }
        for huge in [4.3e9, f32::MAX, f32::INFINITY] {
            assert_eq!(kept(-huge), f32::NEG_INFINITY);
            assert!(!Compact::narrow(huge).is_finite());
        }
        assert!(kept(f32::NAN).is_nan() && !Compact::narrow(f32::NAN).is_finite());
        assert!(Compact::narrow(4.2e9).is_finite() && Compact::narrow(0.0).is_finite());
    }

    #[test]
    fn bf16_is_rounded_as_the_standard_says() {
        let special = [
            0.0,
            -0.0,
            f32::MAX,
            f32::INFINITY,
            f32::MIN_POSITIVE,
            1e-45,
            1.01,
        ];
        let tie = f32::from_bits(0x3f80_8000);
        for value in special.into_iter().chain([tie, -tie]) {
            assert_eq!(<bf16 as Number>::narrow(value), bf16::from_f32(value));
            assert_eq!(
                bf16::from_f32(value).widen(),
                bf16::from_f32(value).to_f32()
            );
        }
        assert!(<bf16 as Number>::narrow(f32::NAN).is_nan());
    }
}
