//! Mistral: Llama with a sliding window.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    layer_types::{LayerType, layer_types, sliding_window},
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    default_eos: Some(2),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const MISTRAL: Conventions = Conventions { kv_heads: Some(8), max_positions: 131_072, ..LLAMA };
const DEFAULT_WINDOW: usize = 4096;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &MISTRAL)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let sliding_window = sliding_window(config, Some(DEFAULT_WINDOW))?;
    // Transformers computes the same in all layers, whatever this says.
    let all = if sliding_window.is_some() { LayerType::Sliding } else { LayerType::Full };
    if layer_types(config, layout.layers, |_| all)?.iter().any(|&layer_type| layer_type != all) {
        return Err(config.unsupported("layer_types", "sliding_attention, or full_attention without a sliding_window"));
    }
    let layers = layout.blocks().map(|block| {
        let attention = Attention { sliding_window, ..block.attention(false, false) };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, read_decoder, windows};
    use crate::model::{Rope, RopeScaling, config::DecoderConfig};

    fn config() -> Value {
        json!({
            "architectures": ["MistralForCausalLM"],
            "vocab_size": 6, "hidden_size": 32, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 8,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (8, 4, 131_072));
        assert_eq!(decoder.ropes, [Rope { theta: 10_000.0, dim: 4, scaling: RopeScaling::Default }]);
        assert_eq!(decoder.output.norm.as_ref().unwrap().eps, 1e-6);
        assert!(!decoder.is_tied());
        // 8 key-value heads are the default, as many as query heads what null means.
        let sixteen = |kv_heads: Option<Value>| {
            let mut changes = json!({ "num_attention_heads": 16 });
            if let Some(kv_heads) = kv_heads {
                changes["num_key_value_heads"] = kv_heads;
            }
            with(changes).kv_heads
        };
        assert_eq!([None, Some(json!(null)), Some(json!(4))].map(sixteen), [8, 16, 4]);
    }

    #[test]
    fn sliding_windows() {
        assert_eq!(windows(&with(json!({}))), [Some(4096); 2]);
        assert_eq!(windows(&with(json!({ "sliding_window": null }))), [None; 2]);
        assert_eq!(windows(&with(json!({ "sliding_window": 16 }))), [Some(16); 2]);
        let stated = json!({ "sliding_window": 16, "layer_types": ["sliding_attention", "sliding_attention"] });
        assert_eq!(windows(&with(stated)), [Some(16); 2]);
        let stated = json!({ "sliding_window": null, "layer_types": ["full_attention", "full_attention"] });
        assert_eq!(windows(&with(stated)), [None; 2]);
    }

    #[test]
    fn both_spellings() {
        let old = with(json!({ "head_dim": 6, "rope_theta": 1e6, "rope_scaling": null, "sliding_window": null }));
        let new = with(json!({
            "head_dim": 6, "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" }, "sliding_window": null,
        }));
        assert_eq!(old, new);
        assert_eq!((new.head_dim, new.ropes[0].theta), (6, 1e6));
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 3] = [
            (json!({ "sliding_window": 0 }), &["\"sliding_window\"", "from 1", "found 0"]),
            (json!({ "layer_types": ["sliding_attention", "full_attention"] }), &["\"layer_types\"", "not supported"]),
            (
                json!({ "num_attention_heads": 4 }),
                &["\"num_key_value_heads\"", "divisor of the 4", "not 8", "found none"],
            ),
        ];
        assert_refused(&config(), &cases);
    }
}
