use super::{RunStatus, SweepError, SweepFile, SweepLog, SweepPlan};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const BASE: &str = "
    [model]
    path = \"model.gguf\"
    [data]
    task = \"sst2\"
    dir = \"data\"
    [run]
    output = \"runs/base\"
    max_steps = 10
";

/// A folder with a base configuration and this sweep.
fn folder(sweep: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("base.toml"), BASE).unwrap();
    fs::write(folder.path().join("sweep.toml"), sweep).unwrap();
    folder
}

fn plan(sweep: &str) -> Result<SweepPlan, SweepError> {
    let folder = folder(sweep);
    SweepPlan::load(&folder.path().join("sweep.toml"), &[], None)
}

/// The message of the error that a sweep has.
fn error(sweep: &str) -> String {
    plan(sweep).unwrap_err().to_string()
}

fn names(plan: &SweepPlan) -> Vec<&str> {
    plan.runs.iter().map(|run| run.name.as_str()).collect()
}

const HEAD: &str = "[sweep]\nbase = \"base.toml\"\noutput = \"runs/x\"\n";

#[test]
fn a_grid_a_list_and_seeds_give_every_combination_once() {
    let sweep = format!(
        "{HEAD}seeds = [0, 1]
        [set]
        run.eval_every = 5
        [[list.task]]
        name = \"copa\"
        data.task = \"copa\"
        data.train_examples = 320
        [[list.task]]
        name = \"sst2 short\"
        \"data.task\" = \"sst2\"
        [grid]
        method.penalty = [1, 1e2]
        outer.lr = [1e-5]
        inner.lr = [1e-3, 2e-3]"
    );
    let plan = plan(&sweep).unwrap();
    assert_eq!(plan.runs.len(), 2 * 2 * 2 * 2);
    let unique: BTreeSet<&str> = names(&plan).into_iter().collect();
    assert_eq!(unique.len(), plan.runs.len());
    assert_eq!(names(&plan)[0], "copa,penalty=1,outer.lr=1e-5,inner.lr=0.001,seed=0");
    assert_eq!(names(&plan)[15], "sst2-short,penalty=100,outer.lr=1e-5,inner.lr=0.002,seed=1");
    let first = &plan.runs[0];
    let mut overlays: Vec<(&str, toml::Value)> = Vec::new();
    for overlay in &first.overlays {
        let (key, value) = overlay.split_once('=').unwrap();
        overlays.push((key, value.parse().unwrap()));
    }
    let expected: [(&str, toml::Value); 7] = [
        ("run.eval_every", 5.into()),
        ("data.task", "copa".into()),
        ("data.train_examples", 320.into()),
        ("method.penalty", 1.into()),
        ("outer.lr", 1e-5.into()),
        ("inner.lr", 1e-3.into()),
        ("run.seed", 0.into()),
    ];
    assert_eq!(overlays, expected);
    assert_eq!(first.folder, Path::new("runs/x").join(&first.name));
    assert_eq!(first.settings["data.train_examples"], "320");
    assert!(!first.settings.contains_key("run.output"));
}

#[test]
fn a_sweep_without_axes_is_one_run() {
    assert_eq!(names(&plan(HEAD).unwrap()), ["run"]);
}

#[test]
fn what_computes_the_same_is_done_once() {
    // A prefix has no rank.
    let sweep = format!("{HEAD}[grid]\npeft.kind = [\"lora\", \"prefix\"]\npeft.rank = [4, 8]");
    let plan = plan(&sweep).unwrap();
    assert_eq!(names(&plan), ["kind=lora,rank=4", "kind=lora,rank=8", "kind=prefix"]);
    assert_eq!(plan.repeated, 1);
}

#[test]
fn names_are_those_of_folders() {
    let sweep =
        format!("{HEAD}[grid]\npeft.targets = [[\"q_proj\"], [\"q_proj\", \"v_proj\"], \"../a b/c$\", \"c*\", \"c+\"]");
    let names_: Vec<String> = names(&plan(&sweep).unwrap()).into_iter().map(str::to_owned).collect();
    assert_eq!(names_.len(), 5);
    for name in &names_ {
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "=,._-+".contains(c)), "{name}");
    }
    // `c$` and `c*` have the same plain form.
    assert!(names_.contains(&"targets=c".to_owned()) && names_.contains(&"targets=c-2".to_owned()), "{names_:?}");
}

#[test]
fn a_bad_key_is_named_with_its_file() {
    for (sweep, words) in [
        ("[grid]\ninner.rl = [1e-3]", &["sweep.toml", "base.toml", "`inner.rl`", "`inner.lr`"][..]),
        ("[set]\nmethod.inner_steps = 0", &["sweep.toml", "`method.inner_steps`", "at least 1"]),
        ("[grid]\npeft.kind = [\"lora\", \"lore\"]", &["sweep.toml", "kind=lore", "`peft.kind`", "\"lora\""]),
    ] {
        let message = error(&format!("{HEAD}{sweep}"));
        for word in words {
            assert!(message.contains(word), "expected {word} in {message}");
        }
    }
}

