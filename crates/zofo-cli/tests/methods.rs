//! Every method of `zofo train` from start to end.

mod common;

use common::{MODEL, Workspace, assert_error, content, json_of, stderr, stdout};
use std::path::{Path, PathBuf};
use zofo::run::config::Config;

/// Trains with these settings; returns the summary.
fn train(workspace: &Workspace, settings: &str) -> serde_json::Value {
    json_of(&workspace.zofo(&format!("train config.toml --json --set run.keep=last {settings}")).success())
}

fn names_of_scores(summary: &serde_json::Value) -> Vec<&str> {
    summary["scores"].as_array().unwrap().iter().map(|score| score["name"].as_str().unwrap()).collect()
}

#[test]
fn a_method_leaves_what_it_trains() {
    let cases: [(&str, &[&str], bool, bool); 8] = [
        ("method.name=bilevel", &["(θ₀, p)", "(θ, p)", "(θ, s)"], true, true),
        ("method.name=mezo", &["θ"], false, true),
        ("method.name=mezo --set method.on=peft", &["(θ₀, p)"], true, false),
        ("method.name=first-order", &["(θ₀, p)"], true, false),
        ("method.name=two-stage --set method.first_stage_steps=2", &["(θ₀, p)", "(θ, p)"], true, true),
        ("method.name=full", &["θ"], false, true),
        ("method.name=zero-shot", &[], false, false),
        ("method.name=icl --set data.shots=3", &[], false, false),
    ];
    let base = std::fs::read(Path::new(MODEL).join("model.safetensors")).unwrap();
    for (settings, scores, adapter, backbone) in cases {
        let workspace = Workspace::new();
        let summary = train(&workspace, &format!("--set {settings}"));
        assert_eq!(names_of_scores(&summary), [&["untouched model"], scores].concat(), "{settings}");
        let steps = if settings.contains("zero") || settings.contains("icl") { 0 } else { 4 };
        assert_eq!(summary["steps"], steps, "{settings}");
        for (key, expected) in [("adapter", adapter), ("backbone", backbone)] {
            assert_eq!(summary.get(key).is_some(), expected, "{settings}: {key}");
            assert_eq!(workspace.path("run").join(key).exists(), expected, "{settings}: {key}");
        }
        if backbone {
            assert_ne!(content(&workspace.path("run/backbone"))["model.safetensors"], base, "{settings}");
        }
        // No two combinations are one model.
        let mut losses: Vec<f64> =
            summary["scores"].as_array().unwrap().iter().map(|score| score["loss"].as_f64().unwrap()).collect();
        losses.sort_by(f64::total_cmp);
        losses.dedup();
        assert_eq!(losses.len(), scores.len() + 1, "{settings}: {losses:?}");
        let events = workspace.events("run");
        let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
        assert_eq!(of("step"), steps, "{settings}");
        let evaluation = events.iter().find(|event| event["event"] == "evaluation").unwrap();
        assert_eq!(evaluation.get("p").is_some(), adapter, "{settings}");
        assert_eq!(evaluation.get("backbone").is_some(), !adapter, "{settings}");
        let estimates = settings.contains("bilevel") || settings.contains("mezo") || settings.contains("two-stage");
        assert_eq!(evaluation.get("noise_floor").is_some(), estimates, "{settings}");
        // What is finished stays finished.
        workspace.zofo("train --resume run").success().stdout("");
    }
}

