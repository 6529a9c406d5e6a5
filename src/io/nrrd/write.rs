//! The header of a NRRD file that we write: version 4, LPS+, raw or gzip, attached voxels.

use super::super::declared::{axis_steps, flip_xy, numbers};
use super::super::error::Result;
use super::super::labels;
use super::super::nifti::{Compression, Datatype, Layout};
use crate::volume::LabelTable;
use std::fmt::Write;

/// Everything before the voxels. A label table among the extensions is told as 3D Slicer's segments.
pub(in crate::io) fn header(
    layout: &Layout,
    compression: Compression,
    file: &str,
) -> Result<Vec<u8>> {
    let grid = layout.geometry.grid(layout.shape, file)?;
    let [z, y, x] = layout.shape;
    let channels = layout.channels;
    let spatial = format!("{x} {y} {z}");
    let (dimension, sizes, kinds) = if channels > 1 {
        (
            4,
            format!("{spatial} {channels}"),
            "domain domain domain list",
        )
    } else {
        (3, spatial, "domain domain domain")
    };
    let steps = axis_steps(&grid.affine).map(|step| format!("({})", numbers(flip_xy(step), ",")));
    let none = if channels > 1 { " none" } else { "" };
    let encoding = match compression {
        Compression::None => "raw",
        Compression::Gzip(_) => "gzip",
    };
    let mut text = format!(
        "NRRD0004\ntype: {}\ndimension: {dimension}\nspace: left-posterior-superior\nsizes: {sizes}\n\
         space directions: {}{none}\nkinds: {kinds}\nendian: little\nencoding: {encoding}\n\
         space origin: ({})\n",
        type_name(layout.datatype),
        steps.join(" "),
        numbers(flip_xy(grid.affine.origin_mm), ","),
    );
    if let Some(table) = labels::table_in_extensions(&layout.extensions) {
        segments(&table, layout.shape, &mut text);
    }
    text.push('\n');
    Ok(text.into_bytes())
}

fn type_name(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::U8 => "unsigned char",
        Datatype::I8 => "signed char",
        Datatype::I16 => "short",
        Datatype::U16 => "unsigned short",
        Datatype::I32 => "int",
        Datatype::U32 => "unsigned int",
        Datatype::I64 => "long long int",
        Datatype::U64 => "unsigned long long int",
        Datatype::F32 => "float",
        Datatype::F64 => "double",
    }
}

/// The key/value pairs by which 3D Slicer 5 knows the segments of a label map.
fn segments(table: &LabelTable, [z, y, x]: [usize; 3], text: &mut String) {
    let last = [x, y, z].map(|n| n.saturating_sub(1));
    let extent = format!("0 {} 0 {} 0 {}", last[0], last[1], last[2]);
    for (index, (number, label)) in table.iter().filter(|(number, _)| *number > 0).enumerate() {
        let rgb = numbers(label.rgb.map(|value| f64::from(value) / 255.0), " ");
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "Segment{index}_Color:={rgb}\nSegment{index}_Extent:={extent}\n\
             Segment{index}_ID:=Segment_{number}\nSegment{index}_LabelValue:={number}\n\
             Segment{index}_Layer:=0\nSegment{index}_Name:={}\n",
            label.name
        );
    }
}
