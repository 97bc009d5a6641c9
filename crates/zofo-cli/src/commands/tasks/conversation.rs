//! Rows that are conversations, as `zofo tasks show` shows them.

use crate::errors::Error;
use crate::model;
use crate::progress::Messenger;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use tokenizers::Tokenizer;
use zofo::hf::Message;
use zofo::task::chat::{ChatEncoder, EncodedChat};
use zofo::task::{Example, Task, TemplateName};

/// A conversation, and how a model reads it.
#[derive(Serialize)]
pub struct ConversationReport {
    line: usize,
    messages: Vec<Message>,
    /// Its tokens; none without a model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<Piece>,
}

/// Tokens one behind the other that all count in the loss, or all do not.
#[derive(Serialize)]
struct Piece {
    scored: bool,
    tokens: Vec<String>,
}

/// The conversations of some rows, with their tokens if there is a model.
///
/// # Errors
/// As of [`ChatEncoder`], and of a model that cannot be opened.
pub fn read(
    task: &Task,
    rows: &[Example],
    template: &TemplateName,
    model: Option<&Path>,
) -> Result<Vec<ConversationReport>, Error> {
    let report = |row: &Example, tokens| match row.messages() {
        Ok(messages) => Ok(ConversationReport { line: row.line, messages, tokens }),
        Err(error) => Err(Error::Input(format!("{}:{}: {error}", row.source.display(), row.line))),
    };
    let Some(path) = model else {
        return rows.iter().map(|row| report(row, Vec::new())).collect();
    };
    let files = model::open(path, &Messenger::new())?;
    let tokenizer = files.tokenizer()?;
    let encoder = ChatEncoder::new(task, template, &files, &tokenizer, files.config().limits())?;
    rows.iter().map(|row| report(row, pieces(&encoder.encode_row(row)?, &tokenizer))).collect()
}

/// The tokens, cut where they begin to count and where they cease to.
fn pieces(chat: &EncodedChat, tokenizer: &Tokenizer) -> Vec<Piece> {
    let name = |&id: &u32| tokenizer.id_to_token(id).unwrap_or_else(|| id.to_string());
    let mut ends: Vec<usize> = chat.answers.iter().flat_map(|answer| [answer.start, answer.end]).collect();
    ends.push(chat.ids.len());
    let mut start = 0;
    let pieces = ends.into_iter().enumerate().map(|(index, end)| {
        let tokens = chat.ids[start..end].iter().map(name).collect();
        start = end;
        Piece { scored: index % 2 == 1, tokens }
    });
    pieces.filter(|piece| !piece.tokens.is_empty()).collect()
}

impl ConversationReport {
    /// Appends it for people. Texts are quoted, so that blanks and line feeds show.
    pub fn describe(&self, text: &mut String) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\nline {}", self.line);
        for Message { role, content } in &self.messages {
            let _ = writeln!(text, "  {role:10} {content:?}");
        }
        for Piece { scored, tokens } in &self.tokens {
            let what = if *scored { "scored" } else { "read" };
            let _ = writeln!(text, "  {what:10} {} ({})", tokens.join(" "), tokens.len());
        }
    }
}
