//! JSON Lines, and lists of JSON objects.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::compressed::{self, Bytes};
use super::error::{DataError, RowError};
use super::lines::{Lines, Next};
use super::{LONGEST_ROW, Row, RowIterator};

/// The rows of a file of JSON Lines. Blank lines at its end are tolerated.
pub(super) fn lines(path: &Path, bytes: Bytes) -> RowIterator {
    Box::new(JsonLines { path: path.to_owned(), lines: Lines::new(bytes, LONGEST_ROW), is_read: false })
}

/// The rows of a JSON list, if the file begins as one; else those of JSON Lines.
pub(super) fn list_or_lines(path: &Path, mut bytes: Bytes) -> Result<RowIterator, DataError> {
    let start = bytes.fill_buf().map_err(DataError::read(path))?;
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    if start.trim_ascii_start().first() != Some(&b'[') {
        return Ok(lines(path, bytes));
    }
    let content = compressed::whole(path, &mut bytes)?;
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&content);
    let items: Vec<Value> = serde_json::from_slice(content).map_err(|error| {
        DataError::content(path, "a JSON list of objects", format!("text that is not JSON: {error}"))
    })?;
    let row = |(index, item)| {
        object(item)
            .map(|values| Row { number: index + 1, values })
            .map_err(|found| RowError::bad(index + 1, "a JSON object", found))
    };
    Ok(Box::new(items.into_iter().enumerate().map(row)))
}

struct JsonLines {
    path: PathBuf,
    lines: Lines<Bytes>,
    /// Whether a line is there that was not given yet, because an empty one before it was told first.
    is_read: bool,
}

impl Iterator for JsonLines {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut empty = None;
        loop {
            let next = match std::mem::take(&mut self.is_read) {
                true => Ok(Next::Line),
                false => self.lines.read(),
            };
            let number = self.lines.number();
            match next {
                Err(source) => return Some(Err(DataError::read(&self.path)(source).into())),
                Ok(Next::End) => return None,
                Ok(Next::TooLong) => {
                    let expected = format!("a JSON object of at most {LONGEST_ROW} bytes");
                    return Some(Err(RowError::bad(number, expected, "a longer line")));
                }
                // Whether it is the end of the file is known later.
                Ok(Next::Line) if self.lines.line().trim_ascii().is_empty() => {
                    empty.get_or_insert(number);
                }
                Ok(Next::Line) => {
                    if let Some(empty) = empty {
                        self.is_read = true;
                        return Some(Err(RowError::bad(empty, "a JSON object", "an empty line")));
                    }
                    return Some(parse(number, self.lines.line()));
                }
            }
        }
    }
}

/// The JSON object of a line.
fn parse(number: usize, line: &[u8]) -> Result<Row, RowError> {
    let text = std::str::from_utf8(line).map_err(|error| {
        RowError::bad(number, "UTF-8 text", format!("an invalid byte at column {}", error.valid_up_to() + 1))
    })?;
    let found = match serde_json::from_str(text) {
        Ok(value) => match object(value) {
            Ok(values) => return Ok(Row { number, values }),
            Err(found) => found,
        },
        Err(error) => {
            // The parser counts lines within this one line; only its column says something.
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or(&message);
            format!("text that is not JSON: {reason} at column {}", error.column())
        }
    };
    Err(RowError::bad(number, "a JSON object", found))
}

/// # Errors
/// What it is instead.
fn object(value: Value) -> Result<Map<String, Value>, String> {
    let found = match value {
        Value::Object(values) => return Ok(values),
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(items) if items.is_empty() => "an empty list",
        Value::Array(_) => "a list",
    };
    Err(found.to_owned())
}
