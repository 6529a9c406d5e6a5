//! Bytes of a volume file, plain or compressed, with an account of how many there can be.
//!
//! The first two bytes decide about gzip, never the name. Gzip is read member by member (files made
//! by `bgzip` and `pigz` have several) and to its very end, so that CRC and length of every member
//! are verified; anything after the last member but zero padding is an error. Formats whose text
//! header precedes compressed voxels (NRRD, MetaImage) switch with [`Stream::into_compressed`].

use super::error::{Error, Result, display_name, gib};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Deflate cannot shrink data more than 1032 times (RFC 1951: 258 bytes per 2-bit pair, rounded up by zlib's notes).
const MOST_INFLATION: u64 = 1032;
/// What may follow the voxels of a compressed file: more is not inflated but refused.
const MOST_EXCESS: u64 = 1 << 20;
/// Largest distance between header and voxels.
const MOST_GAP: u64 = 1 << 30;

type Input = BufReader<Box<dyn Read + Send>>;

enum Bytes {
    Plain(Input),
    Gzip(Box<Members>),
    Zlib(Box<ZlibDecoder<Input>>),
}

/// How the voxels behind a text header are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum Packing {
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 1950.
    Zlib,
}

/// A byte stream that knows its name and its largest possible length.
pub(in crate::io) struct Stream {
    bytes: Bytes,
    /// Name for messages.
    pub name: String,
    /// Bytes of the file on disk, where known.
    stored_bytes: Option<u64>,
    /// Uncompressed bytes handed out so far.
    position: u64,
}

