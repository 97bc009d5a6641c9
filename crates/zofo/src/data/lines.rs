//! Lines of a stated greatest length.

use std::io::{self, BufRead};

/// Bytes that are read at a time.
pub(super) const BUFFER: usize = 1 << 18;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, which [`Lines::line`] has.
    Line,
    /// A line that is longer than the limit. It was passed over.
    TooLong,
    /// The end of the file.
    End,
}

/// The lines of a file.
pub(super) struct Lines<R> {
    reader: R,
    limit: usize,
    line: Vec<u8>,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self { reader, limit, line: Vec::new(), number: 0 }
    }

    /// The line that was read last, without its end.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Its number, from 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Reads a line. A byte-order mark before the first, and the line feed or CRLF at the end, are not part of it. No
    /// more than the limit, and one buffer, is ever held.
    pub(super) fn read(&mut self) -> io::Result<Next> {
        self.line.clear();
        let (mut is_too_long, mut is_at_end) = (false, true);
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if available.is_empty() {
                break;
            }
            is_at_end = false;
            let feed = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..feed.unwrap_or(available.len())];
            is_too_long |= self.line.len() + part.len() > self.limit;
            if !is_too_long {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(feed.is_some());
            self.reader.consume(used);
            if feed.is_some() {
                break;
            }
        }
        if is_at_end {
            return Ok(Next::End);
        }
        self.number += 1;
        if is_too_long {
            return Ok(Next::TooLong);
        }
        if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(Next::Line)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read, repeat};

    use super::*;

    #[test]
    fn a_line_of_two_gigabytes_is_passed_over_in_little_memory() {
        let endless = repeat(b'x').take(2 << 30).chain(&b"\nshort\n"[..]);
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, endless), 1 << 20);
        assert_eq!(lines.read().unwrap(), Next::TooLong);
        assert!(lines.line.capacity() <= 2 << 20, "{}", lines.line.capacity());
        assert_eq!((lines.read().unwrap(), lines.line(), lines.number()), (Next::Line, &b"short"[..], 2));
        assert_eq!(lines.read().unwrap(), Next::End);
    }

    #[test]
    fn lines_of_any_buffer_size() {
        for capacity in 1..8 {
            let mut lines = Lines::new(BufReader::with_capacity(capacity, &b"\xef\xbb\xbfab\r\n\nlong\xef\nc"[..]), 6);
            let mut read = Vec::new();
            while lines.read().unwrap() == Next::Line {
                read.push(lines.line().to_vec());
            }
            assert_eq!(read, [&b"ab"[..], b"", b"long\xef", b"c"]);
            assert_eq!((lines.number(), lines.read().unwrap()), (4, Next::End));
        }
    }
}
