//! PEFT blocks of every kind: trained, written, and used again.

mod common;

use common::{MODEL, Workspace, assert_error, json_of, stdout};
use serde_json::Value;
use std::fs;

/// Keys and values of an adapter's configuration.
type Written = &'static [(&'static str, &'static str)];

/// What is set for a run, and what its adapter's configuration then says.
const BLOCKS: &[(&[&str], Written)] = &[
    (&["peft.dropout=0.1", "peft.rank_stabilized=true"], &[("peft_type", "\"LORA\""), ("lora_dropout", "0.1")]),
    (
        &["peft.targets=all-linear", "peft.layers=[1]", "peft.rank_pattern={ k_proj = 3 }"],
        &[("rank_pattern", "{\"k_proj\":3}"), ("r", "2")],
    ),
    (&["peft.kind=prefix"], &[("peft_type", "\"PREFIX_TUNING\""), ("num_virtual_tokens", "5")]),
    (&["peft.kind=prefix", "peft.init_text=It was", "peft.virtual_tokens=3"], &[("num_virtual_tokens", "3")]),
    (&["peft.kind=prefix", "peft.init=projection", "peft.projection_hidden=6"], &[("prefix_projection", "false")]),
    (&["peft.kind=prefix", "peft.init=random"], &[("num_transformer_submodules", "1")]),
    (&["peft.kind=prompt"], &[("peft_type", "\"PROMPT_TUNING\""), ("num_virtual_tokens", "10")]),
    (&["peft.kind=prompt", "peft.init_text=It was", "peft.shadow_init=independent"], &[("token_dim", "32")]),
    (&["peft.kind=prompt", "peft.init=random"], &[("prompt_tuning_init", "\"RANDOM\"")]),
];

/// The arguments of a run with these settings.
fn train<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    ["train", "config.toml", "--json", "--set", "run.keep=last"].into_iter().chain(settings).collect()
}

#[test]
fn every_block_trains_and_eval_agrees_with_the_run_that_made_it() {
    for (settings, expected) in BLOCKS {
        let workspace = Workspace::new();
        let summary = json_of(&workspace.zofo_with(train(settings)).success());
        let eval = |more: &str| {
            let assert = workspace.zofo(&format!("eval --task sst2 --json {more}")).success();
            json_of(&assert)["tasks"][0]["loss"].clone()
        };
        let scores = &summary["scores"];
        assert_eq!(eval(&format!("--model {MODEL} --adapter run/adapter")), scores[1]["loss"], "{settings:?}");
        assert_eq!(eval("--model run/backbone --adapter run/adapter"), scores[2]["loss"], "{settings:?}");
        assert_ne!(scores[2]["loss"], scores[3]["loss"], "{settings:?}: p and s are the same");

        let config = fs::read(workspace.path("run/adapter/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        for (key, value) in *expected {
            assert_eq!(config[*key].to_string(), *value, "{settings:?}: {key}");
        }
    }
}

#[test]
fn text_continues_after_virtual_tokens() {
    let workspace = Workspace::new();
    let generate = |more: &str| {
        let command = format!("generate --model {MODEL} --prompt It --max-new-tokens 8 {more}");
        stdout(&workspace.zofo(&command).success())
    };
    let plain = generate("");
    for kind in ["prefix", "prompt"] {
        let [kind_is, output] = [format!("peft.kind={kind}"), format!("run.output={kind}")];
        workspace.zofo_with(train(&[&kind_is, "peft.init=random", &output])).success();
        assert_ne!(generate(&format!("--adapter {kind}/adapter")), plain, "{kind}");
    }
    // 5 of the model's 128 positions are those of the prefix; the last new token is not fed, and needs none.
    let long = |tokens: usize| {
        workspace
            .zofo(&format!("generate --model {MODEL} --prompt It --max-new-tokens {tokens} --adapter prefix/adapter"))
    };
    let prompt_tokens =
        json_of(&workspace.zofo(&format!("generate --model {MODEL} --prompt It --max-new-tokens 1 --json")));
    let left = 128 - 5 + 1 - prompt_tokens["prompt_tokens"].as_u64().unwrap() as usize;
    long(left).success();
    let most = format!("at most {left} with --max-new-tokens");
    assert_error(long(left + 1), 2, &["128 tokens", "virtual tokens take 5 and leave 123", &most]);
}

#[test]
fn settings_that_do_not_fit_the_model_are_found_before_anything_is_written() {
    let workspace = Workspace::new();
    for (settings, words) in [
        (&["peft.targets=[\"c_attn\"]"][..], &["`c_attn`", "q_proj"][..]),
        (&["peft.targets=q_proj"], &["`q_proj`", "write a list"]),
        (&["peft.targets=.*("], &["`peft.targets`", "regular expression"]),
        (&["peft.layers=[7]"], &["`peft.layers`", "block 7"]),
        (&["peft.exclude=.*"], &["leaves no linear layer"]),
        (&["peft.kind=prefix", "peft.virtual_tokens=128"], &["`peft.virtual_tokens` = 128", "128 positions"]),
        (&["peft.kind=prompt", "peft.init=activations"], &["`peft.init`", "\"tokens\""]),
    ] {
        assert_error(workspace.zofo_with(train(settings)), 2, words);
        assert!(!workspace.path("run").exists(), "{settings:?}");
    }
}
