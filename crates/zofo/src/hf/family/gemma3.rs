//! Gemma 3 for text: Gemma 2 without bounds on scores, with a norm on every head's queries and keys, and with other rotary
//! positions in layers with a sliding window than in the others.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    gemma::{embedding_scale, reject_bidirectional_attention},
    gemma2::{DEFAULT_WINDOW, GEMMA2, final_softcap, layer_with_output_norms, score_scale},
    layer_types::{LayerType, layer_types, sliding_window, windows},
    llama_layout::{Conventions, LlamaLayout},
    rope::{DEFAULT_THETA, Surroundings, scaled},
};
use crate::model::{
    Rope, RopeScaling,
    config::{Attention, DecoderConfig},
};

pub(super) const FAMILY: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    default_eos: Some(1),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const GEMMA3: Conventions = Conventions { max_positions: 131_072, ..GEMMA2 };
const DEFAULT_PATTERN: usize = 6;
const DEFAULT_GLOBAL_THETA: f64 = 1_000_000.0;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &GEMMA3)?;
    reject_bidirectional_attention(config)?;
    if config.get("attn_logit_softcapping").is_some() {
        // Transformers' Gemma 3 has the key, but no use for it.
        return Err(config.unsupported("attn_logit_softcapping", "null"));
    }
    let ropes = ropes(config, &layout)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let scale = score_scale(config)?;
    let pattern = config.size("sliding_window_pattern")?.unwrap_or(DEFAULT_PATTERN);
    let types = layer_types(config, layout.layers, |index| match (index + 1) % pattern {
        0 => LayerType::Full,
        _ => LayerType::Sliding,
    })?;
    let windows = windows(config, &types, sliding_window(config, Some(DEFAULT_WINDOW))?)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention {
            q_norm: Some(block.head_norm("self_attn.q_norm")),
            k_norm: Some(block.head_norm("self_attn.k_norm")),
            rope: Some(usize::from(sliding_window.is_some())),
            sliding_window,
            scale,
            ..block.attention(bias, bias)
        };
        layer_with_output_norms(&block, attention, block.mlp(false))
    });
    let mut decoder = layout.decoder(ropes.into(), layers.collect());
    decoder.embedding.scale = Some(embedding_scale(&layout));
    decoder.output.softcap = final_softcap(config, None)?;
    Ok(decoder)
}

/// Rotary positions of layers without a sliding window, and of those with one.
///
/// Transformers 5 nests both in `rope_parameters`. Transformers 4 had `rope_theta` and `rope_scaling` for the former, and
/// `rope_local_base_freq` for the latter.
fn ropes(config: &Keys<'_>, layout: &LlamaLayout) -> Result<[Rope; 2], HfError> {
    let nested = config.object("rope_parameters")?.filter(|parameters| !parameters.is_empty());
    let (mut full, mut sliding) = (None, None);
    if let Some(nested) = &nested {
        [full, sliding] = [nested.object("full_attention")?, nested.object("sliding_attention")?];
        if full.is_none() && sliding.is_none() {
            return Err(config.unexpected("rope_parameters", "the keys full_attention and sliding_attention"));
        }
    }
    let rope = |parameters: Option<&Keys<'_>>, theta: f64| {
        let surroundings =
            Surroundings { dim: layout.head_dim, max_positions: layout.max_positions, theta, original_context: None };
        match parameters {
            Some(parameters) => scaled(parameters, &surroundings),
            None => Ok(Rope { theta, dim: layout.head_dim, scaling: RopeScaling::Default }),
        }
    };
    let theta = |parameters: Option<&Keys<'_>>, outer: &str, default: f64| {
        let inner = parameters.map(|parameters| parameters.positive("rope_theta")).transpose()?.flatten();
        Ok::<_, HfError>(inner.or(config.positive(outer)?).unwrap_or(default))
    };
    let scaling = config.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let full_theta = theta(full.as_ref(), "rope_theta", DEFAULT_GLOBAL_THETA)?;
    let sliding_theta = theta(sliding.as_ref(), "rope_local_base_freq", DEFAULT_THETA)?;
    Ok([rope(scaling.as_ref().or(full.as_ref()), full_theta)?, rope(sliding.as_ref(), sliding_theta)?])
}
