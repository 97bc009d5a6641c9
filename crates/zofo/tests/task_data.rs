//! Every example of every task folder, rendered and tokenised.
//!
//! The folders are those under `ZOFO_DATA_DIR`; the tokenizer is that of `ZOFO_SMOLLM2_GGUF`, a byte-level one, whose
//! tokens decode to exactly the text that they come from. Without either the test is skipped.

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::Tokenizer;
use zofo::hf::ModelFiles;
use zofo::task::{DataSplit, Dataset, EncodedExample, Encoder, Example, Gold, ModelLimits, Task, Template};

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

fn folder() -> Option<PathBuf> {
    env::var_os("ZOFO_DATA_DIR").map(PathBuf::from)
}

/// The tasks that have a folder, with its path.
fn tasks(folder: &Path) -> Vec<(Task, PathBuf)> {
    let names = Task::builtin_names().filter(|name| folder.join(name).is_dir());
    names.map(|name| (Task::load(name).unwrap(), folder.join(name))).collect()
}

#[test]
fn data_of_every_folder_is_a_tasks_with_the_classes_of_its_labels_file() {
    let Some(folder) = folder() else {
        return;
    };
    let known: Vec<&str> = Task::builtin_names().collect();
    for entry in folder.read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(!entry.path().is_dir() || known.contains(&name.as_str()), "no task for the folder {name}");
    }
    for (task, path) in tasks(&folder) {
        let Ok(labels) = std::fs::read_to_string(path.join("labels.json")) else {
            continue;
        };
        let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
        let mut names: Vec<String> = serde_json::from_value(labels["label_names"].clone()).unwrap();
        let lower = |names: &mut Vec<String>| names.iter_mut().for_each(|name| *name = name.to_lowercase());
        lower(&mut names);
        let mut classes = task.classes().to_vec();
        lower(&mut classes);
        if task.name() == "boolq" {
            // The only one whose candidates stand in another order than the values of its labels.
            (names, classes) = (vec!["yes".to_owned(), "no".to_owned()], classes);
        }
        assert_eq!(classes, names, "{}", task.name());
        assert!(task.label_place().split(" or ").any(|place| labels["label_field"] == place), "{}", task.name());
    }
}

/// What a template made of a task's examples.
#[derive(Default)]
struct Tally {
    examples: usize,
    candidates: usize,
    /// Candidates of which the scored tokens are exactly the answer, with the blank before it.
    exact: usize,
    /// Those of which they begin earlier, because the last characters of the prompt and the first of the answer are
    /// other tokens together than apart.
    wider: usize,
}

#[test]
fn data_scored_tokens_are_the_answers_in_every_example_and_template() {
    let (Some(folder), Some(model)) = (folder(), env::var_os("ZOFO_SMOLLM2_GGUF")) else {
        return;
    };
    let tokenizer = ModelFiles::open(Path::new(&model)).unwrap().tokenizer().unwrap();
    let mut tallies = BTreeMap::new();
    for (task, path) in tasks(&folder) {
        for split in [DataSplit::Train, DataSplit::Validation] {
            let data = Dataset::open(&path, &task, split).unwrap();
            for template in task.templates() {
                let tally: &mut Tally = tallies.entry((task.name().to_owned(), template.name().clone())).or_default();
                let parts = data.examples.par_chunks(ROWS).map(|rows| check(&task, template, &tokenizer, rows));
                for part in parts.collect::<Vec<_>>() {
                    tally.add(&part);
                }
            }
        }
    }
    let mut all = Tally::default();
    let mut stderr = std::io::stderr().lock();
    for ((task, template), tally) in &tallies {
        writeln!(stderr, "{task:26} {template:14} {tally}").unwrap();
        all.add(tally);
    }
    writeln!(stderr, "{:26} {:14} {all}", "all", "").unwrap();
    assert!(all.examples > 100_000, "{all}");
    assert_eq!(all.candidates, all.exact + all.wider);
}

fn check(task: &Task, template: &Template, tokenizer: &Tokenizer, rows: &[Example]) -> Tally {
    let limits = ModelLimits { vocabulary: usize::MAX, context: usize::MAX };
    let encoded = Encoder::new(task, template.name(), tokenizer, limits).unwrap().encode(rows).unwrap();
    let mut tally = Tally::default();
    for (example, encoded) in rows.iter().zip(&encoded.examples) {
        check_example(template, tokenizer, example, encoded, &mut tally);
    }
    tally
}

fn check_example(
    template: &Template,
    tokenizer: &Tokenizer,
    example: &Example,
    encoded: &EncodedExample,
    tally: &mut Tally,
) {
    let place = format!("{}:{}, template \"{}\"", example.source.display(), example.line, template.name());
    let rendered = template.render(example).unwrap();
    assert_eq!(encoded.candidates.len(), rendered.verbalized.len(), "{place}");
    assert!(!encoded.golds.is_empty(), "{place}");
    assert!(encoded.golds.iter().all(|&gold| gold < encoded.candidates.len()), "{place}");
    match &example.gold {
        Gold::Candidates(golds) => assert_eq!(&encoded.golds, golds, "{place}"),
        Gold::Answers(answers) => assert!(rendered.verbalized[0].contains(answers[0].trim()), "{place}"),
        Gold::Conversation => panic!("{place}: no task of these data is of conversations"),
    }
    tally.examples += 1;
    for (candidate, text) in encoded.candidates.iter().zip(&rendered.verbalized) {
        let (context, scored) = candidate.ids.split_at(candidate.context_len());
        let [context, scored] = [context, scored].map(|ids| tokenizer.decode(ids, false).unwrap());
        // The cut is between two tokens of the whole text, and everything behind it is scored.
        assert_eq!(&format!("{context}{scored}"), text, "{place}");
        // A prompt that ends in blanks loses them when it stands alone: then they are the answer's.
        let answer = text.strip_prefix(&rendered.prompt).unwrap_or_else(|| panic!("{place}: {text:?}"));
        tally.candidates += 1;
        if scored == answer {
            tally.exact += 1;
        } else {
            let more = scored.strip_suffix(answer).unwrap_or_else(|| panic!("{place}: {scored:?} for {answer:?}"));
            // Only white space that ends the prompt may be drawn in.
            assert!(more.chars().all(char::is_whitespace), "{place}: {scored:?} for {answer:?}");
            tally.wider += 1;
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.examples += other.examples;
        self.candidates += other.candidates;
        self.exact += other.exact;
        self.wider += other.wider;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { examples, candidates, exact, wider } = self;
        write!(formatter, "{examples:6} examples {candidates:7} candidates {exact:7} exact {wider:4} wider")
    }
}
