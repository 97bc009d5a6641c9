use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::super::{
    gguf::GgufFile,
    test_model::{assert_says, message, read_decoder, windows},
};
use super::*;
use crate::model::{Rope, RopeScaling};

/// What a GGUF file has of the decoder of this class with these keys.
fn expressed(class: &str, more: &Value) -> Result<Expressible, HfError> {
    let mut config = json!({
        "architectures": [class],
        "vocab_size": 6, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Expressible::of(&read_decoder(&config).unwrap(), Path::new("config.json"), Architecture::of_class(class).unwrap())
}

fn refused(class: &str, more: &Value) -> String {
    message(expressed(class, more).map(|_| ()))
}

#[test]
fn a_decoder_that_is_expressed_whole() {
    for (class, more) in [
        ("LlamaForCausalLM", json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } })),
        ("MistralForCausalLM", json!({ "sliding_window": null })),
        ("Gemma2ForCausalLM", json!({ "query_pre_attn_scalar": 4, "sliding_window": 16 })),
        ("Phi3ForCausalLM", json!({ "sliding_window": 16 })),
    ] {
        let Expressible { decoder, losses } = expressed(class, &more).unwrap();
        assert!(losses.is_empty(), "{class}: {losses:?}");
        let has_windows = more["sliding_window"].is_number();
        assert_eq!(windows(&decoder).contains(&Some(16)), has_windows, "{class}");
        assert_eq!(decoder.max_positions, 64);
    }
}

#[test]
fn the_context_ends_where_windows_begin_to_count() {
    let Expressible { decoder, losses } = expressed("MistralForCausalLM", &json!({ "sliding_window": 16 })).unwrap();
    assert_eq!((decoder.max_positions, windows(&decoder)), (16, vec![None; 3]));
    assert_says(&losses[0], &["sliding windows", "up to 16 tokens", "instead of 64"]);
    // One as long as the context never counts.
    let Expressible { decoder, losses } = expressed("MistralForCausalLM", &json!({ "sliding_window": 64 })).unwrap();
    assert_eq!((decoder.max_positions, losses.len()), (64, 0));
    let dynamic = json!({ "rope_scaling": { "type": "dynamic", "factor": 4.0 } });
    let Expressible { decoder, losses } = expressed("LlamaForCausalLM", &dynamic).unwrap();
    assert_eq!((decoder.max_positions, &decoder.ropes[0].scaling), (64, &RopeScaling::Default));
    assert_says(&losses[0], &["dynamic", "up to 64 tokens", "instead of 256"]);
}

#[test]
fn what_llama_cpp_does_not_look_for() {
    let loss = |class, more| expressed(class, &more).unwrap().losses.join("; ");
    let scalar = loss("Gemma2ForCausalLM", json!({ "query_pre_attn_scalar": 9 }));
    assert_says(&scalar, &["factor of attention scores", "gemma2"]);
    let types = json!(["full_attention", "sliding_attention", "full_attention"]);
    let types = loss("Gemma3ForCausalLM", json!({ "layer_types": types, "query_pre_attn_scalar": 4 }));
    assert_says(&types, &["sliding window", "gemma3"]);
}

#[test]
fn what_cannot_be_expressed() {
    let refused = |class, more| refused(class, &more);
    let text = refused("LlamaForCausalLM", json!({ "hidden_act": "gelu" }));
    assert_says(&text, &["config.json", "architecture llama", "the activation", "Gelu", "Silu"]);
    let yarn = json!({ "rope_type": "yarn", "factor": 2.0, "truncate": false });
    assert_says(&refused("LlamaForCausalLM", json!({ "rope_scaling": yarn })), &["yarn with", "truncate"]);
    let long = json!({ "rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0] });
    assert_says(&refused("Qwen2ForCausalLM", json!({ "rope_scaling": long })), &["is longrope", "none, linear, yarn"]);
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    assert_says(&refused("GemmaForCausalLM", json!({ "rope_scaling": llama3 })), &["architecture gemma", "llama3"]);
    let gpt2 = json!({ "n_embd": 8, "n_head": 2, "n_layer": 3, "scale_attn_by_inverse_layer_idx": true });
    assert_says(&refused("GPT2LMHeadModel", gpt2), &["factor of attention scores (in layer 1)"]);
}

/// Divisors by Llama 3's formula with other constants are read back as nothing but divisors.
#[test]
fn other_constants_of_llama_3() {
    let scaling = |low: f64| {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        });
        let expressed = expressed("LlamaForCausalLM", &json!({ "rope_scaling": scaling })).unwrap();
        expressed.decoder.ropes[0].clone()
    };
    assert!(matches!(scaling(1.0).scaling, RopeScaling::Llama3 { .. }));
    let original = Rope { scaling: llama3(2.0), ..scaling(2.0) };
    let RopeScaling::LongRope { short, long, attention_factor, .. } = scaling(2.0).scaling else {
        panic!("expected divisors");
    };
    assert_eq!((&short, attention_factor), (&long, 1.0));
    let [expected, found] = [original, scaling(2.0)].map(|rope| rope.frequencies(64).per_pair);
    assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * a), "{expected:?} {found:?}");
}

