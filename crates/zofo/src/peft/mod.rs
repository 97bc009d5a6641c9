//! Small trainable blocks beside a frozen backbone.

mod lora;
mod optimizer;

pub use lora::{Lora, LoraConfig, UnknownTarget};
pub use optimizer::{AdapterOptimizer, OptimizerKind, OptimizerState};

use crate::hf::HfError;
use crate::model::DecoderConfig;
use burn::tensor::{Device, Gradients, Tensor};
use std::path::Path;

/// A PEFT block, p or s: its tensors, and what they add to the backbone's projections.
#[derive(Clone)]
pub enum Adapter {
    /// Low-rank additions to linear layers.
    Lora(Lora),
}

/// One gradient per tensor of an adapter, in the order of [`Adapter::tensors`].
pub type AdapterGradients = Vec<Tensor<2>>;

impl Adapter {
    /// Reads the adapter folder `dir`, in PEFT's format, for a model.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of a kind that is not supported, or belongs to another model.
    pub fn read(dir: &Path, model: &DecoderConfig, device: &Device) -> Result<Self, HfError> {
        Lora::read(dir, model, device).map(Self::Lora)
    }

    /// Writes the adapter folder `dir` in PEFT's format, for the base model at `base_model`.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or `dir` holds something else.
    pub fn write(&self, base_model: &Path, dir: &Path) -> Result<(), HfError> {
        match self {
            Self::Lora(lora) => lora.write(base_model, dir),
        }
    }

    /// Name (as PEFT stores it) and values of every tensor, always in the same order.
    pub fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        match self {
            Self::Lora(lora) => lora.tensors(),
        }
    }

    /// The same block with other values, given in the order of [`tensors`](Self::tensors).
    #[must_use]
    pub fn with_tensors(&self, tensors: Vec<Tensor<2>>) -> Self {
        match self {
            Self::Lora(lora) => Self::Lora(lora.with_tensors(tensors)),
        }
    }

    /// Number of trainable values.
    pub fn len(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.shape().num_elements()).sum()
    }

    /// Whether the block has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same block as leaves of a new autodiff graph.
    #[must_use]
    pub fn tracked(&self) -> Self {
        let leaf = |(_, tensor): (String, Tensor<2>)| tensor.autodiff().require_grad();
        self.with_tensors(self.tensors().into_iter().map(leaf).collect())
    }

    /// Whether gradients with respect to this block are recorded.
    pub fn is_tracked(&self) -> bool {
        self.tensors().first().is_some_and(|(_, tensor)| tensor.is_require_grad())
    }

    /// Gradients of a [`tracked`](Self::tracked) block. A tensor that the loss does not depend on has gradient 0.
    pub fn gradients(&self, mut gradients: Gradients) -> AdapterGradients {
        let gradient = |(_, tensor): (String, Tensor<2>)| {
            let shape = tensor.shape();
            let device = tensor.device().inner();
            tensor.grad_remove(&mut gradients).unwrap_or_else(|| Tensor::zeros(shape, &device))
        };
        self.tensors().into_iter().map(gradient).collect()
    }

    /// Number of virtual tokens, which stand before the real ones: real token t is at position `virtual_tokens` + t.
    pub fn virtual_tokens(&self) -> usize {
        match self {
            Self::Lora(_) => 0,
        }
    }

    /// Embeddings `[virtual_tokens, embedding width]` that stand before those of words.
    pub fn prompt(&self) -> Option<Tensor<2>> {
        match self {
            Self::Lora(_) => None,
        }
    }

    /// Keys and values `[virtual_tokens, kv_heads · head_dim]` that stand before those of real tokens in block `layer`.
    pub fn prefix(&self, _layer: usize) -> Option<(Tensor<2>, Tensor<2>)> {
        match self {
            Self::Lora(_) => None,
        }
    }

    /// Whether the block adds something to the projection whose weight has this name.
    pub fn adapts(&self, weight: &str) -> bool {
        match self {
            Self::Lora(lora) => lora.module(weight).is_some(),
        }
    }

    /// What the block adds to the projection of x `[tokens, in]` by the weight of this name: `[tokens, out]`.
    pub fn delta(&self, weight: &str, x: Tensor<2>) -> Option<Tensor<2>> {
        match self {
            Self::Lora(lora) => lora.delta(weight, x),
        }
    }
}
