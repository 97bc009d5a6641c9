//! `zofo train` and `zofo plan` from start to end.

mod common;

use common::{CHAT_TEMPLATE, MODEL, Workspace, assert_error, content, conversation, json_of, stderr, stdout};
use std::fs;
use std::path::Path;

#[test]
fn a_run_leaves_what_its_summary_names() {
    let workspace = Workspace::new();
    let assert = workspace.zofo("train config.toml --json --set run.keep=last").success();

    let summary = json_of(&assert);
    let names: Vec<&str> = summary["scores"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["untouched model", "(θ₀, p)", "(θ, p)", "(θ, s)"]);
    for score in summary["scores"].as_array().unwrap() {
        assert_eq!(score["examples"], 12);
        let accuracy = score["accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy) && score["loss"].as_f64().unwrap() > 0.0, "{score}");
    }
    // Every combination is another model, so no two have one loss.
    let losses: Vec<f64> =
        summary["scores"].as_array().unwrap().iter().map(|score| score["loss"].as_f64().unwrap()).collect();
    for (index, loss) in losses.iter().enumerate() {
        assert!(!losses[..index].contains(loss), "{losses:?}");
    }
    assert_eq!((&summary["steps"], &summary["kept_step"]), (&4.into(), &4.into()));

    let place = |key: &str| workspace.path(summary[key].as_str().unwrap());
    assert!(content(&place("adapter")).contains_key("adapter_config.json"));
    assert!(content(&place("adapter")).contains_key("adapter_model.safetensors"));
    let backbone = content(&place("backbone"));
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(backbone.contains_key(name), "{name}");
    }
    assert_ne!(backbone["model.safetensors"], fs::read(Path::new(MODEL).join("model.safetensors")).unwrap());
    assert!(place("journal").is_file() && place("metrics").is_file());
    let stored: serde_json::Value =
        serde_json::from_slice(&fs::read(workspace.path("run/summary.json")).unwrap()).unwrap();
    assert_eq!(stored, summary);

    let events = workspace.events("run");
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!([count("warm_start"), count("step"), count("evaluation"), count("summary")], [2, 4, 3, 1]);
    let step = events.iter().find(|event| event["event"] == "step").unwrap();
    let gap = step["b"].as_f64().unwrap() - step["c"].as_f64().unwrap();
    assert_eq!(step["gap"].as_f64().unwrap(), gap);

    let progress = stderr(&assert);
    for words in
        ["weights, stored as f32", "bilevel: T = 2", "step 1  ", "b−c ", "validation after step 4: accuracy p "]
    {
        assert!(progress.contains(words), "expected \"{words}\" in\n{progress}");
    }
}

#[test]
fn the_summary_for_people_is_a_table_and_places() {
    let workspace = Workspace::new();
    let text = stdout(&workspace.zofo("train config.toml").success());
    for words in ["accuracy", "untouched model  ", "(θ₀, p)", "(θ, p)", "(θ, s)", "run/adapter\n", "run/backbone\n"]
    {
        assert!(text.contains(words), "expected \"{words}\" in\n{text}");
    }
    assert!(text.contains(" of 4: the best on the validation part; adapter p\n"), "{text}");
}

#[test]
fn the_resolved_configuration_describes_the_run_and_can_be_used_again() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml --set outer.lr=3e-5").success();
    let text = fs::read_to_string(workspace.path("run/config.toml")).unwrap();
    assert!(text.contains("lr = 0.00003") && text.contains("penalty = 10000.0"), "{text}");
    workspace.zofo("train run/config.toml --set run.output=again").success();
    assert_eq!(content(&workspace.path("run/backbone")), content(&workspace.path("again/backbone")));
}

#[test]
fn threads_do_not_change_a_byte() {
    let [one, two] = ["1", "2"].map(|threads| {
        let workspace = Workspace::new();
        workspace.zofo(&format!("train config.toml --threads {threads}")).success();
        workspace.results()
    });
    one.assert_equal(&two, "1 and 2 threads");
}

