//! `sweep.jsonl`: which runs were started, with which settings, and how they ended.

use super::error::SweepError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "sweep.jsonl";

/// How a run ended, as far as it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "reason")]
pub enum RunStatus {
    /// It was started, and its end was not seen: the sweep goes on with it.
    Started,
    /// All is written.
    Finished,
    /// It failed, for this reason.
    Failed(String),
    /// It was interrupted, and saved: the sweep goes on with it.
    Interrupted,
}

/// The latest on a run.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// What it was started with.
    pub settings: BTreeMap<String, String>,
    /// How it ended.
    pub status: RunStatus,
    /// Seconds of all its processes whose end was seen, with loading and evaluation.
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Line {
    Started {
        run: String,
        settings: BTreeMap<String, String>,
    },
    Ended {
        run: String,
        #[serde(flatten)]
        status: RunStatus,
        seconds: f64,
    },
}

/// The file, to be continued.
pub struct SweepLog {
    path: PathBuf,
    file: File,
}

impl SweepLog {
    /// What the file of a sweep's folder says of its runs; nothing if there is none. Lines that cannot be read are passed
    /// over: the run's own folder says what is in it.
    ///
    /// # Errors
    ///
    /// [`SweepError::Read`].
    pub fn read(folder: &Path) -> Result<BTreeMap<String, LogEntry>, SweepError> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            bytes => bytes.map_err(|source| SweepError::Read { path, source })?,
        };
        let mut entries: BTreeMap<String, LogEntry> = BTreeMap::new();
        for line in bytes.split(|&byte| byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Line::Started { run, settings }) => {
                    let seconds = entries.get(&run).map_or(0.0, |entry| entry.seconds);
                    entries.insert(run, LogEntry { settings, status: RunStatus::Started, seconds });
                }
                Ok(Line::Ended { run, status, seconds }) => {
                    if let Some(entry) = entries.get_mut(&run) {
                        entry.status = status;
                        entry.seconds += seconds;
                    }
                }
                Err(_) => {}
            }
        }
        Ok(entries)
    }

    /// Opens the file to append, and makes it if need be. A last line that was cut by a kill is removed.
    ///
    /// # Errors
    ///
    /// [`SweepError::Io`].
    pub fn open(folder: &Path) -> Result<Self, SweepError> {
        let path = folder.join(FILE);
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let whole = fs::read(&path)?.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(SweepError::io(&path))?;
        Ok(Self { path, file })
    }

    pub(super) fn started(&mut self, run: &str, settings: &BTreeMap<String, String>) -> Result<(), SweepError> {
        self.write(&Line::Started { run: run.to_owned(), settings: settings.clone() })
    }

    pub(super) fn ended(&mut self, run: &str, status: &RunStatus, seconds: f64) -> Result<(), SweepError> {
        self.write(&Line::Ended { run: run.to_owned(), status: status.clone(), seconds })
    }

    fn write(&mut self, line: &Line) -> Result<(), SweepError> {
        let mut write = || {
            let mut text = serde_json::to_string(line)?;
            text.push('\n');
            self.file.write_all(text.as_bytes())?;
            self.file.sync_data()
        };
        write().map_err(SweepError::io(&self.path))
    }
}
