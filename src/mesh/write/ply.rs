//! Binary PLY: little-endian, positions (and normals) as `float`, a colour per vertex.

use super::{Part, has_normals, too_many, triangle_count, vertex_count, write_blocks};
use std::io::{self, Write};

/// Writes all `parts` as one PLY file, vertices in the colour of their part.
///
/// # Errors
/// Those of `out`, and `InvalidInput` for more than `i32::MAX` vertices, which is what readers index with.
pub fn write_ply(
    out: &mut (dyn Write + Send),
    parts: &[Part],
    comments: &[String],
) -> io::Result<()> {
    let vertices = vertex_count(parts);
    i32::try_from(vertices).map_err(|_| too_many("vertices"))?;
    let normals = has_normals(parts);
    writeln!(out, "ply\nformat binary_little_endian 1.0")?;
    for comment in comments {
        writeln!(out, "comment {}", comment.replace(['\n', '\r'], " "))?;
    }
    writeln!(out, "element vertex {vertices}")?;
    writeln!(out, "property float x\nproperty float y\nproperty float z")?;
    if normals {
        writeln!(
            out,
            "property float nx\nproperty float ny\nproperty float nz"
        )?;
    }
    writeln!(
        out,
        "property uchar red\nproperty uchar green\nproperty uchar blue"
    )?;
    writeln!(out, "element face {}", triangle_count(parts))?;
    writeln!(out, "property list uchar int vertex_indices\nend_header")?;
    for part in parts {
        let colour = part.rgb;
        let put = |bytes: &mut Vec<u8>, values: [f32; 3]| {
            for value in values {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        };
        let positions = &part.surface.positions;
        if normals {
            let pairs: Vec<_> = positions.iter().zip(&part.surface.normals).collect();
            write_blocks(out, &pairs, |block, bytes| {
                for (position, normal) in block {
                    put(bytes, position.map(|value| value as f32));
                    put(bytes, **normal);
                    bytes.extend_from_slice(&colour);
                }
            })?;
        } else {
            write_blocks(out, positions, |block, bytes| {
                for position in block {
                    put(bytes, position.map(|value| value as f32));
                    bytes.extend_from_slice(&colour);
                }
            })?;
        }
    }
    let mut first = 0;
    for part in parts {
        write_blocks(out, &part.surface.triangles, |block, bytes| {
            for triangle in block {
                bytes.push(3);
                for vertex in triangle {
                    bytes.extend_from_slice(&(first + vertex).to_le_bytes());
                }
            }
        })?;
        first += part.surface.positions.len() as u32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Surface;

    #[test]
    fn sizes_follow_the_header() {
        let mut surface = Surface {
            label: 1,
            positions: vec![[0.0; 3], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
            triangles: vec![[0, 1, 2]],
            normals: Vec::new(),
        };
        let write = |surface: &Surface| {
            let part = Part {
                surface,
                name: "a",
                rgb: [1, 2, 3],
            };
            let mut out = Vec::new();
            write_ply(&mut out, &[part, part], &["frame RAS".to_owned()]).unwrap();
            let body = out
                .windows(11)
                .position(|text| text == b"end_header\n")
                .unwrap()
                + 11;
            out.len() - body
        };
        assert_eq!(write(&surface), 6 * 15 + 2 * 13);
        surface.compute_normals();
        assert_eq!(write(&surface), 6 * 27 + 2 * 13);
    }
}
