//! Lines as files for viewing: VTK XML poly data (.vtp) and Wavefront OBJ.

use std::io::{self, Write};

/// A line through space with a radius at every point.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Points in world coordinates, x, y, z.
    pub points_mm: Vec<[f64; 3]>,
    /// One radius for each point.
    pub radii_mm: Vec<f64>,
    /// The piece that it belongs to.
    pub piece: u32,
}

/// Writes `lines` as VTK XML poly data in text: points with `radius_mm`, one cell per line with `branch` (counted from
/// 0) and `piece`. ParaView and 3D Slicer show it; Slicer takes the coordinates as they are.
///
/// # Errors
/// Those of `out`.
pub fn write_vtp(out: &mut dyn Write, lines: &[Line]) -> io::Result<()> {
    let points: usize = lines.iter().map(|line| line.points_mm.len()).sum();
    let count = lines.len();
    writeln!(
        out,
        "<?xml version=\"1.0\"?>\n<VTKFile type=\"PolyData\" version=\"0.1\" byte_order=\"LittleEndian\">\n<PolyData>\n\
         <Piece NumberOfPoints=\"{points}\" NumberOfLines=\"{count}\">\n<PointData Scalars=\"radius_mm\">\n\
         <DataArray type=\"Float32\" Name=\"radius_mm\" format=\"ascii\">"
    )?;
    for radius in lines.iter().flat_map(|line| &line.radii_mm) {
        writeln!(out, "{radius:.4}")?;
    }
    writeln!(out, "</DataArray>\n</PointData>\n<CellData>")?;
    writeln!(
        out,
        "<DataArray type=\"Int32\" Name=\"branch\" format=\"ascii\">"
    )?;
    for branch in 0..count {
        writeln!(out, "{branch}")?;
    }
    writeln!(
        out,
        "</DataArray>\n<DataArray type=\"Int32\" Name=\"piece\" format=\"ascii\">"
    )?;
    for line in lines {
        writeln!(out, "{}", line.piece)?;
    }
    writeln!(
        out,
        "</DataArray>\n</CellData>\n<Points>\n<DataArray type=\"Float32\" NumberOfComponents=\"3\" format=\"ascii\">"
    )?;
    for [x, y, z] in lines.iter().flat_map(|line| &line.points_mm) {
        writeln!(out, "{x:.4} {y:.4} {z:.4}")?;
    }
    writeln!(
        out,
        "</DataArray>\n</Points>\n<Lines>\n<DataArray type=\"Int32\" Name=\"connectivity\" format=\"ascii\">"
    )?;
    for point in 0..points {
        writeln!(out, "{point}")?;
    }
    writeln!(
        out,
        "</DataArray>\n<DataArray type=\"Int32\" Name=\"offsets\" format=\"ascii\">"
    )?;
    let mut end = 0;
    for line in lines {
        end += line.points_mm.len();
        writeln!(out, "{end}")?;
    }
    writeln!(
        out,
        "</DataArray>\n</Lines>\n</Piece>\n</PolyData>\n</VTKFile>"
    )
}

/// Writes `lines` as OBJ: one `l` element each, in an object named `branch_N`, N counted from 0.
///
/// # Errors
/// Those of `out`.
pub fn write_line_obj(out: &mut dyn Write, lines: &[Line]) -> io::Result<()> {
    let mut next = 1;
    for (branch, line) in lines.iter().enumerate() {
        writeln!(out, "o branch_{branch}")?;
        for [x, y, z] in &line.points_mm {
            writeln!(out, "v {x:.4} {y:.4} {z:.4}")?;
        }
        write!(out, "l")?;
        for _ in &line.points_mm {
            write!(out, " {next}")?;
            next += 1;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |points: &[[f64; 3]], piece| Line {
            points_mm: points.to_vec(),
            radii_mm: vec![1.5; points.len()],
            piece,
        };
        vec![
            line(&[[0.0; 3], [1.0, 2.0, 3.0]], 0),
            line(&[[4.0; 3], [5.0; 3], [6.0; 3]], 1),
        ]
    }

    #[test]
    fn obj_numbers_points_through_all_lines() {
        let mut text = Vec::new();
        write_line_obj(&mut text, &lines()).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("o branch_0\nv 0.0000 0.0000 0.0000\nv 1.0000 2.0000 3.0000\nl 1 2\n")
        );
        assert!(text.ends_with("l 3 4 5\n"), "{text}");
    }

    #[test]
    fn vtp_counts_what_it_holds() {
        let mut text = Vec::new();
        write_vtp(&mut text, &lines()).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("NumberOfPoints=\"5\" NumberOfLines=\"2\""));
        assert!(text.contains("Name=\"offsets\" format=\"ascii\">\n2\n5\n</DataArray>"));
        let mut none = Vec::new();
        write_vtp(&mut none, &[]).unwrap();
        assert!(
            String::from_utf8(none)
                .unwrap()
                .contains("NumberOfPoints=\"0\"")
        );
    }
}
