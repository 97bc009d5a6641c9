//! GGUF files against reference values: every tensor dequantised by the `gguf` Python package, every text encoded and
//! decoded as the tokenizer named in the file does.
//!
//! `ZOFO_SMOLLM2_GGUF` names the file `SmolLM2-135M-Instruct.Q4_1.gguf`, which is too large to be part of a case.

mod golden_cases;

use golden_cases::{
    Report, Tolerance, cases_with, check_tokenizer, encode, gguf_cases_with, ids, list, read_json, text,
};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use zofo::hf::gguf::{GgufFile, HfTokenizerFiles, NewMetadata, tokenizer_metadata, write_gguf};

/// Dequantised values.
const VALUES: Tolerance = Tolerance { absolute: 1e-7, relative: 1e-6 };

#[test]
fn golden_gguf_tensors() {
    let mut report = Report::default();
    for (case, gguf) in gguf_cases_with("dequantized.safetensors") {
        let file = GgufFile::open(&case.path(&gguf)).unwrap();
        let reference = case.tensors("dequantized.safetensors");
        let types = &case.expected()["tensor_types"];
        let names: BTreeSet<_> = file.tensors().iter().map(|tensor| tensor.name()).collect();
        report.equal(format!("{}: tensors", case.name()), &names, &reference.names().into_iter().collect());

        for tensor in file.tensors() {
            let place = format!("{}: {} ({:?})", case.name(), tensor.name(), tensor.kind());
            report.equal(&place, tensor.shape(), reference.shape(tensor.name()));
            let kind = format!("{:?}", tensor.kind());
            report.equal(&place, kind.as_str(), text(types, tensor.name()));
            let mut values = vec![f32::NAN; tensor.rows() * tensor.columns()];
            file.dequantize(tensor, 0..tensor.rows(), &mut values).unwrap();
            report.close("dequantized values", &place, &values, reference.real(tensor.name()), VALUES);
        }
        report.ran();
    }
    report.finish();
}

#[test]
fn golden_gguf_tokenizer() {
    let mut report = Report::default();
    for (case, gguf) in gguf_cases_with("tokenizer_expected.json") {
        let tokenizer = GgufFile::open(&case.path(&gguf)).unwrap().tokenizer().unwrap();
        let expected = read_json(&case.path("tokenizer_expected.json"));
        check_tokenizer(&mut report, &case.name(), &tokenizer, &expected);
        report.ran();
    }

    for case in cases_with(&["expected.json"]) {
        let expected = case.expected();
        // Only cases of files that are not part of the folder have encodings here.
        if expected["encodings"].is_null() {
            continue;
        }
        let Some(gguf) = env::var_os("ZOFO_SMOLLM2_GGUF") else {
            report.skip("ZOFO_SMOLLM2_GGUF is not set", case.name());
            continue;
        };
        let gguf = PathBuf::from(gguf);
        let bytes = fs::metadata(&gguf).unwrap().len();
        assert_eq!(Some(bytes), expected["bytes"].as_u64(), "{} is not the file of the case", gguf.display());
        let tokenizer = GgufFile::open(&gguf).unwrap().tokenizer().unwrap();
        for encoding in list(&expected, "encodings") {
            let text = text(encoding, "text");
            let place = format!("{}: {text:?}", case.name());
            report.equal(&place, &encode(&tokenizer, text, false), &ids(encoding, "ids"));
            let decoded = tokenizer.decode(&ids(encoding, "ids"), false).unwrap();
            report.equal(format!("{place}, decoded"), decoded.as_str(), encoding["decoded"].as_str().unwrap());
        }
        for prompt in list(&expected, "prompts") {
            for part in list(prompt, "candidates").iter().chain([prompt]) {
                let text = text(part, "text");
                let place = format!("{}: {text:?}", case.name());
                // No token is added in front, so both ways of encoding agree.
                for add_special in [false, true] {
                    report.equal(&place, &encode(&tokenizer, text, add_special), &ids(part, "ids"));
                }
            }
            let decoded = tokenizer.decode(&ids(prompt, "greedy_ids"), false).unwrap();
            report.equal(format!("{}: greedy text", case.name()), decoded.as_str(), text(prompt, "greedy_text"));
        }
        report.ran();
    }
    report.finish();
}

/// The tokenizer of every model folder, written to a GGUF file and rebuilt from it.
#[test]
fn golden_gguf_tokenizer_of_folders() {
    let mut report = Report::default();
    for case in cases_with(&["model/tokenizer.json", "tokenizer_expected.json"]) {
        let object = |name: &str| read_json(&case.path(name)).as_object().unwrap().clone();
        let config = object("model/config.json");
        let mut metadata = NewMetadata::new();
        let files = HfTokenizerFiles {
            path: Path::new("tokenizer.json"),
            tokenizer: &object("model/tokenizer.json"),
            tokenizer_config: &object("model/tokenizer_config.json"),
            config: &config,
            chat_template: None,
            vocabulary: usize::try_from(config["vocab_size"].as_u64().unwrap()).unwrap(),
        };
        let losses = tokenizer_metadata(&files, &mut metadata).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.gguf");
        write_gguf(&path, &metadata, &[], |_, _, _| unreachable!("there are no tensors")).unwrap();

        let file = GgufFile::open(&path).unwrap();
        let expected = read_json(&case.path("tokenizer_expected.json"));
        let place = format!("{} with losses {losses:?}", case.name());
        check_tokenizer(&mut report, &place, &file.tokenizer().unwrap(), &expected);
        let tokens = file.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
        report.equal(format!("{place}: tokens"), &tokens.len(), &files.vocabulary);
        report.ran();
    }
    report.finish();
}
