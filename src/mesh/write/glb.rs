//! GLB: glTF 2.0 in one binary file.
//!
//! One node, mesh and material per part, all with the part's name, below a root node that turns millimetres into the metres and the
//! y-up axes of glTF. Positions are stored in millimetres as `f32`.

use super::{Part, has_normals, too_many, write_blocks};
use crate::mesh::Frame;
use serde_json::{Value, json};
use std::io::{self, Write};

const FLOAT: u32 = 5126;
const UNSIGNED_INT: u32 = 5125;
const ARRAY_BUFFER: u32 = 34962;
const ELEMENT_ARRAY_BUFFER: u32 = 34963;

/// Views into the binary chunk and what they hold, in order.
#[derive(Default)]
struct Layout {
    views: Vec<Value>,
    accessors: Vec<Value>,
    bytes: usize,
}

impl Layout {
    /// Adds `count` items of `item_bytes`, returns the number of their accessor.
    fn add(&mut self, count: usize, item_bytes: usize, target: u32, accessor: Value) -> usize {
        let length = count * item_bytes;
        self.views.push(json!({
            "buffer": 0, "byteOffset": self.bytes, "byteLength": length, "target": target,
        }));
        let mut accessor = accessor;
        accessor["bufferView"] = json!(self.views.len() - 1);
        self.accessors.push(accessor);
        self.bytes += length;
        self.accessors.len() - 1
    }
}

/// Writes `parts`, whose positions are in `frame`, as one GLB file. Parts without triangles are left out, as glTF has no
/// empty meshes.
///
/// # Errors
/// Those of `out`, and `InvalidInput` when the file would exceed the 4 GiB of the format.
pub fn write_glb(out: &mut (dyn Write + Send), parts: &[Part], frame: Frame) -> io::Result<()> {
    let parts: Vec<Part> = parts
        .iter()
        .copied()
        .filter(|part| !part.surface.triangles.is_empty())
        .collect();
    let normals = has_normals(&parts);
    let mut layout = Layout::default();
    let meshes: Vec<Value> = parts
        .iter()
        .enumerate()
        .map(|(number, part)| mesh(&mut layout, part, normals, number))
        .collect();
    let text = document(&parts, &layout, &meshes, frame).to_string();
    let text_length = text.len().next_multiple_of(4);
    let length = 12 + 8 + text_length + 8 + layout.bytes;
    let word = |length: usize| {
        u32::try_from(length)
            .map(u32::to_le_bytes)
            .map_err(|_| too_many("bytes"))
    };
    out.write_all(b"glTF")?;
    out.write_all(&2_u32.to_le_bytes())?;
    out.write_all(&word(length)?)?;
    out.write_all(&word(text_length)?)?;
    out.write_all(b"JSON")?;
    out.write_all(text.as_bytes())?;
    out.write_all(&b"   "[..text_length - text.len()])?;
    out.write_all(&word(layout.bytes)?)?;
    out.write_all(b"BIN\0")?;
    for part in &parts {
        write_blocks(out, &part.surface.positions, |block, bytes| {
            for value in block.iter().flatten() {
                bytes.extend_from_slice(&(*value as f32).to_le_bytes());
            }
        })?;
        if normals {
            write_blocks(out, &part.surface.normals, |block, bytes| {
                for value in block.iter().flatten() {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
            })?;
        }
        write_blocks(out, &part.surface.triangles, |block, bytes| {
            for vertex in block.iter().flatten() {
                bytes.extend_from_slice(&vertex.to_le_bytes());
            }
        })?;
    }
    Ok(())
}

fn mesh(layout: &mut Layout, part: &Part, normals: bool, material: usize) -> Value {
    let surface = part.surface;
    let count = surface.positions.len();
    // Bounds are required of positions; rounded to f32 like the positions themselves.
    let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
    for position in &surface.positions {
        for axis in 0..3 {
            low[axis] = low[axis].min(position[axis] as f32);
            high[axis] = high[axis].max(position[axis] as f32);
        }
    }
    let vector = json!({"componentType": FLOAT, "count": count, "type": "VEC3"});
    let mut position = vector.clone();
    position["min"] = json!(low);
    position["max"] = json!(high);
    let mut attributes = json!({"POSITION": layout.add(count, 12, ARRAY_BUFFER, position)});
    if normals {
        attributes["NORMAL"] = json!(layout.add(count, 12, ARRAY_BUFFER, vector));
    }
    let indices = 3 * surface.triangles.len();
    let accessor = json!({"componentType": UNSIGNED_INT, "count": indices, "type": "SCALAR"});
    let indices = layout.add(indices, 4, ELEMENT_ARRAY_BUFFER, accessor);
    json!({
        "name": part.name,
        "primitives": [{"attributes": attributes, "indices": indices, "material": material}],
    })
}

fn document(parts: &[Part], layout: &Layout, meshes: &[Value], frame: Frame) -> Value {
    let asset =
        json!({"version": "2.0", "generator": concat!("medseg ", env!("CARGO_PKG_VERSION"))});
    if parts.is_empty() {
        return json!({"asset": asset});
    }
    let children: Vec<Value> = parts
        .iter()
        .enumerate()
        .map(|(number, part)| json!({"name": part.name, "mesh": number}))
        .collect();
    let materials: Vec<Value> = parts
        .iter()
        .map(|part| {
            let [r, g, b] = part.rgb.map(linear);
            json!({
                "name": part.name,
                "pbrMetallicRoughness": {
                    "baseColorFactor": [r, g, b, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.8,
                },
            })
        })
        .collect();
    // Column by column: x stays right, superior becomes up (y), posterior becomes towards the viewer (z).
    let sign = if frame == Frame::Lps { -1.0 } else { 1.0 };
    let matrix = [
        [sign * 0.001, 0.0, 0.0, 0.0],
        [0.0, 0.0, -sign * 0.001, 0.0],
        [0.0, 0.001, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let mut nodes = vec![json!({
        "name": "surfaces",
        "matrix": matrix.concat(),
        "children": (1..=parts.len()).collect::<Vec<_>>(),
    })];
    nodes.extend(children);
    json!({
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": meshes,
        "materials": materials,
        "accessors": layout.accessors,
        "bufferViews": layout.views,
        "buffers": [{"byteLength": layout.bytes}],
    })
}

/// An sRGB value as the linear one that glTF wants, rounded to four decimals.
fn linear(value: u8) -> f64 {
    let value = f64::from(value) / 255.0;
    let linear = if value <= 0.04045 {
        value / 12.92
    } else {
        ((value + 0.055) / 1.055).powf(2.4)
    };
    (linear * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Surface;

    #[test]
    fn chunks_have_the_lengths_they_claim() {
        let surface = Surface {
            label: 1,
            positions: vec![[0.0; 3], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
            triangles: vec![[0, 1, 2]],
            normals: Vec::new(),
        };
        for name in ["a", "ä", "niere"] {
            let part = Part {
                surface: &surface,
                name,
                rgb: [255, 0, 128],
            };
            let mut out = Vec::new();
            write_glb(&mut out, &[part, part], Frame::Ras).unwrap();
            let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(word(8), out.len());
            let text = word(12);
            let document: Value = serde_json::from_slice(&out[20..20 + text]).unwrap();
            assert_eq!(document["nodes"][2]["name"], name);
            assert_eq!(word(20 + text), 2 * (36 + 12));
            assert_eq!(&out[24 + text..28 + text], b"BIN\0");
        }
        let mut out = Vec::new();
        write_glb(&mut out, &[], Frame::Ras).unwrap();
        assert_eq!(out.len() % 4, 0);
    }
}
