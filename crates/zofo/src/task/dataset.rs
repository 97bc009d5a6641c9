//! Data files: `<folder>/<task>/{train,validation}.jsonl`, one JSON object a line, checked against
//! the task.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::definition::Task;
use super::error::TaskError;
use super::row::{self, Fields, Gold, Mismatch, describe};

/// The two files of a task's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSplit {
    /// `train.jsonl`: what trains, and what selects.
    Train,
    /// `validation.jsonl`: what is only ever evaluated.
    Validation,
}

impl DataSplit {
    /// The file's name.
    pub fn file_name(self) -> &'static str {
        match self {
            DataSplit::Train => "train.jsonl",
            DataSplit::Validation => "validation.jsonl",
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
    /// Its line there, from 1.
    pub line: usize,
    /// The fields that the task declares; what else the row has is dropped.
    pub fields: Fields,
    /// What is right.
    pub gold: Gold,
}

/// The checked rows of one data file, in file order; never empty.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The file.
    pub path: Arc<Path>,
    /// Its rows.
    pub examples: Vec<Example>,
}

/// Finds a data file: in `<folder>/<task>` if that exists, else in `folder` itself if it holds data
/// files.
///
/// # Errors
/// [`TaskError::MissingData`], which says what was looked for.
pub fn locate(folder: &Path, task: &str, split: DataSplit) -> Result<PathBuf, TaskError> {
    let own_folder = folder.join(task);
    let holds_data = |folder: &Path| {
        [DataSplit::Train, DataSplit::Validation].iter().any(|split| folder.join(split.file_name()).is_file())
    };
    let looked_for = if holds_data(&own_folder) {
        vec![own_folder.join(split.file_name())]
    } else if holds_data(folder) {
        vec![folder.join(split.file_name())]
    } else {
        vec![own_folder.join(split.file_name()), folder.join(split.file_name())]
    };
    looked_for.iter().find(|path| path.is_file()).cloned().ok_or_else(|| TaskError::MissingData {
        task: task.to_owned(),
        looked_for: looked_for.iter().map(|path| path.display().to_string()).collect(),
    })
}

impl Dataset {
    /// Finds and reads the data file of a task's split; see [`locate`] and [`Dataset::read`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(folder: &Path, task: &Task, split: DataSplit) -> Result<Self, TaskError> {
        Self::read(&locate(folder, task.name(), split)?, task, split)
    }

    /// Reads a data file.
    ///
    /// A byte-order mark, CRLF line ends and blank lines at the end are tolerated.
    ///
    /// # Errors
    /// A file that cannot be read or has no rows; with file and line: bytes that are not UTF-8, a
    /// line that is not a JSON object, a missing field, a field of the wrong type, a label that
    /// stands for no candidate.
    pub fn read(path: &Path, task: &Task, split: DataSplit) -> Result<Self, TaskError> {
        let bytes = fs::read(path).map_err(|source| TaskError::ReadData { path: path.to_owned(), source })?;
        let path: Arc<Path> = path.into();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).trim_ascii_end();
        if bytes.is_empty() {
            return Err(TaskError::EmptyFile { split, path: path.to_path_buf() });
        }
        let examples = bytes
            .split(|&byte| byte == b'\n')
            .enumerate()
            .map(|(index, line)| {
                parse_line(line)
                    .and_then(|row| row::check(&row, task))
                    .map(|(fields, gold)| Example { source: path.clone(), line: index + 1, fields, gold })
                    .map_err(|Mismatch { expected, found }| TaskError::Row {
                        path: path.to_path_buf(),
                        line: index + 1,
                        expected,
                        found,
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { path, examples })
    }
}

/// The JSON object of a line.
fn parse_line(line: &[u8]) -> Result<Map<String, Value>, Mismatch> {
    let text = std::str::from_utf8(line).map_err(|error| {
        Mismatch::new("UTF-8 text", format!("an invalid byte at column {}", error.valid_up_to() + 1))
    })?;
    if text.trim().is_empty() {
        return Err(Mismatch::new("a JSON object", "an empty line"));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(Mismatch::new("a JSON object", describe(&other))),
        Err(error) => {
            // The parser counts lines within this one line; only its column says something.
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or(&message);
            let found = format!("text that is not JSON: {reason} at column {}", error.column());
            Err(Mismatch::new("a JSON object", found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(task: &str, content: impl AsRef<[u8]>) -> Result<Dataset, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        fs::write(&path, content).unwrap();
        Dataset::read(&path, &Task::load(task).unwrap(), DataSplit::Train)
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

    #[test]
    fn data_is_looked_for_in_the_task_folder_and_then_in_the_folder_itself() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let message = locate(root, "sst2", DataSplit::Train).unwrap_err().to_string();
        let (nested, direct) = (root.join("sst2/train.jsonl"), root.join("train.jsonl"));
        let expected =
            format!("no data for task \"sst2\": looked for {} and for {}", nested.display(), direct.display());
        assert_eq!(message, expected);
        fs::write(&direct, GOOD).unwrap();
        assert_eq!(locate(root, "sst2", DataSplit::Train).unwrap(), direct);
        fs::create_dir(root.join("sst2")).unwrap();
        assert_eq!(locate(root, "sst2", DataSplit::Train).unwrap(), direct);
        fs::write(&nested, GOOD).unwrap();
        assert_eq!(locate(root, "sst2", DataSplit::Train).unwrap(), nested);
        // The two files of a run come from one folder.
        fs::write(root.join("validation.jsonl"), GOOD).unwrap();
        let message = locate(root, "sst2", DataSplit::Validation).unwrap_err().to_string();
        assert!(message.ends_with(&root.join("sst2/validation.jsonl").display().to_string()), "{message}");
        let task = Task::load("sst2").unwrap();
        assert_eq!(Dataset::open(root, &task, DataSplit::Train).unwrap().path.as_ref(), nested);
    }
}
