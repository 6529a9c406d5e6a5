//! MetaImage: `.mha`, `.mhd` with `.raw` or `.zraw` read, `.mha` written.
//!
//! Source of the key names and their aliases: MetaIO as shipped with ITK 5.4 (`metaImage.cxx`,
//! `metaObject.cxx`). Directions are ITK's: row `i` of `TransformMatrix` is the direction of voxel
//! axis `i`, and positions are LPS+.

use super::declared::{Declared, axis_steps, beside, flip_xy, numbers};
use super::error::{Error, Result};
use super::limits::Limits;
use super::nifti::{Datatype, Endian, Format, Layout, Reader};
use super::stream::{Packing, Stream};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest line and most lines of a header; writers use some 20 short ones.
const MOST_LINE_BYTES: usize = 64 << 10;
const MOST_LINES: usize = 4096;

/// `ElementType` and what it holds.
const TYPES: [(&str, Datatype); 12] = [
    ("MET_UCHAR", Datatype::U8),
    ("MET_CHAR", Datatype::I8),
    ("MET_SHORT", Datatype::I16),
    ("MET_USHORT", Datatype::U16),
    ("MET_INT", Datatype::I32),
    ("MET_UINT", Datatype::U32),
    ("MET_LONG", Datatype::I32),
    ("MET_ULONG", Datatype::U32),
    ("MET_LONG_LONG", Datatype::I64),
    ("MET_ULONG_LONG", Datatype::U64),
    ("MET_FLOAT", Datatype::F32),
    ("MET_DOUBLE", Datatype::F64),
];

/// Whether a file starts like a MetaImage header.
pub(super) fn is_metaimage(start: &[u8]) -> bool {
    ["ObjectType", "NDims", "Comment", "ObjectSubType"]
        .iter()
        .any(|key| start.starts_with(key.as_bytes()))
}

/// Reads the header and finds the voxels, in the same file or in the one it names.
pub(super) fn open(mut stream: Stream, path: Option<&Path>, limits: &Limits) -> Result<Reader> {
    let file = stream.name.clone();
    let fields = Fields::read(&mut stream, &file)?;
    let (mut declared, channels) = fields.declared()?;
    let data_file = fields.text("ElementDataFile").unwrap_or_default();
    let is_local = data_file.eq_ignore_ascii_case("local");
    let is_compressed = fields.flag("CompressedData");
    let packing = is_compressed.then_some(Packing::Zlib);
    let voxels = match packing {
        _ if !is_local => Stream::open_as(&beside(path, data_file, &file)?, packing)?,
        Some(packing) => stream.into_compressed(packing)?,
        None => stream,
    };
    if !is_compressed {
        declared.vox_offset = voxels.position();
        let payload = declared.payload_bytes();
        match fields.whole("HeaderSize")? {
            None | Some(0) => {}
            Some(-1) => declared.vox_offset = voxels.offset_from_end(payload)?,
            Some(skip) if skip > 0 && !is_local => declared.vox_offset = skip as u64,
            Some(other) => {
                return Err(Error::malformed(
                    &file,
                    format!("HeaderSize is {other}, expected -1 or a number of bytes"),
                ));
            }
        }
    }
    declared.reader(channels, voxels, Vec::new(), limits)
}

