//! What the tests against reference values share: where cases are, how their files are read, and how numbers are
//! compared.
//!
//! Cases are the folders in `tests/golden` and, if it is set, in `ZOFO_GOLDEN_DIR`. Each test runs on all of them that
//! have the files it needs, whatever their names and sizes.

#![allow(dead_code, unused_imports, reason = "every test program uses a part of this")]
#![allow(clippy::print_stdout, reason = "a test says how many cases it ran on, and how large the errors were")]

mod blocks;
mod report;
mod table;
mod tensors;

pub use blocks::{Block, blocks};
pub use report::{Report, Tolerance, say};
pub use table::{Column, ErrorTable};
pub use tensors::{Row, Tensors, along, labelled, values};

use serde_json::Value;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;
use zofo::hf::{HfError, ModelFiles};

/// Logits and negative log-likelihoods of tokens.
pub const LOGITS: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
/// Mean losses.
pub const LOSS: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };
/// Gradients of mean losses.
pub const GRADIENT: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-3 };

/// A folder of reference values.
#[derive(Clone)]
pub struct Case {
    path: PathBuf,
}

impl Case {
    /// The folder's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().display().to_string()
    }

    /// The path of something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the folder has all of these.
    pub fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.path.join(name).exists())
    }

    /// `expected.json`.
    pub fn expected(&self) -> Value {
        read_json(&self.path("expected.json"))
    }

    /// A safetensors file.
    pub fn tensors(&self, name: &str) -> Tensors {
        Tensors::read(&self.path(name))
    }

    /// The folders inside whose names begin with `prefix`, as cases of their own.
    pub fn inner(&self, prefix: &str) -> Vec<Case> {
        let starts = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        folders(&self.path).into_iter().filter(starts).map(|path| Case { path }).collect()
    }

    /// The model in `name`, a folder or a GGUF file. None, and noted as skipped, if its family is not supported.
    pub fn model(&self, name: &str, report: &mut Report) -> Option<ModelFiles> {
        open_model(&self.path(name), &self.name(), report)
    }
}

/// The model at `path`. None, and `place` noted as skipped, if its family is not supported.
pub fn open_model(path: &Path, place: &str, report: &mut Report) -> Option<ModelFiles> {
    match ModelFiles::open(path) {
        Ok(files) => Some(files),
        Err(HfError::Architecture { found, .. }) => {
            report.skip("family not supported", format!("{place} is {found}"));
            None
        }
        Err(error) => panic!("{place}: {error}"),
    }
}

/// All cases that have these files or folders.
pub fn cases_with(names: &[&str]) -> Vec<Case> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let given = env::var_os("ZOFO_GOLDEN_DIR").map(PathBuf::from);
    let all = [Some(committed), given].into_iter().flatten().flat_map(|root| folders(&root));
    all.map(|path| Case { path }).filter(|case| case.has(names)).collect()
}

/// The GGUF files of the cases that have a file of this name, each with its case and its own name.
pub fn gguf_cases_with(name: &str) -> Vec<(Case, String)> {
    let files = |case: Case| {
        let names = entries(&case.path).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        let ggufs: Vec<String> = names.filter(|name| name.ends_with(".gguf")).collect();
        ggufs.into_iter().map(move |gguf| (Case { path: case.path.clone() }, gguf))
    };
    cases_with(&[name]).into_iter().flat_map(files).collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    entries(path).into_iter().filter(|path| path.is_dir()).collect()
}

/// What a folder holds, by name.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The list under `key`, which has something in it.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().unwrap_or_else(|| panic!("{key} is no list"));
    assert!(!list.is_empty(), "{key} is empty");
    list
}

/// The numbers under `key`.
pub fn numbers(value: &Value, key: &str) -> Vec<f64> {
    list(value, key).iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The number under `key`.
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is no number"))
}

/// The text under `key`.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text"))
}

/// The tokens under `key`; there may be none.
pub fn ids(value: &Value, key: &str) -> Vec<u32> {
    let ids = value[key].as_array().unwrap_or_else(|| panic!("{key} is no list"));
    ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Encodes and decodes every text of a `tokenizer_expected.json`.
pub fn check_tokenizer(report: &mut Report, place: &str, tokenizer: &Tokenizer, expected: &Value) {
    for case in list(expected, "cases") {
        let text = text(case, "text");
        let plain = encode(tokenizer, text, false);
        let special = encode(tokenizer, text, true);
        let tokens: Vec<Option<String>> = plain.iter().map(|&id| tokenizer.id_to_token(id)).collect();
        let expected_tokens = case["tokens"].as_array().unwrap();
        let expected_tokens: Vec<_> = expected_tokens.iter().map(|token| token.as_str().map(str::to_owned)).collect();
        report.equal(format!("{place}: tokens of {text:?}"), &tokens, &expected_tokens);
        report.equal(format!("{place}: {text:?}"), &plain, &ids(case, "ids"));
        report.equal(format!("{place}: {text:?} with special tokens"), &special, &ids(case, "ids_with_special"));
        let decode = |key: &str, skip: bool| tokenizer.decode(&ids(case, key), skip).unwrap();
        let decoded = [decode("ids", false), decode("ids_with_special", true)];
        let expected = ["decoded", "decoded_skip_special"].map(|key| case[key].as_str().unwrap().to_owned());
        report.equal(format!("{place}: {text:?} decoded"), &decoded, &expected);
    }
}

/// The tokens of a text.
pub fn encode(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Vec<u32> {
    tokenizer.encode(text, add_special).unwrap().get_ids().to_vec()
}
