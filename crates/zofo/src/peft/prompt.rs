//! Prompt tuning: embeddings of virtual tokens, put before those of the words (Lester, Al-Rfou and Constant, arXiv
//! 2104.08691).

use super::init::{InitTokens, exactly, normal, tensor_of};
use crate::hf::{ADAPTER_CONFIG, AdapterMatrix, HfError, PeftPrompt, adapter_weights_path};
use crate::model::{Backbone, DecoderConfig};
use burn::tensor::{Device, Tensor};
use std::path::Path;

/// Size and start of a prompt block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptConfig {
    /// n.
    pub virtual_tokens: usize,
    /// How it begins.
    pub init: PromptInit,
}

/// How a prompt begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptInit {
    /// From standard normals, as PEFT does by default. Word embeddings are often much smaller.
    Random,
    /// From the embeddings of tokens.
    Embeddings(InitTokens),
}

/// The name of the tensor in PEFT's files.
const EMBEDDINGS: &str = "prompt_embeddings";

/// A prompt block.
#[derive(Clone)]
pub struct Prompt {
    /// `[n, width of the word embeddings]`.
    embeddings: Tensor<2>,
    /// What PEFT's file has to say of the model.
    layers: usize,
    heads: usize,
}

impl Prompt {
    /// A new block for `backbone`, from `seed`.
    pub(super) fn new(config: &PromptConfig, backbone: &Backbone, seed: u64) -> Self {
        let (model, n) = (backbone.config(), config.virtual_tokens);
        let embeddings = match &config.init {
            PromptInit::Random => normal(seed, EMBEDDINGS, [n, model.embedding.width], backbone.device()),
            PromptInit::Embeddings(tokens) => backbone.embedding_rows(&tokens.take(n, model.vocabulary, seed)),
        };
        Self::from_embeddings(model, embeddings)
    }

    /// The block with these embeddings `[n, width of the word embeddings]`.
    pub fn from_embeddings(model: &DecoderConfig, embeddings: Tensor<2>) -> Self {
        Self { embeddings, layers: model.layers.len(), heads: model.heads }
    }

    /// The block `stored`, which was read from the folder `dir`, for `model`.
    pub(super) fn from_peft(
        stored: PeftPrompt,
        dir: &Path,
        model: &DecoderConfig,
        device: &Device,
    ) -> Result<Self, HfError> {
        let AdapterMatrix { shape, values } = stored.embeddings;
        let width = model.embedding.width;
        if shape[1] != width {
            return Err(HfError::Unexpected {
                path: adapter_weights_path(dir),
                what: format!("tensor \"{EMBEDDINGS}\""),
                expected: format!("a prompt for the base model's embeddings of width {width}"),
                found: format!("one of width {} (is the adapter for another model?)", shape[1]),
            });
        }
        // Nothing is computed with it, but an adapter that was trained beside other blocks is for another model.
        let (stored_layers, layers) = (stored.num_layers, model.layers.len());
        if stored_layers != layers {
            return Err(HfError::Unexpected {
                path: dir.join(ADAPTER_CONFIG),
                what: "\"num_layers\"".to_owned(),
                expected: format!("{layers}, as the base model has"),
                found: format!("{stored_layers} (is the adapter for another model?)"),
            });
        }
        Ok(Self::from_embeddings(model, tensor_of(values, shape, device)))
    }

    /// The block as PEFT keeps it.
    pub(super) fn to_peft(&self, base_model: &Path) -> PeftPrompt {
        PeftPrompt {
            num_layers: self.layers,
            num_attention_heads: self.heads,
            embeddings: AdapterMatrix::from(&self.embeddings),
            base_model_name_or_path: Some(base_model.display().to_string()),
        }
    }

    pub(super) fn virtual_tokens(&self) -> usize {
        self.embeddings.dims()[0]
    }

    pub(super) fn embeddings(&self) -> Tensor<2> {
        self.embeddings.clone()
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor<2>)> {
        vec![(EMBEDDINGS.to_owned(), self.embeddings())]
    }

    pub(super) fn with_tensors(&self, tensors: Vec<Tensor<2>>) -> Self {
        let [embeddings] = exactly(tensors);
        Self { embeddings, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_model::model;
    use super::*;

    #[test]
    fn a_prompt_for_another_model_is_refused() {
        let model = model();
        let (layers, width) = (model.layers.len(), model.embedding.width);
        let read = |num_layers: usize, width: usize| {
            let embeddings = AdapterMatrix { shape: [2, width], values: vec![0.5; 2 * width] };
            let stored =
                PeftPrompt { num_layers, num_attention_heads: model.heads, embeddings, base_model_name_or_path: None };
            Prompt::from_peft(stored, Path::new("dir"), &model, &Device::flex()).map_err(|error| error.to_string())
        };
        assert_eq!(read(layers, width).unwrap_or_else(|error| panic!("{error}")).virtual_tokens(), 2);
        let text = read(layers + 1, width).err().unwrap();
        for words in ["dir/adapter_config.json", "\"num_layers\"", &format!("found {}", layers + 1), "another model"] {
            assert!(text.contains(words), "{text}");
        }
        assert!(read(layers, width + 1).err().unwrap().contains("embeddings of width"));
    }
}
