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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zofo_kernels::Activation;

    use super::super::super::test_model::{assert_refused, changed, read_decoder, windows};
    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["Gemma2ForCausalLM"],
            "vocab_size": 6, "hidden_size": 64, "intermediate_size": 12,
            "num_hidden_layers": 3, "num_attention_heads": 8,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (4, 256, 8192));
        assert_eq!((decoder.embedding.scale, decoder.output.softcap), (Some(8.0), Some(30.0)));
        let attention = &decoder.layers[0].attention;
        assert_eq!((attention.scale, attention.softcap), (1.0 / 16.0, Some(50.0)));
        assert_eq!(decoder.layers[0].mlp.activation, Activation::GeluTanh);
        assert!(decoder.is_tied());
        assert_eq!(windows(&with(json!({}))), [Some(4096), None, Some(4096)]);
    }

    #[test]
    fn norms_before_and_behind() {
        let layer = with(json!({})).layers.remove(1);
        let names = |norms: &SublayerNorms| {
            assert_eq!(norms.stream, None);
            [&norms.input, &norms.output].map(|norm| norm.as_ref().unwrap().weight.clone())
        };
        let expected = |parts: [&str; 2]| parts.map(|part| format!("model.layers.1.{part}.weight"));
        assert_eq!(names(&layer.attention_norms), expected(["input_layernorm", "post_attention_layernorm"]));
        assert_eq!(names(&layer.mlp_norms), expected(["pre_feedforward_layernorm", "post_feedforward_layernorm"]));
    }

    #[test]
    fn scores_and_logits() {
        let decoder = with(json!({
            "query_pre_attn_scalar": 64, "attn_logit_softcapping": null, "final_logit_softcapping": null,
        }));
        let attention = &decoder.layers[0].attention;
        assert_eq!((attention.scale, attention.softcap, decoder.output.softcap), (0.125, None, None));
        let decoder = with(json!({ "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10 }));
        assert_eq!((decoder.layers[0].attention.softcap, decoder.output.softcap), (Some(20.0), Some(10.0)));
    }

    #[test]
    fn activations_and_windows() {
        // The key that counts is hidden_activation.
        let activation = |changes| with(changes).layers[0].mlp.activation;
        assert_eq!(activation(json!({ "hidden_act": "silu" })), Activation::GeluTanh);
        assert_eq!(activation(json!({ "hidden_activation": "silu" })), Activation::Silu);
        assert_eq!(windows(&with(json!({ "sliding_window": 16 }))), [Some(16), None, Some(16)]);
        let types = json!({ "layer_types": ["full_attention", "full_attention", "sliding_attention"] });
        assert_eq!(windows(&with(types)), [None, None, Some(4096)]);
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 4] = [
            (json!({ "sliding_window": null }), &["\"sliding_window\"", "layers of layer_types slide"]),
            (json!({ "query_pre_attn_scalar": 0 }), &["\"query_pre_attn_scalar\"", "above zero"]),
            (json!({ "final_logit_softcapping": -1 }), &["\"final_logit_softcapping\"", "above zero"]),
            (json!({ "use_bidirectional_attention": true }), &["\"use_bidirectional_attention\"", "not supported"]),
        ];
        assert_refused(&config(), &cases);
    }
}
