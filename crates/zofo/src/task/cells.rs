//! The types of values in text files, where the task says what they are.

use serde_json::{Map, Value};

use super::definition::{FieldType, Task};

/// Replaces the texts of a row that comes from a file without types (CSV, TSV) by what the task declares them to be.
///
/// An integer is written in digits, a truth value as `true` or `True` and so on, a list of strings as JSON; an empty
/// cell of an optional field is no value. What cannot be read so stays a text, which the check of the row then refuses
/// with its place.
pub(super) fn type_cells(row: &mut Map<String, Value>, task: &Task) {
    for (name, field) in task.fields() {
        let own = [name.clone()];
        for column in if field.from.is_empty() { &own[..] } else { &field.from } {
            replace(row, column, |text| match field.kind {
                _ if field.optional && text.is_empty() => Some(Value::Null),
                FieldType::String => None,
                FieldType::Integer => integer(text),
                FieldType::Boolean => boolean(text),
                FieldType::Strings => strings(text),
            });
        }
    }
    let Some(label) = task.label() else {
        // A conversation is a list, which a cell can hold as JSON only.
        ["messages", "conversations"].iter().for_each(|column| replace(row, column, list));
        return;
    };
    for column in label.columns() {
        replace(row, column, |text| label.cell(text));
    }
}

fn replace(row: &mut Map<String, Value>, column: &str, read: impl FnOnce(&str) -> Option<Value>) {
    if let Some(cell) = row.get_mut(column)
        && let Some(value) = cell.as_str().and_then(read)
    {
        *cell = value;
    }
}

pub(super) fn integer(text: &str) -> Option<Value> {
    text.trim().parse::<i64>().ok().map(Value::from)
}

pub(super) fn boolean(text: &str) -> Option<Value> {
    match text.trim() {
        "true" | "True" | "TRUE" => Some(true.into()),
        "false" | "False" | "FALSE" => Some(false.into()),
        _ => None,
    }
}

/// A JSON list.
fn list(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_array)
}

/// A JSON list of strings.
pub(super) fn strings(text: &str) -> Option<Value> {
    let list: Vec<String> = serde_json::from_str(text).ok()?;
    Some(list.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(task: &str, row: Value) -> Value {
        let task = Task::parse(task, "test").unwrap();
        let Value::Object(mut row) = row else { panic!("not an object") };
        type_cells(&mut row, &task);
        row.into()
    }

    const TASK: &str = r#"
        name = "t"
        description = "d"
        [fields]
        text = "string"
        count = { type = "integer", from = ["n", "number"] }
        flag = "boolean"
        items = "strings"
        note = { type = "string", optional = true }
        [label]
        field = "label"
        LABEL
        [template.prompt]
        prompt = "{{ text }}"
        candidates = ["a", "b"]
    "#;

    #[test]
    fn cells_get_the_types_that_the_task_declares() {
        let task = TASK.replace("LABEL", "");
        let row = json!({
            "text": "7", "number": " 12", "flag": "True", "items": "[\"x\", \"y\"]", "note": "", "label": "1", "other": "3",
        });
        let expected = json!({
            "text": "7", "number": 12, "flag": true, "items": ["x", "y"], "note": null, "label": 1, "other": "3",
        });
        assert_eq!(typed(&task, row), expected);
        let unreadable = json!({"text": "", "n": "1.5", "flag": "1", "items": "x", "label": "one"});
        assert_eq!(typed(&task, unreadable.clone()), unreadable);
    }

    #[test]
    fn labels_become_what_the_task_lists() {
        let label = |values: &str, text: &str| {
            typed(&TASK.replace("LABEL", &format!("values = {values}")), json!({ "label": text }))["label"].clone()
        };
        assert_eq!(label("[\"0\", \"1\"]", "1"), json!("1"));
        assert_eq!(label("[3, 4]", "4"), json!(4));
        assert_eq!(label("[3, 4]", "5"), json!("5"));
        assert_eq!(label("[false, true]", "True"), json!(true));
        assert_eq!(label("[[\"no\", 0], [\"yes\", 1]]", "1"), json!(1));
    }
}
