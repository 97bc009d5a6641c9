//! Small trainable blocks beside a frozen backbone: LoRA, prefix tuning and prompt tuning, as PEFT defines them.

mod dropout;
mod error;
mod init;
mod lora;
mod merge;
mod optimizer;
mod prefix;
mod prompt;
mod targets;
#[cfg(test)]
mod test_model;

pub use error::AdapterError;
pub use init::InitTokens;
pub use lora::{Lora, LoraConfig};
pub use merge::{MergeError, merge};
pub use optimizer::{AdapterOptimizer, OptimizerKind, OptimizerState};
pub use prefix::{Prefix, PrefixConfig, PrefixInit};
pub use prompt::{Prompt, PromptConfig, PromptInit};

use crate::hf::{HfError, PeftAdapter, adapter_weights_path};
use crate::model::{Backbone, DecoderConfig, LeafGradients, leaf};
use burn::tensor::{Device, Gradients, Tensor};
use std::path::Path;

/// What a block is, and how it begins.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterConfig {
    /// Low-rank additions to linear layers.
    Lora(LoraConfig),
    /// Keys and values of virtual tokens.
    Prefix(PrefixConfig),
    /// Embeddings of virtual tokens.
    Prompt(PromptConfig),
}

impl AdapterConfig {
    /// Checks the configuration against a model, whose weights need not be there yet.
    ///
    /// # Errors
    ///
    /// If it asks for layers, positions or tokens that the model does not have.
    pub fn check(&self, model: &DecoderConfig) -> Result<(), AdapterError> {
        let tokens = match self {
            Self::Lora(config) => return Lora::check(config, model),
            Self::Prefix(PrefixConfig { init: PrefixInit::Activations(tokens), .. })
            | Self::Prompt(PromptConfig { init: PromptInit::Embeddings(tokens), .. }) => Some(tokens),
            Self::Prefix(_) | Self::Prompt(_) => None,
        };
        let virtual_tokens = self.virtual_tokens();
        if virtual_tokens >= model.max_positions {
            return Err(AdapterError::TooManyVirtualTokens { virtual_tokens, positions: model.max_positions });
        }
        if let Some(InitTokens::Given(tokens)) = tokens {
            if tokens.is_empty() {
                return Err(AdapterError::EmptyText);
            }
            let vocabulary = model.vocabulary;
            if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
                return Err(AdapterError::ForeignToken { token, vocabulary });
            }
        }
        Ok(())
    }

    /// The positions that a block takes before the first real token.
    pub fn virtual_tokens(&self) -> usize {
        match self {
            Self::Lora(_) => 0,
            Self::Prefix(config) => config.virtual_tokens,
            Self::Prompt(config) => config.virtual_tokens,
        }
    }
}

/// A PEFT block, p or s: its tensors, and what they do to a forward pass.
#[derive(Clone)]
pub enum Adapter {
    /// Low-rank additions to linear layers.
    Lora(Lora),
    /// Keys and values of virtual tokens.
    Prefix(Prefix),
    /// Embeddings of virtual tokens.
    Prompt(Prompt),
}

/// One gradient per tensor of an adapter, in the order of [`Adapter::tensors`].
pub type AdapterGradients = Vec<Tensor<2>>;

impl Adapter {
    /// A new block for `backbone`; its random numbers come from `seed`.
    ///
    /// # Errors
    ///
    /// Those of [`AdapterConfig::check`].
    pub fn new(config: &AdapterConfig, backbone: &Backbone, seed: u64) -> Result<Self, AdapterError> {
        config.check(backbone.config())?;
        Ok(match config {
            AdapterConfig::Lora(config) => {
                Self::Lora(Lora::new(config.clone(), backbone.config(), seed, backbone.device())?)
            }
            AdapterConfig::Prefix(config) => Self::Prefix(Prefix::new(config, backbone, seed)),
            AdapterConfig::Prompt(config) => Self::Prompt(Prompt::new(config, backbone, seed)),
        })
    }

    /// Reads the adapter folder `dir`, in PEFT's format, for a model.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is of a kind that is not supported, or belongs to another model.
    pub fn read(dir: &Path, model: &DecoderConfig, device: &Device) -> Result<Self, HfError> {
        let adapter = match PeftAdapter::read(dir)? {
            PeftAdapter::Lora(lora) => Self::Lora(Lora::from_peft(lora, dir, model, device)?),
            PeftAdapter::Prefix(prefix) => Self::Prefix(Prefix::from_peft(prefix, dir, model, device)?),
            PeftAdapter::Prompt(prompt) => Self::Prompt(Prompt::from_peft(prompt, dir, model, device)?),
        };
        let (virtual_tokens, positions) = (adapter.virtual_tokens(), model.max_positions);
        if virtual_tokens < positions {
            return Ok(adapter);
        }
        Err(HfError::Unexpected {
            path: adapter_weights_path(dir),
            what: "number of virtual tokens".to_owned(),
            expected: format!("fewer than the {positions} positions of the base model"),
            found: format!("{virtual_tokens} (is the adapter for another model?)"),
        })
    }

