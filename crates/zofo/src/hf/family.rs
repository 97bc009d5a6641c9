//! Families of models: which file reads which architecture's `config.json`.

use std::path::Path;

use super::{
    error::HfError,
    json::{Keys, read_object},
    llama,
};
use crate::model::DecoderConfig;

/// All that sets a family apart. Another one is another file and another entry in [`FAMILIES`].
pub(super) struct Family {
    /// The name in `architectures`.
    pub(super) architecture: &'static str,
    /// The name in `model_type`, which stands in where `architectures` is absent.
    pub(super) model_type: &'static str,
    /// What the absence of `eos_token_id` means.
    pub(super) default_eos: Option<u32>,
    /// Reads the rest.
    pub(super) decoder: fn(&Keys<'_>) -> Result<DecoderConfig, HfError>,
}

const FAMILIES: [Family; 1] = [llama::FAMILY];

/// The family of a `config.json`.
pub(super) fn family(config: &Keys<'_>) -> Result<&'static Family, HfError> {
    let unknown = |found: String| HfError::Architecture {
        path: config.path.to_owned(),
        found,
        supported: FAMILIES.iter().map(|family| family.architecture).collect(),
    };
    match config.strings("architectures")? {
        Some(names) => {
            FAMILIES.iter().find(|family| names == [family.architecture]).ok_or_else(|| unknown(names.join(", ")))
        }
        None => {
            let model_type = config.required("model_type", Keys::string)?;
            FAMILIES
                .iter()
                .find(|family| family.model_type == model_type)
                .ok_or_else(|| unknown(format!("of model type \"{model_type}\"")))
        }
    }
}

/// Reads a `config.json`, as transformers 4 or 5 writes it.
///
/// # Errors
/// The file cannot be read or is not JSON; its architecture is not supported; a key is missing, has an impossible value,
/// or asks for something that is not supported.
pub fn read_decoder_config(path: &Path) -> Result<DecoderConfig, HfError> {
    let object = read_object(path)?;
    let config = Keys::new(path, &object);
    (family(&config)?.decoder)(&config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::test_model::{assert_says, llama_config, message};
    use super::*;

    fn read(text: &str) -> Result<DecoderConfig, HfError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        read_decoder_config(&path)
    }

    #[test]
    fn architectures() {
        let mut config = llama_config();
        read(&config.to_string()).unwrap();

        config["architectures"] = json!(["BertModel"]);
        let text = message(read(&config.to_string()));
        assert_says(&text, &["config.json", "BertModel", "supported: LlamaForCausalLM"]);

        config["architectures"] = json!("LlamaForCausalLM");
        let text = message(read(&config.to_string()));
        assert_says(&text, &["\"architectures\"", "a list of strings"]);

        config["architectures"] = json!(null);
        read(&config.to_string()).unwrap();
        config["model_type"] = json!("bert");
        assert_says(&message(read(&config.to_string())), &["model type \"bert\""]);
        config["model_type"] = json!(null);
        assert_says(&message(read(&config.to_string())), &["\"model_type\"", "found none"]);
    }

    #[test]
    fn what_is_no_configuration() {
        assert_says(&message(read("{\"a\": 1,}")), &["config.json", "not valid JSON", "line 1"]);
        assert_says(&message(read("[1]")), &["config.json", "an object", "[1]"]);
        let missing = read_decoder_config(Path::new("/nowhere/config.json"));
        assert_says(&message(missing), &["cannot read /nowhere/config.json"]);
    }
}
