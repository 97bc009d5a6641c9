//! GGUF files, seen as Hugging Face model directories.
//!
//! [`GgufFile::open`] maps a file and checks its header. The rest of the program then finds in it what a model
//! directory would hold:
//!
//! | of a directory | of a GGUF file |
//! | --- | --- |
//! | `config.json` | [`GgufFile::hf_config`], [`GgufFile::decoder_config`] |
//! | weights by name | [`GgufFile::hf_tensors`], [`GgufFile::read_f32`] |
//! | `tokenizer.json` | [`GgufFile::hf_tokenizer_json`], [`GgufFile::tokenizer`] |
//! | `tokenizer_config.json` | [`GgufFile::hf_tokenizer_config`] |
//!
//! The other way, [`write_gguf`] writes a file from metadata and tensors, and [`tokenizer_metadata`] makes of a
//! tokenizer what such a file says about it.
//!
//! Weights are dequantised by rows, so that a caller needs memory for as many rows as it likes, and may read
//! different rows on different threads.

mod architecture;
mod arrangement;
mod config;
mod cursor;
mod error;
mod keys;
mod metadata;
mod names;
mod new_metadata;
mod pre_tokenizer;
mod quant;
mod quantize;
mod reader;
mod rope;
mod sizes;
mod tensor;
#[cfg(test)]
mod test_file;
mod tokenizer;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use zofo_kernels::MappedFile;

pub(in crate::hf) use architecture::{Architecture, Windows};
pub use error::{GgufError, GgufProblem};
pub use metadata::{Metadata, ValueKind};
pub use names::HfTensor;
pub(in crate::hf) use names::{POSITIONS, ROPE_FACTORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS, model_tensors};
pub use new_metadata::{MetadataElement, NewMetadata};
pub use quantize::WrittenType;
pub(in crate::hf) use rope::Llama3;
pub use tensor::{TensorInfo, TensorType};
pub use tokenizer::{HfTokenizerFiles, tokenizer_metadata};
pub(in crate::hf) use writer::write_checked_gguf;
pub use writer::{NewTensor, write_gguf};

use metadata::Entry;
use reader::Header;

/// A GGUF file (version 2 or 3, little-endian), mapped into memory, its header checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: MappedFile,
    entries: BTreeMap<String, Entry>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl GgufFile {
    /// Maps the file at `path` and checks its header against the format and the size of the file.
    ///
    /// # Errors
    /// The file cannot be opened, is no GGUF file of a supported version and byte order, has a tensor of an
    /// unsupported type, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let error = |problem| GgufError::new(path, problem);
        let map = MappedFile::open(path).map_err(|cause| error(GgufProblem::Open(cause)))?;
        let Header { entries, tensors } = Header::read(&map).map_err(error)?;
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Self { path: path.to_owned(), map, entries, tensors, by_name })
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys and values of the file.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata { path: &self.path, bytes: &self.map, entries: &self.entries }
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor that the file calls `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// Writes `rows` of `tensor`, one of [`tensors`](Self::tensors), to `out` as row-major f32, in the order in
    /// which the file stores them. `out` is `[rows.len(), tensor.columns()]`.
    ///
    /// # Errors
    /// [`GgufProblem::Rows`] if the tensor has no such rows or `out` has another length.
    pub fn dequantize(&self, tensor: &TensorInfo, rows: Range<usize>, out: &mut [f32]) -> Result<(), GgufError> {
        let expected = rows.len().checked_mul(tensor.columns());
        let row_bytes = tensor.row_bytes();
        // The rows lie inside the tensor and the tensor inside the file; going through `get` all the same keeps a
        // tensor of another file from being more than an error.
        let bytes = (rows.start <= rows.end && rows.end <= tensor.rows())
            .then(|| {
                let start = tensor.bytes.start + rows.start * row_bytes;
                self.map.get(start..start + rows.len() * row_bytes)
            })
            .flatten();
        match bytes {
            Some(bytes) if expected == Some(out.len()) => {
                quant::dequantize(tensor.kind, bytes, out);
                Ok(())
            }
            _ => Err(self.error(GgufProblem::Rows {
                tensor: tensor.name.clone(),
                start: rows.start,
                end: rows.end,
                out: out.len(),
                rows: tensor.rows(),
                columns: tensor.columns(),
            })),
        }
    }

    fn error(&self, problem: GgufProblem) -> GgufError {
        GgufError::new(&self.path, problem)
    }
}

#[cfg(test)]
mod tests;
