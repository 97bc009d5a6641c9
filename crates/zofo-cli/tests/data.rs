//! A user's own data: a table and a task file, without writing code.

mod common;

use common::{MODEL, Workspace, assert_error, json_of, stderr};
use std::fs;

/// A task of two columns, in ten lines.
const TASK: &str = r#"
name = "tickets"
description = "What is a message to the help desk about?"
[fields]
text = "string"
[label]
field = "kind"
values = ["bug", "question"]
[template.prompt]
prompt = "{{ text | strip }}\nThis is a"
candidates = [" bug", " question"]
"#;

/// A third of the rows are questions.
fn table(rows: usize) -> String {
    let row = |row: usize| match row % 3 {
        0 => format!("\"How, in case {row}, do I log in?\",question\n"),
        _ => format!("It fails in case {row},bug\n"),
    };
    format!("text,kind\n{}", (0..rows).map(row).collect::<String>())
}

fn workspace(rows: usize) -> Workspace {
    let workspace = Workspace::new();
    fs::write(workspace.path("tickets.toml"), TASK).unwrap();
    fs::write(workspace.path("tickets.csv"), table(rows)).unwrap();
    let config = fs::read_to_string(workspace.path("config.toml")).unwrap();
    let config = config.replace("task = \"sst2\"", "task = \"tickets.toml\"");
    fs::write(workspace.path("config.toml"), config.replace("dir = \"data\"", "train = \"tickets.csv\"")).unwrap();
    workspace
}

#[test]
fn a_table_and_ten_lines_train_and_evaluate() {
    let workspace = workspace(90);
    // 40 rows train and 12 select, so 38 are left to evaluate.
    let summary = json_of(&workspace.zofo("train config.toml --json").success());
    let scores = summary["scores"].as_array().unwrap();
    assert!(scores.iter().any(|score| score["examples"] == 38), "{summary}");
    let evaluated = json_of(
        &workspace.zofo(&format!("eval --model {MODEL} --task tickets.toml --data tickets.csv --json")).success(),
    );
    assert_eq!(evaluated["tasks"][0]["examples"], 90);

    let folder = workspace.path("mine");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("train.csv"), table(60)).unwrap();
    let arguments = format!("eval --model {MODEL} --task tickets.toml --data mine --split train --limit 5 --json");
    assert_eq!(json_of(&workspace.zofo(&arguments).success())["tasks"][0]["examples"], 5);
    fs::write(folder.join("train.tsv"), table(60)).unwrap();
    assert_error(workspace.zofo(&arguments), 3, &["which one is the training data", "train.csv", "train.tsv"]);
}

#[test]
fn divisions_of_the_data() {
    let workspace = workspace(90);
    let plan = |settings: &str| json_of(&workspace.zofo(&format!("plan config.toml --json {settings}")).success());
    assert_eq!(plan("")["examples"], serde_json::json!([13, 27, 12, 38]));
    assert_eq!(plan("--set data.stratify=true")["examples"], serde_json::json!([13, 27, 12, 38]));
    assert_eq!(plan("--set data.few_shot=16")["examples"], serde_json::json!([11, 21, 12, 46]));
    assert_eq!(plan("--set data.few_shot=16 --set data.eval_examples=7")["examples"][3], 7);
    let refused = |settings: &str, words: &[&str]| {
        assert_error(workspace.zofo(&format!("plan config.toml {settings}")), 2, words);
    };
    refused("--set data.few_shot=31", &["30 usable rows of class \"question\"", "data.few_shot = 31"]);
    refused("--set data.train_examples=78", &["90 rows", "data.validation"]);
    refused("--set data.dir=hf://datasets/x", &["hf://datasets/x", "ORG/NAME"]);
    refused("--set data.overlap=no", &["`data.overlap`", "drop"]);

    // What is evaluated does not train.
    fs::write(workspace.path("seen.csv"), table(10)).unwrap();
    let seen = "--set data.validation=seen.csv";
    let warnings = plan(seen)["warnings"].to_string();
    assert!(warnings.contains("10 of 90 training rows have the text of a row that is evaluated"), "{warnings}");
    refused(&format!("{seen} --set data.train_examples=70"), &["has 80 rows"]);
    plan(&format!("{seen} --set data.train_examples=70 --set data.overlap=keep"));
}

#[test]
fn bad_rows_are_skipped_if_they_are_few() {
    let workspace = workspace(90);
    let table = table(90).replace("in case 4,bug", "in case 4,bugs").replace("in case 7,bug", "in case 7");
    fs::write(workspace.path("tickets.csv"), table).unwrap();
    let arguments = format!("eval --model {MODEL} --task tickets.toml --data tickets.csv --json");
    assert_error(workspace.zofo(&arguments), 3, &["tickets.csv:6: ", "\"bug\", \"question\"", "\"bugs\""]);
    let words = ["more than 1 bad rows", "tickets.csv:6: ", "tickets.csv:9: expected 2 values"];
    assert_error(workspace.zofo(&format!("{arguments} --skip-bad-rows 1")), 3, &words);
    let assert = workspace.zofo(&format!("{arguments} --skip-bad-rows 2")).success();
    assert!(stderr(&assert).contains("2 bad rows were left out: "), "{}", stderr(&assert));
    assert_eq!(json_of(&assert)["tasks"][0]["examples"], 88);
    let plan = workspace.zofo("plan config.toml --json --set data.skip_bad_rows=2").success();
    assert!(json_of(&plan)["warnings"].to_string().contains("2 bad rows were left out"));
    assert_error(workspace.zofo("plan config.toml"), 3, &["tickets.csv:6: "]);
}
