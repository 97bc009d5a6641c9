//! The tokens that a model's files name, and whether its tokenizer fits the model.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::super::{error::HfError, json::Keys};

const BOS: &str = "bos_token_id";
const EOS: &str = "eos_token_id";

/// The tokens that begin and end a text, as the configurations of model and generation name them.
#[derive(Debug)]
pub(super) struct NamedTokens {
    /// At which generation stops.
    eos: Vec<u32>,
    /// All, also those that generation does not use.
    named: Vec<NamedToken>,
}

/// A token, and what names it.
#[derive(Debug)]
struct NamedToken {
    path: PathBuf,
    key: &'static str,
    id: u32,
}

impl NamedTokens {
    /// Those of a `config.json`; without a word about EOS it means `default_eos`.
    ///
    /// # Errors
    /// A key is neither a token below `vocabulary` nor a list of them.
    pub(super) fn of_config(keys: &Keys<'_>, default_eos: Option<u32>, vocabulary: usize) -> Result<Self, HfError> {
        let named = named(keys, vocabulary)?;
        let mut eos = ids_of(EOS, &named);
        if !keys.is_stated(EOS) {
            eos.extend(default_eos.filter(|&id| (id as usize) < vocabulary));
        }
        Ok(Self { eos, named })
    }

    /// Adds those of a `generation_config.json`: what generation stops at may be more than what the model was trained to
    /// end with.
    ///
    /// # Errors
    /// As for [`of_config`](Self::of_config).
    pub(super) fn add_generation(&mut self, keys: &Keys<'_>, vocabulary: usize) -> Result<(), HfError> {
        let named = named(keys, vocabulary)?;
        let eos = ids_of(EOS, &named);
        if !eos.is_empty() {
            self.eos = eos;
        }
        self.named.extend(named);
        Ok(())
    }

    /// The tokens at which generation stops.
    pub(super) fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Checks that the tokenizer from the file `path` has all of them.
    pub(super) fn check_all_in(&self, tokenizer: &Tokenizer, path: &Path) -> Result<(), HfError> {
        match self.named.iter().find(|token| tokenizer.id_to_token(token.id).is_none()) {
            None => Ok(()),
            Some(token) => Err(HfError::NoSuchToken {
                path: token.path.clone(),
                key: token.key,
                id: token.id,
                tokenizer: path.to_owned(),
            }),
        }
    }
}

/// Checks that what text becomes by the tokenizer from the file `path` has a row in an embedding of `rows`.
///
/// There may be more rows than tokens: they are padded to a round number. A special token may lie beyond the rows, as
/// the place of an image does in a model that was published without its eyes (Gemma 3 1B): text becomes one only if it
/// spells it out, and is refused when it does ([`check_vocabulary`](crate::task::check_vocabulary)).
pub(super) fn check_rows(tokenizer: &Tokenizer, path: &Path, rows: usize) -> Result<(), HfError> {
    let vocabulary = tokenizer.get_vocab(true);
    let tokens = vocabulary.len();
    let no_row = |token: String, id| HfError::NoRowForToken { path: path.to_owned(), token, id, tokens, rows };
    let added = tokenizer.get_added_tokens_decoder();
    let is_special = |id: &u32| added.get(id).is_some_and(|token| token.special);
    let beyond = vocabulary.into_iter().filter(|(_, id)| *id as usize >= rows && !is_special(id));
    if let Some((token, id)) = beyond.min_by_key(|(_, id)| *id) {
        return Err(no_row(token, id));
    }

    // What is put around every text, which has names and numbers of its own in the file.
    let nothing = tokenizer
        .encode_fast("", true)
        .map_err(|cause| HfError::Tokenizer { path: path.to_owned(), reason: cause.to_string() })?;
    let around = nothing.get_ids().iter().zip(nothing.get_tokens()).zip(nothing.get_attention_mask());
    for ((&id, token), &is_text) in around {
        // The rest is padding, which no text keeps.
        if is_text == 0 {
            continue;
        }
        if id as usize >= rows {
            return Err(no_row(token.clone(), id));
        }
        if tokenizer.id_to_token(id).is_none() {
            return Err(HfError::Unexpected {
                path: path.to_owned(),
                what: "what the post-processor puts around a text".to_owned(),
                expected: "tokens of the vocabulary".to_owned(),
                found: format!("\"{token}\" with the id {id}"),
            });
        }
    }
    Ok(())
}

fn named(keys: &Keys<'_>, vocabulary: usize) -> Result<Vec<NamedToken>, HfError> {
    let mut named = Vec::new();
    for key in [BOS, EOS] {
        let ids = token_ids(keys, key, vocabulary)?.into_iter();
        named.extend(ids.map(|id| NamedToken { path: keys.path.to_owned(), key, id }));
    }
    Ok(named)
}

