//! Pictures: PNG and TIFF read and written, as nnU-Net's `NaturalImage2DIO` and `Tiff3DIO` do.
//!
//! Grey pictures of 8 or 16 bits have one channel, colour has three, colour with alpha four; samples are not rescaled. Pages of a
//! grey TIFF are the slices of a volume. A pixel has no size in millimetres and counts as 1 mm, row 0 is the front and column 0
//! the right, as ITK has it; a stack may have its spacing in a JSON file beside it. What would have to be converted before it is a
//! number per channel (palettes, grey with alpha, 16-bit colour in PNG, which Pillow cuts to 8 bits) is refused.
//!
//! Source: nnunetv2 2.8.1 `imageio/natural_image_reader_writer.py` and `tif_reader_writer.py`.

mod png;
mod tiff;

use super::atomic::{self, Overwrite};
use super::declared::Declared;
use super::error::{Error, Result, display_name};
use super::limits::Limits;
use super::nifti::{Datatype, Endian, Format, Reader};
use super::stream::Stream;
use crate::volume::LabelMap;
use ndarray::ArrayView2;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Endings of pictures.
pub const ENDINGS: [&str; 3] = [".png", ".tif", ".tiff"];

/// Most bytes of a spacing file.
const MOST_JSON_BYTES: u64 = 1 << 20;

/// Decoded samples, interleaved, in the byte order of the machine.
struct Samples {
    /// `[x, y]`.
    size: [u64; 2],
    slices: u64,
    channels: u64,
    datatype: Datatype,
    bytes: Vec<u8>,
}

/// Which kind of picture a file starts like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Tiff,
}

impl Kind {
    /// Of a file's first bytes.
    pub fn of(start: &[u8]) -> Option<Self> {
        const TIFF: [&[u8]; 4] = [b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"];
        if start.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if TIFF.iter().any(|magic| start.starts_with(magic)) {
            Some(Self::Tiff)
        } else {
            None
        }
    }
}

/// Whether a name ends as that of a picture.
pub fn is_picture_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    ENDINGS.iter().any(|ending| ends_with(name, ending))
}

