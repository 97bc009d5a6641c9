//! The one place that maps a file into memory.

use std::{fs::File, io, path::Path};

use memmap2::Mmap;

/// Maps `path` read-only and returns the mapping; pages are read from the disk when they are touched.
///
/// The file must not be cut or rewritten while the mapping lives: a page that has vanished ends the
/// process with a bus error, and rewritten bytes show through. Model files are written once, beside
/// their final name, and renamed, so this holds for every file that this program writes.
///
/// # Errors
/// The file cannot be opened or mapped (missing, not readable, a directory).
pub fn map_file(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    #[allow(unsafe_code, reason = "mapping a file has no safe interface: another process could change it")]
    // SAFETY: the mapping is read-only, so nothing in this process writes to it, and the condition in the
    // documentation keeps others from doing so. Its bytes are only read as plain numbers, for which any bits
    // are valid, and as text that is checked to be UTF-8 at every use.
    let map = unsafe { Mmap::map(&file) };
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_content_and_reports_what_cannot_be_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        assert_eq!(&map_file(&path).unwrap()[..], b"content");

        std::fs::write(&path, b"").unwrap();
        assert!(map_file(&path).unwrap().is_empty());

        let missing = map_file(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(map_file(folder.path()).is_err());
    }
}
