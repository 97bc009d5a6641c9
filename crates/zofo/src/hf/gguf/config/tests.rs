use super::super::test_file::{TestFile, assert_says, message};

use super::*;

fn config(file: &TestFile) -> Result<Value, GgufError> {
    file.open().unwrap().hf_config().map(Value::Object)
}

#[test]
fn a_config_as_transformers_writes_it() {
    let expected = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "head_dim": 4,
        "hidden_act": "silu",
        "hidden_size": 8,
        "intermediate_size": 12,
        "max_position_embeddings": 64,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_parameters": { "rope_theta": 50000.0, "rope_type": "default" },
        "tie_word_embeddings": true,
        "use_cache": true,
        "vocab_size": 6,
        "bos_token_id": 0,
        "eos_token_id": 1,
    });
    assert_eq!(config(&TestFile::llama()).unwrap(), expected);

    let untied = TestFile::llama().counting("output.weight", &[6, 8], 0.0);
    assert_eq!(config(&untied).unwrap()["tie_word_embeddings"], false);
}

#[test]
fn keys_that_may_be_absent() {
    let file = TestFile::llama()
        .without("llama.attention.head_count_kv")
        .without("llama.rope.dimension_count")
        .without("llama.vocab_size")
        .without("tokenizer.ggml.bos_token_id");
    let config = config(&file).unwrap();
    assert_eq!(config["num_key_value_heads"], 2);
    assert_eq!(config["head_dim"], 4);
    assert_eq!(config["vocab_size"], 6);
    assert!(config.get("bos_token_id").is_none());
}

#[test]
fn keys_that_must_be_there() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let text = message(config(&TestFile::llama().without(key)));
        assert_says(&text, &[&format!("\"{key}\" is missing")]);
    }
    let text = message(config(&TestFile::llama().without_tensor(EMBEDDING)));
    assert_says(&text, &["tensor \"token_embd.weight\" is missing"]);
}

#[test]
fn values_that_do_not_fit() {
    for (key, value, part) in [
        ("llama.block_count", 0, "at least 1"),
        ("llama.attention.head_count", 3, "multiple of the 3 heads"),
        ("llama.attention.head_count_kv", 3, "divisor of the 2 heads"),
        ("llama.attention.key_length", 6, "6 of its heads"),
        ("llama.attention.value_length", 6, "4 of its heads"),
        ("llama.rope.dimension_count", 2, "4 of its heads"),
        ("llama.vocab_size", 7, "has 6 rows"),
        ("tokenizer.ggml.eos_token_id", 6, "has 6 tokens"),
    ] {
        let file = TestFile::llama().without("llama.attention.head_count_kv").u32(key, value);
        assert_says(&message(config(&file)), &[part]);
    }
    let odd = TestFile::llama().u32("llama.attention.key_length", 3).u32("llama.rope.dimension_count", 3);
    assert_says(&message(config(&odd)), &["key_length\" is 3", "even"]);
    for wrong in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        assert_says(&message(config(&TestFile::llama().f32(key, wrong))), &[key, "finite"]);
    }
    let text = message(config(&TestFile::llama().i32s("llama.attention.head_count", &[2, 2])));
    assert_says(&text, &["head_count\" holds an array of 2", "expected an integer"]);
}

#[test]
fn what_transformers_would_not_compute() {
    let text = message(config(&TestFile::llama().string("general.architecture", "gemma")));
    assert_says(&text, &["architecture \"gemma\"", "supported: llama"]);

    let mixture = TestFile::llama().u32("llama.expert_count", 8);
    assert_says(&message(config(&mixture)), &["llama.expert_count", "is 8"]);
    config(&TestFile::llama().u32("llama.expert_count", 0)).unwrap();
    let scaled = TestFile::llama().f32("llama.logit_scale", 0.5);
    assert_says(&message(config(&scaled)), &["llama.logit_scale", "is 0.5"]);
    config(&TestFile::llama().f32("llama.logit_scale", 0.0)).unwrap();
    let parallel = TestFile::llama().bool("llama.use_parallel_residual", true);
    assert_says(&message(config(&parallel)), &["use_parallel_residual"]);
    config(&TestFile::llama().bool("llama.use_parallel_residual", false)).unwrap();
}
