//! Runs that are killed, interrupted or out of disk space, and go on: every byte must be that of a run that was not.

#![cfg(unix)]

mod common;

use common::{Results, Workspace, assert_error, content};
use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Kills per test. More make it slower, and it finds more.
const KILLS: usize = 6;

/// Long enough that a kill can hit any stage.
const STEPS: &str = "--set run.max_steps=20 --set run.eval_every=4";

/// What an uninterrupted run gives, and how long it takes.
fn reference(settings: &str) -> (Results, Duration) {
    reference_in(&Workspace::new(), settings)
}

fn reference_in(workspace: &Workspace, settings: &str) -> (Results, Duration) {
    let start = Instant::now();
    workspace.zofo(&format!("train config.toml {settings}")).success();
    (workspace.results(), start.elapsed())
}

/// The command that starts the run, or goes on with it once its folder exists.
fn arguments(workspace: &Workspace, settings: &str) -> String {
    if workspace.path("run").exists() {
        "train --resume run".to_owned()
    } else {
        format!("train config.toml {settings}")
    }
}

/// Waits for the end of a process that has minutes to get there.
fn wait(child: &mut Child) -> ExitStatus {
    wait_until(|| child.try_wait().unwrap())
}

fn wait_until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "nothing happened");
        sleep(Duration::from_millis(2));
    }
}

/// Kills the run again and again, each time after a random part of the time that all of it takes; then lets it finish.
fn kill_at_random(settings: &str) {
    kill_at_random_in(Workspace::new, settings);
}

