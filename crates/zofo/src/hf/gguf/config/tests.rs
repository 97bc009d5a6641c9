use super::super::TensorType;
use super::super::test_file::{TestFile, assert_says, f32_bytes, message};

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
        ("llama.attention.value_length", 6, "the 4 of keys"),
        ("llama.rope.dimension_count", 2, "4 of its heads"),
        ("llama.vocab_size", 7, "has 6 rows"),
        ("tokenizer.ggml.eos_token_id", 6, "has 6 tokens"),
    ] {
        let file = TestFile::llama().without("llama.attention.head_count_kv").u32(key, value);
        assert_says(&message(config(&file)), &[part]);
    }
    let odd = TestFile::llama().u32("llama.attention.key_length", 3).u32("llama.rope.dimension_count", 3);
    assert_says(&message(config(&odd)), &["dimension_count\" is 3", "even"]);
    for wrong in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        assert_says(&message(config(&TestFile::llama().f32(key, wrong))), &[key, "finite"]);
    }
    let text = message(config(&TestFile::llama().i32s("llama.attention.head_count", &[2, 2])));
    assert_says(&text, &["head_count\" holds an array of 2", "expected an integer"]);
}

#[test]
fn what_transformers_would_not_compute() {
    let text = message(config(&TestFile::llama().string("general.architecture", "mamba")));
    assert_says(
        &text,
        &["architecture \"mamba\"", "supported: llama, qwen2, qwen3, gpt2, gemma, gemma2, gemma3, phi3"],
    );

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

/// A file of another architecture with the sizes of [`TestFile::llama`] and nothing but an embedding.
fn other(name: &str, epsilon: &str) -> TestFile {
    let key = |part: &str| format!("{name}.{part}");
    TestFile::new()
        .string("general.architecture", name)
        .u32(&key("block_count"), 3)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 12)
        .u32(&key("attention.head_count"), 2)
        .f32(&key(epsilon), 1e-6)
        .counting(EMBEDDING, &[6, 8], 0.0)
        .counting("blk.0.a", &[1], 0.0)
        .counting("blk.0.b", &[1], 0.0)
}

fn rms(name: &str) -> TestFile {
    other(name, "attention.layer_norm_rms_epsilon")
}

#[test]
fn qwen() {
    let qwen2 = config(&rms("qwen2")).unwrap();
    assert_eq!((&qwen2["architectures"], &qwen2["model_type"]), (&json!(["Qwen2ForCausalLM"]), &json!("qwen2")));
    assert_eq!((&qwen2["hidden_act"], &qwen2["use_sliding_window"]), (&json!("silu"), &json!(false)));
    let qwen3 = rms("qwen3").u32("qwen3.attention.key_length", 6).counting("blk.0.attn_q.bias", &[12], 0.0);
    let qwen3 = config(&qwen3).unwrap();
    assert_eq!((&qwen3["architectures"], &qwen3["model_type"]), (&json!(["Qwen3ForCausalLM"]), &json!("qwen3")));
    assert_eq!((&qwen3["head_dim"], &qwen3["attention_bias"]), (&json!(6), &json!(true)));
    let windows = rms("qwen2").u32("qwen2.attention.sliding_window", 16);
    assert_says(&message(config(&windows)), &["qwen2.attention.sliding_window", "is 16", "Qwen2ForCausalLM"]);
}

#[test]
fn gpt2_in_its_own_spelling() {
    let file = other("gpt2", "attention.layer_norm_epsilon");
    let expected = json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "dtype": "float32",
        "layer_norm_epsilon": 1e-6, "model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_inner": 12, "n_layer": 3,
        "n_positions": 64, "tie_word_embeddings": true, "use_cache": true, "vocab_size": 6,
    });
    assert_eq!(config(&file).unwrap(), expected);
    // Converters wrote the embedding a second time.
    let twice = |first| config(&file.clone().counting("output.weight", &[6, 8], first)).unwrap();
    assert_eq!(twice(0.0)["tie_word_embeddings"], true);
    assert_eq!(twice(1.0)["tie_word_embeddings"], false);
    let llama = TestFile::llama().counting("output.weight", &[6, 8], 0.0);
    assert_eq!(config(&llama).unwrap()["tie_word_embeddings"], false);

    let shared = file.clone().u32("gpt2.attention.head_count_kv", 1);
    assert_says(&message(config(&shared)), &["gpt2.attention.head_count_kv", "is 1"]);
    let wide = file.u32("gpt2.attention.key_length", 6).u32("gpt2.attention.value_length", 6);
    assert_says(&message(config(&wide)), &["gpt2.attention.key_length", "is 6"]);
}

