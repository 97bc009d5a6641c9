//! The tokenizer in the metadata (`tokenizer.*`), as the files of a Hugging Face directory and as an object.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{
    GgufFile, Metadata,
    error::{GgufError, GgufProblem},
    pre_tokenizer::PreTokenizer,
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The tokens with a part to play: the metadata key of the id, and the name in `tokenizer_config.json`.
const NAMED_TOKENS: [(&str, &str); 4] = [
    (BOS, "bos_token"),
    (EOS, "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
];

/// The kinds of tokens in `tokenizer.ggml.token_type` (`llama_token_type` in `llama.h`) that are found in the text as
/// they are spelt, before it is split. The others are vocabulary: 1 normal, 5 unused, 6 a byte.
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// The vocabulary and its rules, read and checked.
struct Vocabulary<'a> {
    metadata: Metadata<'a>,
    pre_tokenizer: PreTokenizer,
    tokens: Vec<&'a str>,
    types: Vec<i128>,
    ids: HashMap<&'a str, usize>,
    add_bos: bool,
    add_eos: bool,
}

impl GgufFile {
    /// The `tokenizer.json` of the model.
    ///
    /// # Errors
    /// The tokenizer is not a byte-level BPE (`tokenizer.ggml.model` other than `gpt2`), its pre-tokenizer is not
    /// known, or a key is missing, has the wrong type or an impossible value.
    pub fn hf_tokenizer_json(&self) -> Result<Value, GgufError> {
        let vocabulary = Vocabulary::read(self.metadata())?;
        let vocab: Map<String, Value> =
            vocabulary.tokens.iter().enumerate().map(|(id, &token)| (token.to_owned(), id.into())).collect();
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added_tokens()?,
            "normalizer": vocabulary.pre_tokenizer.normalizer(),
            "pre_tokenizer": vocabulary.pre_tokenizer.to_json(),
            "post_processor": vocabulary.post_processor()?,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": true,
                "trim_offsets": true,
                "use_regex": true,
            },
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": vocabulary.pre_tokenizer.ignore_merges,
                "vocab": vocab,
                "merges": vocabulary.merges()?,
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
        if let Some(context) = metadata.unsigned("llama.context_length")? {
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
        let model = metadata.required(MODEL, Metadata::string)?;
        if model != "gpt2" {
            return Err(metadata.bad_value(
                MODEL,
                format!("\"{model}\""),
                "only gpt2 (byte-level BPE) is supported; use the model's Hugging Face directory instead",
            ));
        }
        let name = metadata.required(PRE, Metadata::string)?;
        let pre_tokenizer = PreTokenizer::named(name).ok_or_else(|| {
            metadata.bad_value(PRE, format!("\"{name}\""), format!("supported are {}", PreTokenizer::names()))
        })?;
        if metadata.boolean(ADD_SPACE)? == Some(true) {
            return Err(metadata.bad_value(ADD_SPACE, true, "only false is supported with byte-level BPE"));
        }

        let tokens = metadata.required(TOKENS, Metadata::strings)?;
        let types = metadata.required(TYPES, Metadata::integers)?;
        if types.len() != tokens.len() {
            return Err(metadata.bad_value(
                TYPES,
                format!("an array of {}", types.len()),
                format!("{TOKENS} has {}", tokens.len()),
            ));
        }
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
            pre_tokenizer,
            tokens,
            types,
            ids,
            add_bos: metadata.boolean(ADD_BOS)?.unwrap_or(pre_tokenizer.add_bos),
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

    /// `added_tokens`: what is found in text as it is spelt. Those with a part to play are special even if their type
    /// does not say so, as they become when transformers reads `tokenizer_config.json`.
    fn added_tokens(&self) -> Result<Vec<Value>, GgufError> {
        let mut special: Vec<_> = self.types.iter().map(|kind| matches!(*kind, UNKNOWN | CONTROL)).collect();
        for (key, _) in NAMED_TOKENS {
            if let Some((id, _)) = self.named(key)? {
                special[id] = true;
            }
        }
        let added = self.tokens.iter().zip(&self.types).zip(special).enumerate();
        Ok(added
            .filter(|(_, ((_, kind), special))| *special || **kind == USER_DEFINED)
            .map(|(id, ((token, _), special))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": special,
                })
            })
            .collect())
    }

    /// `merges`: pairs of tokens, in the order in which they are merged. The file has each as two tokens with a space
    /// between; byte-level tokens have no spaces.
    fn merges(&self) -> Result<Vec<Value>, GgufError> {
        let merges = self.metadata.required(MERGES, Metadata::strings)?;
        merges
            .into_iter()
            .enumerate()
            .map(|(rank, merge)| {
                let bad = |expected: String| {
                    self.metadata.bad_value(MERGES, format!("an array with \"{merge}\" at {rank}"), expected)
                };
                let (left, right) =
                    merge.split_once(' ').ok_or_else(|| bad("expected two tokens with a space between".to_owned()))?;
                for token in [left.to_owned(), right.to_owned(), format!("{left}{right}")] {
                    if !self.ids.contains_key(token.as_str()) {
                        return Err(bad(format!("\"{token}\" is not among the tokens")));
                    }
                }
                Ok(json!([left, right]))
            })
            .collect()
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

#[cfg(test)]
mod tests {
    use super::super::test_file::{TestFile, assert_says, message};
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
        says(file("gpt-2").string(MODEL, "llama"), &[MODEL, "\"llama\"", "only gpt2"]);
        says(file("tekken"), &[PRE, "\"tekken\"", "gpt-2", "smollm", "llama-bpe", "qwen2", "default"]);
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
}
