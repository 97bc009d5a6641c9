//! The fuzz targets' readers, on the seeds of their corpora: what is committed for fuzzing compiles and holds.

use std::{fs, path::Path};

#[path = "../../../fuzz/readers/config.rs"]
mod config;
#[path = "../../../fuzz/readers/gguf.rs"]
mod gguf;
#[path = "../../../fuzz/readers/pytorch.rs"]
mod pytorch;
#[path = "../../../fuzz/readers/safetensors_index.rs"]
mod safetensors_index;
#[path = "../../../fuzz/readers/tokenizer.rs"]
mod tokenizer;

/// Runs `read` on every seed of `target`, and on every seed cut short and with a byte changed.
fn read_seeds(target: &str, read: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let seeds = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("seed"));
    let mut count = 0;
    for seed in seeds {
        let mut bytes = fs::read(seed).unwrap();
        read(&bytes);
        read(&bytes[..bytes.len() / 2]);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        read(&bytes);
        count += 1;
    }
    assert!(count > 0, "{} has no seed", corpus.display());
}

#[test]
fn configurations_end_with_a_model_or_an_error() {
    read_seeds("config", config::read);
}

#[test]
fn gguf_files_end_with_a_model_or_an_error() {
    read_seeds("gguf", gguf::read);
}

#[test]
fn pytorch_files_end_with_a_model_or_an_error() {
    read_seeds("pytorch", pytorch::read);
}

#[test]
fn indices_end_with_a_model_or_an_error() {
    read_seeds("safetensors_index", safetensors_index::read);
}

#[test]
fn tokenizers_end_with_a_tokenizer_or_an_error() {
    read_seeds("tokenizer", tokenizer::read);
}
