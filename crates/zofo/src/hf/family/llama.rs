//! Llama 1 to 3, SmolLM2, and others of the same architecture.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    llama_layout::{LLAMA, LlamaLayout},
    rope::rope,
};
use crate::model::DecoderConfig;

pub(super) const FAMILY: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    default_eos: Some(2),
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &LLAMA)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let attention_bias = config.boolean("attention_bias")?.unwrap_or(false);
    let mlp_bias = config.boolean("mlp_bias")?.unwrap_or(false);
    let layers = layout.blocks().map(|block| {
        block.pre_norm_layer(block.attention(attention_bias, attention_bias), block.mlp(mlp_bias))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}
