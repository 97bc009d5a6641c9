//! Files mapped into memory: whole ones to read, and parts of them as tensor storage.

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::path::Path;

/// A file's content, read from the disk when it is touched.
///
/// The file must not be cut or rewritten while the mapping lives: a page that has vanished ends the process with a bus
/// error, and rewritten bytes show through. Model files are written once, beside their final name, and renamed, so this
/// holds for every file that this program writes.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps the whole of the file at `path`, to be read.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or mapped (missing, not readable, a folder).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: nothing in this process writes to a mapping that is read-only, and what is documented at the type keeps
        // others from doing so. Its bytes are only read as plain numbers, for which any bits are valid, and as text that
        // is checked to be UTF-8 at every use.
        unsafe { Mmap::map(&file) }.map(Self)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A mapping as tensor storage.
struct Mapping(MmapMut);

impl AllocationController for Mapping {
    fn alloc_align(&self) -> usize {
        // All that is promised: an offset in a file may be odd. Whoever reads wider elements checks the offset.
        1
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = &mut self.0;
        // SAFETY: `MaybeUninit<u8>` has the layout of `u8`; the caller promises to write only initialised bytes.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = &self.0;
        // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and a shared slice cannot be written through.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }
}

/// Maps `len` bytes of `file` from `offset` as tensor storage that is updated in place without touching the file: a private
/// (copy-on-write) mapping, of which pages that are never written stay the file's, and one that is written becomes the
/// process's own.
///
/// The mapping is as aligned as `offset` is within its page; a caller that reads f32 checks that `offset` is a multiple of
/// four.
///
/// # Errors
///
/// What the operating system answers, and `UnexpectedEof` if the file ends before `offset + len`.
pub fn map_private(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let end = offset.checked_add(len as u64);
    let stored = file.metadata()?.len();
    if end.is_none_or(|end| stored < end) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    // SAFETY: the mapping is private, so writes of other processes to pages that this one has not written may still show,
    // as with any mapped model file: truncating or rewriting a model while it is in use is the user's undoing, and is
    // documented as such. No reference into the mapping outlives it.
    let mapping = unsafe { MmapOptions::new().offset(offset).len(len).map_copy(file)? };
    Ok(storage(mapping))
}

/// Copies tensor storage into a file without a name in `folder`, and maps that: what is updated in place goes to the disk when
/// memory is needed, and not into swap. The file vanishes with the storage, however the process ends.
///
/// # Errors
///
/// The folder is missing or not writable, or the disk is full.
pub fn copy_to_disk(bytes: &[u8], folder: &Path) -> io::Result<Bytes> {
    let mut file = tempfile::tempfile_in(folder)?;
    // Written, not only made longer: a page without a place on the disk would end the process when it is touched.
    file.write_all(bytes)?;
    // SAFETY: nobody else can open a file without a name.
    Ok(storage(unsafe { MmapMut::map_mut(&file) }?))
}

fn storage(mapping: MmapMut) -> Bytes {
    let len = mapping.len();
    // SAFETY: all bytes of a mapping are initialised.
    unsafe { Bytes::from_controller(Box::new(Mapping(mapping)), len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn whole_files_and_what_cannot_be_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"content").unwrap();
        assert_eq!(&MappedFile::open(&path).unwrap()[..], b"content");

        fs::write(&path, b"").unwrap();
        assert!(MappedFile::open(&path).unwrap().is_empty());

        let missing = MappedFile::open(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(MappedFile::open(folder.path()).is_err());
    }

    #[test]
    fn storage_is_written_and_the_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let mut storage = map_private(&file, 3, 4).unwrap();
        assert_eq!(&storage[..], b"3456");
        storage[1] = b'x';
        assert_eq!(&storage[..], b"3x56");
        assert_eq!(fs::read(&path).unwrap(), b"0123456789");

        let mut copy = copy_to_disk(&storage, folder.path()).unwrap();
        copy[0] = b'y';
        assert_eq!((&copy[..], &storage[..]), (&b"yx56"[..], &b"3x56"[..]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(copy_to_disk(&copy, &path).unwrap_err().kind(), io::ErrorKind::NotADirectory);

        for (offset, len) in [(7, 4), (11, 1), (u64::MAX, 2)] {
            assert_eq!(map_private(&file, offset, len).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