    /// Writes the adapter folder `dir` in PEFT's format, for the base model at `base_model`.
    ///
    /// # Errors
    ///
    /// If a file cannot be written, or `dir` holds something else.
    pub fn write(&self, base_model: &Path, dir: &Path) -> Result<(), HfError> {
        let stored = match self {
            Self::Lora(lora) => PeftAdapter::Lora(lora.to_peft(base_model)),
            Self::Prefix(prefix) => PeftAdapter::Prefix(prefix.to_peft(base_model)),
            Self::Prompt(prompt) => PeftAdapter::Prompt(prompt.to_peft(base_model)),
        };
        stored.write(dir)
    }

    /// Name and values of every tensor that is trained, always in the same order: what checkpoints hold. The names are
    /// those of PEFT's files, but for a prefix with a projection: its files hold what the projection computes.
    pub fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        match self {
            Self::Lora(lora) => lora.tensors(),
            Self::Prefix(prefix) => prefix.tensors(),
            Self::Prompt(prompt) => prompt.tensors(),
        }
    }

    /// The same block with other values, given in the order of [`tensors`](Self::tensors).
    #[must_use]
    pub fn with_tensors(&self, tensors: Vec<Tensor<2>>) -> Self {
        match self {
            Self::Lora(lora) => Self::Lora(lora.with_tensors(tensors)),
            Self::Prefix(prefix) => Self::Prefix(prefix.with_tensors(tensors)),
            Self::Prompt(prompt) => Self::Prompt(prompt.with_tensors(tensors)),
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
        self.with_tensors(self.tensors().into_iter().map(|(_, tensor)| leaf(tensor)).collect())
    }

    /// The block as passes read it: of a prefix with a projection, keys and values that are trained themselves.
    #[must_use]
    pub(crate) fn as_read(&self) -> Self {
        match self {
            Self::Prefix(prefix) => Self::Prefix(prefix.as_read()),
            Self::Lora(_) | Self::Prompt(_) => self.clone(),
        }
    }

    /// Gradients of what is trained, from those of the block [as passes read it](Self::as_read).
    pub(crate) fn back_from_read(&self, gradients: AdapterGradients) -> AdapterGradients {
        match self {
            Self::Prefix(prefix) => prefix.back_from_read(gradients),
            Self::Lora(_) | Self::Prompt(_) => gradients,
        }
    }

    /// The same block with the dropout that its configuration asks for, by masks that are a pure function of `seed`,
    /// module, row and column: for training only.
    #[must_use]
    pub fn with_dropout(&self, seed: u64) -> Self {
        match self {
            Self::Lora(lora) => Self::Lora(lora.with_dropout(seed)),
            Self::Prefix(_) | Self::Prompt(_) => self.clone(),
        }
    }

    /// Whether the configuration asks for dropout, as [`with_dropout`](Self::with_dropout) gives.
    pub fn has_dropout(&self) -> bool {
        match self {
            Self::Lora(lora) => lora.has_dropout(),
            Self::Prefix(_) | Self::Prompt(_) => false,
        }
    }

    /// Whether gradients with respect to this block are recorded.
    pub fn is_tracked(&self) -> bool {
        self.tensors().first().is_some_and(|(_, tensor)| tensor.is_require_grad())
    }

    /// Gradients of a [`tracked`](Self::tracked) block. A tensor that the loss does not depend on has gradient 0.
    pub fn gradients(&self, gradients: Gradients) -> AdapterGradients {
        let mut sums = self.leaf_gradients();
        sums.add(gradients);
        sums.into_tensors()
    }

    /// Where the gradients of a [`tracked`](Self::tracked) block are summed.
    pub(crate) fn leaf_gradients(&self) -> LeafGradients {
        LeafGradients::new(self.tensors().into_iter().map(|(_, tensor)| tensor).collect())
    }

    /// Number of virtual tokens before a row's first one, which therefore has this position: 0 for LoRA.
    pub fn virtual_tokens(&self) -> usize {
        match self {
            Self::Lora(_) => 0,
            Self::Prefix(prefix) => prefix.virtual_tokens(),
            Self::Prompt(prompt) => prompt.virtual_tokens(),
        }
    }

    /// Of prompt tuning: what stands before the word embeddings, `[n, embedding width]`.
    pub fn prompt(&self) -> Option<Tensor<2>> {
        match self {
            Self::Prompt(prompt) => Some(prompt.embeddings()),
            Self::Lora(_) | Self::Prefix(_) => None,
        }
    }

    /// Of prefix tuning: keys and values of the virtual tokens in one block, `[n, kv_heads · head_dim]` each, as they
    /// stand in the cache: not to be rotated.
    pub fn prefix(&self, layer: usize) -> Option<(Tensor<2>, Tensor<2>)> {
        match self {
            Self::Prefix(prefix) => Some(prefix.keys_and_values(layer)),
            Self::Lora(_) | Self::Prompt(_) => None,
        }
    }

    /// Whether the block adds something to the projection whose weight has this name.
    pub fn adapts(&self, weight: &str) -> bool {
        match self {
            Self::Lora(lora) => lora.adapts(weight),
            Self::Prefix(_) | Self::Prompt(_) => false,
        }
    }

    /// What the block adds to the projection of x `[tokens, in]` by the weight of this name: `[tokens, out]`.
    pub fn delta(&self, weight: &str, x: Tensor<2>) -> Option<Tensor<2>> {
        match self {
            Self::Lora(lora) => lora.delta(weight, x),
            Self::Prefix(_) | Self::Prompt(_) => None,
        }
    }
}