fn ids_of(key: &str, named: &[NamedToken]) -> Vec<u32> {
    named.iter().filter(|token| token.key == key).map(|token| token.id).collect()
}

/// The tokens under `key`: one, a list, or none.
fn token_ids(keys: &Keys<'_>, key: &str, vocabulary: usize) -> Result<Vec<u32>, HfError> {
    let values = match keys.get(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let id = |value: &Value| {
        let id = u32::try_from(value.as_u64()?).ok()?;
        ((id as usize) < vocabulary).then_some(id)
    };
    values
        .iter()
        .map(|value| {
            let expected = || format!("tokens below the {vocabulary} of the vocabulary");
            id(value).ok_or_else(|| keys.unexpected(key, expected()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::test_model::{TestModel, assert_says, message};
    use super::*;
    use crate::hf::ModelFiles;

    /// The tokenizer of a model of 6 rows with these files.
    fn tokenizer(change: impl FnOnce(&mut TestModel, &mut Value)) -> Result<Tokenizer, HfError> {
        let mut test = TestModel::new();
        let mut tokenizer: Value = serde_json::from_str(&test.files["tokenizer.json"]).unwrap();
        change(&mut test, &mut tokenizer);
        test.files.insert("tokenizer.json", tokenizer.to_string());
        ModelFiles::open(test.write().root()).unwrap().tokenizer()
    }

    fn added(content: &str, id: u32, special: bool) -> Value {
        json!([{
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": special,
        }])
    }

    #[test]
    fn more_tokens_than_rows() {
        let parts = ["tokenizer.json", "\"e\"", "the id 6", "7 tokens", "6 rows", "that of another model"];
        let text = message(tokenizer(|_, tokenizer| tokenizer["model"]["vocab"]["e"] = json!(6)));
        assert_says(&text, &parts);
        let text = message(tokenizer(|_, tokenizer| tokenizer["added_tokens"] = added("e", 6, false)));
        assert_says(&text, &parts);
        // Only text that spells it out becomes one.
        let special = tokenizer(|_, tokenizer| tokenizer["added_tokens"] = added("<image>", 6, true)).unwrap();
        assert_eq!(special.encode("a<image>", true).unwrap().get_ids(), [2, 6]);
    }

    #[test]
    fn more_rows_than_tokens() {
        let smaller = tokenizer(|_, tokenizer| drop(tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("d")));
        assert_eq!(smaller.unwrap().get_vocab_size(true), 5);
    }

    #[test]
    fn what_is_put_around_every_text() {
        let with_template = |id: u32, token: &str, change: &dyn Fn(&mut Value)| {
            let template = json!([
                { "SpecialToken": { "id": token, "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ]);
            let mut special = json!({});
            special[token] = json!({ "id": token, "ids": [id], "tokens": [token] });
            tokenizer(|_, tokenizer| {
                change(tokenizer);
                tokenizer["post_processor"] = json!({
                    "type": "TemplateProcessing",
                    "single": template,
                    "pair": template,
                    "special_tokens": special,
                });
            })
        };
        with_template(1, "</s>", &|_| ()).unwrap();
        let with_image = |tokenizer: &mut Value| tokenizer["added_tokens"] = added("<image>", 6, true);
        let text = message(with_template(6, "<image>", &with_image));
        assert_says(&text, &["tokenizer.json", "\"<image>\" has the id 6", "6 rows"]);
        let without_d = |tokenizer: &mut Value| drop(tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("d"));
        let text = message(with_template(5, "<s>", &without_d));
        assert_says(&text, &["tokenizer.json", "post-processor", "\"<s>\" with the id 5"]);
    }

    #[test]
    fn named_tokens_that_the_tokenizer_does_not_have() {
        let without_d = |change: &dyn Fn(&mut TestModel)| {
            message(tokenizer(|test, tokenizer| {
                tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("d");
                change(test);
            }))
        };
        let text = without_d(&|test| test.config[EOS] = json!([1, 5]));
        assert_says(&text, &["config.json", "\"eos_token_id\"", "token 5", "tokenizer.json"]);
        let text = without_d(&|test| test.config[BOS] = json!(5));
        assert_says(&text, &["config.json", "\"bos_token_id\"", "token 5", "tokenizer.json"]);
        let text = without_d(&|test| {
            test.files.insert("generation_config.json", json!({ EOS: 5 }).to_string());
        });
        assert_says(&text, &["generation_config.json", "\"eos_token_id\"", "token 5", "tokenizer.json"]);
    }
}
