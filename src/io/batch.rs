//! From what stands after `-i` and `-o` to cases with their files and outputs.
//!
//! An input is a file, a list of channel files with commas between (`t1.nii.gz,t2.nii.gz`: one
//! case), a folder, or `-`. In a folder every volume file is a case; for a model with several
//! channels the files are grouped by nnU-Net's names (`<case>_0000.nii.gz`, `<case>_0001.nii.gz`, …)
//! and every case must be complete.
//!
//! A folder without volumes is a DICOM study, or a folder of studies of which each is a case. DICOM files
//! with commas between are one series where a case has one channel.
//!
//! Names are kept exactly: only the ending (and the channel number) is taken off, so `a.v1.nii`
//! becomes `a.v1.nii.gz` and never `a.nii.gz`; names need not be UTF-8. Two cases with one output
//! are an error. Cases come in the order of the command line, inside a folder in byte order of
//! their names.

use super::atomic;
use super::error::{Error, Result, display_name};
use super::picture;
use super::stream::starts_as_dicom;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Endings of files that are taken from a folder, in the order in which they are tried.
const ENDINGS: [&str; 11] = [
    ".nii.gz",
    ".nii",
    ".hdr.gz",
    ".hdr",
    ".img.gz",
    ".img",
    ".seg.nrrd",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
];

/// Folders between the one that is named and DICOM files: STUDY/SERIES and room for one more.
const MOST_FOLDERS: usize = 3;

/// One case: the files of its channels, in channel order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// File name without ending and channel number; what outputs are named after.
    pub id: OsString,
    /// Channel files; one for label maps and for 4-D images.
    pub channels: Vec<PathBuf>,
}

/// A case and where its result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What to read.
    pub case: Case,
    /// What to write; `-` for standard output.
    pub output: PathBuf,
}

impl Job {
    /// The file of a case of one, the first channel of others.
    pub fn input(&self) -> &Path {
        self.case
            .channels
            .first()
            .map_or(Path::new(""), PathBuf::as_path)
    }
}

/// The cases of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cases {
    /// At least one.
    pub cases: Vec<Case>,
    /// Whether results go to a folder: an input was a folder or there are several cases.
    pub is_batch: bool,
}

/// Finds the cases of `inputs`. `channels` is how many files a case has (a model's channels), or
/// `None` where every file is a case under its whole name (label maps).
///
/// # Errors
/// [`Error::Parameter`] naming the input that does not exist, the folder without volumes, or the
/// case with a missing or surplus channel; [`Error::Environment`] for an unreadable folder.
pub fn find_cases(inputs: &[PathBuf], channels: Option<usize>) -> Result<Cases> {
    let mut cases = Vec::new();
    let mut is_batch = inputs.len() > 1;
    for input in inputs {
        if input == Path::new("-") {
            cases.push(Case {
                id: OsString::from("stdin"),
                channels: vec![input.clone()],
            });
        } else if input.is_dir() {
            let found = cases_in_folder(input, channels)?;
            // A folder that is itself one DICOM study is one input.
            is_batch |= !matches!(found.as_slice(), [only] if only.channels.first() == Some(input));
            cases.extend(found);
        } else {
            cases.push(single_case(input, channels)?);
        }
    }
    if cases.is_empty() {
        return Err(Error::Parameter("no input is named".to_owned()));
    }
    Ok(Cases { cases, is_batch })
}

