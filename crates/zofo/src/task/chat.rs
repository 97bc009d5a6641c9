//! Conversations as training data: the forms in which they are published, and which tokens are the assistant's.
//!
//! 1. [`messages`] reads a row in any of the usual forms;
//! 2. [`ChatText::render`] renders it with a model's chat template and finds the answers in the text;
//! 3. [`ChatText::encode`] tokenises the text and finds the answers among the tokens.
//!
//! [`ChatEncoder`] does all three for the rows of a task of kind `"chat"`.

mod alpaca;
mod conversation;
mod encoder;
mod spans;
#[cfg(test)]
mod tests;

pub use conversation::{ConversationError, messages};
pub(super) use conversation::{fields, messages_of};
pub use encoder::{ChatEncoder, ChatError, ChatStyle};
pub use spans::{AnswerTurns, ChatText, EncodedChat, SpanError};
