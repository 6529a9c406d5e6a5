//! Decimal numbers, fast.

/// Decimals that resolve 1/2000 of the thinnest voxel spacing, 3 to 9.
pub fn decimals_for(spacing_mm: [f64; 3]) -> usize {
    let thinnest = spacing_mm.into_iter().fold(f64::INFINITY, f64::min);
    let decimals = (2000.0 / thinnest).log10().ceil();
    // Conversion saturates, so infinite and NaN spacings stay in range too.
    (decimals as usize).clamp(3, 9)
}

/// Two digits for every number below 100: half the divisions of one digit at a time.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// A line of numbers, put together from its end, as digits come lowest first, and appended in one piece.
pub(super) struct Line {
    /// Room for six whole numbers of 20 digits, the longest line there is.
    bytes: [u8; 160],
    start: usize,
}

impl Line {
    pub fn new() -> Self {
        Self {
            bytes: [b'0'; 160],
            start: 160,
        }
    }

    /// Appends the line to `text` and empties it.
    pub fn finish(&mut self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.bytes[self.start..]);
        self.start = self.bytes.len();
    }

    /// Puts `bytes` before what is there.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.start -= bytes.len();
        self.bytes[self.start..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Puts a whole number before what is there.
    #[inline]
    pub fn put_integer(&mut self, mut number: u64) {
        while number >= 100 {
            self.put(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if number >= 10 {
            self.put(&PAIRS[number as usize]);
        } else {
            self.put(&[b'0' + number as u8]);
        }
    }

    /// Puts `value` with `decimals` digits after the point, 10 to which is `scale`, before what is there.
    #[inline]
    pub fn put_decimal(&mut self, value: f64, decimals: usize, scale: f64) {
        let scaled = (value * scale).round();
        if scaled.is_nan() || scaled.abs() >= 9e18 {
            self.put(format!("{value:e}").as_bytes());
            return;
        }
        let scaled = scaled as i64;
        let mut number = scaled.unsigned_abs();
        for _ in 0..decimals / 2 {
            self.put(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if decimals % 2 == 1 {
            self.put(&[b'0' + (number % 10) as u8]);
            number /= 10;
        }
        if decimals > 0 {
            self.put(b".");
        }
        self.put_integer(number);
        if scaled < 0 {
            self.put(b"-");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(value: f64, decimals: usize) -> String {
        let (mut line, mut text) = (Line::new(), Vec::new());
        line.put_decimal(value, decimals, 10_f64.powi(decimals as i32));
        line.finish(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn numbers_read_as_written() {
        assert_eq!(decimal(-0.75, 4), "-0.7500");
        assert_eq!(decimal(1234.56789, 4), "1234.5679");
        assert_eq!(decimal(-0.00001, 4), "0.0000");
        assert_eq!(decimal(7.0, 0), "7");
        assert_eq!(decimal(0.05, 3), "0.050");
        assert_eq!(decimal(1e200, 4), "1e200");
        assert_eq!(decimal(-f64::MAX, 9), "-1.7976931348623157e308");
        for decimals in 0..10 {
            for value in [0.0, 0.25, -3.75, 99.995, -100.5, 12_345.678_901_25] {
                // One digit too many is right too where the standard formatter breaks ties to even.
                let wanted: f64 = format!("{value:.decimals$}").parse().unwrap();
                let found: f64 = decimal(value, decimals).parse().unwrap();
                assert!((found - wanted).abs() <= 1.001 * 10_f64.powi(-(decimals as i32)));
                let after = decimal(value, decimals)
                    .split('.')
                    .nth(1)
                    .map_or(0, str::len);
                assert_eq!(after, decimals);
            }
        }
        for number in [0, 7, 10, 99, 100, 907, 1000, 123_456, u64::MAX] {
            let (mut line, mut text) = (Line::new(), Vec::new());
            line.put_integer(number);
            line.finish(&mut text);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }

    #[test]
    fn finer_voxels_get_more_decimals() {
        assert_eq!(decimals_for([1.0, 0.75, 0.75]), 4);
        assert_eq!(decimals_for([3.0; 3]), 3);
        assert_eq!(decimals_for([0.01; 3]), 6);
        assert_eq!(decimals_for([f64::NAN; 3]), 3);
    }
}
