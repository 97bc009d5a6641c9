//! From rendered text to token sequences that a model's context can hold.

use std::borrow::Cow;
use std::ops::Range;

use tokenizers::Tokenizer;

use super::dataset::Example;
use super::definition::Task;
use super::demonstrations::Demonstrations;
use super::error::TaskError;
use super::row::Gold;
use super::template::{Rendered, Template, TemplateName};
use truncation::Length;
pub use truncation::{Cut, TruncationReport};

mod truncation;

/// Prompt and answer of one candidate, as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EncodedCandidate {
    /// All tokens: what the tokenizer puts in front (BOS), the prompt, the answer.
    pub ids: Vec<u32>,
    /// How many of them, counted from the end, are the answer. At least 1 and less than all. In a conversation, from
    /// the first answer to the end of the last.
    pub answer_len: usize,
    /// Ranges of tokens between the answers of a conversation, in order: what others say, which does not count.
    pub between: Vec<Range<usize>>,
}

impl EncodedCandidate {
    /// A sequence that ends with its one answer of `answer_len` tokens.
    pub fn new(ids: Vec<u32>, answer_len: usize) -> Self {
        Self { ids, answer_len, between: Vec::new() }
    }

    /// The positions of the tokens that count, in order.
    pub fn counted(&self) -> impl Iterator<Item = usize> {
        let counts = |position: &usize| !self.between.iter().any(|range| range.contains(position));
        (self.context_len()..self.ids.len()).filter(counts)
    }

    /// The tokens that a model is given: all but the last, which predicts nothing.
    pub fn fed(&self) -> &[u32] {
        self.ids.split_last().map_or(&[], |(_, fed)| fed)
    }

    /// Number of tokens before the answer. The logits that predict the answer are those of the
    /// tokens `context_len() - 1 .. ids.len() - 1`.
    pub fn context_len(&self) -> usize {
        self.ids.len() - self.answer_len
    }
}

/// All candidates of one example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedExample {
    /// In label order, at least two; of a generation task one, which is the answer that is trained on.
    pub candidates: Vec<EncodedCandidate>,
    /// Positions of the right ones; at least one. Any of them is a correct prediction, the first is trained on.
    pub golds: Vec<usize>,
    /// Line of the row in its file, from 1.
    pub line: usize,
}

impl EncodedExample {
    /// Position of the right answer that is trained on.
    pub fn gold(&self) -> usize {
        self.golds[0]
    }

    /// The candidate with the right answer: what is trained on.
    pub fn gold_row(&self) -> &EncodedCandidate {
        &self.candidates[self.gold()]
    }
}

/// Encoded examples, and what had to be cut.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// In the order they were given.
    pub examples: Vec<EncodedExample>,
    /// What had to be cut.
    pub truncation: TruncationReport,
}

/// Encoded prompts of a generation task, and what had to be cut.
#[derive(Clone, Debug)]
pub struct EncodedPrompts {
    /// Tokens of each prompt, in the order of the examples.
    pub prompts: Vec<Vec<u32>>,
    /// What had to be cut.
    pub truncation: TruncationReport,
}

/// What a model can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens that it knows: ids are below this.
    pub vocabulary: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
}

impl ModelLimits {
    /// With no longer sequences than this.
    #[must_use]
    pub fn at_most(self, length: Option<usize>) -> Self {
        Self { context: length.map_or(self.context, |length| length.min(self.context)), ..self }
    }

    /// What is left after the positions that the virtual tokens of a PEFT block take.
    #[must_use]
    pub fn after(self, virtual_tokens: usize) -> Self {
        Self { context: self.context.saturating_sub(virtual_tokens), ..self }
    }
}

/// A token that a model does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "token {token:?} has the id {id}, but the model's vocabulary has {vocabulary} tokens: the text spells out a special \
     token that the model does not have, or the tokenizer is that of another model"
)]
pub struct ForeignToken {
    /// The token, as the tokenizer writes it.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// Tokens that the model knows.
    pub vocabulary: usize,
}

