//! The keys that describe a model, as llama.cpp's converter writes them.

use super::{
    super::gguf::{
        Architecture, Llama3, NewMetadata, ROPE_FACTORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS, Windows, WrittenType,
    },
    decoder::{follows, usual_scale},
};
use crate::model::{DecoderConfig, Rope, RopeScaling, config::NormKind, yarn_attention_factor};

/// The version of the block formats, `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;

/// A tensor that is no weight: divisors of the frequencies of rotary positions.
pub(super) struct RopeTensor {
    pub(super) name: &'static str,
    pub(super) divisors: Vec<f32>,
}

/// Sets what every file says about itself.
pub(super) fn set_general(metadata: &mut NewMetadata, architecture: &Architecture, matrices: WrittenType, name: &str) {
    metadata.set("general.architecture", architecture.name);
    metadata.set("general.type", "model");
    metadata.set("general.name", name);
    metadata.set("general.file_type", matrices.file_type());
    metadata.set("general.quantization_version", QUANTIZATION_VERSION);
}

/// Sets the keys of the model, and gives what of it stands in tensors. All of the decoder can be expressed.
pub(super) fn set_model(
    metadata: &mut NewMetadata,
    decoder: &DecoderConfig,
    architecture: &Architecture,
) -> Vec<RopeTensor> {
    let mut keys = Keys { metadata, architecture };
    keys.size("vocab_size", decoder.vocabulary);
    keys.size("context_length", decoder.max_positions);
    keys.size("embedding_length", decoder.hidden);
    keys.size("block_count", decoder.layers.len());
    keys.size("attention.head_count", decoder.heads);
    if let Some(layer) = decoder.layers.first() {
        keys.size("feed_forward_length", layer.mlp.down.inputs);
    }
    if let Some(norm) = &decoder.output.norm {
        let key = match norm.kind {
            NormKind::Rms | NormKind::RmsUnitOffset => "attention.layer_norm_rms_epsilon",
            NormKind::Layer { .. } => "attention.layer_norm_epsilon",
        };
        keys.number(key, norm.eps);
    }
    // The heads of models with learned positions share the hidden size, and nothing else.
    if !decoder.ropes.is_empty() {
        keys.size("attention.head_count_kv", decoder.kv_heads);
        keys.size("attention.key_length", decoder.head_dim);
        keys.size("attention.value_length", decoder.head_dim);
    }
    set_attention(&mut keys, decoder);
    set_ropes(&mut keys, decoder)
}

/// Sets windows, bounds and the factor of scores.
fn set_attention(keys: &mut Keys<'_>, decoder: &DecoderConfig) {
    let architecture = keys.architecture;
    let DecoderConfig { layers, hidden, heads, head_dim, .. } = decoder;
    if let Some(layer) = layers.first() {
        let scale = layer.attention.scale;
        if scale != usual_scale(architecture, layers.len(), *hidden, *heads, *head_dim) {
            keys.number("attention.scale", scale);
        }
        if let Some(bound) = layer.attention.softcap {
            keys.number("attn_logit_softcapping", bound);
        }
    }
    if let Some(bound) = decoder.output.softcap {
        keys.number("final_logit_softcapping", bound);
    }
    let Some(window) = layers.iter().find_map(|layer| layer.attention.sliding_window) else {
        return;
    };
    keys.size("attention.sliding_window", window);
    if follows(decoder, architecture.windows) {
        return;
    }
    let key = "attention.sliding_window_pattern";
    match (1..=layers.len() + 1).find(|&period| follows(decoder, Windows::Period(period))) {
        Some(period) => keys.size(key, period),
        None => {
            let flags: Vec<_> = layers.iter().map(|layer| layer.attention.sliding_window.is_some()).collect();
            keys.metadata.set_array(&format!("{}.{key}", architecture.name), &flags);
        }
    }
}

/// Sets the bases and the scaling of rotary positions.
fn set_ropes(keys: &mut Keys<'_>, decoder: &DecoderConfig) -> Vec<RopeTensor> {
    let Some(rope) = decoder.ropes.first() else {
        return Vec::new();
    };
    keys.size("rope.dimension_count", rope.dim);
    keys.number("rope.freq_base", rope.theta as f32);
    // Of layers with a sliding window.
    if let Some(sliding) = decoder.ropes.get(1) {
        keys.number("rope.freq_base_swa", sliding.theta as f32);
    }
    set_scaling(keys, rope)
}

fn set_scaling(keys: &mut Keys<'_>, rope: &Rope) -> Vec<RopeTensor> {
    const TYPE: &str = "rope.scaling.type";
    const FACTOR: &str = "rope.scaling.factor";
    const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
    const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";
    let pairs = rope.dim / 2;
    match &rope.scaling {
        // The latter was left out, for files cannot have it.
        RopeScaling::Default | RopeScaling::Dynamic { .. } => Vec::new(),
        RopeScaling::Linear { factor } => {
            keys.text(TYPE, "linear");
            keys.number(FACTOR, *factor as f32);
            Vec::new()
        }
        RopeScaling::Yarn(yarn) => {
            keys.text(TYPE, "yarn");
            keys.number(FACTOR, yarn.factor as f32);
            keys.size(ORIGINAL_CONTEXT, yarn.original_context as usize);
            for (key, beta, usual) in [
                ("rope.scaling.yarn_beta_fast", yarn.beta_fast, 32.0),
                ("rope.scaling.yarn_beta_slow", yarn.beta_slow, 1.0),
            ] {
                if beta != usual {
                    keys.number(key, beta as f32);
                }
            }
            // llama.cpp multiplies it with the usual factor.
            let usual = yarn_attention_factor(yarn.factor, None);
            if yarn.attention_factor != usual {
                keys.number(ATTENTION_FACTOR, (yarn.attention_factor / usual) as f32);
            }
            Vec::new()
        }
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let scheme = Llama3 { factor, low_freq_factor, high_freq_factor, original_context };
            // Not needed to compute, but to tell by what these divisors were made.
            keys.size(ORIGINAL_CONTEXT, original_context as usize);
            vec![RopeTensor { name: ROPE_FACTORS, divisors: scheme.divisors(pairs, rope.theta) }]
        }
        RopeScaling::LongRope { short, long, original_context, attention_factor } => {
            if !keys.architecture.has_rope_tensor(ROPE_LONG_FACTORS) {
                return vec![RopeTensor { name: ROPE_FACTORS, divisors: long.clone() }];
            }
            keys.size(ORIGINAL_CONTEXT, *original_context as usize);
            keys.number(ATTENTION_FACTOR, *attention_factor as f32);
            vec![
                RopeTensor { name: ROPE_LONG_FACTORS, divisors: long.clone() },
                RopeTensor { name: ROPE_SHORT_FACTORS, divisors: short.clone() },
            ]
        }
    }
}

/// Keys that begin with the name of the architecture.
struct Keys<'a> {
    metadata: &'a mut NewMetadata,
    architecture: &'a Architecture,
}

impl Keys<'_> {
    /// Sizes are at most 2³¹−1, as they are read.
    fn size(&mut self, key: &str, value: usize) {
        self.metadata.set(&self.name(key), value as u32);
    }

    fn number(&mut self, key: &str, value: f32) {
        self.metadata.set(&self.name(key), value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.metadata.set(&self.name(key), value);
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }
}
