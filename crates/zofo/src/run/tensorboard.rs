//! Event files for TensorBoard: the numbers of `metrics.jsonl` as scalars, if `run.tensorboard` says so.
//!
//! A file is a sequence of [`record`]s, each of which holds an [`Event`]. Every process that works on a run writes a file
//! of its own, as TensorFlow and PyTorch do. It begins with a session's start at the step that the process goes on from:
//! TensorBoard then forgets what earlier files have of that step and of later ones, which a kill made void.

mod message;
mod record;
mod scalars;

use super::error::RunError;
use message::Event;
use scalars::Scalars;
use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What TensorBoard recognises event files by.
const PREFIX: &str = "events.out.tfevents.";

/// How far a run is. On the axis of steps a warm start comes before step 0: of 3 inner steps, they are −3, −2 and −1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Outer steps that were taken.
    pub(super) step: u64,
    /// Inner steps of the warm start that were taken.
    pub(super) warm_steps: usize,
    /// All inner steps of the warm start.
    pub(super) warm_start: usize,
}

impl Progress {
    /// The first place on the axis of which there may be more to come. The last step is such a place: a checkpoint can have
    /// come between it and its evaluation.
    fn place(self) -> i64 {
        if self.step > 0 { self.step as i64 } else { self.warm_steps as i64 - self.warm_start as i64 }
    }

    /// The first place on the axis.
    fn beginning(self) -> i64 {
        -(self.warm_start as i64)
    }
}

/// Writes the events of one process.
pub(super) struct EventFile {
    writer: BufWriter<fs::File>,
    path: PathBuf,
    /// Inner steps of the warm start.
    warm_start: usize,
    /// Earlier files have what is before this place.
    from: i64,
}

impl EventFile {
    /// Makes a new file in `folder`. If it is the first one there, it is to have the whole run from its beginning, also of
    /// a run that is resumed.
    pub(super) fn create(folder: &Path, progress: Progress) -> Result<Self, RunError> {
        fs::create_dir_all(folder).map_err(RunError::io(folder))?;
        let latest = latest(folder).map_err(RunError::io(folder))?;
        let now = jiff::Timestamp::now().as_second();
        // TensorBoard reads files in the order of their names, even if the clock does not agree.
        let seconds = latest.map_or(now, |latest| now.max(latest.saturating_add(1)));
        let host = gethostname::gethostname();
        let path = folder.join(format!("{PREFIX}{seconds:010}.{}", host.to_string_lossy()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(RunError::io(&path))?;
        let from = if latest.is_some() { progress.place() } else { progress.beginning() };
        let mut events = Self { writer: BufWriter::new(file), path, warm_start: progress.warm_start, from };
        events.append(&Event::file_version(wall_time()))?;
        events.append(&Event::start(wall_time(), from))?;
        Ok(events)
    }

    /// Appends the numbers of a line of `metrics.jsonl`, unless an earlier file has them. A line that is no JSON object, as
    /// only somebody else can have made it, has none.
    pub(super) fn write(&mut self, line: &[u8]) -> Result<(), RunError> {
        let scalars = serde_json::from_slice(line).ok().and_then(|record| Scalars::of(&record, self.warm_start));
        match scalars.filter(|scalars| scalars.step >= self.from) {
            Some(scalars) => self.append(&Event::summary(wall_time(), scalars)),
            None => Ok(()),
        }
    }

    fn append(&mut self, event: &Event) -> Result<(), RunError> {
        self.writer.write_all(&record::framed(event)).map_err(RunError::io(&self.path))
    }

    /// Makes sure that all is on disk.
    pub(super) fn sync(&mut self) -> Result<(), RunError> {
        self.writer.flush().and_then(|()| self.writer.get_ref().sync_data()).map_err(RunError::io(&self.path))
    }
}

/// The seconds in the name of the last event file.
fn latest(folder: &Path) -> std::io::Result<Option<i64>> {
    let mut latest = None;
    for entry in folder.read_dir()? {
        let name = entry?.file_name();
        let seconds = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        latest = latest.max(seconds);
    }
    Ok(latest)
}

/// Now, in seconds since 1970, to the microsecond.
fn wall_time() -> f64 {
    jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}

#[cfg(test)]
mod tests;
