//! Qwen 3: Qwen 2 with a norm on every head's queries and keys, and biases nowhere unless stated.

use super::{
    super::{error::HfError, json::Keys},
    Family, ROTARY_BUFFERS,
    llama_layout::{Conventions, LlamaLayout},
    qwen2::{QWEN2, qwen_windows},
    rope::rope,
};
use crate::model::config::{Attention, DecoderConfig};

pub(super) const FAMILY: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    default_eos: None,
    base_prefix: "model.",
    buffers: ROTARY_BUFFERS,
    decoder,
};

const QWEN3: Conventions = Conventions { head_dim: Some(128), ..QWEN2 };

fn decoder(config: &Keys<'_>) -> Result<DecoderConfig, HfError> {
    let layout = LlamaLayout::read(config, &QWEN3)?;
    let rope = rope(config, layout.head_dim, layout.max_positions)?;
    let bias = config.boolean("attention_bias")?.unwrap_or(false);
    let windows = qwen_windows(config, layout.layers)?;
    let layers = layout.blocks().zip(windows).map(|(block, sliding_window)| {
        let attention = Attention {
            q_norm: Some(block.head_norm("self_attn.q_norm")),
            k_norm: Some(block.head_norm("self_attn.k_norm")),
            sliding_window,
            ..block.attention(bias, bias)
        };
        block.pre_norm_layer(attention, block.mlp(false))
    });
    Ok(layout.decoder(vec![rope], layers.collect()))
}
