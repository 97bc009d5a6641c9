use serde_json::json;

use super::super::test_model::{assert_refused, assert_says, changed, llama_config, message, read_decoder};
use super::*;

fn read(text: &str) -> Result<DecoderConfig, HfError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    read_decoder_config(&path)
}

#[test]
fn architectures() {
    let mut config = llama_config();
    read(&config.to_string()).unwrap();

    config["architectures"] = json!(["BertModel"]);
    let text = message(read(&config.to_string()));
    assert_says(&text, &["config.json", "BertModel", "supported: GemmaForCausalLM", "LlamaForCausalLM, Mistral"]);

    config["architectures"] = json!("LlamaForCausalLM");
    let text = message(read(&config.to_string()));
    assert_says(&text, &["\"architectures\"", "a list of strings"]);

    config["architectures"] = json!(null);
    read(&config.to_string()).unwrap();
    config["model_type"] = json!("bert");
    assert_says(&message(read(&config.to_string())), &["model type \"bert\""]);
    config["model_type"] = json!(null);
    assert_says(&message(read(&config.to_string())), &["\"model_type\"", "found none"]);
}

#[test]
fn architectures_that_are_nearly_supported() {
    assert_refused(
        &llama_config(),
        &[
            (
                json!({ "architectures": ["MixtralForCausalLM"], "num_local_experts": 8 }),
                &["MixtralForCausalLM (a mixture of experts, as its key \"num_local_experts\" says)", "supported: "],
            ),
            (
                json!({ "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128 }),
                &["Qwen3MoeForCausalLM (a mixture of experts"],
            ),
            (
                json!({ "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {} }),
                &["Gemma3ForConditionalGeneration (a model of images and text", "Gemma3ForCausalLM"],
            ),
            (json!({ "num_local_experts": 8 }), &["\"num_local_experts\" is 8", "not supported"]),
            (json!({ "alibi": true }), &["\"alibi\" is true", "not supported"]),
            (json!({ "quantization_config": { "bits": 4 } }), &["\"quantization_config\"", "GGUF"]),
        ],
    );
    // What asks for nothing.
    let neutral = json!({ "num_local_experts": 0, "alibi": false, "is_encoder_decoder": false });
    assert_eq!(read_decoder(&changed(&llama_config(), &neutral)).unwrap(), read_decoder(&llama_config()).unwrap());
}

#[test]
fn what_is_no_configuration() {
    assert_says(&message(read("{\"a\": 1,}")), &["config.json", "not valid JSON", "line 1"]);
    assert_says(&message(read("[1]")), &["config.json", "an object", "[1]"]);
    let missing = read_decoder_config(Path::new("/nowhere/config.json"));
    assert_says(&message(missing), &["cannot read /nowhere/config.json"]);
}

#[test]
fn names_and_shapes_are_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("state_dicts.json")).unwrap();
    let models = fixture["models"].as_array().unwrap();
    assert_eq!(models.len(), FAMILIES.len());
    for model in models {
        let decoder = read_decoder(&model["config"]).unwrap();
        let mut parameters = decoder.parameters();
        parameters.sort();
        let expected = model["shapes"].as_object().unwrap().iter();
        let expected: Vec<_> =
            expected.map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap())).collect();
        assert_eq!(parameters, expected, "{}", model["config"]);
    }
}

#[test]
fn a_base_prefix_is_that_of_all_weights_but_the_head() {
    for family in &FAMILIES {
        let config = json!({
            "model_type": family.model_type, "tie_word_embeddings": false,
            "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "n_embd": 8, "n_head": 2, "n_layer": 1, "ffn_dim": 12,
        });
        let decoder = read_decoder(&config).unwrap();
        let others: Vec<_> =
            decoder.parameters().into_iter().filter(|(name, _)| !name.starts_with(family.base_prefix)).collect();
        assert_eq!(others, [(HEAD.to_owned(), vec![6, 8])], "{}", family.architecture);
        assert!(!family.is_redundant(&decoder, HEAD));
    }
}

#[test]
fn tensors_that_are_no_weights() {
    let llama = read_decoder(&llama_config()).unwrap();
    assert!(llama::FAMILY.is_redundant(&llama, "model.layers.1.self_attn.rotary_emb.inv_freq"));
    assert!(!llama::FAMILY.is_redundant(&llama, "h.0.attn.bias"));
    for mask in ["h.11.attn.bias", "transformer.h.0.attn.masked_bias"] {
        assert!(gpt2::FAMILY.is_redundant(&llama, mask));
    }
    assert!(!gpt2::FAMILY.is_redundant(&llama, "h.0.attn.c_attn.bias"));
}
