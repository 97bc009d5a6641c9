//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and a sliding window in some layers.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    layer_types::{LayerType, layer_types, sliding_window, windows},
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    default_eos: None,
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

/// Also those of Qwen 3, but for `head_dim`.
pub(super) const QWEN2: Conventions = Conventions { kv_heads: Some(32), max_positions: 32_768, ..LLAMA };
const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &QWEN2)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let windows = qwen_windows(config, layout.layers)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention { sliding_window, ..block.attention(true, false) };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}

/// Sliding windows, which the layers from `max_window_layers` on have if `use_sliding_window` is set.
pub(super) fn qwen_windows(config: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, HfError> {
    let window = match config.boolean("use_sliding_window")?.unwrap_or(false) {
        true => sliding_window(config, Some(DEFAULT_WINDOW))?,
        false => None,
    };
    // A zero makes all layers slide.
    let first = config.count("max_window_layers")?.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    let types = layer_types(config, layers, |index| match window {
        Some(_) if index >= first => LayerType::Sliding,
        _ => LayerType::Full,
    })?;
    windows(config, &types, window)
}
