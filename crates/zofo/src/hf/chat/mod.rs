//! Chat templates: how a model wants a conversation written down.
//!
//! A template is a Jinja program that came with the model. It is rendered as transformers' `apply_chat_template` renders
//! it, by the rules of Jinja and the methods of Python's strings, lists and dictionaries ([`environment`]).

mod dumps;
mod environment;
mod generation_tag;
mod source;

use std::path::PathBuf;

use minijinja::{Environment, Value, context, value::Serde};
use serde::{Deserialize, Serialize};

use self::{environment::environment, source::Source};
use super::{error::HfError, model_files::ModelFiles};

/// The name of the one template in an environment.
const NAME: &str = "chat template";

/// Fuel of a rendering: an instruction takes about 1, and so do 64 bytes of text that is made. A conversation of a few
/// messages takes some hundreds; this much is spent in a fraction of a second.
const BASE_FUEL: u64 = 100_000;
/// More of it for every byte of the messages, which a template may copy and search several times.
const FUEL_PER_BYTE: u64 = 4;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whose turn it is: `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
}

/// The compiled chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file it is from.
    path: PathBuf,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The chat template of a model, if it has one: `chat_template.jinja`; else `chat_template` in
    /// `tokenizer_config.json`, where it is a string or, of several, the one named `default`; else `chat_template.json`;
    /// of a GGUF file `tokenizer.chat_template`.
    ///
    /// # Errors
    /// A file cannot be read, or is not what its name says; there are several templates and no default; the template
    /// cannot be compiled.
    pub fn open(files: &ModelFiles) -> Result<Option<Self>, HfError> {
        let Some(Source { path, template, special_tokens }) = Source::find(files)? else {
            return Ok(None);
        };
        let mut environment = environment();
        for (name, token) in special_tokens {
            environment.add_global(name, token);
        }
        // Everything the template may look at; what transformers does not pass either is undefined.
        environment.add_global("tools", ());
        environment.add_global("documents", ());
        match environment.add_template_owned(NAME, generation_tag::removed(&template)) {
            Ok(()) => Ok(Some(Self { path, environment })),
            Err(error) => Err(template_error(path, &error)),
        }
    }

    /// The conversation as the model reads it, special tokens spelt out. With `add_generation_prompt` it ends where the
    /// assistant's answer begins.
    ///
    /// The text has every special token that the model needs: none is to be added when it is encoded.
    ///
    /// # Errors
    /// The template refuses the messages, as many do if roles do not take turns; it fails; or it does more work than any
    /// conversation asks for.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, HfError> {
        let failed = |error| template_error(self.path.clone(), &error);
        let bytes: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(BASE_FUEL.saturating_add(FUEL_PER_BYTE.saturating_mul(bytes as u64))));
        let template = environment.get_template(NAME).map_err(failed)?;
        template.render(context! { messages => Value::from(Serde(messages)), add_generation_prompt }).map_err(failed)
    }
}

/// The text of a model's chat template, if it has one: that which [`ChatTemplate::open`] compiles.
///
/// # Errors
/// As there, but for the compilation.
pub(super) fn template_text(files: &ModelFiles) -> Result<Option<String>, HfError> {
    Ok(Source::find(files)?.map(|source| source.template))
}

fn template_error(path: PathBuf, error: &minijinja::Error) -> HfError {
    let kind = error.kind().to_string();
    let reason = match error.detail() {
        Some(detail) if environment::is_refusal(error) => format!("it refuses the messages: {detail}"),
        Some(detail) => format!("{kind}: {detail}"),
        None => kind,
    };
    HfError::ChatTemplate { path, line: error.line(), reason }
}

#[cfg(test)]
mod tests;
