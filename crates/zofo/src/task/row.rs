//! One row, whatever file it came from, checked against a task.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::chat;
use super::definition::{Field, FieldType, Task};

/// The values of a row that its task declares.
pub type Fields = BTreeMap<String, Value>;

/// What is right for a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gold {
    /// Positions among the candidates, none twice; at least one. Any of them is a correct prediction, the first is
    /// trained on.
    Candidates(Vec<usize>),
    /// Texts; at least one. All count when a generated text is judged, the first is trained on.
    Answers(Vec<String>),
    /// What the assistant says in the conversation that the row is.
    Conversation,
}

impl Gold {
    /// The right answers in words of a row whose answer is written; none of others.
    pub fn answers(&self) -> &[String] {
        match self {
            Self::Answers(answers) => answers,
            Self::Candidates(_) | Self::Conversation => &[],
        }
    }
}

/// Why a row is refused; who knows its file and line adds them.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
}

impl Mismatch {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }
}

/// The declared fields of a row and what is right for it; of a conversation, the fields that are part of it.
pub(super) fn check(row: &Map<String, Value>, task: &Task) -> Result<(Fields, Gold), Mismatch> {
    let Some(label) = task.label() else {
        let fields = chat::fields(row).map_err(|error| Mismatch::new(error.expected, error.found))?;
        return Ok((fields, Gold::Conversation));
    };
    let mut fields = Fields::new();
    for (name, field) in task.fields() {
        if let Some(value) = read_field(row, name, field)? {
            fields.insert(name.clone(), value.clone());
        }
    }
    let gold = label.read(row, &fields)?;
    Ok((fields, gold))
}

/// The value at the first of `columns` that the row has.
pub(super) fn find<'r>(row: &'r Map<String, Value>, columns: &[String]) -> Option<&'r Value> {
    columns.iter().find_map(|column| row.get(column).or_else(|| descend(row, column)))
}

/// The value at a path such as `answers.text` or `output.0.answer`.
fn descend<'r>(row: &'r Map<String, Value>, path: &str) -> Option<&'r Value> {
    let (first, rest) = path.split_once('.')?;
    rest.split('.').try_fold(row.get(first)?, |value, step| match value {
        Value::Object(inner) => inner.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// `None` if the field is optional and the row lacks it.
fn read_field<'r>(row: &'r Map<String, Value>, name: &str, field: &Field) -> Result<Option<&'r Value>, Mismatch> {
    let own = [name.to_owned()];
    let columns = if field.from.is_empty() { &own } else { &field.from[..] };
    let expected = || {
        let place = if columns == own { String::new() } else { format!(" (column {})", alternatives(columns)) };
        let what = match field.kind {
            FieldType::String if !field.one_of.is_empty() => format!("one of \"{}\"", field.one_of.join("\", \"")),
            FieldType::String => "a string".to_owned(),
            FieldType::Strings => "a list of strings".to_owned(),
            FieldType::Integer => "an integer".to_owned(),
            FieldType::Boolean => "true or false".to_owned(),
        };
        format!("`{name}`{place} to be {what}")
    };
    let value = match find(row, columns) {
        None | Some(Value::Null) if field.optional => return Ok(None),
        None => return Err(missing(row, expected())),
        Some(value) => value,
    };
    let fits = match (field.kind, value) {
        (FieldType::String, Value::String(text)) => field.one_of.is_empty() || field.one_of.contains(text),
        (FieldType::Strings, Value::Array(items)) => items.iter().all(Value::is_string),
        (FieldType::Integer, Value::Number(number)) => number.is_i64() || number.is_u64(),
        (FieldType::Boolean, Value::Bool(_)) => true,
        _ => false,
    };
    if fits { Ok(Some(value)) } else { Err(Mismatch::new(expected(), describe(value))) }
}

/// Column names for a message: `a`, or `a` or `b`.
pub(super) fn alternatives(columns: &[String]) -> String {
    format!("`{}`", columns.join("` or `"))
}

pub(super) fn missing(row: &Map<String, Value>, expected: String) -> Mismatch {
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    let found = if names.is_empty() { "no fields".to_owned() } else { format!("only the fields {}", names.join(", ")) };
    Mismatch::new(expected, found)
}

/// A JSON value in words, short enough for a message.
pub(super) fn describe(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() > LONGEST => {
            format!("the string \"{}…\"", text.chars().take(LONGEST).collect::<String>())
        }
        Value::String(text) => format!("the string \"{text}\""),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("not an object") };
        map
    }

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_column_may_lie_inside_another_and_have_other_names() {
        let row = object(json!({"a": {"b": [5, {"c": 6}], "d.e": 7}, "x.y": 8, "n": null}));
        let at = |names: &[&str]| find(&row, &columns(names)).cloned();
        assert_eq!(at(&["a.b.0"]), Some(json!(5)));
        assert_eq!(at(&["a.b.1.c"]), Some(json!(6)));
        // A name with a full stop in it is found as it is, where it is a column of the row.
        assert_eq!(at(&["x.y"]), Some(json!(8)));
        assert_eq!(at(&["a.d.e"]), None);
        assert_eq!(at(&["a.b.2"]), None);
        assert_eq!(at(&["a.b.c"]), None);
        assert_eq!(at(&["none", "a.b.0"]), Some(json!(5)));
        assert_eq!(at(&["n"]), Some(Value::Null));
    }

    #[test]
    fn types_and_alternatives_are_checked() {
        let field = |text: &str| -> Field { toml::from_str::<BTreeMap<String, Field>>(text).unwrap()["f"].clone() };
        let read = |field: &Field, row: Value| {
            read_field(&object(row), "f", field)
                .map(|value| value.cloned())
                .map_err(|error| (error.expected, error.found))
        };
        let strings = field("f = { type = \"strings\", from = [\"x\", \"y.z\"] }");
        assert_eq!(read(&strings, json!({"y": {"z": ["a"]}})), Ok(Some(json!(["a"]))));
        let (expected, found) = read(&strings, json!({"y": {"z": ["a", 1]}})).unwrap_err();
        assert_eq!(
            (expected.as_str(), found.as_str()),
            ("`f` (column `x` or `y.z`) to be a list of strings", "a list")
        );
        let optional = field("f = { type = \"string\", optional = true }");
        assert_eq!(read(&optional, json!({})), Ok(None));
        assert_eq!(read(&optional, json!({"f": null})), Ok(None));
        assert_eq!(read(&optional, json!({"f": 1})).unwrap_err().1, "the number 1");
        assert_eq!(read(&field("f = \"string\""), json!({"f": null})).unwrap_err().1, "null");
        assert_eq!(read(&field("f = \"integer\""), json!({"f": 1.0})).unwrap_err().0, "`f` to be an integer");
        assert_eq!(read(&field("f = \"boolean\""), json!({"f": true})), Ok(Some(json!(true))));
    }
}
