//! Where in a file a tensor is.

use std::ops::Range;

use safetensors::Dtype;

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hf) struct Stored {
    pub(in crate::hf) dtype: Dtype,
    pub(in crate::hf) shape: Vec<usize>,
    /// From the first to the last value, in the file; they are little-endian.
    pub(in crate::hf) bytes: Range<usize>,
    /// Values from one index to the next, for each dimension, where the values are not in the order of the indices.
    pub(in crate::hf) strides: Option<Vec<usize>>,
}

impl Stored {
    /// The values in the order of the indices, if those in the `file` are in another.
    pub(in crate::hf) fn gathered(&self, file: &[u8]) -> Option<Vec<u8>> {
        let strides = self.strides.as_ref()?;
        let size = self.dtype.bitsize() / 8;
        let stored = &file[self.bytes.clone()];
        let mut gathered = Vec::with_capacity(size * self.shape.iter().product::<usize>());
        gather(stored, size, &self.shape, strides, &mut gathered);
        Some(gathered)
    }
}

/// Appends the values of `size` bytes at all indices of `shape`, the first of which is at the start of `stored`.
fn gather(stored: &[u8], size: usize, shape: &[usize], strides: &[usize], gathered: &mut Vec<u8>) {
    match (shape, strides) {
        ([count, shape @ ..], [stride, strides @ ..]) => {
            for index in 0..*count {
                gather(&stored[index * stride * size..], size, shape, strides, gathered);
            }
        }
        _ => gathered.extend_from_slice(&stored[..size]),
    }
}
