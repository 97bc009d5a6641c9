//! Qwen 3: Qwen 2 with a norm on every head's queries and keys, and biases nowhere unless stated.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    llama_layout::{Conventions, LlamaLayout},
    qwen2::{QWEN2, qwen_windows},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    default_eos: None,
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const QWEN3: Conventions = Conventions { head_dim: Some(128), ..QWEN2 };

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &QWEN3)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let windows = qwen_windows(config, layout.layers)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention {
            q_norm: Some(block.head_norm("self_attn.q_norm")),
            k_norm: Some(block.head_norm("self_attn.k_norm")),
            sliding_window,
            ..block.attention(bias, bias)
        };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{changed, read_decoder};
    use crate::model::config::NormKind;

    fn config() -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "vocab_size": 6, "hidden_size": 64, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 32,
        })
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = read_decoder(&config()).unwrap();
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (32, 128, 32_768));
        assert_eq!((decoder.ropes[0].theta, decoder.ropes[0].dim), (10_000.0, 128));
        assert!(!decoder.is_tied());
        assert!(decoder.layers[0].linears().iter().all(|linear| linear.bias.is_none()));
    }

    #[test]
    fn every_head_has_norms() {
        let decoder = read_decoder(&changed(&config(), &json!({ "head_dim": 4, "rms_norm_eps": 1e-4 }))).unwrap();
        let attention = &decoder.layers[1].attention;
        for (norm, name) in [(&attention.q_norm, "q_norm"), (&attention.k_norm, "k_norm")] {
            let norm = norm.as_ref().unwrap();
            assert_eq!(norm.weight, format!("model.layers.1.self_attn.{name}.weight"));
            assert_eq!((norm.width, norm.eps, &norm.kind), (4, 1e-4, &NormKind::Rms));
        }
        assert_eq!(attention.scale, 0.5);
    }

    #[test]
    fn biases_and_windows() {
        let changes =
            json!({ "attention_bias": true, "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1 });
        let decoder = read_decoder(&changed(&config(), &changes)).unwrap();
        let biases: Vec<_> = decoder.layers[0].linears().iter().map(|linear| linear.bias.is_some()).collect();
        assert_eq!(biases, [true, true, true, true, false, false, false]);
        let windows: Vec<_> = decoder.layers.iter().map(|layer| layer.attention.sliding_window).collect();
        assert_eq!(windows, [None, Some(8)]);
    }
}
