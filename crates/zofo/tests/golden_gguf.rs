//! GGUF files against reference values: every tensor dequantised by the `gguf` Python package, every text encoded and
//! decoded as the tokenizer named in the file does.
//!
//! `ZOFO_GOLDEN_DIR` names the folder of cases, `ZOFO_SMOLLM2_GGUF` the file `SmolLM2-135M-Instruct.Q4_1.gguf`, which
//! is too large to be part of it.

#![allow(clippy::print_stdout, reason = "a test says how many cases it ran on")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tokenizers::Tokenizer;
use zofo::hf::gguf::GgufFile;

const RELATIVE: f32 = 1e-6;
const ABSOLUTE: f32 = 1e-7;

#[test]
fn golden_gguf_tensors() {
    let mut report = Report::default();
    for (gguf, expected) in gguf_files_beside("dequantized.safetensors") {
        let file = GgufFile::open(&gguf).unwrap();
        let bytes = fs::read(&expected).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let names: BTreeSet<_> = file.tensors().iter().map(|tensor| tensor.name()).collect();
        let reference_names: BTreeSet<_> = reference.names().into_iter().collect();
        assert_eq!(names, reference_names, "tensors of {}", gguf.display());

        for tensor in file.tensors() {
            let expected = reference.tensor(tensor.name()).unwrap();
            assert_eq!(expected.dtype(), Dtype::F32, "{}", tensor.name());
            assert_eq!(tensor.shape(), expected.shape(), "{}", tensor.name());
            let mut values = vec![f32::NAN; tensor.rows() * tensor.columns()];
            file.dequantize(tensor, 0..tensor.rows(), &mut values).unwrap();
            let expected = expected.data().as_chunks::<4>().0;
            assert_eq!(values.len(), expected.len());
            for (index, (&value, &expected)) in values.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(expected);
                let error = (value - expected).abs();
                assert!(
                    error <= ABSOLUTE + RELATIVE * expected.abs(),
                    "{}: value {index} of {} ({:?}) is {value}, expected {expected}",
                    gguf.display(),
                    tensor.name(),
                    tensor.kind(),
                );
                report.largest_error = report.largest_error.max(error);
            }
        }
        report.cases += 1;
    }
    report.print();
}

#[test]
fn golden_gguf_tokenizer() {
    let mut report = Report::default();
    for (gguf, expected) in gguf_files_beside("tokenizer_expected.json") {
        let tokenizer = GgufFile::open(&gguf).unwrap().tokenizer().unwrap();
        for case in list(&read_json(&expected), "cases") {
            let text = case["text"].as_str().unwrap();
            assert_eq!(encode(&tokenizer, text, false), ids(case, "ids"), "{text:?}");
            assert_eq!(encode(&tokenizer, text, true), ids(case, "ids_with_special"), "{text:?} with special tokens");
            assert_eq!(
                tokenizer.decode(&ids(case, "ids"), false).unwrap(),
                case["decoded"].as_str().unwrap(),
                "decoding {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids(case, "ids_with_special"), true).unwrap(),
                case["decoded_skip_special"].as_str().unwrap(),
                "decoding {text:?} without special tokens"
            );
        }
        report.cases += 1;
    }

    for folder in case_folders() {
        let expected = folder.join("expected.json");
        if !expected.is_file() {
            continue;
        }
        let expected = read_json(&expected);
        // Only cases of files that are not part of the folder have encodings here.
        if expected["encodings"].is_null() {
            continue;
        }
        let Some(gguf) = env::var_os("ZOFO_SMOLLM2_GGUF") else {
            let name = folder.file_name().unwrap_or_default().display();
            report.skipped.push(format!("{name}: ZOFO_SMOLLM2_GGUF is not set"));
            continue;
        };
        let gguf = PathBuf::from(gguf);
        assert_eq!(
            fs::metadata(&gguf).unwrap().len(),
            expected["bytes"].as_u64().unwrap(),
            "{} is not the file of the case",
            gguf.display()
        );
        let tokenizer = GgufFile::open(&gguf).unwrap().tokenizer().unwrap();
        for case in list(&expected, "encodings") {
            let text = case["text"].as_str().unwrap();
            assert_eq!(encode(&tokenizer, text, false), ids(case, "ids"), "{text:?}");
            assert_eq!(
                tokenizer.decode(&ids(case, "ids"), false).unwrap(),
                case["decoded"].as_str().unwrap(),
                "decoding {text:?}"
            );
        }
        for prompt in list(&expected, "prompts") {
            for part in list(prompt, "candidates").iter().chain([prompt]) {
                let text = part["text"].as_str().unwrap();
                // No token is added in front, so both ways of encoding agree.
                assert_eq!(encode(&tokenizer, text, false), ids(part, "ids"), "{text:?}");
                assert_eq!(encode(&tokenizer, text, true), ids(part, "ids"), "{text:?}");
            }
            assert_eq!(
                tokenizer.decode(&ids(prompt, "greedy_ids"), false).unwrap(),
                prompt["greedy_text"].as_str().unwrap()
            );
        }
        report.cases += 1;
    }
    report.print();
}

#[derive(Default)]
struct Report {
    cases: usize,
    skipped: Vec<String>,
    largest_error: f32,
}

impl Report {
    fn print(&self) {
        let mut line = format!("golden: {} cases, {} skipped", self.cases, self.skipped.len());
        if !self.skipped.is_empty() {
            line += &format!(" ({})", self.skipped.join("; "));
        }
        println!("{line}");
        if self.largest_error > 0.0 {
            println!("golden: largest absolute error {:e}", self.largest_error);
        }
    }
}

/// The folders in `ZOFO_GOLDEN_DIR`; none if it is not set.
fn case_folders() -> Vec<PathBuf> {
    let Some(root) = env::var_os("ZOFO_GOLDEN_DIR") else {
        return Vec::new();
    };
    let root = PathBuf::from(root);
    let mut folders: Vec<_> = fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("ZOFO_GOLDEN_DIR is {}: {error}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// The GGUF files of the cases that have a file called `expected`, with that file.
fn gguf_files_beside(expected: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for folder in case_folders() {
        let expected = folder.join(expected);
        if !expected.is_file() {
            continue;
        }
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "gguf") {
                found.push((path, expected.clone()));
            }
        }
    }
    found
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().unwrap();
    assert!(!list.is_empty(), "{key} is empty");
    list
}

fn ids(case: &Value, key: &str) -> Vec<u32> {
    let ids = case[key].as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

fn encode(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Vec<u32> {
    tokenizer.encode(text, add_special).unwrap().get_ids().to_vec()
}
