//! The label section of a task: where a row says what is right, and what that means.

use serde_json::{Map, Value};

use super::cells::{boolean, integer, strings};
use super::definition::file::LabelSource;
use super::engine::Engine;
use super::row::{Fields, Gold, Mismatch, alternatives, describe, find, missing};

/// The name of the part that computes a label.
pub(super) const VALUE: &str = "value";

/// A label section, checked.
pub(super) struct Label {
    place: Place,
    meaning: Meaning,
}

/// Where the value is.
enum Place {
    /// At the first of these columns that the row has.
    Columns(Vec<String>),
    /// What the part [`VALUE`] makes of the row's fields.
    Computed(Box<Engine>),
}

/// What the value means.
enum Meaning {
    /// One of a fixed number of classes, by position.
    Position(usize),
    /// One of the classes, by what stands for each.
    Class(Vec<Vec<Value>>),
    /// One of the items of the row's list `field`: by position or by what stands for a position, else the item itself
    /// or a list of items.
    Item { field: String, values: Option<Vec<Vec<Value>>> },
    /// A text or a list of texts.
    Answer,
}

impl Label {
    /// A label of `classes` fixed candidates, of the items of a list, or (neither) of free texts.
    pub(super) fn new(source: LabelSource, classes: Option<usize>, computed: Option<Engine>) -> Self {
        let place = match computed {
            Some(engine) => Place::Computed(Box::new(engine)),
            None => Place::Columns(source.field),
        };
        let meaning = match (source.choices, classes, source.values) {
            (Some(field), _, values) => Meaning::Item { field, values },
            (None, Some(_), Some(values)) => Meaning::Class(values),
            (None, Some(classes), None) => Meaning::Position(classes),
            (None, None, _) => Meaning::Answer,
        };
        Self { place, meaning }
    }

    /// Where a row says what is right, for people.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Columns(columns) => columns.join(" or "),
            Place::Computed(_) => "computed from the fields".to_owned(),
        }
    }

    /// The columns where the value may be; none if it is computed.
    pub(super) fn columns(&self) -> &[String] {
        match &self.place {
            Place::Columns(columns) => columns,
            Place::Computed(_) => &[],
        }
    }

    /// The value that the text of a cell stands for, in a file whose values have no types. `None` for the text itself.
    pub(super) fn cell(&self, text: &str) -> Option<Value> {
        match &self.meaning {
            Meaning::Position(_) => integer(text),
            Meaning::Class(values) | Meaning::Item { values: Some(values), .. } => {
                let known = |value: &Value| class(value, values).is_some();
                if known(&Value::from(text)) {
                    return None;
                }
                integer(text).filter(known).or_else(|| boolean(text).filter(known))
            }
            // A number would be an item for some rows and a position for others.
            Meaning::Item { values: None, .. } | Meaning::Answer => strings(text),
        }
    }

    /// What is right for a row.
    pub(super) fn read(&self, row: &Map<String, Value>, fields: &Fields) -> Result<Gold, Mismatch> {
        let expected = || format!("{} to be {}", self.called(), self.meaning.describe());
        let computed;
        let value = match &self.place {
            Place::Columns(columns) => find(row, columns).ok_or_else(|| missing(row, expected()))?,
            Place::Computed(engine) => {
                let text = engine.render(VALUE, fields, &Map::new());
                computed = Value::String(text.map_err(|reason| Mismatch::new(expected(), reason))?);
                &computed
            }
        };
        let refused = || Mismatch::new(expected(), describe(value));
        match &self.meaning {
            Meaning::Position(classes) => {
                let position = position(value).filter(|position| position < classes).ok_or_else(refused)?;
                Ok(Gold::Candidates(vec![position]))
            }
            Meaning::Class(values) => Ok(Gold::Candidates(vec![class(value, values).ok_or_else(refused)?])),
            Meaning::Item { field, values } => {
                let items = items(fields, field)?;
                let positions = match (values, value) {
                    (Some(values), value) => class(value, values).map(|position| vec![position]),
                    (None, Value::Array(golds)) => golds.iter().map(|gold| index(&items, gold)).collect(),
                    (None, Value::String(_)) => index(&items, value).map(|position| vec![position]),
                    (None, value) => position(value).map(|position| vec![position]),
                };
                let positions = positions
                    .filter(|positions| !positions.is_empty() && positions.iter().all(|&place| place < items.len()));
                Ok(Gold::Candidates(without_repeats(positions.ok_or_else(refused)?)))
            }
            Meaning::Answer => {
                let answers: Option<Vec<String>> = match value {
                    Value::String(answer) => Some(vec![answer.clone()]),
                    Value::Array(answers) => answers.iter().map(|answer| answer.as_str().map(str::to_owned)).collect(),
                    _ => None,
                };
                let answers = answers.filter(|answers| !answers.is_empty()).ok_or_else(refused)?;
                match answers.iter().position(|answer| answer.trim().is_empty()) {
                    Some(blank) => Err(Mismatch::new(expected(), format!("no text in answer {blank}"))),
                    None => Ok(Gold::Answers(answers)),
                }
            }
        }
    }

    /// What messages call the label.
    fn called(&self) -> String {
        match &self.place {
            Place::Columns(columns) => format!("the label {}", alternatives(columns)),
            Place::Computed(_) => "the label that `label.value` computes".to_owned(),
        }
    }
}

impl Meaning {
    fn describe(&self) -> String {
        let list = |values: &[Vec<Value>]| values.iter().flatten().map(Value::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Meaning::Position(classes) => format!("an integer from 0 to {}", classes - 1),
            Meaning::Class(values) => format!("one of {}", list(values)),
            Meaning::Item { field, values: Some(values) } => {
                format!("one of {} that is a position in `{field}`", list(values))
            }
            Meaning::Item { field, values: None } => {
                format!("an item of `{field}`, a list of its items, or a position in it")
            }
            Meaning::Answer => "an answer, or a list of answers".to_owned(),
        }
    }
}

/// The list that the candidates are made from.
fn items<'f>(fields: &'f Fields, field: &str) -> Result<Vec<&'f str>, Mismatch> {
    let list = fields.get(field).and_then(Value::as_array).into_iter().flatten();
    let items: Vec<&str> = list.filter_map(Value::as_str).collect();
    if items.len() < 2 {
        return Err(Mismatch::new(
            format!("`{field}` to have at least 2 items, which are the candidates"),
            format!("{}", items.len()),
        ));
    }
    Ok(items)
}

fn position(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|position| usize::try_from(position).ok())
}

fn class(value: &Value, values: &[Vec<Value>]) -> Option<usize> {
    values.iter().position(|class| class.contains(value))
}

fn index(items: &[&str], value: &Value) -> Option<usize> {
    items.iter().position(|item| value.as_str() == Some(item))
}

fn without_repeats(positions: Vec<usize>) -> Vec<usize> {
    let mut unique = Vec::with_capacity(positions.len());
    for position in positions {
        if !unique.contains(&position) {
            unique.push(position);
        }
    }
    unique
}