impl Stream {
    /// Opens a file (or a pipe that has a name); gzip is seen by its first bytes.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, name, stored_bytes) = Self::open_file(path)?;
        Self::new(file, name, stored_bytes)
    }

    /// Opens a file whose header, elsewhere, says how it is compressed: the first bytes of raw
    /// voxels may look like gzip.
    pub fn open_as(path: &Path, packing: Option<Packing>) -> Result<Self> {
        let (file, name, stored_bytes) = Self::open_file(path)?;
        let plain = Self {
            stored_bytes,
            ..Self::uncompressed(file, name)
        };
        match packing {
            None => Ok(plain),
            Some(packing) => plain.into_compressed(packing),
        }
    }

    /// Wraps a source of unknown length that is not compressed, whatever its first bytes are.
    pub fn uncompressed(source: Box<dyn Read + Send>, name: String) -> Self {
        Self {
            bytes: Bytes::Plain(BufReader::with_capacity(256 << 10, source)),
            name,
            stored_bytes: None,
            position: 0,
        }
    }

    fn open_file(path: &Path) -> Result<(Box<dyn Read + Send>, String, Option<u64>)> {
        let name = display_name(path);
        let cannot = |source| Error::environment("read", name.clone(), source);
        let file = File::open(path).map_err(cannot)?;
        let data = file.metadata().map_err(cannot)?;
        if data.is_dir() {
            return Err(Error::malformed(
                &name,
                "is a folder, expected a volume file",
            ));
        }
        let stored_bytes = data.is_file().then_some(data.len());
        if stored_bytes == Some(0) {
            return Err(Error::malformed(&name, "the file is empty"));
        }
        Ok((Box::new(file), name, stored_bytes))
    }

    /// Wraps a source whose length may be unknown.
    pub fn new(
        source: Box<dyn Read + Send>,
        name: String,
        stored_bytes: Option<u64>,
    ) -> Result<Self> {
        let mut input = BufReader::with_capacity(256 << 10, source);
        let start = fill(&mut input).map_err(|error| Error::environment("read", &*name, error))?;
        let is_gzip = start.starts_with(&[0x1f, 0x8b]);
        let bytes = if is_gzip {
            Bytes::Gzip(Box::new(Members {
                decoder: Some(GzDecoder::new(input)),
            }))
        } else {
            Bytes::Plain(input)
        };
        Ok(Self {
            bytes,
            name,
            stored_bytes,
            position: 0,
        })
    }

    /// What the next bytes are, without taking them: at least 4 of them where there are as many.
    /// Nothing for a compressed stream, whose content shows only in being read.
    pub fn peek(&mut self) -> Result<&[u8]> {
        let failed = |error| Error::environment("read", self.name.clone(), error);
        match &mut self.bytes {
            Bytes::Plain(input) => fill(input).map_err(failed),
            Bytes::Gzip(_) | Bytes::Zlib(_) => Ok(&[]),
        }
    }

    /// The next line without its end (`\n` or `\r\n`); `None` at the end of the stream.
    pub fn read_line(&mut self, most_bytes: usize) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.read_most(&mut byte)? == 1 {
            if byte == *b"\n" {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
            if line.len() == most_bytes {
                return Err(Error::malformed(
                    &self.name,
                    format!("a line of the header has more than {most_bytes} bytes"),
                ));
            }
            line.extend(byte);
        }
        Ok((!line.is_empty()).then_some(line))
    }

    /// Takes everything from here on as compressed. A file that is compressed as a whole (header
    /// and all) is refused: its voxels would be compressed twice.
    pub fn into_compressed(self, packing: Packing) -> Result<Self> {
        let Bytes::Plain(input) = self.bytes else {
            return Err(Error::unsupported(
                &self.name,
                "is compressed as a whole and inside once more, expected one of the two",
            ));
        };
        let bytes = match packing {
            Packing::Gzip => Bytes::Gzip(Box::new(Members {
                decoder: Some(GzDecoder::new(input)),
            })),
            Packing::Zlib => Bytes::Zlib(Box::new(ZlibDecoder::new(input))),
        };
        Ok(Self {
            bytes,
            stored_bytes: self
                .stored_bytes
                .map(|all| all.saturating_sub(self.position)),
            name: self.name,
            position: 0,
        })
    }

    fn packing(&self) -> &'static str {
        match self.bytes {
            Bytes::Plain(_) => "plain",
            Bytes::Gzip(_) => "gzip",
            Bytes::Zlib(_) => "zlib",
        }
    }

    /// Uncompressed bytes handed out so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether all uncompressed bytes are in a file of known length.
    pub fn has_exact_length(&self) -> bool {
        matches!(self.bytes, Bytes::Plain(_)) && self.stored_bytes.is_some()
    }

    /// Checks that `end` uncompressed bytes can be there, without reading them. `what` needs them.
    pub fn check_length(&self, end: u64, what: &str) -> Result<()> {
        let Some(stored) = self.stored_bytes else {
            return Ok(());
        };
        let (most, holds) = match self.bytes {
            Bytes::Plain(_) => (stored, format!("the file has {}", gib(stored))),
            Bytes::Gzip(_) | Bytes::Zlib(_) => (
                stored.saturating_mul(MOST_INFLATION),
                format!("{} of {} cannot hold that", gib(stored), self.packing()),
            ),
        };
        if end <= most {
            return Ok(());
        }
        Err(Error::malformed(
            &self.name,
            format!("{what} needs {}, but {holds}", gib(end)),
        ))
    }

    /// Fills `into` or fails naming `what` is missing.
    pub fn read_exact(&mut self, into: &mut [u8], what: &str) -> Result<()> {
        let expected = into.len();
        let found = self.read_most(into)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::malformed(
            &self.name,
            format!(
                "truncated: {what} ends after {found} of {expected} bytes{}",
                if self.position == found as u64 {
                    " (start of the file)"
                } else {
                    ""
                }
            ),
        ))
    }

    /// Fills as much of `into` as there is.
    pub fn read_most(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let outcome = match &mut self.bytes {
                Bytes::Plain(input) => input.read(rest),
                Bytes::Gzip(members) => members.read(rest),
                Bytes::Zlib(decoder) => decoder.read(rest),
            };
            match outcome {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }

    /// Reads `count` bytes, growing as they arrive: a compressed stream may promise more than it has.
    pub fn read_all(&mut self, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < count {
            let from = bytes.len();
            let step = (count - from as u64).min(1 << 20) as usize;
            bytes.resize(from + step, 0);
            let part = bytes.get_mut(from..).unwrap_or_default();
            if self.read_most(part)? < step {
                return Err(Error::malformed(
                    &self.name,
                    format!("truncated: {} are declared, it ends earlier", gib(count)),
                ));
            }
        }
        Ok(bytes)
    }

    /// Where the last `payload` bytes of an uncompressed file begin.
    pub fn offset_from_end(&self, payload: u64) -> Result<u64> {
        let all = self.stored_bytes.filter(|_| self.has_exact_length());
        all.and_then(|all| all.checked_sub(payload)).ok_or_else(|| {
            Error::malformed(
                &self.name,
                format!(
                    "the last {} should be voxels, but there are fewer",
                    gib(payload)
                ),
            )
        })
    }

    /// Skips to `offset`, which must not lie behind the position.
    pub fn skip_to(&mut self, offset: u64) -> Result<()> {
        let gap = offset.saturating_sub(self.position);
        if gap > MOST_GAP {
            return Err(Error::malformed(
                &self.name,
                format!(
                    "vox_offset is {offset}: {} lie between header and voxels",
                    gib(gap)
                ),
            ));
        }
        let mut scratch = vec![0; 64 << 10];
        while self.position < offset {
            let want = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            let want = want.min(scratch.len());
            let buffer = scratch.get_mut(..want).unwrap_or_default();
            if self.read_most(buffer)? < want {
                return Err(Error::malformed(
                    &self.name,
                    format!(
                        "vox_offset is {offset}, but the file ends after {} bytes",
                        self.position
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reads a compressed stream to its end, so that its checksums are verified. Returns how many
    /// bytes followed.
    pub fn finish(mut self) -> Result<u64> {
        if let (Bytes::Plain(_), Some(stored)) = (&self.bytes, self.stored_bytes) {
            return Ok(stored.saturating_sub(self.position));
        }
        let mut scratch = vec![0; 64 << 10];
        let mut excess = 0_u64;
        loop {
            match self.read_most(&mut scratch)? {
                0 => return Ok(excess),
                count => excess += count as u64,
            }
            if excess > MOST_EXCESS {
                return Err(Error::malformed(
                    &self.name,
                    format!(
                        "more than {} follow the voxels that the header declares",
                        gib(MOST_EXCESS)
                    ),
                ));
            }
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        // A source of ours (slices that are decoded as they are read) fails with an error of ours.
        let error = match error.downcast::<Error>() {
            Ok(ours) => return ours,
            Err(other) => other,
        };
        let is_packed = !matches!(self.bytes, Bytes::Plain(_));
        match error.kind() {
            io::ErrorKind::UnexpectedEof if is_packed => Error::malformed(
                &self.name,
                format!(
                    "truncated: the {} stream ends after {} of content",
                    self.packing(),
                    gib(self.position)
                ),
            ),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData if is_packed => {
                Error::malformed(&self.name, format!("damaged {}: {error}", self.packing()))
            }
            _ => Error::environment("read", self.name.clone(), error),
        }
    }
}

/// Whether a file has the sign of DICOM: `DICM` after 128 bytes.
pub(crate) fn starts_as_dicom(path: &Path) -> bool {
    let mut start = [0; 132];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start.ends_with(b"DICM")
}

/// The first buffer of a source, retried when interrupted.
fn fill(input: &mut Input) -> io::Result<&[u8]> {
    // Two steps: a retry loop around a returned borrow does not pass the borrow checker.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    input.fill_buf()
}

/// All members of a gzip file as one stream. `None` once the last has been verified.
struct Members {
    decoder: Option<GzDecoder<Input>>,
}

impl Members {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(into)?;
            if count > 0 {
                return Ok(count);
            }
            // End of a member: its CRC-32 and length have been compared.
            if let Some(decoder) = self.decoder.take() {
                self.decoder = next_member(decoder.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// The member that starts here; `None` at the end of the file, also after padding with zeros.
fn next_member(mut input: Input) -> io::Result<Option<GzDecoder<Input>>> {
    if fill(&mut input)?.first() == Some(&0x1f) {
        return Ok(Some(GzDecoder::new(input)));
    }
    loop {
        let rest = fill(&mut input)?;
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something that is not gzip follows the compressed data",
            ));
        }
        let count = rest.len();
        input.consume(count);
    }
}
