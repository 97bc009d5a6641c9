//! JSON files, with the file and the key in every error.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{atomic::failed_to, error::HfError};

/// Sizes are products of two of these, which a 64-bit number holds.
const LARGEST_SIZE: u64 = i32::MAX as u64;

/// Reads the JSON object in the file `path`.
///
/// # Errors
/// The file cannot be read, is not JSON, or not an object.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>, HfError> {
    let text = fs::read(path).map_err(failed_to("read", path))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(HfError::Unexpected {
            path: path.to_owned(),
            what: "the file".to_owned(),
            expected: "an object".to_owned(),
            found: shortened(&other),
        }),
        Err(source) => Err(HfError::Json { path: path.to_owned(), source }),
    }
}

/// An object with the file that it is from, or stands for.
#[derive(Debug)]
pub(super) struct JsonFile {
    pub(super) path: PathBuf,
    pub(super) object: Map<String, Value>,
}

impl JsonFile {
    /// Reads the file `path`; none if there is none.
    ///
    /// # Errors
    /// Those of [`read_object`].
    pub(super) fn read_if_there(path: PathBuf) -> Result<Option<Self>, HfError> {
        if !path.exists() {
            return Ok(None);
        }
        let object = read_object(&path)?;
        Ok(Some(Self { path, object }))
    }

    pub(super) fn keys(&self) -> Keys<'_> {
        Keys::new(&self.path, &self.object)
    }
}

/// The keys of an object in a file. A key whose value is null counts as absent, as in Python's configurations.
#[derive(Clone, Debug)]
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    object: &'a Map<String, Value>,
    /// The keys under which the object itself stands, the outermost first.
    within: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Self { path, object, within: Vec::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, be its value null: where null means something else than the key's absence.
    pub(super) fn is_stated(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// The object under `key`, if there is one.
    pub(super) fn object(&self, key: &'a str) -> Result<Option<Self>, HfError> {
        let object = self.typed(key, "an object", Value::as_object)?;
        let within = self.within.iter().copied().chain([key]).collect();
        Ok(object.map(|object| Self { path: self.path, object, within }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, HfError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, HfError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, HfError> {
        self.typed(key, "a list of strings", |value| {
            let list = value.as_array()?.iter();
            list.map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// A number of things of which there is at least one.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, HfError> {
        self.typed(key, "a whole number from 1 to 2147483647", |value| {
            let size = value.as_u64().filter(|size| (1..=LARGEST_SIZE).contains(size))?;
            usize::try_from(size).ok()
        })
    }

    /// A number of things, which may be none.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, HfError> {
        self.typed(key, "a whole number from 0 to 2147483647", |value| {
            usize::try_from(value.as_u64().filter(|&count| count <= LARGEST_SIZE)?).ok()
        })
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, HfError> {
        self.typed(key, "a number above zero", |value| {
            value.as_f64().filter(|number| number.is_finite() && *number > 0.0)
        })
    }

    /// A share of things that may be none, and never is all.
    pub(super) fn share(&self, key: &str) -> Result<Option<f64>, HfError> {
        self.typed(key, "a number of at least 0 and below 1", |value| {
            value.as_f64().filter(|share| (0.0..1.0).contains(share))
        })
    }

    /// The names of the keys, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a String> + use<'a> {
        self.object.keys()
    }

    /// A finite number, zero or above.
    pub(super) fn not_negative(&self, key: &str) -> Result<Option<f64>, HfError> {
        self.typed(key, "a number from 0", |value| value.as_f64().filter(|number| number.is_finite() && *number >= 0.0))
    }

    /// A list of finite numbers above zero.
    pub(super) fn positive_list(&self, key: &str) -> Result<Option<Vec<f64>>, HfError> {
        self.typed(key, "a list of numbers above zero", |value| {
            let numbers = value.as_array()?.iter().map(Value::as_f64);
            numbers.map(|number| number.filter(|number| number.is_finite() && *number > 0.0)).collect()
        })
    }

    /// Turns the absence of `key` into an error.
    pub(super) fn required<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Self, &str) -> Result<Option<T>, HfError>,
    ) -> Result<T, HfError> {
        read(self, key)?.ok_or_else(|| HfError::Unexpected {
            path: self.path.to_owned(),
            what: self.name(key),
            expected: "a value".to_owned(),
            found: "none".to_owned(),
        })
    }

    /// The value of `key` is not `expected`.
    pub(super) fn unexpected(&self, key: &str, expected: impl Into<String>) -> HfError {
        HfError::Unexpected {
            path: self.path.to_owned(),
            what: self.name(key),
            expected: expected.into(),
            found: self.found(key),
        }
    }

    /// The value of `key` is right but not supported.
    pub(super) fn unsupported(&self, key: &str, supported: impl Into<String>) -> HfError {
        HfError::Unsupported {
            path: self.path.to_owned(),
            what: self.name(key),
            found: self.found(key),
            supported: supported.into(),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, HfError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                None => Err(self.unexpected(key, expected)),
                some => Ok(some),
            },
        }
    }

    fn name(&self, key: &str) -> String {
        let path: String = self.within.iter().flat_map(|&outer| [outer, "."]).collect();
        format!("key \"{path}{key}\"")
    }

    fn found(&self, key: &str) -> String {
        self.object.get(key).map_or("none".to_owned(), shortened)
    }
}

/// The start of a value's text: a value may be a whole vocabulary.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
