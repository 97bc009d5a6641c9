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

use std::path::Path;

use super::{error::HfError, weights::WeightFile};

/// Maps the file at `path` and finds its tensors.
///
/// # Errors
/// The file cannot be opened or mapped, is damaged, or has something else than tensors in it.
pub(super) fn open(path: &Path) -> Result<WeightFile, HfError> {
    WeightFile::open(path, |path, bytes| {
        if bytes.starts_with(archive::MAGIC) {
            archive::read(path, bytes)
        } else if bytes.starts_with(legacy::MAGIC) {
            legacy::read(path, bytes)
        } else {
            let start = &bytes[..bytes.len().min(archive::MAGIC.len())];
            Err(HfError::Unexpected {
                path: path.to_owned(),
                what: "start of the file".to_owned(),
                expected: "a dictionary of tensors as torch.save writes it".to_owned(),
                found: format!("\"{}\"", start.escape_ascii()),
            })
        }
    })
}

#[cfg(test)]
mod tests;
