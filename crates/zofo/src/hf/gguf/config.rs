//! `config.json` from the metadata of a model.

use serde_json::{Map, Value, json};

use super::{
    super::{HfError, family::decoder_of, json::Keys},
    GgufFile,
    architecture::Windows,
    error::GgufError,
    keys::ModelKeys,
    names::{EMBEDDING, OUTPUT},
    rope::{base, long_rope_parameters, partial_rotary_factor, rope_parameters, scaling_parameters},
    sizes::Sizes,
};
use crate::model::DecoderConfig;

/// Keys that would make llama.cpp compute something that most architectures do not, each with the value at which it has
/// no effect. The few that have a use for some of them say so.
const UNCOMMON_KEYS: [(&str, Neutral); 13] = [
    ("expert_count", Neutral::Zero),
    ("expert_used_count", Neutral::Zero),
    ("attention.sliding_window", Neutral::Zero),
    ("attention.clamp_kqv", Neutral::Zero),
    ("attention.max_alibi_bias", Neutral::Zero),
    ("attention.scale", Neutral::Zero),
    ("attention.causal", Neutral::True),
    ("attn_logit_softcapping", Neutral::Zero),
    ("final_logit_softcapping", Neutral::Zero),
    ("logit_scale", Neutral::Zero),
    ("residual_scale", Neutral::Zero),
    ("embedding_scale", Neutral::Zero),
    ("use_parallel_residual", Neutral::False),
];

#[derive(Clone, Copy)]
enum Neutral {
    Zero,
    False,
    True,
}

impl GgufFile {
    /// The `config.json` of the model, as transformers 5 writes it.
    ///
    /// # Errors
    /// The architecture is not supported; a key is missing, has the wrong type or an impossible value; or a key asks for
    /// something that transformers does not compute in models of this architecture.
    pub fn hf_config(&self) -> Result<Map<String, Value>, GgufError> {
        let keys = ModelKeys::of(self)?;
        reject_uncommon_keys(&keys)?;
        let common = json!({
            "architectures": keys.architecture.classes[..1],
            "dtype": "float32",
            "tie_word_embeddings": self.is_tied(&keys),
            "use_cache": true,
        });
        let mut config: Map<String, Value> = Map::new();
        for part in [common, (keys.architecture.config)(&keys)?] {
            if let Value::Object(part) = part {
                config.extend(part);
            }
        }
        let metadata = self.metadata();
        let vocabulary = self.tensor(EMBEDDING).map_or(0, |embedding| embedding.rows());
        for (key, name) in [
            ("tokenizer.ggml.bos_token_id", "bos_token_id"),
            ("tokenizer.ggml.eos_token_id", "eos_token_id"),
            ("tokenizer.ggml.padding_token_id", "pad_token_id"),
        ] {
            if let Some(id) = metadata.unsigned(key)? {
                if id as usize >= vocabulary {
                    return Err(metadata.bad_value(key, id, format!("the vocabulary has {vocabulary} tokens")));
                }
                config.insert(name.to_owned(), id.into());
            }
        }
        Ok(config)
    }

    /// Sizes, constants and names of the model.
    ///
    /// # Errors
    /// Those of [`hf_config`](Self::hf_config), and what is wrong with such a configuration.
    pub fn decoder_config(&self) -> Result<DecoderConfig, HfError> {
        decoder_of(&Keys::new(self.path(), &self.hf_config()?))
    }

    /// Whether the output matrix is the embedding: there is no other, or only a copy of it.
    pub(super) fn is_tied(&self, keys: &ModelKeys<'_>) -> bool {
        let Some(output) = self.tensor(OUTPUT) else {
            return true;
        };
        let values = |tensor: &super::TensorInfo| self.map.get(tensor.byte_range());
        keys.architecture.repeats_embedding
            && self.tensor(EMBEDDING).is_some_and(|embedding| {
                embedding.kind() == output.kind()
                    && embedding.shape() == output.shape()
                    && values(embedding) == values(output)
            })
    }
}

