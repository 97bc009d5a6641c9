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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zofo_kernels::Activation;

    use super::super::super::test_model::{assert_refused, changed, read_decoder};
    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["OPTForCausalLM"],
            "vocab_size": 6, "hidden_size": 32, "ffn_dim": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (2, 16, 2048));
        let embedding = &decoder.embedding;
        let positions = embedding.positions.as_ref().unwrap();
        assert_eq!((positions.rows, positions.offset), (2050, 2));
        assert_eq!((embedding.width, &embedding.projection), (32, &None));
        assert!(decoder.is_tied());
        let layer = &decoder.layers[0];
        assert_eq!((layer.attention.scale, layer.mlp.activation), (0.25, Activation::Relu));
        assert!(layer.linears().iter().all(|linear| linear.bias.is_some()));
        assert!(layer.mlp_norms.input.is_some() && layer.mlp_norms.stream.is_none());
        assert_eq!(decoder.output.norm.unwrap().weight, "model.decoder.final_layer_norm.weight");
    }

    #[test]
    fn norms_behind_the_sublayers() {
        let decoder = with(json!({ "do_layer_norm_before": false }));
        assert_eq!(decoder.output.norm, None);
        let Layer { attention_norms, mlp_norms, .. } = &decoder.layers[1];
        for (norms, part) in [(attention_norms, "self_attn_layer_norm"), (mlp_norms, "final_layer_norm")] {
            assert_eq!((&norms.input, &norms.output), (&None, &None));
            let stream = norms.stream.as_ref().unwrap();
            assert_eq!(stream.weight, format!("model.decoder.layers.1.{part}.weight"));
        }
        let without = with(json!({ "_remove_final_layer_norm": true }));
        assert_eq!(without.output.norm, None);
        assert!(without.layers[0].mlp_norms.input.is_some());
    }

    #[test]
    fn narrow_embeddings() {
        let decoder = with(json!({ "word_embed_proj_dim": 8, "tie_word_embeddings": false }));
        let into = decoder.embedding.projection.as_ref().unwrap();
        let out = decoder.output.projection.as_ref().unwrap();
        assert_eq!((into.shape(), &into.bias), (vec![32, 8], &None));
        assert_eq!((out.shape(), &out.bias), (vec![8, 32], &None));
        assert!(decoder.parameters().contains(&("lm_head.weight".to_owned(), vec![6, 8])));
    }

    #[test]
    fn without_biases() {
        let decoder = with(json!({ "enable_bias": false, "activation_function": "gelu" }));
        assert!(decoder.layers[0].linears().iter().all(|linear| linear.bias.is_none()));
        assert_eq!(decoder.layers[0].mlp.activation, Activation::Gelu);
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 4] = [
            (json!({ "num_attention_heads": 3 }), &["\"hidden_size\"", "multiple of the 3 heads"]),
            (json!({ "ffn_dim": null }), &["\"ffn_dim\"", "found none"]),
            (json!({ "do_layer_norm_before": "no" }), &["\"do_layer_norm_before\"", "true or false"]),
            (
                json!({ "layer_norm_elementwise_affine": false }),
                &["\"layer_norm_elementwise_affine\" is false", "supported: true"],
            ),
        ];
        assert_refused(&config(), &cases);
    }
}