/// Checks that a model of `vocabulary` tokens knows all of `ids`, which come from `tokenizer`.
///
/// # Errors
/// The first token that it does not know.
pub fn check_vocabulary(ids: &[u32], tokenizer: &Tokenizer, vocabulary: usize) -> Result<(), ForeignToken> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&id) => Err(ForeignToken { token: tokenizer.id_to_token(id).unwrap_or_default(), id, vocabulary }),
        None => Ok(()),
    }
}

/// Turns examples into tokens, with one template and one tokenizer, for one model.
pub struct Encoder<'a> {
    template: &'a Template,
    tokenizer: Cow<'a, Tokenizer>,
    limits: ModelLimits,
    /// Special tokens that the tokenizer puts before a text (BOS).
    leading: usize,
    /// Those that it puts after one (EOS). They are dropped: an answer is the end of its sequence.
    trailing: usize,
    demonstrations: Demonstrations,
}

impl<'a> Encoder<'a> {
    /// An encoder for a model of these `limits`.
    ///
    /// # Errors
    /// [`TaskError::NoTemplate`]; [`TaskError::Tokenizer`] if the tokenizer fails on a plain word.
    pub fn new(
        task: &'a Task,
        template: &TemplateName,
        tokenizer: &'a Tokenizer,
        limits: ModelLimits,
    ) -> Result<Self, TaskError> {
        let tokenizer = unlimited(tokenizer)?;
        let (leading, trailing) = added_tokens(&tokenizer)?;
        let demonstrations = Demonstrations::default();
        Ok(Self { template: task.template(template)?, tokenizer, limits, leading, trailing, demonstrations })
    }

    /// This encoder, with these examples and their right answers before every prompt.
    ///
    /// # Errors
    /// As of [`Template::render`].
    pub fn with_demonstrations(self, examples: &[Example]) -> Result<Self, TaskError> {
        Ok(Self { demonstrations: Demonstrations::new(self.template, examples)?, ..self })
    }

