//! `tokenizer.ggml.model` = `llama`: SentencePiece's BPE, in which spaces are written as ▁ and a character that is no
//! token becomes its bytes.
//!
//! SentencePiece, and llama.cpp after it, always merge the two neighbours whose concatenation is the token with the
//! highest score. As a list of merges that is: every way of putting a token together from two others, by descending
//! score of what comes out; transformers derives its merges from such vocabularies in the same way
//! (`generate_merges`).

use std::{cmp::Ordering, collections::HashMap};

use serde_json::{Value, json};

use super::{
    super::{Metadata, error::GgufError},
    ADD_SPACE, REMOVE_SPACES, SCORES, TYPES, UNK, Vocabulary,
    token_type::{NORMAL, UNKNOWN, UNUSED, USER_DEFINED},
    wrong_length,
};

/// How SentencePiece writes a space.
pub(super) const SPACE: &str = "▁";

/// What the metadata say besides the vocabulary.
pub(super) struct SentencePiece {
    /// A space is put before a text, and before what follows a token that was found as it is spelt.
    add_space: bool,
}

impl SentencePiece {
    pub(super) fn read(metadata: &Metadata<'_>) -> Result<Self, GgufError> {
        if metadata.boolean(REMOVE_SPACES)? == Some(true) {
            return Err(metadata.bad_value(
                REMOVE_SPACES,
                true,
                "only false is supported with SentencePiece BPE: llama.cpp does not remove spaces there either",
            ));
        }
        Ok(Self { add_space: metadata.boolean(ADD_SPACE)?.unwrap_or(true) })
    }

    pub(super) fn normalizer(&self) -> Value {
        let escape = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        if self.add_space {
            json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SPACE }, escape] })
        } else {
            escape
        }
    }

    pub(super) fn decoder(&self) -> Value {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.add_space {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }

    pub(super) fn model(&self, vocabulary: &Vocabulary<'_>) -> Result<Value, GgufError> {
        let unknown = unknown_token(vocabulary)?;
        let scores = scores(vocabulary)?;
        let merges = merges_by_score(&vocabulary.tokens, &vocabulary.types, &scores);
        let tokens = &vocabulary.tokens;
        let merges: Vec<_> = merges.into_iter().map(|merge| json!([tokens[merge.left], tokens[merge.right]])).collect();
        Ok(json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.vocab(),
            "merges": merges,
        }))
    }
}

/// What stands for characters whose bytes are no tokens.
fn unknown_token<'a>(vocabulary: &Vocabulary<'a>) -> Result<Option<&'a str>, GgufError> {
    if let Some((_, token)) = vocabulary.named(UNK)? {
        return Ok(Some(token));
    }
    if let Some(id) = vocabulary.types.iter().position(|&kind| kind == UNKNOWN) {
        return Ok(Some(vocabulary.tokens[id]));
    }
    // Without it the tokenizers library would leave such characters out.
    let bytes = (0..=u8::MAX).filter(|&byte| vocabulary.ids.contains_key(byte_token(byte).as_str())).count();
    if bytes == 256 {
        return Ok(None);
    }
    Err(vocabulary.metadata.bad_value(
        TYPES,
        format!("an array without an unknown token (type {UNKNOWN})"),
        format!("one is needed, or {UNK}, because only {bytes} of the 256 bytes are tokens"),
    ))
}

/// How the token of a byte is spelt.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn scores(vocabulary: &Vocabulary<'_>) -> Result<Vec<f64>, GgufError> {
    let metadata = &vocabulary.metadata;
    let scores = metadata.required(SCORES, Metadata::numbers)?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(wrong_length(metadata, SCORES, scores.len(), vocabulary.tokens.len()));
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(metadata.bad_value(SCORES, format!("an array with NaN at {id}"), "scores must be comparable"));
    }
    // Some converters knew no scores and wrote a placeholder. Such a file does not say what to merge first.
    let mut normal = scores.iter().zip(&vocabulary.types).filter(|(_, kind)| **kind == NORMAL).map(|(score, _)| score);
    if let (Some(first), Some(second)) = (normal.next(), normal.next())
        && second == first
        && normal.all(|score| score == first)
    {
        return Err(metadata.bad_value(
            SCORES,
            format!("{first} for every token"),
            "different scores are needed, which say what is merged first; use the model's Hugging Face directory instead",
        ));
    }
    Ok(scores)
}

/// Two tokens that are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) whole: usize,
}

/// The merges that a vocabulary with scores stands for, in their order. Of equal scores, the longer parts come first, as
/// in transformers. Tokens for bytes, control tokens and unknown tokens are no text and take no part.
pub(super) fn merges_by_score(tokens: &[impl AsRef<str>], types: &[i32], scores: &[f64]) -> Vec<Merge> {
    let is_text = |id: usize| matches!(types[id], NORMAL | USER_DEFINED | UNUSED);
    let texts: HashMap<&str, usize> =
        (0..tokens.len()).filter(|&id| is_text(id)).map(|id| (tokens[id].as_ref(), id)).collect();
    let mut merges = Vec::new();
    for whole in (0..tokens.len()).filter(|&id| is_text(id)) {
        let token = tokens[whole].as_ref();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (texts.get(left), texts.get(right)) {
                merges.push(Merge { left, right, whole });
            }
        }
    }
    let length = |id: usize| tokens[id].as_ref().chars().count();
    let lengths = |merge: &Merge| (length(merge.left), length(merge.right));
    merges.sort_by(|first, second| {
        // No score is NaN, and zeros of either sign are equal.
        let by_score = scores[second.whole].partial_cmp(&scores[first.whole]).unwrap_or(Ordering::Equal);
        by_score.then_with(|| lengths(second).cmp(&lengths(first)))
    });
    merges
}

/// Whether a token is spelt as that of a byte.
pub(super) fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| {
        digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok_and(|byte| byte_token(byte) == token)
    })
}

#[cfg(test)]
mod tests;