fn reject_uncommon_keys(keys: &ModelKeys<'_>) -> Result<(), GgufError> {
    let metadata = keys.metadata();
    for (key, neutral) in UNCOMMON_KEYS {
        if !keys.contains(key) || keys.architecture.knows(key) {
            continue;
        }
        let name = keys.name(key);
        let flag =
            |neutral: bool| Ok(metadata.boolean(&name)?.filter(|&set| set != neutral).map(|set| set.to_string()));
        let found = match neutral {
            Neutral::False => flag(false)?,
            Neutral::True => flag(true)?,
            // Counts are integers, scales are floats.
            Neutral::Zero => match metadata.unsigned(&name) {
                Ok(count) => count.map(f64::from),
                Err(_) => metadata.float(&name)?,
            }
            .filter(|&value| value != 0.0)
            .map(|value| value.to_string()),
        };
        if let Some(found) = found {
            let expected = format!(
                "transformers' {} has nothing that corresponds to it, so only models without it are supported",
                keys.architecture.classes[0]
            );
            return Err(keys.bad_value(key, found, expected));
        }
    }
    Ok(())
}

pub(super) fn llama(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    sizes.check_whole_rotation(keys)?;
    let mut config = llama_layout(keys, &sizes, "llama")?;
    config["attention_bias"] = has_biases(keys, "attn_q").into();
    config["attention_dropout"] = 0.0.into();
    config["hidden_act"] = "silu".into();
    config["mlp_bias"] = has_biases(keys, "ffn_gate").into();
    config["rope_parameters"] = rope_parameters(keys, &sizes)?;
    Ok(config)
}

pub(super) fn qwen2(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    sizes.check_whole_rotation(keys)?;
    let mut config = llama_layout(keys, &sizes, "qwen2")?;
    config["hidden_act"] = "silu".into();
    config["rope_parameters"] = rope_parameters(keys, &sizes)?;
    config["use_sliding_window"] = false.into();
    Ok(config)
}

pub(super) fn qwen3(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let mut config = qwen2(keys)?;
    config["attention_bias"] = has_biases(keys, "attn_q").into();
    config["model_type"] = "qwen3".into();
    Ok(config)
}

pub(super) fn gemma(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    sizes.check_whole_rotation(keys)?;
    let mut config = llama_layout(keys, &sizes, "gemma")?;
    config["attention_bias"] = has_biases(keys, "attn_q").into();
    config["hidden_act"] = "gelu_pytorch_tanh".into();
    config["rope_parameters"] = scaling_parameters(keys, &sizes)?;
    Ok(config)
}

pub(super) fn gemma2(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let mut config = later_gemma(keys, "gemma2")?;
    config["attn_logit_softcapping"] = keys.positive_or_zero("attn_logit_softcapping")?.into();
    config["rope_parameters"] = scaling_parameters(keys, &Sizes::read(keys)?)?;
    Ok(config)
}

pub(super) fn gemma3(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let mut config = later_gemma(keys, "gemma3_text")?;
    config["rope_parameters"] = json!({
        "full_attention": scaling_parameters(keys, &Sizes::read(keys)?)?,
        // What scales the others is for layers without a window only.
        "sliding_attention": { "rope_theta": base(keys, "rope.freq_base_swa")?, "rope_type": "default" },
    });
    Ok(config)
}

/// What the second and the third Gemma have in common.
fn later_gemma(keys: &ModelKeys<'_>, model_type: &str) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    sizes.check_whole_rotation(keys)?;
    let mut config = llama_layout(keys, &sizes, model_type)?;
    config["attention_bias"] = has_biases(keys, "attn_q").into();
    config["final_logit_softcapping"] = keys.positive_or_zero("final_logit_softcapping")?.into();
    config["hidden_activation"] = "gelu_pytorch_tanh".into();
    let slides = sliding_layers(keys, sizes.layers)?;
    let layer_type = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
    config["layer_types"] = slides.iter().map(layer_type).collect();
    config["sliding_window"] = keys.size("attention.sliding_window")?.into();
    config["query_pre_attn_scalar"] = match keys.positive_or_zero("attention.scale")? {
        Some(scale) => scale.powi(-2),
        None => keys.architecture.query_scalar(sizes.layers, sizes.hidden, sizes.heads, sizes.head_dim),
    }
    .into();
    Ok(config)
}