impl Cases {
    /// Where each result goes: `output` itself for one case, else `<folder>/<case><ending>`.
    /// `output` is a folder when the cases are a batch, when it exists as one, or when it ends in `/`.
    /// Nothing is created or checked for existence here.
    ///
    /// # Errors
    /// [`Error::Parameter`] when two cases would share an output, when an output is an input, when
    /// several cases shall go to `-`, or when the folder is a file or named as one.
    pub fn jobs(self, output: &Path, ending: &str) -> Result<Vec<Job>> {
        let is_stream = output == Path::new("-");
        let is_folder = !is_stream
            && (self.is_batch || output.is_dir() || output.as_os_str().as_bytes().ends_with(b"/"));
        if is_stream && self.cases.len() > 1 {
            return Err(Error::Parameter(format!(
                "{} cases cannot share standard output: name a folder",
                self.cases.len()
            )));
        }
        if is_folder && output.is_file() {
            return Err(Error::Parameter(format!(
                "output {} is a file, expected a folder for several cases",
                display_name(output)
            )));
        }
        let name = output.file_name().unwrap_or_default().as_bytes();
        let is_named_as_file = split_ending(name).is_some() || name.ends_with(b".dcm");
        if is_folder && is_named_as_file && !output.is_dir() {
            return Err(Error::Parameter(format!(
                "output {} is named as a file, expected a folder: the input holds {} cases ({}, ...)",
                display_name(output),
                self.cases.len(),
                self.cases
                    .first()
                    .map(|case| display_name(case.id.as_ref()))
                    .unwrap_or_default()
            )));
        }
        let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let mut jobs = Vec::with_capacity(self.cases.len());
        for case in self.cases {
            let output = if is_folder {
                let mut name = case.id.clone();
                name.push(ending);
                output.join(name)
            } else {
                output.to_owned()
            };
            let first = case.channels.first().cloned().unwrap_or_default();
            for input in &case.channels {
                atomic::check_distinct(input, &output)?;
            }
            if let Some(other) = taken.insert(output.clone(), first.clone()) {
                return Err(Error::Parameter(format!(
                    "{} and {} would both be written to {}",
                    display_name(&other),
                    display_name(&first),
                    display_name(&output)
                )));
            }
            jobs.push(Job { case, output });
        }
        Ok(jobs)
    }
}

/// The file itself, also where its name has a comma, or the files with commas between.
pub fn listed_files(input: &Path) -> Vec<PathBuf> {
    if input.exists() {
        return vec![input.to_owned()];
    }
    let bytes = input.as_os_str().as_bytes();
    let parts = bytes.split(|&byte| byte == b',');
    parts
        .map(|part| PathBuf::from(OsStr::from_bytes(part)))
        .collect()
}

/// File name without the ending of its format, whatever its case; the whole name where it has none.
pub fn case_name(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let stem = split_ending(name).map_or(name, |(stem, _)| stem);
    OsString::from_vec(stem.to_vec())
}

/// Stem and ending of a volume's name; `None` for other names and for a bare ending.
fn split_ending(name: &[u8]) -> Option<(&[u8], &'static str)> {
    let endings = ENDINGS.into_iter().chain(picture::ENDINGS);
    endings.into_iter().find_map(|ending| {
        let (stem, tail) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
        (!stem.is_empty() && tail.eq_ignore_ascii_case(ending.as_bytes())).then_some((stem, ending))
    })
}

/// `case_0001` to `(case, 1)`: an underscore and exactly four digits at the end.
fn split_channel(stem: &OsStr) -> Option<(OsString, usize)> {
    let bytes = stem.as_bytes();
    let (id, tail) = bytes.split_at_checked(bytes.len().checked_sub(5)?)?;
    let digits = tail.strip_prefix(b"_")?;
    if id.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let channel = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((OsString::from_vec(id.to_vec()), channel))
}

/// One file, or the channel files of one case with commas between.
fn single_case(input: &Path, channels: Option<usize>) -> Result<Case> {
    let files = listed_files(input);
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        return Err(Error::Parameter(format!(
            "input {}: there is no such file",
            display_name(missing)
        )));
    }
    // Several files for a single channel are the slices of a series.
    if channels == Some(1) && files.len() > 1 && files.iter().all(|file| starts_as_dicom(file)) {
        return Ok(Case {
            id: files
                .first()
                .map(|file| case_name(file))
                .unwrap_or_default(),
            channels: vec![input.to_owned()],
        });
    }
    if let Some(expected) = channels.filter(|&n| files.len() > 1 && files.len() != n) {
        return Err(Error::Parameter(format!(
            "input {}: has {} channel files, expected {expected}",
            display_name(input),
            files.len()
        )));
    }
    let first = files
        .first()
        .map(|file| case_name(file))
        .unwrap_or_default();
    let id = match split_channel(&first) {
        Some((id, 0)) if channels.is_some() => id,
        _ => first,
    };
    Ok(Case {
        id,
        channels: files,
    })
}

