//! Zeroth-order estimates of what has no gradient.

mod common;

use common::{MODEL, Workspace, assert_error, content, json_of};
use serde_json::{Value, json};
use std::fs;

/// Large enough for a tiny model to change its answers.
const METRIC: &str = "--set outer.objective=metric --set outer.eps=0.5 --set run.keep=last";

/// The steps of a run with these settings.
fn steps(workspace: &Workspace, settings: &str) -> Vec<Value> {
    workspace.zofo(&format!("train config.toml {METRIC} {settings}")).success();
    workspace.events("run").into_iter().filter(|event| event["event"] == "step").collect()
}

/// Whether a number is a share of four examples.
fn is_share_of_four(value: &Value) -> bool {
    let times_four = 4.0 * value.as_f64().unwrap();
    (0.0..=4.0).contains(&times_four) && times_four == times_four.round()
}

#[test]
fn the_share_of_wrong_choices_is_descended() {
    for settings in [
        "--set method.name=mezo",
        "--set method.name=mezo --set method.on=peft",
        "--set method.name=two-stage --set method.first_stage_steps=1",
        // Without the penalty all of the objective is that share.
        "--set method.penalty=0",
    ] {
        let workspace = Workspace::new();
        let steps = steps(&workspace, &format!("--set run.max_steps=12 {settings}"));
        let estimated: Vec<&Value> = steps.iter().filter(|step| step.get("slope").is_some()).collect();
        assert!(estimated.len() >= 11, "{settings}");
        for step in &estimated {
            let sides = [&step["objective_plus"], &step["objective_minus"]];
            assert!(sides.into_iter().all(is_share_of_four), "{settings}: {step}");
            let [plus, minus] = sides.map(|side| side.as_f64().unwrap());
            assert!((step["slope"].as_f64().unwrap() - (plus - minus)).abs() < 1e-12, "{settings}: {step}");
        }
        assert!(estimated.iter().any(|step| step["slope"] != 0.0), "{settings}: no side was better than the other");
        let evaluation = workspace.events("run").into_iter().find(|event| event["event"] == "evaluation").unwrap();
        assert!(evaluation.get("noise_floor").is_none(), "{evaluation}");
        if settings.contains("penalty") {
            assert!(steps.iter().all(|step| !is_share_of_four(&step["a"])), "a stays a loss");
        }
    }
}

#[test]
fn written_answers_are_worth_their_words() {
    // The right answers are what the untouched model writes.
    let workspace = Workspace::with_questions();
    let eval = format!("eval --model {MODEL} --task squad --data data/squad/train.jsonl --predictions out.jsonl");
    workspace.zofo(&eval).success();
    let predictions = fs::read_to_string(workspace.path("out.jsonl")).unwrap();
    let written: Vec<Value> = predictions.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    workspace.write_data("squad", |number| {
        let answer = &written[number % written.len()]["prediction"];
        json!({ "context": "It.", "question": format!("What at {number}?"), "answers": { "text": [answer] } })
    });
    let squad =
        "--set data.task=squad --set method.name=mezo --set data.eval_examples=2 --set data.validation_examples=2";
    let values = |settings: &str| -> Vec<f64> {
        let workspace = &workspace;
        let steps = steps(workspace, &format!("{squad} {settings}"));
        fs::remove_dir_all(workspace.path("run")).unwrap();
        steps
            .iter()
            .flat_map(|step| ["objective_plus", "objective_minus"].map(|key| step[key].as_f64().unwrap()))
            .collect()
    };
    // Too small a step to change a word, and one that changes all.
    let none = values("--set outer.eps=1e-6 --set outer.lr=1e-9");
    assert!(none.iter().all(|value| *value == 0.0), "{none:?}");
    let some = values("--set outer.eps=0.1");
    assert!(some.iter().any(|value| *value > 0.0) && some.iter().all(|value| (0.0..=1.0).contains(value)), "{some:?}");
}

#[test]
fn its_journal_is_that_of_any_run() {
    let workspace = Workspace::new();
    steps(&workspace, "--set method.name=mezo");
    workspace.zofo(&format!("replay --base {MODEL} --journal run/journal.zofo -o rebuilt")).success();
    assert_eq!(content(&workspace.path("rebuilt")), content(&workspace.path("run/backbone")));
}

#[test]
fn a_metric_without_an_upper_end_is_refused() {
    let workspace = Workspace::with_conversations();
    let chat = "config.toml --set model.path=model --set data.task=chat --set outer.objective=metric";
    assert_error(workspace.zofo(&format!("train {chat}")), 2, &["outer.objective", "perplexity", "\"loss\""]);
    assert!(!workspace.path("run").exists());
    // Exact gradients have no use for it.
    let plan = json_of(&workspace.zofo(&format!("plan {chat} --json --set method.name=first-order")).success());
    assert!(plan["unused_keys"].as_array().unwrap().contains(&"outer.objective".into()), "{plan}");
}
