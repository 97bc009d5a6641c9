//! The tokenizer in the metadata (`tokenizer.*`), as the files of a Hugging Face directory and as an object; and the
//! other way round.

mod byte_level;
mod from_hf;
mod sentence_piece;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

pub use from_hf::{HfTokenizerFiles, tokenizer_metadata};

use self::{byte_level::ByteLevel, sentence_piece::SentencePiece};
use super::{
    GgufFile, Metadata,
    error::{GgufError, GgufProblem},
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The tokens with a part to play: the metadata key of the id, and the name in `tokenizer_config.json`.
const NAMED_TOKENS: [(&str, &str); 4] =
    [(BOS, "bos_token"), (EOS, "eos_token"), (UNK, "unk_token"), (PAD, "pad_token")];

/// The kinds of tokens in `tokenizer.ggml.token_type` (`llama_token_type` in `llama.h`). Unknown, control and
/// user-defined ones are found in the text as they are spelt, before it is split; the others are vocabulary.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// The vocabulary and its rules, read and checked.
struct Vocabulary<'a> {
    metadata: Metadata<'a>,
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    ids: HashMap<&'a str, usize>,
    kind: Kind,
    add_bos: bool,
    add_eos: bool,
}

/// What `tokenizer.ggml.model` names.
enum Kind {
    /// `gpt2`.
    ByteLevel(ByteLevel),
    /// `llama`.
    SentencePiece(SentencePiece),
}

