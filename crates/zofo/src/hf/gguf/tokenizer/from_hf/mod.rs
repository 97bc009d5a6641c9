//! What a GGUF file says about a tokenizer, from the files of a Hugging Face folder.

mod json;
mod source;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value};

use self::source::Source;
use super::{
    super::{super::HfError, new_metadata::NewMetadata},
    ADD_BOS, ADD_EOS, ADD_SPACE, CHAT_TEMPLATE, MERGES, MODEL, PRE, SCORES, TOKENS, TYPES,
    sentence_piece::{Merge, merges_by_score},
};

/// The files of a Hugging Face folder that describe its tokenizer.
#[derive(Clone, Copy, Debug)]
pub struct HfTokenizerFiles<'a> {
    /// The path of `tokenizer.json`, for messages.
    pub path: &'a Path,
    /// `tokenizer.json`.
    pub tokenizer: &'a Map<String, Value>,
    /// `tokenizer_config.json`; empty if there is none.
    pub tokenizer_config: &'a Map<String, Value>,
    /// `config.json`.
    pub config: &'a Map<String, Value>,
    /// `chat_template.jinja`, if there is one; otherwise the template is looked for in `tokenizer_config.json`.
    pub chat_template: Option<&'a str>,
    /// The rows of the embedding. The tokens are filled up to this number, which llama.cpp asks for.
    pub vocabulary: usize,
}

/// Sets the keys `tokenizer.*` of `metadata` to what `files` say. Byte-level BPE becomes the model `gpt2`, BPE with byte
/// fallback becomes `llama`, whose scores are the ranks of the merges.
///
/// Returns what a GGUF file cannot say, in sentences for the user; nothing if the tokenizer in the file is the same.
///
/// # Errors
/// The tokenizer is of another kind, splits text in a way for which GGUF has no name, puts other tokens around a text than
/// those for its beginning and end, or its files contradict themselves or the embedding.
pub fn tokenizer_metadata(files: &HfTokenizerFiles<'_>, metadata: &mut NewMetadata) -> Result<Vec<String>, HfError> {
    let source = Source::read(files)?;
    let mut losses = source.lost_properties();
    let kinds = source.types();
    let tokens = source.tokens(&kinds)?;

    if source.model.byte_fallback {
        let spaces = source.spaces()?;
        if spaces.sparing {
            losses.push(
                "a space is put before a text even if it starts with one, and behind every special token, where \
                 tokenizer.json does not"
                    .to_owned(),
            );
        }
        let merges = source.merges()?;
        let scores = scores(tokens.len(), &merges);
        losses.extend(changed_merges(&merges, &merges_by_score(&tokens, &kinds, &scores)));
        metadata.set(MODEL, "llama");
        metadata.set(PRE, "default");
        metadata.set(ADD_SPACE, spaces.prefix);
        metadata.set_array(TOKENS, &tokens);
        // Ranks are small integers, which f32 holds exactly.
        metadata.set_array(SCORES, &scores.iter().map(|&score| score as f32).collect::<Vec<_>>());
    } else {
        metadata.set(MODEL, "gpt2");
        metadata.set(PRE, source.pre_tokenizer()?);
        metadata.set(ADD_SPACE, false);
        metadata.set_array(TOKENS, &tokens);
        let lines = source.merges()?.into_iter().map(|merge| format!("{} {}", tokens[merge.left], tokens[merge.right]));
        metadata.set_array(MERGES, &lines.collect::<Vec<_>>());
    }
    metadata.set_array(TYPES, &kinds);

    let (before, after) = source.tokens_around()?;
    for (key, id) in source.named(before, after)? {
        metadata.set(key, id);
    }
    metadata.set(ADD_BOS, before.is_some());
    metadata.set(ADD_EOS, after.is_some());
    if let Some(template) = source.chat_template() {
        metadata.set(CHAT_TEMPLATE, template);
    }
    Ok(losses)
}

/// Scores of tokens, by which merges are derived in the order of `merges`: the later a token is first made, the lower. What
/// no merge makes comes last.
fn scores(tokens: usize, merges: &[Merge]) -> Vec<f64> {
    let mut scores = vec![None; tokens];
    let mut rank = 0;
    let mut next = || {
        rank -= 1;
        f64::from(rank)
    };
    for merge in merges {
        scores[merge.whole].get_or_insert_with(&mut next);
    }
    scores.into_iter().map(|score| score.unwrap_or_else(&mut next)).collect()
}

/// Says so if `derived`, what is made of the scores, is not what the scores were made of but for the order among merges
/// that make the same token.
fn changed_merges(merges: &[Merge], derived: &[Merge]) -> Option<String> {
    let listed: HashSet<_> = merges.iter().collect();
    let found: HashSet<_> = derived.iter().collect();
    let additional = found.difference(&listed).count();
    let missing = listed.difference(&found).count();
    let wholes = |merges: &[Merge]| {
        let mut wholes: Vec<_> =
            merges.iter().filter(|merge| listed.contains(merge)).map(|merge| merge.whole).collect();
        wholes.dedup();
        wholes
    };
    if additional == 0 && missing == 0 && wholes(merges) == wholes(derived) {
        return None;
    }
    Some(format!(
        "of the {} merges in tokenizer.json {missing} are lost, and {additional} others are made of the scores that stand \
         for them, so some words may be split differently",
        merges.len()
    ))
}
