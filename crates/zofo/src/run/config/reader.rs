//! Typed values out of what was written.

use std::path::PathBuf;
use std::str::FromStr;

use toml::Value;

use super::choice::Choice;
use super::error::ConfigError;
use super::keys::nearest_word;
use super::paths::expand_home;
use super::source::{Entry, Origin, Source, describe};
use crate::hf::{ModuleNames, Patterns};

/// What a number must be, besides finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// Above 0.
    Positive,
    /// 0 or above.
    NotNegative,
    /// Above 0 and below 1.
    Fraction,
    /// 0 or above, and below 1.
    Share,
}

impl Range {
    fn contains(self, number: f64) -> bool {
        match self {
            Range::Positive => number > 0.0,
            Range::NotNegative => number >= 0.0,
            Range::Fraction => number > 0.0 && number < 1.0,
            Range::Share => (0.0..1.0).contains(&number),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Range::Positive => "a finite number above 0",
            Range::NotNegative => "a finite number of at least 0",
            Range::Fraction => "a number above 0 and below 1",
            Range::Share => "a number of at least 0 and below 1",
        }
    }
}

/// Reads keys of a [`Source`]. Every method returns `None` for a key that was not written; the
/// defaults are the caller's.
pub(super) struct Reader<'a> {
    source: &'a Source,
    home: Option<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
        Self { source, home }
    }

    /// The value of a key that must be set.
    pub(super) fn require<T>(&self, key: &str, value: Option<T>, advice: &str) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.missing(key, advice))
    }

    /// The error of a key that must be set and is not.
    pub(super) fn missing(&self, key: &str, advice: &str) -> ConfigError {
        ConfigError::Missing { file: self.source.file().to_owned(), key: key.to_owned(), advice: advice.to_owned() }
    }

    /// A string that is, or may be, a path: with `~` expanded.
    ///
    /// What an overlay wrote without quotes is taken literally, even where it looks like a number
    /// or a date.
    pub(super) fn expanded(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.source
            .get(key)
            .map(|entry| {
                expand_home(&string_of(entry)?, self.home.as_deref())
                    .ok_or_else(|| ConfigError::NoHome { place: entry.origin.to_string(), key: key.to_owned() })
            })
            .transpose()
    }

    /// A path, with `~` expanded.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.expanded(key)?.map(PathBuf::from))
    }

    /// A string that is not a path.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.source.get(key).map(string_of).transpose()
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let flag = |entry: &Entry| entry.value.as_bool().ok_or_else(|| mismatch(entry, "true or false"));
        self.source.get(key).map(flag).transpose()
    }

    /// A number; integers are numbers too.
    pub(super) fn number(&self, key: &str, range: Range) -> Result<Option<f64>, ConfigError> {
        self.source.get(key).map(|entry| number_of(entry, &entry.value, range)).transpose()
    }

    /// An integer of at least `minimum`.
    pub(super) fn count(&self, key: &str, minimum: usize) -> Result<Option<usize>, ConfigError> {
        self.source
            .get(key)
            .map(|entry| {
                entry
                    .value
                    .as_integer()
                    .and_then(|number| usize::try_from(number).ok())
                    .filter(|number| *number >= minimum)
                    .ok_or_else(|| mismatch(entry, format!("an integer of at least {minimum}")))
            })
            .transpose()
    }

    /// An integer from 1 to `maximum`.
    pub(super) fn count_up_to(&self, key: &str, maximum: usize) -> Result<Option<usize>, ConfigError> {
        self.source
            .get(key)
            .map(|entry| {
                let number = entry.value.as_integer().and_then(|number| usize::try_from(number).ok());
                let number = number.filter(|number| (1..=maximum).contains(number));
                number.ok_or_else(|| mismatch(entry, format!("an integer from 1 to {maximum}")))
            })
            .transpose()
    }

    /// A seed: an integer from 0 to 2⁶³ − 1, the largest that TOML has.
    pub(super) fn seed(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        self.source
            .get(key)
            .map(|entry| {
                entry
                    .value
                    .as_integer()
                    .and_then(|number| u64::try_from(number).ok())
                    .ok_or_else(|| mismatch(entry, "an integer of at least 0"))
            })
            .transpose()
    }

    /// Names of modules: a list of at least one, none empty, none twice, or a regular expression.
    pub(super) fn names(&self, key: &str) -> Result<Option<ModuleNames>, ConfigError> {
        let Some(entry) = self.source.get(key) else { return Ok(None) };
        let expected = "a list of different names, such as [\"q_proj\", \"v_proj\"], or a regular expression";
        let list = match &entry.value {
            Value::String(pattern) if !pattern.is_empty() => return Ok(Some(ModuleNames::Pattern(pattern.clone()))),
            Value::String(_) => return Err(invalid(entry, expected, "an empty string")),
            Value::Array(list) => list,
            _ => return Err(mismatch(entry, expected)),
        };
        let name = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
        different(entry, list, expected, name).map(|names| Some(ModuleNames::List(names)))
    }

    /// A list of integers of at least 0: at least one, none twice.
    pub(super) fn indices(&self, key: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        let Some(entry) = self.source.get(key) else { return Ok(None) };
        let expected = "a list of different integers of at least 0";
        let list = entry.value.as_array().ok_or_else(|| mismatch(entry, expected))?;
        let index = |value: &Value| value.as_integer().and_then(|number| usize::try_from(number).ok());
        different(entry, list, expected, index).map(Some)
    }

    /// Regular expressions with ranks; none if the key was not written.
    pub(super) fn rank_patterns(&self, key: &str) -> Result<Patterns<usize>, ConfigError> {
        self.patterns(key, |entry, value| {
            let rank = value.as_integer().and_then(|number| usize::try_from(number).ok()).filter(|rank| *rank >= 1);
            rank.ok_or_else(|| invalid(entry, "regular expressions with integers of at least 1", describe(value)))
        })
    }

    /// Regular expressions with values of α; none if the key was not written.
    pub(super) fn alpha_patterns(&self, key: &str) -> Result<Patterns<f64>, ConfigError> {
        self.patterns(key, |entry, value| number_of(entry, value, Range::Positive))
    }

    fn patterns<T>(
        &self,
        key: &str,
        read: impl Fn(&Entry, &Value) -> Result<T, ConfigError>,
    ) -> Result<Patterns<T>, ConfigError> {
        let Some(entry) = self.source.get(key) else { return Ok(Patterns::default()) };
        let expected = "a table from regular expressions to numbers, such as { \"layers.0.*\" = 4 }";
        let table = entry.value.as_table().ok_or_else(|| mismatch(entry, expected))?;
        let patterns = table.iter().map(|(pattern, value)| Ok((pattern.clone(), read(entry, value)?)));
        Ok(Patterns::new(patterns.collect::<Result<_, ConfigError>>()?))
    }

    /// The error of a value that means something, but not with the other settings.
    pub(super) fn not_supported(&self, key: &str, value: &str, advice: String) -> ConfigError {
        let place =
            self.source.get(key).map_or_else(|| self.source.file().to_owned(), |entry| entry.origin.to_string());
        ConfigError::NotSupported { place, key: key.to_owned(), value: value.to_owned(), advice }
    }

    /// A string that means something; `expected` says what it must be.
    pub(super) fn parsed<T: FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>, ConfigError> {
        self.source.get(key).map(|entry| string_of(entry)?.parse().map_err(|_| mismatch(entry, expected))).transpose()
    }

    /// One of a few words.
    pub(super) fn choice<C: Choice>(&self, key: &str) -> Result<Option<C>, ConfigError> {
        self.choice_or(key, |_| None)
    }

    /// One of those of a few words that `is_valid`.
    pub(super) fn choice_among<C: Choice>(
        &self,
        key: &str,
        is_valid: impl Fn(C) -> bool,
    ) -> Result<Option<C>, ConfigError> {
        self.choice_of(key, is_valid, |_| None)
    }

    /// One of a few words; `unsupported` knows others that mean something, but not to this build,
    /// and returns what to say of them.
    pub(super) fn choice_or<C: Choice>(
        &self,
        key: &str,
        unsupported: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Option<C>, ConfigError> {
        self.choice_of(key, |_| true, unsupported)
    }

    fn choice_of<C: Choice>(
        &self,
        key: &str,
        is_valid: impl Fn(C) -> bool,
        unsupported: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Option<C>, ConfigError> {
        let Some(entry) = self.source.get(key) else {
            return Ok(None);
        };
        let word = string_of(entry)?;
        let valid = || C::ALL.iter().filter(|(_, choice)| is_valid(*choice));
        if let Some((_, choice)) = valid().find(|(known, _)| *known == word) {
            return Ok(Some(*choice));
        }
        let (place, key) = (entry.origin.to_string(), key.to_owned());
        if let Some(advice) = unsupported(&word) {
            return Err(ConfigError::NotSupported { place, key, value: word, advice });
        }
        let valid: Vec<&'static str> = valid().map(|(known, _)| *known).collect();
        let nearest = nearest_word(&valid, &word);
        Err(ConfigError::UnknownValue { place, key, found: word, valid, nearest })
    }
}

/// A number of `entry`.
fn number_of(entry: &Entry, value: &Value, range: Range) -> Result<f64, ConfigError> {
    let number = match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    };
    let valid = |number: f64| number.is_finite() && range.contains(number);
    let number = number.filter(|number| valid(*number));
    let number = number.ok_or_else(|| invalid(entry, range.describe(), describe(value)))?;
    // Training computes with 32 bits, where 1e-50 is 0 and 1e50 infinite.
    if valid(f64::from(number as f32)) {
        Ok(number)
    } else {
        Err(invalid(entry, format!("{} as a 32-bit float too", range.describe()), describe(value)))
    }
}

/// The items of a list of `entry`: at least one, none twice.
fn different<T: PartialEq>(
    entry: &Entry,
    list: &[Value],
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    if list.is_empty() {
        return Err(invalid(entry, expected, "an empty list"));
    }
    let mut items = Vec::with_capacity(list.len());
    for value in list {
        match read(value) {
            Some(item) if !items.contains(&item) => items.push(item),
            _ => return Err(invalid(entry, expected, format!("one with {}", describe(value)))),
        }
    }
    Ok(items)
}

fn string_of(entry: &Entry) -> Result<String, ConfigError> {
    match (&entry.value, &entry.origin) {
        (Value::String(text), _) if text.is_empty() => Err(invalid(entry, "a string", "an empty one")),
        (Value::String(text), _) | (_, Origin::Overlay { text, .. }) => Ok(text.clone()),
        (_, Origin::File { .. }) => Err(mismatch(entry, "a string")),
    }
}

fn mismatch(entry: &Entry, expected: impl Into<String>) -> ConfigError {
    invalid(entry, expected, describe(&entry.value))
}

fn invalid(entry: &Entry, expected: impl Into<String>, found: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        place: entry.origin.to_string(),
        key: entry.key.clone(),
        expected: expected.into(),
        found: found.into(),
    }
}
