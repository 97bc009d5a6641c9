//! `journal.zofo`: every update of θ, 32 bytes each, enough to rebuild θ from the base model with
//! no data and no forward pass.
//!
//! # Format, versions 1 to 3
//!
//! All numbers are little endian.
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | `ZOFOJRNL` |
//! | 8 | 4 | format version, `u32` |
//! | 12 | 4 | length n of the header, `u32` |
//! | 16 | n | the header, JSON: [`JournalHeader`] |
//! | 16 + n | 4 | CRC-32 (IEEE) of all bytes before |
//! | 20 + n + 32 i | 32 | record i |
//!
//! A record is step `u64`, seed `u64`, slope `f32`, learning rate `f32`, coefficient `f32` and the
//! CRC-32 of these 28 bytes. The update is θ ← θ − coefficient·z with the direction z of the seed.
//! The optimizer `adam` makes no such update: its record has the learning rate as coefficient, which
//! multiplies m̂/(√v̂ + ε), and m and v are rebuilt from slope·z of this record and all before. Steps
//! increase; a skipped step has no record.
//!
//! Version 2 has the entry `updates` in its header, an [`UpdateScheme`]: what directions are, how many records make a step
//! (one per direction, of the same step), and the weight decay, which is applied once per step.
//!
//! Version 3 has the entry `momentum` in `updates`, β and W. A record then has its own step's slope and coefficient, as
//! without; after the update of a step, θ ← θ − η·βʲ·(slope/q)·z follows for the q records of each of the steps j = 1 … W − 1
//! before it that have any, with the learning rate η of the present one. This file is all that momentum needs.

mod error;
mod header;
mod record;

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

pub use self::error::JournalError;
pub(super) use self::header::decimal;
pub use self::header::{Constant, FORMAT_VERSION, JournalHeader, OptimizerRecord, TensorFingerprint, UpdateScheme};
pub use self::record::{RECORD_BYTES, Record};

/// A journal as it was found on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    /// What the updates belong to.
    pub header: JournalHeader,
    /// The updates, steps increasing.
    pub records: Vec<Record>,
    /// Bytes of an unfinished record at the end, which a killed run may leave; 0 unless the journal
    /// was read by [`Journal::read_tolerant`].
    pub ignored_bytes: usize,
}

impl Journal {
    /// Reads a journal and checks every byte of it.
    ///
    /// # Errors
    ///
    /// Every kind of [`JournalError`] about a file's content; [`JournalError::TruncatedRecord`] if
    /// the last record is not whole.
    pub fn read(path: &Path) -> Result<Self, JournalError> {
        let journal = Self::read_tolerant(path)?;
        if journal.ignored_bytes > 0 {
            return Err(JournalError::TruncatedRecord {
                path: path.to_owned(),
                record: journal.records.len() as u64,
                bytes: journal.ignored_bytes,
            });
        }
        Ok(journal)
    }

    /// Reads the header alone: what follows it need not be readable.
    ///
    /// # Errors
    ///
    /// Every kind of [`JournalError`] about a header.
    pub fn read_header(path: &Path) -> Result<JournalHeader, JournalError> {
        header::decode(path, &read_file(path)?).map(|(header, _)| header)
    }

    /// Reads a journal whose last record may be unfinished, and says how much was ignored.
    ///
    /// # Errors
    ///
    /// Those of [`Journal::read`] but [`JournalError::TruncatedRecord`].
    pub fn read_tolerant(path: &Path) -> Result<Self, JournalError> {
        let bytes = read_file(path)?;
        let (header, body) = header::decode(path, &bytes)?;
        let (whole, tail) = bytes[body..].as_chunks::<RECORD_BYTES>();
        // A step that is not whole is as little an update as half a record.
        let per_step = header.updates.per_step;
        let torn = whole.len() % per_step.get() as usize;
        let records = record::decode_all(path, body, per_step, &whole[..whole.len() - torn])?;
        Ok(Self { header, records, ignored_bytes: torn * RECORD_BYTES + tail.len() })
    }
}

/// Appends records to a journal.
#[derive(Debug)]
pub struct JournalWriter {
    path: PathBuf,
    file: File,
    /// Where the first record begins.
    body: u64,
    /// Records of a step.
    per_step: NonZeroU32,
    /// Steps of the records on disk; as many as there are records.
    steps: Vec<u64>,
}

