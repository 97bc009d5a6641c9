use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use super::super::super::{family::decoder_of, json::Keys};
use super::*;

/// The tensors of a model of two layers, of this class.
fn tensors(class: &str, more: &serde_json::Value) -> (DecoderConfig, Vec<HfTensor>) {
    let mut config = json!({
        "architectures": [class],
        "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64, "tie_word_embeddings": true,
        "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 64,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let decoder = decoder_of(&Keys::new(Path::new("config.json"), config.as_object().unwrap())).unwrap();
    let tensors = model_tensors(&decoder, Architecture::of_class(class).unwrap());
    (decoder, tensors)
}

/// The names in the file of what the second layer has, each with the rest of Hugging Face's name.
fn layer(class: &str, more: &serde_json::Value) -> Vec<(String, String)> {
    let (_, tensors) = tensors(class, more);
    let parts = tensors.into_iter().filter_map(|tensor| {
        let ours = tensor.gguf_name.strip_prefix("blk.1.")?.to_owned();
        let (_, theirs) = tensor.name.split_once(".1.").unwrap();
        Some((ours, theirs.to_owned()))
    });
    parts.collect()
}

fn assert_layer(class: &str, more: &serde_json::Value, expected: &[(&str, &str)]) {
    let found = layer(class, more);
    let found: Vec<_> = found.iter().map(|(ours, theirs)| (ours.as_str(), theirs.as_str())).collect();
    assert_eq!(found, expected, "{class}");
}

#[test]
fn names_in_layers() {
    assert_layer(
        "Qwen2ForCausalLM",
        &json!({}),
        &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("attn_q.weight", "self_attn.q_proj.weight"),
            ("attn_q.bias", "self_attn.q_proj.bias"),
            ("attn_k.weight", "self_attn.k_proj.weight"),
            ("attn_k.bias", "self_attn.k_proj.bias"),
            ("attn_v.weight", "self_attn.v_proj.weight"),
            ("attn_v.bias", "self_attn.v_proj.bias"),
            ("attn_output.weight", "self_attn.o_proj.weight"),
            ("ffn_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_gate.weight", "mlp.gate_proj.weight"),
            ("ffn_up.weight", "mlp.up_proj.weight"),
            ("ffn_down.weight", "mlp.down_proj.weight"),
        ],
    );
    assert_layer(
        "Gemma3ForCausalLM",
        &json!({}),
        &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("attn_q.weight", "self_attn.q_proj.weight"),
            ("attn_k.weight", "self_attn.k_proj.weight"),
            ("attn_v.weight", "self_attn.v_proj.weight"),
            ("attn_q_norm.weight", "self_attn.q_norm.weight"),
            ("attn_k_norm.weight", "self_attn.k_norm.weight"),
            ("attn_output.weight", "self_attn.o_proj.weight"),
            ("post_attention_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            ("ffn_gate.weight", "mlp.gate_proj.weight"),
            ("ffn_up.weight", "mlp.up_proj.weight"),
            ("ffn_down.weight", "mlp.down_proj.weight"),
            ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        ],
    );
    assert_layer(
        "Phi3ForCausalLM",
        &json!({}),
        &[
            ("attn_norm.weight", "input_layernorm.weight"),
            ("attn_qkv.weight", "self_attn.qkv_proj.weight"),
            ("attn_output.weight", "self_attn.o_proj.weight"),
            ("ffn_norm.weight", "post_attention_layernorm.weight"),
            ("ffn_up.weight", "mlp.gate_up_proj.weight"),
            ("ffn_down.weight", "mlp.down_proj.weight"),
        ],
    );
    assert_layer(
        "GPT2LMHeadModel",
        &json!({}),
        &[
            ("attn_norm.weight", "ln_1.weight"),
            ("attn_norm.bias", "ln_1.bias"),
            ("attn_qkv.weight", "attn.c_attn.weight"),
            ("attn_qkv.bias", "attn.c_attn.bias"),
            ("attn_output.weight", "attn.c_proj.weight"),
            ("attn_output.bias", "attn.c_proj.bias"),
            ("ffn_norm.weight", "ln_2.weight"),
            ("ffn_norm.bias", "ln_2.bias"),
            ("ffn_up.weight", "mlp.c_fc.weight"),
            ("ffn_up.bias", "mlp.c_fc.bias"),
            ("ffn_down.weight", "mlp.c_proj.weight"),
            ("ffn_down.bias", "mlp.c_proj.bias"),
        ],
    );
}

#[test]
fn names_outside_of_layers() {
    let outside = |class, more| {
        let (_, tensors) = tensors(class, &more);
        let outside = tensors.into_iter().filter(|tensor| !tensor.gguf_name.starts_with("blk."));
        outside.map(|tensor| (tensor.gguf_name, tensor.name)).collect::<Vec<_>>()
    };
    let named = |names: &[(&str, &str)]| {
        names.iter().map(|&(ours, theirs)| (ours.to_owned(), theirs.to_owned())).collect::<Vec<_>>()
    };
    let llama = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ];
    assert_eq!(outside("LlamaForCausalLM", json!({ "tie_word_embeddings": false })), named(&llama));
    assert_eq!(outside("LlamaForCausalLM", json!({})), named(&llama[..2]));
    let gpt2 = [
        ("token_embd.weight", "transformer.wte.weight"),
        ("position_embd.weight", "transformer.wpe.weight"),
        ("output_norm.weight", "transformer.ln_f.weight"),
        ("output_norm.bias", "transformer.ln_f.bias"),
    ];
    assert_eq!(outside("GPT2LMHeadModel", json!({})), named(&gpt2));
}

