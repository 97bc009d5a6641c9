use std::{fs, path::PathBuf};

use half::bf16;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::super::test_model::{TestTensor, TestTensors, assert_says, message, safetensors_bytes};
use super::super::PeftAdapter;
use super::*;

const Q: &str = "model.layers.0.self_attn.q_proj";
const V: &str = "model.layers.1.self_attn.v_proj";

fn matrix(shape: [usize; 2], first: f32) -> AdapterMatrix {
    let values = (0..shape[0] * shape[1]).map(|index| first + index as f32 / 16.0);
    AdapterMatrix { shape, values: values.collect() }
}

/// An adapter of rank 2.
fn lora() -> PeftLora {
    let pair = |module: &str, out, first| LoraPair {
        module: module.to_owned(),
        a: matrix([2, 8], first),
        b: matrix([out, 2], first + 100.0),
    };
    PeftLora {
        r: 2,
        lora_alpha: 6.0,
        use_rslora: false,
        lora_dropout: 0.0,
        fan_in_fan_out: false,
        rank_pattern: Patterns::default(),
        alpha_pattern: Patterns::default(),
        target_modules: vec!["q_proj".to_owned(), "v_proj".to_owned()],
        tensors: vec![pair(Q, 8, 1.0), pair(V, 4, -1.0)],
        base_model_name_or_path: Some("../model".to_owned()),
    }
}

fn written(lora: &PeftLora) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    lora.write(&dir).unwrap();
    (root, dir)
}

fn read(dir: &Path) -> Result<PeftLora, HfError> {
    match PeftAdapter::read(dir)? {
        PeftAdapter::Lora(lora) => Ok(lora),
        other => panic!("{other:?} is no LoRA"),
    }
}

/// Reads an adapter after a change to its configuration.
fn with_config(changes: Value) -> Result<PeftLora, HfError> {
    let (_root, dir) = written(&lora());
    let path = dir.join(CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&path, config.to_string()).unwrap();
    read(&dir)
}

/// Reads an adapter after a change to its tensors.
fn with_tensors(change: impl FnOnce(&mut TestTensors)) -> Result<PeftLora, HfError> {
    let (_root, dir) = written(&lora());
    let mut tensors = TestTensors::new();
    for pair in lora().tensors {
        for (matrix, ending) in [(pair.a, A), (pair.b, B)] {
            let tensor = TestTensor::f32(&matrix.shape, &matrix.values);
            tensors.insert(format!("{PREFIX}{}{ending}", pair.module), tensor);
        }
    }
    change(&mut tensors);
    fs::write(dir.join(WEIGHTS), safetensors_bytes(&tensors)).unwrap();
    read(&dir)
}

#[test]
fn what_is_written_is_read() {
    let mut lora = lora();
    let (_root, dir) = written(&lora);
    assert_eq!(read(&dir).unwrap(), lora);

    lora.use_rslora = true;
    lora.lora_alpha = 4.5;
    lora.lora_dropout = 0.25;
    lora.fan_in_fan_out = true;
    lora.rank_pattern = Patterns::new(vec![("v_proj".to_owned(), 3)]);
    lora.alpha_pattern = Patterns::new(vec![("layers.1.*".to_owned(), 2.5), ("q_proj".to_owned(), 7.0)]);
    lora.tensors[1] = LoraPair { module: V.to_owned(), a: matrix([3, 8], 0.5), b: matrix([4, 3], 0.25) };
    lora.base_model_name_or_path = None;
    lora.write(&dir).unwrap();
    assert_eq!(read(&dir).unwrap(), lora);
}

