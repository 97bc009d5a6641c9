//! Hugging Face's formats: model directories and GGUF files in, model directories and PEFT adapters in and out.
//!
//! | what | where |
//! | --- | --- |
//! | a model, from a directory or a GGUF file | [`ModelFiles`] |
//! | `config.json` → [`DecoderConfig`](crate::model::DecoderConfig) | [`read_decoder_config`]; one short file per family |
//! | LoRA adapters as PEFT keeps them | [`PeftLora`] |
//! | GGUF | [`gguf`] |
//! | chat templates | [`ChatTemplate`] |
//!
//! Weights are mapped, not read: see [`ModelFiles::load`]. All files are written beside their final name, synced and
//! renamed, so that a crash or a full disk leaves what was there before.

mod adapter;
pub(crate) mod atomic;
mod chat;
mod dtype;
mod error;
mod family;
pub mod gguf;
mod json;
mod llama;
mod mmap;
mod model_files;
mod safetensors;
#[cfg(test)]
mod test_model;

pub(crate) use adapter::is_target;
pub use adapter::{LoraMatrix, LoraPair, PeftLora};
pub use atomic::FileError;
pub use chat::{ChatTemplate, Message};
pub use dtype::{StoredDtype, WeightDtype, hash_bytes};
pub use error::HfError;
pub use family::read_decoder_config;
pub use model_files::ModelFiles;

// Both formats store little-endian values, and mapped ones are used as they are.
#[cfg(not(target_endian = "little"))]
compile_error!("model files are mapped as they are stored, which needs a little-endian machine");