#[test]
fn gemma_of_all_three_kinds() {
    let gemma = config(&rms("gemma")).unwrap();
    assert_eq!((&gemma["hidden_act"], &gemma["model_type"]), (&json!("gelu_pytorch_tanh"), &json!("gemma")));
    let bounded = rms("gemma").f32("gemma.final_logit_softcapping", 30.0);
    assert_says(&message(config(&bounded)), &["gemma.final_logit_softcapping", "is 30", "GemmaForCausalLM"]);

    let gemma2 = rms("gemma2")
        .u32("gemma2.attention.sliding_window", 16)
        .f32("gemma2.attn_logit_softcapping", 50.0)
        .f32("gemma2.final_logit_softcapping", 30.0);
    let read = config(&gemma2).unwrap();
    assert_eq!((&read["attn_logit_softcapping"], &read["final_logit_softcapping"]), (&json!(50.0), &json!(30.0)));
    assert_eq!((&read["sliding_window"], &read["query_pre_attn_scalar"]), (&json!(16), &json!(4.0)));
    let (slides, full) = ("sliding_attention", "full_attention");
    assert_eq!(read["layer_types"], json!([slides, full, slides]));
    let scale = config(&gemma2.clone().f32("gemma2.attention.scale", 0.125)).unwrap();
    assert_eq!(scale["query_pre_attn_scalar"], 64.0);
    let unbounded = config(&rms("gemma2")).unwrap();
    assert_eq!(unbounded["final_logit_softcapping"], Value::Null);
    assert_eq!(unbounded["layer_types"], json!([full, full, full]));

    let gemma3 = rms("gemma3")
        .u32("gemma3.attention.sliding_window", 16)
        .f32("gemma3.rope.freq_base", 1e6)
        .string("gemma3.rope.scaling.type", "linear")
        .f32("gemma3.rope.scaling.factor", 8.0);
    let read = config(&gemma3).unwrap();
    assert_eq!(read["model_type"], "gemma3_text");
    assert_eq!(read["layer_types"], json!([slides, slides, slides]));
    let expected = json!({
        "full_attention": { "factor": 8.0, "rope_theta": 1e6, "rope_type": "linear" },
        "sliding_attention": { "rope_theta": 1e4, "rope_type": "default" },
    });
    assert_eq!(read["rope_parameters"], expected);
    let pattern = "gemma3.attention.sliding_window_pattern";
    let types = |file: TestFile| config(&file).unwrap()["layer_types"].clone();
    assert_eq!(types(gemma3.clone().u32(pattern, 2)), json!([slides, full, slides]));
    let flags = |flags: &[u8]| {
        let head = [&7_u32.to_le_bytes()[..], &(flags.len() as u64).to_le_bytes()].concat();
        gemma3.clone().raw(pattern, 9, &[&head, flags].concat())
    };
    assert_eq!(types(flags(&[0, 1, 1])), json!([full, slides, slides]));
    assert_says(&message(config(&flags(&[1, 0]))), &[pattern, "an array of 2", "3 layers"]);
}

/// The largest models of the second and the third Gemma are known by their layers.
#[test]
fn the_factor_of_scores_of_large_models() {
    for (name, layers) in [("gemma2", 46), ("gemma3", 62)] {
        let mut file = rms(name).u32(&format!("{name}.attention.key_length"), 2);
        for layer in 0..layers {
            file = file.counting(&format!("blk.{layer}.c"), &[1], 0.0);
        }
        let scalar = |layers: u32| {
            let file = file.clone().u32(&format!("{name}.block_count"), layers);
            config(&file).unwrap()["query_pre_attn_scalar"].clone()
        };
        assert_eq!((scalar(layers), scalar(layers - 1)), (json!(4.0), json!(2.0)), "{name}");
    }
}

#[test]
fn phi3_with_its_own_rotation() {
    let file = rms("phi3").u32("phi3.attention.key_length", 10).u32("phi3.rope.dimension_count", 6);
    let read = config(&file).unwrap();
    assert_eq!((&read["sliding_window"], &read["original_max_position_embeddings"]), (&Value::Null, &json!(64)));
    let factor = read["rope_parameters"]["partial_rotary_factor"].as_f64().unwrap();
    assert_eq!((10.0 * factor) as usize, 6);
    assert_eq!(config(&file.clone().u32("phi3.attention.sliding_window", 0)).unwrap()["sliding_window"], Value::Null);
    assert_eq!(config(&file.clone().u32("phi3.attention.sliding_window", 9)).unwrap()["sliding_window"], 9);

    let divisors = |name: &str, values: &[f32]| (name.to_owned(), values.to_owned());
    let with = |tensors: &[(String, Vec<f32>)]| {
        tensors.iter().fold(file.clone(), |file, (name, values)| {
            file.tensor(name, &[values.len() as u64], TensorType::F32, f32_bytes(values))
        })
    };
    let long = divisors("rope_factors_long.weight", &[1.0, 2.0, 4.0]);
    let short = divisors("rope_factors_short.weight", &[1.0, 1.0, 1.5]);
    let original = "phi3.rope.scaling.original_context_length";
    let both = with(&[long.clone(), short]).u32(original, 16);
    let rope = |file: &TestFile| config(file).unwrap()["rope_parameters"].clone();
    let expected = json!({
        "long_factor": [1.0, 2.0, 4.0], "partial_rotary_factor": factor, "rope_theta": 10000.0,
        "rope_type": "longrope", "short_factor": [1.0, 1.0, 1.5],
    });
    assert_eq!(rope(&both), expected);
    // √(1 + ln 4 / ln 16) is the usual one for four times the original context.
    let usual = both.clone().f32("phi3.rope.scaling.attn_factor", 1.5_f32.sqrt());
    assert_eq!(rope(&usual), expected);
    assert_eq!(rope(&both.clone().f32("phi3.rope.scaling.attn_factor", 1.25))["attention_factor"], 1.25);
    assert_says(&message(config(&both.without(original))), &[original, "missing"]);
    assert_says(&message(config(&with(&[long]))), &["rope_factors_short.weight", "missing"]);
    let bad = divisors("rope_factors_long.weight", &[1.0, 0.0, 4.0]);
    assert_says(&message(config(&with(&[bad]))), &["rope_factors_long.weight", "divisor 1", "is 0"]);
    let yarn = file.string("phi3.rope.scaling.type", "yarn");
    assert_says(&message(config(&yarn)), &["\"yarn\"", "none and longrope"]);
}
