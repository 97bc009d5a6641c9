//! One file as `torch.save` writes a dictionary of tensors, mapped.
//!
//! Such a file is values and a pickle that says which tensors they are, and a pickle is a program, which Python runs.
//! Here a machine runs it that knows the names that describe tensors and refuses every other. (The `pytorch-reader`
//! crate behind `burn-store` 0.22 runs nothing either, but it passes over other names, takes attributes for entries,
//! needs 9 GB for a hostile file of 100 kB, and copies what could be mapped.)
//!
//! | what | where |
//! | --- | --- |
//! | the zip archives of PyTorch 1.6 and later | [`archive`] |
//! | the concatenated pickles of earlier ones | [`legacy`] |
//! | the machine | [`pickle`], with what it can make in [`value`] |
//! | from the description of a tensor to its bytes | [`layout`] |

mod archive;
mod layout;
mod legacy;
mod pickle;
#[cfg(test)]
pub(super) mod test_file;
mod value;

use std::{collections::BTreeMap, path::Path};

use burn_std::Bytes;

use self::layout::Stored;
use super::{
    dtype::{Float, StoredDtype, WeightDtype, convert},
    error::HfError,
    weights::{WeightBytes, WeightFile},
};

/// A file of `torch.save` whose tensors lie within it.
#[derive(Debug)]
pub(super) struct PytorchFile {
    mapped: WeightBytes,
    tensors: BTreeMap<String, Stored>,
}

impl PytorchFile {
    /// Maps the file at `path` and finds its tensors.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, is damaged, or has something else than tensors in it.
    pub(super) fn open(path: &Path) -> Result<Self, HfError> {
        let mapped = WeightBytes::open(path)?;
        let bytes = mapped.bytes();
        let tensors = if bytes.starts_with(archive::MAGIC) {
            archive::read(path, bytes)?
        } else if bytes.starts_with(legacy::MAGIC) {
            legacy::read(path, bytes)?
        } else {
            let start = &bytes[..bytes.len().min(archive::MAGIC.len())];
            return Err(HfError::Unexpected {
                path: path.to_owned(),
                what: "start of the file".to_owned(),
                expected: "a dictionary of tensors as torch.save writes it".to_owned(),
                found: format!("\"{}\"", start.escape_ascii()),
            });
        };
        Ok(Self { mapped, tensors })
    }

    fn weight(&self, name: &str) -> Result<(&Stored, Float), HfError> {
        let stored = self.tensors.get(name).ok_or_else(|| self.mapped.no_tensor(name))?;
        Ok((stored, self.mapped.weight_type(name, stored.dtype)?))
    }
}

impl WeightFile for PytorchFile {
    fn path(&self) -> &Path {
        self.mapped.path()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    fn stored_dtype(&self, name: &str) -> Result<StoredDtype, HfError> {
        Ok(self.weight(name)?.1.into())
    }

    fn load(&self, name: &str, dtype: WeightDtype) -> Result<Bytes, HfError> {
        let (stored, float) = self.weight(name)?;
        match stored.gathered(self.mapped.bytes()) {
            Some(values) => Ok(convert(&values, float, dtype)),
            None => self.mapped.load(stored.bytes.clone(), float, dtype),
        }
    }
}

#[cfg(test)]
mod tests;
