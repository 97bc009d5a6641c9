//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors`, or the older `adapter_model.bin`.

mod lora;
mod names;
mod prompt_learning;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

pub(crate) use self::names::is_meant;
pub use self::{
    lora::{LoraPair, PeftLora},
    names::{BadPattern, ModuleNames, Patterns},
    prompt_learning::{PeftPrefix, PeftPrompt},
};
use super::{
    atomic::{failed_to, replace_dir_atomically, write_file},
    dtype::WeightDtype,
    error::HfError,
    json::{Keys, read_object},
    pytorch,
    safetensors::{self, TensorSpec, write_shard},
    weights::WeightFile,
};

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// As PEFT wrote before it had the other. It is read, and never written.
pub(super) const PICKLED_WEIGHTS: &str = "adapter_model.bin";

/// An adapter of one of the supported kinds, as PEFT keeps it.
#[derive(Clone, Debug, PartialEq)]
pub enum PeftAdapter {
    /// `LORA`.
    Lora(PeftLora),
    /// `PREFIX_TUNING`.
    Prefix(PeftPrefix),
    /// `PROMPT_TUNING`.
    Prompt(PeftPrompt),
}

/// A row-major matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterMatrix {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Row after row.
    pub values: Vec<f32>,
}

impl PeftAdapter {
    /// Reads the adapter folder `dir`.
    ///
    /// # Errors
    /// A file is missing, cannot be read or is wrong; the adapter is of a kind, or has an option that changes what is
    /// computed, that is not supported; a tensor is missing, or has not the shape that the configuration says.
    pub fn read(dir: &Path) -> Result<Self, HfError> {
        fs::metadata(dir).map_err(failed_to("open", dir))?;
        let weights = weights_path(dir);
        for (path, missing) in [(&dir.join(CONFIG), CONFIG), (&weights, WEIGHTS)] {
            if !path.exists() {
                return Err(HfError::NoAdapter { path: dir.to_owned(), missing });
            }
        }
        let path = dir.join(CONFIG);
        let object = read_object(&path)?;
        let keys = Keys::new(&path, &object);
        let kind = keys.required("peft_type", Keys::string)?;
        if !["LORA", "PREFIX_TUNING", "PROMPT_TUNING"].contains(&kind) {
            return Err(keys.unsupported("peft_type", "\"LORA\", \"PREFIX_TUNING\", \"PROMPT_TUNING\""));
        }
        if keys.string("task_type")?.is_some_and(|task| task != "CAUSAL_LM") {
            return Err(keys.unsupported("task_type", "\"CAUSAL_LM\""));
        }
        let open = if weights.ends_with(PICKLED_WEIGHTS) { pytorch::open } else { safetensors::open };
        let tensors = open(&weights)?;
        match kind {
            "LORA" => PeftLora::from_files(&keys, &tensors).map(Self::Lora),
            "PREFIX_TUNING" => PeftPrefix::from_files(&keys, &tensors).map(Self::Prefix),
            _ => PeftPrompt::from_files(&keys, &tensors).map(Self::Prompt),
        }
    }

    /// Writes the adapter folder `dir`, which PEFT loads. It is replaced whole or not at all, and only if there is nothing
    /// in it but an adapter's two files.
    ///
    /// # Errors
    /// The parts of the adapter contradict each other; `dir` holds something else; a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), HfError> {
        match self {
            Self::Lora(lora) => lora.write(dir),
            Self::Prefix(prefix) => prefix.write(dir),
            Self::Prompt(prompt) => prompt.write(dir),
        }
    }
}

impl AdapterMatrix {
    /// Whether there are as many values as the shape says.
    fn is_whole(&self) -> bool {
        self.shape[0].checked_mul(self.shape[1]) == Some(self.values.len())
    }
}

/// The file of the tensors in an adapter folder: the newer one, if there are both or none.
pub(crate) fn weights_path(dir: &Path) -> PathBuf {
    let pickled = dir.join(PICKLED_WEIGHTS);
    let path = dir.join(WEIGHTS);
    if pickled.exists() && !path.exists() { pickled } else { path }
}

/// Writes both files of an adapter.
fn write_folder(dir: &Path, config: &Value, matrices: &BTreeMap<String, &AdapterMatrix>) -> Result<(), HfError> {
    let specs: Vec<_> = matrices
        .iter()
        .map(|(name, matrix)| TensorSpec { name, shape: &matrix.shape, dtype: WeightDtype::F32 })
        .collect();
    replace_dir_atomically(
        dir,
        |name| name == CONFIG || name == WEIGHTS,
        |folder| {
            write_file(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())?;
            // The names are those of `matrices`.
            write_shard(&folder.join(WEIGHTS), &specs, |name| {
                Ok::<&[u8], HfError>(bytemuck::cast_slice(&matrices[name].values))
            })
        },
    )
}

/// Reads a matrix in any of the float types; all its values have to be finite, or nothing that is computed with it is.
fn read_matrix(file: &WeightFile, name: &str) -> Result<AdapterMatrix, HfError> {
    let bytes = file.load(name, WeightDtype::F32)?;
    let shape = file.shape(name).unwrap_or_default();
    let shape = <[usize; 2]>::try_from(shape).map_err(|_| HfError::Unexpected {
        path: file.path().to_owned(),
        what: format!("shape of tensor \"{name}\""),
        expected: "a matrix".to_owned(),
        found: format!("{shape:?}"),
    })?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(AdapterMatrix { shape, values }),
        Some(place) => Err(HfError::Unexpected {
            path: file.path().to_owned(),
            what: format!("tensor \"{name}\""),
            expected: "finite values".to_owned(),
            found: format!("{} in row {}, column {}", values[place], place / shape[1], place % shape[1]),
        }),
    }
}

/// Whether Python would take the value for true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::String(text) => !text.is_empty(),
        // 0 is the first layer in `layers_to_transform`.
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// The keys that the configurations of all kinds have, in all of PEFT's versions from 0.10.
fn common_json(kind: &str, base_model: Option<&str>) -> Map<String, Value> {
    let keys = [
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", base_model.into()),
        ("inference_mode", true.into()),
        ("peft_type", kind.into()),
        ("revision", Value::Null),
        ("task_type", "CAUSAL_LM".into()),
    ];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A configuration with these keys besides the common ones, all in order.
fn config_json(kind: &str, base_model: Option<&str>, own: Value) -> Value {
    let mut all = common_json(kind, base_model);
    if let Value::Object(own) = own {
        all.extend(own);
    }
    all.sort_keys();
    Value::Object(all)
}