#[test]
fn what_is_no_sweep_is_refused_with_its_place() {
    for (sweep, words) in [
        ("[sweep]\nbase = \"base.toml\"", &["sweep.toml", "output"][..]),
        ("[sweep]\nbase = \"none.toml\"\noutput = \"x\"", &["none.toml"]),
        (&format!("{HEAD}seed = [1]"), &["sweep.toml", "seed", "line 4"]),
        (&format!("{HEAD}[grid]\nrun.seed = 1"), &["run.seed", "a list of values"]),
        (&format!("{HEAD}[grid]\nrun.seed = []"), &["run.seed", "empty"]),
        (&format!("{HEAD}[grid]\nrun.seed = [1, 1]"), &["run.seed", "1 twice"]),
        (&format!("{HEAD}seeds = [1]\n[grid]\nrun.seed = [1]"), &["`run.seed` varies in two places"]),
        (&format!("{HEAD}[set]\nrun.output = \"x\""), &["`run.output`", "sweep.output"]),
        (&format!("{HEAD}[set]\nlr = 1"), &["`lr`", "section.key"]),
        (&format!("{HEAD}[[list.method]]\ninner.lr = 1e-3"), &["[[list.method]] 1", "`name`"]),
        (&format!("{HEAD}[[list]]\nname = \"a\"\n[[list]]\nname = \"a\""), &["`list`", "a twice"]),
        (&format!("{HEAD}list = 3"), &["list"]),
    ] {
        let message = error(sweep);
        for word in words {
            assert!(message.contains(word), "expected {word} in {message}");
        }
    }
}

#[test]
fn the_command_line_sets_keys_for_all_runs() {
    let file = SweepFile::parse(HEAD, Path::new("s/sweep.toml"), &["inner.lr=2e-3".to_owned()]).unwrap();
    assert_eq!(file.base, Path::new("s/base.toml"));
    assert_eq!(file.set.len(), 1);
    let message = SweepFile::parse(HEAD, Path::new("sweep.toml"), &["inner.lr".to_owned()]).unwrap_err().to_string();
    assert!(message.contains("expected key=value"), "{message}");
}

#[test]
fn the_log_survives_a_cut_line() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(SweepLog::read(folder.path()).unwrap(), BTreeMap::new());
    let settings = BTreeMap::from([("inner.lr".to_owned(), "0.001".to_owned())]);
    let mut log = SweepLog::open(folder.path()).unwrap();
    for (name, status) in
        [("a", RunStatus::Finished), ("b", RunStatus::Failed("no \"model\"".to_owned())), ("c", RunStatus::Interrupted)]
    {
        log.started(name, &settings).unwrap();
        log.ended(name, &status, 2.5).unwrap();
    }
    log.started("c", &settings).unwrap();
    drop(log);
    let file = folder.path().join("sweep.jsonl");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, [&whole[..], b"{\"event\":\"ended\",\"ru"].concat()).unwrap();

    let check = || {
        let entries = SweepLog::read(folder.path()).unwrap();
        let status = |name: &str| entries[name].status.clone();
        assert_eq!(status("a"), RunStatus::Finished);
        assert_eq!(status("b"), RunStatus::Failed("no \"model\"".to_owned()));
        assert_eq!((status("c"), entries["c"].seconds), (RunStatus::Started, 2.5));
        assert_eq!(entries["a"].settings, settings);
    };
    check();
    SweepLog::open(folder.path()).unwrap().ended("a", &RunStatus::Finished, 0.0).unwrap();
    check();
    assert!(fs::read(&file).unwrap().starts_with(&whole));
}

#[test]
fn the_examples_are_sweeps_of_as_many_runs_as_they_say() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (name, runs) in [
        ("sweep-demo", 4),
        ("paper/1-prompt-sensitivity", 18),
        ("paper/1-prompt-sensitivity-rte", 18),
        ("paper/1-prompt-sensitivity-copa", 18),
        ("paper/2-inner-steps", 12),
        ("paper/3-penalty", 12),
        ("paper/4-two-stage", 20),
        ("paper/5-main-table", 180),
        ("paper/6-memory-and-time", 18),
        ("paper/7-transfer", 18),
        ("paper/8-directions", 30),
    ] {
        let plan = SweepPlan::load(&examples.join(format!("{name}.toml")), &[], None).unwrap();
        assert_eq!(plan.runs.len(), runs, "{name}");
    }
}
