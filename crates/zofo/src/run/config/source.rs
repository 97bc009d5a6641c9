//! What was written, and where: the configuration before it is typed.

use std::fmt;

use toml::Value;
use toml::de::DeTable;

use super::error::ConfigError;
use super::keys::{is_known, nearest_key, nearest_word, sections};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file, on this line (from 1).
    File { file: String, line: usize },
    /// On the command line; the text after the `=`.
    Overlay { key: String, text: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line } => write!(formatter, "{file}:{line}"),
            Origin::Overlay { key, text } => write!(formatter, "--set {key}={text}"),
        }
    }
}

/// One key's value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All keys that were written, known ones only, each once.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: String,
    entries: Vec<Entry>,
}

impl Source {
    /// Parses the file's text and lays the overlays over it.
    pub(super) fn parse(text: &str, file: &str, overlays: &[String]) -> Result<Self, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            file: file.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        };
        let document: toml::Table = toml::from_str(text).map_err(syntax)?;
        // The same text a second time: a `toml::Table` knows values, a `DeTable` knows lines.
        let spans = DeTable::parse(text).map_err(syntax)?;
        let origin = |section: &str, name: Option<&str>| Origin::File {
            file: file.to_owned(),
            line: line_of(text, spans.get_ref(), section, name),
        };
        let mut source = Self { file: file.to_owned(), entries: Vec::new() };
        for (section, value) in document {
            let known = sections();
            let table = match value {
                Value::Table(table) if known.contains(&section.as_str()) => table,
                Value::Table(_) => {
                    return Err(ConfigError::UnknownSection {
                        place: origin(&section, None).to_string(),
                        nearest: nearest_word(&known, &section).to_owned(),
                        section,
                    });
                }
                other if known.contains(&section.as_str()) => {
                    return Err(ConfigError::Value {
                        place: origin(&section, None).to_string(),
                        expected: format!("a section [{section}]"),
                        key: section,
                        found: describe(&other),
                    });
                }
                _ => return Err(unknown_key(&section, &origin(&section, None))),
            };
            for (name, value) in table {
                let origin = origin(&section, Some(&name));
                source.put(Entry { key: format!("{section}.{name}"), value, origin })?;
            }
        }
        for overlay in overlays {
            source.put(parse_overlay(overlay)?)?;
        }
        Ok(source)
    }

    /// Adds an entry, or replaces the one of the same key.
    fn put(&mut self, entry: Entry) -> Result<(), ConfigError> {
        if !is_known(&entry.key) {
            return Err(unknown_key(&entry.key, &entry.origin));
        }
        match self.entries.iter_mut().find(|present| present.key == entry.key) {
            Some(present) => *present = entry,
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// What was written for a key.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// What messages call the file.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// The keys that were written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }
}

fn unknown_key(key: &str, origin: &Origin) -> ConfigError {
    ConfigError::UnknownKey { place: origin.to_string(), key: key.to_owned(), nearest: nearest_key(key).to_owned() }
}

/// `key=value`. The value is TOML if it parses as that, else the text itself, so that words need no
/// quotes in a shell.
fn parse_overlay(overlay: &str) -> Result<Entry, ConfigError> {
    let invalid = || ConfigError::Overlay { text: overlay.to_owned() };
    let (key, text) = overlay.split_once('=').ok_or_else(invalid)?;
    let (key, text) = (key.trim().to_owned(), text.trim().to_owned());
    if key.is_empty() || text.is_empty() {
        return Err(invalid());
    }
    let value = text.parse().unwrap_or_else(|_| Value::String(text.clone()));
    Ok(Entry { key: key.clone(), value, origin: Origin::Overlay { key, text } })
}

/// The line of a section, or of a key in it.
fn line_of(text: &str, document: &DeTable<'_>, section: &str, name: Option<&str>) -> usize {
    let entry = document.iter().find(|(key, _)| key.get_ref() == section);
    let span = entry.map(|(key, value)| {
        let inner = name.and_then(|name| {
            value.get_ref().as_table()?.keys().find(|key| key.get_ref() == name).map(toml::Spanned::span)
        });
        inner.unwrap_or_else(|| key.span())
    });
    let start = span.map_or(0, |span| span.start);
    1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count()
}

/// A value in words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{text}\""),
        Value::Integer(number) => format!("the integer {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}