/// Reads a whole picture; the spacing of a stack is looked for beside `path`.
pub(super) fn open(
    kind: Kind,
    mut stream: Stream,
    path: Option<&Path>,
    limits: &Limits,
) -> Result<Reader> {
    let file = stream.name.clone();
    let mut stored = Vec::new();
    loop {
        let mut piece = vec![0; 1 << 20];
        let read = stream.read_most(&mut piece)?;
        if read == 0 {
            break;
        }
        limits.check(&file, (stored.len() + read) as u64)?;
        stored.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    let samples = match kind {
        Kind::Png => png::decode(&stored, &file, limits)?,
        Kind::Tiff => tiff::decode(&stored, &file, limits)?,
    };
    drop(stored);
    let is_stack = samples.slices > 1;
    let mut warnings = Vec::new();
    let mut spacing = [1.0; 3];
    if is_stack {
        match path.map(stack_spacing).transpose()?.flatten() {
            Some(found) => spacing = found,
            None => warnings.push(
                "there is no JSON file with the spacing beside it: voxels count as 1 mm".to_owned(),
            ),
        }
    }
    let [width, height] = samples.size;
    let [z, y, x] = spacing;
    let declared = Declared {
        format: Format::Picture,
        endian: if cfg!(target_endian = "big") {
            Endian::Big
        } else {
            Endian::Little
        },
        datatype: samples.datatype,
        sizes: match is_stack {
            true => vec![width, height, samples.slices],
            false => vec![width, height],
        },
        steps_mm: vec![[-x, 0.0, 0.0], [0.0, -y, 0.0], [0.0, 0.0, z]],
        spacing_mm: None,
        origin_mm: [0.0; 3],
        vox_offset: 0,
        warnings,
    };
    let length = samples.bytes.len() as u64;
    let source = Box::new(std::io::Cursor::new(samples.bytes));
    let stream = Stream::new(source, file, Some(length))?;
    declared.reader(samples.channels, stream, Vec::new(), limits)
}

/// Saves a label map as a picture of whole numbers, TIFF where the name says so, else PNG: 8 bits where all labels are below 255, else
/// 16, as nnU-Net does. TIFF takes several slices, as pages.
///
/// # Errors
/// [`Error::Parameter`] for several slices in a PNG; [`Error::Exists`], [`Error::Environment`].
pub fn save_label_map(path: &Path, map: &LabelMap, overwrite: Overwrite) -> Result<()> {
    let shown = display_name(path);
    check_slices(path, map.grid().shape)?;
    let is_wide = map.max_label() >= 255;
    let slices: Vec<ArrayView2<'_, u16>> = map.volume.data().outer_iter().collect();
    let bytes = if is_tiff_name(path) {
        tiff::encode(&slices, is_wide)
    } else {
        png::encode(&slices, is_wide)
    };
    let bytes = bytes.map_err(|problem| Error::Parameter(format!("{shown}: {problem}")))?;
    atomic::write(path, overwrite, &bytes)
}

/// Refuses several slices in a picture that holds one.
///
/// # Errors
/// [`Error::Parameter`] naming the file.
pub fn check_slices(path: &Path, shape: [usize; 3]) -> Result<()> {
    if shape[0] > 1 && !is_tiff_name(path) {
        return Err(Error::Parameter(format!(
            "output {}: a PNG holds one slice, the label map has {}: expected .tif, .nii.gz, .nrrd or .mha",
            display_name(path),
            shape[0]
        )));
    }
    Ok(())
}

/// Where nnU-Net keeps the spacing of a stack: `case.json` for `case.tif` and `case_0000.tif`.
pub fn spacing_file(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let ending = ENDINGS.iter().find(|ending| ends_with(name, ending));
    let stem = name.len() - ending.map_or(0, |ending| ending.len());
    let stem = name.get(..stem).unwrap_or(name);
    let (case, channel) = stem.split_at(stem.len().saturating_sub(5));
    let is_channel = !case.is_empty()
        && channel
            .strip_prefix(b"_")
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
    let mut name = OsStr::from_bytes(if is_channel { case } else { stem }).to_owned();
    name.push(".json");
    path.with_file_name(name)
}

/// The contents of a spacing file, `[z, y, x]` in mm.
pub fn spacing_json(spacing_mm: [f64; 3]) -> Vec<u8> {
    let [z, y, x] = spacing_mm;
    format!("{{\n    \"spacing\": [\n        {z:?},\n        {y:?},\n        {x:?}\n    ]\n}}")
        .into_bytes()
}

/// `[z, y, x]` in mm, from the file beside a stack; `None` where there is none.
fn stack_spacing(path: &Path) -> Result<Option<[f64; 3]>> {
    let beside = spacing_file(path);
    let shown = display_name(&beside);
    let length = match std::fs::metadata(&beside) {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::environment("read", shown, error)),
    };
    let wrong = || {
        Error::malformed(
            &shown,
            "expected {\"spacing\": [z, y, x]} with three positive numbers of millimetres",
        )
    };
    if length > MOST_JSON_BYTES {
        return Err(wrong());
    }
    let text = std::fs::read(&beside)
        .map_err(|error| Error::environment("read", shown.as_str(), error))?;
    let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
    let numbers: Option<Vec<f64>> = parsed
        .get("spacing")
        .and_then(|list| list.as_array())
        .and_then(|list| list.iter().map(serde_json::Value::as_f64).collect());
    let spacing = numbers.and_then(|list| <[f64; 3]>::try_from(list).ok());
    match spacing.filter(|mm| mm.iter().all(|mm| *mm > 0.0 && mm.is_finite())) {
        Some(spacing) => Ok(Some(spacing)),
        None => Err(wrong()),
    }
}

fn is_tiff_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    [".tif", ".tiff"]
        .iter()
        .any(|ending| ends_with(name, ending))
}

