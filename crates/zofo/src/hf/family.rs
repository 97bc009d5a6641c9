//! Families of models: which file reads which architecture's `config.json`, and what files call the weights.
//!
//! Keys, what they mean, and what their absence means are those of transformers' configuration classes, in the spelling
//! of transformers 4 or 5. Sizes that the shapes of weights depend on must be stated: transformers' defaults for them are
//! those of one model of the family.

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod layer_types;
mod llama;
mod llama_layout;
mod mistral;
mod opt;
mod parts;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod sizes;

use std::path::Path;

use serde_json::Value;

use super::{
    error::HfError,
    json::{Keys, read_object},
};
use crate::model::DecoderConfig;

/// Output matrix of every family, where it is not the embedding.
pub(super) const HEAD: &str = "lm_head.weight";
/// Frequencies that old versions of transformers saved with the weights.
const ROTARY_BUFFERS: &[&str] = &[".rotary_emb.inv_freq"];

/// All that sets a family apart. Another one is another file and another entry in [`FAMILIES`].
pub(super) struct Family {
    /// The name in `architectures`.
    pub(super) architecture: &'static str,
    /// The name in `model_type`, which stands in where `architectures` is absent.
    model_type: &'static str,
    /// What the absence of `eos_token_id` means.
    pub(super) default_eos: Option<u32>,
    /// How the names of all weights but the head begin. A checkpoint of the model without its head leaves it out.
    pub(super) base_prefix: &'static str,
    /// How the names of tensors end that files may have but that are no weights: they follow from the configuration.
    buffers: &'static [&'static str],
    /// Reads the rest.
    decoder: fn(&Keys<'_>) -> Result<DecoderConfig, HfError>,
}

const FAMILIES: [Family; 10] = [
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    gpt2::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    opt::FAMILY,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
];

impl Family {
    /// The decoder of a `config.json` of this family, with the names of weights that transformers 5 writes.
    pub(super) fn decoder(&self, config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
        if config.get("quantization_config").is_some() {
            let supported = "weights in F32, BF16 or F16, or a GGUF file of the model";
            return Err(config.unsupported("quantization_config", supported));
        }
        if let Some((key, _)) = foreign_parts(config).next() {
            return Err(config.unsupported(key, "models without it"));
        }
        (self.decoder)(config)
    }

    /// Whether a tensor can be left out, although it is none of the weights of `decoder`.
    pub(super) fn is_redundant(&self, decoder: &DecoderConfig, name: &str) -> bool {
        self.buffers.iter().any(|ending| name.ends_with(ending)) || (decoder.is_tied() && name == HEAD)
    }
}

/// The family of a `config.json`.
pub(super) fn family(config: &Keys<'_>) -> Result<&'static Family, HfError> {
    let unknown = |found: String| HfError::Architecture {
        path: config.path.to_owned(),
        found: match foreign_parts(config).next() {
            Some((key, part)) => format!("{found} ({part}, as its key \"{key}\" says)"),
            None => found,
        },
        supported: FAMILIES.iter().map(|family| family.architecture).collect(),
    };
    match config.strings("architectures")? {
        Some(names) => {
            FAMILIES.iter().find(|family| names == [family.architecture]).ok_or_else(|| unknown(names.join(", ")))
        }
        None => {
            let model_type = config.required("model_type", Keys::string)?;
            FAMILIES
                .iter()
                .find(|family| family.model_type == model_type)
                .ok_or_else(|| unknown(format!("of model type \"{model_type}\"")))
        }
    }
}

/// Keys that ask for parts which no [`DecoderConfig`] has, and what these are.
fn foreign_parts(config: &Keys<'_>) -> impl Iterator<Item = (&'static str, &'static str)> {
    const FOREIGN: [(&str, &str); 9] = [
        ("num_local_experts", "a mixture of experts"),
        ("num_experts", "a mixture of experts"),
        ("n_routed_experts", "a mixture of experts"),
        ("vision_config", "a model of images and text"),
        ("audio_config", "a model of sound and text"),
        ("is_encoder_decoder", "an encoder and a decoder"),
        ("add_cross_attention", "a decoder with cross attention"),
        ("alibi", "a decoder with linear position biases"),
        ("per_layer_config", "a decoder with layers of different sizes"),
    ];
    let is_set = |value: &Value| match value {
        Value::Bool(set) => *set,
        Value::Number(count) => count.as_f64() != Some(0.0),
        _ => true,
    };
    FOREIGN.into_iter().filter(move |(key, _)| config.get(key).is_some_and(is_set))
}

/// The decoder of a `config.json`.
///
/// # Errors
/// Those of [`read_decoder_config`], but for the file itself.
pub(super) fn decoder_of(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    family(config)?.decoder(config)
}

/// Reads a `config.json`, as transformers 4 or 5 writes it.
///
/// # Errors
/// The file cannot be read or is not JSON; its architecture is not supported; a key is missing, has an impossible value,
/// or asks for something that is not supported.
pub fn read_decoder_config(path: &Path) -> Result<DecoderConfig, HfError> {
    let object = read_object(path)?;
    decoder_of(&Keys::new(path, &object))
}

#[cfg(test)]
mod tests;
