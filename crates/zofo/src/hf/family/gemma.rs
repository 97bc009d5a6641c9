//! Gemma (the first): Llama with scaled embeddings, norms whose factors are offsets from 1, and GELU.

use zofo_kernels::Activation;

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::config::{DecoderConfig, NormKind};

pub(super) const FAMILY: Family = Family {
    architecture: "GemmaForCausalLM",
    model_type: "gemma",
    default_eos: Some(1),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

/// Also those of Gemma 2 and 3, but for what they change.
pub(super) const GEMMA: Conventions = Conventions {
    kv_heads: Some(16),
    head_dim: Some(256),
    max_positions: 8192,
    norm: NormKind::RmsUnitOffset,
    activation: "gelu_pytorch_tanh",
    tied: true,
    ..LLAMA
};

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let mut layout = LlamaLayout::read(config, &GEMMA)?;
    if config.string("hidden_act")? == Some("gelu") {
        // The first release said so and meant the approximation, as transformers knows.
        layout.activation = Activation::GeluTanh;
    }
    reject_bidirectional_attention(config)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let layers = layout.blocks().map(|block| block.pre_norm_layer(block.attention(bias, bias), block.mlp(false)));
    let mut decoder = layout.decoder(vec![rope], layers.collect());
    decoder.embedding.scale = Some(embedding_scale(&layout));
    Ok(decoder)
}

/// √hidden.
pub(super) fn embedding_scale(layout: &LlamaLayout) -> f32 {
    (layout.hidden as f64).sqrt() as f32
}

pub(super) fn reject_bidirectional_attention(config: &Keys<'_>) -> Result<(), HfError> {
    let key = "use_bidirectional_attention";
    match config.boolean(key)? {
        Some(true) => Err(config.unsupported(key, "false: a token attends to those before it")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, read_decoder};
    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["GemmaForCausalLM"],
            "vocab_size": 6, "hidden_size": 64, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 16,
        })
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = read_decoder(&config()).unwrap();
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (16, 256, 8192));
        assert_eq!((decoder.ropes[0].theta, decoder.layers[0].attention.scale), (10_000.0, 1.0 / 16.0));
        assert!(decoder.is_tied());
        assert_eq!(decoder.embedding.scale, Some(8.0));
        assert_eq!(decoder.output.norm.unwrap().kind, NormKind::RmsUnitOffset);
        assert_eq!(decoder.layers[0].mlp.activation, Activation::GeluTanh);
    }

    #[test]
    fn gelu_is_always_approximate() {
        let activation = |name: &str| {
            let decoder = read_decoder(&changed(&config(), &json!({ "hidden_act": name }))).unwrap();
            decoder.layers[0].mlp.activation
        };
        assert_eq!(activation("gelu"), Activation::GeluTanh);
        assert_eq!(activation("silu"), Activation::Silu);
    }

    #[test]
    fn what_is_not_computed() {
        let cases: [(_, &[&str]); 2] = [
            (json!({ "use_bidirectional_attention": true }), &["\"use_bidirectional_attention\"", "not supported"]),
            (json!({ "hidden_act": "tanh" }), &["\"hidden_act\"", "not supported"]),
        ];
        assert_refused(&config(), &cases);
    }
}
