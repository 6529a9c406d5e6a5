//! Header extensions: blocks of any content between header and voxels, kept byte for byte.

use super::super::error::{Error, Result, gib};
use super::super::stream::Stream;
use super::Endian;

/// Largest extension area that is read; TotalSegmentator's label table has about 20 KiB.
const MOST_BYTES: u64 = 64 << 20;

/// One header extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// `ecode`: 2 DICOM, 4 AFNI, 6 comment, 30 CIFTI, 0 unknown.
    pub code: i32,
    /// Content as stored, padding included: a multiple of 16 less 8 bytes in a well-formed file.
    pub data: Vec<u8>,
}

impl Extension {
    /// An extension holding `text`, padded with zeros to the length the standard asks for.
    pub fn from_text(code: i32, text: &str) -> Self {
        let mut data = text.as_bytes().to_vec();
        let padded = (data.len() + 8).next_multiple_of(16) - 8;
        data.resize(padded, 0);
        Self { code, data }
    }

    /// The content as text, without the padding; `None` when it is no UTF-8.
    pub fn text(&self) -> Option<&str> {
        let end = self.data.iter().rposition(|&byte| byte != 0);
        let used = self.data.get(..end.map_or(0, |last| last + 1))?;
        std::str::from_utf8(used).ok()
    }

    /// Bytes in the file: code, size, content, padding.
    pub(super) fn stored_bytes(&self) -> u64 {
        (self.data.len() as u64 + 8).next_multiple_of(16)
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let end = into.len() + self.stored_bytes() as usize;
        // Read back as i32 by everyone; the area is far below 2 GiB (checked when the header is made).
        into.extend((self.stored_bytes() as i32).to_le_bytes());
        into.extend(self.code.to_le_bytes());
        into.extend(&self.data);
        into.resize(end, 0);
    }
}

/// Reads the extensions between the position of `stream` and `end` (to the end of the file where
/// there is none, as in a separate `.hdr`).
pub(super) fn read_extensions(
    stream: &mut Stream,
    end: Option<u64>,
    endian: Endian,
) -> Result<Vec<Extension>> {
    let start = stream.position();
    let mut flag = [0; 4];
    // A separate header may end right after its last field.
    if stream.read_most(&mut flag)? < 4 || flag.first() == Some(&0) {
        return Ok(Vec::new());
    }
    let mut extensions = Vec::new();
    loop {
        let room = end.map_or(MOST_BYTES, |end| end.saturating_sub(stream.position()));
        // nibabel, too, leaves a rest that cannot hold an extension.
        if room < 16 {
            return Ok(extensions);
        }
        let mut head = [0; 8];
        match stream.read_most(&mut head)? {
            0 if end.is_none() => return Ok(extensions),
            8 => {}
            _ => return Err(truncated(stream)),
        }
        let [a, b, c, d, e, f, g, h] = head;
        let number = |bytes| match endian {
            Endian::Little => i32::from_le_bytes(bytes),
            Endian::Big => i32::from_be_bytes(bytes),
        };
        let size = number([a, b, c, d]);
        let code = number([e, f, g, h]);
        let content = u64::try_from(size)
            .ok()
            .and_then(|size| size.checked_sub(8));
        let Some(content) = content.filter(|&bytes| bytes + 8 <= room) else {
            return Err(Error::malformed(
                &stream.name,
                format!(
                    "header extension declares {size} bytes, expected 8 to {}",
                    gib(room)
                ),
            ));
        };
        if stream.position() - start + content > MOST_BYTES {
            return Err(Error::unsupported(
                &stream.name,
                format!("header extensions exceed {}", gib(MOST_BYTES)),
            ));
        }
        stream.check_length(stream.position() + content, "a header extension")?;
        let mut data = Vec::new();
        // Grown as it is read: a pipe may promise more than it has.
        while (data.len() as u64) < content {
            let from = data.len();
            let step = (content - from as u64).min(64 << 10) as usize;
            data.resize(from + step, 0);
            let part = data.get_mut(from..).unwrap_or_default();
            if stream.read_most(part)? < step {
                return Err(truncated(stream));
            }
        }
        extensions.push(Extension { code, data });
    }
}

fn truncated(stream: &Stream) -> Error {
    Error::malformed(
        &stream.name,
        "truncated: the file ends inside a header extension",
    )
}
