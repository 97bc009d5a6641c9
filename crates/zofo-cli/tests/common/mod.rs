//! A folder with a tiny model's path, made-up data and a configuration, and the program run in it.

// Every test binary uses a part of it.
#![allow(dead_code)]

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process;
use tempfile::TempDir;

/// The program under test.
const ZOFO: &str = env!("CARGO_BIN_EXE_zofo");

/// A Llama of 35 000 random weights with a tokenizer; its context is 128 tokens.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden/tiny-gqa-tied/model");

/// An adapter of that model.
pub const ADAPTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden/tiny-gqa-tied/peft-lora/adapter");

/// A chat template as of many models.
pub const CHAT_TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Rows of `train.jsonl` and of `validation.jsonl`.
const ROWS: [usize; 2] = [60, 12];

/// A temporary folder that the program is run in.
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// With data for `sst2` in `data` and a configuration that trains four steps into `run`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data/sst2");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("train.jsonl"), rows(0..ROWS[0])).unwrap();
        fs::write(data.join("validation.jsonl"), rows(ROWS[0]..ROWS[0] + ROWS[1])).unwrap();
        let config = format!(
            r#"
            [model]
            path = "{MODEL}"
            [data]
            task = "sst2"
            dir = "data"
            train_examples = 40
            validation_examples = 12
            [method]
            inner_steps = 2
            warm_start = 2
            [peft]
            rank = 2
            [inner]
            batch_size = 4
            [outer]
            lr = 1e-4
            batch_size = 4
            [run]
            output = "run"
            max_steps = 4
            eval_every = 2
            threads = 1
            "#
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        Self { folder }
    }

    /// With data for `squad` besides: questions with one answer.
    pub fn with_questions() -> Self {
        let workspace = Self::new();
        workspace.write_data("squad", |number| {
            let answers = json!({ "text": ["the tide", "low water"] });
            json!({ "context": "It.", "question": format!("What at {number}?"), "answers": answers })
        });
        workspace
    }

    /// With data for `chat` besides, and a copy of the model in `model` that has a chat template.
    pub fn with_conversations() -> Self {
        let workspace = Self::new();
        fs::write(workspace.copy_of_model().join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
        workspace.write_data("chat", conversation);
        workspace
    }

    /// Rows for a task.
    pub fn write_data(&self, task: &str, row: impl Fn(usize) -> Value) {
        let data = self.path("data").join(task);
        fs::create_dir_all(&data).unwrap();
        let rows = |numbers: Range<usize>| numbers.map(|number| format!("{}\n", row(number))).collect::<String>();
        fs::write(data.join("train.jsonl"), rows(0..ROWS[0])).unwrap();
        fs::write(data.join("validation.jsonl"), rows(ROWS[0]..ROWS[0] + ROWS[1])).unwrap();
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A copy of the model's folder, to be damaged.
    pub fn copy_of_model(&self) -> PathBuf {
        let copy = self.path("model");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(MODEL).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        copy
    }

    /// Runs the program to its end. Arguments are separated by blanks.
    pub fn zofo(&self, arguments: &str) -> Assert {
        self.zofo_with(arguments.split_whitespace())
    }

    /// As [`zofo`](Self::zofo), with arguments that may hold blanks.
    pub fn zofo_with<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Assert {
        Command::new(ZOFO).current_dir(self.folder.path()).args(arguments).assert()
    }

    /// As [`zofo`](Self::zofo), in another working folder.
    pub fn zofo_in(&self, folder: &Path, arguments: &str) -> Assert {
        Command::new(ZOFO).current_dir(folder).args(arguments.split_whitespace()).assert()
    }

    /// The program, not started yet, with all its output thrown away.
    pub fn process(&self, arguments: &str) -> process::Command {
        let mut command = process::Command::new(ZOFO);
        command.current_dir(self.folder.path()).args(arguments.split_whitespace());
        command.stdout(process::Stdio::null()).stderr(process::Stdio::null());
        command
    }

    /// As [`process`](Self::process), started by a shell after `preparation`.
    pub fn process_after(&self, preparation: &str, arguments: &str) -> process::Command {
        let mut command = process::Command::new("sh");
        command.current_dir(self.folder.path()).args(["-c", &format!("{preparation}; exec {ZOFO} {arguments}")]);
        command.stdout(process::Stdio::null()).stderr(process::Stdio::null());
        command
    }

    /// Everything of the run in `run` that has to be the same every time: weights, journal, and which events there were.
    pub fn results(&self) -> Results {
        let mut files = BTreeMap::from([("journal.zofo".to_owned(), fs::read(self.path("run/journal.zofo")).unwrap())]);
        // A method leaves what it trains.
        for folder in ["adapter", "backbone"].into_iter().filter(|folder| self.path("run").join(folder).exists()) {
            for (name, content) in content(&self.path("run").join(folder)) {
                files.insert(format!("{folder}/{name}"), content);
            }
        }
        let events = self.events("run").into_iter().map(|event| {
            let at = ["step", "inner_step"].iter().find_map(|key| event[key].as_u64());
            (event["event"].as_str().unwrap().to_owned(), at)
        });
        Results { files, events: events.collect() }
    }

    /// The lines of a run's `metrics.jsonl`.
    pub fn events(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What two equal runs have in common.
pub struct Results {
    files: BTreeMap<String, Vec<u8>>,
    events: Vec<(String, Option<u64>)>,
}

impl Results {
    /// The content of one of the files.
    pub fn file(&self, name: &str) -> &[u8] {
        &self.files[name]
    }

    /// Fails unless all bytes are the same. `context` says what was done.
    #[track_caller]
    pub fn assert_equal(&self, expected: &Self, context: &str) {
        let names = |results: &Self| results.files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{context}");
        for (name, content) in &self.files {
            assert!(content == &expected.files[name], "{name} differs: {context}");
        }
        assert_eq!(self.events, expected.events, "{context}");
    }
}

/// The files directly in a folder.
pub fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())).collect()
}

/// What the program wrote to stdout.
pub fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// What the program wrote to stderr.
pub fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// What the program wrote to stdout, as JSON.
pub fn json_of(assert: &Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// Fails unless the program ended with `code`, and its error has all of `words`, and stdout has nothing.
#[track_caller]
pub fn assert_error(assert: Assert, code: i32, words: &[&str]) {
    let assert = assert.code(code).stdout("");
    let text = stderr(&assert);
    assert!(text.lines().any(|line| line.starts_with("error: ")), "{text}");
    for word in words {
        assert!(text.contains(word), "expected \"{word}\" in\n{text}");
    }
}

/// A conversation of two answers, as `messages`.
pub fn conversation(number: usize) -> Value {
    let said = |role: &str, content: String| json!({ "role": role, "content": content });
    let messages = [
        said("user", format!("Tide {number}?")),
        said("assistant", "Low.".to_owned()),
        said("user", "Now?".to_owned()),
        said("assistant", "High.".to_owned()),
    ];
    json!({ "id": number, "messages": messages })
}

/// Film reviews of a kind, of both labels in turn.
fn rows(numbers: Range<usize>) -> String {
    let words = [["dull", "cold", "tired", "flat", "clumsy"], ["fine", "warm", "funny", "bright", "clever"]];
    let row = |index: usize| {
        let words = words[index % 2];
        let (first, second) = (words[index / 2 % 5], words[index / 3 % 5]);
        format!(
            "{}\n",
            json!({ "sentence": format!("a {first} and {second} film , number {index} ."), "label": index % 2, "idx": index })
        )
    };
    numbers.map(row).collect()
}
