//! Llama 1 to 3, SmolLM2, and others of the same architecture.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    llama_layout::{LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::DecoderConfig;

pub(super) const FAMILY: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    default_eos: Some(2),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &LLAMA)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    let mlp_bias = config.boolean("mlp_bias")?.unwrap_or(false);
    let layers = layout
        .blocks()
        .map(|block| block.pre_norm_layer(block.attention(attention_bias, attention_bias), block.mlp(mlp_bias)));
    Ok(layout.decoder(vec![rope], layers.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::test_model::{assert_refused, changed, llama_config, read_decoder};
    use crate::model::{Rope, RopeScaling};

    #[test]
    fn sizes_and_names() {
        let config = read_decoder(&llama_config()).unwrap();
        assert_eq!((config.vocabulary, config.hidden, config.layers.len()), (6, 8, 2));
        assert_eq!((config.heads, config.kv_heads, config.head_dim, config.max_positions), (2, 1, 4, 64));
        assert_eq!(config.output.norm.as_ref().unwrap().eps, 1e-5);
        assert_eq!(config.layers[1].attention.scale, 0.5);
        assert!(!config.is_tied());
        let parameters = config.parameters();
        assert_eq!(parameters.len(), 21);
        assert_eq!(
            parameters[..4],
            [
                ("model.embed_tokens.weight", vec![6, 8]),
                ("model.layers.0.input_layernorm.weight", vec![8]),
                ("model.layers.0.self_attn.q_proj.weight", vec![8, 8]),
                ("model.layers.0.self_attn.k_proj.weight", vec![4, 8]),
            ]
            .map(|(name, shape)| (name.to_owned(), shape))
        );
        assert_eq!(parameters[18].0, "model.layers.1.mlp.down_proj.weight");
        assert_eq!(parameters[19].0, "model.norm.weight");
        assert_eq!(parameters[20], ("lm_head.weight".to_owned(), vec![6, 8]));

        let tied = read_decoder(&changed(&llama_config(), &json!({ "tie_word_embeddings": true }))).unwrap();
        assert!(tied.is_tied());
        assert_eq!(tied.parameters().len(), 20);
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = read_decoder(&json!({
            "model_type": "llama",
            "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2,
        }))
        .unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.max_positions), (2, 4, 2048));
        assert_eq!(config.output.norm.as_ref().unwrap().eps, 1e-6);
        assert!(!config.is_tied());
        assert_eq!(config.ropes, [Rope { theta: 10_000.0, dim: 4, scaling: RopeScaling::Default }]);
        assert!(config.layers[0].linears().iter().all(|linear| linear.bias.is_none()));
    }

    #[test]
    fn biases() {
        let with = |changes| {
            let config = read_decoder(&changed(&llama_config(), &changes)).unwrap();
            config.layers[0].linears().iter().map(|linear| linear.bias.is_some()).collect::<Vec<_>>()
        };
        // Queries, keys, values, output; gate, up, down.
        assert_eq!(with(json!({ "attention_bias": true })), [true, true, true, true, false, false, false]);
        assert_eq!(with(json!({ "mlp_bias": true })), [false, false, false, false, true, true, true]);
    }

    #[test]
    fn impossible_values() {
        let cases: [(_, &[&str]); 17] = [
            (json!({ "hidden_size": 0 }), &["\"hidden_size\"", "from 1", "found 0"]),
            (json!({ "vocab_size": -3 }), &["\"vocab_size\"", "found -3"]),
            (json!({ "num_hidden_layers": 2.5 }), &["\"num_hidden_layers\"", "found 2.5"]),
            (json!({ "num_hidden_layers": 1_000_000 }), &["\"num_hidden_layers\"", "at most 10000"]),
            (json!({ "intermediate_size": null }), &["\"intermediate_size\"", "found none"]),
            (json!({ "num_attention_heads": "2" }), &["\"num_attention_heads\"", "found \"2\""]),
            (json!({ "num_key_value_heads": 4 }), &["\"num_key_value_heads\"", "divisor of the 2", "found 4"]),
            (json!({ "head_dim": 3 }), &["\"head_dim\"", "even", "found 3"]),
            (json!({ "head_dim": 2_000_000_000 }), &["\"head_dim\"", "at most 1073741823"]),
            (json!({ "head_dim": null, "hidden_size": 9 }), &["\"hidden_size\"", "multiple of the 2"]),
            (json!({ "head_dim": null, "hidden_size": 6 }), &["\"hidden_size\"", "even", "found 6"]),
            (json!({ "rms_norm_eps": 0.0 }), &["\"rms_norm_eps\"", "above zero"]),
            (json!({ "max_position_embeddings": 0 }), &["\"max_position_embeddings\"", "found 0"]),
            (json!({ "tie_word_embeddings": 1 }), &["\"tie_word_embeddings\"", "true or false"]),
            (json!({ "attention_bias": "yes" }), &["\"attention_bias\"", "true or false"]),
            (json!({ "hidden_act": "tanh" }), &["\"hidden_act\" is \"tanh\"", "not supported"]),
            (json!({ "rope_theta": -1 }), &["\"rope_theta\"", "found -1"]),
        ];
        assert_refused(&llama_config(), &cases);
    }
}