/// The same in a workspace of another kind.
fn kill_at_random_in(new: fn() -> Workspace, settings: &str) {
    let settings = format!("{STEPS} {settings}");
    let (expected, duration) = reference_in(&new(), &settings);
    let workspace = new();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut random = u64::from(seed) | 1;
    let mut delays = Vec::new();
    for _ in 0..KILLS {
        // Marsaglia's xorshift: any spread of instants will do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let delay = duration.mul_f64((random % 1000) as f64 / 1000.0);
        delays.push(delay);
        let mut child = workspace.process(&arguments(&workspace, &settings)).spawn().unwrap();
        sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    workspace.zofo(&arguments(&workspace, &settings)).success();
    workspace.results().assert_equal(&expected, &format!("{settings}, killed after {delays:?}"));
}

#[test]
fn a_killed_run_of_any_block_ends_as_an_uninterrupted_one() {
    for settings in [
        "--set peft.dropout=0.2 --set peft.targets=all-linear",
        "--set peft.kind=prefix --set peft.init=projection --set peft.projection_hidden=6",
        "--set peft.kind=prompt --set peft.shadow_init=independent",
    ] {
        kill_at_random(settings);
    }
}

#[test]
fn killed_at_any_instant() {
    kill_at_random("--set run.keep=last");
}

#[test]
fn killed_at_any_instant_with_gradient_checkpointing() {
    kill_at_random("--set inner.gradient_checkpointing=true --set peft.dropout=0.2");
}

/// What ran out of memory may go on with less.
#[test]
fn a_run_goes_on_with_gradient_checkpointing() {
    let (expected, _) = reference(STEPS);
    let workspace = Workspace::new();
    assert_eq!(interrupt(&workspace, STEPS, "-INT").code(), Some(130));
    workspace.zofo("train --resume run --set inner.gradient_checkpointing=true").success();
    workspace.results().assert_equal(&expected, "with checkpointing from then on");
}

#[test]
fn killed_at_any_instant_with_bf16_weights() {
    kill_at_random("--set model.dtype=bf16 --set outer.lr=1e-3");
}

#[test]
fn killed_at_any_instant_with_state_of_the_size_of_the_weights() {
    kill_at_random("--set outer.optimizer=adam --set run.lr_schedule=linear");
}

#[test]
fn killed_at_any_instant_whatever_the_method() {
    for settings in [
        "--set method.name=mezo --set outer.directions=2 --set outer.sides=1 --set outer.weight_decay=10 \
         --set outer.distribution=sphere --set run.lr_warmup=5",
        "--set method.name=mezo --set method.on=peft --set outer.optimizer=adam",
        "--set method.name=first-order --set peft.dropout=0.2 --set run.lr_schedule=cosine",
        "--set method.name=two-stage --set method.first_stage_steps=9 --set outer.mask_elements=smallest",
        "--set method.name=full --set run.patience=2",
        "--set method.name=mezo --set outer.objective=metric --set outer.eps=0.3",
        "--set method.name=mezo --set outer.optimizer=sgd --set outer.momentum=0.9 --set outer.momentum_window=5 \
         --set outer.lr=1e-3 --set outer.directions=2 --set run.lr_schedule=linear --set model.dtype=bf16",
        "--set outer.optimizer=sgd --set outer.momentum=0.5 --set outer.lr=1e-7 --set method.inner_steps=1",
    ] {
        kill_at_random(settings);
    }
}

#[test]
fn killed_while_answers_are_written() {
    let settings = "--set data.task=squad --set data.eval_examples=4 --set data.validation_examples=4";
    kill_at_random_in(Workspace::with_questions, settings);
}

#[test]
fn killed_while_conversations_train() {
    kill_at_random_in(Workspace::with_conversations, "--set model.path=model --set data.task=chat");
}

/// Starts the run, and kills it as soon as `sign` appears in its folder.
fn kill_at(workspace: &Workspace, settings: &str, sign: &str) {
    let mut child = workspace.process(&arguments(workspace, settings)).spawn().unwrap();
    wait_until(|| (workspace.path("run").join(sign).exists() || child.try_wait().unwrap().is_some()).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_while_results_are_written() {
    let (expected, _) = reference("");
    for sign in
        ["checkpoint.safetensors", ".backbone.partial", "backbone", ".adapter.partial", "adapter", "summary.json"]
    {
        let workspace = Workspace::new();
        kill_at(&workspace, "", sign);
        workspace.zofo(&arguments(&workspace, "")).success();
        workspace.results().assert_equal(&expected, sign);
    }
}

#[test]
fn a_run_without_a_checkpoint_and_updates_starts_again() {
    let (expected, _) = reference("");
    let journal = expected.file("journal.zofo");
    // The header's length is in its bytes 12 to 16; 20 more frame it.
    let header = 20 + u32::from_le_bytes(journal[12..16].try_into().unwrap()) as usize;
    for left in [None, Some(0), Some(100), Some(header)] {
        let workspace = Workspace::new();
        workspace.zofo("train config.toml").success();
        // What a kill in the first moments leaves: the configuration, and perhaps the begin of a journal.
        for name in ["checkpoint.safetensors", "summary.json", "journal.zofo"] {
            fs::remove_file(workspace.path("run").join(name)).unwrap();
        }
        if let Some(bytes) = left {
            fs::write(workspace.path("run/journal.zofo"), &journal[..bytes]).unwrap();
        }
        workspace.zofo("train --resume run").success();
        workspace.results().assert_equal(&expected, &format!("{left:?} bytes of a journal"));
    }
}

#[test]
fn updates_are_not_thrown_away_when_the_checkpoint_is_lost() {
    let workspace = Workspace::new();
    workspace.zofo("train config.toml").success();
    fs::remove_file(workspace.path("run/checkpoint.safetensors")).unwrap();
    let before = content(&workspace.path("run"));
    let words = ["checkpoint.safetensors", "journal.zofo", "4 updates", "zofo replay"];
    assert_error(workspace.zofo("train --resume run"), 3, &words);
    assert_eq!(content(&workspace.path("run")), before);
}

#[test]
fn a_run_goes_on_in_any_working_folder() {
    let (expected, _) = reference(STEPS);
    let workspace = Workspace::new();
    assert_eq!(interrupt(&workspace, STEPS, "-INT").code(), Some(130));
    let elsewhere = workspace.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    workspace.zofo_in(&elsewhere, "train --resume ../run").success();
    let results = workspace.results();
    // The adapter's configuration has the path of its backbone, as `--resume` gives it.
    for name in ["journal.zofo", "backbone/model.safetensors", "adapter/adapter_model.safetensors"] {
        assert!(results.file(name) == expected.file(name), "{name} differs");
    }
}

#[test]
fn what_is_missing_of_the_metrics_is_said() {
    let workspace = Workspace::new();
    assert_eq!(interrupt(&workspace, STEPS, "-INT").code(), Some(130));
    fs::write(workspace.path("run/metrics.jsonl"), "").unwrap();
    let resumed = workspace.zofo("train --resume run").success();
    let text = common::stderr(&resumed);
    assert!(text.contains("metrics.jsonl` lacks "), "{text}");
}

#[test]
fn no_snapshot_outlives_its_run() {
    let workspace = Workspace::new();
    let snapshots = || {
        let names = content(&workspace.path("run")).into_keys();
        names.filter(|name| name.contains("snapshot")).collect::<Vec<_>>()
    };
    assert_eq!(interrupt(&workspace, &format!("{STEPS} --set outer.optimizer=adam"), "-INT").code(), Some(130));
    assert_eq!(snapshots().len(), 1);
    fs::write(workspace.path("run/.snapshot-7.bin.partial"), "killed while writing").unwrap();
    workspace.zofo("train --resume run").success();
    assert!(snapshots().is_empty(), "{:?}", snapshots());
}

/// Sends a signal once the first step of training is done.
fn interrupt(workspace: &Workspace, settings: &str, signal: &str) -> ExitStatus {
    let mut child = workspace.process(&format!("train config.toml {settings}")).spawn().unwrap();
    let metrics = workspace.path("run/metrics.jsonl");
    wait_until(|| fs::read_to_string(&metrics).ok().filter(|text| text.contains("\"event\":\"step\"")));
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    wait(&mut child)
}

fn interrupted_and_resumed(settings: &str, signal: &str) {
    let settings = format!("{STEPS} {settings}");
    let (expected, _) = reference(&settings);
    let workspace = Workspace::new();
    assert_eq!(interrupt(&workspace, &settings, signal).code(), Some(130));
    let done = workspace.events("run").iter().filter(|event| event["event"] == "step").count();
    assert!((1..20).contains(&done), "{done} steps were done");
    assert!(!workspace.path("run/backbone").exists());
    let resumed = workspace.zofo("train --resume run").success();
    // The step at hand was finished and saved: nothing is done twice.
    let note = format!("resumed after step {done}\n");
    assert!(common::stderr(&resumed).contains(&note), "{}", common::stderr(&resumed));
    workspace.results().assert_equal(&expected, &settings);
}

#[test]
fn ctrl_c_finishes_the_step_and_saves() {
    interrupted_and_resumed("", "-INT");
}

#[test]
fn a_request_to_end_finishes_the_step_and_saves() {
    interrupted_and_resumed("--set model.dtype=bf16 --set outer.lr=1e-3", "-TERM");
}

#[test]
fn ctrl_c_does_not_wait_for_an_evaluation() {
    let settings = "--set data.task=squad --set data.eval_examples=4 --set run.eval_every=2";
    let (expected, _) = reference_in(&Workspace::with_questions(), settings);
    let workspace = Workspace::with_questions();
    let errors = workspace.path("stderr");
    let mut command = workspace.process(&format!("train config.toml {settings}"));
    let mut child = command.stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
    let steps = || workspace.events("run").iter().filter(|event| event["event"] == "step").count();
    wait_until(|| (workspace.path("run/metrics.jsonl").exists() && steps() == 2).then_some(()));
    // The evaluation after step 2 is under way or about to be.
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(wait(&mut child).code(), Some(130));
    assert_eq!(steps(), 2);
    workspace.zofo("train --resume run").success();
    workspace.results().assert_equal(&expected, settings);
}

#[test]
fn ctrl_c_says_how_to_go_on() {
    let workspace = Workspace::new();
    let errors = workspace.path("stderr");
    let mut command = workspace.process(&format!("train config.toml {STEPS}"));
    let mut child = command.stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
    wait_until(|| fs::read_to_string(&errors).ok().filter(|text| text.contains("step 1  ")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(wait(&mut child).code(), Some(130));
    let text = fs::read_to_string(&errors).unwrap();
    assert!(text.contains("finishing this step and saving"), "{text}");
    assert!(text.contains("to go on: zofo train --resume run\n"), "{text}");
}

#[test]
fn a_full_disk_loses_nothing() {
    let (expected, _) = reference("");
    let workspace = Workspace::new();
    // A limit on the size of files stands in for the disk: the weights are too large for it, all else is not.
    let limit = "trap '' XFSZ; ulimit -f 200";
    let status = workspace.process_after(limit, "train config.toml").status().unwrap();
    assert_eq!(status.code(), Some(5));
    assert!(workspace.path("run/checkpoint.safetensors").exists());
    let left: Vec<_> = fs::read_dir(workspace.path("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
    workspace.zofo("train --resume run").success();
    workspace.results().assert_equal(&expected, "the disk was full");
}

#[test]
fn one_process_at_a_time() {
    let workspace = Workspace::new();
    let mut child = workspace.process(&format!("train config.toml {STEPS}")).spawn().unwrap();
    wait_until(|| workspace.path("run/checkpoint.safetensors").exists().then_some(()));
    assert_error(workspace.zofo("train --resume run"), 1, &["another process", "`run`"]);
    assert!(wait(&mut child).success());
}

#[test]
fn a_run_goes_on_with_more_steps_but_not_with_other_settings() {
    let workspace = Workspace::new();
    assert_eq!(interrupt(&workspace, STEPS, "-INT").code(), Some(130));
    // What a kill leaves behind the checkpoint stays until the run goes on.
    for name in ["run/journal.zofo", "run/metrics.jsonl"] {
        let mut file = fs::OpenOptions::new().append(true).open(workspace.path(name)).unwrap();
        file.write_all(b"{\"event\"").unwrap();
    }
    let before = content(&workspace.path("run"));
    let other = workspace.zofo("train --resume run --set method.penalty=100");
    assert_error(other, 3, &["checkpoint.safetensors", "other settings"]);
    let elsewhere = workspace.zofo("train --resume run --set run.output=elsewhere");
    assert_error(elsewhere, 2, &["`run.output` cannot be set"]);
    assert_eq!(content(&workspace.path("run")), before);

    workspace.zofo("train --resume run --set run.max_steps=21").success();
    let steps = workspace.events("run").iter().filter(|event| event["event"] == "step").count();
    assert_eq!(steps, 21);
    let stored = fs::read_to_string(workspace.path("run/config.toml")).unwrap();
    assert!(stored.contains("max_steps = 21") && stored.contains("output = \"run\""), "{stored}");
}