#[test]
fn the_configuration_is_that_of_peft() {
    let (_root, dir) = written(&lora());
    let config: Value = serde_json::from_slice(&fs::read(dir.join(CONFIG)).unwrap()).unwrap();
    for (key, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("r", json!(2)),
        ("lora_alpha", json!(6)),
        ("target_modules", json!(["q_proj", "v_proj"])),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("inference_mode", json!(true)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
}

#[test]
fn values_in_other_types() {
    let read = with_tensors(|tensors| {
        for tensor in tensors.values_mut() {
            let values: Vec<bf16> =
                bytemuck::cast_slice(&tensor.bytes).iter().map(|&value: &f32| bf16::from_f32(value)).collect();
            tensor.dtype = Dtype::BF16;
            tensor.bytes = bytemuck::cast_slice(&values).to_owned();
        }
    })
    .unwrap();
    let expected = lora().tensors[0].a.values.clone();
    let expected = expected.iter().map(|&value| bf16::from_f32(value).to_f32());
    assert_eq!(read.tensors[0].a.values, expected.collect::<Vec<_>>());
}

#[test]
fn targets_that_are_not_a_list() {
    let paths = [Q.to_owned(), V.to_owned()];
    for changes in [
        json!({ "target_modules": "all-linear" }),
        json!({ "target_modules": ".*\\.(0\\.self_attn\\.q_proj|1\\.self_attn\\.v_proj)" }),
        json!({ "target_modules": null }),
        json!({ "layers_to_transform": 0 }),
        json!({ "layers_to_transform": [0, 1] }),
        json!({ "exclude_modules": "lm_head" }),
    ] {
        assert_eq!(with_config(changes.clone()).unwrap().target_modules, paths, "{changes}");
    }
    let kept = with_config(json!({ "target_modules": ["q_proj", "v_proj", "k_proj"] })).unwrap();
    assert_eq!(kept.target_modules, ["q_proj", "v_proj", "k_proj"]);
    let whole = with_config(json!({ "target_modules": paths })).unwrap();
    assert_eq!(whole.target_modules, paths);

    for (targets, module) in [(json!(["q_proj"]), V), (json!(["_proj"]), Q), (json!([]), Q)] {
        let text = message(with_config(json!({ "target_modules": targets })));
        assert_says(&text, &[WEIGHTS, module, "target_modules"]);
    }
    let text = message(with_config(json!({ "target_modules": [1] })));
    assert_says(&text, &[CONFIG, "\"target_modules\"", "a list of strings"]);
}

#[test]
fn kinds_of_adapters_that_are_not_supported() {
    for (key, value, supported) in [
        ("peft_type", json!("IA3"), "\"LORA\", \"PREFIX_TUNING\", \"PROMPT_TUNING\""),
        ("peft_type", json!("LOHA"), "\"LORA\", \"PREFIX_TUNING\", \"PROMPT_TUNING\""),
        ("task_type", json!("SEQ_CLS"), "\"CAUSAL_LM\""),
        ("bias", json!("all"), "\"none\""),
        ("use_dora", json!(true), "plain LoRA"),
        ("modules_to_save", json!(["lm_head"]), "plain LoRA"),
        ("layer_replication", json!([[0, 1]]), "plain LoRA"),
        ("init_lora_weights", json!("pissa"), "gaussian"),
    ] {
        let text = message(with_config(json!({ key: value })));
        let found = format!("key \"{key}\" is {value}");
        assert_says(&text, &[CONFIG, &found, "not supported", supported]);
    }
    with_config(json!({ "init_lora_weights": "gaussian", "modules_to_save": [], "task_type": null })).unwrap();
}

#[test]
fn configurations_that_are_wrong() {
    for (changes, key) in [
        (json!({ "r": 0 }), "\"r\""),
        (json!({ "r": null }), "\"r\""),
        (json!({ "lora_alpha": -1 }), "\"lora_alpha\""),
        (json!({ "peft_type": null }), "\"peft_type\""),
        (json!({ "use_rslora": "yes" }), "\"use_rslora\""),
        (json!({ "lora_dropout": 1.0 }), "\"lora_dropout\""),
        (json!({ "fan_in_fan_out": 1 }), "\"fan_in_fan_out\""),
        (json!({ "rank_pattern": ["q_proj"] }), "\"rank_pattern\""),
        (json!({ "rank_pattern": { "q_proj": 0 } }), "\"rank_pattern.q_proj\""),
        (json!({ "alpha_pattern": { "q_proj": null } }), "\"alpha_pattern.q_proj\""),
        (json!({ "alpha_pattern": { "q_proj(": 4 } }), "`q_proj(`"),
        (json!({ "base_model_name_or_path": 7 }), "\"base_model_name_or_path\""),
    ] {
        assert_says(&message(with_config(changes)), &[CONFIG, key, "expected"]);
    }
}

#[test]
fn files_that_are_missing() {
    for file in [CONFIG, WEIGHTS] {
        let (_root, dir) = written(&lora());
        fs::remove_file(dir.join(file)).unwrap();
        let missing = format!("{file} is missing");
        assert_says(&message(read(&dir)), &[&missing, "save_pretrained"]);
    }
}

#[test]
fn tensors_that_are_wrong() {
    let name = |module: &str, ending: &str| format!("{PREFIX}{module}{ending}");
    for ending in [A, B] {
        let missing = name(Q, ending);
        let text = message(with_tensors(|tensors| drop(tensors.remove(&missing))));
        assert_says(&text, &[WEIGHTS, "missing", &missing]);
    }
    for extra in [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        let text = message(with_tensors(|tensors| {
            tensors.insert(extra.to_owned(), TestTensor::counting(&[2, 8], 0.0));
        }));
        assert_says(&text, &[WEIGHTS, extra, "not supported", "MODULE.lora_A.weight"]);
    }
    for (ending, shape, expected) in
        [(A, &[4, 4][..], "expected [2, 4]"), (B, &[4, 4], "expected [4, 2]"), (A, &[16], "a matrix")]
    {
        let changed = name(Q, ending);
        let text = message(with_tensors(|tensors| {
            tensors.insert(changed.clone(), TestTensor::counting(shape, 0.0));
        }));
        assert_says(&text, &[WEIGHTS, &changed, expected, &format!("found {shape:?}")]);
    }
    let text = message(with_tensors(TestTensors::clear));
    assert_says(&text, &[WEIGHTS, "lora_A", "none"]);
    let text = message(with_config(json!({ "r": 3 })));
    assert_says(&text, &[WEIGHTS, "expected [3, 8], by the r of adapter_config.json", "found [2, 8]"]);
    let text = message(with_config(json!({ "rank_pattern": { "0.self_attn.q_proj": 3 } })));
    assert_says(&text, &[Q, "expected [3, 8], by the rank_pattern of adapter_config.json", "found [2, 8]"]);
}

#[test]
fn what_contradicts_itself_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    let refused = |change: &dyn Fn(&mut PeftLora), parts: &[&str]| {
        let mut lora = lora();
        change(&mut lora);
        assert_says(&message(lora.write(&dir)), parts);
        assert!(!dir.exists());
    };
    refused(&|lora| lora.r = 4, &["[4, 8]", "found [2, 8]"]);
    refused(&|lora| lora.tensors[0].b.values.truncate(15), &["one of 15 values", "found [8, 2]"]);
    refused(&|lora| lora.tensors[1] = lora.tensors[0].clone(), &[Q, "one pair"]);
    refused(&|lora| lora.tensors.clear(), &["none"]);
    refused(&|lora| drop(lora.target_modules.pop()), &[V, "target_modules"]);
}

#[test]
fn other_files_are_not_replaced() {
    let (_root, dir) = written(&lora());
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    let mut other = lora();
    other.lora_alpha = 1.0;
    assert_says(&message(other.write(&dir)), &["cannot replace", "\"notes.txt\""]);
    assert_eq!(read(&dir).unwrap(), lora());
}
