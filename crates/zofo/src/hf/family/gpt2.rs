//! GPT-2: layer norms, learned positions, fused projections, and weights stored `[in, out]`.

use super::{
    super::{error::HfError, json::Keys},
    Family, HEAD,
    parts::{inverse_root, layer_norm, linear, pre_norm},
    sizes::{activation, even_share, layers},
};
use crate::model::config::{
    Attention, DecoderConfig, Embedding, Layer, Linear, Mlp, Output, PositionTable, Qkv, UpProjection, WeightOrder,
};

pub(super) const FAMILY: Family = Family {
    architecture: "GPT2LMHeadModel",
    model_type: "gpt2",
    default_eos: Some(50_256),
    base_prefix: "transformer.",
    // Causal masks, and what masked scores were set to.
    buffers: &[".attn.bias", ".attn.masked_bias"],
    decoder,
};

const DEFAULT_POSITIONS: usize = 1024;
const DEFAULT_NORM_EPS: f64 = 1e-5;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let vocabulary = config.required("vocab_size", Keys::size)?;
    let hidden = config.required("n_embd", Keys::size)?;
    let heads = config.required("n_head", Keys::size)?;
    let head_dim = even_share(config, "n_embd", hidden, heads)?;
    let intermediate = config.size("n_inner")?.unwrap_or(4 * hidden);
    let positions = config.size("n_positions")?.unwrap_or(DEFAULT_POSITIONS);
    let eps = config.positive("layer_norm_epsilon")?.unwrap_or(DEFAULT_NORM_EPS) as f32;
    let activation = activation(config, "activation_function", "gelu_new")?;
    let score_scale = ScoreScale::read(config, head_dim)?;
    let tied = config.boolean("tie_word_embeddings")?.unwrap_or(true);

    let layer = |index: usize| {
        let module = |part: &str| format!("transformer.h.{index}.{part}");
        let norm = |part| pre_norm(layer_norm(&module(part), hidden, eps));
        Layer {
            attention: Attention {
                qkv: Qkv::Fused(conv1d(&module("attn.c_attn"), hidden, 3 * hidden)),
                output: conv1d(&module("attn.c_proj"), hidden, hidden),
                q_norm: None,
                k_norm: None,
                rope: None,
                sliding_window: None,
                scale: score_scale.of_layer(index),
                softcap: None,
            },
            attention_norms: norm("ln_1"),
            mlp: Mlp {
                up: UpProjection::Plain(conv1d(&module("mlp.c_fc"), hidden, intermediate)),
                down: conv1d(&module("mlp.c_proj"), intermediate, hidden),
                activation,
            },
            mlp_norms: norm("ln_2"),
        }
    };
    let tokens = "transformer.wte.weight".to_owned();
    Ok(DecoderConfig {
        vocabulary,
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        max_positions: positions,
        ropes: Vec::new(),
        layers: (0..layers(config, "n_layer")?).map(layer).collect(),
        output: Output {
            norm: Some(layer_norm("transformer.ln_f", hidden, eps)),
            projection: None,
            head: if tied { tokens.clone() } else { HEAD.to_owned() },
            softcap: None,
        },
        embedding: Embedding {
            tokens,
            width: hidden,
            scale: None,
            projection: None,
            positions: Some(PositionTable { weight: "transformer.wpe.weight".to_owned(), rows: positions, offset: 0 }),
        },
    })
}

/// Factor of attention scores. (`reorder_and_upcast_attn` only says in which order and type it is applied.)
struct ScoreScale {
    of_model: f32,
    by_layer: bool,
}

impl ScoreScale {
    fn read(config: &Keys<'_>, head_dim: usize) -> Result<Self, HfError> {
        let scaled = config.boolean("scale_attn_weights")?.unwrap_or(true);
        Ok(Self {
            of_model: if scaled { inverse_root(head_dim as f64) } else { 1.0 },
            by_layer: config.boolean("scale_attn_by_inverse_layer_idx")?.unwrap_or(false),
        })
    }

    fn of_layer(&self, index: usize) -> f32 {
        if self.by_layer { self.of_model / (index + 1) as f32 } else { self.of_model }
    }
}

/// A `Conv1D`, which is a linear layer with a bias and a transposed weight.
fn conv1d(module: &str, inputs: usize, outputs: usize) -> Linear {
    Linear { order: WeightOrder::InputMajor, ..linear(module, inputs, outputs, true) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zofo_kernels::Activation;

    use super::super::super::test_model::{assert_refused, changed, read_decoder};
    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"], "vocab_size": 6, "n_embd": 32, "n_head": 2, "n_layer": 3,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.heads, decoder.kv_heads, decoder.head_dim), (2, 2, 16));
        assert_eq!((decoder.max_positions, decoder.ropes.len()), (1024, 0));
        let positions = decoder.embedding.positions.as_ref().unwrap();
        assert_eq!((positions.rows, positions.offset), (1024, 0));
        assert_eq!(decoder.output.norm.as_ref().unwrap().eps, 1e-5);
        assert!(decoder.is_tied());
        let layer = &decoder.layers[2];
        assert_eq!((layer.mlp.down.inputs, layer.mlp.activation), (128, Activation::GeluTanh));
        assert_eq!((layer.attention.scale, layer.attention.rope), (0.25, None));
    }

    #[test]
    fn weights_are_stored_transposed() {
        let layer = with(json!({ "n_inner": 12 })).layers.remove(0);
        let shapes: Vec<_> = layer.linears().iter().map(|linear| (linear.shape(), linear.bias.is_some())).collect();
        let shape = |inputs, outputs| (vec![inputs, outputs], true);
        assert_eq!(shapes, [shape(32, 96), shape(32, 32), shape(32, 12), shape(12, 32)]);
    }

    #[test]
    fn scales_of_scores() {
        let scales = |changes| with(changes).layers.iter().map(|layer| layer.attention.scale).collect::<Vec<_>>();
        assert_eq!(scales(json!({ "scale_attn_weights": false })), [1.0; 3]);
        assert_eq!(scales(json!({ "scale_attn_by_inverse_layer_idx": true })), [0.25, 0.125, 0.25 / 3.0]);
        assert_eq!(scales(json!({ "reorder_and_upcast_attn": true })), [0.25; 3]);
    }

    #[test]
    fn stated_keys() {
        let decoder = with(json!({
            "n_positions": 5, "layer_norm_epsilon": 1e-3, "activation_function": "relu", "tie_word_embeddings": false,
        }));
        assert_eq!((decoder.max_positions, decoder.embedding.positions.as_ref().unwrap().rows), (5, 5));
        assert_eq!(decoder.layers[0].attention_norms.input.as_ref().unwrap().eps, 1e-3);
        assert_eq!(decoder.layers[0].mlp.activation, Activation::Relu);
        assert_eq!(decoder.output.head, "lm_head.weight");
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 4] = [
            (json!({ "n_head": 3 }), &["\"n_embd\"", "multiple of the 3 heads", "found 32"]),
            (json!({ "n_layer": null }), &["\"n_layer\"", "found none"]),
            (json!({ "activation_function": "tanh" }), &["\"activation_function\" is \"tanh\"", "gelu_new"]),
            (json!({ "add_cross_attention": true }), &["\"add_cross_attention\" is true", "not supported"]),
        ];
        assert_refused(&config(), &cases);
    }
}