fn llama3(low_freq_factor: f64) -> RopeScaling {
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor: 4.0, original_context: 32.0 }
}

/// A tiny Llama with a tokenizer.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-gqa-tied/model")
}

/// The model in F32, and the file of it.
fn exported(into: &Path) -> (ModelFiles, PathBuf) {
    let source = ModelFiles::open(&folder()).unwrap();
    let path = into.join("model.gguf");
    let options = GgufOptions { matrices: Some(WrittenType::F32), name: "tiny" };
    export_gguf(&source, None, &path, &options, |_, _| ()).unwrap();
    (source, path)
}

fn checked(source: &ModelFiles, written: &Path) -> Result<(), HfError> {
    check(source, None, source.config(), WrittenType::F32, written, Path::new("new.gguf")).map(|_| ())
}

#[test]
fn damage_is_found() {
    let work = tempfile::tempdir().unwrap();
    let (source, path) = exported(work.path());
    checked(&source, &path).unwrap();

    let tensor = GgufFile::open(&path).unwrap().tensor("blk.1.ffn_down.weight").unwrap().byte_range();
    let damaged = work.path().join("damaged.gguf");
    fs::copy(&path, &damaged).unwrap();
    let mut file = OpenOptions::new().write(true).open(&damaged).unwrap();
    file.seek(SeekFrom::Start(tensor.start as u64)).unwrap();
    file.write_all(&vec![0; tensor.len() / 2]).unwrap();
    assert_says(&message(checked(&source, &damaged)), &["new.gguf was not written", "logits", "f32 allows for 1e-4"]);
}

#[test]
fn other_tokens_are_found() {
    let work = tempfile::tempdir().unwrap();
    let (_, path) = exported(work.path());
    let copy = work.path().join("model");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let tokenizer = copy.join("tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    let changed = text.replace("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    assert_ne!(text, changed);
    fs::write(&tokenizer, changed).unwrap();
    let source = ModelFiles::open(&copy).unwrap();
    assert_says(&message(checked(&source, &path)), &["new.gguf was not written", "becomes the tokens", "instead of"]);
}

#[test]
fn another_decoder_is_found() {
    let work = tempfile::tempdir().unwrap();
    let (source, path) = exported(work.path());
    let mut decoder = source.config().clone();
    decoder.max_positions += 1;
    let text = message(check(&source, None, &decoder, WrittenType::F32, &path, &path).map(|_| ()));
    assert_says(&text, &["the decoder has `max_positions: 128,` instead of `max_positions: 129,`"]);
    let mut decoder = source.config().clone();
    decoder.ropes[0].theta *= 2.0;
    let text = message(check(&source, None, &decoder, WrittenType::F32, &path, &path).map(|_| ()));
    assert_says(&text, &["rotary positions are", "instead of"]);
}

#[test]
fn a_tokenizer_without_a_place_leaves_no_file() {
    let model = super::super::test_model::TestModel::new().write();
    let source = ModelFiles::open(model.root()).unwrap();
    let path = model.path("model.gguf");
    let options = GgufOptions { matrices: None, name: "tiny" };
    let text = message(export_gguf(&source, None, &path, &options, |_, _| ()));
    assert_says(&text, &["tokenizer.json", "\"WordLevel\"", "BPE"]);
    assert!(!path.exists());
}
