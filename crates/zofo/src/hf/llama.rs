//! The Llama family (`LlamaForCausalLM`): Llama 1 to 3, SmolLM2, and others of the same architecture.
//!
//! Keys and the meaning of absent ones are those of transformers' `LlamaConfig` and `RotaryEmbeddingConfigMixin`.

use super::{error::HfError, family::Family, json::Keys};
use crate::model::config::{
    Attention, DecoderConfig, Embedding, Layer, Linear, Mlp, Norm, NormKind, Output, Qkv, SublayerNorms, UpProjection,
    WeightOrder,
};
use crate::model::{Rope, RopeScaling};
use zofo_kernels::Activation;

pub(super) const FAMILY: Family =
    Family { architecture: "LlamaForCausalLM", model_type: "llama", default_eos: Some(2), decoder };

const DEFAULT_MAX_POSITIONS: usize = 2048;
const DEFAULT_NORM_EPS: f64 = 1e-6;
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
/// Names are made for every layer before any weight is looked for; a lying file must not fill the memory with them.
const MOST_LAYERS: usize = 10_000;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    reject_what_is_not_computed(config)?;
    let hidden = config.required("hidden_size", Keys::size)?;
    let layers = config.required("num_hidden_layers", Keys::size)?;
    if layers > MOST_LAYERS {
        return Err(config.unexpected("num_hidden_layers", format!("at most {MOST_LAYERS}")));
    }
    let heads = config.required("num_attention_heads", Keys::size)?;
    let kv_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of the {heads} of num_attention_heads");
        return Err(config.unexpected("num_key_value_heads", expected));
    }
    let tied = config.boolean("tie_word_embeddings")?.unwrap_or(false);
    let max_positions = config.size("max_position_embeddings")?.unwrap_or(DEFAULT_MAX_POSITIONS);
    let head_dim = head_dim(config, hidden, heads)?;
    let eps = config.positive("rms_norm_eps")?.unwrap_or(DEFAULT_NORM_EPS) as f32;
    let intermediate = config.required("intermediate_size", Keys::size)?;
    let norm = |name: String| Some(Norm { weight: name, width: hidden, eps, kind: NormKind::Rms });
    let layer = |index: usize| {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let linear = |part: &str, inputs, outputs| Linear {
            weight: name(part),
            bias: None,
            inputs,
            outputs,
            order: WeightOrder::OutputMajor,
        };
        let before = |part: &str| SublayerNorms { input: norm(name(part)), ..SublayerNorms::default() };
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        Layer {
            attention: Attention {
                qkv: Qkv::Separate {
                    q: linear("self_attn.q_proj", hidden, q),
                    k: linear("self_attn.k_proj", hidden, kv),
                    v: linear("self_attn.v_proj", hidden, kv),
                },
                output: linear("self_attn.o_proj", q, hidden),
                q_norm: None,
                k_norm: None,
                rope: Some(0),
                sliding_window: None,
                scale: 1.0 / (head_dim as f32).sqrt(),
                softcap: None,
            },
            attention_norms: before("input_layernorm"),
            mlp: Mlp {
                up: UpProjection::Gated {
                    gate: linear("mlp.gate_proj", hidden, intermediate),
                    up: linear("mlp.up_proj", hidden, intermediate),
                },
                down: linear("mlp.down_proj", intermediate, hidden),
                activation: Activation::Silu,
            },
            mlp_norms: before("post_attention_layernorm"),
        }
    };
    let tokens = "model.embed_tokens.weight".to_owned();
    Ok(DecoderConfig {
        vocabulary: config.required("vocab_size", Keys::size)?,
        hidden,
        heads,
        kv_heads,
        head_dim,
        max_positions,
        ropes: vec![rope(config, max_positions, head_dim)?],
        output: Output {
            norm: norm("model.norm.weight".to_owned()),
            projection: None,
            head: if tied { tokens.clone() } else { "lm_head.weight".to_owned() },
            softcap: None,
        },
        embedding: Embedding { tokens, width: hidden, scale: None, projection: None, positions: None },
        layers: (0..layers).map(layer).collect(),
    })
}

