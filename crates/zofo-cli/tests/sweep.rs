//! `zofo sweep` and `zofo report`, with runs of a tiny model.

#![cfg(unix)]

mod common;

use common::{Workspace, assert_error, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A workspace with a sweep in `sweep.toml`, over `config.toml`, into `sweep`.
fn workspace(sweep: &str) -> Workspace {
    let workspace = Workspace::new();
    let head = "[sweep]\nbase = \"config.toml\"\noutput = \"sweep\"\n";
    fs::write(workspace.path("sweep.toml"), format!("{head}{sweep}")).unwrap();
    workspace
}

/// Long enough to be seen at work.
const LONG: &str = "seeds = [0, 1]\n[set]\nrun.max_steps = 60\nrun.eval_every = 20\n";

fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(300), "nothing happened");
        sleep(Duration::from_millis(5));
    }
}

/// The rows of `runs.csv`, as maps from the head to cells.
fn rows(workspace: &Workspace) -> Vec<Vec<(String, String)>> {
    let text = fs::read_to_string(workspace.path("sweep/runs.csv")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<String>>());
    let head = lines.next().unwrap();
    lines.map(|line| head.iter().cloned().zip(line).collect()).collect()
}

fn cell<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
    &row.iter().find(|(known, _)| known == name).unwrap().1
}

/// Fails unless the runs of a sweep made what the same runs alone make.
fn assert_as_alone(workspace: &Workspace, settings: &str) {
    for seed in [0, 1] {
        let alone = format!("train config.toml {settings} --set run.seed={seed} --set run.output=alone{seed}");
        workspace.zofo(&alone).success();
        for file in ["journal.zofo", "backbone/model.safetensors", "adapter/adapter_model.safetensors"] {
            let of = |folder: String| fs::read(workspace.path(&folder).join(file)).unwrap();
            assert!(of(format!("sweep/seed={seed}")) == of(format!("alone{seed}")), "{file} of seed {seed}");
        }
    }
}

#[test]
fn a_sweep_does_every_run_once_and_a_report_shows_them() {
    let workspace = workspace("seeds = [0, 1]\n[grid]\nmethod.inner_steps = [1, 2]\n");
    let plan = stdout(&workspace.zofo("sweep sweep.toml --dry-run").success());
    assert!(plan.contains("inner_steps=2,seed=1\n    --set method.inner_steps=2\n    --set run.seed=1\n"), "{plan}");
    assert!(plan.ends_with("4 runs in sweep\n") && !workspace.path("sweep").exists(), "{plan}");

    let first = workspace.zofo("sweep sweep.toml --jobs 2").success();
    let table = stdout(&first);
    let names = ["inner_steps=1,seed=0", "inner_steps=1,seed=1", "inner_steps=2,seed=0", "inner_steps=2,seed=1"];
    for name in names {
        assert!(table.contains(&format!("{name}  finished  accuracy  ")), "{table}");
        assert!(workspace.path("sweep").join(name).join("summary.json").exists());
    }
    let summary: Value =
        serde_json::from_slice(&fs::read(workspace.path("sweep/inner_steps=1,seed=0/summary.json")).unwrap()).unwrap();
    let log = fs::read(workspace.path("sweep/sweep.jsonl")).unwrap();

    let again = workspace.zofo("sweep sweep.toml --json").success();
    assert!(stderr(&again).contains("4 of 4 runs were done before\n"), "{}", stderr(&again));
    assert_eq!(fs::read(workspace.path("sweep/sweep.jsonl")).unwrap(), log);
    let events: Vec<Value> = stdout(&again).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 1);
    let row = &events[0]["runs"][0];
    assert_eq!((&row["run"], &row["test"]), (&names[0].into(), &summary["scores"][2]["accuracy"]));
    assert_eq!((&row["steps"], &row["validation_step"]), (&4.into(), &summary["kept_step"]));
    if cfg!(target_os = "linux") {
        assert!(row["peak_rss_mib"].as_f64().unwrap() > 1.0, "{row}");
    }
    assert!(row["total_seconds"].as_f64().unwrap() >= row["training_seconds"].as_f64().unwrap());

    workspace.zofo("report sweep -o page.html --svg charts --csv numbers.csv").success();
    let page = fs::read_to_string(workspace.path("page.html")).unwrap();
    for words in ["inner_steps 1", "inner_steps 2", "sst2: accuracy", "<svg", "bilevel", "Environment", "peak memory"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("What is missing"), "{page}");
    assert!(workspace.path("charts/task0-time.svg").exists());
    assert!(
        fs::read_to_string(workspace.path("numbers.csv"))
            .unwrap()
            .contains("inner_steps 2,\"inner_steps=2,seed=1\",test,")
    );
    // Whether there is a font is up to the machine; a chart without text, or half of the files, is never left.
    let drawn = workspace.zofo("report sweep -o drawn.html --png drawn");
    if drawn.get_output().status.success() {
        let chart = fs::read(workspace.path("drawn/task0-ablation-method-inner_steps.png")).unwrap();
        assert!(chart.starts_with(b"\x89PNG\r\n\x1a\n") && chart.ends_with(b"IEND\xae\x42\x60\x82"));
    } else {
        assert_error(drawn, 1, &["no font is installed"]);
        assert!(!workspace.path("drawn").exists() && !workspace.path("drawn.html").exists());
    }
    // A single run has a report too.
    workspace.zofo("report sweep/inner_steps=1,seed=0 -o one.html").success();
    assert_error(workspace.zofo("report data"), 3, &["`data` holds no runs"]);
}

