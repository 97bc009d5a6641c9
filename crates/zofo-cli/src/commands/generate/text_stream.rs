//! Text of tokens that come one by one.

use crate::errors::Error;
use tokenizers::Tokenizer;

/// Decodes a growing sequence of tokens. A token can be part of a character, so only what later tokens cannot change is
/// given out.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Prompt and new tokens: how a token is written may depend on those before it.
    ids: Vec<u32>,
    text: String,
    /// Bytes of `text` that were given out.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream of what follows `prompt`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self, Error> {
        let text = decode(tokenizer, prompt)?;
        Ok(Self { tokenizer, ids: prompt.to_vec(), given: text.len(), text })
    }

    /// Adds a token; gives the text that is new and settled.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<&str, Error> {
        self.ids.push(token);
        self.text = decode(self.tokenizer, &self.ids)?;
        let start = self.given;
        // An unfinished character is decoded as U+FFFD.
        let settled = self.text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        self.given = settled.max(start);
        Ok(self.text.get(start..self.given).unwrap_or_default())
    }

    /// What was held back: the characters that were never finished.
    pub fn finish(self) -> String {
        self.text.get(self.given..).unwrap_or_default().to_owned()
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, Error> {
    let failed = |error| Error::Input(format!("the tokenizer failed on generated tokens: {error}"));
    tokenizer.decode(ids, true).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::Tokenizer;

    /// The tokenizer of a test model: pairs of bytes, so that rare characters are several tokens.
    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../zofo/tests/golden/tiny-gqa-tied/model/tokenizer.json");
        Tokenizer::from_file(path).unwrap()
    }

    #[test]
    fn pieces_are_whole_characters_and_add_up_to_the_text() {
        let tokenizer = tokenizer();
        let prompt = tokenizer.encode("The keeper", false).unwrap();
        let text = " wrote “naïve” — 東京 🦀.";
        let new = tokenizer.encode(text, false).unwrap();
        assert!(new.len() > text.chars().count(), "the test needs characters of several tokens");
        let mut stream = TextStream::new(&tokenizer, prompt.get_ids()).unwrap();
        let mut pieces = Vec::new();
        for &id in new.get_ids() {
            pieces.push(stream.push(id).unwrap().to_owned());
        }
        assert!(pieces.iter().any(String::is_empty));
        assert!(!pieces.concat().contains(char::REPLACEMENT_CHARACTER));
        assert_eq!(pieces.concat() + &stream.finish(), text);
    }

    #[test]
    fn a_character_that_is_never_finished_comes_last() {
        let tokenizer = tokenizer();
        let crab = tokenizer.encode("🦀", false).unwrap();
        let (last, first) = crab.get_ids().split_last().unwrap();
        let mut stream = TextStream::new(&tokenizer, &[]).unwrap();
        for &id in first {
            assert_eq!(stream.push(id).unwrap(), "");
        }
        assert!(stream.text.ends_with(char::REPLACEMENT_CHARACTER));
        assert_eq!(stream.push(*last).unwrap(), "🦀");
        assert_eq!(stream.push(first[0]).unwrap(), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }
}