    /// Encodes examples.
    ///
    /// The whole text of every candidate is tokenised, never its parts; the answer is the last *n*
    /// tokens, *n* being the difference to the number of tokens of the prompt alone. If the longest
    /// candidate of an example exceeds the context, all of its candidates lose the same number of
    /// tokens at the left of the prompt (after BOS), so that they keep one prompt.
    ///
    /// # Errors
    /// With file and line: a template or tokenizer that fails; a token that the model does not know
    /// ([`TaskError::ForeignToken`]); a candidate without a token of its
    /// own ([`TaskError::NoAnswerToken`]); a prompt without tokens ([`TaskError::EmptyPrompt`]); an
    /// answer that alone does not fit ([`TaskError::AnswerTooLong`]).
    pub fn encode<'e>(&self, examples: impl IntoIterator<Item = &'e Example>) -> Result<Encoded, TaskError> {
        self.encode_all(examples, |example| {
            let rendered = self.template.render_after(self.demonstrations.text(), example)?;
            self.encode_rendered(example, rendered, None)
        })
    }

    /// Encodes what surface-form calibration compares examples with: their candidates after the null prompt. With
    /// `demonstrations` those of this encoder stand before it.
    ///
    /// Where the null prompt is empty and the tokenizer puts nothing before a text either, `start` does: the token that
    /// stands between the texts that the model was trained on (the end of text, as lm-evaluation-harness does).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_null<'e>(
        &self,
        examples: impl IntoIterator<Item = &'e Example>,
        demonstrations: bool,
        start: Option<u32>,
    ) -> Result<Encoded, TaskError> {
        self.encode_all(examples, |example| {
            let rendered = match demonstrations {
                true => self.template.render_null_after(self.demonstrations.text(), example)?,
                false => self.template.render_null(example)?,
            };
            self.encode_rendered(example, rendered, start)
        })
    }

    /// Encodes the prompts alone, so that an answer of `max_new_tokens` still fits into the context.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and [`TaskError::NoRoomToGenerate`].
    pub fn encode_prompts<'e>(
        &self,
        examples: impl IntoIterator<Item = &'e Example>,
        max_new_tokens: usize,
    ) -> Result<EncodedPrompts, TaskError> {
        let needed = self.needed();
        let limit = self
            .limits
            .context
            .checked_sub(max_new_tokens)
            .filter(|&left| left >= needed)
            .ok_or(TaskError::NoRoomToGenerate { max_new_tokens, needed, limit: self.limits.context })?;
        let mut truncation = TruncationReport::empty(Cut::Prompt, limit);
        let encode = |example: &Example| {
            let text = self.template.render_prompt_after(self.demonstrations.text(), example)?;
            let mut ids = self.tokenize(&text, example)?;
            if ids.is_empty() {
                return Err(TaskError::EmptyPrompt { path: example.source.to_path_buf(), line: example.line });
            }
            let excess = ids.len().saturating_sub(limit);
            let demonstrations_cut = self.demonstrations_cut(&text, excess, example)?;
            truncation.add(&Length { tokens: ids.len(), demonstrations_cut });
            ids.drain(self.leading..self.leading + excess);
            Ok(ids)
        };
        let prompts = examples.into_iter().map(encode).collect::<Result<_, TaskError>>()?;
        Ok(EncodedPrompts { prompts, truncation })
    }

    /// The texts of an example's candidates, without prompt and without white space at both ends.
    ///
    /// # Errors
    /// As of [`Template::render`].
    pub fn answers(&self, example: &Example) -> Result<Vec<String>, TaskError> {
        Ok(self.template.render(example)?.answers().map(str::to_owned).collect())
    }

    fn encode_all<'e>(
        &self,
        examples: impl IntoIterator<Item = &'e Example>,
        encode: impl Fn(&Example) -> Result<(EncodedExample, Length), TaskError>,
    ) -> Result<Encoded, TaskError> {
        let mut truncation = TruncationReport::empty(Cut::Prompt, self.limits.context);
        let examples = examples
            .into_iter()
            .map(|example| {
                let (encoded, length) = encode(example)?;
                truncation.add(&length);
                Ok(encoded)
            })
            .collect::<Result<_, TaskError>>()?;
        Ok(Encoded { examples, truncation })
    }

    /// One example; `start` stands before texts whose prompt has no tokens.
    fn encode_rendered(
        &self,
        example: &Example,
        rendered: Rendered,
        start: Option<u32>,
    ) -> Result<(EncodedExample, Length), TaskError> {
        let mut prompt_tokens = self.tokenize(&rendered.prompt, example)?.len();
        let start = start.filter(|_| prompt_tokens == 0);
        prompt_tokens += usize::from(start.is_some());
        if prompt_tokens == 0 {
            return Err(TaskError::EmptyPrompt { path: example.source.to_path_buf(), line: example.line });
        }
        let mut candidates = Vec::with_capacity(rendered.verbalized.len());
        for (candidate, text) in rendered.verbalized.into_iter().enumerate() {
            let mut ids = self.tokenize(&text, example)?;
            ids.splice(0..0, start);
            match ids.len().checked_sub(prompt_tokens) {
                Some(answer_len) if answer_len > 0 => candidates.push(EncodedCandidate::new(ids, answer_len)),
                _ => {
                    return Err(TaskError::NoAnswerToken {
                        path: example.source.to_path_buf(),
                        line: example.line,
                        candidate,
                        text,
                        prompt_tokens,
                        full_tokens: ids.len(),
                    });
                }
            }
        }
        let tokens = candidates.iter().map(|candidate| candidate.ids.len()).max().unwrap_or_default();
        let excess = self.truncate(&mut candidates, prompt_tokens, example)?;
        let demonstrations_cut = self.demonstrations_cut(&rendered.prompt, excess, example)?;
        let golds = match &example.gold {
            Gold::Candidates(golds) => golds.clone(),
            Gold::Answers(_) | Gold::Conversation => vec![0],
        };
        Ok((EncodedExample { candidates, golds, line: example.line }, Length { tokens, demonstrations_cut }))
    }

    /// How many demonstrations lose something when the text that they begin loses its first `excess` tokens after BOS.
    fn demonstrations_cut(&self, text: &str, excess: usize, example: &Example) -> Result<usize, TaskError> {
        if excess == 0 || self.demonstrations.text().is_empty() {
            return Ok(0);
        }
        let encoding = self.tokenizer.encode(text, true).map_err(|error| failed_on(example, &error))?;
        let first_kept = encoding.get_offsets().get(self.leading + excess).map_or(text.len(), |(start, _)| *start);
        Ok(self.demonstrations.beginning_before(first_kept))
    }

    /// Tokens that must stand before an answer: the first of an answer is predicted by BOS if there is one, else by the
    /// prompt's last.
    fn needed(&self) -> usize {
        self.leading.max(1)
    }

    /// Cuts the left of the prompt of all candidates by what the longest has too much; returns how much that is.
    fn truncate(
        &self,
        candidates: &mut [EncodedCandidate],
        prompt_tokens: usize,
        example: &Example,
    ) -> Result<usize, TaskError> {
        let longest = candidates.iter().enumerate().max_by_key(|(_, candidate)| candidate.ids.len());
        let Some((index, longest)) = longest else {
            return Ok(0);
        };
        let excess = longest.ids.len().saturating_sub(self.limits.context);
        let needed = self.needed();
        if excess > prompt_tokens.saturating_sub(needed) {
            return Err(TaskError::AnswerTooLong {
                path: example.source.to_path_buf(),
                line: example.line,
                candidate: index,
                answer_tokens: longest.answer_len,
                needed,
                limit: self.limits.context,
            });
        }
        for candidate in candidates {
            candidate.ids.drain(self.leading..self.leading + excess);
        }
        Ok(excess)
    }

    fn tokenize(&self, text: &str, example: &Example) -> Result<Vec<u32>, TaskError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| failed_on(example, &error))?;
        let ids = encoding.get_ids();
        let ids = &ids[..ids.len().saturating_sub(self.trailing)];
        check_vocabulary(ids, &self.tokenizer, self.limits.vocabulary).map_err(|problem| TaskError::ForeignToken {
            path: example.source.to_path_buf(),
            line: example.line,
            problem,
        })?;
        Ok(ids.to_vec())
    }
}

