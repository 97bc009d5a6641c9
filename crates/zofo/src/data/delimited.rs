//! Values between commas or tabs, as RFC 4180 and most programs write them: names of columns in the first line, quotes
//! around values that have separators or line breaks in them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind};
use serde_json::{Map, Value};

use super::compressed::Bytes;
use super::error::{DataError, RowError};
use super::{LONGEST_ROW, Row, RowIterator};

/// The rows of a file whose values `separator` parts. All values are strings.
pub(super) fn rows(path: &Path, bytes: Bytes, separator: u8) -> Result<RowIterator, DataError> {
    rows_below(path, bytes, separator, LONGEST_ROW).map(|rows| Box::new(rows) as RowIterator)
}

fn rows_below(path: &Path, bytes: Bytes, separator: u8, limit: usize) -> Result<Delimited, DataError> {
    let limited = Limited { bytes, left: limit, limit };
    // The header is read as any other row, so that the two are counted and checked alike.
    let reader = csv::ReaderBuilder::new().delimiter(separator).has_headers(false).from_reader(limited);
    let mut rows = Delimited { path: path.to_owned(), columns: Vec::new(), reader, record: ByteRecord::new() };
    rows.columns = rows.header()?;
    Ok(rows)
}

struct Delimited {
    path: PathBuf,
    columns: Vec<String>,
    reader: csv::Reader<Limited>,
    record: ByteRecord,
}

impl Delimited {
    fn header(&mut self) -> Result<Vec<String>, DataError> {
        let expected = "the names of the columns in the first line";
        let wrong = |found: String| DataError::content(&self.path, expected, found);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            // A file without a header is one without rows.
            Ok(false) => return Ok(Vec::new()),
            Err(error) => return Err(broken(&self.path, error)),
        }
        let mut columns: Vec<String> = Vec::with_capacity(self.record.len());
        for (index, name) in self.record.iter().enumerate() {
            let name = std::str::from_utf8(name).map_err(|error| {
                wrong(format!("name {} with an invalid byte at its byte {}", index + 1, error.valid_up_to() + 1))
            })?;
            match name.trim() {
                "" => return Err(wrong(format!("no name for column {}", index + 1))),
                name if columns.iter().any(|known| known == name) => return Err(wrong(format!("`{name}` twice"))),
                name => columns.push(name.to_owned()),
            }
        }
        Ok(columns)
    }

    fn row(&self) -> Result<Row, RowError> {
        let number = self.record.position().map_or(0, csv::Position::line) as usize;
        let values = self.columns.iter().zip(&self.record).map(|(column, value)| {
            let text = std::str::from_utf8(value).map_err(|error| {
                let found = format!("an invalid byte at byte {} of `{column}`", error.valid_up_to() + 1);
                RowError::bad(number, "UTF-8 text", found)
            })?;
            Ok((column.clone(), Value::from(text)))
        });
        values.collect::<Result<Map<_, _>, RowError>>().map(|values| Row { number, values })
    }
}

impl Iterator for Delimited {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let limited = self.reader.get_mut();
        limited.left = limited.limit;
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => None,
            Ok(true) => Some(self.row()),
            Err(error) => Some(Err(match error.kind() {
                ErrorKind::UnequalLengths { pos, len, .. } => {
                    let number = pos.as_ref().map_or(0, csv::Position::line) as usize;
                    let expected = format!("{} values, as the first line has", self.columns.len());
                    RowError::bad(number, expected, len.to_string())
                }
                _ => broken(&self.path, error).into(),
            })),
        }
    }
}

fn broken(path: &Path, error: csv::Error) -> DataError {
    let text = error.to_string();
    match error.into_kind() {
        ErrorKind::Io(source) => DataError::read(path)(source),
        _ => DataError::content(path, "rows of values", text),
    }
}

/// Bytes of which no more than a limit are given for one row, as a quote that is not closed would ask for all there are.
struct Limited {
    bytes: Bytes,
    left: usize,
    limit: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let problem = format!("a row is longer than {} bytes: is a quote not closed?", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let most = buffer.len().min(self.left);
        let read = self.bytes.read(&mut buffer[..most])?;
        self.left -= read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, repeat};

    use super::*;

    #[test]
    fn a_quote_that_is_not_closed_ends_at_the_limit() {
        let endless = Box::new(BufReader::new((&b"a,b\n1,\""[..]).chain(repeat(b'x'))));
        let mut rows = rows_below(Path::new("x.csv"), endless, b',', 1 << 20).unwrap();
        let Some(Err(RowError::Broken(DataError::Read { source, .. }))) = rows.next() else { panic!("no error") };
        assert!(source.to_string().contains("longer than 1048576 bytes: is a quote not closed"), "{source}");
    }
}