#[test]
fn an_adapter_without_a_backbone_belongs_to_the_model_that_it_was_trained_on() {
    let workspace = Workspace::new();
    train(&workspace, "--set method.name=first-order");
    let config = std::fs::read_to_string(workspace.path("run/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let base = Path::new(config["base_model_name_or_path"].as_str().unwrap()).canonicalize().unwrap();
    assert_eq!(base, Path::new(MODEL).canonicalize().unwrap());
}

#[test]
fn the_course_of_inner_steps_is_told() {
    let cosines = |settings: &str| -> Vec<Option<f64>> {
        let workspace = Workspace::new();
        train(&workspace, settings);
        let events = workspace.events("run").into_iter().filter(|event| event["event"] == "step");
        events.map(|event| event["inner_cosine"].as_f64()).collect()
    };
    // SGD with one batch again and again goes on in nearly the same direction; with a rate that is too large it turns back.
    let same = "--set inner.optimizer=sgd --set data.train_examples=12 --set data.inner_fraction=0.34 --set method.inner_steps=4";
    let on = cosines(&format!("{same} --set inner.lr=1e-4"));
    assert!(on.iter().all(|cosine| cosine.unwrap() > 0.9), "{on:?}");
    assert_eq!(cosines("--set method.inner_steps=1"), [None; 4]);
}

#[test]
fn demonstrations_change_what_is_seen() {
    let loss = |settings: &str| {
        let workspace = Workspace::new();
        train(&workspace, settings)["scores"][0]["loss"].as_f64().unwrap()
    };
    let [none, one, three] = ["zero-shot", "icl --set data.shots=1", "icl --set data.shots=3"]
        .map(|name| loss(&format!("--set method.name={name}")));
    assert!(none != one && one != three, "{none} {one} {three}");
    let workspace = Workspace::new();
    let assert = workspace.zofo("train config.toml --set method.name=icl --set data.shots=41");
    assert_error(assert, 2, &["41 demonstrations were asked for", "40 rows"]);
    assert!(!workspace.path("run").exists());
}

#[test]
fn what_no_training_prints_is_short() {
    let workspace = Workspace::new();
    let text = stdout(&workspace.zofo("train config.toml --set method.name=zero-shot").success());
    assert!(text.contains("untouched model") && text.contains("metrics   "), "{text}");
    assert!(!text.contains("backbone") && !text.contains("kept"), "{text}");
}

#[test]
fn every_journal_replays_to_the_bytes_of_its_run() {
    for settings in [
        "--set method.name=mezo --set outer.directions=3 --set outer.weight_decay=10 --set outer.distribution=rademacher",
        "--set method.name=mezo --set outer.sides=1 --set outer.distribution=sphere --set outer.optimizer=adam",
        "--set method.name=mezo --set outer.mask_elements=smallest --set outer.mask_names=.*proj.* --set outer.mask_layers=[0,2]",
        "--set method.name=mezo --set model.dtype=bf16 --set outer.lr=1e-3 --set outer.rank=2",
        "--set method.name=mezo --set model.dtype=bf16 --set outer.lr=1e-3 --set outer.mask_elements=random",
        "--set method.name=two-stage --set method.first_stage_steps=2 --set outer.mask_elements=largest",
        "--set method.name=mezo --set outer.optimizer=sgd --set outer.momentum=0.9 --set outer.momentum_window=3 --set outer.lr=1e-3",
        "--set outer.optimizer=sgd --set outer.momentum=0.9 --set outer.lr=1e-7 --set model.dtype=bf16 --set outer.weight_decay=10",
        "--set outer.directions=2 --set outer.accumulate=2 --set inner.accumulate=2 --set method.penalty_normalized=true",
    ] {
        let workspace = Workspace::new();
        train(&workspace, settings);
        let replay = format!("replay --base {MODEL} --journal run/journal.zofo -o rebuilt");
        workspace.zofo(&replay).success();
        assert_eq!(content(&workspace.path("rebuilt")), content(&workspace.path("run/backbone")), "{settings}");
        let journal = json_of(&workspace.zofo("journal run/journal.zofo --json").success());
        let version = if settings.contains("outer.momentum") {
            3
        } else if settings.contains("outer.directions")
            || settings.contains("outer.mask")
            || settings.contains("outer.rank")
            || settings.contains("outer.dist")
        {
            2
        } else {
            1
        };
        assert_eq!(journal["format_version"], version, "{settings}");
        assert_eq!(journal["updates"]["skipped_steps"], 0, "{settings}");
    }
    let workspace = Workspace::new();
    train(&workspace, "--set method.name=full");
    let replay = format!("replay --base {MODEL} --journal run/journal.zofo -o rebuilt");
    assert_error(workspace.zofo(&replay), 3, &["by exact gradients, which cannot be replayed", "backbone/"]);
}

#[test]
fn exact_gradients_keep_the_best_step() {
    let workspace = Workspace::new();
    let best = "--set method.name=full --set run.max_steps=6 --set run.eval_every=1 --set inner.lr=3e-3";
    let summary = json_of(&workspace.zofo(&format!("train config.toml --json {best}")).success());
    let kept = summary["kept_step"].as_u64().unwrap();
    let mut evaluations = workspace.events("run").into_iter().filter(|event| event["event"] == "evaluation");
    let best = evaluations.rfind(|event| event["best"] == true).unwrap();
    assert_eq!(best["step"], kept);
    // Its weights are those of a run that ends there.
    if kept > 0 {
        let other = Workspace::new();
        train(&other, &format!("--set method.name=full --set inner.lr=3e-3 --set run.max_steps={kept}"));
        assert_eq!(content(&other.path("run/backbone")), content(&workspace.path("run/backbone")));
    }
    let left: Vec<String> =
        content(&workspace.path("run")).into_keys().filter(|name| name.contains("snapshot")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn gradient_checkpointing_changes_no_byte() {
    for settings in [
        "--set peft.dropout=0.2 --set inner.accumulate=2 --set outer.accumulate=2",
        "--set method.name=first-order --set peft.kind=prefix --set peft.init=projection --set peft.projection_hidden=6",
        "--set method.name=two-stage --set method.first_stage_steps=2 --set peft.kind=prompt --set method.loss=candidates",
    ] {
        let [kept, again] = ["false", "true"].map(|checkpointing| {
            let workspace = Workspace::new();
            train(&workspace, &format!("{settings} --set inner.gradient_checkpointing={checkpointing}"));
            workspace.results()
        });
        again.assert_equal(&kept, settings);
    }
}

#[test]
fn a_run_ends_when_its_patience_does() {
    let workspace = Workspace::new();
    // Nothing moves enough for another accuracy or loss to be the better one twice.
    let patient = "--set method.name=mezo --set outer.lr=1e-30 --set run.max_steps=50 --set run.eval_every=1 --set run.patience=3";
    let summary = train(&workspace, patient);
    assert_eq!(summary["steps"], 3);
    let more = workspace.zofo("train --resume run --set run.patience=9").success();
    assert!(stderr(&more).contains("is finished"), "{}", stderr(&more));
}

#[test]
fn learning_rates_follow_their_schedule() {
    let rates = |settings: &str| -> Vec<f64> {
        let workspace = Workspace::new();
        train(&workspace, &format!("--set method.name=mezo --set outer.lr=1e-4 {settings}"));
        let events = workspace.events("run").into_iter().filter(|event| event["event"] == "step");
        events.map(|event| event["learning_rates"][2].as_f64().unwrap() / 1e-4).collect()
    };
    let close = |found: Vec<f64>, expected: [f64; 4]| {
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
    };
    close(rates("--set run.lr_schedule=linear"), [1.0, 0.75, 0.5, 0.25]);
    let half = std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    close(rates("--set run.lr_schedule=cosine"), [1.0, 0.5 + half, 0.5, 0.5 - half]);
    close(rates("--set run.lr_warmup=3"), [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]);
}

#[test]
fn a_plan_counts_the_passes_of_its_method() {
    let workspace = Workspace::new();
    for (settings, forward, backward) in [
        ("method.name=mezo", 2, 0),
        ("method.name=mezo --set outer.directions=3 --set outer.sides=1", 4, 0),
        ("method.name=first-order --set inner.accumulate=2", 2, 2),
        ("method.name=full", 1, 1),
        ("method.name=zero-shot", 0, 0),
        ("outer.directions=2 --set outer.accumulate=2", 2 + 4 + 24, 2 + 4),
        ("method.name=first-order --set inner.gradient_checkpointing=true", 2, 1),
        ("inner.gradient_checkpointing=true", 2 * (2 + 2) + 6, 2 + 2),
    ] {
        let plan = json_of(&workspace.zofo(&format!("plan config.toml --json --set {settings}")).success());
        let passes = (plan["forward_passes"].as_u64().unwrap(), plan["backward_passes"].as_u64().unwrap());
        assert_eq!(passes, (forward, backward), "{settings}");
    }
    let memory = |settings: &str| {
        let plan = workspace.zofo(&format!("plan config.toml --json --set model.dtype=f32 {settings}")).success();
        json_of(&plan)["peak_memory"].as_u64().unwrap()
    };
    let (mezo, full) = (memory("--set method.name=mezo"), memory("--set method.name=full"));
    assert!(full >= mezo + 12 * 34_528, "{full} bytes, {mezo} of mezo");
    let warned = stdout(&workspace.zofo("plan config.toml --set method.name=full").success());
    assert!(warned.contains("keeps gradients and two moments"), "{warned}");
}

#[test]
fn a_plan_says_along_how_many_directions_the_backbone_moves() {
    let workspace = Workspace::new();
    let sgd = "outer.optimizer=sgd --set outer.directions=3 --set outer.momentum_window=7";
    for (settings, directions) in [
        (format!("method.name=mezo --set {sgd}"), 3),
        (format!("method.name=mezo --set {sgd} --set outer.momentum=0.9"), 21),
        (format!("{sgd} --set outer.momentum=0.9"), 21),
        ("method.name=first-order".to_owned(), 0),
        ("method.name=mezo --set method.on=peft --set outer.directions=2".to_owned(), 0),
    ] {
        let plan = format!("plan config.toml --set {settings}");
        let found = json_of(&workspace.zofo(&format!("{plan} --json")).success())["update_directions"].clone();
        assert_eq!(found, directions, "{settings}");
        let text = stdout(&workspace.zofo(&plan).success());
        assert_eq!(text.contains("θ is updated along 21 directions per step"), directions == 21, "{text}");
        let named = text.contains("sgd with momentum 0.9 of 7 steps over 3 direction(s)");
        assert_eq!(named, settings.starts_with("method") && directions == 21, "{text}");
    }
    let peft = "plan config.toml --set method.name=mezo --set method.on=peft --set outer.momentum=0.9";
    for (plan, word) in [(peft, "method.on"), ("plan config.toml --set outer.momentum=0.9", "\"rms\": use \"sgd\"")] {
        assert_error(workspace.zofo(plan), 2, &["outer.momentum", word]);
    }
}

#[test]
fn a_probe_proposes_a_rate_and_a_distance() {
    let workspace = Workspace::new();
    let probe = |settings: &str| {
        let plan = format!("plan config.toml --json --probe 12 --set outer.eps=1e-2 {settings}");
        json_of(&workspace.zofo(&plan).success())["probe"].clone()
    };
    for settings in
        ["--set method.name=mezo", "--set method.penalty=10", "--set method.name=mezo --set outer.optimizer=sgd"]
    {
        let found = probe(settings);
        let number = |key: &str| found[key].as_f64().unwrap();
        assert_eq!(found["directions"], 12);
        assert!(number("slope") > 0.0 && number("noise_floor") > 0.0, "{found}");
        assert!(number("noise_floor") < number("slope"), "{settings}: {found}");
        assert!(number("proposed_eps") >= 1e-2, "{found}");
        if let Some(proposed) = found["proposed_lr"].as_f64() {
            let best = if settings.contains("sgd") { 1.0 } else { number("slope") } / number("curvature");
            assert!((proposed - best / 2.0).abs() < 1e-9 * best, "{found}");
        }
        assert_eq!(probe(settings), found, "the same directions every time");
    }
    let text = stdout(&workspace.zofo("plan config.toml --probe 2 --set method.name=mezo").success());
    assert!(
        text.contains("per step") && text.contains("slopes      |g| = ") && text.contains("outer.eps   "),
        "{text}"
    );
    assert!(!workspace.path("run").exists());
    for settings in ["method.name=first-order", "method.name=mezo --set outer.objective=metric"] {
        let refused = workspace.zofo(&format!("plan config.toml --probe 2 --set {settings}"));
        assert_error(refused, 2, &["a probe is of slopes of a loss", "--probe"]);
    }
}

#[test]
fn a_conservative_step_is_left_out_where_neither_side_is_better() {
    for settings in [
        "--set method.name=mezo",
        "--set method.penalty=10",
        "--set method.name=two-stage --set method.first_stage_steps=1",
    ] {
        let workspace = Workspace::new();
        let many = format!("{settings} --set outer.conservative=true --set outer.lr=0.3 --set run.max_steps=16");
        train(&workspace, &many);
        let events = workspace.events("run");
        let steps = events.iter().filter(|event| event.get("slope").is_some());
        // Steps of this size are too large for most directions.
        let (made, left): (Vec<_>, Vec<_>) = steps.partition(|step| step.get("coefficient").is_some());
        assert!(!left.is_empty(), "{settings}");
        assert!(left.iter().all(|step| step["skipped"].as_str().unwrap().contains("neither side")), "{left:?}");
        let journal = json_of(&workspace.zofo("journal run/journal.zofo --json").success());
        assert_eq!(journal["records"].as_u64().unwrap(), made.len() as u64, "{journal}");
    }
    let workspace = Workspace::new();
    for (settings, word) in [("outer.optimizer=adam", "adam"), ("outer.directions=2", "outer.directions above 1")] {
        let refused = workspace.zofo(&format!("plan config.toml --set outer.conservative=true --set {settings}"));
        assert_error(refused, 2, &["outer.conservative", word]);
    }
}

#[test]
fn the_distance_of_evaluations_goes_to_its_last_value() {
    let workspace = Workspace::new();
    // With a rate of nothing θ stays, so that what differs between steps is ε and the batch.
    train(
        &workspace,
        "--set method.name=mezo --set outer.lr=1e-30 --set outer.eps=0.5 --set outer.eps_final=1e-5 --set run.max_steps=30",
    );
    let events = workspace.events("run");
    let gaps: Vec<f64> = events
        .iter()
        .filter(|event| event["event"] == "step")
        .map(|step| step["objective_plus"].as_f64().unwrap() - step["objective_minus"].as_f64().unwrap())
        .collect();
    let size = |gaps: &[f64]| gaps.iter().map(|gap| gap.abs()).sum::<f64>() / gaps.len() as f64;
    assert!(size(&gaps[25..]) < 1e-2 * size(&gaps[..5]), "{gaps:?}");
    workspace.zofo("plan config.toml --set outer.eps_final=1e-5 --set run.max_minutes=1").success();
    let text =
        std::fs::read_to_string(workspace.path("config.toml")).unwrap().replace("max_steps = 4", "max_minutes = 1");
    std::fs::write(workspace.path("config.toml"), text).unwrap();
    assert_error(
        workspace.zofo("plan config.toml --set outer.eps_final=1e-5"),
        2,
        &["outer.eps_final", "run.max_steps"],
    );
}

#[test]
fn masks_that_cover_nothing_are_refused() {
    let workspace = Workspace::new();
    for mask in ["outer.mask_names=nothing", "outer.mask_layers=[99]"] {
        let assert = workspace.zofo(&format!("train config.toml --set method.name=mezo --set {mask}"));
        assert_error(assert, 2, &["outer.mask_names", "covers none"]);
        assert!(!workspace.path("run").exists());
    }
    let assert = workspace.zofo("plan config.toml --set outer.mask_names=(");
    assert_error(assert, 2, &["the regular expression for weights' names cannot be read"]);
}

#[test]
fn every_example_is_a_configuration_without_unused_keys() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // Sweeps have a test of their own.
    let is_config = |file: &PathBuf| file.is_file() && !file.ends_with("sweep-demo.toml");
    let files: Vec<PathBuf> = files.filter(is_config).collect();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let config = Config::load(&file, &[]).unwrap();
        assert!(config.unused_keys().is_empty(), "{}: {:?}", file.display(), config.unused_keys());
    }
}
