//! Mistral: Llama with a sliding window.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    layer_types::{LayerType, layer_types, sliding_window},
    llama_layout::{Conventions, LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    default_eos: Some(2),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const MISTRAL: Conventions = Conventions { kv_heads: Some(8), max_positions: 131_072, ..LLAMA };
const DEFAULT_WINDOW: usize = 4096;

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &MISTRAL)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let sliding_window = sliding_window(config, Some(DEFAULT_WINDOW))?;
    // Transformers computes the same in all layers, whatever this says.
    let all = if sliding_window.is_some() { LayerType::Sliding } else { LayerType::Full };
    if layer_types(config, layout.layers, |_| all)?.iter().any(|&layer_type| layer_type != all) {
        return Err(config.unsupported("layer_types", "sliding_attention, or full_attention without a sliding_window"));
    }
    let layers = layout.blocks().map(|block| {
        let attention = Attention { sliding_window, ..block.attention(false, false) };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}
