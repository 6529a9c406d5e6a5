//! A look at the lengths of a DICOM file before any parser trusts them.
//!
//! dicom-object 0.10.1 allocates what an element declares before it reads it, and descends into
//! nested sequences without a bound (measured: a 39 KB file with one changed length took 6.8 s, and
//! others 2.4 GB). So every length is compared here with the bytes that are there and every depth
//! with [`MOST_DEPTH`]; a file that passes costs its parser no more than a copy of itself. Source of
//! the encoding: DICOM PS3.5, chapter 7 and annex A.

use crate::io::{Error, Result};

/// Deepest nesting of sequences; structured reports in use stay below 20.
const MOST_DEPTH: usize = 64;
/// An undefined length, ended by a delimiter.
const UNDEFINED: u32 = u32::MAX;
const ITEM: (u16, u16) = (0xfffe, 0xe000);
const ITEM_END: (u16, u16) = (0xfffe, 0xe00d);
const SEQUENCE_END: (u16, u16) = (0xfffe, 0xe0dd);

/// How the data set is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub explicit: bool,
    pub big_endian: bool,
}

/// Checks a whole data set. `file` is what errors call it.
pub(super) fn check(bytes: &[u8], encoding: Encoding, file: &str) -> Result<()> {
    let mut walk = Walk {
        bytes,
        at: 0,
        encoding,
        file,
    };
    walk.elements(bytes.len(), 0, false)
}

/// The start of an element.
struct Element {
    tag: (u16, u16),
    /// Value representation; `None` where the encoding is implicit.
    vr: Option<[u8; 2]>,
    /// Declared bytes of the value.
    length: u32,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
    file: &'a str,
}

