//! RLE Lossless (PS3.5 annex G): byte planes, each packed as PackBits.
//!
//! Our own because dicom-pixeldata 0.10.1 indexes by what a damaged header says and panics; this one
//! looks only where there are bytes.

/// Unpacks one frame of one sample per pixel into little-endian pixels of `width` bytes.
///
/// # Errors
/// Says what is wrong with the stream.
pub(super) fn unpack(stream: &[u8], pixels: usize, width: usize) -> Result<Vec<u8>, String> {
    let number = |index: usize| -> Option<usize> {
        let bytes = stream.get(index * 4..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let planes = number(0).ok_or("the RLE header is cut")?;
    if planes != width {
        return Err(format!("{planes} byte planes, expected {width}"));
    }
    let mut out = vec![0; pixels * width];
    for plane in 0..planes {
        let from = number(1 + plane).ok_or("the RLE header is cut")?;
        let end = if plane + 1 < planes {
            number(2 + plane).ok_or("the RLE header is cut")?
        } else {
            stream.len()
        };
        let packed = stream
            .get(from..end)
            .filter(|_| from >= 64)
            .ok_or_else(|| {
                format!(
                    "plane {} lies at bytes {from} to {end} of {}",
                    plane + 1,
                    stream.len()
                )
            })?;
        // The most significant byte comes first.
        unpack_plane(packed, &mut out, width - 1 - plane, width)
            .ok_or_else(|| format!("plane {} ends early", plane + 1))?;
    }
    Ok(out)
}

/// PackBits into every `step`-th byte from `at`: a count `n` up to 127 copies `n + 1` bytes, one
/// above 128 repeats the next byte `257 - n` times, 128 means nothing. What a padded last run has
/// too much is dropped; `None` when the plane is too short.
fn unpack_plane(packed: &[u8], out: &mut [u8], mut at: usize, step: usize) -> Option<()> {
    let mut rest = packed;
    while at < out.len() {
        let (&count, after) = rest.split_first()?;
        rest = after;
        let length = match count {
            128 => continue,
            0..=127 => usize::from(count) + 1,
            129.. => 257 - usize::from(count),
        };
        let run = if count < 128 {
            let (literals, after) = rest.split_at_checked(length)?;
            rest = after;
            Run::Literals(literals)
        } else {
            let (&value, after) = rest.split_first()?;
            rest = after;
            Run::Repeat(value)
        };
        let places = out.iter_mut().skip(at).step_by(step).take(length);
        match run {
            Run::Literals(values) => places
                .zip(values)
                .for_each(|(place, value)| *place = *value),
            Run::Repeat(value) => places.for_each(|place| *place = value),
        }
        at += step * length;
    }
    Some(())
}

enum Run<'a> {
    Literals(&'a [u8]),
    Repeat(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(planes: &[&[u8]]) -> Vec<u8> {
        let mut header = [0_u32; 16];
        header[0] = planes.len() as u32;
        let mut at = 64;
        for (offset, plane) in header[1..].iter_mut().zip(planes) {
            *offset = at;
            at += plane.len() as u32;
        }
        let mut bytes: Vec<u8> = header.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend(planes.concat());
        bytes
    }

    #[test]
    fn literals_runs_and_fillers_unpack() {
        // PS3.5 G.3.1: 254 means three times, 2 means three literals, 128 nothing.
        let high = [254, 1, 128, 1, 7, 8];
        let low = [4, 10, 20, 30, 40, 50];
        let found = unpack(&stream(&[&high, &low]), 5, 2).unwrap();
        assert_eq!(found, [10, 1, 20, 1, 30, 1, 40, 7, 50, 8]);
        assert_eq!(unpack(&stream(&[&[0, 9, 0, 8]]), 2, 1).unwrap(), [9, 8]);
    }

    #[test]
    fn damage_is_named() {
        let sound = stream(&[&[254, 1], &[254, 2]]);
        assert!(unpack(&sound, 3, 2).is_ok());
        assert!(unpack(&sound, 3, 1).unwrap_err().contains("planes"));
        assert!(unpack(&sound, 4, 2).unwrap_err().contains("ends early"));
        assert!(unpack(&sound[..10], 3, 2).unwrap_err().contains("cut"));
        let mut far = sound;
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack(&far, 3, 2).unwrap_err().contains("lies at"));
    }
}
