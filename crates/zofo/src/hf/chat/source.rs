//! Where a model keeps its chat template and the tokens that it mentions.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::super::{
    atomic::failed_to,
    error::HfError,
    json::{JsonFile, Keys},
    model_files::ModelFiles,
};

const TEMPLATE: &str = "chat_template.jinja";
const PROCESSOR_TEMPLATE: &str = "chat_template.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// Under this name in all of the files.
const KEY: &str = "chat_template";

/// The tokens that templates know by name.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A template that is not compiled yet.
#[derive(Debug)]
pub(super) struct Source {
    /// The file it is from.
    pub(super) path: PathBuf,
    pub(super) template: String,
    /// Name and text.
    pub(super) special_tokens: Vec<(&'static str, String)>,
}

impl Source {
    /// The template of a model, if it has one.
    pub(super) fn find(files: &ModelFiles) -> Result<Option<Self>, HfError> {
        let model = files.source_path();
        let config = files.tokenizer_config()?;
        let Some((path, template)) = template(model, config.as_ref())? else {
            return Ok(None);
        };
        // Older folders name the tokens in a file of their own.
        let named = [config, JsonFile::read_if_there(model.join(SPECIAL_TOKENS))?];
        let mut special_tokens = Vec::new();
        for file in named.iter().flatten() {
            for (name, token) in named_tokens(&file.keys())? {
                if !special_tokens.iter().any(|(known, _)| *known == name) {
                    special_tokens.push((name, token));
                }
            }
        }
        Ok(Some(Self { path, template, special_tokens }))
    }
}

/// The file of the template, and its text. `model` is a folder or a GGUF file; only a folder has files in it.
fn template(model: &Path, config: Option<&JsonFile>) -> Result<Option<(PathBuf, String)>, HfError> {
    let path = model.join(TEMPLATE);
    if path.exists() {
        let text = fs::read(&path).map_err(failed_to("read", &path))?;
        let Ok(text) = String::from_utf8(text) else {
            let (what, expected, found) = ("the file".to_owned(), "UTF-8 text".to_owned(), "other bytes".to_owned());
            return Err(HfError::Unexpected { path, what, expected, found });
        };
        return Ok(Some((path, text)));
    }
    let processor = JsonFile::read_if_there(model.join(PROCESSOR_TEMPLATE))?;
    for file in config.into_iter().chain(&processor) {
        if let Some(text) = in_config(&file.keys())? {
            return Ok(Some((file.path.clone(), text)));
        }
    }
    Ok(None)
}

/// A template, or the default one of a list of `{ "name": …, "template": … }`.
fn in_config(keys: &Keys<'_>) -> Result<Option<String>, HfError> {
    let Some(Value::Array(list)) = keys.get(KEY) else {
        return Ok(keys.string(KEY)?.map(str::to_owned));
    };
    let mut names = Vec::new();
    for entry in list {
        match (entry["name"].as_str(), entry["template"].as_str()) {
            (Some("default"), Some(template)) => return Ok(Some(template.to_owned())),
            (Some(name), Some(_)) => names.push(name),
            _ => return Err(keys.unexpected(KEY, "a string, or a list of objects with name and template")),
        }
    }
    Err(HfError::Unexpected {
        path: keys.path.to_owned(),
        what: format!("key \"{KEY}\""),
        expected: "a template named \"default\"".to_owned(),
        found: if names.is_empty() { "none at all".to_owned() } else { names.join(", ") },
    })
}

/// A token is a string, or an object with how it is matched and the string as `content`.
fn named_tokens(keys: &Keys<'_>) -> Result<Vec<(&'static str, String)>, HfError> {
    let mut tokens = Vec::new();
    for name in TOKENS {
        let text = match keys.get(name) {
            None => continue,
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            Some(token) => token.as_str(),
        };
        let text = text.ok_or_else(|| keys.unexpected(name, "a string, or an object with the string as content"))?;
        tokens.push((name, text.to_owned()));
    }
    Ok(tokens)
}
