//! Which files of a repository make a model or an adapter.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::adapter;
use super::id::{is_gguf, is_safe_path};

/// Without it nothing is known of a model.
pub(super) const CONFIG: &str = "config.json";

/// The small files that are fetched where they are.
pub(super) const SMALL: [&str; 11] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Terms under which the model may be used, by how their names begin.
const TERMS: [&str; 4] = ["license", "licence", "notice", "use_policy"];

/// Weights, in the order in which they are looked for: a whole file, or the index of several. What [`ModelFiles`] takes
/// first comes first.
///
/// [`ModelFiles`]: crate::hf::ModelFiles
const WEIGHTS: [Weights; 4] = [
    Weights::Whole("model.safetensors"),
    Weights::Index("model.safetensors.index.json"),
    Weights::Whole("pytorch_model.bin"),
    Weights::Index("pytorch_model.bin.index.json"),
];

/// How a model's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// In this file.
    Whole(&'static str),
    /// In several, which this one names.
    Index(&'static str),
}

impl Weights {
    /// Those of a model with these files.
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        WEIGHTS.into_iter().find(|weights| match weights {
            Self::Whole(name) | Self::Index(name) => has(name),
        })
    }
}

/// Whether the file is wanted besides the weights.
pub(super) fn is_small_file(name: &str) -> bool {
    SMALL.contains(&name) || is_terms(name)
}

/// Whether the file has terms of use.
pub(super) fn is_terms(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !name.contains('/') && is_safe_path(name) && TERMS.iter().any(|term| lower.starts_with(term))
}

/// The files of an adapter, the configuration first; its weights are those that [`PeftAdapter`] takes.
///
/// # Errors
/// The one that is missing.
///
/// [`PeftAdapter`]: crate::hf::PeftAdapter
pub(super) fn adapter_files(has: impl Fn(&str) -> bool) -> Result<[&'static str; 2], &'static str> {
    if !has(adapter::CONFIG) {
        return Err(adapter::CONFIG);
    }
    let weights = [adapter::WEIGHTS, adapter::PICKLED_WEIGHTS].into_iter().find(|name| has(name));
    Ok([adapter::CONFIG, weights.ok_or(adapter::WEIGHTS)?])
}

/// Whether a name that a repository lists would leave the folder that it is joined to. Blanks and letters of any script
/// are usual in names, and harmless.
pub(super) fn escapes(name: &str) -> bool {
    name.contains(['\\', '\0', ':']) || name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// The GGUF files among these, for messages.
pub(super) fn gguf_files<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names.into_iter().filter(|name| is_gguf(name)).map(str::to_owned).collect()
}

/// The files that an index of weights names, each once.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: Value = serde_json::from_slice(index).map_err(|error| format!("it is not valid JSON: {error}"))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err("expected an object \"weight_map\" with the file of every weight, found none".to_owned());
    };
    map.iter()
        .map(|(weight, file)| match file.as_str() {
            Some(file) if is_safe_path(file) => Ok(file.to_owned()),
            _ => Err(format!("weight_map: expected a file of the model for \"{weight}\", found {file}")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_by_preference() {
        let of = |names: &[&str]| Weights::of(|name| names.contains(&name));
        let all = ["pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"];
        assert_eq!(of(&all), Some(Weights::Whole("model.safetensors")));
        assert_eq!(of(&all[..2]), Some(Weights::Index("model.safetensors.index.json")));
        assert_eq!(of(&all[..1]), Some(Weights::Whole("pytorch_model.bin")));
        assert_eq!(of(&["tf_model.h5"]), None);
    }

    #[test]
    fn adapters() {
        let of = |names: &[&str]| adapter_files(|name| names.contains(&name));
        let [config, new, old] = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];
        assert_eq!(of(&[old, new, config]), Ok([config, new]));
        assert_eq!(of(&[old, config]), Ok([config, old]));
        assert_eq!(of(&["config.json", new]), Err(config));
        assert_eq!(of(&[config, "model.safetensors"]), Err(new));
    }

    #[test]
    fn only_what_is_needed() {
        for name in ["tokenizer.json", "chat_template.jinja", "LICENSE", "LICENSE.txt", "NOTICE.md", "USE_POLICY.md"] {
            assert!(is_small_file(name), "{name}");
        }
        for name in ["README.md", "tf_model.h5", "onnx/config.json", "LICENSE/x", "model.safetensors", ".gitattributes"]
        {
            assert!(!is_small_file(name), "{name}");
        }
    }

    #[test]
    fn names_that_escape() {
        for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..\\x", "C:x"] {
            assert!(escapes(name), "{name}");
        }
        for name in ["config.json", "my picture (1).png", "onnx/größe.bin", "..x", ".gitattributes"] {
            assert!(!escapes(name), "{name}");
        }
    }

    #[test]
    fn an_index_names_each_shard_once() {
        let index =
            br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}}"#;
        assert_eq!(
            shards(index).unwrap().into_iter().collect::<Vec<_>>(),
            ["model-1.safetensors", "model-2.safetensors"]
        );
        assert!(shards(b"{").unwrap_err().contains("not valid JSON"));
        assert!(shards(b"{}").unwrap_err().contains("weight_map"));
        for file in [r#""../x""#, r#""/x""#, "3"] {
            let problem = shards(format!(r#"{{"weight_map": {{"a": {file}}}}}"#).as_bytes()).unwrap_err();
            assert!(problem.contains("\"a\"") && problem.contains(file), "{problem}");
        }
    }
}
