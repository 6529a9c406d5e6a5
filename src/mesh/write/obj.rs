//! Wavefront OBJ and its material file.
//!
//! One `o` per part, `usemtl` with the part's name, `v` in millimetres, `vn` where there are normals, `f` with indices that count
//! from 1 through the whole file. Several parts make one file of named, coloured groups.

use super::text::Line;
use super::{Part, has_normals, write_blocks};
use std::io::{self, Write};

/// How an OBJ file is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct ObjStyle<'a> {
    /// Digits after the point of a position (see [`super::decimals_for`]).
    pub decimals: usize,
    /// Comment lines at the top, without the `#`.
    pub comments: &'a [String],
    /// Name of the material file in the same folder.
    pub material_file: Option<&'a str>,
}

/// Writes `parts` as one OBJ file. Names must be single words.
///
/// # Errors
/// Those of `out`.
pub fn write_obj(out: &mut (dyn Write + Send), parts: &[Part], style: &ObjStyle) -> io::Result<()> {
    for comment in style.comments {
        writeln!(out, "# {}", comment.replace(['\n', '\r'], " "))?;
    }
    if let Some(file) = style.material_file {
        writeln!(out, "mtllib {file}")?;
    }
    let decimals = style.decimals.min(17);
    let scale = 10_f64.powi(decimals as i32);
    let normals = has_normals(parts);
    let mut first = 1_u64;
    for part in parts {
        let Part { surface, name, .. } = part;
        writeln!(out, "o {name}")?;
        if style.material_file.is_some() {
            writeln!(out, "usemtl {name}")?;
        }
        write_blocks(out, &surface.positions, |block, text| {
            let mut line = Line::new();
            for position in block {
                line.put(b"\n");
                for &value in position.iter().rev() {
                    line.put_decimal(value, decimals, scale);
                    line.put(b" ");
                }
                line.put(b"v");
                line.finish(text);
            }
        })?;
        if normals {
            write_blocks(out, &surface.normals, |block, text| {
                let mut line = Line::new();
                for normal in block {
                    line.put(b"\n");
                    for &value in normal.iter().rev() {
                        line.put_decimal(f64::from(value), 4, 1e4);
                        line.put(b" ");
                    }
                    line.put(b"vn");
                    line.finish(text);
                }
            })?;
        }
        write_blocks(out, &surface.triangles, |block, text| {
            let mut line = Line::new();
            for triangle in block {
                line.put(b"\n");
                for &vertex in triangle.iter().rev() {
                    let index = first + u64::from(vertex);
                    if normals {
                        line.put_integer(index);
                        line.put(b"//");
                    }
                    line.put_integer(index);
                    line.put(b" ");
                }
                line.put(b"f");
                line.finish(text);
            }
        })?;
        first += surface.positions.len() as u64;
    }
    Ok(())
}

/// Writes the material file of `parts`: one diffuse, opaque colour per name.
///
/// # Errors
/// Those of `out`.
pub fn write_mtl(out: &mut (dyn Write + Send), parts: &[Part]) -> io::Result<()> {
    for part in parts {
        let [r, g, b] = part.rgb.map(|value| f64::from(value) / 255.0);
        writeln!(out, "newmtl {}", part.name)?;
        writeln!(out, "Kd {r:.4} {g:.4} {b:.4}")?;
        writeln!(out, "d 1\nillum 1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Surface;

    fn triangle() -> Surface {
        Surface {
            label: 1,
            positions: vec![[0.0; 3], [1.0, 0.0, 0.0], [0.0, -1.5, 0.0]],
            triangles: vec![[0, 2, 1]],
            normals: vec![[0.0, 0.0, 1.0]; 3],
        }
    }

    #[test]
    fn a_second_part_counts_on() {
        let with = triangle();
        let parts = [("1_a", [255, 0, 0]), ("2_b", [0, 0, 255])].map(|(name, rgb)| Part {
            surface: &with,
            name,
            rgb,
        });
        let mut out = Vec::new();
        let comments = ["frame RAS, mm".to_owned()];
        let style = ObjStyle {
            decimals: 3,
            comments: &comments,
            material_file: Some("a.mtl"),
        };
        write_obj(&mut out, &parts, &style).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(
            "# frame RAS, mm\nmtllib a.mtl\no 1_a\nusemtl 1_a\nv 0.000 0.000 0.000\n"
        ));
        assert!(text.contains("vn 0.0000 0.0000 1.0000\nf 1//1 3//3 2//2\no 2_b\n"));
        assert!(text.ends_with("f 4//4 6//6 5//5\n"));
        let mut out = Vec::new();
        write_mtl(&mut out, &parts).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("newmtl 1_a\nKd 1.0000 0.0000 0.0000\nd 1\nillum 1\nnewmtl 2_b\n")
        );
    }
}
