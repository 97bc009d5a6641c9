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
