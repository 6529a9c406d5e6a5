//! What can go wrong with files, grouped by who has to act.

use crate::volume::{GridMismatch, LabelError};
use std::path::{Path, PathBuf};

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with files, grouped by who has to act. Every message is one line and names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is damaged or contradicts itself: get another copy.
    #[error("{file}: {problem}")]
    Malformed {
        /// Name of the file as shown to people.
        file: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// The file is sound but holds something medseg does not read: convert it.
    #[error("{file}: {problem}")]
    Unsupported {
        /// Name of the file as shown to people.
        file: String,
        /// What was found and what is read instead.
        problem: String,
    },
    /// A voxel of a label map is no label number: choose another file or the right channel.
    #[error("{file}: {source}")]
    NotALabelMap {
        /// Name of the file as shown to people.
        file: String,
        /// The first such voxel.
        source: LabelError,
    },
    /// The request cannot be met as it stands: change the command line.
    #[error("{0}")]
    Parameter(String),
    /// The output exists and was not to be replaced.
    #[error("{} already exists", display_name(.0))]
    Exists(PathBuf),
    /// Voxels and the geometry they should be written with do not belong together.
    #[error("{file}: the voxels do not fit the header geometry: {source}")]
    Geometry {
        /// Name of the file as shown to people.
        file: String,
        /// The first difference.
        source: GridMismatch,
    },
    /// More memory than allowed: raise the limit or use a larger machine.
    #[error("{what}: needs {}, limit {}", gib(*.needed_bytes), gib(*.limit_bytes))]
    OverLimit {
        /// The file or the work that needs the memory.
        what: String,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes allowed.
        limit_bytes: u64,
    },
    /// The operating system refused: permissions, a full disk, a missing file, a closed pipe.
    #[error("cannot {action} {file}: {source}")]
    Environment {
        /// What was tried, as a verb: `read`, `write`, `create`, `replace`.
        action: &'static str,
        /// Name of the file as shown to people.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn malformed(file: &str, problem: impl Into<String>) -> Self {
        Self::Malformed {
            file: file.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unsupported(file: &str, problem: impl Into<String>) -> Self {
        Self::Unsupported {
            file: file.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn environment(
        action: &'static str,
        file: impl Into<String>,
        source: std::io::Error,
    ) -> Self {
        Self::Environment {
            action,
            file: file.into(),
            source,
        }
    }

    /// Whether the reader of our output went away. Commands end quietly with exit code 0 then.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Environment { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Longest list of files that is shown whole, in bytes.
const LONGEST_LIST: usize = 400;

/// A file name for messages: control characters escaped so that a message stays one line, `-` spelled out, long lists of files shortened.
pub fn display_name(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown == "-" {
        return "standard input".to_owned();
    }
    if shown.is_empty() {
        return "\"\"".to_owned();
    }
    let shown = match shown.split_once(',') {
        // The slices of a series, one by one.
        Some((first, rest)) if shown.len() > LONGEST_LIST && !path.exists() => {
            format!("{first} and {} more files", rest.split(',').count())
        }
        _ => shown,
    };
    let mut escaped = String::with_capacity(shown.len());
    for character in shown.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Bytes for people: `12 bytes`, `3.4 KiB`, `1.50 GiB`.
pub(crate) fn gib(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let value = bytes as f64;
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else if value < KIB * KIB {
        format!("{:.1} KiB", value / KIB)
    } else if value < 0.1 * KIB.powi(3) {
        format!("{:.1} MiB", value / KIB.powi(2))
    } else {
        format!("{:.2} GiB", value / KIB.powi(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_in_a_name_keeps_the_message_on_one_line() {
        assert_eq!(display_name(Path::new("a\nb 한글.nii")), "a\\nb 한글.nii");
        assert_eq!(display_name(Path::new("")), "\"\"");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(gib(11), "11 bytes");
        assert_eq!(gib(4096), "4.0 KiB");
        assert_eq!(gib(10 << 30), "10.00 GiB");
        assert_eq!(gib(u64::MAX), "17179869184.00 GiB");
    }

    #[test]
    fn only_a_closed_pipe_is_a_broken_pipe() {
        let error = |kind| Error::environment("write", "x", std::io::Error::from(kind));
        assert!(error(std::io::ErrorKind::BrokenPipe).is_broken_pipe());
        assert!(!error(std::io::ErrorKind::StorageFull).is_broken_pipe());
    }
}