/// Which layers have a sliding window: none without a window; else by a period or a flag for each, or as usual.
fn sliding_layers(keys: &ModelKeys<'_>, layers: usize) -> Result<Vec<bool>, GgufError> {
    if keys.size("attention.sliding_window")?.is_none() {
        return Ok(vec![false; layers]);
    }
    let key = "attention.sliding_window_pattern";
    let all = |windows: Windows| (0..layers).map(|layer| windows.slides(layer)).collect();
    if !keys.contains(key) {
        return Ok(all(keys.architecture.windows));
    }
    if let Ok(Some(flags)) = keys.metadata().booleans(&keys.name(key)) {
        if flags.len() != layers {
            let expected = format!("expected one for each of the {layers} layers");
            return Err(keys.bad_value(key, format!("an array of {}", flags.len()), expected));
        }
        return Ok(flags);
    }
    Ok(match keys.size(key)? {
        Some(period) => all(Windows::Period(period)),
        None => all(keys.architecture.windows),
    })
}

pub(super) fn phi3(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    let mut config = llama_layout(keys, &sizes, "phi3")?;
    config["hidden_act"] = "silu".into();
    // Zero says that there is none.
    let window = keys.metadata().unsigned(&keys.name("attention.sliding_window"))?.filter(|&window| window > 0);
    config["sliding_window"] = window.into();
    let dim = sizes.rotary_dim(keys)?;
    let mut rope = long_rope_parameters(keys, &sizes, dim)?;
    rope["partial_rotary_factor"] = partial_rotary_factor(dim, sizes.head_dim).into();
    config["rope_parameters"] = rope;
    let original = keys.size("rope.scaling.original_context_length")?;
    config["original_max_position_embeddings"] = original.unwrap_or(sizes.context).into();
    Ok(config)
}

pub(super) fn gpt2(keys: &ModelKeys<'_>) -> Result<Value, GgufError> {
    let sizes = Sizes::read(keys)?;
    for (key, found, expected) in [
        ("attention.head_count_kv", sizes.kv_heads, sizes.heads),
        ("attention.key_length", sizes.head_dim * sizes.heads, sizes.hidden),
    ] {
        if found != expected {
            let stated = keys.size(key)?.unwrap_or(found);
            return Err(keys.bad_value(key, stated, "the heads of a gpt2 model share nothing but the hidden size"));
        }
    }
    Ok(json!({
        "activation_function": "gelu_new",
        "layer_norm_epsilon": epsilon(keys, "attention.layer_norm_epsilon")?,
        "model_type": "gpt2",
        "n_embd": sizes.hidden,
        "n_head": sizes.heads,
        "n_inner": sizes.intermediate,
        "n_layer": sizes.layers,
        "n_positions": sizes.context,
        "vocab_size": sizes.vocabulary,
    }))
}

/// What the configurations of all families share that took over Llama's.
fn llama_layout(keys: &ModelKeys<'_>, sizes: &Sizes, model_type: &str) -> Result<Value, GgufError> {
    Ok(json!({
        "head_dim": sizes.head_dim,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "max_position_embeddings": sizes.context,
        "model_type": model_type,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": epsilon(keys, "attention.layer_norm_rms_epsilon")?,
        "vocab_size": sizes.vocabulary,
    }))
}

fn epsilon(keys: &ModelKeys<'_>, key: &str) -> Result<f64, GgufError> {
    keys.positive(key)?.ok_or_else(|| keys.missing(key))
}

/// Whether this part of the layers has biases, which no key says.
fn has_biases(keys: &ModelKeys<'_>, part: &str) -> bool {
    keys.file.tensor(&format!("blk.0.{part}.bias")).is_some()
}

#[cfg(test)]
mod tests;
