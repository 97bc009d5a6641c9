//! Gemma 3 for text: Gemma 2 without bounds on scores, with a norm on every head's queries and keys, and with other rotary
//! positions in layers with a sliding window than in the others.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    gemma::{embedding_scale, reject_bidirectional_attention},
    gemma2::{DEFAULT_WINDOW, GEMMA2, final_softcap, layer_with_output_norms, score_scale},
    layer_types::{LayerType, layer_types, sliding_window, windows},
    llama_layout::{Conventions, LlamaLayout},
    rope::{DEFAULT_THETA, Surroundings, scaled},
};
use crate::model::{
    Rope, RopeScaling,
    config::{Attention, DecoderConfig},
};

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    default_eos: Some(1),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const GEMMA3: Conventions = Conventions { max_positions: 131_072, ..GEMMA2 };
const DEFAULT_PATTERN: usize = 6;
const DEFAULT_GLOBAL_THETA: f64 = 1_000_000.0;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &GEMMA3)?;
    reject_bidirectional_attention(config)?;
    if config.get("attn_logit_softcapping").is_some() {
        // Transformers' Gemma 3 has the key, but no use for it.
        return Err(config.unsupported("attn_logit_softcapping", "null"));
    }
    let ropes = ropes(config, &layout)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let scale = score_scale(config)?;
    let pattern = config.size("sliding_window_pattern")?.unwrap_or(DEFAULT_PATTERN);
    let types = layer_types(config, layout.layers, |index| match (index + 1) % pattern {
        0 => LayerType::Full,
        _ => LayerType::Sliding,
    })?;
    let windows = windows(config, &types, sliding_window(config, Some(DEFAULT_WINDOW))?)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention {
            q_norm: Some(block.head_norm("self_attn.q_norm")),
            k_norm: Some(block.head_norm("self_attn.k_norm")),
            rope: Some(usize::from(sliding_window.is_some())),
            sliding_window,
            scale,
            ..block.attention(bias, bias)
        };
        layer_with_output_norms(&block, attention, block.mlp(false))
    });
    let mut decoder = layout.decoder(ropes.into(), layers.collect());
    decoder.embedding.scale = Some(embedding_scale(&layout));
    decoder.output.softcap = final_softcap(config, None)?;
    Ok(decoder)
}

