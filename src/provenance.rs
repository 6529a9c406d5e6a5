//! What a run was made from: version, command line, inputs with checksums, timings, peak memory.
//!
//! Outputs carry no time stamps, so that the same input gives the same bytes; whatever changes from run
//! to run stands in the run report (`--report FILE`).

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The run report. Serialises to one JSON object with keys in declaration order.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// Always `medseg`.
    pub program: &'static str,
    /// Version of medseg.
    pub version: &'static str,
    /// The command line as given.
    pub command_line: Vec<String>,
    /// Seconds since 1970-01-01 UTC when the run began.
    pub started_unix_s: u64,
    /// Wall-clock seconds of the whole run.
    pub wall_s: f64,
    /// Worker threads.
    pub threads: usize,
    /// Memory: budget, what was predicted, what was used.
    pub memory: Memory,
    /// The model, as `medseg info` describes it, where one was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<serde_json::Value>,
    /// Settings that decide the result, name to value.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// One entry per case, in the order of the inputs.
    pub cases: Vec<CaseRecord>,
    /// Everything that was warned of.
    pub warnings: Vec<String>,
}

/// Memory figures of a run, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// The budget (`--memory-limit`).
    pub limit_bytes: u64,
    /// Largest peak that was predicted for a case before it began.
    pub predicted_peak_bytes: u64,
    /// Peak resident set of the process; null where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The output was written.
    Done,
    /// The output existed already and was left alone.
    Skipped,
    /// No output; `error` says why.
    Failed,
}

/// What happened to one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseRecord {
    /// Name of the case.
    pub case: String,
    /// Done, skipped or failed.
    pub status: Status,
    /// The files that were read.
    pub inputs: Vec<InputFile>,
    /// The files that were written.
    pub outputs: Vec<String>,
    /// Seconds per phase, in order.
    pub phases: Vec<Phase>,
    /// The error of a failed case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the command says of the case besides, beside the other fields.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl CaseRecord {
    /// A case that ended so, without files yet.
    pub fn new(case: impl Into<String>, status: Status) -> Self {
        Self {
            case: case.into(),
            status,
            inputs: Vec::new(),
            outputs: Vec::new(),
            phases: Vec::new(),
            error: None,
            fields: serde_json::Map::new(),
        }
    }
}

/// A file that was read.
#[derive(Debug, Clone, Serialize)]
pub struct InputFile {
    /// Path as given, `-` for standard input.
    pub path: String,
    /// Size in bytes; null for a stream.
    pub bytes: Option<u64>,
    /// SHA-256 in hexadecimal; null for a stream.
    pub sha256: Option<String>,
}

/// One phase of a case.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Name, for example `preprocess`.
    pub name: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl RunReport {
    /// An empty report of a run that began at `started`.
    pub fn new(
        command_line: Vec<String>,
        threads: usize,
        limit_bytes: u64,
        started: Instant,
    ) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            program: "medseg",
            version: env!("CARGO_PKG_VERSION"),
            command_line,
            started_unix_s: now.saturating_sub(started.elapsed().as_secs()),
            wall_s: 0.0,
            threads,
            memory: Memory {
                limit_bytes,
                ..Memory::default()
            },
            model: None,
            settings: serde_json::Map::new(),
            cases: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl InputFile {
    /// Size and SHA-256 of a file. Reads it once.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let mut hasher = Sha256::new();
        let mut bytes = 0_u64;
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        let sha256 = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            path: path.display().to_string(),
            bytes: Some(bytes),
            sha256: Some(sha256),
        })
    }

    /// The same, where only a run that is reported needs the checksum: reading a file once more costs time.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn named(path: &Path, with_checksum: bool) -> std::io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::standard_input());
        }
        // A series of files or an archive of one has no checksum of its own.
        if with_checksum && path.is_file() {
            return Self::of(path);
        }
        Ok(Self {
            path: path.display().to_string(),
            ..Self::standard_input()
        })
    }

    /// Standard input.
    pub fn standard_input() -> Self {
        Self {
            path: "-".to_owned(),
            bytes: None,
            sha256: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_one_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        let input = InputFile::of(&path).unwrap();
        assert_eq!(input.bytes, Some(3));
        assert_eq!(
            input.sha256.as_deref(),
            Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }
}
