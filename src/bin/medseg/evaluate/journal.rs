//! What an interrupted run leaves for `--resume`: one line of settings, then one line per scored case. A cut last line is
//! no harm.

use super::items::Files;
use super::scoring::Job;
use anyhow::Context as _;
use medseg::evaluate::case::CaseScores;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Sizes and times of change of all files of a case, by which a resumed run knows that nothing was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(Vec<[u64; 3]>);

impl Stamp {
    /// Of the files of a case.
    pub fn of(files: &Files) -> Self {
        let of = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            let changed = data.modified().ok()?;
            let changed = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
            let nanoseconds = u64::from(changed.subsec_nanos());
            Some([data.len(), changed.as_secs(), nanoseconds])
        };
        Self(
            files
                .all()
                .map(|path| of(path).unwrap_or_default())
                .collect(),
        )
    }
}

/// Scores of an interrupted run.
pub type Known = BTreeMap<String, (Stamp, CaseScores)>;

impl Job<'_> {
    fn journal_path(&self) -> PathBuf {
        let mut name = self.args.output.clone().into_os_string();
        name.push(".partial");
        name.into()
    }

    /// The line that says what the scores depend on.
    fn head(&self) -> anyhow::Result<String> {
        let options = format!("{:?}", self.options);
        Ok(serde_json::to_string(&(
            env!("CARGO_PKG_VERSION"),
            self.settings,
            options,
        ))?)
    }

    pub fn open_journal(&self, cases: usize, known: &Known) -> anyhow::Result<Option<Mutex<File>>> {
        if cases < 2 || self.args.output == Path::new("-") {
            return Ok(None);
        }
        let path = self.journal_path();
        let created = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path);
        let mut file = created.with_context(|| format!("creating {}", path.display()))?;
        // Written anew also when resuming: the last line of an interrupted run may be cut.
        let mut text = self.head()?;
        text.push('\n');
        for (stamp, scores) in known.values() {
            text += &serde_json::to_string(&(stamp, scores))?;
            text.push('\n');
        }
        file.write_all(text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Some(Mutex::new(file)))
    }

    pub fn note(&self, journal: &Mutex<File>, scores: &CaseScores, stamp: &Stamp) {
        let Ok(mut line) = serde_json::to_string(&(stamp, scores)) else {
            return;
        };
        line.push('\n');
        let mut file = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.cx
                .warn("journal", &format!("this run cannot be resumed: {error}"));
        }
    }

    pub fn read_journal(&self) -> anyhow::Result<Known> {
        let path = self.journal_path();
        let Ok(file) = File::open(&path) else {
            return Ok(Known::new());
        };
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose().ok().flatten().unwrap_or_default();
        anyhow::ensure!(
            head == self.head()?,
            "{} was made with other settings: delete it or leave --resume out",
            path.display()
        );
        let cases = lines.map_while(Result::ok).filter_map(|line| {
            let (stamp, scores): (Stamp, CaseScores) = serde_json::from_str(&line).ok()?;
            Some((scores.case.clone(), (stamp, scores)))
        });
        Ok(cases.collect())
    }

    /// Removes the journal of a finished run.
    pub fn forget(output: &Path) {
        let mut name = output.to_owned().into_os_string();
        name.push(".partial");
        // It may not exist; if it cannot be removed, it is only in the way of nobody.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}
