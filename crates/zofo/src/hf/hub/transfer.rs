//! The content of one file, from the hub into the cache: continued where it stopped, and checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::{
    Body,
    http::{Response, StatusCode, header},
};

use super::{
    super::atomic::{FileError, failed_to},
    cache::{RepositoryCache, create_parent},
    client::{Client, RemoteFile},
    error::HubError,
    id::HubId,
    progress::{HubProgress, Watch},
    retry::{Failure, retrying},
};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 18;

/// Brings the content of `file`, which the repository calls `name`, into the cache. What an earlier process began is
/// continued, whether it ended or was killed; what another process writes now is waited for.
///
/// # Errors
/// What the hub answers or the disk refuses; a content of another length or checksum than the hub says, which is deleted.
pub(super) fn download(
    client: &Client,
    cache: &RepositoryCache,
    id: &HubId,
    name: &str,
    file: &RemoteFile,
    watch: &mut Watch<'_>,
) -> Result<(), HubError> {
    let blob = cache.blob(&file.etag);
    let _lock = cache.lock(&file.etag, name, watch)?;
    if fs::metadata(&blob).is_ok_and(|blob| blob.len() == file.bytes) {
        return Ok(());
    }
    create_parent(&blob)?;
    let mut partial = Partial::open(blob.with_extension("incomplete"), file)?;
    let received = retrying(client.retry(), watch, |watch| partial.receive(client, id, name, watch));
    match received.and_then(|()| partial.check()) {
        Ok(()) => Ok(partial.rename(&blob)?),
        Err(error) => {
            if matches!(error, HubError::WrongLength { .. } | HubError::WrongChecksum { .. }) {
                // If it cannot be removed, the next download finds the same and says so.
                let _ = fs::remove_file(&partial.path);
            }
            Err(error)
        }
    }
}

/// The beginning of a file.
struct Partial<'a> {
    remote: &'a RemoteFile,
    path: PathBuf,
    file: File,
    /// Bytes that are there.
    bytes: u64,
    /// The most that were ever there.
    furthest: u64,
    checksum: Checksum,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier download left, or nothing.
    fn open(path: PathBuf, remote: &'a RemoteFile) -> Result<Self, HubError> {
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = options.map_err(failed_to("create", &path))?;
        let bytes = file.metadata().map_err(failed_to("read", &path))?.len();
        let mut partial = Self { remote, path, file, bytes: 0, furthest: 0, checksum: Checksum::of(remote) };
        if bytes > remote.bytes {
            partial.restart()?;
        } else {
            let checksum = &mut partial.checksum;
            // No further than it was long: what is at the path may have no end.
            let read = read_all(&mut (&partial.file).take(bytes), |part| checksum.update(part));
            partial.bytes = read.map_err(failed_to("read", &partial.path))?;
        }
        partial.furthest = partial.bytes;
        Ok(partial)
    }

    fn restart(&mut self) -> Result<(), FileError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(failed_to("write", &self.path))?;
        self.bytes = 0;
        self.checksum = Checksum::of(self.remote);
        Ok(())
    }

    /// Asks for what is missing and writes it.
    fn receive(&mut self, client: &Client, id: &HubId, name: &str, watch: &mut Watch<'_>) -> Result<(), Failure> {
        let before = self.furthest;
        let total = self.remote.bytes;
        if self.bytes == total {
            return Ok(());
        }
        let response = client.content(id, name, self.remote, self.bytes)?;
        self.begin(&response)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            watch.tell(HubProgress::Downloading { file: name, bytes: self.bytes, total })?;
            let read = match body.read(&mut buffer) {
                Ok(0) if self.bytes == total => return Ok(()),
                Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ended before the file did")),
                other => other,
            };
            let read = read.map_err(|error| Failure::network(&self.remote.url, error, self.furthest > before))?;
            let part = &buffer[..read];
            if self.bytes + read as u64 > total {
                return Err(self.wrong_length(self.bytes + read as u64).into());
            }
            self.file.write_all(part).map_err(failed_to("write", &self.path))?;
            self.checksum.update(part);
            self.bytes += read as u64;
            self.furthest = self.furthest.max(self.bytes);
        }
    }

    /// Makes what is there fit the answer: a server need not continue a file.
    fn begin(&mut self, response: &Response<Body>) -> Result<(), Failure> {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(header::CONTENT_RANGE).and_then(content_range);
                let Some((start, whole)) = range.filter(|&(start, _)| start == self.bytes) else {
                    let found = text(header::CONTENT_RANGE).unwrap_or("no content-range");
                    let problem = format!("asked for the file from byte {} on, the answer has {found}", self.bytes);
                    return Err(HubError::Protocol { url: self.remote.url.clone(), problem }.into());
                };
                let found = whole.or(length.map(|length| start + length));
                self.expect_length(found)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // The file that the server has ends before what is there.
                let found = text(header::CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok());
                Err(self.wrong_length(found.unwrap_or(self.bytes)).into())
            }
            _ => {
                self.expect_length(length)?;
                if self.bytes > 0 {
                    self.restart()?;
                }
                Ok(())
            }
        }
    }

    fn expect_length(&self, found: Option<u64>) -> Result<(), Failure> {
        match found.filter(|&found| found != self.remote.bytes) {
            Some(found) => Err(self.wrong_length(found).into()),
            None => Ok(()),
        }
    }

    fn wrong_length(&self, found: u64) -> HubError {
        HubError::WrongLength { url: self.remote.url.clone(), expected: self.remote.bytes, found }
    }

    /// Whether the whole is what the hub says.
    fn check(&mut self) -> Result<(), HubError> {
        let Some((algorithm, found)) = self.checksum.finish() else { return Ok(()) };
        let (url, expected) = (self.remote.url.clone(), self.remote.etag.clone());
        if found == expected { Ok(()) } else { Err(HubError::WrongChecksum { url, algorithm, expected, found }) }
    }

    /// Gives it its name, once the disk has it.
    fn rename(&self, blob: &Path) -> Result<(), FileError> {
        self.file.sync_all().map_err(failed_to("write", &self.path))?;
        fs::rename(&self.path, blob).map_err(failed_to("create", blob))
    }
}

