//! Tokenizers of small files, and what is said about files that make none.

use super::super::{
    pre_tokenizer::PreTokenizer,
    test_file::{TestFile, assert_says, message},
};
use super::*;

/// The bytes as byte-level tokenizers spell them that the tests need, two special tokens and one that the user
/// defined, and merges of letters and digits.
fn file(pre: &str) -> TestFile {
    let letters = ["Ġ", "Ċ", "a", "b", "1", "2", "'", "S", "Ì", "Ģ", "Ã", "ł", "À", "!"];
    let merged = ["Ġa", "ab", "12", "ĠĠ", "'S", "abab", "Ġ1"];
    let tokens: Vec<_> = ["<s>", "</s>", "<tool>"].into_iter().chain(letters).chain(merged).collect();
    let mut types = vec![1; tokens.len()];
    types[..3].copy_from_slice(&[3, 3, 4]);
    TestFile::llama()
        .string(PRE, pre)
        .strings(TOKENS, &tokens)
        .i32s(TYPES, &types)
        .strings(MERGES, &["Ġ a", "a b", "1 2", "Ġ Ġ", "' S", "Ġ 1"])
}

fn tokens(file: &TestFile, text: &str, add_special: bool) -> Vec<String> {
    let tokenizer = file.open().unwrap().tokenizer().unwrap();
    let encoding = tokenizer.encode(text, add_special).unwrap();
    encoding.get_tokens().to_vec()
}

#[test]
fn every_name_makes_a_tokenizer() {
    for name in PreTokenizer::names().split(", ") {
        assert_eq!(tokens(&file(name), "ab", false), ["ab"], "{name}");
    }
}

#[test]
fn digits() {
    assert_eq!(tokens(&file("gpt-2"), "12 1", false), ["12", "Ġ1"]);
    assert_eq!(tokens(&file("smollm"), "12 1", false), ["1", "2", "Ġ", "1"]);
    assert_eq!(tokens(&file("llama-bpe"), "12 1", false), ["12", "Ġ", "1"]);
    assert_eq!(tokens(&file("qwen2"), "12", false), ["1", "2"]);
    assert_eq!(tokens(&file("default"), "121 1", false), ["12", "1", "Ġ", "1"]);
    // Spaces before a digit stay together, since the digit was split off before.
    assert_eq!(tokens(&file("smollm"), "a  1", false), ["a", "ĠĠ", "1"]);
    assert_eq!(tokens(&file("gpt-2"), "a  1", false), ["a", "Ġ", "Ġ1"]);
}

#[test]
fn what_else_differs_by_name() {
    // Contractions in capitals.
    assert_eq!(tokens(&file("gpt-2"), "a'S", false), ["a", "'", "S"]);
    assert_eq!(tokens(&file("llama-bpe"), "a'S", false), ["a", "'S"]);
    // A whole piece that is a token, but that no merge makes.
    assert_eq!(tokens(&file("smaug-bpe"), "abab", false), ["ab", "ab"]);
    assert_eq!(tokens(&file("llama-bpe"), "abab", false), ["abab"]);
    // A and a combining grave accent become À, bytes C3 80, for Qwen only.
    let accents = |pre| tokens(&file(pre), "a\u{300}", false);
    assert_eq!(accents("llama-bpe"), ["a", "Ì", "Ģ"]);
    assert_eq!(accents("qwen2"), ["Ã", "ł"]);
}

#[test]
fn special_tokens_in_the_text() {
    let file = file("gpt-2");
    let text = "<s>ab<tool></s>";
    assert_eq!(tokens(&file, text, false), ["<s>", "ab", "<tool>", "</s>"]);
    let tokenizer = file.open().unwrap().tokenizer().unwrap();
    let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab<tool>");

    // A pad token that is typed as a normal one is special all the same.
    let padded = file.u32("tokenizer.ggml.padding_token_id", 16).open().unwrap();
    let tokenizer = padded.tokenizer().unwrap();
    assert_eq!(tokenizer.decode(&[4, 16], true).unwrap(), "\n");
}

#[test]
fn tokens_around_a_text() {
    assert_eq!(tokens(&file("gpt-2"), "a", true), ["a"]);
    assert_eq!(tokens(&file("llama-bpe"), "a", true), ["<s>", "a"]);
    assert_eq!(tokens(&file("llama-bpe").bool(ADD_BOS, false), "a", true), ["a"]);
    let both = file("gpt-2").bool(ADD_BOS, true).bool(ADD_EOS, true);
    assert_eq!(tokens(&both, "a", true), ["<s>", "a", "</s>"]);
    assert_eq!(tokens(&both, "a", false), ["a"]);
    let tokenizer = both.open().unwrap().tokenizer().unwrap();
    let pair = tokenizer.encode(("a", "b"), true).unwrap();
    assert_eq!(pair.get_tokens(), ["<s>", "a", "</s>", "<s>", "b", "</s>"]);
}

#[test]
fn the_config_file() {
    let file = file("gpt-2")
        .u32("tokenizer.ggml.unknown_token_id", 2)
        .bool(ADD_BOS, true)
        .string(CHAT_TEMPLATE, "{{ messages }}");
    let expected = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": true,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<tool>",
        "model_max_length": 64,
        "chat_template": "{{ messages }}",
    });
    assert_eq!(file.open().unwrap().hf_tokenizer_config().unwrap(), expected);
}

#[test]
fn what_makes_no_tokenizer() {
    let says = |file: TestFile, parts: &[&str]| {
        assert_says(&message(file.open().unwrap().tokenizer()), parts);
    };
    for key in [MODEL, PRE, TOKENS, TYPES, MERGES] {
        says(file("gpt-2").without(key), &[&format!("\"{key}\" is missing")]);
    }
    says(file("gpt-2").string(MODEL, "bert"), &[MODEL, "\"bert\"", "gpt2", "llama"]);
    says(file("bloom"), &[PRE, "\"bloom\"", "gpt-2", "smollm", "llama-bpe", "qwen2", "default"]);
    says(file("gpt-2").i32s(TYPES, &[1, 1]), &[TYPES, "array of 2", "has 24"]);
    says(file("gpt-2").strings(TYPES, &["1"]), &[TYPES, "an array of integers"]);
    let twice = TestFile::llama().strings(TOKENS, &["<s>", "</s>", "a", "b", "ab", "a"]);
    says(twice, &[TOKENS, "\"a\" at 2 and 5"]);
    says(file("gpt-2").strings(MERGES, &["ab"]), &[MERGES, "\"ab\" at 0", "two tokens"]);
    says(file("gpt-2").strings(MERGES, &["a b", "a c"]), &[MERGES, "\"a c\" at 1", "\"c\" is not"]);
    says(file("gpt-2").strings(MERGES, &["b a"]), &["\"ba\" is not among"]);
    says(file("gpt-2").u32(EOS, 24), &[EOS, "is 24", "24 tokens"]);
    says(file("llama-bpe").without(BOS), &[ADD_BOS, BOS, "missing"]);
    says(file("gpt-2").bool(ADD_SPACE, true), &[ADD_SPACE]);
}