/// Rotary positions of layers without a sliding window, and of those with one.
///
/// Transformers 5 nests both in `rope_parameters`. Transformers 4 had `rope_theta` and `rope_scaling` for the former, and
/// `rope_local_base_freq` for the latter.
fn ropes(config: &Keys<'_>, layout: &LlamaLayout) -> Result<[Rope; 2], HfError> {
    let nested = config.object("rope_parameters")?.filter(|parameters| !parameters.is_empty());
    let (mut full, mut sliding) = (None, None);
    if let Some(nested) = &nested {
        [full, sliding] = [nested.object("full_attention")?, nested.object("sliding_attention")?];
        if full.is_none() && sliding.is_none() {
            return Err(config.unexpected("rope_parameters", "the keys full_attention and sliding_attention"));
        }
    }
    let rope = |parameters: Option<&Keys<'_>>, theta: f64| {
        let surroundings =
            Surroundings { dim: layout.head_dim, max_positions: layout.max_positions, theta, original_context: None };
        match parameters {
            Some(parameters) => scaled(parameters, &surroundings),
            None => Ok(Rope { theta, dim: layout.head_dim, scaling: RopeScaling::Default }),
        }
    };
    let theta = |parameters: Option<&Keys<'_>>, outer: &str, default: f64| {
        let inner = parameters.map(|parameters| parameters.positive("rope_theta")).transpose()?.flatten();
        Ok::<_, HfError>(inner.or(config.positive(outer)?).unwrap_or(default))
    };
    let scaling = config.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let full_theta = theta(full.as_ref(), "rope_theta", DEFAULT_GLOBAL_THETA)?;
    let sliding_theta = theta(sliding.as_ref(), "rope_local_base_freq", DEFAULT_THETA)?;
    Ok([rope(scaling.as_ref().or(full.as_ref()), full_theta)?, rope(sliding.as_ref(), sliding_theta)?])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, read_decoder};
    use super::*;
    use crate::model::config::NormKind;

    fn config() -> Value {
        json!({
            "architectures": ["Gemma3ForCausalLM"],
            "vocab_size": 6, "hidden_size": 64, "intermediate_size": 12,
            "num_hidden_layers": 7, "num_attention_heads": 8,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        Rope { theta, dim: 256, scaling }
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (4, 256, 131_072));
        assert_eq!((decoder.embedding.scale, decoder.output.softcap), (Some(8.0), None));
        assert!(decoder.is_tied());
        assert_eq!(decoder.ropes, [1e6, 1e4].map(|theta| rope(theta, RopeScaling::Default)));
        let attention = &decoder.layers[0].attention;
        assert_eq!((attention.scale, attention.softcap), (1.0 / 16.0, None));
        let norm = attention.k_norm.as_ref().unwrap();
        assert_eq!((norm.width, &norm.kind), (256, &NormKind::RmsUnitOffset));
        // Every sixth layer attends to everything, with positions of its own.
        let layers: Vec<_> =
            decoder.layers.iter().map(|layer| (layer.attention.sliding_window, layer.attention.rope)).collect();
        let [sliding, full] = [(Some(4096), Some(1)), (None, Some(0))];
        assert_eq!(layers, [sliding, sliding, sliding, sliding, sliding, full, sliding]);
    }

    #[test]
    fn both_spellings_of_rotary_positions() {
        let old = with(json!({
            "rope_theta": 5e5, "rope_local_base_freq": 2e4,
            "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
        }));
        let new = with(json!({ "rope_parameters": {
            "full_attention": { "factor": 8.0, "rope_type": "linear", "rope_theta": 5e5 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 2e4 },
        } }));
        let expected = [rope(5e5, RopeScaling::Linear { factor: 8.0 }), rope(2e4, RopeScaling::Default)];
        assert_eq!(old.ropes, expected);
        assert_eq!(old, new);
        assert_eq!(new.max_positions, 131_072);
        // One of the two.
        let half = with(json!({ "rope_parameters": { "sliding_attention": { "rope_theta": 2e4 } } }));
        assert_eq!(half.ropes, [1e6, 2e4].map(|theta| rope(theta, RopeScaling::Default)));
    }

    #[test]
    fn both_spellings_of_the_pattern() {
        let full = |changes| {
            let layers = with(changes).layers;
            layers.iter().map(|layer| layer.attention.rope == Some(0)).collect::<Vec<_>>()
        };
        let alternating = [false, true, false, true, false, true, false];
        assert_eq!(full(json!({ "sliding_window_pattern": 2 })), alternating);
        let names = alternating.map(|full| if full { "full_attention" } else { "sliding_attention" });
        assert_eq!(full(json!({ "layer_types": names, "sliding_window_pattern": 3 })), alternating);
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 6] = [
            (json!({ "attn_logit_softcapping": 50.0 }), &["\"attn_logit_softcapping\" is 50.0", "supported: null"]),
            (json!({ "sliding_window_pattern": 0 }), &["\"sliding_window_pattern\"", "from 1"]),
            (
                json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } }),
                &["\"rope_parameters\"", "full_attention and sliding_attention"],
            ),
            (
                json!({ "rope_parameters": { "full_attention": { "rope_type": "linear" } } }),
                &["\"rope_parameters.full_attention.factor\"", "found none"],
            ),
            (
                json!({ "rope_parameters": { "sliding_attention": { "rope_type": "axial" } } }),
                &["\"rope_parameters.sliding_attention.rope_type\" is \"axial\"", "not supported"],
            ),
            (json!({ "use_bidirectional_attention": true }), &["\"use_bidirectional_attention\"", "not supported"]),
        ];
        assert_refused(&config(), &cases);
    }
}