#[test]
fn what_trades_memory_changes_no_byte() {
    let of = |settings: &str| {
        let workspace = Workspace::new();
        workspace.zofo(&format!("train config.toml --set outer.directions=3 {settings}")).success();
        workspace.results()
    };
    let plain = of("");
    for settings in ["outer.directions_at_once=2", "outer.directions_at_once=9", "model.storage=disk"] {
        of(&format!("--set {settings}")).assert_equal(&plain, settings);
    }
    let one_sided = "--set outer.sides=1";
    of(&format!("{one_sided} --set outer.directions_at_once=2")).assert_equal(&of(one_sided), "one side");
}

#[test]
fn the_seed_changes_the_run() {
    let [one, two] = ["1", "2"].map(|seed| {
        let workspace = Workspace::new();
        workspace.zofo(&format!("train config.toml --set run.seed={seed} --set run.keep=last")).success();
        content(&workspace.path("run/backbone"))
    });
    assert_ne!(one["model.safetensors"], two["model.safetensors"]);
}

#[test]
fn a_finished_run_stays_as_it_is() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    let results = workspace.results();
    let files = content(&workspace.path("run"));
    let assert = workspace.zofo("train --resume run").success().stdout("");
    assert!(stderr(&assert).contains("the run in run is finished"), "{}", stderr(&assert));
    workspace.results().assert_equal(&results, "a finished run was resumed");
    assert_eq!(content(&workspace.path("run")), files);
}

#[test]
fn a_folder_with_something_in_it_is_not_written_to() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    let results = workspace.results();
    assert_error(workspace.zofo("train config.toml"), 2, &["`run`", "holds another run", "--resume"]);
    workspace.results().assert_equal(&results, "a second run was refused");

    fs::create_dir(workspace.path("thesis")).unwrap();
    fs::write(workspace.path("thesis/thesis.tex"), "text").unwrap();
    assert_error(workspace.zofo("train config.toml --set run.output=thesis"), 2, &["`thesis` is not empty"]);
    assert_eq!(content(&workspace.path("thesis")).len(), 1);
}

#[test]
fn only_the_folder_of_a_run_is_resumed() {
    let workspace = Workspace::new();
    assert_error(workspace.zofo("train --resume data"), 2, &["`data` holds no run", "config.toml"]);
    workspace.zofo("train --resume run --set run.seed=1").code(2);
    workspace.zofo("train config.toml --resume run").code(2);
    workspace.zofo("train").code(2);
}

#[test]
fn numbers_that_are_not_finite_end_the_run_with_advice() {
    for (settings, words) in [
        ("inner.lr=1e38", ["inner step 2 of the warm start: ", "inner.lr"]),
        // A warm start of one step makes p and s huge and nobody asks for the loss, until they are evaluated.
        ("inner.lr=1e38 --set method.warm_start=1", ["validation after step 0: the loss F(θ,p)", "inner.lr"]),
    ] {
        let workspace = Workspace::new();
        let assert = workspace.zofo(&format!("train config.toml --set {settings}"));
        assert_error(assert, 4, &[words[0], words[1], "is saved in `run`", "hint: "]);
        assert!(!workspace.path("run/backbone").exists());
        // Nothing has changed, so it ends in the same way.
        assert_error(workspace.zofo("train --resume run"), 4, &words);
    }
}