fn ends_with(name: &[u8], ending: &str) -> bool {
    let tail = name.len().checked_sub(ending.len());
    let tail = tail.and_then(|at| name.get(at..));
    name.len() > ending.len() && tail.is_some_and(|it| it.eq_ignore_ascii_case(ending.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Grid, LabelTable};
    use ndarray::Array3;

    fn labels(shape: [usize; 3], most: u16) -> LabelMap {
        let values =
            Array3::from_shape_fn(shape, |(z, y, x)| (z * 31 + y * 7 + x) as u16 % (most + 1));
        LabelMap::new(
            values,
            Grid::with_spacing(shape, [1.0; 3]),
            LabelTable::default(),
        )
        .unwrap()
    }

    fn read(path: &Path) -> Result<(Vec<f32>, [usize; 3], [f64; 3])> {
        let limits = Limits::detect();
        let (volumes, header) = Reader::open(path, &limits)?.into_f32()?;
        let values = volumes.iter().flat_map(|it| it.as_slice().to_vec());
        Ok((values.collect(), header.grid.shape, header.grid.spacing_mm))
    }

    #[test]
    fn label_maps_come_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, shape, most) in [
            ("a.png", [1, 5, 37], 254),
            ("wide.PNG", [1, 5, 37], 180),
            ("b.png", [1, 9, 40], 300),
            ("c.tif", [1, 40, 9], 255),
            ("d.tiff", [4, 5, 6], 7),
        ] {
            let path = folder.path().join(name);
            let map = labels(shape, most);
            save_label_map(&path, &map, Overwrite::Refuse).unwrap();
            let (values, found, _) = read(&path).unwrap();
            let expected: Vec<f32> = map
                .volume
                .as_slice()
                .iter()
                .map(|&n| f32::from(n))
                .collect();
            assert_eq!((values, found), (expected, shape), "{name}");
        }
        let many = labels([2, 3, 3], 4);
        let error = save_label_map(&folder.path().join("e.png"), &many, Overwrite::Refuse);
        assert!(error.unwrap_err().to_string().contains("holds one slice"));
    }

    #[test]
    fn a_stack_takes_its_spacing_from_the_file_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case_0000.tif");
        let map = labels([3, 4, 5], 6);
        save_label_map(&path, &map, Overwrite::Refuse).unwrap();
        assert_eq!(read(&path).unwrap().2, [1.0; 3]);
        let beside = folder.path().join("case.json");
        assert_eq!(spacing_file(&path), beside);
        let json = spacing_json([2.5, 0.5, 0.75]);
        atomic::write(&beside, Overwrite::Force, &json).unwrap();
        assert_eq!(read(&path).unwrap().2, [2.5, 0.5, 0.75]);
        for wrong in [
            "{}",
            "[]",
            "{\"spacing\": [1, 2]}",
            "{\"spacing\": [1, 0, 2]}",
            "x",
        ] {
            atomic::write(&beside, Overwrite::Force, wrong.as_bytes()).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("case.json: expected"), "{message}");
        }
    }

    #[test]
    fn cuts_and_flipped_bytes_are_errors_or_pictures_never_panics() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.tif"] {
            let path = folder.path().join(name);
            let shape = [if name == "b.tif" { 3 } else { 1 }, 17, 23];
            save_label_map(&path, &labels(shape, 300), Overwrite::Refuse).unwrap();
            let whole = std::fs::read(&path).unwrap();
            let limits = Limits::parse("64MiB").unwrap();
            let attempt = |bytes: Vec<u8>| {
                let source = std::io::Cursor::new(bytes);
                let read = Reader::from_reader(source, name, &limits);
                read.and_then(Reader::into_f32).is_ok()
            };
            assert!(attempt(whole.clone()));
            let cuts = (0..whole.len())
                .step_by(7)
                .filter(|&at| attempt(whole[..at].to_vec()));
            assert_eq!(cuts.count(), 0, "{name}");
            for at in 0..whole.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= flip;
                    attempt(bytes);
                }
            }
        }
    }
}
