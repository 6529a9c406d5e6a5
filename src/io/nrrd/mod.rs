//! NRRD (`.nrrd`, `.nhdr` with its data file, `.seg.nrrd`).
//!
//! Source: the NRRD format definition, versions 1 to 5 (field names, aliases of the types and
//! spaces), and ITK 5.4's reading of it: positions are LPS+ where the file names no space. Raw and
//! gzip encodings are read; the others are refused by name. The segments that 3D Slicer describes
//! in a `.seg.nrrd` (`Segment<i>_LabelValue`, `_Name`, `_Color`) become the label table.

mod fields;
mod segments;
mod write;

use super::declared::{Declared, beside, flip_xy};
use super::error::{Error, Result};
use super::limits::Limits;
use super::nifti::{Datatype, Endian, Format, Reader};
use super::stream::{Packing, Stream};
use fields::Fields;
use std::path::Path;

pub(super) use write::header;

/// The names that each type goes by.
const TYPES: [(&[&str], Datatype); 10] = [
    (&["signed char", "int8", "int8_t"], Datatype::I8),
    (
        &["uchar", "unsigned char", "uint8", "uint8_t"],
        Datatype::U8,
    ),
    (
        &[
            "short",
            "short int",
            "signed short",
            "signed short int",
            "int16",
            "int16_t",
        ],
        Datatype::I16,
    ),
    (
        &[
            "ushort",
            "unsigned short",
            "unsigned short int",
            "uint16",
            "uint16_t",
        ],
        Datatype::U16,
    ),
    (&["int", "signed int", "int32", "int32_t"], Datatype::I32),
    (
        &["uint", "unsigned int", "uint32", "uint32_t"],
        Datatype::U32,
    ),
    (
        &[
            "longlong",
            "long long",
            "long long int",
            "signed long long",
            "signed long long int",
            "int64",
            "int64_t",
        ],
        Datatype::I64,
    ),
    (
        &[
            "ulonglong",
            "unsigned long long",
            "unsigned long long int",
            "uint64",
            "uint64_t",
        ],
        Datatype::U64,
    ),
    (&["float"], Datatype::F32),
    (&["double"], Datatype::F64),
];

/// The spaces of patients, and which of x and y point the other way than RAS+.
const SPACES: [(&str, &str, [bool; 2]); 3] = [
    ("right-anterior-superior", "ras", [false, false]),
    ("left-anterior-superior", "las", [true, false]),
    ("left-posterior-superior", "lps", [true, true]),
];

/// Longest line that `line skip` passes over.
const MOST_SKIPPED_LINE_BYTES: usize = 1 << 20;

/// Whether a file starts like a NRRD header.
pub(super) fn is_nrrd(start: &[u8]) -> bool {
    start.starts_with(b"NRRD")
}

/// The first line: `NRRD0001` to `NRRD0005`.
fn check_version(stream: &mut Stream, file: &str) -> Result<()> {
    let line = stream.read_line(64)?.unwrap_or_default();
    match line.as_slice() {
        [b'N', b'R', b'R', b'D', b'0', b'0', b'0', b'1'..=b'5'] => Ok(()),
        _ => Err(Error::unsupported(
            file,
            format!(
                "begins with {:?}, expected NRRD0001 to NRRD0005",
                String::from_utf8_lossy(&line)
            ),
        )),
    }
}

/// Reads the header and finds the voxels, in the same file or in the one it names.
pub(super) fn open(mut stream: Stream, path: Option<&Path>, limits: &Limits) -> Result<Reader> {
    let file = stream.name.clone();
    check_version(&mut stream, &file)?;
    let fields = Fields::read(&mut stream, &file)?;
    let (mut declared, interleaved) = declared(&fields)?;
    let extensions = segments::extensions(&fields);
    let encoding = fields.text(&["encoding"]).unwrap_or("raw");
    let packing = match encoding {
        "raw" => None,
        "gzip" | "gz" => Some(Packing::Gzip),
        other => {
            return Err(Error::unsupported(
                &file,
                format!("encoding is {other:?}, expected raw or gzip"),
            ));
        }
    };
    let line_skip = fields.count(&["line skip", "lineskip"])?;
    if line_skip > 0 && packing.is_some() {
        return Err(Error::unsupported(
            &file,
            "skips lines before compressed voxels, expected none",
        ));
    }
    let mut voxels = match (fields.text(&["data file", "datafile"]), packing) {
        (Some(name), _) => Stream::open_as(&beside(path, name, &file)?, packing)?,
        (None, Some(packing)) => stream.into_compressed(packing)?,
        (None, None) => stream,
    };
    for _ in 0..line_skip {
        if voxels.read_line(MOST_SKIPPED_LINE_BYTES)?.is_none() {
            break;
        }
    }
    let is_from_end = fields.text(&["byte skip", "byteskip"]) == Some("-1");
    declared.vox_offset = if is_from_end && packing.is_none() {
        voxels.offset_from_end(declared.payload_bytes().saturating_mul(interleaved))?
    } else {
        // Of compressed voxels the definition counts these bytes after decompression.
        let skip = fields.count(&["byte skip", "byteskip"])?;
        voxels.position().saturating_add(skip)
    };
    declared.reader(interleaved, voxels, extensions, limits)
}

