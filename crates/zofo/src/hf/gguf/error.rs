//! What can be wrong with a GGUF file.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{architecture::Architecture, tensor::TensorType};

/// A GGUF file that cannot be used: which file, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    path: PathBuf,
    // Boxed so that a `Result` on the reading paths stays small.
    problem: Box<GgufProblem>,
}

impl GgufError {
    pub(super) fn new(path: &Path, problem: GgufProblem) -> Self {
        Self { path: path.to_owned(), problem: Box::new(problem) }
    }

    /// The file at fault.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &GgufProblem {
        &self.problem
    }
}

/// The reason inside a [`GgufError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufProblem {
    /// The file cannot be opened or mapped.
    #[error("cannot open the file: {0}")]
    Open(io::Error),

    /// The first four bytes are not those of a GGUF file.
    #[error("not a GGUF file: it starts with \"{}\", expected \"GGUF\"", found.escape_ascii())]
    Magic {
        /// The bytes found.
        found: Vec<u8>,
    },

    /// The file was written for big-endian machines.
    #[error(
        "a big-endian GGUF file (version {version}); only little-endian files are supported, convert it with gguf-py's gguf-convert-endian"
    )]
    BigEndian {
        /// The version after swapping the bytes.
        version: u32,
    },

    /// A version of the format that is not 2 or 3.
    #[error("GGUF version {found}; supported are versions 2 and 3, so convert the original model again")]
    Version {
        /// The version found.
        found: u32,
    },

    /// The header contradicts itself, the format, or the size of the file.
    #[error("{what}, at byte {offset}: expected {expected}, found {found}")]
    Malformed {
        /// Which part of the header, key or tensor.
        what: String,
        /// Where in the file.
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A metadata key that is needed is not there.
    #[error("metadata key \"{key}\" is missing; convert the original model again")]
    MissingKey {
        /// The key.
        key: String,
    },

    /// A metadata value has another type than its key asks for.
    #[error("metadata key \"{key}\" holds {found}, expected {expected}")]
    KeyType {
        /// The key.
        key: String,
        /// The type wanted.
        expected: &'static str,
        /// The type found.
        found: String,
    },

    /// A metadata value has the right type but cannot be used.
    #[error("metadata key \"{key}\" is {found}; {expected}")]
    KeyValue {
        /// The key.
        key: String,
        /// What would be accepted.
        expected: String,
        /// The value found.
        found: String,
    },

    /// The model is of a family that cannot be read from GGUF.
    #[error(
        "architecture \"{found}\" is not supported in a GGUF file; supported: {}. Use the model's Hugging Face directory instead",
        Architecture::names()
    )]
    Architecture {
        /// `general.architecture`.
        found: String,
    },

    /// A tensor is stored in a type that cannot be read.
    #[error("tensor \"{tensor}\" has the type {found}, which is not supported; supported: {}", TensorType::names())]
    TensorType {
        /// The tensor.
        tensor: String,
        /// Its type: the name if there is one, and the number.
        found: String,
    },

    /// A tensor that the model needs is not in the file.
    #[error("tensor \"{tensor}\" is missing")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },

    /// The file has a tensor that the model has no use for.
    #[error(
        "tensor \"{tensor}\" of shape {shape:?} does not belong to a {architecture} model with {layers} layers; leaving it out would change the model"
    )]
    UnknownTensor {
        /// The tensor.
        tensor: String,
        /// Its shape, row-major.
        shape: Vec<usize>,
        /// `general.architecture`.
        architecture: &'static str,
        /// The number of layers that the metadata state.
        layers: usize,
    },

    /// A tensor has another shape than the metadata say.
    #[error("tensor \"{tensor}\" has shape {found:?}, expected {expected:?} from the metadata")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// The shape wanted, row-major.
        expected: Vec<usize>,
        /// The shape found, row-major.
        found: Vec<usize>,
    },

    /// Rows were asked for that the tensor does not have, or the output does not fit them.
    #[error("tensor \"{tensor}\": rows {start}..{end} into {out} values, but it has {rows} rows of {columns}")]
    Rows {
        /// The tensor.
        tensor: String,
        /// The first row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// The length of the output.
        out: usize,
        /// The rows of the tensor.
        rows: usize,
        /// The length of a row.
        columns: usize,
    },

    /// A divisor of a rotary frequency is impossible.
    #[error(
        "tensor \"{tensor}\": divisor {index} of the rotary frequencies is {found}, expected a finite number above zero"
    )]
    RopeFactor {
        /// The tensor.
        tensor: String,
        /// The first that is impossible.
        index: usize,
        /// Its value.
        found: f32,
    },

    /// A tensor cannot be written.
    #[error("tensor \"{tensor}\" cannot be written: {reason}")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// What stands in the way.
        reason: String,
    },

    /// The parts of the tokenizer are each valid but do not make one.
    #[error("the tokenizer in the metadata (tokenizer.ggml.*) cannot be built: {0}")]
    Tokenizer(String),
}