fn cases_in_folder(folder: &Path, channels: Option<usize>) -> Result<Vec<Case>> {
    let files = volume_files(folder)?;
    if files.is_empty() {
        let studies = dicom_studies(folder)?;
        if studies.is_empty() {
            return Err(Error::Parameter(format!(
                "folder {}: holds no volume (.nii, .nii.gz, .hdr, .nrrd, .nhdr, .mha, .mhd, .png, .tif) and no DICOM files",
                display_name(folder)
            )));
        }
        return Ok(studies);
    }
    let plain = |file: PathBuf| Case {
        id: case_name(&file),
        channels: vec![file],
    };
    let Some(expected) = channels else {
        return Ok(files.into_iter().map(plain).collect());
    };
    let mut groups: BTreeMap<OsString, BTreeMap<usize, PathBuf>> = BTreeMap::new();
    let mut singles = Vec::new();
    for file in files {
        match split_channel(&case_name(&file)) {
            Some((id, channel)) => {
                if let Some(other) = groups.entry(id).or_default().insert(channel, file.clone()) {
                    return Err(Error::Parameter(format!(
                        "{} and {} are the same channel of one case",
                        display_name(&other),
                        display_name(&file)
                    )));
                }
            }
            None => singles.push(file),
        }
    }
    let mut cases = Vec::new();
    for (id, group) in groups {
        // `scan_2023.nii.gz` without a `scan_0000.nii.gz` is a name with a year, not channel 2023.
        if expected == 1 && !group.contains_key(&0) {
            singles.extend(group.into_values());
            continue;
        }
        match group.get(&0) {
            // A picture has its channels in one file.
            Some(file) if group.len() == 1 && picture::is_picture_name(file) => {
                let channels = vec![file.clone()];
                cases.push(Case { id, channels });
            }
            _ => cases.push(complete_case(id, group, expected)?),
        }
    }
    for file in singles {
        // One file per case: for several channels it must be a 4-D image, which reading will tell.
        cases.push(plain(file));
    }
    cases.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(cases)
}

/// A folder without volumes as DICOM: one case where its own files are DICOM, else one for every
/// folder in it (zip archives too) that holds a study.
fn dicom_studies(folder: &Path) -> Result<Vec<Case>> {
    let case = |path: PathBuf| Case {
        id: path
            .canonicalize()
            .ok()
            .as_deref()
            .unwrap_or(&path)
            .file_name()
            .unwrap_or_default()
            .to_owned(),
        channels: vec![path],
    };
    let entries = sorted_entries(folder)?;
    if entries
        .iter()
        .any(|path| path.is_file() && starts_as_dicom(path))
    {
        return Ok(vec![case(folder.to_owned())]);
    }
    let mut studies = Vec::new();
    for path in entries {
        if path.is_dir() && holds_dicom(&path, MOST_FOLDERS) {
            studies.push(case(path));
        }
    }
    Ok(studies)
}

/// Whether a DICOM file lies in a folder or at most `depth` folders below.
fn holds_dicom(folder: &Path, depth: usize) -> bool {
    let entries = sorted_entries(folder).unwrap_or_default();
    entries
        .iter()
        .any(|path| path.is_file() && starts_as_dicom(path))
        || depth > 0
            && entries
                .iter()
                .any(|path| path.is_dir() && !path.is_symlink() && holds_dicom(path, depth - 1))
}

