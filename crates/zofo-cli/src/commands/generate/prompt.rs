//! What the model is given.

use crate::errors::Error;
use std::io::{self, Read};
use tokenizers::Tokenizer;
use zofo::hf::{ChatTemplate, Message, ModelFiles};
use zofo::task::check_vocabulary;

/// A prompt as text.
pub enum PromptText {
    /// Text to go on from.
    Plain(String),
    /// A conversation, written down by the model's template.
    Chat(String),
}

impl PromptText {
    /// A question to the assistant, after what the system says.
    ///
    /// # Errors
    /// The model has no chat template, or it fails or refuses the messages.
    pub fn chat(files: &ModelFiles, system: Option<&str>, user: String) -> Result<Self, Error> {
        let Some(template) = ChatTemplate::open(files)? else {
            return Err(Error::Usage(format!(
                "{} has no chat template, so `--chat` cannot be used; without it the model goes on from the prompt",
                files.source_path().display()
            )));
        };
        let system = system.map(|content| Message { role: "system".to_owned(), content: content.to_owned() });
        let messages: Vec<Message> =
            system.into_iter().chain([Message { role: "user".to_owned(), content: user }]).collect();
        Ok(Self::Chat(template.render(&messages, true)?))
    }

    /// The text alone.
    pub fn into_text(self) -> String {
        match self {
            Self::Plain(text) | Self::Chat(text) => text,
        }
    }
}

/// The text of the argument `--prompt`; `-` stands for standard input.
///
/// # Errors
/// Standard input cannot be read, or is not UTF-8.
pub fn read(argument: &str) -> Result<String, Error> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(Error::Stdin)?;
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        Error::Input(format!("standard input: expected UTF-8 text, found an invalid byte at offset {place}"))
    })
}

/// The prompt's tokens, with those that the tokenizer puts around every text, but for a chat, whose template has put them
/// there. Special tokens that are spelt out in the text are themselves.
///
/// # Errors
/// There are none; the tokenizer fails, or has tokens that the model does not.
pub fn encode(mut tokenizer: Tokenizer, prompt: &PromptText, vocabulary: usize) -> Result<Vec<u32>, Error> {
    let (text, add_special) = match prompt {
        PromptText::Plain(text) => (text, true),
        PromptText::Chat(text) => (text, false),
    };
    let failed = |error: tokenizers::Error| Error::Input(format!("the tokenizer failed on the prompt: {error}"));
    // A tokenizer.json may ask for either; a prompt is taken whole.
    tokenizer.with_padding(None).with_truncation(None).map_err(failed)?;
    let ids = tokenizer.encode_fast(text.as_str(), add_special).map_err(failed)?.get_ids().to_vec();
    if ids.is_empty() {
        return Err(Error::Usage("the prompt has no tokens: there is nothing to go on from".to_owned()));
    }
    check_vocabulary(&ids, &tokenizer, vocabulary).map_err(|problem| Error::Input(format!("the prompt: {problem}")))?;
    Ok(ids)
}

/// Checks that prompt and new tokens fit into the model's context, of which an adapter's virtual tokens take their part.
/// The last new token is not fed, so it needs no place.
///
/// # Errors
/// They do not.
pub fn check_length(prompt: usize, new: usize, context: usize, virtual_tokens: usize) -> Result<(), Error> {
    let left = context.saturating_sub(virtual_tokens);
    let most = (left + 1).saturating_sub(prompt);
    if new <= most {
        return Ok(());
    }
    let advice = match most {
        0 => "shorten the prompt".to_owned(),
        most => format!("shorten the prompt, or ask for at most {most} with --max-new-tokens"),
    };
    let room = match virtual_tokens {
        0 => String::new(),
        taken => format!(", of which the adapter's virtual tokens take {taken} and leave {left}"),
    };
    Err(Error::Usage(format!(
        "the prompt has {prompt} tokens, and {new} new ones are asked for, but the model's context is {context} \
         tokens{room}: {advice}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_a_number_that_does() {
        let refused = |prompt, new| check_length(prompt, new, 128, 0).unwrap_err().to_string();
        check_length(128, 1, 128, 0).unwrap();
        check_length(100, 29, 128, 0).unwrap();
        assert!(refused(100, 30).ends_with("at most 29 with --max-new-tokens"));
        assert!(refused(129, 1).ends_with("context is 128 tokens: shorten the prompt"));

        check_length(100, 24, 128, 5).unwrap();
        let refused = check_length(100, 25, 128, 5).unwrap_err().to_string();
        let told = "context is 128 tokens, of which the adapter's virtual tokens take 5 and leave 123: shorten the prompt, or \
                    ask for at most 24 with --max-new-tokens";
        assert!(refused.ends_with(told), "{refused}");
    }

    #[test]
    fn the_tokenizer_of_another_model_is_refused() {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden/tiny-gqa-tied/model");
        let tokenizer = ModelFiles::open(model.as_ref()).unwrap().tokenizer().unwrap();
        let film = PromptText::Plain("a film".to_owned());
        let ids = encode(tokenizer.clone(), &film, usize::MAX).unwrap();
        let largest = ids.iter().copied().max().unwrap() as usize;
        assert_eq!(encode(tokenizer.clone(), &film, largest + 1).unwrap(), ids);
        let refused = encode(tokenizer, &film, largest).unwrap_err().to_string();
        assert!(refused.starts_with("the prompt: token ") && refused.ends_with("that of another model"), "{refused}");
    }
}
