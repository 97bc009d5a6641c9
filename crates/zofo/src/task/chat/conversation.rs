//! The forms in which conversations are published, as messages.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::hf::Message;
use crate::task::row::{Fields, describe};

/// A row that is no conversation to train on.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected {expected}, found {found}")]
pub struct ConversationError {
    /// What is needed.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl ConversationError {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}

const SYSTEM: &str = "system";
const USER: &str = "user";
pub(super) const ASSISTANT: &str = "assistant";

/// Whose turn it is, by the names that data sets have for them.
const ROLES: [(&str, &str); 9] = [
    (SYSTEM, SYSTEM),
    ("developer", SYSTEM),
    (USER, USER),
    ("human", USER),
    (ASSISTANT, ASSISTANT),
    ("gpt", ASSISTANT),
    ("chatgpt", ASSISTANT),
    ("model", ASSISTANT),
    ("bot", ASSISTANT),
];

/// How a row tells a conversation.
#[derive(Clone, Copy)]
enum Form {
    Messages,
    ShareGpt,
    Alpaca,
}

impl Form {
    /// The form of a row that has some fields.
    fn of(has: impl Fn(&str) -> bool) -> Option<Self> {
        if has("messages") {
            Some(Self::Messages)
        } else if has("conversations") {
            Some(Self::ShareGpt)
        } else if has("instruction") && has("output") {
            Some(Self::Alpaca)
        } else {
            None
        }
    }

    /// The fields that are part of the conversation.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::ShareGpt => &["conversations", SYSTEM],
            Self::Alpaca => &["instruction", "input", "output", SYSTEM],
        }
    }
}

/// The fields of a row, by name.
type Get<'g, 'r> = &'g dyn Fn(&str) -> Option<&'r Value>;

/// The conversation of a row, in one of these forms:
///
/// - `messages`: a list of `{"role": …, "content": …}`, the content a text or a list of `{"type": "text", "text": …}`;
/// - `conversations` (ShareGPT): a list of `{"from": …, "value": …}`, or of messages as above;
/// - `instruction`, `input` (may be missing or empty) and `output` (Alpaca): the user says the first two, parted by a
///   line feed.
///
/// Of the last two, `system` may be a field besides. What follows the last answer is dropped: there is nothing to learn
/// from it.
///
/// # Errors
/// None of these fields; something that is not a text; a role that is not one of system, user and assistant, or a name
/// for them; a system message that is not the first; no answer, one without text, or one as the first turn.
pub fn messages(row: &Map<String, Value>) -> Result<Vec<Message>, ConversationError> {
    read(form_of(row.keys())?, &|name| row.get(name))
}

/// The fields of a row that are part of its conversation, after a check that there is one: see [`messages`].
pub(in crate::task) fn fields(row: &Map<String, Value>) -> Result<Fields, ConversationError> {
    let form = form_of(row.keys())?;
    read(form, &|name| row.get(name))?;
    let field = |name: &&str| Some(((*name).to_owned(), row.get(*name).filter(|value| !value.is_null())?.clone()));
    Ok(form.fields().iter().filter_map(field).collect())
}

/// The conversation that [`fields`] kept.
pub(in crate::task) fn messages_of(fields: &Fields) -> Result<Vec<Message>, ConversationError> {
    read(form_of(fields.keys())?, &|name| fields.get(name))
}

fn form_of<'n>(names: impl Iterator<Item = &'n String>) -> Result<Form, ConversationError> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    Form::of(|name| names.contains(&name)).ok_or_else(|| {
        ConversationError::new(
            "`messages`, `conversations`, or `instruction` and `output`",
            if names.is_empty() { "no fields".to_owned() } else { format!("only the fields {}", names.join(", ")) },
        )
    })
}

fn read(form: Form, get: Get) -> Result<Vec<Message>, ConversationError> {
    let list = |field: &'static str| turns(get(field).unwrap_or(&Value::Null), field);
    let mut messages = match form {
        Form::Messages => list("messages")?,
        Form::ShareGpt => with_system(get, list("conversations")?)?,
        Form::Alpaca => with_system(get, alpaca(get)?)?,
    };
    let last = messages.iter().rposition(|message| message.role == ASSISTANT);
    let last = last.ok_or_else(|| ConversationError::new("an answer of the assistant", "none"))?;
    messages.truncate(last + 1);
    for (index, message) in messages.iter().enumerate() {
        if index > 0 && message.role == SYSTEM {
            return Err(ConversationError::new("a system message to be the first", format!("one as turn {index}")));
        }
        if message.role == ASSISTANT && message.content.trim().is_empty() {
            return Err(ConversationError::new("an answer with text", format!("an empty one as turn {index}")));
        }
    }
    if messages.first().is_some_and(|message| message.role == ASSISTANT) {
        return Err(ConversationError::new("someone to speak before the assistant", "an answer as turn 0"));
    }
    Ok(messages)
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// A list of messages under either pair of names.
fn turns(list: &Value, field: &str) -> Result<Vec<Message>, ConversationError> {
    let items = list
        .as_array()
        .ok_or_else(|| ConversationError::new(format!("`{field}` to be a list of messages"), describe(list)))?;
    let turn = |(index, item): (usize, &Value)| {
        let place = |what: &str| format!("`{field}[{index}]` to {what}");
        let object = item.as_object().ok_or_else(|| ConversationError::new(place("be an object"), describe(item)))?;
        let (name, text) = match (object.get("role"), object.get("from")) {
            (Some(role), _) => (role, object.get("content")),
            (None, Some(from)) => (from, object.get("value")),
            (None, None) => {
                let names: Vec<&str> = object.keys().map(String::as_str).collect();
                return Err(ConversationError::new(
                    place("have role and content, or from and value"),
                    format!("only {}", names.join(", ")),
                ));
            }
        };
        let role = ROLES.iter().find(|(known, _)| name.as_str() == Some(known)).map(|(_, role)| *role);
        let role =
            role.ok_or_else(|| ConversationError::new(place("be of system, user or assistant"), describe(name)))?;
        let text = text.unwrap_or(&Value::Null);
        let content = content(text).ok_or_else(|| ConversationError::new(place("have a text"), describe(text)))?;
        Ok(Message { role: role.to_owned(), content })
    };
    items.iter().enumerate().map(turn).collect()
}

/// A text, or the texts of a list of parts joined.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let part = |part: &Value| match part.get("type")?.as_str()? {
                "text" => part.get("text")?.as_str().map(str::to_owned),
                _ => None,
            };
            parts.iter().map(part).collect()
        }
        _ => None,
    }
}

fn alpaca(get: Get) -> Result<Vec<Message>, ConversationError> {
    let text = |name: &str| match get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        None | Some(Value::Null) if name == "input" => Ok(""),
        other => {
            let found = other.map_or_else(|| "nothing".to_owned(), describe);
            Err(ConversationError::new(format!("`{name}` to be a string"), found))
        }
    };
    let (instruction, input, output) = (text("instruction")?, text("input")?, text("output")?);
    let question = if input.trim().is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
    Ok(vec![message(USER, &question), message(ASSISTANT, output)])
}

/// The messages, after that of the field `system` if it has text.
fn with_system(get: Get, mut messages: Vec<Message>) -> Result<Vec<Message>, ConversationError> {
    match get(SYSTEM) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(Value::String(text)) => messages.insert(0, message(SYSTEM, text)),
        Some(other) => return Err(ConversationError::new("`system` to be a string", describe(other))),
    }
    Ok(messages)
}
