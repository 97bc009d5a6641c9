//! What can be wrong with a model directory or an adapter directory.

use std::{io, path::PathBuf};

use super::{atomic::FileError, gguf::GgufError, hub::HubError};

/// What a folder must hold to be a model, for messages.
const MODEL_FOLDER: &str = "a model folder holds config.json, tokenizer.json, and model.safetensors or \
     model.safetensors.index.json with the files that it lists, or pytorch_model.bin or pytorch_model.bin.index.json";

/// A model or an adapter that cannot be read or written: which file, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HfError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),

    /// A GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// A model or an adapter of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),

    /// The name of a model is no path that exists, and none that the hub could know.
    #[error("cannot open {}", path.display())]
    NoSuchModel {
        /// What was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// The name of an adapter is no path that exists, and none that the hub could know.
    #[error("cannot open {}", path.display())]
    NoSuchAdapter {
        /// What was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// A file that should be JSON is not.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },

    /// A part of a file is not what the format, or another part, asks for.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The key, tensor or part of the header.
        what: String,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A file is right but asks for something that this program does not do.
    #[error("{}: {what} is {found}, which is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key or tensor.
        what: String,
        /// Its value or type.
        found: String,
        /// What can be used instead.
        supported: String,
    },

    /// The model is of a family that is not supported.
    #[error(
        "{}: the architecture {found} is not supported; supported: {}",
        path.display(),
        supported.join(", ")
    )]
    Architecture {
        /// The `config.json`.
        path: PathBuf,
        /// What it names.
        found: String,
        /// What can be used.
        supported: Vec<&'static str>,
    },

    /// A file of the model is not there.
    #[error("{}: {missing} is missing{hint}; {MODEL_FOLDER}", path.display())]
    NoModel {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        missing: &'static str,
        /// What else the folder says, starting with a comma, or nothing.
        hint: &'static str,
    },

    /// The path of a model is neither a folder nor a GGUF file.
    #[error("{} is neither a folder nor a GGUF file; {MODEL_FOLDER}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
    },

    /// A file of an adapter is not there.
    #[error(
        "{}: {missing} is missing; an adapter folder holds adapter_config.json and adapter_model.safetensors, as \
         peft's save_pretrained writes them",
        path.display()
    )]
    NoAdapter {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        missing: &'static str,
    },

    /// Tensors that belong to the model or the adapter are not in the files.
    #[error("{}: {} missing: {}", path.display(), count(names), listed(names))]
    MissingTensors {
        /// The file, or the folder of a model in several.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },

    /// The files have tensors that the configuration has no place for.
    #[error(
        "{}: {} without a place in a model of this config.json, so leaving out would change the model: {}",
        path.display(),
        count(names),
        listed(names)
    )]
    ExtraTensors {
        /// The file, or the folder of a model in several.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },

    /// The model's chat template cannot be compiled or rendered.
    #[error("{}: the chat template{}: {reason}", path.display(), in_line(*line))]
    ChatTemplate {
        /// The file that it is from.
        path: PathBuf,
        /// The line of the template, from 1, if it is known.
        line: Option<usize>,
        /// What is wrong, or why it refuses the messages.
        reason: String,
    },

    /// The tokenizer makes tokens that the model has no embedding for.
    #[error(
        "{}: the token \"{token}\" has the id {id} (of {tokens} tokens), but the model's embedding has {rows} rows: the \
         tokenizer is that of another model, or tokens were added to it and not to the embedding; use the tokenizer that \
         was saved with the weights",
        path.display()
    )]
    NoRowForToken {
        /// The file of the tokenizer.
        path: PathBuf,
        /// The first such token.
        token: String,
        /// Its id.
        id: u32,
        /// How many tokens the tokenizer has.
        tokens: usize,
        /// How many the model has.
        rows: usize,
    },

    /// A configuration names a token that the tokenizer does not have.
    #[error(
        "{}: key \"{key}\" names the token {id}, but the tokenizer in {} has no token of this id; correct the key, or \
         use the tokenizer that was saved with the model",
        path.display(),
        tokenizer.display()
    )]
    NoSuchToken {
        /// The file of the configuration.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The token.
        id: u32,
        /// The file of the tokenizer.
        tokenizer: PathBuf,
    },

    /// A file that was written does not give back what it was made of. It is not there.
    #[error("{} was not written, because what is read back from it differs: {difference}", path.display())]
    ReadBack {
        /// The file that was to be written.
        path: PathBuf,
        /// What differs, and how.
        difference: String,
    },

    /// The tokenizer's file is JSON but not a tokenizer.
    #[error("{} is not a tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizers library says.
        reason: String,
    },
}

fn count(names: &[String]) -> String {
    match names.len() {
        1 => "1 tensor is".to_owned(),
        count => format!("{count} tensors are"),
    }
}

fn in_line(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(", in its line {line}"))
}

/// The first few names: a model of another size lacks hundreds.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += ", …";
    }
    text
}
