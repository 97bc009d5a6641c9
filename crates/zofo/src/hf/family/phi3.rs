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