impl GgufFile {
    /// The `tokenizer.json` of the model.
    ///
    /// # Errors
    /// The tokenizer is neither a byte-level BPE (`tokenizer.ggml.model` `gpt2`) nor a SentencePiece BPE (`llama`); its
    /// pre-tokenizer is not known; or a key is missing, has the wrong type or an impossible value.
    pub fn hf_tokenizer_json(&self) -> Result<Value, GgufError> {
        let vocabulary = Vocabulary::read(self.metadata())?;
        let (normalizer, pre_tokenizer, decoder) = match &vocabulary.kind {
            Kind::ByteLevel(kind) => (kind.normalizer(), kind.pre_tokenizer(), kind.decoder()),
            Kind::SentencePiece(kind) => (kind.normalizer(), Value::Null, kind.decoder()),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added_tokens()?,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": vocabulary.post_processor()?,
            "decoder": decoder,
            "model": match &vocabulary.kind {
                Kind::ByteLevel(kind) => kind.model(&vocabulary)?,
                Kind::SentencePiece(kind) => kind.model(&vocabulary)?,
            },
        }))
    }

    /// The tokenizer of the model, ready for use.
    ///
    /// # Errors
    /// Those of [`hf_tokenizer_json`](Self::hf_tokenizer_json), and [`GgufProblem::Tokenizer`] if the parts do not
    /// make a tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, GgufError> {
        let text = self.hf_tokenizer_json()?.to_string();
        text.parse().map_err(|cause: tokenizers::Error| self.error(GgufProblem::Tokenizer(cause.to_string())))
    }

    /// The `tokenizer_config.json` of the model: which tokens play a part, and the chat template if there is one.
    ///
    /// # Errors
    /// As [`hf_tokenizer_json`](Self::hf_tokenizer_json).
    pub fn hf_tokenizer_config(&self) -> Result<Value, GgufError> {
        let vocabulary = Vocabulary::read(self.metadata())?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": vocabulary.add_bos,
            "add_eos_token": vocabulary.add_eos,
            "clean_up_tokenization_spaces": false,
        });
        for (key, name) in NAMED_TOKENS {
            if let Some((_, token)) = vocabulary.named(key)? {
                config[name] = token.into();
            }
        }
        let metadata = self.metadata();
        if let Some(architecture) = metadata.string("general.architecture")?
            && let Some(context) = metadata.unsigned(&format!("{architecture}.context_length"))?
        {
            config["model_max_length"] = context.into();
        }
        if let Some(template) = metadata.string(CHAT_TEMPLATE)? {
            config["chat_template"] = template.into();
        }
        Ok(config)
    }
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: Metadata<'a>) -> Result<Self, GgufError> {
        let (kind, add_bos) = match metadata.required(MODEL, Metadata::string)? {
            "gpt2" => {
                let kind = ByteLevel::read(&metadata)?;
                let add_bos = kind.adds_bos();
                (Kind::ByteLevel(kind), add_bos)
            }
            "llama" => (Kind::SentencePiece(SentencePiece::read(&metadata)?), true),
            other => {
                return Err(metadata.bad_value(
                    MODEL,
                    format!("\"{other}\""),
                    "supported are gpt2 (byte-level BPE) and llama (SentencePiece BPE); use the model's Hugging Face \
                     directory instead",
                ));
            }
        };

        let tokens = metadata.required(TOKENS, Metadata::strings)?;
        let types = metadata.required(TYPES, Metadata::integers)?;
        if types.len() != tokens.len() {
            return Err(wrong_length(&metadata, TYPES, types.len(), tokens.len()));
        }
        let types = types
            .into_iter()
            .map(|kind| i32::try_from(kind).map_err(|_| metadata.bad_value(TYPES, kind, "types are small numbers")))
            .collect::<Result<_, _>>()?;
        let mut ids = HashMap::new();
        for (id, &token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token, id) {
                return Err(metadata.bad_value(
                    TOKENS,
                    format!("an array with \"{token}\" at {first} and {id}"),
                    "every token must be there once",
                ));
            }
        }
        Ok(Self {
            metadata,
            tokens,
            types,
            ids,
            kind,
            add_bos: metadata.boolean(ADD_BOS)?.unwrap_or(add_bos),
            add_eos: metadata.boolean(ADD_EOS)?.unwrap_or(false),
        })
    }

    /// The id under `key` and its token, if there is such a key.
    fn named(&self, key: &str) -> Result<Option<(usize, &'a str)>, GgufError> {
        let Some(id) = self.metadata.unsigned(key)? else {
            return Ok(None);
        };
        let id = id as usize;
        match self.tokens.get(id) {
            Some(token) => Ok(Some((id, token))),
            None => Err(self.metadata.bad_value(key, id, format!("there are {} tokens", self.tokens.len()))),
        }
    }

    /// `model.vocab`: every token with its id.
    fn vocab(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, &token)| (token.to_owned(), id.into())).collect()
    }

    /// `added_tokens`: what is found in text as it is spelt. Those with a part to play are special even if their type
    /// does not say so, as they become when transformers reads `tokenizer_config.json`.
    fn added_tokens(&self) -> Result<Vec<Value>, GgufError> {
        let mut special: Vec<_> =
            self.types.iter().map(|kind| matches!(*kind, token_type::UNKNOWN | token_type::CONTROL)).collect();
        for (key, _) in NAMED_TOKENS {
            if let Some((id, _)) = self.named(key)? {
                special[id] = true;
            }
        }
        let strips = self.strips_space_after_tokens()?;
        let added = self.tokens.iter().zip(&self.types).zip(special).enumerate();
        Ok(added
            .filter(|(_, ((_, kind), special))| *special || **kind == token_type::USER_DEFINED)
            .map(|(id, ((token, _), special))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": strips && !["<unk>", "<s>", "<|endoftext|>"].contains(token),
                    "normalized": false,
                    "special": special,
                })
            })
            .collect())
    }

    /// Whether added tokens take the white space behind them, which no key says: llama.cpp goes by the model's name.
    fn strips_space_after_tokens(&self) -> Result<bool, GgufError> {
        let name = self.metadata.string("general.name")?.unwrap_or_default().to_lowercase();
        Ok(name.contains("phi-3") || name.contains("phi3"))
    }

    /// `post_processor`: the tokens put before and after a text.
    fn post_processor(&self) -> Result<Value, GgufError> {
        let added = |add: bool, flag: &str, key: &str| match (add, self.named(key)?) {
            (false, _) => Ok(None),
            (true, Some(named)) => Ok(Some(named)),
            (true, None) => Err(self.metadata.bad_value(flag, true, format!("that needs {key}, which is missing"))),
        };
        let before = added(self.add_bos, ADD_BOS, BOS)?;
        let after = added(self.add_eos, ADD_EOS, EOS)?;
        if before.is_none() && after.is_none() {
            return Ok(Value::Null);
        }
        let special = |named: Option<(usize, &str)>, type_id: u8| {
            named.map(|(_, token)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
        };
        let around = |sequence: &str, type_id: u8| -> Vec<Value> {
            special(before, type_id)
                .into_iter()
                .chain([json!({ "Sequence": { "id": sequence, "type_id": type_id } })])
                .chain(special(after, type_id))
                .collect()
        };
        let pair = [around("A", 0), around("B", 1)].concat();
        let special_tokens: Map<String, Value> = [before, after]
            .into_iter()
            .flatten()
            .map(|(id, token)| {
                let entry = json!({ "id": token, "ids": [id], "tokens": [token] });
                (token.to_owned(), entry)
            })
            .collect();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": special_tokens,
        }))
    }
}

/// The array under `key` is not one value for every token.
fn wrong_length(metadata: &Metadata<'_>, key: &str, found: usize, tokens: usize) -> GgufError {
    metadata.bad_value(key, format!("an array of {found}"), format!("{TOKENS} has {tokens}"))
}