impl Walk<'_> {
    /// Elements up to `end`, or to an item delimiter where `delimited`.
    fn elements(&mut self, end: usize, depth: usize, delimited: bool) -> Result<()> {
        if depth > MOST_DEPTH {
            return Err(Error::malformed(
                self.file,
                format!("sequences are nested more than {MOST_DEPTH} deep"),
            ));
        }
        while self.at < end {
            let Element { tag, vr, length } = self.element_header(end)?;
            if tag == ITEM_END && delimited {
                return Ok(());
            }
            let is_sequence = vr == Some(*b"SQ");
            if length == UNDEFINED {
                // Sequences, encapsulated pixel data, and unknown elements that hold sequences.
                self.items(
                    end,
                    depth,
                    true,
                    is_sequence || vr.is_none() || vr == Some(*b"UN"),
                )?;
                continue;
            }
            let stop = self.stop(length, end, tag)?;
            // An implicit file does not say what is a sequence; one that starts with an item is.
            let looks_like_items = vr.is_none() && self.peek_tag(stop) == Some(ITEM);
            if is_sequence || looks_like_items {
                self.items(stop, depth, false, true)?;
            }
            self.at = stop;
        }
        if delimited {
            return Err(self.truncated("a sequence item has no end"));
        }
        Ok(())
    }

    /// Items of a sequence (`nested`) or fragments of pixel data.
    fn items(&mut self, end: usize, depth: usize, delimited: bool, nested: bool) -> Result<()> {
        while self.at < end {
            let Some(tag) = self.peek_tag(end) else {
                return Err(self.truncated("a sequence is cut"));
            };
            self.at += 4;
            let length = self.u32(end)?;
            if tag == SEQUENCE_END {
                return Ok(());
            }
            if tag != ITEM {
                return Err(Error::malformed(
                    self.file,
                    format!(
                        "a sequence holds element ({:04X},{:04X}), expected an item",
                        tag.0, tag.1
                    ),
                ));
            }
            if length == UNDEFINED {
                self.elements(end, depth + 1, true)?;
                continue;
            }
            let stop = self.stop(length, end, tag)?;
            if nested {
                self.elements(stop, depth + 1, false)?;
            }
            self.at = stop;
        }
        if delimited {
            return Err(self.truncated("a sequence has no end"));
        }
        Ok(())
    }

    fn element_header(&mut self, end: usize) -> Result<Element> {
        let Some(tag) = self.peek_tag(end) else {
            return Err(self.truncated("an element is cut"));
        };
        self.at += 4;
        if !self.encoding.explicit || tag.0 == 0xfffe {
            let (vr, length) = (None, self.u32(end)?);
            return Ok(Element { tag, vr, length });
        }
        let vr: [u8; 2] = self.array(end)?;
        let is_short = matches!(
            &vr,
            b"AE"
                | b"AS"
                | b"AT"
                | b"CS"
                | b"DA"
                | b"DS"
                | b"DT"
                | b"FL"
                | b"FD"
                | b"IS"
                | b"LO"
                | b"LT"
                | b"PN"
                | b"SH"
                | b"SL"
                | b"SS"
                | b"ST"
                | b"TM"
                | b"UI"
                | b"UL"
                | b"US"
        );
        let length = if is_short {
            let bytes: [u8; 2] = self.array(end)?;
            u32::from(match self.encoding.big_endian {
                true => u16::from_be_bytes(bytes),
                false => u16::from_le_bytes(bytes),
            })
        } else {
            self.array::<2>(end)?;
            self.u32(end)?
        };
        let vr = Some(vr);
        Ok(Element { tag, vr, length })
    }

    fn stop(&self, length: u32, end: usize, tag: (u16, u16)) -> Result<usize> {
        let stop = self.at.saturating_add(length as usize);
        if stop <= end {
            return Ok(stop);
        }
        Err(Error::malformed(
            self.file,
            format!(
                "truncated: element ({:04X},{:04X}) declares {length} bytes, {} are there",
                tag.0,
                tag.1,
                end.saturating_sub(self.at)
            ),
        ))
    }

    fn peek_tag(&self, end: usize) -> Option<(u16, u16)> {
        let four: [u8; 4] = self.bytes.get(self.at..end)?.first_chunk().copied()?;
        let [a, b, c, d] = four;
        Some(match self.encoding.big_endian {
            true => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            false => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
        })
    }

    fn u32(&mut self, end: usize) -> Result<u32> {
        let bytes = self.array(end)?;
        Ok(match self.encoding.big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    fn array<const N: usize>(&mut self, end: usize) -> Result<[u8; N]> {
        let found = self
            .bytes
            .get(self.at..end)
            .and_then(|rest| rest.first_chunk());
        let Some(found) = found.copied() else {
            return Err(self.truncated("an element is cut"));
        };
        self.at += N;
        Ok(found)
    }

    fn truncated(&self, what: &str) -> Error {
        Error::malformed(
            self.file,
            format!("truncated: {what} at byte {} of the data set", self.at),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPLICIT: Encoding = Encoding {
        explicit: true,
        big_endian: false,
    };

    fn element(tag: (u16, u16), vr: &[u8; 2], value: &[u8]) -> Vec<u8> {
        let mut out = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
        out.extend(vr);
        if matches!(vr, b"SQ" | b"OW" | b"UN") {
            out.extend([0, 0]);
            out.extend((value.len() as u32).to_le_bytes());
        } else {
            out.extend((value.len() as u16).to_le_bytes());
        }
        out.extend(value);
        out
    }

    fn item(content: &[u8]) -> Vec<u8> {
        let mut out = vec![0xfe, 0xff, 0, 0xe0];
        out.extend((content.len() as u32).to_le_bytes());
        out.extend(content);
        out
    }

    #[test]
    fn sound_sequences_pass_and_wrong_lengths_do_not() {
        let inner = element((8, 0x100), b"SH", b"1234");
        let sequence = element((8, 0x1140), b"SQ", &item(&inner));
        let all = [sequence, element((0x7fe0, 0x10), b"OW", &[0; 32])].concat();
        check(&all, EXPLICIT, "x").unwrap();
        for at in [8, 16, all.len() - 36] {
            let mut wrong = all.clone();
            wrong[at] = wrong[at].wrapping_add(100);
            let message = check(&wrong, EXPLICIT, "x").unwrap_err().to_string();
            assert!(message.contains("declares"), "{at}: {message}");
        }
        for length in 1..all.len() {
            // A cut between two elements is a shorter data set; all others are seen.
            let whole = length == all.len() - 44;
            assert_eq!(
                check(&all[..length], EXPLICIT, "x").is_ok(),
                whole,
                "{length}"
            );
        }
    }

    #[test]
    fn a_deep_nest_is_refused_without_a_deep_stack() {
        let mut open = Vec::new();
        for _ in 0..20_000 {
            open.extend([8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 255, 255, 255, 255]);
            open.extend([0xfe, 0xff, 0, 0xe0, 255, 255, 255, 255]);
        }
        let message = check(&open, EXPLICIT, "x").unwrap_err().to_string();
        assert!(message.contains("nested"), "{message}");
    }
}