/// What the fields say, and how many channels lie together in each voxel.
fn declared(fields: &Fields) -> Result<(Declared, u64)> {
    let file = fields.file;
    let axes = fields.count(&["dimension"])? as usize;
    if !(2..=4).contains(&axes) {
        return Err(Error::unsupported(
            file,
            format!("dimension is {axes}, expected 2, 3 or 4"),
        ));
    }
    let sizes = fields.sizes(axes)?;
    let place = Place::of(fields, axes)?;
    let (sizes, interleaved) = match place.channel_axis {
        None => (sizes, 1),
        Some(0) => (
            sizes.get(1..).unwrap_or_default().to_vec(),
            sizes.first().copied().unwrap_or(1),
        ),
        Some(last) if last + 1 == axes => {
            let (spatial, channels) = sizes.split_at(last);
            let mut sizes = spatial.to_vec();
            sizes.resize(3, 1);
            sizes.extend(channels);
            (sizes, 1)
        }
        Some(_) => {
            return Err(Error::unsupported(
                file,
                "the axis without a space direction lies between the others",
            ));
        }
    };
    let datatype = datatype(fields)?;
    let endian = match fields.text(&["endian"]) {
        Some("big") => Endian::Big,
        Some("little") => Endian::Little,
        None if datatype.bytes() == 1 => Endian::Little,
        other => {
            return Err(Error::malformed(
                file,
                format!(
                    "endian is {:?}, expected little or big",
                    other.unwrap_or_default()
                ),
            ));
        }
    };
    Ok((
        Declared {
            format: Format::Nrrd,
            endian,
            datatype,
            sizes,
            steps_mm: place.steps_mm,
            spacing_mm: None,
            origin_mm: place.origin_mm,
            vox_offset: 0,
            warnings: place.warnings,
        },
        interleaved,
    ))
}

fn datatype(fields: &Fields) -> Result<Datatype> {
    let name = fields.text(&["type"]).unwrap_or_default();
    TYPES
        .iter()
        .find(|(names, _)| names.contains(&name))
        .map(|&(_, datatype)| datatype)
        .ok_or_else(|| {
            Error::unsupported(
                fields.file,
                format!("type is {name:?}, expected a number type such as short or float"),
            )
        })
}

/// Where the voxels are.
struct Place {
    /// Steps of the spatial axes, RAS+ millimetres.
    steps_mm: Vec<[f64; 3]>,
    origin_mm: [f64; 3],
    /// The one axis that is not spatial.
    channel_axis: Option<usize>,
    warnings: Vec<String>,
}

impl Place {
    fn of(fields: &Fields, axes: usize) -> Result<Self> {
        let mut warnings = Vec::new();
        let flip = space(fields, &mut warnings)?;
        fields.check_millimetres()?;
        let turn = |vector: [f64; 3]| {
            let [x, y, z] = vector;
            match flip {
                [false, false] => vector,
                [true, false] => [0.0 - x, y, z],
                _ => flip_xy(vector),
            }
        };
        let directions = match fields.directions(axes)? {
            Some(directions) => directions,
            None => fields.spacings(axes)?,
        };
        let mut steps_mm = Vec::new();
        let mut channel_axis = None;
        for (axis, direction) in directions.into_iter().enumerate() {
            match direction {
                Some(step) => steps_mm.push(turn(step)),
                None if channel_axis.is_none() => channel_axis = Some(axis),
                None => {
                    return Err(Error::unsupported(
                        fields.file,
                        "has two axes without a space direction, expected one at most",
                    ));
                }
            }
        }
        if !(2..=3).contains(&steps_mm.len()) {
            return Err(Error::unsupported(
                fields.file,
                format!("has {} spatial axes, expected 2 or 3", steps_mm.len()),
            ));
        }
        Ok(Self {
            steps_mm,
            origin_mm: turn(fields.origin()?),
            channel_axis,
            warnings,
        })
    }
}

/// Which of x and y are to be turned.
fn space(fields: &Fields, warnings: &mut Vec<String>) -> Result<[bool; 2]> {
    let Some(space) = fields.text(&["space"]) else {
        warnings.push("names no space: positions are taken as left-posterior-superior".to_owned());
        return Ok([true, true]);
    };
    let lower = space.to_ascii_lowercase();
    SPACES
        .iter()
        .find(|(long, short, _)| lower == *long || lower == *short)
        .map(|&(.., flip)| flip)
        .ok_or_else(|| {
            Error::unsupported(
                fields.file,
                format!(
                    "space is {space:?}, expected one of a patient such as left-posterior-superior"
                ),
            )
        })
}
