//! Writing a model folder.

use std::{ffi::OsStr, fs, io, ops::Deref, path::Path};

use serde_json::{Map, Value, json};

use super::super::{
    atomic::{FileError, failed_to, replace_dir_atomically, write_file},
    dtype::WeightDtype,
    error::HfError,
    safetensors::{LARGEST_SHARD, TensorSpec, shards, write_shard},
};
use super::{CONFIG, GENERATION_CONFIG, ModelFiles, TOKENIZER, TOKENIZER_CONFIG, Weights};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files that go with a model besides its configuration and weights: generation, tokenizer, and the terms of use, which
/// ask to be passed on.
const COMPANIONS: [&str; 19] = [
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
    "USE_POLICY.txt",
];

impl ModelFiles {
    /// Writes a model folder that transformers loads: this model with other values of its weights.
    ///
    /// `content` is asked for the bytes of one weight after the other, in the order of [`parameters`](Self::parameters)
    /// and in `dtype`; nothing else of the weights' size is in memory. Weights of more than 5 GB come in several files
    /// with an index. The configuration is this model's own with `dtype` in it; files of tokenizer and generation, and
    /// the model's licence, are copied; for a GGUF file they are made from its metadata.
    ///
    /// `dir` is replaced whole or not at all, and only if there is nothing in it that this function does not write.
    ///
    /// # Errors
    /// That of `content`; it gives too many or too few bytes; `dir` holds something else; a file cannot be read or
    /// written.
    pub fn write_backbone<T: Deref<Target = [u8]>, E: From<HfError>>(
        &self,
        dir: &Path,
        dtype: WeightDtype,
        content: impl FnMut(&str) -> Result<T, E>,
    ) -> Result<(), E> {
        self.write_backbone_in_shards(dir, dtype, LARGEST_SHARD, content)
    }

    pub(super) fn write_backbone_in_shards<T: Deref<Target = [u8]>, E: From<HfError>>(
        &self,
        dir: &Path,
        dtype: WeightDtype,
        largest_shard: usize,
        content: impl FnMut(&str) -> Result<T, E>,
    ) -> Result<(), E> {
        replace_dir_atomically(dir, is_ours, |folder| {
            self.write_companions(folder)?;
            write_json(&folder.join(CONFIG), &self.config_with(dtype))?;
            self.write_weights(folder, dtype, largest_shard, content).map_err(Failure::Callers)
        })
        .map_err(|failure| match failure {
            Failure::Ours(error) => E::from(error),
            Failure::Callers(error) => error,
        })
    }

    /// `config.json` with the type of the weights, under whichever key it has; `torch_dtype` is read by all versions of
    /// transformers.
    fn config_with(&self, dtype: WeightDtype) -> Value {
        let mut config = self.config_json.clone();
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), dtype.torch_name().into());
        if let Some(older) = config.get_mut("torch_dtype") {
            *older = dtype.torch_name().into();
        }
        Value::Object(config)
    }

    fn write_companions(&self, folder: &Path) -> Result<(), HfError> {
        if let Weights::Gguf(weights) = &self.weights {
            let file = weights.file();
            write_json(&folder.join(TOKENIZER), &file.hf_tokenizer_json()?)?;
            return write_json(&folder.join(TOKENIZER_CONFIG), &file.hf_tokenizer_config()?);
        }
        for name in COMPANIONS {
            let from = self.path.join(name);
            match fs::read(&from) {
                Ok(content) => write_file(&folder.join(name), &content)?,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(failed_to("read", &from)(cause).into()),
            }
        }
        Ok(())
    }

    fn write_weights<T: Deref<Target = [u8]>, E: From<HfError>>(
        &self,
        folder: &Path,
        dtype: WeightDtype,
        largest_shard: usize,
        mut content: impl FnMut(&str) -> Result<T, E>,
    ) -> Result<(), E> {
        let parameters = self.parameters();
        let specs: Vec<_> = parameters.map(|(name, shape)| TensorSpec { name, shape, dtype }).collect();
        let shards = shards(&specs, largest_shard);
        if let [all] = shards[..] {
            return write_shard(&folder.join(WEIGHTS), all, content);
        }
        let mut weight_map = Map::new();
        for (index, shard) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
            write_shard(&folder.join(&name), shard, &mut content)?;
            let names = shard.iter().map(|spec| spec.name.to_owned());
            weight_map.extend(names.map(|tensor| (tensor, Value::from(name.as_str()))));
        }
        let total: usize = specs.iter().map(TensorSpec::bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        Ok(write_json(&folder.join(INDEX), &index)?)
    }
}

/// An error of this module, or one of the caller's, which only the caller can name.
enum Failure<E> {
    Ours(HfError),
    Callers(E),
}

impl<E> From<FileError> for Failure<E> {
    fn from(error: FileError) -> Self {
        Self::Ours(error.into())
    }
}

impl<E> From<HfError> for Failure<E> {
    fn from(error: HfError) -> Self {
        Self::Ours(error)
    }
}

/// Whether a model folder may hold a file of this name.
fn is_ours(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    name == CONFIG
        || name == INDEX
        || COMPANIONS.contains(&name)
        || name.starts_with("model") && name.ends_with(".safetensors")
}

fn write_json(path: &Path, value: &Value) -> Result<(), HfError> {
    Ok(write_file(path, format!("{value:#}\n").as_bytes())?)
}
