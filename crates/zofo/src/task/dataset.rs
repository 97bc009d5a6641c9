//! The rows of a task's split, read from its files and checked against the task.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::bad_rows::{BadRows, SkippedRows};
use super::cells::type_cells;
use super::chat::{self, ConversationError};
use super::definition::Task;
use super::error::TaskError;
use super::files::SplitFiles;
use super::row::{self, Fields, Gold};
use crate::data::{Row, RowError, Rows};
use crate::hf::Message;

/// The two parts of a task's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSplit {
    /// What trains, and what selects.
    Train,
    /// What is only ever evaluated.
    Validation,
}

impl DataSplit {
    pub(super) const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The name of its file, without what tells the format.
    pub fn stem(self) -> &'static str {
        match self {
            DataSplit::Train => "train",
            DataSplit::Validation => "validation",
        }
    }
}

impl fmt::Display for DataSplit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DataSplit::Train => "training",
            DataSplit::Validation => "validation",
        })
    }
}

/// A row that has what its task requires.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The file it comes from.
    pub source: Arc<Path>,
    /// Its line there, from 1; of formats without lines, its number.
    pub line: usize,
    /// The fields that the task declares; what else the row has is dropped.
    pub fields: Fields,
    /// What is right.
    pub gold: Gold,
}

impl Example {
    /// The conversation that the row is.
    ///
    /// # Errors
    /// It is none.
    pub fn messages(&self) -> Result<Vec<Message>, ConversationError> {
        chat::messages_of(&self.fields)
    }
}

/// The checked rows of one split, in the order of its files; never empty.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its rows.
    pub examples: Vec<Example>,
    /// Those that were left out because they are bad.
    pub skipped: SkippedRows,
}

impl Dataset {
    /// Finds and reads the data file of a task's split; see [`SplitFiles::find`] and [`Dataset::read`]. No row may be
    /// bad.
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(folder: &Path, task: &Task, split: DataSplit) -> Result<Self, TaskError> {
        Self::read(&SplitFiles::find(folder, task.name(), split)?, task, split, 0)
    }

    /// Reads the files of a split, of which up to `tolerated` rows may be bad.
    ///
    /// # Errors
    /// A file that cannot be read; no rows at all; with file and line: a row that is not one of its format, a missing
    /// field, a field of the wrong type, a label that stands for no candidate. If some are tolerated:
    /// [`TaskError::TooManyBadRows`].
    pub fn read(files: &SplitFiles, task: &Task, split: DataSplit, tolerated: usize) -> Result<Self, TaskError> {
        let mut examples = Vec::new();
        let mut bad_rows = BadRows::new(tolerated);
        for group in &files.0 {
            let mut row_number = 0;
            let end = group.end.unwrap_or(usize::MAX);
            for path in &group.files {
                if row_number >= end {
                    break;
                }
                let source: Arc<Path> = path.as_path().into();
                let rows = Rows::open(path)?;
                let has_types = rows.has_types();
                for row in rows.take(end - row_number) {
                    row_number += 1;
                    if row_number <= group.start {
                        continue;
                    }
                    match row {
                        Ok(row) => match check(row, has_types, &source, task) {
                            Ok(example) => examples.push(example),
                            Err(error) => bad_rows.skip(error)?,
                        },
                        Err(RowError::Bad(bad)) => bad_rows.skip(TaskError::Row {
                            path: path.clone(),
                            line: bad.number,
                            expected: bad.expected,
                            found: bad.found,
                        })?,
                        Err(RowError::Broken(error)) => return Err(error.into()),
                    }
                }
            }
        }
        if examples.is_empty() {
            let path = files.first().unwrap_or(Path::new("")).to_owned();
            return Err(TaskError::EmptyFile { split, path });
        }
        Ok(Self { examples, skipped: bad_rows.skipped() })
    }
}

