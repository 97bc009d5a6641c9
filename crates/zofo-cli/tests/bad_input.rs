//! What cannot be used is refused with an exit code that tells the kind, and a message that tells the place; nothing is
//! written.

mod common;

use common::{ADAPTER, MODEL, Workspace, assert_error, json_of, stderr};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Trains with these settings, expects to be refused, and that there is no folder of a run.
#[track_caller]
fn refused(workspace: &Workspace, settings: &str, code: i32, words: &[&str]) {
    assert_error(workspace.zofo(&format!("train config.toml {settings}")), code, words);
    assert!(!workspace.path("run").exists(), "a refused run left a folder");
}

#[test]
fn configurations() {
    let workspace = Workspace::new();
    let refused = |settings: &str, words: &[&str]| refused(&workspace, settings, 2, words);
    refused("--set outer.learning_rate=1", &["unknown key `outer.learning_rate`", "nearest known one is `outer."]);
    refused("--set outer.eps=0", &["--set outer.eps=0", "above 0", "found the integer 0"]);
    refused("--set outer.eps=-1e-3", &["`outer.eps`", "above 0"]);
    refused("--set inner.lr=nan", &["`inner.lr`", "above 0"]);
    refused("--set outer.optimizer=rmsprop", &["`outer.optimizer`", "did you mean \"rms\""]);
    refused("--set model.compute=f16", &["`model.compute`", "\"f32\", \"bf16\""]);
    refused("--set run.device=cuda", &["cuda", "supports: cpu"]);
    refused("--set peft.targets=[\"qproj\"]", &["`qproj`", "q_proj"]);
    refused("--set outer.optimizer=adam --set model.dtype=bf16", &["adam", "bf16"]);
    refused("--set data.train_examples=1000", &["60 rows", "data.train_examples = 1000", "set for example"]);
    refused("--set outer.batch_size=14", &["batch of 14", "13 examples"]);
    refused("--set data.task=sst-2", &["unknown task \"sst-2\"", "did you mean \"sst2\""]);
    refused("--set nonsense", &["expected key=value"]);

    fs::write(workspace.path("broken.toml"), "[model]\npath = \n").unwrap();
    assert_error(workspace.zofo("train broken.toml"), 2, &["broken.toml", "line 2"]);
    assert_error(workspace.zofo("train absent.toml"), 2, &["absent.toml", "caused by: No such file", "hint: "]);
}

#[test]
fn arguments() {
    let workspace = Workspace::new();
    workspace.zofo("").code(2);
    workspace.zofo("tune").code(2);
    workspace.zofo(&format!("eval --model {MODEL}")).code(2);
    workspace.zofo(&format!("eval --model {MODEL} --task sst2 --threads 0")).code(2);
    workspace.zofo(&format!("eval --model {MODEL} --task sst2 --limit 0")).code(2);
    workspace.zofo(&format!("generate --model {MODEL} --prompt x --temperature -1")).code(2);
    workspace.zofo(&format!("generate --model {MODEL} --prompt x --top-p 0")).code(2);
}