#[test]
fn a_killed_sweep_goes_on_and_nothing_is_lost() {
    let workspace = workspace(LONG);
    let mut sweep = workspace.process("sweep sweep.toml").spawn().unwrap();
    let metrics = workspace.path("sweep/seed=0/metrics.jsonl");
    let steps = || fs::read_to_string(&metrics).map_or(0, |text| text.matches("\"step\":").count());
    wait_until(|| steps() > 4);
    sweep.kill().unwrap();
    sweep.wait().unwrap();
    let assert = workspace.zofo("sweep sweep.toml").success();
    let text = stderr(&assert);
    // As long as the killed one's process saves, the other begins.
    assert!(text.contains(" of 2: seed=0 goes on\n") && text.contains(" of 2: seed=1\n"), "{text}");
    assert_as_alone(&workspace, "--set run.max_steps=60 --set run.eval_every=20");
}

#[test]
fn an_interrupted_sweep_saves_and_goes_on() {
    let workspace = workspace(LONG);
    let mut sweep = workspace.process("sweep sweep.toml --jobs 2").spawn().unwrap();
    let begun = |seed: u32| workspace.path(&format!("sweep/seed={seed}/checkpoint.safetensors")).exists();
    wait_until(|| begun(0) && begun(1));
    assert!(Command::new("kill").args(["-INT", &sweep.id().to_string()]).status().unwrap().success());
    assert_eq!(sweep.wait().unwrap().code(), Some(130));
    let log = fs::read_to_string(workspace.path("sweep/sweep.jsonl")).unwrap();
    assert_eq!(log.matches("\"status\":\"interrupted\"").count(), 2, "{log}");
    assert!(rows(&workspace).iter().all(|row| cell(row, "state") == "unfinished"));
    workspace.zofo("sweep sweep.toml --jobs 2").success();
    assert_as_alone(&workspace, "--set run.max_steps=60 --set run.eval_every=20");
}

#[test]
fn a_run_that_fails_is_recorded_and_stops_no_other() {
    let sweep = "[[list]]\nname = \"too-many\"\ndata.train_examples = 4000\n[[list]]\nname = \"fine\"\n";
    let workspace = workspace(sweep);
    let assert = workspace.zofo("sweep sweep.toml").code(1);
    let text = stderr(&assert);
    assert!(text.contains("too-many: failed after ") && text.contains("error: 1 of 2 runs failed"), "{text}");
    let table = stdout(&assert);
    let states: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert!(states.contains(&vec!["too-many", "failed"]) && states.contains(&vec!["fine", "finished"]), "{table}");
    assert!(table.contains("\ntoo-many: the training data has 60 rows, "), "{table}");
    let log = fs::read_to_string(workspace.path("sweep/logs/too-many.log")).unwrap();
    assert!(log.contains("error: ") && log.contains("4000"), "{log}");
    assert_eq!(rows(&workspace).iter().map(|row| cell(row, "state")).collect::<Vec<_>>(), ["failed", "finished"]);

    // It is not tried again by itself, and what was done stays done.
    let again = workspace.zofo("sweep sweep.toml").code(1);
    assert!(stderr(&again).contains("2 of 2 runs were done before (1 of them failed)"), "{}", stderr(&again));
    let retried = workspace.zofo("sweep sweep.toml --retry-failed").code(1);
    assert!(stderr(&retried).contains("run 1 of 1: too-many\n"), "{}", stderr(&retried));

    workspace.zofo("report sweep").success();
    let page = fs::read_to_string(workspace.path("report.html")).unwrap();
    assert!(page.contains("too-many") && page.contains("4000") && page.contains("What is missing or went wrong"));
}

