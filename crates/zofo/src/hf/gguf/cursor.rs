//! Reading numbers and strings from the header, checked against the end of the file.

use std::fmt::Display;

use super::error::GgufProblem;

/// A position in the bytes of a file. Every read names what it is after, for the error message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor over the file's `bytes`, at `position` from their start.
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    /// Where the next read starts.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The bytes between the position and the end of the file.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64, what: impl Display) -> Result<&'a [u8], GgufProblem> {
        let end = usize::try_from(length).ok().and_then(|length| self.position.checked_add(length));
        match end.and_then(|end| self.bytes.get(self.position..end)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Err(GgufProblem::Malformed {
                what: what.to_string(),
                offset: self.position as u64,
                expected: format!("{length} bytes"),
                found: format!("{} up to the end of the file", self.remaining()),
            }),
        }
    }

    /// The next `N` bytes, as the `from_le_bytes` functions want them.
    pub(super) fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], GgufProblem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    /// The next 32-bit number.
    pub(super) fn u32(&mut self, what: impl Display) -> Result<u32, GgufProblem> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number.
    pub(super) fn u64(&mut self, what: impl Display) -> Result<u64, GgufProblem> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next number of items, of which each takes at least `least` bytes of the file: a number that
    /// the rest of the file cannot hold is an error here, before anything is done that often.
    pub(super) fn count(&mut self, least: usize, what: impl Display) -> Result<usize, GgufProblem> {
        let offset = self.position as u64;
        let count = self.u64(&what)?;
        let most = self.remaining() / least;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(GgufProblem::Malformed {
                what: what.to_string(),
                offset,
                expected: format!("at most {most}, which is what the rest of the file can hold"),
                found: count.to_string(),
            }),
        }
    }

    /// The next string: a 64-bit length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: impl Display) -> Result<&'a str, GgufProblem> {
        let length = self.u64(format_args!("length of {what}"))?;
        let offset = self.position as u64;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|error| GgufProblem::Malformed {
            what: what.to_string(),
            offset,
            expected: "UTF-8 text".to_owned(),
            found: format!("{error}"),
        })
    }
}
