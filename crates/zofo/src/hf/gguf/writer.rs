//! Writing a GGUF file (version 3), tensor by tensor.

use std::{collections::HashSet, ops::Range, path::Path};

use super::{
    super::{
        HfError,
        atomic::{NewFile, fill_and_check_file_atomically},
    },
    error::{GgufError, GgufProblem},
    new_metadata::{MetadataElement, NewMetadata},
    quantize::{WrittenType, quantize},
    reader::{DEFAULT_ALIGNMENT, MAX_DIMENSIONS},
    tensor::TensorType,
};

const VERSION: u32 = 3;
/// The longest name that ggml reads (`GGML_MAX_NAME` less the closing zero).
const MAX_NAME: usize = 63;
/// Values that are kept in memory at a time, or one row if that is longer.
const CHUNK: usize = 1 << 20;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// The name in the file, as `blk.0.attn_q.weight`.
    pub name: String,
    /// The row-major shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub kind: WrittenType,
}

impl NewTensor {
    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The bytes of a row; rows are whole blocks.
    fn row_bytes(&self) -> usize {
        let kind = TensorType::from(self.kind);
        self.columns() / kind.block_len() * kind.block_bytes()
    }

    /// The bytes of all values. The reason if there can be no such tensor.
    fn bytes(&self) -> Result<u64, String> {
        if self.name.len() > MAX_NAME {
            return Err(format!("its name has {} bytes, and ggml reads {MAX_NAME}", self.name.len()));
        }
        if !(1..=MAX_DIMENSIONS as usize).contains(&self.shape.len()) || self.shape.contains(&0) {
            return Err(format!(
                "its shape is {:?}, and 1 to {MAX_DIMENSIONS} positive sizes are possible",
                self.shape
            ));
        }
        let block = TensorType::from(self.kind).block_len();
        if !self.columns().is_multiple_of(block) {
            return Err(format!("its rows have {} values, and {:?} has blocks of {block}", self.columns(), self.kind));
        }
        let values = self.shape.iter().try_fold(4_u64, |product, &size| product.checked_mul(size as u64));
        match values {
            // No type takes more than the four bytes a value that were counted, so nothing below overflows.
            Some(_) => Ok(self.rows() as u64 * self.row_bytes() as u64),
            None => Err(format!("its shape {:?} is too large", self.shape)),
        }
    }
}

/// Writes the file `path` with this metadata and these tensors. Their values come from `read`, which is given a tensor, a
/// range of its rows (all but the fastest dimension counted through), and where to put them: `[rows.len(), columns]`,
/// row-major. It is called in the order of the file; a few MiB of values are in memory at a time. The file appears
/// complete or not at all.
///
/// # Errors
/// Those of `read`; the file cannot be written; a tensor has a name or shape that the format does not allow, or a
/// value that its type cannot hold.
pub fn write_gguf(
    path: &Path,
    metadata: &NewMetadata,
    tensors: &[NewTensor],
    read: impl FnMut(&NewTensor, Range<usize>, &mut [f32]) -> Result<(), HfError>,
) -> Result<(), HfError> {
    write_checked_gguf(path, metadata, tensors, read, |_| Ok(()))
}

/// [`write_gguf`], where the file appears only if `check` finds nothing wrong with it; it is given where the complete file
/// is until then.
///
/// # Errors
/// As there, and those of `check`.
pub(in crate::hf) fn write_checked_gguf(
    path: &Path,
    metadata: &NewMetadata,
    tensors: &[NewTensor],
    mut read: impl FnMut(&NewTensor, Range<usize>, &mut [f32]) -> Result<(), HfError>,
    check: impl FnOnce(&Path) -> Result<(), HfError>,
) -> Result<(), HfError> {
    let header = header(metadata, tensors).map_err(|problem| GgufError::new(path, problem))?;
    let fill = |file: &mut NewFile| {
        file.write_all(&header)?;
        pad(file, header.len() as u64)?;
        for tensor in tensors {
            write_values(file, tensor, &mut read).map_err(|failed| match failed {
                Failed::Value(value) => {
                    GgufError::new(path, unwritable(tensor, format!("{:?} cannot hold the value {value}", tensor.kind)))
                        .into()
                }
                Failed::Other(error) => error,
            })?;
        }
        Ok(())
    };
    fill_and_check_file_atomically(path, fill, check)
}

/// Why the values of a tensor are not written.
enum Failed {
    /// One that the type cannot hold.
    Value(f32),
    Other(HfError),
}

impl<E: Into<HfError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

fn write_values(
    file: &mut NewFile,
    tensor: &NewTensor,
    read: &mut impl FnMut(&NewTensor, Range<usize>, &mut [f32]) -> Result<(), HfError>,
) -> Result<(), Failed> {
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let step = (CHUNK / columns).clamp(1, rows);
    let mut values = vec![0.0; step * columns];
    let mut bytes = vec![0; step * tensor.row_bytes()];
    for first in (0..rows).step_by(step) {
        let part = first..rows.min(first + step);
        let values = &mut values[..part.len() * columns];
        let bytes = &mut bytes[..part.len() * tensor.row_bytes()];
        read(tensor, part, values)?;
        quantize(tensor.kind, values, bytes).map_err(Failed::Value)?;
        file.write_all(bytes)?;
    }
    Ok(pad(file, rows as u64 * tensor.row_bytes() as u64)?)
}

/// Zeros from `written` bytes to the next multiple of the alignment.
fn pad(file: &mut NewFile, written: u64) -> Result<(), super::super::FileError> {
    let zeros = [0; DEFAULT_ALIGNMENT as usize];
    let missing = aligned(written) - written;
    // Less than the alignment.
    file.write_all(&zeros[..missing as usize])
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(u64::from(DEFAULT_ALIGNMENT))
}

/// All that stands before the values.
fn header(metadata: &NewMetadata, tensors: &[NewTensor]) -> Result<Vec<u8>, GgufProblem> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    metadata.append_to(&mut bytes);
    let mut names = HashSet::new();
    let mut offset = 0_u64;
    for tensor in tensors {
        let size = tensor.bytes().map_err(|reason| unwritable(tensor, reason))?;
        if !names.insert(tensor.name.as_str()) {
            return Err(unwritable(tensor, "there is another of that name".to_owned()));
        }
        tensor.name.append_to(&mut bytes);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        // The file lists the fastest dimension first.
        for &size in tensor.shape.iter().rev() {
            bytes.extend((size as u64).to_le_bytes());
        }
        bytes.extend(TensorType::from(tensor.kind).id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = offset
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(u64::from(DEFAULT_ALIGNMENT)))
            .ok_or_else(|| unwritable(tensor, "the file would be too large".to_owned()))?;
    }
    Ok(bytes)
}

fn unwritable(tensor: &NewTensor, reason: String) -> GgufProblem {
    GgufProblem::Unwritable { tensor: tensor.name.clone(), reason }
}

#[cfg(test)]
mod tests;
