//! SentencePiece vocabularies of a few pieces.

use super::{
    super::{
        super::test_file::{TestFile, assert_says, message},
        ADD_BOS, ADD_EOS, BOS, EOS, MODEL, TOKENS,
        token_type::{BYTE, CONTROL},
    },
    *,
};

/// Control tokens, all bytes, and pieces of which "ab" has the highest score.
fn file() -> TestFile {
    let bytes: Vec<_> = (0..=u8::MAX).map(byte_token).collect();
    let pieces =
        [("▁a", -4.0), ("ab", -1.0), ("abc", -3.0), ("bc", -2.0), ("▁", -5.0), ("a", -6.0), ("b", -7.0), ("c", -8.0)];
    let mut tokens = vec!["<unk>", "<s>", "</s>", "<tool>"];
    let mut types = vec![2, 3, 3, 4];
    let mut scores = vec![0.0; 4];
    tokens.extend(bytes.iter().map(String::as_str));
    types.resize(260, 6);
    scores.resize(260, 0.0);
    for (piece, score) in pieces {
        tokens.push(piece);
        types.push(1);
        scores.push(score);
    }
    TestFile::llama()
        .string(MODEL, "llama")
        .strings(TOKENS, &tokens)
        .i32s(TYPES, &types)
        .f32s(SCORES, &scores)
        .u32(UNK, 0)
        .u32(BOS, 1)
        .u32(EOS, 2)
        .without("tokenizer.ggml.pre")
        .without("tokenizer.ggml.merges")
}

fn tokens(file: &TestFile, text: &str, add_special: bool) -> Vec<String> {
    let tokenizer = file.open().unwrap().tokenizer().unwrap();
    tokenizer.encode(text, add_special).unwrap().get_tokens().to_vec()
}

fn round_trip(file: &TestFile, text: &str) -> String {
    let tokenizer = file.open().unwrap().tokenizer().unwrap();
    let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    tokenizer.decode(&ids, true).unwrap()
}

#[test]
fn merges_follow_the_scores() {
    // "ab" before "bc", though "abc" could be made of both; then "abc" before "▁a".
    assert_eq!(tokens(&file(), "abc", false), ["▁", "abc"]);
    assert_eq!(tokens(&file(), "ac", false), ["▁a", "c"]);
    assert_eq!(tokens(&file(), "bcab", false), ["▁", "bc", "ab"]);

    let texts = ["x", "aa", "a", "xa", "aaa", "y"];
    let ids = |merges: Vec<Merge>| merges.into_iter().map(|merge| (merge.left, merge.right)).collect::<Vec<_>>();
    let scores = [-9.0, -0.0, -9.0, -1.0, 0.0, -9.0];
    // Of equal scores, which zeros of either sign are, the longest parts come first.
    assert_eq!(ids(merges_by_score(&texts, &[NORMAL; 6], &scores)), [(1, 2), (2, 1), (2, 2), (0, 2)]);
    for kind in [BYTE, CONTROL, UNKNOWN] {
        let types = [NORMAL, kind, NORMAL, NORMAL, UNUSED, NORMAL];
        assert_eq!(ids(merges_by_score(&texts, &types, &scores)), [(0, 2)]);
    }
}

#[test]
fn spaces() {
    assert_eq!(tokens(&file(), " a  b", false), ["▁", "▁a", "▁", "▁", "b"]);
    // Also behind every token that is found as it is spelt.
    assert_eq!(tokens(&file(), "a<tool>a</s> a", false), ["▁a", "<tool>", "▁a", "</s>", "▁", "▁a"]);
    assert_eq!(round_trip(&file(), "  a b"), "  a b");
    assert_eq!(tokens(&file(), "", true), ["<s>"]);

    let bare = file().bool(ADD_SPACE, false);
    assert_eq!(tokens(&bare, "ab a", false), ["ab", "▁a"]);
    assert_eq!(round_trip(&bare, " a b"), " a b");
}

#[test]
fn what_is_no_piece_becomes_bytes() {
    assert_eq!(tokens(&file(), "aé\n", false), ["▁a", "<0xC3>", "<0xA9>", "<0x0A>"]);
    assert_eq!(round_trip(&file(), "aé\n海"), "aé\n海");
    // Or the unknown token, once for neighbours, where bytes are missing.
    let (tokens_left, types, scores) = (["<unk>", "a", "▁", "▁a"], [2, 1, 1, 1], [0.0, -2.0, -3.0, -1.0]);
    let small = file().strings(TOKENS, &tokens_left).i32s(TYPES, &types).f32s(SCORES, &scores);
    let small = small.without(BOS).without(EOS).bool(ADD_BOS, false);
    assert_eq!(tokens(&small, "aéxa", false), ["▁a", "<unk>", "a"]);
    // Known by its type if no key names it.
    assert_eq!(tokens(&small.clone().without(UNK), "x", false), ["▁", "<unk>"]);
    let none = small.without(UNK).i32s(TYPES, &[1; 4]);
    assert_says(&message(none.open().unwrap().tokenizer()), &[TYPES, UNK, "0 of the 256 bytes"]);
}

#[test]
fn tokens_around_a_text() {
    assert_eq!(tokens(&file(), "a", true), ["<s>", "▁a"]);
    assert_eq!(tokens(&file().bool(ADD_BOS, false), "a", true), ["▁a"]);
    assert_eq!(tokens(&file().bool(ADD_EOS, true), "a", true), ["<s>", "▁a", "</s>"]);
    let config = file().open().unwrap().hf_tokenizer_config().unwrap();
    assert_eq!(config["add_bos_token"], true);
    assert_eq!(config["unk_token"], "<unk>");
}

#[test]
fn phi3_takes_the_space_behind_its_tokens() {
    let phi = file()
        .string("general.name", "Phi-3 Mini")
        .strings(TOKENS, &["<unk>", "<s>", "</s>", "<tool>", "▁", "a", "▁a"]);
    let phi = phi.i32s(TYPES, &[2, 3, 3, 4, 1, 1, 1]).f32s(SCORES, &[0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0]);
    let ids = |file: &TestFile, text: &str| {
        let tokenizer = file.open().unwrap().tokenizer().unwrap();
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    };
    assert_eq!(ids(&phi, "<tool>  a<s> a"), [3, 6, 1, 4, 6]);
    assert_eq!(ids(&phi.string("general.name", "Llama"), "<tool> a"), [3, 4, 6]);
}

#[test]
fn what_makes_no_tokenizer() {
    let says = |file: TestFile, parts: &[&str]| {
        assert_says(&message(file.open().unwrap().tokenizer()), parts);
    };
    for key in [SCORES, TYPES, TOKENS, BOS] {
        says(file().without(key), &[key, "missing"]);
    }
    says(file().f32s(SCORES, &[1.0]), &[SCORES, "array of 1", "has 268"]);
    says(file().strings(SCORES, &["1"]), &[SCORES, "an array of numbers"]);
    says(file().f32s(SCORES, &[f32::NAN; 268]), &[SCORES, "NaN at 0"]);
    says(file().f32s(SCORES, &[-1000.0; 268]), &[SCORES, "-1000 for every token", "merged first"]);
    says(file().bool(REMOVE_SPACES, true), &[REMOVE_SPACES, "only false"]);
}

#[test]
fn spellings_of_bytes() {
    assert!(is_byte_token("<0x00>") && is_byte_token("<0xAF>"));
    for other in ["<0xaf>", "<0x0>", "<0x000>", "<0x+F>", "0x00", "<0xé>", "<0x>"] {
        assert!(!is_byte_token(other), "{other}");
    }
}