/// Gives all of `reader` to `take`, in parts; how much it was.
fn read_all(reader: &mut impl Read, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => {
                take(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// Start and whole length in `bytes 5-9/10`; the length can be `*`, for unknown.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((start, whole))
}

/// The checksum that an etag is.
enum Checksum {
    /// Of a large file.
    Sha256(Sha256),
    /// Of a small one: git's, over a header and the content.
    Git(Sha1),
    /// An etag that says nothing of the content, as mirrors have: only the length is checked.
    Unknown,
}

impl Checksum {
    fn of(remote: &RemoteFile) -> Self {
        let is_hex = remote.etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match remote.etag.len() {
            64 if is_hex => Self::Sha256(Sha256::new()),
            40 if is_hex => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", remote.bytes))),
            _ => Self::Unknown,
        }
    }

    fn update(&mut self, part: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(part),
            Self::Git(hash) => hash.update(part),
            Self::Unknown => {}
        }
    }

    /// Its name and value.
    fn finish(&mut self) -> Option<(&'static str, String)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => Some(("SHA-256", hex(&hash.finalize_reset()))),
            Self::Git(hash) => Some(("git hash", hex(&hash.finalize_reset()))),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(etag: &str, content: &[u8]) -> Option<(&'static str, String)> {
        let bytes = content.len() as u64;
        let mut checksum = Checksum::of(&RemoteFile { url: String::new(), etag: etag.to_owned(), bytes });
        content.iter().for_each(|byte| checksum.update(&[*byte]));
        checksum.finish()
    }

    #[test]
    fn an_etag_is_a_checksum() {
        // By `sha256sum` and `git hash-object`.
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(checksum(sha256, b"hello"), Some(("SHA-256", sha256.to_owned())));
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        assert_eq!(checksum(git, b"hello"), Some(("git hash", git.to_owned())));
        assert_eq!(checksum("5d41402abc4b2a76b9719d911017c592-2", b"hello"), None);
    }

    #[test]
    fn ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for odd in ["", "5-9/10", "bytes */10", "bytes 5-9", "bytes x-9/10"] {
            assert_eq!(content_range(odd), None, "{odd}");
        }
    }
}