fn reject_what_is_not_computed(config: &Keys<'_>) -> Result<(), HfError> {
    if config.string("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(config.unsupported("hidden_act", "\"silu\""));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if config.boolean(key)? == Some(true) {
            return Err(config.unsupported(key, "false"));
        }
    }
    if config.get("quantization_config").is_some() {
        let supported = "weights in F32, BF16 or F16, or a GGUF file of the model";
        return Err(config.unsupported("quantization_config", supported));
    }
    Ok(())
}

fn head_dim(config: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, HfError> {
    let (key, head_dim) = match config.size("head_dim")? {
        Some(stated) => ("head_dim", stated),
        None if hidden.is_multiple_of(heads) => ("hidden_size", hidden / heads),
        None => {
            let expected = format!("without head_dim, a multiple of the {heads} of num_attention_heads");
            return Err(config.unexpected("hidden_size", expected));
        }
    };
    if !head_dim.is_multiple_of(2) {
        let expected = format!("heads of an even width, not {head_dim}: rotary positions turn pairs");
        return Err(config.unexpected(key, expected));
    }
    if heads.checked_mul(head_dim).is_none_or(|width| width > i32::MAX as usize) {
        let expected = format!("at most {} with {heads} heads", i32::MAX as usize / heads);
        return Err(config.unexpected("head_dim", expected));
    }
    Ok(head_dim)
}

/// Transformers 5 keeps all of it in `rope_parameters`; transformers 4 has `rope_theta` beside `rope_scaling`, in which
/// `rope_type` was called `type` at first. Where both are there, transformers 5 takes the older.
fn rope(config: &Keys<'_>, max_positions: usize, dim: usize) -> Result<Rope, HfError> {
    let mut parameters = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let found = config.object(key)?.filter(|object| !object.is_empty());
        parameters = parameters.or(found);
    }
    let outer_theta = config.positive("rope_theta")?;
    let Some(parameters) = parameters else {
        return Ok(Rope { theta: outer_theta.unwrap_or(DEFAULT_ROPE_THETA), dim, scaling: RopeScaling::Default });
    };
    for keys in [config, &parameters] {
        let partial = keys.positive("partial_rotary_factor")?;
        if partial.is_some_and(|factor| factor != 1.0) {
            return Err(keys.unsupported("partial_rotary_factor", "1"));
        }
    }
    let inner_theta = parameters.positive("rope_theta")?;
    let (key, rope_type) = match parameters.string("rope_type")? {
        Some(name) => ("rope_type", name),
        None => ("type", parameters.string("type")?.unwrap_or("default")),
    };
    let required = |key| parameters.required(key, Keys::positive);
    let scaling = match rope_type {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "llama3" => {
            let low_freq_factor = required("low_freq_factor")?;
            let high_freq_factor = required("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than the {low_freq_factor} of low_freq_factor");
                return Err(parameters.unexpected("high_freq_factor", expected));
            }
            let original = "original_max_position_embeddings";
            let original_context = match config.positive(original)? {
                Some(outer) => outer,
                None => parameters.positive(original)?.unwrap_or(max_positions as f64),
            };
            RopeScaling::Llama3 { factor: required("factor")?, low_freq_factor, high_freq_factor, original_context }
        }
        _ => return Err(parameters.unsupported(key, "default, linear, llama3")),
    };
    Ok(Rope { theta: inner_theta.or(outer_theta).unwrap_or(DEFAULT_ROPE_THETA), dim, scaling })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::super::test_model::{assert_says, llama_config, message};
    use super::*;

    fn read(config: &Value) -> Result<DecoderConfig, HfError> {
        decoder(&Keys::new(Path::new("config.json"), config.as_object().unwrap()))
    }

    fn with(changes: Value) -> Result<DecoderConfig, HfError> {
        let mut config = llama_config();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        read(&config)
    }

    #[test]
    fn sizes_and_names() {
        let config = read(&llama_config()).unwrap();
        assert_eq!((config.vocabulary, config.hidden, config.layers.len()), (6, 8, 2));
        assert_eq!(config.layers[0].mlp.down.inputs, 12);
        assert_eq!((config.heads, config.kv_heads, config.head_dim), (2, 1, 4));
        assert_eq!((config.output.norm.as_ref().unwrap().eps, config.max_positions), (1e-5, 64));
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

        let tied = with(json!({ "tie_word_embeddings": true })).unwrap();
        assert!(tied.is_tied());
        assert_eq!(tied.parameters().len(), 20);
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = read(&json!({
            "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2,
        }))
        .unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.max_positions), (2, 4, 2048));
        assert_eq!(config.output.norm.as_ref().unwrap().eps, 1e-6);
        assert!(!config.is_tied());
        assert_eq!(config.ropes[0], Rope { theta: 10_000.0, dim: 4, scaling: RopeScaling::Default });
    }

    #[test]
    fn both_spellings_of_rotary_positions() {
        let rope = |changes| with(changes).unwrap().ropes.remove(0);
        let llama3 = json!({
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 32, "rope_type": "llama3",
        });
        let mut llama3_new = llama3.clone();
        llama3_new["rope_theta"] = json!(500);
        let expected = Rope {
            theta: 500.0,
            dim: 4,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 32.0,
            },
        };
        let old = json!({ "rope_theta": 500.0, "rope_scaling": llama3, "rope_parameters": null });
        assert_eq!(rope(old), expected);
        assert_eq!(rope(json!({ "rope_parameters": llama3_new })), expected);

        let linear = Rope { theta: 500.0, dim: 4, scaling: RopeScaling::Linear { factor: 2.0 } };
        for old in [json!({ "type": "linear", "factor": 2 }), json!({ "rope_type": "linear", "factor": 2 })] {
            let old = json!({ "rope_theta": 500.0, "rope_scaling": old, "rope_parameters": null });
            assert_eq!(rope(old), linear);
        }
        let new = json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 500.0 });
        assert_eq!(rope(json!({ "rope_parameters": new })), linear);

        // The context of pre-training is that of the model unless something says otherwise.
        llama3_new.as_object_mut().unwrap().remove("original_max_position_embeddings");
        let context = |rope: Rope| match rope.scaling {
            RopeScaling::Llama3 { original_context, .. } => original_context,
            other => panic!("{other:?}"),
        };
        assert_eq!(context(rope(json!({ "rope_parameters": llama3_new }))), 64.0);
        let outer = json!({ "rope_parameters": llama3_new, "original_max_position_embeddings": 16 });
        assert_eq!(context(rope(outer)), 16.0);
    }

    #[test]
    fn impossible_values() {
        for (changes, parts) in [
            (json!({ "hidden_size": 0 }), &["\"hidden_size\"", "from 1", "found 0"][..]),
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
            (json!({ "rope_theta": -1 }), &["\"rope_theta\"", "found -1"]),
            (json!({ "rope_parameters": 3 }), &["\"rope_parameters\"", "an object"]),
            (json!({ "rope_parameters": { "rope_type": "linear" } }), &["\"rope_parameters.factor\"", "found none"]),
            (json!({ "rope_parameters": { "rope_type": "linear", "factor": 0 } }), &["\"rope_parameters.factor\""]),
            (
                json!({ "rope_parameters": {
                    "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                } }),
                &["\"rope_parameters.high_freq_factor\"", "more than the 4"],
            ),
        ] {
            let text = message(with(changes));
            assert_says(&text, &["config.json"]);
            assert_says(&text, parts);
        }
    }

    #[test]
    fn what_is_not_computed() {
        for (changes, parts) in [
            (json!({ "hidden_act": "gelu" }), &["\"hidden_act\" is \"gelu\"", "supported: \"silu\""][..]),
            (json!({ "attention_bias": true }), &["\"attention_bias\" is true", "supported: false"]),
            (json!({ "mlp_bias": true }), &["\"mlp_bias\" is true"]),
            (json!({ "quantization_config": { "bits": 4 } }), &["\"quantization_config\"", "GGUF"]),
            (
                json!({ "rope_parameters": { "rope_type": "yarn", "factor": 4.0 } }),
                &["\"rope_parameters.rope_type\" is \"yarn\"", "default, linear, llama3"],
            ),
            (
                json!({ "rope_scaling": { "type": "dynamic", "factor": 4.0 } }),
                &["\"rope_scaling.type\" is \"dynamic\""],
            ),
            (
                json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
                &["\"rope_parameters.partial_rotary_factor\" is 0.5"],
            ),
        ] {
            let text = message(with(changes));
            assert_says(&text, &["config.json", "not supported"]);
            assert_says(&text, parts);
        }
    }
}