/// The `Key = value` lines up to and including `ElementDataFile`.
struct Fields<'a> {
    file: &'a str,
    values: BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    fn read(stream: &mut Stream, file: &'a str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for _ in 0..MOST_LINES {
            let Some(line) = stream.read_line(MOST_LINE_BYTES)? else {
                break;
            };
            let line = String::from_utf8_lossy(&line).into_owned();
            let Some((key, value)) = line.split_once('=') else {
                if line.trim().is_empty() {
                    continue;
                }
                return Err(Error::malformed(
                    file,
                    "a header line has no '=', expected \"Key = value\"",
                ));
            };
            let key = key.trim().to_owned();
            let is_last = key == "ElementDataFile";
            values.insert(key, value.trim().to_owned());
            if is_last {
                return Ok(Self { file, values });
            }
        }
        Err(Error::malformed(
            file,
            "the MetaImage header has no ElementDataFile line, which ends it",
        ))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// MetaIO reads anything that starts with t, T or 1 as true.
    fn flag(&self, key: &str) -> bool {
        self.text(key)
            .is_some_and(|value| value.starts_with(['T', 't', '1']))
    }

    fn whole(&self, key: &str) -> Result<Option<i64>> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Error::malformed(
                self.file,
                format!("{key} is {text:?}, expected a whole number"),
            )
        })
    }

    /// The numbers of the first of `keys` that is there.
    fn numbers(&self, keys: &[&str], count: usize) -> Result<Option<Vec<f64>>> {
        let Some((key, text)) = keys
            .iter()
            .find_map(|key| self.text(key).map(|text| (key, text)))
        else {
            return Ok(None);
        };
        let numbers: Option<Vec<f64>> = text
            .split_whitespace()
            .map(|word| word.parse().ok().filter(|value: &f64| value.is_finite()))
            .collect();
        match numbers {
            Some(numbers) if numbers.len() == count => Ok(Some(numbers)),
            _ => Err(Error::malformed(
                self.file,
                format!("{key} is {text:?}, expected {count} numbers"),
            )),
        }
    }

    /// What the header says, and how many channels lie together in each voxel.
    fn declared(&self) -> Result<(Declared, u64)> {
        let file = self.file;
        let axes = self.whole("NDims")?.unwrap_or(0);
        let axes = usize::try_from(axes).unwrap_or(0);
        if !(2..=4).contains(&axes) {
            return Err(Error::unsupported(
                file,
                format!("NDims is {axes}, expected 2, 3 or 4"),
            ));
        }
        let sizes = self
            .numbers(&["DimSize"], axes)?
            .ok_or_else(|| Error::malformed(file, "the MetaImage header has no DimSize line"))?;
        let sizes: Option<Vec<u64>> = sizes
            .into_iter()
            .map(|size| (size >= 1.0 && size.fract() == 0.0 && size < 9e15).then_some(size as u64))
            .collect();
        let sizes = sizes.ok_or_else(|| {
            Error::malformed(
                file,
                format!(
                    "DimSize is {:?}, expected sizes of at least 1",
                    self.text("DimSize").unwrap_or_default()
                ),
            )
        })?;
        let type_name = self.text("ElementType").unwrap_or_default();
        let datatype = TYPES
            .iter()
            .find(|(name, _)| *name == type_name.trim_end_matches("_ARRAY"))
            .map(|&(_, datatype)| datatype)
            .ok_or_else(|| {
                Error::unsupported(
                    file,
                    format!(
                        "ElementType is {type_name:?}, expected a number type such as MET_SHORT"
                    ),
                )
            })?;
        if self.text("BinaryData").is_some() && !self.flag("BinaryData") {
            return Err(Error::unsupported(
                file,
                "the voxels are stored as text, expected BinaryData = True",
            ));
        }
        let is_big = self.flag("BinaryDataByteOrderMSB") || self.flag("ElementByteOrderMSB");
        let channels = self.whole("ElementNumberOfChannels")?.unwrap_or(1);
        let channels = u64::try_from(channels)
            .ok()
            .filter(|&n| n >= 1)
            .ok_or_else(|| {
                Error::malformed(
                    file,
                    format!("ElementNumberOfChannels is {channels}, expected at least 1"),
                )
            })?;
        let (steps_mm, spacing_mm, origin_mm) = self.place(axes)?;
        Ok((
            Declared {
                format: Format::MetaImage,
                endian: if is_big { Endian::Big } else { Endian::Little },
                datatype,
                sizes,
                steps_mm,
                spacing_mm: Some(spacing_mm),
                origin_mm,
                vox_offset: 0,
                warnings: Vec::new(),
            },
            channels,
        ))
    }

    /// Steps, spacing and origin, turned from LPS+ to RAS+.
    #[expect(clippy::type_complexity, reason = "three plain lists")]
    fn place(&self, axes: usize) -> Result<(Vec<[f64; 3]>, Vec<f64>, [f64; 3])> {
        let spatial = axes.min(3);
        let spacing = self
            .numbers(&["ElementSpacing", "ElementSize"], axes)?
            .unwrap_or_else(|| vec![1.0; axes]);
        let origin = self
            .numbers(&["Offset", "Position", "Origin"], axes)?
            .unwrap_or_else(|| vec![0.0; axes]);
        let matrix = self.numbers(&["TransformMatrix", "Rotation", "Orientation"], axes * axes)?;
        let direction = |axis: usize, component: usize| match &matrix {
            Some(matrix) => matrix.get(axis * axes + component).copied().unwrap_or(0.0),
            None => f64::from(u8::from(axis == component)),
        };
        let spacing: Vec<f64> = spacing.into_iter().take(spatial).collect();
        let steps = spacing
            .iter()
            .enumerate()
            .map(|(axis, &step)| {
                let vector = std::array::from_fn(|component| {
                    if component < spatial {
                        direction(axis, component) * step
                    } else {
                        0.0
                    }
                });
                flip_xy(vector)
            })
            .collect();
        let mut place = [0.0; 3];
        for (cell, value) in place.iter_mut().zip(origin.iter().take(spatial)) {
            *cell = *value;
        }
        Ok((steps, spacing, flip_xy(place)))
    }
}

/// Everything before the voxels of an `.mha` that we write: binary, little-endian, not compressed
/// (its header would have to state the compressed size before there is any).
pub(super) fn header(layout: &Layout, file: &str) -> Result<Vec<u8>> {
    let grid = layout.geometry.grid(layout.shape, file)?;
    let [z, y, x] = layout.shape;
    let [sz, sy, sx] = grid.spacing_mm;
    let spacing = [sx, sy, sz];
    let mut steps = axis_steps(&grid.affine).map(flip_xy);
    for (step, length) in steps.iter_mut().zip(spacing) {
        *step = step.map(|value| value / length);
    }
    let [a, b, c] = steps;
    let directions = [numbers(a, " "), numbers(b, " "), numbers(c, " ")].join(" ");
    let origin = numbers(flip_xy(grid.affine.origin_mm), " ");
    if layout.channels > 1 {
        return Err(Error::Parameter(format!(
            "{file}: holds {} volumes; MetaImage is written for one, choose .nii.gz or .nrrd",
            layout.channels
        )));
    }
    let type_name = TYPES
        .iter()
        .find(|(_, datatype)| *datatype == layout.datatype)
        .map_or("MET_OTHER", |(name, _)| name);
    Ok(format!(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
         CompressedData = False\nTransformMatrix = {directions}\nOffset = {origin}\n\
         CenterOfRotation = 0 0 0\nElementSpacing = {}\nDimSize = {x} {y} {z}\n\
         ElementType = {type_name}\nElementDataFile = LOCAL\n",
        numbers(spacing, " ")
    )
    .into_bytes())
}
