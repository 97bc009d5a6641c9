//! `tokenizer.ggml.model` = `gpt2`: byte pairs merged in a fixed order, bytes written as printable characters.

use serde_json::{Value, json};

use super::{
    super::{Metadata, error::GgufError, pre_tokenizer::PreTokenizer},
    ADD_SPACE, MERGES, PRE, Vocabulary,
};

/// What the metadata say besides the vocabulary.
pub(super) struct ByteLevel {
    pre: PreTokenizer,
}

impl ByteLevel {
    pub(super) fn read(metadata: &Metadata<'_>) -> Result<Self, GgufError> {
        let name = metadata.required(PRE, Metadata::string)?;
        let pre = PreTokenizer::named(name).ok_or_else(|| {
            metadata.bad_value(PRE, format!("\"{name}\""), format!("supported are {}", PreTokenizer::names()))
        })?;
        if metadata.boolean(ADD_SPACE)? == Some(true) {
            return Err(metadata.bad_value(ADD_SPACE, true, "only false is supported with byte-level BPE"));
        }
        Ok(Self { pre })
    }

    /// Whether text starts with the begin-of-text token unless the metadata say otherwise.
    pub(super) fn adds_bos(&self) -> bool {
        self.pre.add_bos
    }

    pub(super) fn normalizer(&self) -> Value {
        self.pre.normalizer()
    }

    pub(super) fn pre_tokenizer(&self) -> Value {
        self.pre.to_json()
    }

    pub(super) fn decoder(&self) -> Value {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        })
    }

    pub(super) fn model(&self, vocabulary: &Vocabulary<'_>) -> Result<Value, GgufError> {
        Ok(json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": self.pre.ignore_merges,
            "vocab": vocabulary.vocab(),
            "merges": merges(vocabulary)?,
        }))
    }
}

/// `merges`: pairs of tokens, in the order in which they are merged. The file has each as two tokens with a space
/// between; byte-level tokens have no spaces.
fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, GgufError> {
    let metadata = &vocabulary.metadata;
    let merges = metadata.required(MERGES, Metadata::strings)?;
    merges
        .into_iter()
        .enumerate()
        .map(|(rank, merge)| {
            let bad =
                |expected: String| metadata.bad_value(MERGES, format!("an array with \"{merge}\" at {rank}"), expected);
            let (left, right) =
                merge.split_once(' ').ok_or_else(|| bad("expected two tokens with a space between".to_owned()))?;
            for token in [left.to_owned(), right.to_owned(), format!("{left}{right}")] {
                if !vocabulary.ids.contains_key(token.as_str()) {
                    return Err(bad(format!("\"{token}\" is not among the tokens")));
                }
            }
            Ok(json!([left, right]))
        })
        .collect()
}
