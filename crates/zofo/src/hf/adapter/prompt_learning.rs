//! Adapters that are virtual tokens: `PREFIX_TUNING` (peft's `PrefixTuningConfig`) and `PROMPT_TUNING`
//! (`PromptTuningConfig`). Each has one tensor, `prompt_embeddings`.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{
    super::{error::HfError, json::Keys, weights::WeightFile},
    AdapterMatrix, CONFIG, WEIGHTS, config_json, is_set, read_matrix, write_folder,
};

/// The tensor of either kind.
const EMBEDDINGS: &str = "prompt_embeddings";

/// Keys and values of virtual tokens in every layer (Li and Liang, arXiv 2101.00190).
///
/// With `prefix_projection` PEFT trains a small network whose output they are, and saves the output: it is read like a
/// prefix that was trained directly, and written as one.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftPrefix {
    /// Layers of the base model.
    pub num_layers: usize,
    /// Heads of keys and values, which are fewer than those of queries where these are grouped.
    pub num_attention_heads: usize,
    /// Width of all those heads together.
    pub token_dim: usize,
    /// `[virtual tokens, num_layers · 2 · token_dim]`: of each layer the keys, then the values.
    pub embeddings: AdapterMatrix,
    /// Where the base model was found.
    pub base_model_name_or_path: Option<String>,
}

/// Embeddings of virtual tokens (Lester, Al-Rfou and Constant, arXiv 2104.08691).
#[derive(Clone, Debug, PartialEq)]
pub struct PeftPrompt {
    /// Layers of the base model.
    pub num_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// `[virtual tokens, width of the word embeddings]`.
    pub embeddings: AdapterMatrix,
    /// Where the base model was found.
    pub base_model_name_or_path: Option<String>,
}

impl PeftPrefix {
    pub(super) fn from_files(keys: &Keys<'_>, file: &WeightFile) -> Result<Self, HfError> {
        // Whether there was a projection changes nothing: see the type. The value has to be one all the same.
        keys.boolean("prefix_projection")?;
        let sizes = Sizes::read(keys)?;
        let width = sizes.num_layers * 2 * sizes.token_dim;
        let expected = format!("by the num_virtual_tokens, num_layers and token_dim of {CONFIG}");
        Ok(Self {
            num_layers: sizes.num_layers,
            num_attention_heads: sizes.num_attention_heads,
            token_dim: sizes.token_dim,
            embeddings: read_embeddings(file, [sizes.num_virtual_tokens, width], &expected)?,
            base_model_name_or_path: keys.string("base_model_name_or_path")?.map(str::to_owned),
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), HfError> {
        let [tokens, _] = self.embeddings.shape;
        check(dir, &self.embeddings, [tokens, self.num_layers * 2 * self.token_dim])?;
        let own = json!({
            "encoder_hidden_size": self.token_dim,
            "num_attention_heads": self.num_attention_heads,
            "num_layers": self.num_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": tokens,
            "prefix_projection": false,
            "token_dim": self.token_dim,
        });
        write("PREFIX_TUNING", dir, self.base_model_name_or_path.as_deref(), own, &self.embeddings)
    }
}

impl PeftPrompt {
    pub(super) fn from_files(keys: &Keys<'_>, file: &WeightFile) -> Result<Self, HfError> {
        let sizes = Sizes::read(keys)?;
        let expected = format!("by the num_virtual_tokens and token_dim of {CONFIG}");
        Ok(Self {
            num_layers: sizes.num_layers,
            num_attention_heads: sizes.num_attention_heads,
            embeddings: read_embeddings(file, [sizes.num_virtual_tokens, sizes.token_dim], &expected)?,
            base_model_name_or_path: keys.string("base_model_name_or_path")?.map(str::to_owned),
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), HfError> {
        let [tokens, token_dim] = self.embeddings.shape;
        check(dir, &self.embeddings, self.embeddings.shape)?;
        let own = json!({
            "num_attention_heads": self.num_attention_heads,
            "num_layers": self.num_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": tokens,
            // How it began does not matter any more, and "TEXT" would make PEFT look for a tokenizer.
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": null,
            "token_dim": token_dim,
            "tokenizer_kwargs": null,
            "tokenizer_name_or_path": null,
        });
        write("PROMPT_TUNING", dir, self.base_model_name_or_path.as_deref(), own, &self.embeddings)
    }
}

/// The keys that both kinds have.
struct Sizes {
    num_virtual_tokens: usize,
    num_layers: usize,
    num_attention_heads: usize,
    token_dim: usize,
}

impl Sizes {
    fn read(keys: &Keys<'_>) -> Result<Self, HfError> {
        // 2 for encoder-decoders.
        if keys.size("num_transformer_submodules")?.is_some_and(|count| count != 1) {
            return Err(keys.unsupported("num_transformer_submodules", "1"));
        }
        if keys.get("modules_to_save").is_some_and(is_set) {
            return Err(keys.unsupported("modules_to_save", "virtual tokens alone"));
        }
        Ok(Self {
            num_virtual_tokens: keys.required("num_virtual_tokens", Keys::size)?,
            num_layers: keys.required("num_layers", Keys::size)?,
            num_attention_heads: keys.required("num_attention_heads", Keys::size)?,
            token_dim: keys.required("token_dim", Keys::size)?,
        })
    }
}

/// The one tensor of the file, which has to have this shape.
fn read_embeddings(file: &WeightFile, shape: [usize; 2], why: &str) -> Result<AdapterMatrix, HfError> {
    let names = file.names();
    if let Some(other) = names.iter().find(|name| **name != EMBEDDINGS) {
        return Err(HfError::Unsupported {
            path: file.path().to_owned(),
            what: "a tensor".to_owned(),
            found: format!("\"{other}\""),
            supported: format!("{EMBEDDINGS} alone"),
        });
    }
    if names.is_empty() {
        return Err(HfError::MissingTensors { path: file.path().to_owned(), names: vec![EMBEDDINGS.to_owned()] });
    }
    let matrix = read_matrix(file, EMBEDDINGS)?;
    if matrix.shape != shape {
        return Err(wrong_shape(file.path(), format!("{shape:?}, {why}"), matrix.shape));
    }
    Ok(matrix)
}

fn check(dir: &Path, matrix: &AdapterMatrix, shape: [usize; 2]) -> Result<(), HfError> {
    let path = dir.join(WEIGHTS);
    if matrix.shape != shape {
        return Err(wrong_shape(&path, format!("{shape:?}"), matrix.shape));
    }
    if !matrix.is_whole() {
        return Err(wrong_shape(&path, format!("one of {} values", matrix.values.len()), shape));
    }
    Ok(())
}

fn wrong_shape(path: &Path, expected: String, found: [usize; 2]) -> HfError {
    HfError::Unexpected {
        path: path.to_owned(),
        what: format!("shape of tensor \"{EMBEDDINGS}\""),
        expected,
        found: format!("{found:?}"),
    }
}

fn write(kind: &str, dir: &Path, base: Option<&str>, own: Value, matrix: &AdapterMatrix) -> Result<(), HfError> {
    write_folder(dir, &config_json(kind, base, own), &BTreeMap::from([(EMBEDDINGS.to_owned(), matrix)]))
}

#[cfg(test)]
mod tests;