#[test]
fn a_report_tells_what_went_wrong() {
    let workspace = Workspace::new();
    fs::create_dir(workspace.path("sweep")).unwrap();
    let settings = r#"{"data.task":"\"sst2\"","method.name":"\"mezo\"","outer.batch_size":"64"}"#;
    let log = format!(
        "{{\"event\":\"started\",\"run\":\"big\",\"settings\":{settings}}}\n{{\"event\":\"ended\",\"run\":\"big\",\"status\":\"failed\",\
         \"reason\":\"the process ended with signal: 9 (SIGKILL)\",\"seconds\":1.0}}\n"
    );
    fs::write(workspace.path("sweep/sweep.jsonl"), log).unwrap();
    let line = "sst2: mezo: out of memory: the run: the process ended with signal: 9 (SIGKILL). What to do: halve outer.batch_size \
                (now 64) and double outer.accumulate, which keeps the rows of a step\n";
    assert_eq!(stdout(&workspace.zofo("report sweep").success()), line);
    let page = fs::read_to_string(workspace.path("report.html")).unwrap();
    assert!(page.contains("Diagnoses") && page.contains("halve outer.batch_size (now 64)"), "{page}");

    let json: Value = serde_json::from_str(&stdout(&workspace.zofo("report sweep --json").success())).unwrap();
    assert_eq!((&json["page"], &json["runs"]), (&"report.html".into(), &1.into()));
    let [diagnosis] = &json["diagnoses"].as_array().unwrap()[..] else { panic!("{json}") };
    for (key, value) in [("task", "sst2"), ("group", "mezo"), ("sign", "out-of-memory")] {
        assert_eq!(diagnosis[key], value);
    }
    assert!(line.ends_with(&format!("{}\n", diagnosis["advice"].as_str().unwrap())), "{diagnosis}");
}

#[test]
fn a_changed_sweep_is_noticed() {
    let workspace = workspace("seeds = [0]\n");
    workspace.zofo("sweep sweep.toml").success();
    let words = ["sweep.toml", "seed=0 (inner.lr: 0.001 then, 0.002 now, ", "another output folder"];
    assert_error(workspace.zofo("sweep sweep.toml --set inner.lr=2e-3"), 2, &words);
    // The base counts as well.
    let config = fs::read_to_string(workspace.path("config.toml")).unwrap();
    fs::write(workspace.path("config.toml"), config.replace("rank = 2", "rank = 3")).unwrap();
    assert_error(workspace.zofo("sweep sweep.toml"), 2, &["peft.rank: 2 then, 3 now"]);
    workspace.zofo("sweep sweep.toml -o elsewhere").success();

    let more = fs::read_to_string(workspace.path("sweep.toml")).unwrap().replace("[0]", "[1]");
    fs::write(workspace.path("sweep.toml"), more).unwrap();
    let assert = workspace.zofo("sweep sweep.toml").success();
    assert!(stderr(&assert).contains("the sweep no longer has: seed=0\n"), "{}", stderr(&assert));
}

#[test]
fn folders_of_others_are_left_alone() {
    let workspace = workspace("seeds = [7]\n");
    fs::create_dir_all(workspace.path("sweep/seed=7")).unwrap();
    fs::write(workspace.path("sweep/seed=7/thesis.tex"), "text").unwrap();
    assert_error(workspace.zofo("sweep sweep.toml"), 2, &["sweep/seed=7", "did not start"]);
    assert_error(workspace.zofo("sweep config.toml"), 2, &["config.toml", "sweep"]);
    assert_error(workspace.zofo("sweep none.toml"), 2, &["cannot read none.toml"]);
}

#[test]
fn backbones_can_be_left_out_and_rebuilt() {
    let workspace = workspace("keep_backbones = false\nseeds = [0]\n[set]\nrun.keep = \"last\"\n");
    workspace.zofo("sweep sweep.toml").success();
    assert!(!workspace.path("sweep/seed=0/backbone").exists() && workspace.path("sweep/seed=0/adapter").exists());
    let model = common::MODEL;
    workspace.zofo(&format!("replay --base {model} --journal sweep/seed=0/journal.zofo -o again")).success();
    workspace.zofo("train config.toml --set run.keep=last --set run.seed=0").success();
    let weights = |folder: &str| fs::read(workspace.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("again") == weights("run/backbone"));
}