/// What lies in a folder in byte order, hidden entries left out.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |source| Error::environment("read folder", display_name(folder), source);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if !path
            .file_name()
            .unwrap_or_default()
            .as_bytes()
            .starts_with(b".")
        {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

/// Checks that a group holds the channels 0 to `expected - 1` and no other.
fn complete_case(id: OsString, group: BTreeMap<usize, PathBuf>, expected: usize) -> Result<Case> {
    let shown = display_name(Path::new(&id));
    for channel in 0..expected {
        if !group.contains_key(&channel) {
            return Err(Error::Parameter(format!(
                "case {shown}: channel {channel} is missing, expected {shown}_{channel:04}.nii.gz beside {}",
                group
                    .values()
                    .next()
                    .map(|file| display_name(file))
                    .unwrap_or_default()
            )));
        }
    }
    if let Some((channel, file)) = group.iter().find(|&(&channel, _)| channel >= expected) {
        return Err(Error::Parameter(format!(
            "{}: is channel {channel}, expected channels 0 to {}",
            display_name(file),
            expected.saturating_sub(1)
        )));
    }
    Ok(Case {
        id,
        channels: group.into_values().collect(),
    })
}

/// The volumes of a folder by their endings, hidden ones left out, of each pair the header only,
/// in byte order. Pictures are taken from a folder that holds nothing else: beside volumes they are previews.
fn volume_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = sorted_entries(folder)?;
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        split_ending(name).is_some() && !path.is_dir()
    });
    if files.iter().any(|file| !picture::is_picture_name(file)) {
        files.retain(|file| !picture::is_picture_name(file));
    }
    let headers: Vec<OsString> = files
        .iter()
        .filter(|file| has_ending(file, [".hdr", ".hdr.gz"]))
        .map(|file| case_name(file))
        .collect();
    files.retain(|file| {
        !(has_ending(file, [".img", ".img.gz"]) && headers.contains(&case_name(file)))
    });
    Ok(files)
}