/// No weight of any architecture is left out, and none is there twice.
#[test]
fn every_weight_has_a_name() {
    let biases = json!({ "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": false });
    for class in Architecture::all().flat_map(|architecture| architecture.classes) {
        for more in [&json!({}), &biases] {
            let (decoder, tensors) = tensors(class, more);
            let expected: BTreeSet<_> = decoder.parameters().into_iter().collect();
            let found: BTreeSet<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
            assert_eq!(found, expected, "{class}");
            let stored: BTreeSet<_> = tensors.iter().map(|tensor| &tensor.gguf_name).collect();
            assert_eq!(stored.len(), expected.len(), "{class}");
        }
    }
}

#[test]
fn what_is_rearranged() {
    let rearranged = |class, more| {
        let (_, tensors) = tensors(class, &more);
        let rearranged = tensors.into_iter().filter(HfTensor::is_rearranged);
        rearranged.map(|tensor| (tensor.gguf_name, tensor.arrangement)).collect::<Vec<_>>()
    };
    let paired = Arrangement::Paired { head_dim: 4 };
    let expected = ["blk.0.attn_q", "blk.0.attn_k", "blk.1.attn_q", "blk.1.attn_k"];
    let expected = |parts: &[&str]| {
        let names = expected.iter().flat_map(|module| parts.iter().map(move |part| format!("{module}.{part}")));
        names.map(|name| (name, paired)).collect::<Vec<_>>()
    };
    assert_eq!(rearranged("MistralForCausalLM", json!({})), expected(&["weight"]));
    assert_eq!(rearranged("LlamaForCausalLM", json!({ "attention_bias": true })), expected(&["weight", "bias"]));
    for class in ["Qwen2ForCausalLM", "Qwen3ForCausalLM", "Phi3ForCausalLM"] {
        assert_eq!(rearranged(class, json!({})), [], "{class}");
    }
    let gemma = rearranged("Gemma3ForCausalLM", json!({}));
    assert!(gemma.iter().all(|(name, kind)| name.ends_with("norm.weight") && *kind == Arrangement::PlusOne));
    assert_eq!(gemma.len(), 2 * 6 + 1);
    let gpt2 = rearranged("GPT2LMHeadModel", json!({}));
    assert!(gpt2.iter().all(|(_, kind)| *kind == Arrangement::Transposed));
    let names: Vec<_> = gpt2.iter().filter_map(|(name, _)| name.strip_prefix("blk.0.")).collect();
    assert_eq!(names, ["attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"]);
}
