//! Where the assistant's answers are in a rendered conversation.

use std::ops::Range;

use thiserror::Error;
use tokenizers::Tokenizer;

use super::conversation::ASSISTANT;
use crate::hf::Message;
use crate::task::encode::EncodedCandidate;

/// Which answers are trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerTurns {
    /// All of a conversation.
    All,
    /// The last one.
    Last,
}

/// Why there is no text with its answers.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpanError<E> {
    /// The chat template fails.
    #[error(transparent)]
    Render(E),
    /// The conversation up to a turn is not how the whole begins, so that where the turn lies is not known.
    #[error(
        "the chat template writes turn {turn} in another way when the conversation goes on: train on the last answer only"
    )]
    Rewritten {
        /// The turn, from 0.
        turn: usize,
    },
    /// The template leaves out what the assistant says.
    #[error("the chat template does not show the answer of turn {turn}")]
    Hidden {
        /// The turn, from 0.
        turn: usize,
    },
    /// The tokenizer fails.
    #[error("the tokenizer failed: {0}")]
    Tokenize(String),
    /// An answer has no token.
    #[error("answer {answer} has no token")]
    NoToken {
        /// Which of the answers, from 0.
        answer: usize,
    },
}

/// A conversation as its model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatText {
    /// The whole text, special tokens spelt out.
    pub text: String,
    /// The bytes of each answer, in order, with what ends a turn: that is learnt too.
    pub answers: Vec<Range<usize>>,
}

impl ChatText {
    /// Renders a conversation that ends with an answer. `render` is the chat template: messages, and whether the
    /// assistant's turn is to be opened behind them ([`ChatTemplate::render`]).
    ///
    /// An answer begins where the conversation before it, with the assistant's turn opened, ends, and ends with the
    /// conversation up to it. Of what follows the assistant's words, the marker that ends the turn belongs to it, and
    /// white space behind that marker does not: a model that wrote the marker is not asked for more.
    ///
    /// [`ChatTemplate::render`]: crate::hf::ChatTemplate::render
    ///
    /// # Errors
    /// A template that fails, or that writes a turn in another way once others follow it.
    pub fn render<E>(
        messages: &[Message],
        turns: AnswerTurns,
        mut render: impl FnMut(&[Message], bool) -> Result<String, E>,
    ) -> Result<Self, SpanError<E>> {
        let is_answer = |turn: &usize| messages[*turn].role == ASSISTANT;
        let mut wanted: Vec<usize> = (0..messages.len()).filter(is_answer).collect();
        if turns == AnswerTurns::Last {
            wanted.drain(..wanted.len().saturating_sub(1));
        }
        let text = render(messages, false).map_err(SpanError::Render)?;
        let mut answers = Vec::with_capacity(wanted.len());
        for turn in wanted {
            let mut end_of = |count: usize, opens: bool| {
                let start = render(&messages[..count], opens).map_err(SpanError::Render)?;
                if text.starts_with(&start) { Ok(start.len()) } else { Err(SpanError::Rewritten { turn }) }
            };
            let start = end_of(turn, true)?;
            let end = end_of(turn + 1, false)?;
            let words = messages[turn].content.trim();
            let said = text.get(start..end).ok_or(SpanError::Rewritten { turn })?;
            let words_end = said.find(words).ok_or(SpanError::Hidden { turn })? + words.len();
            let marker = said[words_end..].trim_end();
            let end = if marker.is_empty() { end } else { start + words_end + marker.len() };
            answers.push(start..end);
        }
        Ok(Self { text, answers })
    }

    /// Tokenises the text, without adding special tokens: the template wrote them.
    ///
    /// A token belongs to the answer that it ends in. One that has bytes of the answer and of what is before it does so
    /// too, as in transformers' mask of assistant tokens; where a template ends a prompt with a special token or a line
    /// break, there is none.
    ///
    /// # Errors
    /// The tokenizer fails, or an answer has no token.
    pub fn encode<E>(&self, tokenizer: &Tokenizer) -> Result<EncodedChat, SpanError<E>> {
        let encoding =
            tokenizer.encode(self.text.as_str(), false).map_err(|error| SpanError::Tokenize(error.to_string()))?;
        // Some tokenizers leave blanks out of a token's start; its end is always where the next one begins, or before.
        let ends: Vec<usize> = encoding.get_offsets().iter().map(|offsets| offsets.1).collect();
        let span = |(answer, bytes): (usize, &Range<usize>)| {
            let start = ends.partition_point(|&end| end <= bytes.start);
            let end = ends.partition_point(|&end| end <= bytes.end);
            if start < end { Ok(start..end) } else { Err(SpanError::NoToken { answer }) }
        };
        let answers = self.answers.iter().enumerate().map(span).collect::<Result<_, _>>()?;
        Ok(EncodedChat { ids: encoding.get_ids().to_vec(), answers })
    }
}

/// A conversation as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChat {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Those of each answer, in order.
    pub answers: Vec<Range<usize>>,
}

impl EncodedChat {
    /// Each answer with all that was said before it, which is what a model sees when it gives the answer.
    pub fn candidates(&self) -> impl Iterator<Item = EncodedCandidate> {
        self.answers
            .iter()
            .map(|answer| EncodedCandidate { ids: self.ids[..answer.end].to_vec(), answer_len: answer.len() })
    }
}
