//! `metrics.jsonl`: one JSON object per step and per evaluation.

use super::error::RunError;
use super::tensorboard::{EventFile, Progress};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Appends events. Every line is written at once, so that a reader never sees half of one for long.
pub(super) struct Metrics {
    file: File,
    path: PathBuf,
    bytes: u64,
    tensorboard: Option<EventFile>,
}

#[derive(Serialize)]
struct Event<'a, T> {
    event: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

impl Metrics {
    /// Opens the file and cuts it back to the `bytes` that a checkpoint vouches for. Also returns how many of them are
    /// missing.
    pub(super) fn open(path: &Path, bytes: u64) -> Result<(Self, u64), RunError> {
        let open = || {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let kept = bytes.min(file.metadata()?.len());
            file.set_len(kept)?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, kept))
        };
        let (file, kept) = open().map_err(RunError::io(path))?;
        Ok((Self { file, path: path.to_owned(), bytes: kept, tensorboard: None }, bytes - kept))
    }

    /// Writes to a new event file in `folder` as well. It begins with what there is already and no event file has.
    pub(super) fn write_tensorboard(&mut self, folder: &Path, progress: Progress) -> Result<(), RunError> {
        let mut events = EventFile::create(folder, progress)?;
        let file = File::open(&self.path).map_err(RunError::io(&self.path))?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(RunError::io(&self.path))?;
            events.write(&line)?;
        }
        // A later process takes for granted that this one wrote them.
        events.sync()?;
        self.tensorboard = Some(events);
        Ok(())
    }

    /// Appends one event.
    pub(super) fn write(&mut self, event: &str, fields: &impl Serialize) -> Result<(), RunError> {
        let line = serde_json::to_string(&Event { event, fields });
        let mut line = line.map_err(|error| RunError::io(&self.path)(error.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(RunError::io(&self.path))?;
        self.bytes += line.len() as u64;
        match &mut self.tensorboard {
            Some(events) => events.write(line.as_bytes()),
            None => Ok(()),
        }
    }

    /// Makes sure that all is on disk; returns the file's length, for a checkpoint.
    pub(super) fn sync(&mut self) -> Result<u64, RunError> {
        self.file.sync_data().map_err(RunError::io(&self.path))?;
        if let Some(events) = &mut self.tensorboard {
            events.sync()?;
        }
        Ok(self.bytes)
    }
}
