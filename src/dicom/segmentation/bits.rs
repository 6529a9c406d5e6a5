//! Frames of one bit a pixel: the first pixel in the lowest bit, frames one after the other without
//! a gap, the whole padded to an even number of bytes (PS3.5 8.1.1 and D.2).

/// The pixels of `slice` that are `label`.
pub(super) fn pack(slice: &[u16], label: u16) -> Vec<u8> {
    slice
        .chunks(8)
        .map(|eight| {
            let bits = eight.iter().enumerate();
            bits.fold(0, |byte, (place, &found)| {
                byte | u8::from(found == label) << place
            })
        })
        .collect()
}

/// Frames of `pixels` bits each behind one another.
pub(super) fn join(frames: &[Vec<u8>], pixels: usize) -> Vec<u8> {
    let bytes = (frames.len() * pixels).div_ceil(8);
    let mut out = Vec::with_capacity(bytes + 2);
    let mut used = 0; // bits of the last byte
    for frame in frames {
        for (index, &byte) in frame.iter().enumerate() {
            let count = (pixels - index * 8).min(8);
            match out.last_mut() {
                Some(last) if used > 0 => {
                    *last |= byte << used;
                    if used + count > 8 {
                        out.push(byte >> (8 - used));
                    }
                }
                _ => out.push(byte),
            }
            used = (used + count) % 8;
        }
    }
    if out.len() % 2 == 1 {
        out.push(0);
    }
    out
}

/// Whether pixel `index` of joined frames is set; `false` beyond the end.
pub(super) fn is_set(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8)
        .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_any_size_come_back() {
        for pixels in [1, 3, 7, 8, 9, 16, 21] {
            let frames: Vec<Vec<u16>> = (0..5)
                .map(|frame| {
                    (0..pixels)
                        .map(|pixel| ((frame * 7 + pixel * pixel) % 3) as u16)
                        .collect()
                })
                .collect();
            let packed: Vec<Vec<u8>> = frames.iter().map(|frame| pack(frame, 2)).collect();
            let joined = join(&packed, pixels);
            assert_eq!(joined.len(), (5 * pixels).div_ceil(8).next_multiple_of(2));
            for (index, &value) in frames.concat().iter().enumerate() {
                assert_eq!(is_set(&joined, index), value == 2, "{pixels} {index}");
            }
            assert!(!is_set(&joined, 8 * joined.len()));
        }
    }
}
