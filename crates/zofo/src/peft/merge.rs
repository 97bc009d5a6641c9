//! A model with a LoRA block's additions in its weights.

use super::{Adapter, Lora};
use crate::hf::{HfError, ModelFiles, WeightDtype};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_std::Bytes;
use half::bf16;
use std::collections::HashMap;
use std::path::Path;

/// Why a block cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A block that is not part of any weight.
    #[error(
        "{kind} cannot be merged into weights: it is input of its own. Keep the adapter's folder, and give both to whatever \
         loads the model"
    )]
    NotWeights {
        /// What the block is.
        kind: &'static str,
    },

    /// Reading or writing the model failed.
    #[error(transparent)]
    Model(#[from] HfError),
}

impl Adapter {
    /// The block as one that can be merged into weights.
    ///
    /// # Errors
    ///
    /// If it is a prefix or a prompt.
    pub fn as_mergeable(&self) -> Result<&Lora, MergeError> {
        match self {
            Self::Lora(lora) => Ok(lora),
            Self::Prefix(_) => Err(MergeError::NotWeights { kind: "a prefix" }),
            Self::Prompt(_) => Err(MergeError::NotWeights { kind: "a prompt" }),
        }
    }
}

impl Lora {
    /// The weight `name` of a model with the block merged in, `shape` being that in files: row-major and in `dtype`.
    /// The addition is computed in f32 and the result rounded once.
    ///
    /// # Errors
    ///
    /// Those of [`ModelFiles::load`].
    pub fn load_merged(
        &self,
        files: &ModelFiles,
        name: &str,
        shape: &[usize],
        dtype: WeightDtype,
    ) -> Result<Bytes, HfError> {
        let [rows, columns] = *shape else { return files.load(name, dtype) };
        if !self.adapts(name) {
            return files.load(name, dtype);
        }
        let data = TensorData::from_bytes(files.load(name, WeightDtype::F32)?, [rows, columns], DType::F32);
        let merged = self.merged(name, Tensor::from_data(data, &Device::flex())).into_data();
        Ok(match dtype {
            WeightDtype::F32 => merged.into_parts().0,
            WeightDtype::Bf16 => Bytes::from_elems(merged.iter::<f32>().map(bf16::from_f32).collect()),
        })
    }
}

/// Writes `files` with `adapter` merged into its weights, stored as `dtype`, as the Hugging Face model folder `output`.
/// One weight is in memory at a time. `progress` is told how many weights of how many are written.
///
/// # Errors
///
/// If the block is no LoRA; if a file cannot be read or written.
pub fn merge(
    files: &ModelFiles,
    adapter: &Adapter,
    dtype: WeightDtype,
    output: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<(), MergeError> {
    let lora = adapter.as_mergeable()?;
    let shapes: HashMap<&str, &[usize]> = files.parameters().collect();
    let mut done = 0;
    files.write_backbone(output, dtype, |name| {
        let bytes = lora.load_merged(files, name, shapes[name], dtype)?;
        done += 1;
        progress(done, shapes.len());
        Ok::<Bytes, MergeError>(bytes)
    })
}