impl JournalWriter {
    /// Starts a journal with a header and no record.
    ///
    /// # Errors
    ///
    /// [`JournalError::Exists`] if there is a file, which is left alone; [`JournalError::Io`] if
    /// the header cannot be written, in which case no file is left.
    pub fn create(path: &Path, header: &JournalHeader) -> Result<Self, JournalError> {
        let bytes = header::encode(path, header)?;
        let opened = OpenOptions::new().write(true).create_new(true).open(path);
        let mut file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => JournalError::Exists { path: path.to_owned() },
            _ => JournalError::io(path, "create", source),
        })?;
        if let Err(source) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
            // Half a header helps nobody and would be in the way of the next attempt. The error
            // that is reported is the one that has a cause to be found.
            let _ = fs::remove_file(path);
            return Err(JournalError::io(path, "write the header of", source));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            body: bytes.len() as u64,
            per_step: header.updates.per_step,
            steps: Vec::new(),
        })
    }

    /// Continues a journal after its first `records` records, as a checkpoint has them, and cuts
    /// off what follows. What is cut off need not be readable: a crash may have left anything.
    ///
    /// Returns the writer and what the journal holds now.
    ///
    /// # Errors
    ///
    /// Every kind of [`JournalError`] about a file's content, for the part that is kept;
    /// [`JournalError::TooShort`] if there are fewer records.
    pub fn resume(path: &Path, records: u64) -> Result<(Self, Journal), JournalError> {
        let bytes = read_file(path)?;
        let (header, body) = header::decode(path, &bytes)?;
        let whole = bytes[body..].as_chunks::<RECORD_BYTES>().0;
        let kept = usize::try_from(records).ok().and_then(|records| whole.get(..records));
        let kept = kept.ok_or_else(|| JournalError::TooShort {
            path: path.to_owned(),
            expected: records,
            found: whole.len() as u64,
        })?;
        let per_step = header.updates.per_step;
        let records = record::decode_all(path, body, per_step, kept)?;
        let file = OpenOptions::new().write(true).open(path);
        let mut writer = Self {
            path: path.to_owned(),
            file: file.map_err(|source| JournalError::io(path, "open", source))?,
            body: body as u64,
            per_step,
            steps: records.iter().map(|record| record.step).collect(),
        };
        writer.set_length()?;
        writer.sync()?;
        Ok((writer, Journal { header, records, ignored_bytes: 0 }))
    }

    /// Records in the journal.
    pub fn records(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Appends a record. It survives the process from here on, and a loss of power after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// [`JournalError::StepOrder`] or [`JournalError::StepSize`] if the step does not come after the last one;
    /// [`JournalError::NotFinite`] if one of the numbers is not finite; [`JournalError::Io`] if it
    /// cannot be written, for example because the disk is full: the journal is then as it was.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        record::check(&self.path, self.records(), self.per_step, self.steps.last().copied(), record)?;
        if let Err(source) = self.file.write_all(&record.to_bytes()) {
            // Half a record may be there; the error to report is the first one.
            let _ = self.set_length();
            return Err(JournalError::io(&self.path, "append to", source));
        }
        self.steps.push(record.step);
        Ok(())
    }

    /// Waits until every record is on the disk.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_all().map_err(|source| JournalError::io(&self.path, "sync", source))
    }

    /// Cuts the journal back to its first `records` records; later ones replace the rest.
    ///
    /// # Errors
    ///
    /// [`JournalError::TooShort`] if there are fewer; [`JournalError::Io`].
    pub fn truncate_to(&mut self, records: u64) -> Result<(), JournalError> {
        let found = self.records();
        let kept = usize::try_from(records).ok().filter(|&kept| kept <= self.steps.len());
        let kept = kept.ok_or_else(|| JournalError::TooShort { path: self.path.clone(), expected: records, found })?;
        self.steps.truncate(kept);
        self.set_length()?;
        self.sync()
    }

    /// Makes the file as long as its records and puts the next one at its end.
    fn set_length(&mut self) -> Result<(), JournalError> {
        let end = self.body + self.records() * RECORD_BYTES as u64;
        let cut = self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end)));
        cut.map(drop).map_err(|source| JournalError::io(&self.path, "truncate", source))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, JournalError> {
    fs::read(path).map_err(|source| JournalError::io(path, "read", source))
}
