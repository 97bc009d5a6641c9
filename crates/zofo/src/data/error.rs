//! What can go wrong with a file of rows.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::format::Format;

/// A file that cannot be read on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The system refuses, or compressed data are damaged.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The name does not tell what is in it.
    #[error(
        "{}: the name does not tell the format: expected it to end in {}, and then in .gz or .zst if it is compressed",
        .path.display(),
        Format::endings()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },

    /// The content is not what the name says.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What the format has there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl DataError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    pub(super) fn content(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), expected: expected.into(), found: found.into() }
    }
}

/// A row that is not one. Those behind it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its line or number, from 1.
    pub number: usize,
    /// What the format has there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Why there is no row.
#[derive(Debug)]
pub enum RowError {
    /// This one cannot be used.
    Bad(BadRow),
    /// Neither can anything behind it.
    Broken(DataError),
}

impl RowError {
    pub(super) fn bad(number: usize, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Bad(BadRow { number, expected: expected.into(), found: found.into() })
    }
}

impl From<DataError> for RowError {
    fn from(error: DataError) -> Self {
        Self::Broken(error)
    }
}
