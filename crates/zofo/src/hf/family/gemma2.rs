//! Gemma 2: Gemma with norms behind the sublayers too, bounded scores and logits, and a sliding window in every other
//! layer.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    gemma::{GEMMA, embedding_scale, reject_bidirectional_attention},
    layer_types::{LayerType, layer_types, sliding_window, windows},
    llama_layout::{Block, Conventions, LlamaLayout},
    parts::inverse_root,
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig, Layer, Mlp, SublayerNorms};

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    default_eos: Some(1),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

/// Also those of Gemma 3, but for the context. A `hidden_act` that stands beside `hidden_activation` counts for nothing.
pub(super) const GEMMA2: Conventions = Conventions { kv_heads: Some(4), activation_key: "hidden_activation", ..GEMMA };
pub(super) const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_QUERY_SCALAR: f64 = 256.0;
const DEFAULT_SCORE_CAP: f64 = 50.0;
const DEFAULT_LOGIT_CAP: f64 = 30.0;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &GEMMA2)?;
    reject_bidirectional_attention(config)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let scale = score_scale(config)?;
    let softcap = softcap(config, "attn_logit_softcapping", Some(DEFAULT_SCORE_CAP))?;
    let types = layer_types(config, layout.layers, |index| match index % 2 {
        0 => LayerType::Sliding,
        _ => LayerType::Full,
    })?;
    let windows = windows(config, &types, sliding_window(config, Some(DEFAULT_WINDOW))?)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention { sliding_window, scale, softcap, ..block.attention(bias, bias) };
        layer_with_output_norms(&block, attention, block.mlp(false))
    });
    let mut decoder = layout.decoder(vec![rope], layers.collect());
    decoder.embedding.scale = Some(embedding_scale(&layout));
    decoder.output.softcap = final_softcap(config, Some(DEFAULT_LOGIT_CAP))?;
    Ok(decoder)
}

/// A layer with norms before and behind each sublayer.
pub(super) fn layer_with_output_norms(block: &Block<'_>, attention: Attention, mlp: Mlp) -> Layer {
    let norms = |input, output| SublayerNorms {
        input: Some(block.norm(input)),
        output: Some(block.norm(output)),
        stream: None,
    };
    Layer {
        attention,
        attention_norms: norms("input_layernorm", "post_attention_layernorm"),
        mlp,
        mlp_norms: norms("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    }
}

/// 1/√`query_pre_attn_scalar`.
pub(super) fn score_scale(config: &Keys<'_>) -> Result<f32, HfError> {
    Ok(inverse_root(config.positive("query_pre_attn_scalar")?.unwrap_or(DEFAULT_QUERY_SCALAR)))
}

/// The bound of logits.
pub(super) fn final_softcap(config: &Keys<'_>, default: Option<f64>) -> Result<Option<f32>, HfError> {
    softcap(config, "final_logit_softcapping", default)
}

/// A bound, which is `default` where the key is absent and none where it is null.
fn softcap(config: &Keys<'_>, key: &str, default: Option<f64>) -> Result<Option<f32>, HfError> {
    let bound = if config.is_stated(key) { config.positive(key)? } else { default };
    Ok(bound.map(|bound| bound as f32))
}
