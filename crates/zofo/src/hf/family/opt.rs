//! OPT: layer norms before or behind the sublayers, learned positions, and embeddings that may be narrower than the
//! residual stream.

use super::{
    super::{error::HfError, json::Keys},
    Family, HEAD,
    parts::{inverse_root, layer_norm, linear, pre_norm},
    sizes::{activation, even_share, layers},
};
use crate::model::config::{
    Attention, DecoderConfig, Embedding, Layer, Mlp, Output, PositionTable, Qkv, SublayerNorms, UpProjection,
};

pub(super) const FAMILY: Family = Family {
    architecture: "OPTForCausalLM",
    model_type: "opt",
    default_eos: Some(2),
    base_prefix: "model.",
    buffers: &[],
    decoder,
};

const DEFAULT_POSITIONS: usize = 2048;
/// Of `torch.nn.LayerNorm`: no key says it.
const NORM_EPS: f32 = 1e-5;
/// The first rows of the position table stand for padding.
const POSITION_OFFSET: usize = 2;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let flag = |key: &str, default: bool| Ok::<_, HfError>(config.boolean(key)?.unwrap_or(default));
    if !flag("layer_norm_elementwise_affine", true)? {
        return Err(config.unsupported("layer_norm_elementwise_affine", "true"));
    }
    let hidden = config.required("hidden_size", Keys::size)?;
    let heads = config.required("num_attention_heads", Keys::size)?;
    let head_dim = even_share(config, "hidden_size", hidden, heads)?;
    let intermediate = config.required("ffn_dim", Keys::size)?;
    let max_positions = config.size("max_position_embeddings")?.unwrap_or(DEFAULT_POSITIONS);
    let width = config.size("word_embed_proj_dim")?.unwrap_or(hidden);
    let activation = activation(config, "activation_function", "relu")?;
    let bias = flag("enable_bias", true)?;
    let norm_before = flag("do_layer_norm_before", true)?;
    let final_norm = norm_before && !flag("_remove_final_layer_norm", false)?;

    let layer = |index: usize| {
        let module = |part: &str| format!("model.decoder.layers.{index}.{part}");
        let norms = |part| {
            let norm = layer_norm(&module(part), hidden, NORM_EPS);
            if norm_before { pre_norm(norm) } else { SublayerNorms { stream: Some(norm), ..SublayerNorms::default() } }
        };
        let square = |part| linear(&module(part), hidden, hidden, bias);
        Layer {
            attention: Attention {
                qkv: Qkv::Separate {
                    q: square("self_attn.q_proj"),
                    k: square("self_attn.k_proj"),
                    v: square("self_attn.v_proj"),
                },
                output: square("self_attn.out_proj"),
                q_norm: None,
                k_norm: None,
                rope: None,
                sliding_window: None,
                scale: inverse_root(head_dim as f64),
                softcap: None,
            },
            attention_norms: norms("self_attn_layer_norm"),
            mlp: Mlp {
                up: UpProjection::Plain(linear(&module("fc1"), hidden, intermediate, bias)),
                down: linear(&module("fc2"), intermediate, hidden, bias),
                activation,
            },
            mlp_norms: norms("final_layer_norm"),
        }
    };
    let projection = |part: &str, inputs: usize, outputs: usize| {
        (width != hidden).then(|| linear(&format!("model.decoder.{part}"), inputs, outputs, false))
    };
    let tokens = "model.decoder.embed_tokens.weight".to_owned();
    Ok(DecoderConfig {
        vocabulary: config.required("vocab_size", Keys::size)?,
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        max_positions,
        ropes: Vec::new(),
        layers: (0..layers(config, "num_hidden_layers")?).map(layer).collect(),
        output: Output {
            norm: final_norm.then(|| layer_norm("model.decoder.final_layer_norm", hidden, NORM_EPS)),
            projection: projection("project_out", hidden, width),
            head: if flag("tie_word_embeddings", true)? { tokens.clone() } else { HEAD.to_owned() },
            softcap: None,
        },
        embedding: Embedding {
            tokens,
            width,
            scale: None,
            projection: projection("project_in", width, hidden),
            positions: Some(PositionTable {
                weight: "model.decoder.embed_positions.weight".to_owned(),
                rows: max_positions + POSITION_OFFSET,
                offset: POSITION_OFFSET,
            }),
        },
    })
}
