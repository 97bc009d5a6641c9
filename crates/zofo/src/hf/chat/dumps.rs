//! Python's `json.dumps`: JSON with the spaces that models saw in training.

use std::fmt::Write as _;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// How far values may be nested: as far as serde_json reads.
const DEEPEST: usize = 128;

/// The arguments of `json.dumps`.
pub(super) struct Style {
    /// What a level is indented by; all on one line without it.
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
}

impl Style {
    /// Of an indentation that is given as a number.
    pub(super) const WIDEST_INDENT: usize = 64;
}

/// The JSON text of a value.
///
/// # Errors
/// The value, or one in it, is none of JSON's, or they are nested too deep.
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut writer = Writer { style, text: String::new(), depth: 0 };
    writer.value(value)?;
    Ok(writer.text)
}

struct Writer<'a> {
    style: &'a Style,
    text: String,
    depth: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                return self.enclosed(['[', ']'], items, |writer, item| writer.value(&item));
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.collect::<Vec<_>>();
                if self.style.sort_keys {
                    keys.sort();
                }
                return self.enclosed(['{', '}'], keys, |writer, key| {
                    match key.as_str() {
                        Some(text) => writer.string(text),
                        None => writer.string(&scalar(&key)?),
                    }
                    writer.text += &writer.style.key_separator;
                    writer.value(&value.get_item(&key)?)
                });
            }
            _ => self.text += &scalar(value)?,
        }
        Ok(())
    }

    fn enclosed(
        &mut self,
        [open, close]: [char; 2],
        items: impl IntoIterator<Item = Value>,
        mut item: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == DEEPEST {
            let detail = format!("tojson: values nested more than {DEEPEST} deep");
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        self.text.push(open);
        self.depth += 1;
        let mut is_empty = true;
        for value in items {
            if !is_empty {
                self.text += &self.style.item_separator;
            }
            is_empty = false;
            self.line_break();
            item(self, value)?;
        }
        self.depth -= 1;
        if !is_empty {
            self.line_break();
        }
        self.text.push(close);
        Ok(())
    }

    fn line_break(&mut self) {
        if let Some(indent) = &self.style.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(indent.as_str(), self.depth));
        }
    }

    /// Python and serde_json escape the same characters the same way, but for `ensure_ascii`.
    fn string(&mut self, text: &str) {
        let escaped = serde_json::Value::from(text).to_string();
        if !self.style.ensure_ascii {
            self.text += &escaped;
            return;
        }
        for character in escaped.chars() {
            if character.is_ascii() {
                self.text.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(self.text, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// What is neither text, list nor object.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(value.is_true().to_string()),
        ValueKind::Number => Ok(value.to_string()),
        kind => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: a value that is {kind} is none of JSON's")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Style {
        Style {
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            ensure_ascii: false,
            sort_keys: false,
        }
    }

    fn value() -> Value {
        let object = serde_json::json!({ "a": [1, 2.5, true, null, "\u{1}<é>\u{7f}"], "b": {}, "c": [] });
        Value::from(minijinja::value::Serde(object))
    }

    #[test]
    fn as_python_writes_it() {
        let expected = r#"{"a": [1, 2.5, true, null, "\u0001<é>␡"], "b": {}, "c": []}"#.replace('␡', "\u{7f}");
        assert_eq!(dumps(&value(), &plain()).unwrap(), expected);
        let style = Style {
            indent: Some("  ".to_owned()),
            item_separator: ",".to_owned(),
            sort_keys: true,
            ensure_ascii: true,
            ..plain()
        };
        let expected = r#"{
  "a": [
    1,
    2.5,
    true,
    null,
    "\u0001<\u00e9>␡"
  ],
  "b": {},
  "c": []
}"#
        .replace('␡', "\u{7f}");
        assert_eq!(dumps(&value(), &style).unwrap(), expected);
        let crab = Value::from("🦀");
        assert_eq!(dumps(&crab, &Style { ensure_ascii: true, ..plain() }).unwrap(), r#""\ud83e\udd80""#);
    }

    #[test]
    fn what_is_not_json() {
        let refused = |value: &Value| dumps(value, &plain()).unwrap_err().to_string();
        assert!(refused(&Value::UNDEFINED).contains("undefined"));
        let deep = (0..=DEEPEST).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
        assert!(refused(&deep).contains("128 deep"));
    }
}
