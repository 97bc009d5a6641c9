//! Rows from files: JSON Lines, JSON lists, CSV, TSV and Parquet, each plain or compressed.
//!
//! [`Rows::open`] tells the format from the file's name and gives one [`Row`] after the other, a JSON object with its
//! place. Text is never held whole: what is in memory is one row (of Parquet one page of each column), and a row longer
//! than [`LONGEST_ROW`] is refused before it is read to its end. Only a JSON list and a compressed Parquet file, which
//! cannot be read in pieces, are held as a whole, up to [`LARGEST_WHOLE_FILE`].

mod compressed;
mod delimited;
mod error;
mod format;
mod json;
mod lines;
mod parquet;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Map, Value};

pub use error::{BadRow, DataError, RowError};
pub use format::{Compression, FileKind, Format};

/// Bytes of the longest row of a text file: 64 MiB, several times the context of any model.
pub const LONGEST_ROW: usize = 64 << 20;

/// Bytes of the largest file that is held as a whole, unpacked: 1 GiB.
pub const LARGEST_WHOLE_FILE: u64 = 1 << 30;

/// One row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its line, from 1; where rows are not lines, its number.
    pub number: usize,
    /// Its fields, in the order of the file.
    pub values: Map<String, Value>,
}

/// What a format gives row by row.
type RowIterator = Box<dyn Iterator<Item = Result<Row, RowError>> + Send>;

/// The rows of one file, in order. After [`RowError::Broken`] there are no more.
pub struct Rows {
    rows: RowIterator,
    has_types: bool,
    is_broken: bool,
}

impl Rows {
    /// Opens a file of rows.
    ///
    /// # Errors
    /// A name that tells no format; a file that cannot be read, is damaged, or has no usable header.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let kind = FileKind::of(path).ok_or_else(|| DataError::UnknownFormat { path: path.to_owned() })?;
        let rows = match kind.format {
            Format::JsonLines => json::lines(path, compressed::open(path, kind.compression)?),
            Format::Json => json::list_or_lines(path, compressed::open(path, kind.compression)?)?,
            Format::Csv => delimited::rows(path, compressed::open(path, kind.compression)?, b',')?,
            Format::Tsv => delimited::rows(path, compressed::open(path, kind.compression)?, b'\t')?,
            Format::Parquet => parquet::rows(path, kind.compression)?,
        };
        Ok(Self { rows, has_types: kind.format.has_types(), is_broken: false })
    }

    /// Whether values have types. If not, all are strings, and a number is one that has its digits.
    pub fn has_types(&self) -> bool {
        self.has_types
    }
}

impl Iterator for Rows {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        let row = self.rows.next();
        self.is_broken = matches!(row, Some(Err(RowError::Broken(_))));
        row
    }
}
