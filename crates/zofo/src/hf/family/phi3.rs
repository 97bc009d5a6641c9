//! Phi-3 and Phi-4-mini: Llama with fused projections, and LongRoPE over the first part of every head.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    layer_types::sliding_window,
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::{DEFAULT_THETA, Surroundings, long_rope, parameters, rope_type, theta},
};
use crate::model::{
    Rope, RopeScaling,
    config::{Attention, DecoderConfig, Mlp, Qkv, UpProjection},
};

pub(super) const FAMILY: Family = Family {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    default_eos: Some(32_000),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const PHI3: Conventions = Conventions { max_positions: 4096, norm_eps: 1e-5, ..LLAMA };
const DEFAULT_ORIGINAL_CONTEXT: f64 = 4096.0;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &PHI3)?;
    let rope = partial_rope(config, &layout)?;
    let sliding_window = sliding_window(config, None)?;
    let LlamaLayout { hidden, intermediate, heads, kv_heads, head_dim, .. } = layout;
    let qkv_width = (heads + 2 * kv_heads) * head_dim;
    let layers = layout.blocks().map(|block| {
        let attention = Attention {
            qkv: Qkv::Fused(block.linear("self_attn.qkv_proj", hidden, qkv_width, false)),
            sliding_window,
            ..block.attention(false, false)
        };
        let mlp = Mlp {
            up: UpProjection::FusedGated(block.linear("mlp.gate_up_proj", hidden, 2 * intermediate, false)),
            ..block.mlp(false)
        };
        block.pre_norm_layer(attention, mlp)
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}

fn partial_rope(config: &Keys<'_>, layout: &LlamaLayout) -> Result<Rope, HfError> {
    let parameters = parameters(config)?;
    let surroundings = Surroundings {
        dim: rotary_dim(config, parameters.as_ref(), layout.head_dim)?,
        max_positions: layout.max_positions,
        theta: config.positive("rope_theta")?.unwrap_or(DEFAULT_THETA),
        original_context: Some(
            config.positive("original_max_position_embeddings")?.unwrap_or(DEFAULT_ORIGINAL_CONTEXT),
        ),
    };
    let Some(parameters) = parameters else {
        return Ok(Rope { theta: surroundings.theta, dim: surroundings.dim, scaling: RopeScaling::Default });
    };
    let scaling = match rope_type(&parameters)? {
        (_, "default") => RopeScaling::Default,
        // What LongRoPE was called in the first releases.
        (_, "longrope" | "su" | "yarn") => long_rope(&parameters, &surroundings)?,
        (key, _) => return Err(parameters.unsupported(key, "default, longrope")),
    };
    Ok(Rope { theta: theta(&parameters, &surroundings)?, dim: surroundings.dim, scaling })
}

/// How many elements of a head turn.
fn rotary_dim(config: &Keys<'_>, parameters: Option<&Keys<'_>>, head_dim: usize) -> Result<usize, HfError> {
    let key = "partial_rotary_factor";
    for keys in parameters.into_iter().chain([config]) {
        if let Some(factor) = keys.positive(key)? {
            let dim = (head_dim as f64 * factor) as usize;
            if factor > 1.0 || dim == 0 || !dim.is_multiple_of(2) {
                let expected = format!("a part of the {head_dim} elements of a head that is even and not nothing");
                return Err(keys.unexpected(key, expected));
            }
            return Ok(dim);
        }
    }
    Ok(head_dim)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::test_model::{assert_refused, changed, read_decoder};
    use super::*;

    fn config() -> Value {
        json!({
            "architectures": ["Phi3ForCausalLM"],
            "vocab_size": 6, "hidden_size": 32, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 4,
        })
    }

    fn with(changes: Value) -> DecoderConfig {
        read_decoder(&changed(&config(), &changes)).unwrap()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let decoder = with(json!({}));
        assert_eq!((decoder.kv_heads, decoder.head_dim, decoder.max_positions), (4, 8, 4096));
        assert_eq!(decoder.ropes, [Rope { theta: 10_000.0, dim: 8, scaling: RopeScaling::Default }]);
        assert_eq!(decoder.output.norm.as_ref().unwrap().eps, 1e-5);
        assert_eq!(decoder.layers[1].attention.sliding_window, None);
        assert!(!decoder.is_tied());
        assert_eq!(with(json!({ "sliding_window": 2047 })).layers[1].attention.sliding_window, Some(2047));
    }

    #[test]
    fn fused_projections() {
        let decoder = with(json!({ "num_key_value_heads": 2 }));
        let shapes: Vec<_> =
            decoder.layers[1].linears().iter().map(|linear| (linear.weight.clone(), linear.shape())).collect();
        let name = |part: &str| format!("model.layers.1.{part}.weight");
        assert_eq!(
            shapes,
            [
                (name("self_attn.qkv_proj"), vec![64, 32]),
                (name("self_attn.o_proj"), vec![32, 32]),
                (name("mlp.gate_up_proj"), vec![24, 32]),
                (name("mlp.down_proj"), vec![32, 12]),
            ]
        );
    }

    #[test]
    fn every_spelling_of_long_rope() {
        let factors = json!({ "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 8.0] });
        let outer = json!({ "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096 });
        let old = ["longrope", "su", "yarn"].map(|name| {
            let scaling = changed(&factors, &json!({ "type": name }));
            let outer = changed(&outer, &json!({ "rope_theta": 5e3, "partial_rotary_factor": 0.75 }));
            with(changed(&outer, &json!({ "rope_scaling": scaling })))
        });
        let parameters = changed(
            &factors,
            // That inside counts less than that outside.
            &json!({
                "rope_type": "longrope", "rope_theta": 5e3, "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 64,
            }),
        );
        let new = with(changed(&outer, &json!({ "rope_parameters": parameters })));
        let scaling = RopeScaling::LongRope {
            short: vec![1.0, 1.5, 2.0],
            long: vec![2.0, 4.0, 8.0],
            original_context: 4096.0,
            // √(1 + ln(32)/ln(4096))
            attention_factor: (17.0_f64 / 12.0).sqrt(),
        };
        assert_eq!(new.ropes, [Rope { theta: 5e3, dim: 6, scaling }]);
        assert_eq!(new.max_positions, 131_072);
        for old in old {
            assert_eq!(old, new);
        }
    }

    #[test]
    fn what_cannot_be_right() {
        let cases: [(_, &[&str]); 5] = [
            (
                json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
                &["\"rope_scaling.type\" is \"linear\"", "supported: default, longrope"],
            ),
            (
                json!({ "rope_scaling": { "type": "su", "short_factor": [1, 1], "long_factor": [1, 1] } }),
                &["\"rope_scaling.short_factor\"", "each of the 4 pairs", "not 2"],
            ),
            (json!({ "partial_rotary_factor": 1.5 }), &["\"partial_rotary_factor\"", "the 8 elements"]),
            (json!({ "partial_rotary_factor": 0.4 }), &["\"partial_rotary_factor\"", "even"]),
            (json!({ "partial_rotary_factor": 0.1 }), &["\"partial_rotary_factor\"", "not nothing"]),
        ];
        assert_refused(&config(), &cases);
    }
}