/// The tokenizer without truncation and padding, which a tokenizer.json may ask for and which would make token counts
/// meaningless here.
pub(super) fn unlimited(tokenizer: &Tokenizer) -> Result<Cow<'_, Tokenizer>, TaskError> {
    let mut tokenizer = Cow::Borrowed(tokenizer);
    if tokenizer.get_truncation().is_some() || tokenizer.get_padding().is_some() {
        tokenizer.to_mut().with_padding(None).with_truncation(None).map_err(|error| unusable(&error))?;
    }
    Ok(tokenizer)
}

/// How many special tokens a tokenizer puts before a text and after it.
pub(super) fn added_tokens(tokenizer: &Tokenizer) -> Result<(usize, usize), TaskError> {
    let probe = tokenizer.encode_fast("a", true).map_err(|error| unusable(&error))?;
    // The mask marks what the post-processor adds, and nothing else.
    let special = probe.get_special_tokens_mask();
    let leading = special.iter().take_while(|&&mark| mark == 1).count();
    let trailing = special[leading..].iter().rev().take_while(|&&mark| mark == 1).count();
    Ok((leading, trailing))
}

fn unusable(error: &tokenizers::Error) -> TaskError {
    TaskError::Tokenizer { reason: error.to_string() }
}

fn failed_on(example: &Example, error: &tokenizers::Error) -> TaskError {
    TaskError::Tokenize { path: example.source.to_path_buf(), line: example.line, reason: error.to_string() }
}

#[cfg(test)]
mod tests;