fn has_ending(file: &Path, endings: [&str; 2]) -> bool {
    let name = file.file_name().unwrap_or_default().as_bytes();
    split_ending(name).is_some_and(|(_, ending)| endings.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Overwrite;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(names: &[&[u8]]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in names {
                let path = folder.path().join(OsStr::from_bytes(name));
                atomic::write(&path, Overwrite::Refuse, b"x").unwrap();
            }
            Self(folder)
        }

        fn cases(&self, channels: Option<usize>) -> Result<Cases> {
            find_cases(&[self.0.path().to_owned()], channels)
        }

        fn ids(&self, channels: Option<usize>) -> Vec<OsString> {
            let cases = self.cases(channels).unwrap().cases;
            cases.into_iter().map(|case| case.id).collect()
        }
    }

    #[test]
    fn names_are_kept_exactly() {
        let names: [&[u8]; 8] = [
            "a b.nii.gz".as_bytes(),
            "간.nii".as_bytes(),
            b"new\nline.nii",
            b"-dash.nii.gz",
            b"a.v1.nii",
            b"trailing..nii",
            b"not-utf8-\xff.nii.gz",
            b"UPPER.NII.GZ",
        ];
        let folder = Folder::with(&names);
        let jobs = folder
            .cases(None)
            .unwrap()
            .jobs(Path::new("out"), ".nii.gz");
        let mut outputs: Vec<Vec<u8>> = jobs
            .unwrap()
            .iter()
            .map(|job| job.output.as_os_str().as_bytes().to_vec())
            .collect();
        outputs.sort();
        let mut expected: Vec<Vec<u8>> = [
            "out/a b.nii.gz".as_bytes(),
            "out/간.nii.gz".as_bytes(),
            b"out/new\nline.nii.gz",
            b"out/-dash.nii.gz",
            b"out/a.v1.nii.gz",
            b"out/trailing..nii.gz",
            b"out/not-utf8-\xff.nii.gz",
            b"out/UPPER.nii.gz",
        ]
        .map(<[u8]>::to_vec)
        .to_vec();
        expected.sort();
        assert_eq!(outputs, expected);
    }

    #[test]
    fn two_cases_never_share_an_output() {
        let folder = Folder::with(&[b"a.nii", b"a.nii.gz"]);
        let error = folder
            .cases(None)
            .unwrap()
            .jobs(Path::new("out"), ".nii.gz");
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("a.nii and ") && message.contains("out/a.nii.gz"),
            "{message}"
        );
    }

    #[test]
    fn channels_are_grouped_and_complete() {
        let folder = Folder::with(&[
            b"b_0001.nii.gz",
            b"b_0000.nii.gz",
            b"a_0000.nii",
            b"a_0001.nii",
        ]);
        assert_eq!(folder.ids(Some(2)), ["a", "b"]);
        let cases = folder.cases(Some(2)).unwrap().cases;
        assert!(cases[1].channels[0].ends_with("b_0000.nii.gz"));
        let message = |channels| folder.cases(Some(channels)).unwrap_err().to_string();
        assert!(
            message(3).contains("case a: channel 2 is missing"),
            "{}",
            message(3)
        );
        assert!(
            message(1).contains("a_0001.nii: is channel 1"),
            "{}",
            message(1)
        );
        assert_eq!(folder.ids(None).len(), 4);
    }

    #[test]
    fn one_channel_needs_no_number_and_a_year_is_none() {
        let folder = Folder::with(&[b"x_0000.nii.gz", b"plain.nii", b"scan_2023.nii.gz"]);
        assert_eq!(folder.ids(Some(1)), ["plain", "scan_2023", "x"]);
    }

    #[test]
    fn lists_with_commas_are_one_case() {
        let folder = Folder::with(&[b"t1_0000.nii.gz", b"t2.nii.gz", b"a,b.nii"]);
        let at = |name: &str| folder.0.path().join(name);
        let list = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|name| at(name).into_os_string()).collect();
            PathBuf::from(paths.join(OsStr::new(",")))
        };
        let cases = find_cases(&[list(&["t1_0000.nii.gz", "t2.nii.gz"])], Some(2)).unwrap();
        assert_eq!(cases.cases[0].id, "t1");
        assert_eq!(cases.cases[0].channels.len(), 2);
        assert!(!cases.is_batch);
        assert!(find_cases(&[list(&["t1_0000.nii.gz", "t2.nii.gz"])], Some(3)).is_err());
        let missing = find_cases(&[list(&["t2.nii.gz", "no.nii.gz"])], None).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("no.nii.gz: there is no such file")
        );
        let comma = find_cases(&[at("a,b.nii")], None).unwrap();
        assert_eq!(comma.cases[0].id, "a,b");
    }

    #[test]
    fn of_a_pair_the_header_is_the_case() {
        let folder = Folder::with(&[b"p.hdr", b"p.img", b".hidden.nii", b"notes.txt"]);
        assert_eq!(folder.ids(None), ["p"]);
        let empty = Folder::with(&[b"notes.txt"]);
        assert!(
            empty
                .cases(None)
                .unwrap_err()
                .to_string()
                .contains("holds no")
        );
    }

    #[test]
    fn an_output_is_a_file_for_one_case_and_a_folder_for_several() {
        let folder = Folder::with(&[b"a.nii", b"b.nii"]);
        let a = folder.0.path().join("a.nii");
        let one = || find_cases(std::slice::from_ref(&a), None).unwrap();
        let output = |path: &Path| one().jobs(path, ".nii.gz").unwrap()[0].output.clone();
        assert_eq!(output(Path::new("o.nii")), Path::new("o.nii"));
        assert_eq!(output(Path::new("-")), Path::new("-"));
        assert_eq!(output(Path::new("new/")), Path::new("new/a.nii.gz"));
        let inside = output(folder.0.path());
        assert_eq!(inside, folder.0.path().join("a.nii.gz"));
        assert!(one().jobs(&a, ".nii.gz").is_err());
        let both = || folder.cases(None).unwrap();
        assert!(both().jobs(Path::new("-"), ".nii.gz").is_err());
        assert!(both().jobs(&a, ".nii.gz").is_err());
        assert!(both().jobs(folder.0.path(), ".nii").is_err());
    }
}
