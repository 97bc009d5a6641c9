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
        "the chat template writes turn {turn} in another way when the conversation goes on: let only the last answer count \
         (template \"last\")"
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
    /// An answer begins where the conversation before it, with the assistant's turn opened, ends. Of what the template
    /// then writes behind the assistant's words, the marker that ends the turn (what follows up to the next white space)
    /// belongs to the answer, and no more: a model that wrote the marker is not asked for more. Without a marker, all of
    /// it does.
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
            let before = render(&messages[..turn], true).map_err(SpanError::Render)?;
            let up_to = render(&messages[..=turn], false).map_err(SpanError::Render)?;
            // Some templates end every conversation with a token of its own, so that one that goes on lacks it.
            let end = common_start(&text, &up_to);
            let rewritten = SpanError::Rewritten { turn };
            let Some(said) = text.get(before.len()..end).filter(|_| text.starts_with(&before)) else {
                return Err(rewritten);
            };
            let words = messages[turn].content.trim();
            let Some(place) = said.find(words) else {
                return Err(if end == up_to.len() { SpanError::Hidden { turn } } else { rewritten });
            };
            let behind = &said[place + words.len()..];
            let marker = behind.trim_start();
            let rest = &marker[marker.find(char::is_whitespace).unwrap_or(marker.len())..];
            answers.push(before.len()..if marker.is_empty() { end } else { end - rest.len() });
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
        self.encode_with(tokenizer, None)
    }

    /// As [`encode`](Self::encode) of a text that a model reads as any other: with the special tokens that the tokenizer
    /// adds, of which `trailing` are behind the text and dropped.
    pub(super) fn encode_plain<E>(&self, tokenizer: &Tokenizer, trailing: usize) -> Result<EncodedChat, SpanError<E>> {
        self.encode_with(tokenizer, Some(trailing))
    }

    fn encode_with<E>(&self, tokenizer: &Tokenizer, trailing: Option<usize>) -> Result<EncodedChat, SpanError<E>> {
        let encoding = tokenizer
            .encode(self.text.as_str(), trailing.is_some())
            .map_err(|error| SpanError::Tokenize(error.to_string()))?;
        let tokens = encoding.get_ids().len().saturating_sub(trailing.unwrap_or_default());
        // Some tokenizers leave blanks out of a token's start; its end is always where the next one begins, or before.
        // What the tokenizer adds before the text ends at 0.
        let ends: Vec<usize> = encoding.get_offsets()[..tokens].iter().map(|offsets| offsets.1).collect();
        let span = |(answer, bytes): (usize, &Range<usize>)| {
            let start = ends.partition_point(|&end| end <= bytes.start);
            let end = ends.partition_point(|&end| end <= bytes.end);
            if start < end { Ok(start..end) } else { Err(SpanError::NoToken { answer }) }
        };
        let answers = self.answers.iter().enumerate().map(span).collect::<Result<_, _>>()?;
        Ok(EncodedChat { ids: encoding.get_ids()[..tokens].to_vec(), answers })
    }
}

/// The number of bytes that two texts begin with alike, up to the end of a character.
fn common_start(one: &str, other: &str) -> usize {
    let pairs = one.char_indices().zip(other.chars());
    let differs = pairs.into_iter().find(|((_, left), right)| left != right).map(|((place, _), _)| place);
    differs.unwrap_or(one.len().min(other.len()))
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
    /// One sequence in which all answers count, cut behind the last of them, and at `limit` tokens. `None` if nothing of
    /// an answer is left. The first token of all cannot count, since nothing predicts it.
    pub fn into_candidate(self, limit: usize) -> Option<EncodedCandidate> {
        let cut = |answer: Range<usize>| answer.start.max(1)..answer.end.min(limit);
        let answers: Vec<_> = self.answers.into_iter().map(cut).filter(|answer| !answer.is_empty()).collect();
        let (first, last) = (answers.first()?.start, answers.last()?.end);
        let mut ids = self.ids;
        ids.truncate(last);
        let gaps = answers.windows(2).map(|pair| pair[0].end..pair[1].start);
        let between = gaps.filter(|gap| !gap.is_empty()).collect();
        Some(EncodedCandidate { ids, answer_len: last - first, between })
    }
}
