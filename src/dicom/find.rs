//! The files of a study: a folder with its subfolders, one file, or the entries of a zip archive.

use super::MOST_FILES;
use crate::io::batch::listed_files;
use crate::io::{Error, Limits, Result, display_name, starts_as_dicom};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Deepest folder below the one that is named: PATIENT/STUDY/SERIES and some room.
const MOST_DEPTH: usize = 8;
/// Largest zip entry that is unpacked, in bytes.
const MOST_ENTRY_BYTES: u64 = 4 << 30;
/// Deflate cannot shrink data more than this many times (RFC 1951).
const MOST_INFLATION: u64 = 1032;

/// One file whose content may be DICOM.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Name as shown to people: the path, or archive and entry.
    pub name: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Entry { archive: PathBuf, index: usize },
}

impl Source {
    fn file(path: PathBuf) -> Self {
        Self {
            name: display_name(&path),
            place: Place::File(path),
        }
    }

    /// The whole content.
    pub fn read(&self, limits: &Limits) -> Result<Vec<u8>> {
        let cannot = |source| Error::environment("read", self.name.clone(), source);
        match &self.place {
            Place::File(path) => {
                let mut file = std::fs::File::open(path).map_err(cannot)?;
                let length = file.metadata().map_err(cannot)?.len();
                limits.check(&self.name, length)?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(cannot)?;
                Ok(bytes)
            }
            Place::Entry { archive, index } => {
                let mut zip = open_zip(archive)?;
                let entry = zip
                    .by_index(*index)
                    .map_err(|error| Error::malformed(&self.name, error.to_string()))?;
                let declared = entry.size();
                let most = entry.compressed_size().saturating_mul(MOST_INFLATION);
                if declared > most.min(MOST_ENTRY_BYTES) {
                    return Err(Error::malformed(
                        &self.name,
                        format!("the entry declares {declared} bytes, more than it can hold"),
                    ));
                }
                limits.check(&self.name, declared)?;
                let mut bytes = Vec::new();
                let mut bounded = entry.take(declared + 1);
                bounded.read_to_end(&mut bytes).map_err(|error| {
                    Error::malformed(&self.name, format!("damaged archive entry: {error}"))
                })?;
                if bytes.len() as u64 != declared {
                    return Err(Error::malformed(
                        &self.name,
                        format!("the entry declares {declared} bytes and holds another number"),
                    ));
                }
                Ok(bytes)
            }
        }
    }
}

/// Whether `path` is to be read by [`super::open`]: a DICOM file, several with commas between, a zip
/// archive, or a folder in which or below which a DICOM file lies.
pub fn is_study(path: &Path) -> bool {
    let listed = listed_files(path);
    if listed.len() > 1 {
        return listed.iter().all(|file| starts_as_dicom(file));
    }
    if !path.is_dir() {
        return starts_as_zip(path) || starts_as_dicom(path);
    }
    let mut files = Vec::new();
    if walk(path, 0, &mut files).is_err() && files.is_empty() {
        return false;
    }
    files.iter().any(|file| starts_as_dicom(file))
}

fn starts_as_zip(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"PK\x03\x04"
}

/// Every candidate below `path`, in byte order of the names; entries with other content than DICOM
/// are found out when they are read.
pub(super) fn sources(path: &Path) -> Result<Vec<Source>> {
    if path.is_dir() {
        let mut files = Vec::new();
        walk(path, 0, &mut files)?;
        files.sort();
        return Ok(files.into_iter().map(Source::file).collect());
    }
    if starts_as_zip(path) {
        return entries(path);
    }
    Ok(listed_files(path).into_iter().map(Source::file).collect())
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let cannot = |source| Error::environment("read folder", display_name(folder), source);
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Links to folders are not followed: they could lead in a circle.
        let kind = entry.file_type().map_err(cannot)?;
        if kind.is_dir() && depth < MOST_DEPTH && !is_hidden {
            walk(&path, depth + 1, files)?;
        } else if path.is_file() && !is_hidden {
            files.push(path);
        }
        if files.len() > MOST_FILES {
            return Err(Error::unsupported(
                &display_name(folder),
                format!("holds more than {MOST_FILES} files, expected one study"),
            ));
        }
    }
    Ok(())
}

fn open_zip(archive: &Path) -> Result<zip::ZipArchive<std::fs::File>> {
    let name = display_name(archive);
    let file = std::fs::File::open(archive)
        .map_err(|source| Error::environment("read", name.clone(), source))?;
    zip::ZipArchive::new(file)
        .map_err(|error| Error::malformed(&name, format!("damaged archive: {error}")))
}

/// The files of an archive. Nothing is unpacked to disk, so no entry name can lead anywhere.
fn entries(archive: &Path) -> Result<Vec<Source>> {
    let shown = display_name(archive);
    let mut zip = open_zip(archive)?;
    if zip.len() > MOST_FILES {
        return Err(Error::unsupported(
            &shown,
            format!("holds {} entries, expected at most {MOST_FILES}", zip.len()),
        ));
    }
    let mut found = Vec::new();
    for index in 0..zip.len() {
        let entry = zip
            .by_index_raw(index)
            .map_err(|error| Error::malformed(&shown, error.to_string()))?;
        if entry.is_file() {
            let name = entry
                .name()
                .map_err(|error| Error::malformed(&shown, error.to_string()))?;
            let name = display_name(Path::new(name.as_ref()));
            let place = Place::Entry {
                archive: archive.to_owned(),
                index,
            };
            found.push(Source {
                name: format!("{shown}: {name}"),
                place,
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
