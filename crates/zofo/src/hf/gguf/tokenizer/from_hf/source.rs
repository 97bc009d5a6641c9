//! The files of a tokenizer, read and checked.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        super::{
            super::{HfError, json::Keys},
            pre_tokenizer::PreTokenizer,
        },
        BOS, EOS, NAMED_TOKENS, UNK,
        sentence_piece::{Merge, SPACE, is_byte_token},
        token_type,
    },
    HfTokenizerFiles,
    json::{AddedToken, Bpe, Spaces, tokens_around},
};

/// The files with what was read from them.
pub(super) struct Source<'a> {
    files: HfTokenizerFiles<'a>,
    keys: Keys<'a>,
    pub(super) model: Bpe,
    added: Vec<AddedToken>,
    /// Of all tokens, added ones included.
    ids: HashMap<String, u32>,
    unknown: Option<u32>,
}

impl<'a> Source<'a> {
    pub(super) fn read(files: &HfTokenizerFiles<'a>) -> Result<Self, HfError> {
        let keys = Keys::new(files.path, files.tokenizer);
        let not_a_tokenizer =
            |cause: serde_json::Error| HfError::Tokenizer { path: files.path.to_owned(), reason: cause.to_string() };
        let model = keys.required("model", |keys, key| Ok(keys.get(key)))?;
        // Oldest files have no type.
        if let Some(model) = keys.object("model")?
            && let Some(kind) = model.string("type")?
            && kind != "BPE"
        {
            return Err(model.unsupported("type", "BPE, byte-level or with byte fallback"));
        }
        let model = Bpe::deserialize(model).map_err(not_a_tokenizer)?;
        let added = match keys.get("added_tokens") {
            Some(added) => Vec::<AddedToken>::deserialize(added).map_err(not_a_tokenizer)?,
            None => Vec::new(),
        };
        for (key, affix) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
                return Err(HfError::Unsupported {
                    path: files.path.to_owned(),
                    what: format!("key \"model.{key}\""),
                    found: format!("\"{affix}\""),
                    supported: "none".to_owned(),
                });
            }
        }
        let mut ids = model.vocab.clone();
        ids.extend(added.iter().map(|token| (token.content.clone(), token.id)));
        let unknown = match &model.unk_token {
            None => None,
            Some(token) => Some(*ids.get(token).ok_or_else(|| HfError::Unexpected {
                path: files.path.to_owned(),
                what: "key \"model.unk_token\"".to_owned(),
                expected: "one of the tokens".to_owned(),
                found: format!("\"{token}\""),
            })?),
        };
        Ok(Self { files: *files, keys, model, added, ids, unknown })
    }

    /// What `tokenizer.json` has under `key`, or null.
    fn part(&self, key: &str) -> &'a Value {
        self.keys.get(key).unwrap_or(&Value::Null)
    }

    /// The types of the tokens, filled up to the embedding.
    pub(super) fn types(&self) -> Vec<i32> {
        let mut types = vec![token_type::UNUSED; self.files.vocabulary];
        let mut set = |id: u32, kind: i32| {
            if let Some(place) = types.get_mut(id as usize) {
                *place = kind;
            }
        };
        let fallback = self.model.byte_fallback;
        for (token, &id) in &self.model.vocab {
            let is_byte = fallback && is_byte_token(token);
            set(id, if is_byte { token_type::BYTE } else { token_type::NORMAL });
        }
        for token in &self.added {
            // Runs of spaces are also what merges make of them; so they are found whichever way spaces are written.
            let is_spaces = fallback && token.content.chars().all(|c| SPACE.contains(c));
            match (token.special, is_spaces && self.model.vocab.contains_key(&token.content)) {
                (true, _) => set(token.id, token_type::CONTROL),
                (false, true) => {}
                (false, false) => set(token.id, token_type::USER_DEFINED),
            }
        }
        if let Some(unknown) = self.unknown.filter(|_| fallback) {
            set(unknown, token_type::UNKNOWN);
        }
        types
    }

    /// The tokens by id. What the tokenizer has no token for is `[PAD…]`, as in llama.cpp's converter.
    pub(super) fn tokens(&self, types: &[i32]) -> Result<Vec<String>, HfError> {
        let unexpected = |what: String, expected: String, found: String| HfError::Unexpected {
            path: self.files.path.to_owned(),
            what,
            expected,
            found,
        };
        let mut tokens = vec![None; types.len()];
        for (token, &id) in &self.ids {
            let place = tokens.get_mut(id as usize).ok_or_else(|| {
                let rows = types.len();
                unexpected(
                    format!("token \"{token}\""),
                    format!("an id below the embedding's {rows} rows"),
                    id.to_string(),
                )
            })?;
            if let Some(first) = place.replace(token.as_str()) {
                return Err(unexpected(
                    format!("id {id}"),
                    "one token".to_owned(),
                    format!("\"{first}\" and \"{token}\""),
                ));
            }
        }
        let named = |(id, token): (usize, Option<&str>)| match token {
            Some(token) => Ok(token.to_owned()),
            None => {
                let filler = format!("[PAD{id}]");
                if self.ids.contains_key(&filler) {
                    return Err(unexpected(
                        format!("id {id}"),
                        format!("\"{filler}\" or another token"),
                        "none".to_owned(),
                    ));
                }
                Ok(filler)
            }
        };
        tokens.into_iter().enumerate().map(named).collect()
    }

    pub(super) fn merges(&self) -> Result<Vec<Merge>, HfError> {
        let vocab = &self.model.vocab;
        let find = |token: &str| vocab.get(token).map(|&id| id as usize);
        self.model
            .merges
            .iter()
            .enumerate()
            .map(|(rank, tokens)| {
                let merge = tokens.pair().and_then(|(left, right)| {
                    let whole = find(&format!("{left}{right}"))?;
                    Some(Merge { left: find(left)?, right: find(right)?, whole })
                });
                merge.ok_or_else(|| HfError::Unexpected {
                    path: self.files.path.to_owned(),
                    what: format!("merge {rank}"),
                    expected: "two tokens that make a third".to_owned(),
                    found: format!("{tokens:?}"),
                })
            })
            .collect()
    }

    pub(super) fn spaces(&self) -> Result<Spaces, HfError> {
        Spaces::read(self.part("normalizer"), self.part("pre_tokenizer")).ok_or_else(|| {
            let key = if self.part("pre_tokenizer").is_null() { "normalizer" } else { "pre_tokenizer" };
            self.keys.unsupported(
                key,
                "with byte fallback, what Llama 2, Gemma or Mistral have there (spaces become ▁, with or without one in \
                 front)",
            )
        })
    }

    pub(super) fn pre_tokenizer(&self) -> Result<&'static str, HfError> {
        let (normalizer, pre_tokenizer) = (self.part("normalizer"), self.part("pre_tokenizer"));
        PreTokenizer::recognise(normalizer, pre_tokenizer, self.model.ignore_merges).ok_or_else(|| {
            let ignore_merges = self.model.ignore_merges;
            self.keys.unsupported(
                "pre_tokenizer",
                format!(
                    "those of {} as these models have them (here with \"normalizer\" {normalizer} and \
                     \"ignore_merges\" {ignore_merges})",
                    PreTokenizer::names()
                ),
            )
        })
    }

    pub(super) fn tokens_around(&self) -> Result<(Option<u32>, Option<u32>), HfError> {
        tokens_around(self.part("post_processor")).ok_or_else(|| {
            self.keys
                .unsupported("post_processor", "at most one token before and one after a text, by TemplateProcessing")
        })
    }

    /// The tokens with a part to play, as metadata keys and ids; `before` and `after` are put around a text.
    pub(super) fn named(&self, before: Option<u32>, after: Option<u32>) -> Result<Vec<(&'static str, u32)>, HfError> {
        let mut named = Vec::new();
        for (key, name) in NAMED_TOKENS {
            let around = match key {
                BOS => before,
                EOS => after,
                _ => None,
            };
            let stated = match key {
                UNK if self.unknown.is_some() => self.unknown,
                _ => self.stated(name)?,
            };
            if let (Some(around), Some(stated)) = (around, stated)
                && around != stated
            {
                return Err(self.keys.unsupported(
                    "post_processor",
                    format!("the \"{name}\" of tokenizer_config.json, id {stated}, instead of id {around}"),
                ));
            }
            if let Some(id) = around.or(stated).or_else(|| self.configured(&format!("{name}_id"))) {
                named.push((key, id));
            }
        }
        Ok(named)
    }

    /// The id of the token that `tokenizer_config.json` has under `name`.
    fn stated(&self, name: &str) -> Result<Option<u32>, HfError> {
        let path = self.files.path.with_file_name("tokenizer_config.json");
        let keys = Keys::new(&path, self.files.tokenizer_config);
        let token = match keys.get(name) {
            None => return Ok(None),
            Some(Value::String(token)) => Some(token.as_str()),
            Some(token) => token["content"].as_str(),
        };
        match token.and_then(|token| self.ids.get(token)) {
            Some(&id) => Ok(Some(id)),
            None => Err(keys.unexpected(name, "one of the tokens of tokenizer.json")),
        }
    }

    /// The id that `config.json` has under `key`, if it is one of an added token: configurations are known to repeat ids
    /// of other tokenizers.
    fn configured(&self, key: &str) -> Option<u32> {
        let id = match self.files.config.get(key)? {
            Value::Array(ids) => ids.first()?.as_u64()?,
            id => id.as_u64()?,
        };
        self.added.iter().map(|token| token.id).find(|&added| u64::from(added) == id)
    }

    pub(super) fn chat_template(&self) -> Option<&'a str> {
        let stated = || match self.files.tokenizer_config.get("chat_template")? {
            // Several, each with a name.
            Value::Array(templates) => {
                templates.iter().find(|template| template["name"] == "default")?["template"].as_str()
            }
            template => template.as_str(),
        };
        self.files.chat_template.or_else(stated)
    }

    /// Properties of added tokens for which GGUF has no place.
    pub(super) fn lost_properties(&self) -> Vec<String> {
        let normalizes = !self.part("normalizer").is_null();
        let lost = |what: &str, has: &dyn Fn(&AddedToken) -> bool| {
            let tokens: Vec<_> = self.added.iter().filter(|token| has(token)).collect();
            match tokens[..] {
                [] => None,
                [token] => Some(format!("token \"{}\" {what}", token.content)),
                [token, ..] => Some(format!("token \"{}\" {what}, and {} more", token.content, tokens.len() - 1)),
            }
        };
        let lost = [
            lost("takes the white space around it (lstrip, rstrip)", &|token| token.lstrip || token.rstrip),
            lost("is only found between words (single_word)", &|token| token.single_word),
            lost("is looked for in normalized text (normalized)", &|token| normalizes && token.normalized),
        ];
        lost.into_iter().flatten().collect()
    }
}