fn check(mut row: Row, has_types: bool, source: &Arc<Path>, task: &Task) -> Result<Example, TaskError> {
    if !has_types {
        type_cells(&mut row.values, task);
    }
    match row::check(&row.values, task) {
        Ok((fields, gold)) => Ok(Example { source: source.clone(), line: row.number, fields, gold }),
        Err(mismatch) => Err(TaskError::Row {
            path: source.to_path_buf(),
            line: row.number,
            expected: mismatch.expected,
            found: mismatch.found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::FileGroup;
    use super::*;

    fn read(task: &str, content: impl AsRef<[u8]>) -> Result<Dataset, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        fs::write(&path, content).unwrap();
        Dataset::read(&SplitFiles::whole(&path), &Task::load(task).unwrap(), DataSplit::Train, 0)
    }

    fn error(task: &str, content: impl AsRef<[u8]>) -> String {
        let message = read(task, content).unwrap_err().to_string();
        match message.split_once("train.jsonl:") {
            Some((_, rest)) => rest.to_owned(),
            None => panic!("no file and line in: {message}"),
        }
    }

    const GOOD: &str = "{\"sentence\": \"fine\", \"label\": 1, \"idx\": 4}";

    #[test]
    fn a_mark_crlf_and_blank_lines_at_the_end_are_tolerated() {
        let data = read("sst2", format!("\u{feff}{GOOD}\r\n{GOOD}\r\n\r\n \n")).unwrap();
        assert_eq!(data.examples.len(), 2);
        assert_eq!((data.examples[1].line, &data.examples[1].gold), (2, &Gold::Candidates(vec![1])));
        assert_eq!(data.examples[0].fields.keys().collect::<Vec<_>>(), ["sentence"]);
        assert_eq!(read("sst2", GOOD).unwrap().examples.len(), 1);
    }

    #[test]
    fn an_empty_file_names_the_split() {
        for content in ["", "\n", "\u{feff}\r\n"] {
            let message = read("sst2", content).unwrap_err().to_string();
            assert!(message.starts_with("the training split is empty: "), "{message}");
            assert!(message.ends_with("train.jsonl has no rows"), "{message}");
        }
    }

    #[test]
    fn each_faulty_line_says_place_expected_and_found() {
        let after_good = |line: &str| error("sst2", format!("{GOOD}\n{line}\n{GOOD}\n"));
        assert_eq!(error("sst2", format!("\n{GOOD}")), "1: expected a JSON object, found an empty line");
        assert_eq!(after_good(""), "2: expected a JSON object, found an empty line");
        assert_eq!(after_good("[1]"), "2: expected a JSON object, found a list");
        let message = after_good("{\"sentence\": }");
        assert_eq!(message, "2: expected a JSON object, found text that is not JSON: expected value at column 14");
        assert_eq!(after_good("{\"label\": 1}"), "2: expected `sentence` to be a string, found only the fields label");
        assert_eq!(
            after_good("{\"label\": 1, \"sentence\": 5}"),
            "2: expected `sentence` to be a string, found the number 5"
        );
        let label = |value: &str| after_good(&format!("{{\"sentence\": \"a\", \"label\": {value}}}"));
        for (value, found) in [
            ("2", "the number 2"),
            ("-1", "the number -1"),
            ("1.0", "the number 1.0"),
            ("\"1\"", "the string \"1\""),
            ("true", "true"),
            ("null", "null"),
        ] {
            let expected = "2: expected the label `label` to be an integer from 0 to 1, found";
            assert_eq!(label(value), format!("{expected} {found}"));
        }
        assert!(after_good("{}").ends_with("found no fields"));
    }

    #[test]
    fn invalid_utf8_is_found_on_its_line() {
        let mut content = format!("{GOOD}\n{{\"a\": \"").into_bytes();
        content.push(0xff);
        content.extend_from_slice(b"\"}\n");
        assert_eq!(error("sst2", content), "2: expected UTF-8 text, found an invalid byte at column 8");
    }

    #[test]
    fn a_field_is_one_of_the_strings_that_the_task_lists() {
        let row = r#"{"premise": "p", "question": "why", "choice1": "a", "choice2": "b", "label": 0}"#;
        assert_eq!(
            error("copa", row),
            "1: expected `question` to be one of \"cause\", \"effect\", found the string \"why\""
        );
        assert_eq!(read("copa", row.replace("why", "effect")).unwrap().examples[0].fields.len(), 4);
    }

    #[test]
    fn a_long_string_is_cut_in_a_message() {
        let row = format!("{{\"sentence\": \"a\", \"label\": \"{}\"}}", "ü".repeat(60));
        assert!(error("sst2", row).ends_with(&format!("\"{}…\"", "ü".repeat(40))));
    }

    fn files(folder: &Path, names: &[&str], start: usize, end: Option<usize>) -> SplitFiles {
        let files = names.iter().map(|name| folder.join(name)).collect();
        SplitFiles(vec![FileGroup { files, start, end }])
    }

    #[test]
    fn rows_of_several_files_are_counted_together() {
        let folder = tempfile::tempdir().unwrap();
        let row = |text: &str| format!("{{\"sentence\": \"{text}\", \"label\": 1}}\n");
        fs::write(folder.path().join("0.jsonl"), row("a") + &row("b")).unwrap();
        fs::write(folder.path().join("1.csv"), "label,sentence\n0,c\n1,\"d, and\nmore\"\n").unwrap();
        let task = Task::load("sst2").unwrap();
        let read = |start, end| {
            let files = files(folder.path(), &["0.jsonl", "1.csv"], start, end);
            Dataset::read(&files, &task, DataSplit::Train, 0).map(|data| data.examples)
        };
        let texts = |start, end| -> Vec<String> {
            let examples = read(start, end).unwrap();
            examples.iter().map(|example| example.fields["sentence"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(texts(0, None), ["a", "b", "c", "d, and\nmore"]);
        assert_eq!(texts(1, Some(3)), ["b", "c"]);
        assert_eq!(texts(2, None), ["c", "d, and\nmore"]);
        assert_eq!(texts(0, Some(2)), ["a", "b"]);
        let last = &read(3, None).unwrap()[0];
        assert_eq!((last.line, last.source.ends_with("1.csv"), &last.gold), (3, true, &Gold::Candidates(vec![1])));
        assert!(matches!(read(9, None), Err(TaskError::EmptyFile { .. })));
    }

    #[test]
    fn conversations_are_read_from_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let task = Task::load("chat").unwrap();
        let turns = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
        fs::write(folder.path().join("t.jsonl"), format!("{{\"messages\": {turns}}}\n")).unwrap();
        fs::write(folder.path().join("t.tsv"), format!("messages\n\"{}\"\n", turns.replace('"', "\"\""))).unwrap();
        let read = |name| Dataset::read(&files(folder.path(), &[name], 0, None), &task, DataSplit::Train, 0);
        let messages = |name| read(name).unwrap().examples[0].messages().unwrap();
        assert_eq!(messages("t.jsonl").len(), 2);
        assert_eq!(messages("t.tsv"), messages("t.jsonl"));
        fs::write(folder.path().join("t.csv"), "messages\nhello\n").unwrap();
        let error = read("t.csv").unwrap_err().to_string();
        let expected = "expected `messages` to be a list of messages, found the string \"hello\"";
        assert!(error.contains("t.csv:2: ") && error.ends_with(expected), "{error}");
    }

    #[test]
    fn conversations_of_pyarrow() {
        let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/rows"));
        let files = files(golden, &["conversations.parquet"], 0, None);
        let data = Dataset::read(&files, &Task::load("chat").unwrap(), DataSplit::Train, 0).unwrap();
        let said = |example: &Example| -> Vec<(String, String)> {
            let messages = example.messages().unwrap();
            messages.iter().map(|message| (message.role.to_string(), message.content.clone())).collect()
        };
        let talk = |said: &[(&str, &str)]| -> Vec<(String, String)> {
            said.iter().map(|(role, content)| (role.to_string(), content.to_string())).collect()
        };
        let first = talk(&[("system", "Be brief."), ("user", "Wo?"), ("assistant", "Là-bas.")]);
        let second = [("user", "1 + 1?"), ("assistant", "2"), ("user", "Sure?"), ("assistant", "Yes.")];
        assert_eq!(data.examples.iter().map(said).collect::<Vec<_>>(), [first, talk(&second)]);
    }

    #[test]
    fn bad_rows_are_tolerated_up_to_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let content = format!("{GOOD}\n{{\n{GOOD}\n{{\"label\": 1}}\n[]\n");
        fs::write(folder.path().join("t.jsonl"), content).unwrap();
        let task = Task::load("sst2").unwrap();
        let read =
            |tolerated| Dataset::read(&files(folder.path(), &["t.jsonl"], 0, None), &task, DataSplit::Train, tolerated);
        assert!(matches!(read(0), Err(TaskError::Row { line: 2, .. })));
        let message = read(2).unwrap_err().to_string();
        assert!(message.starts_with("more than 2 bad rows, which data.skip_bad_rows tolerates: "), "{message}");
        assert!([":2: ", ":4: ", ":5: "].iter().all(|place| message.contains(place)), "{message}");
        let data = read(3).unwrap();
        assert_eq!((data.examples.len(), data.skipped.count), (2, 3));
        let report = data.skipped.to_string();
        assert!(report.starts_with("3 bad rows were left out: ") && report.contains("t.jsonl:2: expected"), "{report}");
    }
}
