//! Hugging Face's formats: model directories and GGUF files in, model directories and PEFT adapters in and out.
//!
//! | what | where |
//! | --- | --- |
//! | a model, from a directory or a GGUF file | [`ModelFiles`] |
//! | `config.json` → [`DecoderConfig`](crate::model::DecoderConfig) | [`read_decoder_config`]; one short file per family |
//! | adapters as PEFT keeps them | [`PeftAdapter`] |
//! | GGUF | [`gguf`]; [`export_gguf`] writes a model so |
//! | chat templates | [`ChatTemplate`] |
//! | models by their names on the hub | [`hub`] |
//!
//! Weights are in safetensors files, or else in PyTorch's own. They are mapped, not read: see [`ModelFiles::load`]. All files are written beside their final name, synced and
//! renamed, so that a crash or a full disk leaves what was there before.

mod adapter;
pub(crate) mod atomic;
mod chat;
mod dtype;
mod error;
mod export;
mod family;
pub mod gguf;
pub mod hub;
mod json;
mod model_files;
mod pytorch;
mod safetensors;
#[cfg(test)]
pub(crate) mod test_model;
mod tokenizer_file;
mod weights;

pub use adapter::{
    AdapterMatrix, BadPattern, LoraPair, ModuleNames, Patterns, PeftAdapter, PeftLora, PeftPrefix, PeftPrompt,
};
pub(crate) use adapter::{CONFIG as ADAPTER_CONFIG, is_meant, weights_path as adapter_weights_path};
pub use atomic::FileError;
pub use chat::{ChatTemplate, Message};
pub use dtype::{StoredDtype, WeightDtype, hash_bytes};
pub use error::HfError;
pub use export::{ExportedGguf, GgufOptions, export_gguf};
pub use family::read_decoder_config;
pub use model_files::ModelFiles;

// Both formats store little-endian values, and mapped ones are used as they are.
#[cfg(not(target_endian = "little"))]
compile_error!("model files are mapped as they are stored, which needs a little-endian machine");
