//! Writes a model folder with random weights in the size of a well-known model: to try time and memory without a
//! download. It has no tokenizer.
//!
//!     cargo run --release -p zofo --example random_model -- opt-125m|gpt2-large|llama-2-7b|CONFIG.json DIR [f32|bf16]

use serde_json::json;
use std::error::Error;
use std::path::Path;
use zofo::hf::{HfError, ModelFiles, WeightDtype};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, dir, dtype) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name, dir] | [name, dir, "f32"] => (name, dir, WeightDtype::F32),
        [name, dir, "bf16"] => (name, dir, WeightDtype::Bf16),
        _ => return Err("usage: random_model opt-125m|gpt2-large|llama-2-7b|CONFIG.json DIR [f32|bf16]".into()),
    };
    // Sizes as published with the models.
    let config = match name {
        "opt-125m" => json!({
            "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 50272, "hidden_size": 768,
            "word_embed_proj_dim": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "max_position_embeddings": 2048, "do_layer_norm_before": true, "activation_function": "relu",
        }),
        "gpt2-large" => json!({
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50257, "n_embd": 1280,
            "n_layer": 36, "n_head": 20, "n_positions": 1024, "n_ctx": 1024, "activation_function": "gelu_new",
        }),
        "llama-2-7b" => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        }),
        path => serde_json::from_slice(&std::fs::read(path)?)?,
    };
    let described = tempfile::tempdir()?;
    std::fs::write(described.path().join("config.json"), config.to_string())?;
    let files = ModelFiles::with_random_weights(described.path(), 0)?;
    files.write_backbone::<_, HfError>(Path::new(dir), dtype, |name| files.load(name, dtype))?;
    Ok(())
}
