//! Rows that are conversations, as token sequences in which the assistant's answers count.

use std::borrow::Cow;
use std::path::PathBuf;

use thiserror::Error;
use tokenizers::Tokenizer;

use super::alpaca;
use super::conversation::ConversationError;
use super::spans::{AnswerTurns, ChatText, EncodedChat, SpanError};
use crate::hf::{ChatTemplate, HfError, ModelFiles};
use crate::task::dataset::Example;
use crate::task::definition::Task;
use crate::task::encode::{
    Cut, Encoded, EncodedExample, ModelLimits, TruncationReport, added_tokens, check_vocabulary, unlimited,
};
use crate::task::error::TaskError;
use crate::task::template::TemplateName;

/// How conversations become texts, and what of them counts: the templates of a task of kind `"chat"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatStyle {
    /// `prompt`: by the model's chat template; all answers count. Where the model has none, as [`Alpaca`](Self::Alpaca).
    Prompt,
    /// `last`: the same, but only the last answer counts. For templates that write earlier answers in another way than
    /// they were given, as those of models that think do.
    Last,
    /// `alpaca`: in the plain form of Stanford Alpaca, whatever the model's template is.
    Alpaca,
}

impl ChatStyle {
    const ALL: [(&'static str, Self); 3] = [("prompt", Self::Prompt), ("last", Self::Last), ("alpaca", Self::Alpaca)];

    /// Their names.
    pub fn names() -> impl Iterator<Item = TemplateName> {
        Self::ALL.into_iter().filter_map(|(name, _)| name.parse().ok())
    }

    fn of(name: &TemplateName) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name.as_str()).map(|(_, style)| style)
    }
}

/// Why a conversation cannot be written down.
#[derive(Debug, Error)]
pub enum ChatError {
    /// It is none.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// The chat template fails on it, or hides where its answers are.
    #[error(transparent)]
    Span(#[from] SpanError<HfError>),
    /// The model does not say how it is written.
    #[error(
        "`{}` has no chat template, so that this conversation has no text: use a model that has one (mostly those whose \
         names end in -Instruct or -Chat), or put a `chat_template.jinja` into its folder; rows with `instruction` and \
         `output` need none",
        .model.display()
    )]
    NoTemplate {
        /// The model.
        model: PathBuf,
    },
    /// It does not have the fields of the plain form.
    #[error("template \"alpaca\" is for rows with `instruction` and `output`: use \"prompt\" for other conversations")]
    NotAlpaca,
}

/// Turns conversations into tokens, for one model.
pub struct ChatEncoder<'a> {
    style: ChatStyle,
    template: Option<ChatTemplate>,
    model: PathBuf,
    tokenizer: Cow<'a, Tokenizer>,
    limits: ModelLimits,
    /// Special tokens that the tokenizer puts after a text, but for a template's.
    trailing: usize,
    /// What ends an answer in the plain form, if the model has such a token.
    end_of_text: Option<u32>,
}

impl<'a> ChatEncoder<'a> {
    /// An encoder for the model of `files`, whose tokenizer is `tokenizer`, by the template of `task` that `template`
    /// names.
    ///
    /// # Errors
    /// [`TaskError::NoTemplate`]; [`TaskError::ChatTemplate`] if the model's cannot be compiled; [`TaskError::Tokenizer`].
    pub fn new(
        task: &Task,
        template: &TemplateName,
        files: &ModelFiles,
        tokenizer: &'a Tokenizer,
        limits: ModelLimits,
    ) -> Result<Self, TaskError> {
        let style = ChatStyle::of(template).ok_or_else(|| task.no_template(template))?;
        let tokenizer = unlimited(tokenizer)?;
        let (_, trailing) = added_tokens(&tokenizer)?;
        Ok(Self {
            style,
            template: ChatTemplate::open(files).map_err(|error| TaskError::ChatTemplate(Box::new(error)))?,
            model: files.source_path().to_owned(),
            tokenizer,
            limits,
            trailing,
            end_of_text: files.eos_token_ids().first().copied(),
        })
    }

    /// Encodes rows whose gold is [`Gold::Conversation`](crate::task::Gold::Conversation). Each is one sequence, cut at the
    /// context's end; without any of an answer in it, it is left out.
    ///
    /// # Errors
    /// With file and line: [`TaskError::Chat`], [`TaskError::ForeignToken`]. [`TaskError::NoConversationFits`].
    pub fn encode<'e>(&self, rows: impl IntoIterator<Item = &'e Example>) -> Result<Encoded, TaskError> {
        let limit = self.limits.context;
        let mut truncation = TruncationReport::empty(Cut::Conversation, limit);
        let mut examples = Vec::new();
        for row in rows {
            let chat = self.encode_row(row)?;
            let length = chat.answers.last().map_or(0, |answer| answer.end);
            truncation.total += 1;
            truncation.longest = truncation.longest.max(length);
            truncation.truncated += usize::from(length > limit);
            match chat.into_candidate(limit) {
                Some(candidate) => {
                    examples.push(EncodedExample { candidates: vec![candidate], golds: vec![0], line: row.line });
                }
                None => truncation.left_out += 1,
            }
        }
        if examples.is_empty() && truncation.total > 0 {
            return Err(TaskError::NoConversationFits { total: truncation.total, limit });
        }
        Ok(Encoded { examples, truncation })
    }

    /// The whole conversation of a row.
    ///
    /// # Errors
    /// [`TaskError::Chat`] and [`TaskError::ForeignToken`].
    pub fn encode_row(&self, row: &Example) -> Result<EncodedChat, TaskError> {
        let (path, line) = (|| row.source.to_path_buf(), row.line);
        let chat =
            self.written(row).map_err(|error| TaskError::Chat { path: path(), line, problem: Box::new(error) })?;
        check_vocabulary(&chat.ids, &self.tokenizer, self.limits.vocabulary)
            .map_err(|problem| TaskError::ForeignToken { path: path(), line, problem })?;
        Ok(chat)
    }

    fn written(&self, row: &Example) -> Result<EncodedChat, ChatError> {
        let turns = match self.style {
            ChatStyle::Prompt => AnswerTurns::All,
            ChatStyle::Last => AnswerTurns::Last,
            ChatStyle::Alpaca => return self.plain(row, || ChatError::NotAlpaca),
        };
        let Some(template) = &self.template else {
            return self.plain(row, || ChatError::NoTemplate { model: self.model.clone() });
        };
        let text = ChatText::render(&row.messages()?, turns, |messages, opens| template.render(messages, opens))?;
        Ok(text.encode(&self.tokenizer)?)
    }

    /// In the plain form, which the end of text ends.
    fn plain(&self, row: &Example, otherwise: impl FnOnce() -> ChatError) -> Result<EncodedChat, ChatError> {
        let text = alpaca::text(&row.fields).ok_or_else(otherwise)?;
        let mut chat: EncodedChat = text.encode_plain(&self.tokenizer, self.trailing)?;
        if let (Some(end), Some(answer)) = (self.end_of_text, chat.answers.last_mut()) {
            chat.ids.push(end);
            answer.end = chat.ids.len();
        }
        Ok(chat)
    }
}
