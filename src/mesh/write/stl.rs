//! Binary STL: triangles only, no names, no colours, positions as `f32`.

use super::{Part, too_many, triangle_count, write_blocks};
use std::io::{self, Write};

/// Writes the triangles of all `parts` as one binary STL file, with unit normals. `title` fills the 80-byte header.
///
/// # Errors
/// Those of `out`, and `InvalidInput` for more than `u32::MAX` triangles.
pub fn write_stl(out: &mut (dyn Write + Send), parts: &[Part], title: &str) -> io::Result<()> {
    let count = u32::try_from(triangle_count(parts)).map_err(|_| too_many("triangles"))?;
    let mut header = [b' '; 80];
    // Readers take a file that begins with "solid" for text, so something else stands first.
    for (slot, byte) in header
        .iter_mut()
        .zip(b"STL ".iter().copied().chain(title.bytes()))
    {
        *slot = if byte.is_ascii_graphic() { byte } else { b' ' };
    }
    out.write_all(&header)?;
    out.write_all(&count.to_le_bytes())?;
    for part in parts {
        let positions = &part.surface.positions;
        write_blocks(out, &part.surface.triangles, |block, bytes| {
            for triangle in block {
                let corners = triangle.map(|vertex| positions[vertex as usize]);
                let written = std::iter::once(unit_normal(corners))
                    .chain(corners.map(|corner| corner.map(|value| value as f32)));
                for value in written.flatten() {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
                bytes.extend_from_slice(&[0, 0]);
            }
        })?;
    }
    Ok(())
}

/// Unit normal of a triangle, 0 for one without area, which is what the format asks for.
fn unit_normal([a, b, c]: [[f64; 3]; 3]) -> [f32; 3] {
    let (u, v): ([f64; 3], [f64; 3]) = (
        std::array::from_fn(|axis| b[axis] - a[axis]),
        std::array::from_fn(|axis| c[axis] - a[axis]),
    );
    let normal = [
        u[1] * v[2] - u[2] * v[1],
        u[2] * v[0] - u[0] * v[2],
        u[0] * v[1] - u[1] * v[0],
    ];
    let length = normal.iter().map(|value| value * value).sum::<f64>().sqrt();
    if length > 0.0 {
        normal.map(|value| (value / length) as f32)
    } else {
        [0.0; 3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Surface;

    #[test]
    fn a_triangle_takes_fifty_bytes() {
        let surface = Surface {
            label: 1,
            positions: vec![[0.0; 3], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
            triangles: vec![[0, 1, 2]],
            normals: Vec::new(),
        };
        let part = Part {
            surface: &surface,
            name: "a",
            rgb: [0; 3],
        };
        let mut out = Vec::new();
        write_stl(&mut out, &[part, part], "solid café").unwrap();
        assert_eq!(out.len(), 84 + 100);
        assert!(out.starts_with(b"STL solid caf"));
        assert_eq!(out[80..84], 2_u32.to_le_bytes());
        assert_eq!(out[92..96], 1_f32.to_le_bytes());
    }
}
