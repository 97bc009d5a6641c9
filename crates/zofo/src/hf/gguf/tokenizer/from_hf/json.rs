//! The parts of a `tokenizer.json` that a GGUF file has a place for.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::{super::pre_tokenizer::flatten, sentence_piece::SPACE};

/// `model` of type `BPE`.
#[derive(Debug, Deserialize)]
pub(super) struct Bpe {
    pub(super) vocab: HashMap<String, u32>,
    pub(super) merges: Vec<MergeTokens>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// An element of `merges`: a pair, or in older files both with a space between.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum MergeTokens {
    Pair(String, String),
    Line(String),
}

impl MergeTokens {
    /// Left and right; none if there is no pair.
    pub(super) fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            Self::Line(line) => line.split_once(' '),
        }
    }
}

/// An element of `added_tokens`.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// How a tokenizer with byte fallback writes spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spaces {
    /// A space is put in front.
    pub(super) prefix: bool,
    /// But only at the start of a text, or not where there is one already, as SentencePiece would.
    pub(super) sparing: bool,
}

impl Spaces {
    /// Reads `normalizer` and `pre_tokenizer`; none if they do something else.
    pub(super) fn read(normalizer: &Value, pre_tokenizer: &Value) -> Option<Self> {
        let escapes =
            |part: &Value| part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == SPACE;
        let prepends = |part: &Value| part["type"] == "Prepend" && part["prepend"] == SPACE;
        match (&flatten(normalizer, "normalizers")[..], &flatten(pre_tokenizer, "pretokenizers")[..]) {
            (&[first, second], []) if prepends(first) && escapes(second) => Some(Self { prefix: true, sparing: false }),
            (&[only], []) if escapes(only) => Some(Self { prefix: false, sparing: false }),
            // Gemma's splits at spaces, of which its normalizer has left none.
            (&[only], &[split]) if escapes(only) && split["type"] == "Split" && split["pattern"]["String"] == " " => {
                Some(Self { prefix: false, sparing: false })
            }
            ([], &[split]) if split["type"] == "Metaspace" && split["replacement"] == SPACE => {
                let whole = split["split"] == false;
                // Older files have a flag instead of a scheme.
                let prefix = match (&split["prepend_scheme"], &split["add_prefix_space"]) {
                    (Value::String(scheme), _) => scheme != "never",
                    (_, Value::Bool(prefix)) => *prefix,
                    _ => true,
                };
                whole.then_some(Self { prefix, sparing: prefix })
            }
            _ => None,
        }
    }
}

/// The ids of the tokens that a `post_processor` puts before and after a text; none if it does something else.
pub(super) fn tokens_around(post_processor: &Value) -> Option<(Option<u32>, Option<u32>)> {
    let mut around = (None, None);
    for part in flatten(post_processor, "processors") {
        match part["type"].as_str()? {
            // Changes offsets only.
            "ByteLevel" => {}
            "TemplateProcessing" if around == (None, None) => around = template(part)?,
            _ => return None,
        }
    }
    Some(around)
}

fn template(part: &Value) -> Option<(Option<u32>, Option<u32>)> {
    let pieces = part["single"].as_array()?;
    let at = pieces.iter().position(|piece| piece["Sequence"]["id"] == "A")?;
    let id = |pieces: &[Value]| match pieces {
        [] => Some(None),
        [piece] => {
            let token = piece["SpecialToken"]["id"].as_str()?;
            match part["special_tokens"][token]["ids"].as_array()?.as_slice() {
                [id] => Some(Some(u32::try_from(id.as_u64()?).ok()?)),
                _ => None,
            }
        }
        _ => None,
    };
    Some((id(&pieces[..at])?, id(&pieces[at + 1..])?))
}
