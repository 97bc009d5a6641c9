//! The files that keep a folder's weights, whichever format they are in.

mod folder;
mod index;

use std::{
    fmt,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use burn_std::Bytes;
use safetensors::Dtype;
use zofo_kernels::{MappedFile, map_private};

use super::{
    atomic::failed_to,
    dtype::{Float, StoredDtype, WeightDtype, convert},
    error::HfError,
};

pub(super) use folder::ShardedWeights;

/// A file with named tensors, whose description of them holds.
pub(super) trait WeightFile: fmt::Debug + Send + Sync {
    fn path(&self) -> &Path;

    /// The names of all tensors.
    fn names(&self) -> Vec<&str>;

    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// How a weight is stored.
    ///
    /// # Errors
    /// The file has no such tensor, or not in a type that weights can have.
    fn stored_dtype(&self, name: &str) -> Result<StoredDtype, HfError>;

    /// A weight as row-major tensor storage of type `dtype`, mapped if it is stored so and as aligned as its values
    /// need.
    ///
    /// # Errors
    /// As [`stored_dtype`](Self::stored_dtype); the mapping fails.
    fn load(&self, name: &str, dtype: WeightDtype) -> Result<Bytes, HfError>;
}

/// A file whose tensors are little-endian values somewhere in it.
#[derive(Debug)]
pub(super) struct WeightBytes {
    path: PathBuf,
    /// The same file as `map`, for mappings that can be written to.
    file: File,
    map: MappedFile,
}

impl WeightBytes {
    /// # Errors
    /// The file cannot be opened or mapped.
    pub(super) fn open(path: &Path) -> Result<Self, HfError> {
        let file = File::open(path).map_err(failed_to("open", path))?;
        let map = MappedFile::open(path).map_err(failed_to("open", path))?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The type of the weight `name`, if weights can have it.
    pub(super) fn weight_type(&self, name: &str, dtype: Dtype) -> Result<Float, HfError> {
        match dtype {
            Dtype::F32 => Ok(Float::F32),
            Dtype::F16 => Ok(Float::F16),
            Dtype::BF16 => Ok(Float::Bf16),
            other => Err(HfError::Unsupported {
                path: self.path.clone(),
                what: format!("the type of tensor \"{name}\""),
                found: format!("{other:?}"),
                supported: "F32, BF16, F16".to_owned(),
            }),
        }
    }

    pub(super) fn no_tensor(&self, name: &str) -> HfError {
        HfError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] }
    }

    /// The values at `bytes`, which are within the file, as tensor storage of type `dtype`: mapped where they can be.
    ///
    /// # Errors
    /// The mapping fails.
    pub(super) fn load(&self, bytes: Range<usize>, from: Float, dtype: WeightDtype) -> Result<Bytes, HfError> {
        let aligned = bytes.start.is_multiple_of(dtype.size());
        if aligned && StoredDtype::from(from).is_stored_as(dtype) && !bytes.is_empty() {
            let mapped = map_private(&self.file, bytes.start as u64, bytes.len());
            return Ok(mapped.map_err(failed_to("map", &self.path))?);
        }
        Ok(convert(&self.map[bytes], from, dtype))
    }
}
