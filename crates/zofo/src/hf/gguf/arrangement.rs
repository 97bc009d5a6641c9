//! Values from the arrangement of a file to that of Hugging Face, and back.

use std::{collections::HashSet, ops::Range};

use super::{
    GgufFile,
    error::{GgufError, GgufProblem},
    keys::ModelKeys,
    names::{Arrangement, HfTensor, OUTPUT, model_tensors},
};
use crate::model::DecoderConfig;

/// Stored rows that are transposed at a time: enough for whole cache lines of the result.
const TRANSPOSED_ROWS: usize = 64;

impl GgufFile {
    /// The tensors of the model under their Hugging Face names, in the order of the layers; `decoder` is that of
    /// [`decoder_config`](Self::decoder_config). All of them are there and have the shapes that the metadata say, and
    /// there are no others.
    ///
    /// # Errors
    /// The architecture is not supported, or a tensor is missing, has another shape, or does not belong to the model.
    pub fn hf_tensors(&self, decoder: &DecoderConfig) -> Result<Vec<HfTensor>, GgufError> {
        let keys = ModelKeys::of(self)?;
        let tensors = model_tensors(decoder, keys.architecture);
        for tensor in &tensors {
            let expected = tensor.stored_shape();
            let name = || tensor.gguf_name.clone();
            match self.tensor(&tensor.gguf_name) {
                None => return Err(self.error(GgufProblem::MissingTensor { tensor: name() })),
                Some(info) if info.shape() != expected => {
                    let found = info.shape().to_owned();
                    return Err(self.error(GgufProblem::TensorShape { tensor: name(), expected, found }));
                }
                Some(_) => {}
            }
        }
        let mut known: HashSet<_> = tensors.iter().map(|tensor| tensor.gguf_name.as_str()).collect();
        known.extend(keys.architecture.rope_tensors);
        if self.is_tied(&keys) {
            known.insert(OUTPUT);
        }
        match self.tensors().iter().find(|info| !known.contains(info.name())) {
            None => Ok(tensors),
            Some(unknown) => Err(self.error(GgufProblem::UnknownTensor {
                tensor: unknown.name().to_owned(),
                shape: unknown.shape().to_owned(),
                architecture: keys.architecture.name,
                layers: decoder.layers.len(),
            })),
        }
    }

    /// Writes `rows` of `tensor`, one of [`hf_tensors`](Self::hf_tensors), to `out` as row-major f32 in Hugging Face's
    /// arrangement. `out` is `[rows.len(), shape[1]]`; a vector has one row.
    ///
    /// Of a tensor that the file has transposed, all is dequantised for any number of rows: it is best read at once.
    ///
    /// # Errors
    /// [`GgufProblem::Rows`] if the tensor has no such rows or `out` has another length.
    pub fn read_f32(&self, tensor: &HfTensor, rows: Range<usize>, out: &mut [f32]) -> Result<(), GgufError> {
        let stored = self
            .tensor(&tensor.gguf_name)
            .ok_or_else(|| self.error(GgufProblem::MissingTensor { tensor: tensor.gguf_name.clone() }))?;
        let [count, columns] = tensor.rows_and_columns();
        let fits = rows.start <= rows.end && rows.end <= count && rows.len().checked_mul(columns) == Some(out.len());
        if !fits {
            return Err(self.error(GgufProblem::Rows {
                tensor: tensor.gguf_name.clone(),
                start: rows.start,
                end: rows.end,
                out: out.len(),
                rows: count,
                columns,
            }));
        }
        match tensor.arrangement {
            Arrangement::Same => self.dequantize(stored, rows, out),
            Arrangement::PlusOne => {
                self.dequantize(stored, rows, out)?;
                out.iter_mut().for_each(|value| *value -= 1.0);
                Ok(())
            }
            Arrangement::Paired { head_dim } if tensor.shape.len() == 1 => {
                let mut values = vec![0.0; out.len()];
                self.dequantize(stored, rows, &mut values)?;
                for (row, out) in out.iter_mut().enumerate() {
                    *out = values[paired_row(row, head_dim)];
                }
                Ok(())
            }
            Arrangement::Paired { head_dim } => {
                for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
                    let row = paired_row(row, head_dim);
                    self.dequantize(stored, row..row + 1, out)?;
                }
                Ok(())
            }
            Arrangement::Transposed => {
                let width = stored.columns();
                let mut block = vec![0.0; TRANSPOSED_ROWS.min(columns) * width];
                for first in (0..columns).step_by(TRANSPOSED_ROWS) {
                    let last = columns.min(first + TRANSPOSED_ROWS);
                    let block = &mut block[..(last - first) * width];
                    self.dequantize(stored, first..last, block)?;
                    for (row, out) in rows.clone().zip(out.chunks_exact_mut(columns)) {
                        for (value, block_row) in out[first..last].iter_mut().zip(block.chunks_exact(width)) {
                            *value = block_row[row];
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

impl HfTensor {
    /// Writes `rows` of the tensor as a file stores it to `out`; `values` is all of it in Hugging Face's arrangement.
    /// `rows` are within the stored shape, and `out` has their length.
    pub(in crate::hf) fn store(&self, values: &[f32], rows: Range<usize>, out: &mut [f32]) {
        let [_, columns] = self.rows_and_columns();
        match self.arrangement {
            Arrangement::Same => out.copy_from_slice(&values[rows.start * columns..rows.end * columns]),
            Arrangement::PlusOne => {
                for (out, value) in out.iter_mut().zip(&values[rows.start * columns..]) {
                    *out = value + 1.0;
                }
            }
            Arrangement::Paired { head_dim } => {
                // A vector is a column here.
                let (rows, columns) = if self.shape.len() == 1 { (0..columns, 1) } else { (rows, columns) };
                for (stored, out) in rows.zip(out.chunks_exact_mut(columns)) {
                    let row = unpaired_row(stored, head_dim);
                    out.copy_from_slice(&values[row * columns..(row + 1) * columns]);
                }
            }
            Arrangement::Transposed => {
                let [width, _] = self.rows_and_columns();
                for (stored, out) in rows.zip(out.chunks_exact_mut(width)) {
                    for (out, row) in out.iter_mut().zip(values.chunks_exact(columns)) {
                        *out = row[stored];
                    }
                }
            }
        }
    }

    /// A vector is one row.
    fn rows_and_columns(&self) -> [usize; 2] {
        let columns = self.shape.last().copied().unwrap_or(1);
        [self.shape.iter().rev().skip(1).product(), columns]
    }

    /// Whether reading some rows takes all of the tensor.
    pub(in crate::hf) fn is_read_whole(&self) -> bool {
        self.arrangement == Arrangement::Transposed
    }
}

/// The stored row of a projection that is row `row` of Hugging Face's.
fn paired_row(row: usize, head_dim: usize) -> usize {
    let (head, in_head) = (row / head_dim, row % head_dim);
    let (side, pair) = (in_head / (head_dim / 2), in_head % (head_dim / 2));
    head * head_dim + 2 * pair + side
}

/// The inverse of [`paired_row`].
fn unpaired_row(stored: usize, head_dim: usize) -> usize {
    let (head, in_head) = (stored / head_dim, stored % head_dim);
    let (pair, side) = (in_head / 2, in_head % 2);
    head * head_dim + side * (head_dim / 2) + pair
}

#[cfg(test)]
mod tests;
