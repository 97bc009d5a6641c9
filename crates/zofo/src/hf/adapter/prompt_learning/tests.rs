use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::super::test_model::{TestTensor, TestTensors, assert_says, message, safetensors_bytes};
use super::super::PeftAdapter;
use super::*;

fn matrix(shape: [usize; 2]) -> AdapterMatrix {
    AdapterMatrix { shape, values: (0..shape[0] * shape[1]).map(|index| index as f32 / 16.0).collect() }
}

/// 3 virtual tokens for 2 layers with a single head of 4.
fn prefix() -> PeftPrefix {
    PeftPrefix {
        num_layers: 2,
        num_attention_heads: 1,
        token_dim: 4,
        embeddings: matrix([3, 16]),
        base_model_name_or_path: Some("../model".to_owned()),
    }
}

/// 3 virtual tokens of width 8.
fn prompt() -> PeftPrompt {
    PeftPrompt { num_layers: 2, num_attention_heads: 2, embeddings: matrix([3, 8]), base_model_name_or_path: None }
}

fn both() -> [PeftAdapter; 2] {
    [PeftAdapter::Prefix(prefix()), PeftAdapter::Prompt(prompt())]
}

fn written(adapter: &PeftAdapter) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    adapter.write(&dir).unwrap();
    (root, dir)
}

/// Reads an adapter after a change to its configuration.
fn with_config(adapter: &PeftAdapter, changes: &Value) -> Result<PeftAdapter, HfError> {
    let (_root, dir) = written(adapter);
    let path = dir.join(CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&path, config.to_string()).unwrap();
    PeftAdapter::read(&dir)
}

/// Reads a prompt with other tensors.
fn with_tensors(tensors: &[(&str, &[usize])]) -> Result<PeftAdapter, HfError> {
    let (_root, dir) = written(&PeftAdapter::Prompt(prompt()));
    let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), TestTensor::counting(shape, 0.0)));
    fs::write(dir.join(WEIGHTS), safetensors_bytes(&tensors.collect::<TestTensors>())).unwrap();
    PeftAdapter::read(&dir)
}

#[test]
fn what_is_written_is_read() {
    for adapter in both() {
        let (_root, dir) = written(&adapter);
        assert_eq!(PeftAdapter::read(&dir).unwrap(), adapter);
    }
}

/// The keys that peft 0.10 knows: it stops at any other.
#[test]
fn the_configurations_are_those_of_peft() {
    let config = |adapter| -> Value {
        let (_root, dir) = written(&adapter);
        serde_json::from_slice(&fs::read(dir.join(CONFIG)).unwrap()).unwrap()
    };
    let [prefix, prompt] = both().map(config);
    let expected = json!({
        "auto_mapping": null,
        "base_model_name_or_path": "../model",
        "encoder_hidden_size": 4,
        "inference_mode": true,
        "num_attention_heads": 1,
        "num_layers": 2,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": 3,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": false,
        "revision": null,
        "task_type": "CAUSAL_LM",
        "token_dim": 4,
    });
    assert_eq!(prefix, expected);
    let expected = json!({
        "auto_mapping": null,
        "base_model_name_or_path": null,
        "inference_mode": true,
        "num_attention_heads": 2,
        "num_layers": 2,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": 3,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": null,
        "revision": null,
        "task_type": "CAUSAL_LM",
        "token_dim": 8,
        "tokenizer_kwargs": null,
        "tokenizer_name_or_path": null,
    });
    assert_eq!(prompt, expected);
}

#[test]
fn a_prefix_that_was_trained_through_a_projection_is_one_like_any_other() {
    let changes = json!({ "prefix_projection": true, "encoder_hidden_size": 7, "init_weights": null });
    assert_eq!(with_config(&both()[0], &changes).unwrap(), both()[0]);
}

#[test]
fn how_a_prompt_began_does_not_matter() {
    let changes =
        json!({ "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x", "tokenizer_name_or_path": "y" });
    assert_eq!(with_config(&both()[1], &changes).unwrap(), both()[1]);
}

#[test]
fn configurations_that_are_not_supported_or_wrong() {
    for adapter in both() {
        for (key, value, says) in [
            ("peft_type", json!("P_TUNING"), "\"LORA\", \"PREFIX_TUNING\", \"PROMPT_TUNING\""),
            ("task_type", json!("SEQ_2_SEQ_LM"), "\"CAUSAL_LM\""),
            ("num_transformer_submodules", json!(2), "supported: 1"),
            ("modules_to_save", json!(["lm_head"]), "not supported"),
            ("num_virtual_tokens", json!(null), "expected a value"),
            ("num_layers", json!("2"), "expected a whole number"),
            ("token_dim", json!(0), "expected a whole number"),
        ] {
            let text = message(with_config(&adapter, &json!({ key: value })));
            assert_says(&text, &[CONFIG, &format!("key \"{key}\""), says]);
        }
        let text = message(with_config(&adapter, &json!({ "num_virtual_tokens": 4 })));
        assert_says(&text, &[WEIGHTS, "prompt_embeddings", "expected [4, ", "num_virtual_tokens", "found [3, "]);
    }
    let text = message(with_config(&both()[0], &json!({ "num_layers": 1 })));
    assert_says(&text, &["expected [3, 8], by the num_virtual_tokens, num_layers and token_dim", "found [3, 16]"]);
    let text = message(with_config(&both()[0], &json!({ "prefix_projection": "no" })));
    assert_says(&text, &["\"prefix_projection\"", "true or false"]);
}

#[test]
fn tensors_that_are_wrong() {
    with_tensors(&[("prompt_embeddings", &[3, 8])]).unwrap();
    assert_says(&message(with_tensors(&[])), &[WEIGHTS, "missing", "prompt_embeddings"]);
    let text = message(with_tensors(&[("prompt_embeddings", &[24])]));
    assert_says(&text, &["prompt_embeddings", "a matrix", "found [24]"]);
    let text = message(with_tensors(&[("prompt_embeddings", &[3, 8]), ("embedding.weight", &[3, 8])]));
    assert_says(&text, &["\"embedding.weight\"", "not supported"]);
}

#[test]
fn values_that_are_not_finite() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut prompt = prompt();
        prompt.embeddings.values[2 * 8 + 5] = value;
        let (_root, dir) = written(&PeftAdapter::Prompt(prompt));
        let found = format!("found {value} in row 2, column 5");
        assert_says(&message(PeftAdapter::read(&dir)), &[WEIGHTS, "prompt_embeddings", "finite values", &found]);
    }
}

#[test]
fn folders_that_are_not_there() {
    let root = tempfile::tempdir().unwrap();
    assert_says(&message(PeftAdapter::read(&root.path().join("none"))), &["cannot open", "none"]);
    assert_says(&message(PeftAdapter::read(root.path())), &["adapter_config.json is missing"]);
}

#[test]
fn what_contradicts_itself_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    let prefix = PeftPrefix { num_layers: 3, ..prefix() };
    let text = message(PeftAdapter::Prefix(prefix).write(&dir));
    assert_says(&text, &["expected [3, 24]", "found [3, 16]"]);
    let mut prompt = prompt();
    prompt.embeddings.values.pop();
    assert_says(&message(PeftAdapter::Prompt(prompt).write(&dir)), &["one of 23 values", "found [3, 8]"]);
    assert!(!dir.exists());
}
