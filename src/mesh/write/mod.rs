//! Surfaces as OBJ + MTL, binary STL, PLY and GLB, to anything that can be written to.
//!
//! The bytes depend on the surfaces only: no clock, no host name, no number of threads. Text is formatted in parallel blocks that
//! are written in order. Nothing is buffered beyond a few blocks, so give a file or a `BufWriter` as is convenient.

mod glb;
mod obj;
mod ply;
mod stl;
mod text;

pub use glb::write_glb;
pub use obj::{ObjStyle, write_mtl, write_obj};
pub use ply::write_ply;
pub use stl::write_stl;
pub use text::decimals_for;

use super::Surface;
use rayon::prelude::*;
use std::io::{self, Write};

/// A surface with what a file says about it.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The mesh.
    pub surface: &'a Surface,
    /// Name of the object and of its material; one word for OBJ (see [`plain_name`]).
    pub name: &'a str,
    /// Colour, red, green, blue (sRGB).
    pub rgb: [u8; 3],
}

/// Items formatted at a time by one thread.
const BLOCK: usize = 1 << 14;

/// `text` with everything but letters, digits, `-`, `_` and `.` replaced by `_`: safe as a file name and as a word in OBJ. An
/// empty text becomes `_`, leading dots are replaced too.
pub fn plain_name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '_');
    }
    name
}

/// Formats `items` in parallel blocks and writes them in order, a group of blocks while the next is being formatted.
fn write_blocks<T: Sync>(
    out: &mut (dyn Write + Send),
    items: &[T],
    format: impl Fn(&[T], &mut Vec<u8>) + Sync,
) -> io::Result<()> {
    // A few blocks per thread balance the work; more would only hold memory.
    let group = BLOCK * rayon::current_num_threads() * 2;
    let (mut ready, mut filling): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for group in items.chunks(group) {
        filling.resize_with(group.len().div_ceil(BLOCK), Vec::new);
        let fill = || {
            filling
                .par_iter_mut()
                .zip(group.par_chunks(BLOCK))
                .for_each(|(text, block)| {
                    text.clear();
                    format(block, text);
                });
        };
        let (written, ()) = rayon::join(|| write_all(out, &ready), fill);
        written?;
        std::mem::swap(&mut ready, &mut filling);
    }
    write_all(out, &ready)
}

fn write_all(out: &mut (dyn Write + Send), texts: &[Vec<u8>]) -> io::Result<()> {
    texts.iter().try_for_each(|text| out.write_all(text))
}

fn too_many(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("more {what} than the format can count; write one file per label"),
    )
}

fn vertex_count(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.surface.positions.len()).sum()
}

fn triangle_count(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.surface.triangles.len()).sum()
}

/// Whether every part has normals.
fn has_normals(parts: &[Part]) -> bool {
    parts
        .iter()
        .all(|part| part.surface.normals.len() == part.surface.positions.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_word() {
        assert_eq!(plain_name("left kidney/upper"), "left_kidney_upper");
        assert_eq!(plain_name("../etc"), "_.._etc");
        assert_eq!(plain_name(""), "_");
        assert_eq!(plain_name("Niere-links_2"), "Niere-links_2");
    }

    #[test]
    fn blocks_come_in_order() {
        let items: Vec<u32> = (0..1_000_000).collect();
        let mut out = Vec::new();
        write_blocks(&mut out, &items, |block, text| {
            for item in block {
                text.extend(item.to_le_bytes());
            }
        })
        .unwrap();
        let back: Vec<u32> = out
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(back, items);
    }
}