#[test]
fn a_run_that_diverges_leaves_the_results_of_its_best_step() {
    let workspace = Workspace::new();
    let huge = "--set outer.adapter_optimizer=sgd --set outer.adapter_lr=1e38";
    let words = ["step 1: ", "`outer.adapter_lr`", "results of step 0", "in `run`"];
    assert_error(workspace.zofo(&format!("train config.toml {huge}")), 4, &words);
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(workspace.path("run/summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["steps"], &summary["kept_step"]), (&0.into(), &0.into()));
    assert!(summary["diverged"].as_str().unwrap().starts_with("step 1: "), "{summary}");
    let results = workspace.results();
    assert!(!results.file("adapter/adapter_model.safetensors").is_empty());
    // It is not finished: it can be tried again, and comes to the same end.
    assert_error(workspace.zofo("train --resume run"), 4, &words);
    workspace.results().assert_equal(&results, "a diverged run was resumed");
}

#[test]
fn a_limit_in_minutes_holds_for_the_warm_start() {
    let workspace = Workspace::new();
    let limits = "--set method.warm_start=1000000 --set run.max_minutes=0.005";
    let summary = json_of(&workspace.zofo(&format!("train config.toml --json {limits}")).success());
    assert_eq!(summary["steps"], 0);
    assert!(summary["training_seconds"].as_f64().unwrap() >= 0.3, "{summary}");
    // p is s: what the warm start has trained is kept.
    let scores = summary["scores"].as_array().unwrap();
    assert_eq!(scores[2]["loss"], scores[3]["loss"]);
    assert_ne!(scores[0]["loss"], scores[2]["loss"]);
}

#[test]
fn a_plan_is_shown_and_nothing_is_written() {
    let workspace = Workspace::new();
    let plan = json_of(&workspace.zofo("plan config.toml --json --set outer.adapter_optimizer=adam").success());
    // T inner passes; a and b for p; a, b and c at both signs.
    assert_eq!((&plan["forward_passes"], &plan["backward_passes"]), (&10.into(), &4.into()));
    assert_eq!(plan["backbone_parameters"], 34_528);
    // Rank 2 on q [32, 32] and v [16, 32] of three blocks.
    assert_eq!(plan["adapter_parameters"], 3 * 2 * ((32 + 32) + (16 + 32)));
    assert_eq!(plan["examples"], serde_json::json!([13, 27, 12, 12]));
    assert!(plan["seconds_per_step"].as_f64().unwrap() > 0.0);
    let text = stdout(&workspace.zofo("plan config.toml").success());
    assert!(text.contains("per step    10 forward and 4 backward passes"), "{text}");
    assert!(!workspace.path("run").exists());
}

#[test]
fn the_loss_is_what_the_configuration_says() {
    let workspace = Workspace::new();
    let first = |loss: &str| {
        workspace.zofo(&format!("train config.toml --set method.loss={loss} --set run.output={loss}")).success();
        let events = workspace.events(loss);
        let step = events.iter().find(|event| event["event"] == "step").unwrap().clone();
        assert!(events.iter().any(|event| event["event"] == "summary"));
        step["a"].as_f64().unwrap()
    };
    let [answer, all, candidates] = ["answer", "all", "candidates"].map(first);
    // A coin's loss over two candidates is ln 2; a token's, over a vocabulary of 280, is much more.
    assert!(candidates < 2.0 && answer > 2.0 && all > 2.0 && all != answer, "{answer} {all} {candidates}");
}

/// What it takes for s to learn one answer by heart.
const LEARN: &str = "--set method.warm_start=200 --set inner.lr=0.02 --set method.keep=s --set peft.targets=all-linear \
                     --set peft.rank=8";

#[test]
fn written_answers_are_trained_and_judged_by_their_words() {
    let workspace = Workspace::with_questions();
    let train = "train config.toml --json --set data.task=squad";
    let summary = json_of(&workspace.zofo(&format!("{train} {LEARN}")).success());
    let scores = summary["scores"].as_array().unwrap();
    assert!(scores.iter().all(|score| score.get("accuracy").is_none() && score["loss"].is_number()), "{summary}");
    // Nothing of the answer before, all of it after.
    assert_eq!((&scores[0]["f1"], &scores[3]["f1"]), (&0.0.into(), &1.0.into()), "{summary}");
    let evaluations: Vec<_> =
        workspace.events("run").into_iter().filter(|event| event["event"] == "evaluation").collect();
    assert_eq!(evaluations.len(), 3);
    for evaluation in &evaluations {
        assert!(evaluation["p"]["f1"].is_number() && evaluation["p"].get("accuracy").is_none(), "{evaluation}");
    }
    // The first of the steps whose words are all right is kept, unless a later one has a lower loss.
    let best = evaluations.iter().rfind(|evaluation| evaluation["best"] == true).unwrap();
    assert_eq!((&best["s"]["f1"], &best["step"]), (&1.0.into(), &summary["kept_step"]));

    let all = workspace.zofo("train config.toml --set data.task=squad --set run.output=all --set method.loss=all");
    assert!(stdout(&all.success()).contains("         f1 "), "the measure heads its column");
    let refused =
        workspace.zofo("train config.toml --set data.task=squad --set run.output=c --set method.loss=candidates");
    assert_error(refused, 2, &["task \"squad\" is of kind \"generation\"", "method.loss = \"candidates\""]);
    assert!(!workspace.path("c").exists());
}

/// 40 conversations, a row each.
fn conversations() -> String {
    (0..40).map(|number| format!("{}\n", conversation(number))).collect()
}

#[test]
fn conversations_train_and_the_assistants_words_become_likely() {
    let workspace = Workspace::new();
    let model = workspace.copy_of_model();
    fs::write(model.join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
    fs::write(workspace.path("talk.jsonl"), conversations()).unwrap();
    let settings = "--set model.path=model --set data.task=chat --set data.train=talk.jsonl --set data.train_examples=24 \
                    --set data.validation_examples=8";
    // The data are the one file, not a folder.
    let config = fs::read_to_string(workspace.path("config.toml")).unwrap().replace("dir = \"data\"", "");
    fs::write(workspace.path("config.toml"), config).unwrap();
    let assert = workspace.zofo(&format!("train config.toml --json {settings} {LEARN}")).success();
    let summary = json_of(&assert);
    let scores = summary["scores"].as_array().unwrap();
    for score in scores {
        let (perplexity, loss) = (score["perplexity"].as_f64().unwrap(), score["loss"].as_f64().unwrap());
        assert!((perplexity - loss.exp()).abs() < 1e-9 * perplexity, "{score}");
    }
    let perplexity = |index: usize| scores[index]["perplexity"].as_f64().unwrap();
    assert!(perplexity(0) > 50.0 && perplexity(3) < 1.2, "{summary}");
    assert!(stderr(&assert).contains("validation after step 4: perplexity p "), "{}", stderr(&assert));
    // Lower is better.
    let evaluations = workspace.events("run").into_iter().filter(|event| event["event"] == "evaluation");
    let of_s: Vec<(f64, u64)> = evaluations
        .map(|event| (event["s"]["perplexity"].as_f64().unwrap(), event["step"].as_u64().unwrap()))
        .collect();
    let best = of_s.iter().min_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
    assert_eq!(summary["kept_step"], best.1);

    // What training reports, eval reports.
    let eval = "eval --model run/backbone --adapter run/adapter --task chat --data talk.jsonl --json";
    let report = json_of(&workspace.zofo(&format!("{eval} --predictions out.jsonl")).success());
    let task = &report["tasks"][0];
    assert_eq!((&task["metric"], &task["examples"]), (&"perplexity".into(), &40.into()));
    let value = task["measures"]["perplexity"]["value"].as_f64().unwrap();
    assert!((value - task["loss"].as_f64().unwrap().exp()).abs() < 1e-9 * value && value < 1.2, "{report}");
    let predictions = fs::read_to_string(workspace.path("out.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(predictions.lines().next().unwrap()).unwrap();
    assert!(first["tokens"].as_u64().unwrap() > 4 && first["loss"].as_f64().unwrap() < 0.5, "{first}");
    let last = json_of(&workspace.zofo(&format!("{eval} --template last")).success());
    assert_ne!(last["tasks"][0]["loss"], task["loss"]);

    assert_error(workspace.zofo(&format!("{eval} --shots 1")), 2, &["a conversation has none"]);
    let candidates =
        workspace.zofo(&format!("train config.toml {settings} --set run.output=c --set method.loss=candidates"));
    assert_error(candidates, 2, &["task \"chat\" is of kind \"chat\"", "method.loss = \"candidates\""]);
}

#[test]
fn a_model_without_a_chat_template_reads_alpaca_rows_only() {
    let workspace = Workspace::new();
    fs::write(workspace.path("talk.jsonl"), conversations()).unwrap();
    let eval = format!("eval --model {MODEL} --task chat --json --data");
    let refused = workspace.zofo(&format!("{eval} talk.jsonl"));
    assert_error(refused, 3, &["talk.jsonl:1: ", "has no chat template", "chat_template.jinja", "`instruction`"]);
    let row = serde_json::json!({ "instruction": "Add.", "input": "1 + 2", "output": "3" });
    fs::write(workspace.path("alpaca.jsonl"), format!("{row}\n")).unwrap();
    fs::write(workspace.path("alpaca.csv"), "instruction,input,output\nAdd.,1 + 2,3\n").unwrap();
    // Its prompt is longer than this model's context.
    let model = workspace.copy_of_model().join("config.json");
    let config = fs::read_to_string(&model)
        .unwrap()
        .replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 512");
    fs::write(&model, config).unwrap();
    let eval = "eval --model model --task chat --json --data";
    let loss = |file: &str| json_of(&workspace.zofo(&format!("{eval} {file}")).success())["tasks"][0]["loss"].clone();
    assert_eq!(loss("alpaca.jsonl --template alpaca"), loss("alpaca.jsonl"));
    assert_eq!(loss("alpaca.csv"), loss("alpaca.jsonl"));
    let refused = workspace.zofo(&format!("{eval} talk.jsonl --template alpaca"));
    assert_error(refused, 3, &["talk.jsonl:1: template \"alpaca\" is for rows with `instruction`"]);
    assert_error(workspace.zofo(&format!("{eval} alpaca.csv --template none")), 2, &["it has: prompt, last, alpaca"]);
}

#[test]
fn sequences_are_as_long_as_is_asked_for_at_most() {
    let workspace = Workspace::new();
    let plan = |length: usize| {
        json_of(&workspace.zofo(&format!("plan config.toml --json --set data.max_length={length}")).success())
    };
    let [whole, cut] = [1000, 40].map(plan);
    // More than the model can read is not made possible.
    assert!(whole["truncation"].as_str().unwrap().contains("context of 128 tokens"), "{whole}");
    let told = cut["truncation"].as_str().unwrap();
    assert!(told.contains("60 of 64 examples do not fit into the context of 40 tokens"), "{told}");
    assert!(cut["peak_memory"].as_u64() < whole["peak_memory"].as_u64(), "{cut}");
    assert_error(workspace.zofo("plan config.toml --set data.max_length=2"), 3, &["does not fit into a context of 2"]);
}

#[test]
fn long_conversations_lose_their_end_and_those_without_an_answer_left_are_not_used() {
    let workspace = Workspace::new();
    let model = workspace.copy_of_model();
    fs::write(model.join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
    let row = |question: &str, answer: &str| {
        let turns = [("human", question), ("gpt", answer)]
            .map(|(from, value)| serde_json::json!({ "from": from, "value": value }));
        format!("{}\n", serde_json::json!({ "conversations": turns }))
    };
    let long = "a b ".repeat(80);
    // The context is 128 tokens.
    let rows = [row("Hi", "Ho"), row("Hi", &long), row(&long, "Ho")];
    fs::write(workspace.path("talk.jsonl"), rows.concat()).unwrap();
    let assert = workspace.zofo("eval --model model --task chat --data talk.jsonl --json").success();
    let told = stderr(&assert);
    for words in
        ["2 of 3 examples do not fit", "the end of these conversations was cut", "1 of them, without an answer"]
    {
        assert!(told.contains(words), "expected \"{words}\" in\n{told}");
    }
    assert_eq!(
        (&json_of(&assert)["tasks"][0]["examples"], &json_of(&assert)["tasks"][0]["truncated"]),
        (&2.into(), &2.into())
    );
    fs::write(workspace.path("talk.jsonl"), &rows[2]).unwrap();
    let refused = workspace.zofo("eval --model model --task chat --data talk.jsonl");
    assert_error(refused, 3, &["none of 1 conversations", "context of 128 tokens"]);
}
