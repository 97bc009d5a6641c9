//! `zofo export`: files that can be used like the model, and what is refused.

mod common;

use common::{ADAPTER, MODEL, Workspace, assert_error, json_of, stderr, stdout};
use std::fs;

/// Folders of other models and adapters.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden");

#[test]
fn an_exported_model_with_its_adapter_generates_the_same() {
    let workspace = Workspace::new();
    let command = format!("export --model {MODEL} --adapter {ADAPTER} --gguf tiny.gguf --type f32");
    let text = stdout(&workspace.zofo(&command).success());
    assert!(text.starts_with("tiny.gguf: ") && text.contains("of a llama model, matrices in f32"), "{text}");
    let generate = |model: &str| {
        let arguments = format!("generate {model} --max-new-tokens 12 --json --prompt keeper");
        json_of(&workspace.zofo(&arguments).success())["text"].as_str().unwrap().to_owned()
    };
    let merged = generate("--model tiny.gguf");
    assert_eq!(merged, generate(&format!("--model {MODEL} --adapter {ADAPTER}")));
    assert_ne!(merged, generate(&format!("--model {MODEL}")));
}

#[test]
fn every_type_is_reported() {
    let workspace = Workspace::new();
    let mut sizes = Vec::new();
    for (argument, kind, largest) in [
        ("--type f32", "f32", 1e-4),
        ("--type f16", "f16", 2e-2),
        ("--type bf16", "bf16", 1e-1),
        ("--type q8_0", "q8_0", 2e-1),
        // The model is in F32.
        ("", "f16", 2e-2),
    ] {
        let command = format!("export --model {MODEL} --gguf out.gguf --json {argument}");
        let report = json_of(&workspace.zofo(&command).success());
        assert_eq!((&report["architecture"], &report["type"]), (&"llama".into(), &kind.into()));
        assert_eq!(report["bytes"], fs::metadata(workspace.path("out.gguf")).unwrap().len());
        assert!(report["logit_error"].as_f64().unwrap() < largest, "{report}");
        assert_eq!(report["warnings"].as_array().unwrap().len(), 0, "{report}");
        sizes.push(report["bytes"].as_u64().unwrap());
    }
    assert!(sizes[0] > sizes[1] && sizes[1] == sizes[2] && sizes[2] > sizes[3] && sizes[4] == sizes[1], "{sizes:?}");
}

#[test]
fn a_gguf_file_is_exported_too() {
    let workspace = Workspace::new();
    let model = format!("{GOLDEN}/gguf-tiny/tied-llama.gguf");
    let report =
        json_of(&workspace.zofo(&format!("export --model {model} --gguf out.gguf --type f32 --json")).success());
    // What was dequantised is stored as it is.
    assert_eq!(report["logit_error"], 0.0);
}

#[test]
fn what_is_lost_is_said() {
    let workspace = Workspace::new();
    let assert = workspace.zofo(&format!("export --model {GOLDEN}/tiny-mistral/model --gguf out.gguf")).success();
    let text = stderr(&assert);
    assert!(text.contains("warning: ") && text.contains("sliding windows") && text.contains("7 tokens"), "{text}");
}

#[test]
fn what_cannot_be_exported() {
    let workspace = Workspace::new();
    fs::write(workspace.path("out.gguf"), "as before").unwrap();
    let prefix = format!("{GOLDEN}/tiny-gqa-tied/peft-prefix/adapter");
    let assert = workspace.zofo(&format!("export --model {MODEL} --adapter {prefix} --gguf out.gguf"));
    assert_error(assert, 2, &["peft-prefix", "only a LoRA can be exported"]);
    let assert = workspace.zofo(&format!("export --model {GOLDEN}/tiny-opt/model --gguf out.gguf"));
    assert_error(assert, 3, &["OPTForCausalLM", "zofo merge", "LlamaForCausalLM"]);
    assert_eq!(fs::read(workspace.path("out.gguf")).unwrap(), b"as before");
}
