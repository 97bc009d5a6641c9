//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and a sliding window in some layers.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    layer_types::{LayerType, layer_types, sliding_window, windows},
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    default_eos: None,
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

/// Also those of Qwen 3, but for `head_dim`.
pub(super) const QWEN2: Conventions = Conventions { kv_heads: Some(32), max_positions: 32_768, ..LLAMA };
const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &QWEN2)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let windows = qwen_windows(config, layout.layers)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention { sliding_window, ..block.attention(true, false) };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}

/// Sliding windows, which the layers from `max_window_layers` on have if `use_sliding_window` is set.
pub(super) fn qwen_windows(config: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, HfError> {
    let window = match config.boolean("use_sliding_window")?.unwrap_or(false) {
        true => sliding_window(config, Some(DEFAULT_WINDOW))?,
        false => None,
    };
    // A zero makes all layers slide.
    let first = config.count("max_window_layers")?.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    let types = layer_types(config, layers, |index| match window {
        Some(_) if index >= first => LayerType::Sliding,
        _ => LayerType::Full,
    })?;
    windows(config, &types, window)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, read_decoder, windows};
    use crate::model::DecoderConfig;

    fn config() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": 6, "hidden_size": 64, "intermediate_size": 12,
            "num_hidden_layers": 3, "num_attention_heads": 32,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = read_decoder(&config()).unwrap();
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (32, 2, 32_768));
        assert_eq!((decoder.ropes[0].theta, decoder.output.norm.as_ref().unwrap().eps), (10_000.0, 1e-6));
        assert!(!decoder.is_tied());
        let biases: Vec<_> = decoder.layers[0].linears().iter().map(|linear| linear.bias.is_some()).collect();
        assert_eq!(biases, [true, true, true, false, false, false, false]);
    }

    #[test]
    fn layers_slide_where_transformers_says() {
        assert_eq!(windows(&with(json!({}))), [None; 3]);
        // Without the flag, a window means nothing; without max_window_layers, the first 28 layers do not slide.
        assert_eq!(windows(&with(json!({ "sliding_window": 16, "max_window_layers": 1 }))), [None; 3]);
        assert_eq!(windows(&with(json!({ "use_sliding_window": true, "sliding_window": 16 }))), [None; 3]);
        let from = |first: usize| {
            windows(&with(json!({ "use_sliding_window": true, "sliding_window": 16, "max_window_layers": first })))
        };
        assert_eq!(from(0), [Some(16); 3]);
        assert_eq!(from(2), [None, None, Some(16)]);
        assert_eq!(
            windows(&with(json!({ "use_sliding_window": true, "max_window_layers": 2 }))),
            [None, None, Some(4096)]
        );
        let null = json!({ "use_sliding_window": true, "sliding_window": null, "max_window_layers": 0 });
        assert_eq!(windows(&with(null)), [None; 3]);
        let types = json!({
            "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        });
        assert_eq!(windows(&with(types)), [None, Some(16), None]);
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 4] = [
            (
                json!({ "layer_types": ["full_attention", "sliding_attention", "full_attention"] }),
                &["\"sliding_window\"", "layers of layer_types slide", "found none"],
            ),
            (json!({ "layer_types": ["full_attention"] }), &["\"layer_types\"", "each of the 3 layers"]),
            (
                json!({ "layer_types": ["full_attention", "linear_attention", "full_attention"] }),
                &["\"layer_types\"", "linear_attention", "supported: full_attention, sliding_attention"],
            ),
            (json!({ "max_window_layers": -1 }), &["\"max_window_layers\"", "from 0", "found -1"]),
        ];
        assert_refused(&config(), &cases);
    }
}
