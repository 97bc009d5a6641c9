//! Writing files and folders so that no one ever sees half of one: not a reader, not the next start after a crash or
//! a full disk.
//!
//! Everything is written under a sibling's name, synced to the disk, and renamed. The siblings of `NAME` are
//! `.NAME.partial`, which is worth nothing, and for folders `.NAME.old`, which is what `NAME` was before. Two
//! processes must not write the same `NAME` at the same time.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// An operation on a file or folder that failed, and the system's reason as the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was tried, as `read` or `create`.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The kind of the system's reason, as [`io::ErrorKind::StorageFull`].
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// A closure for `map_err`.
pub(crate) fn failed_to(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::new(operation, path, source)
}

/// A file being written, whose content is on the disk once [`finish`](Self::finish) returns.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl NewFile {
    /// Creates `path`, or empties it if it exists.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).map_err(failed_to("create", path))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::with_capacity(BUFFER, file) })
    }

    /// Appends `bytes`.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.writer.write_all(bytes).map_err(failed_to("write", &self.path))
    }

    /// Writes what is still buffered and waits until the disk has it.
    pub(crate) fn finish(mut self) -> Result<(), FileError> {
        self.writer.flush().and_then(|()| self.writer.get_ref().sync_all()).map_err(failed_to("write", &self.path))
    }
}

/// Writes `bytes` to the new file `path` and waits until the disk has them. Not atomic: for the files of a folder that
/// is.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

/// Writes the file `path`, which afterwards has all that `fill` wrote, or, after an error, is as it was before.
///
/// # Errors
/// That of `fill`, and any operation on the file that fails.
pub(crate) fn write_file_atomically(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    fill_file_atomically(path, |file| fill(&mut file.writer).map_err(failed_to("write", &file.path)))
}

/// [`write_file_atomically`] for content that can fail for other reasons than the file.
///
/// # Errors
/// As there.
pub(crate) fn fill_file_atomically<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
) -> Result<(), E> {
    fill_and_check_file_atomically(path, fill, |_| Ok(()))
}

/// [`fill_file_atomically`], where `check` is given the path of the complete file before it gets its name.
///
/// # Errors
/// As there, and those of `check`, after which there is no new file.
pub(crate) fn fill_and_check_file_atomically<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut NewFile) -> Result<(), E>,
    check: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = sibling(path, ".partial")?;
    let written = NewFile::create(&partial).map_err(E::from).and_then(|mut file| {
        fill(&mut file)?;
        file.finish()?;
        check(&partial)?;
        Ok(fs::rename(&partial, path).map_err(failed_to("replace", path))?)
    });
    if written.is_err() {
        // The first error is the one to report; what cannot be removed now is overwritten the next time.
        let _ = fs::remove_file(&partial);
    }
    written?;
    Ok(sync_dir(parent(path))?)
}

/// Makes the folder `dir` from what `fill` writes into the empty folder that it is given. Afterwards `dir` holds exactly
/// that, or, after an error, is as it was before. `fill` is to sync the files that it writes, as [`write_file`] does.
///
/// A folder that exists is replaced only if `is_ours` says yes to the name of every entry, so that a mistyped path
/// costs nobody their files. A `dir` that is a symbolic link is replaced where it points to.
///
/// # Errors
/// That of `fill`; `dir` is a file, or holds an entry that is not ours; any operation that fails.
pub(crate) fn replace_dir_atomically<E: From<FileError>>(
    dir: &Path,
    is_ours: impl Fn(&OsStr) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    recover_dir(dir)?;
    let exists = check_replaceable(dir, is_ours)?;
    let partial = sibling(dir, ".partial")?;
    remove_dir(&partial)?;
    fs::create_dir_all(&partial).map_err(failed_to("create", &partial))?;
    let filled = fill(&partial).and_then(|()| Ok(sync_dir(&partial)?));
    let moved = filled.and_then(|()| Ok(swap(dir, &partial, exists)?));
    if moved.is_err() {
        // As above: the first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
    }
    moved
}

/// Undoes a replacement of the folder `dir` that was interrupted between its two renames, and removes what a later
/// interruption left behind. To be called before `dir` is read on a start after a crash.
///
/// # Errors
/// A rename or a removal fails.
pub(crate) fn recover_dir(dir: &Path) -> Result<(), FileError> {
    let old = sibling(dir, ".old")?;
    if !old.exists() {
        return Ok(());
    }
    if dir.exists() {
        return remove_dir(&old);
    }
    fs::rename(&old, dir).map_err(failed_to("restore", dir))?;
    sync_dir(parent(dir))
}

/// Puts `partial` in the place of `dir`; back to the start if that fails.
fn swap(dir: &Path, partial: &Path, exists: bool) -> Result<(), FileError> {
    let old = sibling(dir, ".old")?;
    if exists {
        fs::rename(dir, &old).map_err(failed_to("replace", dir))?;
    }
    if let Err(cause) = fs::rename(partial, dir) {
        if exists {
            // If this fails too, the next start does it.
            let _ = fs::rename(&old, dir);
        }
        return Err(FileError::new("replace", dir, cause));
    }
    sync_dir(parent(dir))?;
    if exists { remove_dir(&old) } else { Ok(()) }
}

/// Whether `dir` exists; an error if it may not be replaced.
fn check_replaceable(dir: &Path, is_ours: impl Fn(&OsStr) -> bool) -> Result<bool, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(FileError::new("replace", dir, cause)),
    };
    for entry in entries {
        let entry = entry.map_err(failed_to("read", dir))?;
        let is_dir = entry.file_type().map_err(failed_to("read", dir))?.is_dir();
        if is_dir || !is_ours(&entry.file_name()) {
            let reason = format!(
                "it holds \"{}\", which this program does not write there; move that away or choose another folder",
                entry.file_name().display()
            );
            let reason = io::Error::new(io::ErrorKind::AlreadyExists, reason);
            return Err(FileError::new("replace", dir, reason));
        }
    }
    Ok(true)
}

/// The hidden sibling of `path` with this ending.
fn sibling(path: &Path, ending: &str) -> Result<PathBuf, FileError> {
    let name = path.file_name().ok_or_else(|| {
        let reason = io::Error::new(io::ErrorKind::InvalidInput, "the path has no name at its end");
        FileError::new("write", path, reason)
    })?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(ending);
    Ok(path.with_file_name(hidden))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn remove_dir(dir: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(dir) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", dir, cause)),
        _ => Ok(()),
    }
}

/// Waits until the disk has the names in `dir`. Where folders cannot be synced, renames are ordered by the file system.
fn sync_dir(dir: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        File::open(dir).and_then(|opened| opened.sync_all()).map_err(failed_to("write", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