#[test]
fn rows_of_data() {
    let workspace = Workspace::new();
    let file = workspace.path("data/sst2/train.jsonl");
    let good = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let with_third = |line: &str| {
        let mut lines = lines.clone();
        lines[2] = line;
        fs::write(&file, lines.join("\n")).unwrap();
    };
    for (line, words) in [
        (r#"{"sentence": "a film", "label": 1"#, ["train.jsonl:3: ", "not JSON"]),
        (r#"["a film", 1]"#, ["train.jsonl:3: ", "expected a JSON object"]),
        (r#"{"text": "a film", "label": 1}"#, ["train.jsonl:3: ", "sentence"]),
        (r#"{"sentence": "a film"}"#, ["train.jsonl:3: ", "label"]),
        (r#"{"sentence": "a film", "label": 2}"#, ["train.jsonl:3: ", "2"]),
        (r#"{"sentence": "a film", "label": "good"}"#, ["train.jsonl:3: ", "good"]),
        (r#"{"sentence": 7, "label": 1}"#, ["train.jsonl:3: ", "string"]),
        ("", ["train.jsonl:3: ", "empty line"]),
    ] {
        with_third(line);
        refused(&workspace, "", 3, &words);
    }
    fs::write(&file, &good).unwrap();

    let file = workspace.path("data/sst2/validation.jsonl");
    fs::write(&file, "").unwrap();
    refused(&workspace, "", 3, &["validation", "has no rows"]);
    let words = ["validation.jsonl", "has no rows"];
    assert_error(workspace.zofo(&format!("eval --model {MODEL} --task sst2")), 3, &words);
    fs::remove_file(&file).unwrap();
    refused(&workspace, "", 3, &["no data for task \"sst2\"", "validation.jsonl", "hint: "]);
}

#[test]
fn rows_of_conversations() {
    let workspace = Workspace::new();
    let file = workspace.path("talk.jsonl");
    let good = r#"{"instruction": "Add.", "output": "3"}"#;
    let eval = format!("eval --model {MODEL} --task chat --data talk.jsonl");
    for (line, words) in [
        (
            r#"{"messages": [{"role": "narrator", "content": "x"}]}"#,
            ["talk.jsonl:2: ", "`messages[0]`", "\"narrator\""],
        ),
        (r#"{"messages": [{"role": "user", "content": 5}]}"#, ["talk.jsonl:2: ", "`messages[0]`", "the number 5"]),
        (r#"{"conversations": [{"from": "human", "value": "x"}]}"#, ["talk.jsonl:2: ", "an answer", "found none"]),
        (r#"{"instruction": "Add.", "output": ""}"#, ["talk.jsonl:2: ", "an answer with text", "turn 1"]),
        (
            r#"{"prompt": "Add.", "response": "3"}"#,
            ["talk.jsonl:2: ", "`messages`, `conversations`", "prompt, response"],
        ),
    ] {
        fs::write(&file, format!("{good}\n{line}\n")).unwrap();
        assert_error(workspace.zofo(&eval), 3, &words);
        let skipped = workspace.zofo(&format!("{eval} --json --skip-bad-rows 1")).success();
        let told = stderr(&skipped);
        assert!(told.contains("1 bad rows were left out: ") && told.contains(words[0]), "{told}");
        assert_eq!(json_of(&skipped)["tasks"][0]["examples"], 1);
    }
}

#[test]
fn model_folders() {
    let workspace = Workspace::new();
    let refused = |words: &[&str]| {
        refused(&workspace, "--set model.path=model", 3, words);
        assert_error(workspace.zofo("eval --model model --task sst2"), 3, words);
    };
    refused(&["cannot open ", "model\n", "caused by: No such file"]);

    let model = workspace.copy_of_model();
    let damaged = |name: &str, damage: &dyn Fn(Vec<u8>) -> Vec<u8>, words: &[&str]| {
        let file = model.join(name);
        let good = fs::read(&file).unwrap();
        fs::write(&file, damage(good.clone())).unwrap();
        refused(words);
        fs::write(&file, good).unwrap();
    };
    let weights = "model.safetensors";
    damaged(weights, &|bytes| bytes[..bytes.len() / 2].to_vec(), &["model/model.safetensors"]);
    damaged(weights, &|_| Vec::new(), &["model/model.safetensors"]);
    let lying = |mut bytes: Vec<u8>| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    };
    damaged(weights, &lying, &["model/model.safetensors"]);
    damaged(
        weights,
        &|bytes| replaced(bytes, "model.norm.weight", "model.nurm.weight"),
        &["model.norm.weight", "missing"],
    );
    damaged(
        "config.json",
        &|bytes| replaced(bytes, "LlamaForCausalLM", "BertForMaskedLM"),
        &["model/config.json", "BertForMaskedLM", "supported: ", "LlamaForCausalLM", "Qwen3ForCausalLM"],
    );
    damaged(
        "config.json",
        &|bytes| replaced(bytes, "\"hidden_size\": 32", "\"hidden_size\": 64"),
        &["[280, 64]", "[280, 32]"],
    );
    damaged("config.json", &|_| b"{".to_vec(), &["model/config.json", "not valid JSON"]);
    damaged("tokenizer.json", &|_| b"{}".to_vec(), &["model/tokenizer.json"]);
    let larger = fs::read(MODEL.replace("tiny-gqa-tied", "tiny-mistral") + "/tokenizer.json").unwrap();
    damaged("tokenizer.json", &|_| larger.clone(), &["model/tokenizer.json", "of 320 tokens", "280 rows"]);
    damaged(
        "tokenizer.json",
        &|bytes| without_token(&bytes, "<|im_end|>"),
        &["config.json", "\"eos_token_id\" names the token 2", "model/tokenizer.json"],
    );
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let file = model.join(name);
        let good = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        refused(&[name, "missing"]);
        fs::write(&file, good).unwrap();
    }
    workspace.zofo("train config.toml --set model.path=model").success();
}

fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&bytes[..place], to.as_bytes(), &bytes[place + from.len()..]].concat()
}

/// A `tokenizer.json` that lacks a special token.
fn without_token(tokenizer: &[u8], token: &str) -> Vec<u8> {
    let mut tokenizer: Value = serde_json::from_slice(tokenizer).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().retain(|added| added["content"] != token);
    tokenizer["model"]["vocab"].as_object_mut().unwrap().remove(token);
    tokenizer.to_string().into_bytes()
}

#[test]
fn gguf_files() {
    let workspace = Workspace::new();
    let eval = |file: &str| workspace.zofo(&format!("eval --model {file} --task sst2"));
    fs::write(workspace.path("text.gguf"), "not a model").unwrap();
    assert_error(eval("text.gguf"), 3, &["text.gguf", "not a GGUF file"]);
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden/gguf-tiny");
    let mut good = fs::read_dir(good).unwrap().map(|entry| entry.unwrap().path());
    let good = good.find(|path| path.extension().is_some_and(|end| end == "gguf")).unwrap();
    let bytes = fs::read(good).unwrap();
    fs::write(workspace.path("short.gguf"), &bytes[..bytes.len() - 100]).unwrap();
    assert_error(eval("short.gguf"), 3, &["short.gguf"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let workspace = Workspace::new();
    let file = workspace.copy_of_model().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    assert_error(workspace.zofo("eval --model model --task sst2"), 3, &["sst2", "the loss is NaN"]);
    assert_error(workspace.zofo("train config.toml --set model.path=model"), 4, &["NaN"]);
}

#[test]
fn adapters() {
    let workspace = Workspace::new();
    let eval = |adapter: &str| workspace.zofo(&format!("eval --model {MODEL} --adapter {adapter} --task sst2"));
    assert_error(eval("data"), 3, &["data: adapter_config.json is missing"]);
    fs::create_dir(workspace.path("adapter")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(ADAPTER).join(name), workspace.path("adapter").join(name)).unwrap();
    }
    eval("adapter").success();
    let other = MODEL.replace("tiny-gqa-tied", "tiny-llama3-rope");
    let assert = workspace.zofo(&format!("eval --model {other} --adapter adapter --task sst2"));
    assert_error(assert, 3, &["adapter_model.safetensors", "another model"]);
    fs::write(workspace.path("adapter/adapter_model.safetensors"), "damaged").unwrap();
    assert_error(eval("adapter"), 3, &["adapter/adapter_model.safetensors"]);
}

#[test]
fn journals() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    let replay =
        |base: &str, journal: &str| workspace.zofo(&format!("replay --base {base} --journal {journal} -o rebuilt"));
    assert_error(replay(MODEL, "absent.zofo"), 3, &["absent.zofo"]);
    assert_error(replay(MODEL, "config.toml"), 3, &["config.toml is not a journal"]);
    let mut bytes = fs::read(workspace.path("run/journal.zofo")).unwrap();
    let end = bytes.len();
    bytes[end - 20] ^= 1;
    fs::write(workspace.path("damaged.zofo"), bytes).unwrap();
    assert_error(replay(MODEL, "damaged.zofo"), 3, &["record 3", "damaged.zofo", "corrupt"]);
    assert_error(workspace.zofo("journal damaged.zofo"), 3, &["record 3", "damaged.zofo", "corrupt"]);
    let other = MODEL.replace("tiny-gqa-tied", "tiny-llama3-rope");
    assert_error(replay(&other, "run/journal.zofo"), 3, &["is not the base model of the journal"]);
    assert!(!workspace.path("rebuilt").exists());
}
