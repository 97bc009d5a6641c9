//! Tensor storage in a private mapping of a file.

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};
use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

/// A private (copy-on-write) mapping: pages that are never written stay the file's, a page that is written becomes the
/// process's own. The file does not change.
struct PrivateMapping {
    mapping: MmapMut,
}

impl AllocationController for PrivateMapping {
    fn alloc_align(&self) -> usize {
        // All that is promised: an offset in a file may be odd. Whoever reads wider elements checks the offset.
        1
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = &mut self.mapping;
        // SAFETY: `MaybeUninit<u8>` has the layout of `u8`; the caller promises to write only initialised bytes.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = &self.mapping;
        // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and a shared slice cannot be written through.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }
}

/// Maps `len` bytes of `file` from `offset` as tensor storage that is updated in place without touching the file.
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
    let controller = Box::new(PrivateMapping { mapping });
    // SAFETY: all `len` bytes of a mapping are initialised.
    Ok(unsafe { Bytes::from_controller(controller, len) })
}
