//! The bytes of a file, unpacked.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::error::DataError;
use super::format::Compression;
use super::{LARGEST_WHOLE_FILE, lines::BUFFER};

/// Bytes that are unpacked while they are read.
pub(super) type Bytes = Box<dyn BufRead + Send>;

/// Opens a file.
pub(super) fn open(path: &Path, compression: Compression) -> Result<Bytes, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    if file.metadata().is_ok_and(|file| file.is_dir()) {
        return Err(DataError::content(path, "a file", "a folder"));
    }
    let file = BufReader::with_capacity(BUFFER, file);
    Ok(match compression {
        Compression::None => Box::new(file),
        // Files of several members, one behind the other, are usual.
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        Compression::Zstd => {
            let decoder = zstd::Decoder::with_buffer(file).map_err(DataError::read(path))?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
    })
}

/// All bytes of a file that cannot be read in pieces.
pub(super) fn whole(path: &Path, bytes: &mut Bytes) -> Result<Vec<u8>, DataError> {
    whole_below(path, bytes, LARGEST_WHOLE_FILE)
}

pub(super) fn whole_below(path: &Path, bytes: &mut dyn Read, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut content = Vec::new();
    let read = bytes.take(limit + 1).read_to_end(&mut content).map_err(DataError::read(path))?;
    if read as u64 > limit {
        let expected = format!("at most {limit} bytes, unpacked, of a format that is read as a whole");
        return Err(DataError::content(path, expected, "more: use JSON Lines, or Parquet without .gz or .zst"));
    }
    Ok(content)
}
