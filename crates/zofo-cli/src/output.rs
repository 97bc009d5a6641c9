//! The only place that writes to stdout.

use crate::errors::Error;
use serde::Serialize;
use std::io::{self, ErrorKind, Write};

/// Whether somebody still reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Yes.
    Listens,
    /// No: `zofo … | head` has seen enough. That is no error; there is just nothing left to say.
    Left,
}

/// Writes `text` to stdout at once.
///
/// # Errors
/// What the system says, as of a full disk behind a redirection.
pub fn print(text: &str) -> Result<Reader, Error> {
    write_to(&mut io::stdout().lock(), text)
}

/// Writes `value` to stdout as indented JSON with a line feed.
///
/// # Errors
/// Those of [`print`].
pub fn print_json(value: &impl Serialize) -> Result<Reader, Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
    text.push('\n');
    print(&text)
}

fn write_to(writer: &mut impl Write, text: &str) -> Result<Reader, Error> {
    match writer.write_all(text.as_bytes()).and_then(|()| writer.flush()) {
        Ok(()) => Ok(Reader::Listens),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Left),
        Err(error) => Err(Error::Stdout(error)),
    }
}

/// A table with its columns aligned: the first to the left, all others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refuses(ErrorKind);

    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_left_is_no_error_and_a_full_disk_is() {
        let mut written = Vec::new();
        assert_eq!(write_to(&mut written, "text").unwrap(), Reader::Listens);
        assert_eq!(written, b"text");
        assert_eq!(write_to(&mut Refuses(ErrorKind::BrokenPipe), "text").unwrap(), Reader::Left);
        let error = write_to(&mut Refuses(ErrorKind::StorageFull), "text").unwrap_err();
        assert!(matches!(error, Error::Stdout(cause) if cause.kind() == ErrorKind::StorageFull));
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["", "accuracy", "loss"]), row(["(θ₀, p)", "0.81", "0.5"]), row(["(θ, p)", "1", ""])]);
        assert_eq!(text, "         accuracy  loss\n(θ₀, p)      0.81   0.5\n(θ, p)          1\n");
    }
}
