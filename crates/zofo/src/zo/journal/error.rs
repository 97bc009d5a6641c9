//! What can be wrong with a journal.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::header::FORMAT_VERSION;
use super::record::RECORD_BYTES;

/// Why a journal cannot be read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {action} the journal {}", path.display())]
    Io {
        /// The journal.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// There is a file where a journal was to be started.
    #[error("{} exists: resume that run, or choose another output folder", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file does not begin like a journal.
    #[error("{} is not a journal: it does not begin with \"ZOFOJRNL\"", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The format is not one that this program knows.
    #[error(
        "the journal {} has format version {found}; this program reads versions 1 to {FORMAT_VERSION}: \
         use the version of zofo that wrote it",
        path.display()
    )]
    FormatVersion {
        /// The journal.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The directions are made in another way.
    #[error(
        "the directions of the journal {} follow scheme {found}, those of this program scheme \
         {supported}: replay it with the version of zofo that wrote it",
        path.display()
    )]
    DirectionScheme {
        /// The journal.
        path: PathBuf,
        /// Its scheme.
        found: u32,
        /// The scheme of this program.
        supported: u32,
    },
    /// The file ends within the header.
    #[error(
        "the header of the journal {} is truncated: it takes {expected} bytes and the file has \
         {found}",
        path.display()
    )]
    TruncatedHeader {
        /// The journal.
        path: PathBuf,
        /// Bytes up to the end of the header.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The header's checksum does not fit its content.
    #[error(
        "the header of the journal {} is corrupt: its checksum is {stored:08x} and should be \
         {computed:08x}",
        path.display()
    )]
    CorruptHeader {
        /// The journal.
        path: PathBuf,
        /// The checksum in the file.
        stored: u32,
        /// The checksum of the content.
        computed: u32,
    },
    /// The header is not what it should be, though it is as it was written.
    #[error("the header of the journal {} cannot be understood", path.display())]
    Header {
        /// The journal.
        path: PathBuf,
        /// What is wrong with the JSON.
        source: serde_json::Error,
    },
    /// A header to be written does not fit its length field.
    #[error(
        "the header of the journal {} would take {bytes} bytes, more than 2^32 - 1",
        path.display()
    )]
    HeaderTooLarge {
        /// The journal.
        path: PathBuf,
        /// Bytes of the JSON.
        bytes: usize,
    },
    /// The last record is not whole.
    #[error(
        "record {record} of the journal {} is truncated: {bytes} of {RECORD_BYTES} bytes; a run \
         was killed while writing it, and all records before are intact",
        path.display()
    )]
    TruncatedRecord {
        /// The journal.
        path: PathBuf,
        /// The record, counted from 0.
        record: u64,
        /// Bytes of it that are there.
        bytes: usize,
    },
    /// A record's checksum does not fit its content.
    #[error(
        "record {record} of the journal {}, at byte {offset}, is corrupt: its checksum is \
         {stored:08x} and should be {computed:08x}",
        path.display()
    )]
    CorruptRecord {
        /// The journal.
        path: PathBuf,
        /// The record, counted from 0.
        record: u64,
        /// Where it begins in the file.
        offset: u64,
        /// The checksum in the file.
        stored: u32,
        /// The checksum of the content.
        computed: u32,
    },
    /// A record's step does not come after that of the record before.
    #[error(
        "record {record} of the journal {} has step {step}, which does not come after step \
         {previous}",
        path.display()
    )]
    StepOrder {
        /// The journal.
        path: PathBuf,
        /// The record, counted from 0.
        record: u64,
        /// Its step.
        step: u64,
        /// The step of the record before.
        previous: u64,
    },
    /// A record does not belong to the step of the others of its step.
    #[error(
        "record {record} of the journal {} has step {step} and should have step {expected}: a step has {per_step} records",
        path.display()
    )]
    StepSize {
        /// The journal.
        path: PathBuf,
        /// The record, counted from 0.
        record: u64,
        /// Its step.
        step: u64,
        /// The step of the record before.
        expected: u64,
        /// Records of a step.
        per_step: u32,
    },
    /// A record has a number with which no update can be made.
    #[error(
        "record {record} of the journal {} has the {field} {value}, which is not finite",
        path.display()
    )]
    NotFinite {
        /// The journal.
        path: PathBuf,
        /// The record, counted from 0.
        record: u64,
        /// The name of the number.
        field: &'static str,
        /// The number.
        value: f32,
    },
    /// There are fewer records than a checkpoint counts on.
    #[error(
        "the journal {} has {found} records, but the checkpoint was made after {expected}: they \
         belong to different runs, or the journal was cut",
        path.display()
    )]
    TooShort {
        /// The journal.
        path: PathBuf,
        /// Records to be kept.
        expected: u64,
        /// Records that are there.
        found: u64,
    },
}

impl JournalError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}
