//! The keys and values of a GGUF file, with typed access.

use std::{collections::BTreeMap, fmt, path::Path};

use super::{
    cursor::Cursor,
    error::{GgufError, GgufProblem},
};

/// The type of a metadata value. The discriminants are the numbers by which a file names the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as Rust names these types")]
#[repr(u32)]
pub enum ValueKind {
    U8 = 0,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueKind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number by which a file names the type.
    pub(super) const fn id(self) -> u32 {
        self as u32
    }

    /// The fewest bytes that a value takes in the file (strings and arrays start with their length).
    fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    /// Reads the type that stands before a value.
    fn read(cursor: &mut Cursor<'_>, what: impl fmt::Display) -> Result<Self, GgufProblem> {
        let offset = cursor.position() as u64;
        let id = cursor.u32(&what)?;
        Self::from_id(id).ok_or_else(|| GgufProblem::Malformed {
            what: what.to_string(),
            offset,
            expected: "a value type from 0 to 12".to_owned(),
            found: id.to_string(),
        })
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "a boolean",
            Self::String => "a string",
            Self::Array => "an array",
            Self::U8 => "an integer (u8)",
            Self::I8 => "an integer (i8)",
            Self::U16 => "an integer (u16)",
            Self::I16 => "an integer (i16)",
            Self::U32 => "an integer (u32)",
            Self::I32 => "an integer (i32)",
            Self::U64 => "an integer (u64)",
            Self::I64 => "an integer (i64)",
            Self::F32 => "a number (f32)",
            Self::F64 => "a number (f64)",
        })
    }
}

/// A value that was read: a number of whichever width, or text that lies in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar<'a> {
    // Wide enough for both u64 and i64.
    Integer(i128),
    Float(f64),
    Bool(bool),
    String(&'a str),
}

impl<'a> Scalar<'a> {
    fn read(cursor: &mut Cursor<'a>, kind: ValueKind, what: impl fmt::Display) -> Result<Self, GgufProblem> {
        let offset = cursor.position() as u64;
        Ok(match kind {
            ValueKind::U8 => Self::Integer(u8::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::I8 => Self::Integer(i8::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::U16 => Self::Integer(u16::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::I16 => Self::Integer(i16::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::U32 => Self::Integer(u32::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::I32 => Self::Integer(i32::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::U64 => Self::Integer(u64::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::I64 => Self::Integer(i64::from_le_bytes(cursor.array(what)?).into()),
            ValueKind::F32 => Self::Float(widen(f32::from_le_bytes(cursor.array(what)?))),
            ValueKind::F64 => Self::Float(f64::from_le_bytes(cursor.array(what)?)),
            ValueKind::String => Self::String(cursor.string(what)?),
            ValueKind::Bool => match cursor.array(&what)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => {
                    return Err(GgufProblem::Malformed {
                        what: what.to_string(),
                        offset,
                        expected: "a boolean, 0 or 1".to_owned(),
                        found: other.to_string(),
                    });
                }
            },
            ValueKind::Array => {
                return Err(GgufProblem::Malformed {
                    what: what.to_string(),
                    offset,
                    expected: "numbers, booleans or strings".to_owned(),
                    found: "an array inside an array".to_owned(),
                });
            }
        })
    }
}

/// The double nearest to the shortest decimal that names `value`: 1e-5 stored as f32 was meant as 1e-5, not as
/// 9.999999747378752e-6, and a configuration file should say so.
fn widen(value: f32) -> f64 {
    // The text of a float always parses; were it not so, the plain conversion is right too.
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Where a value lies in the file. Values are read again at each use: an array may hold hundreds of
/// thousands of strings, most files have keys that nobody asks for, and nothing of them is copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    kind: ValueKind,
    /// Of an array: the type of its elements and their number.
    elements: Option<(ValueKind, usize)>,
    /// Where the value, or the first element, starts.
    position: usize,
    /// Where all that stands behind the type starts and ends.
    start: usize,
    end: usize,
}

impl Entry {
    /// Reads type and extent of the value at the cursor, checks all of it, and moves behind it.
    pub(super) fn scan(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, GgufProblem> {
        let kind = ValueKind::read(cursor, format_args!("type of metadata key \"{key}\""))?;
        let start = cursor.position();
        let elements = if kind == ValueKind::Array {
            let element = ValueKind::read(cursor, format_args!("element type of metadata key \"{key}\""))?;
            let count =
                cursor.count(element.least_bytes(), format_args!("number of elements of metadata key \"{key}\""))?;
            Some((element, count))
        } else {
            None
        };
        let position = cursor.position();
        let (element, count) = elements.unwrap_or((kind, 1));
        for index in 0..count {
            Scalar::read(cursor, element, element_name(key, index))?;
        }
        Ok(Self { kind, elements, position, start, end: cursor.position() })
    }

    fn describe(&self) -> String {
        match self.elements {
            Some((element, count)) => format!("an array of {count} times {element}"),
            None => self.kind.to_string(),
        }
    }
}

/// How messages call an element of a metadata value; only formatted when there is something to say.
fn element_name(key: &str, index: usize) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| write!(f, "value {index} of metadata key \"{key}\""))
}

/// The metadata of an open file.
///
/// Integers are accepted in any width and signedness that holds the value, floats in both widths: writers
/// differ in what they choose. An `f32` is given as the double that its shortest decimal names.
///
/// Every function gives `None` for a key that is not there; [`required`](Self::required) makes that an error.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) entries: &'a BTreeMap<String, Entry>,
}

impl<'a> Metadata<'a> {
    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is such a key.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The keys that begin with `prefix`, each with the type of its value and the value's bytes in the file.
    pub(super) fn stored(&self, prefix: &str) -> impl Iterator<Item = (&'a str, ValueKind, &'a [u8])> {
        let (entries, bytes) = (self.entries, self.bytes);
        // The values were all read when the file was opened.
        entries
            .iter()
            .filter(move |(key, _)| key.starts_with(prefix))
            .filter_map(move |(key, entry)| Some((key.as_str(), entry.kind, bytes.get(entry.start..entry.end)?)))
    }

    /// The value that `read` finds under `key`, as in `metadata.required(key, Metadata::string)`.
    ///
    /// # Errors
    /// Those of `read`, and [`GgufProblem::MissingKey`].
    pub fn required<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Self, &str) -> Result<Option<T>, GgufError>,
    ) -> Result<T, GgufError> {
        read(self, key)?.ok_or_else(|| self.error(GgufProblem::MissingKey { key: key.to_owned() }))
    }

    /// The string under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not a string.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.scalar(key, "a string", |value| match value {
            Scalar::String(text) => Some(text),
            _ => None,
        })
    }

    /// The boolean under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not a boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.scalar(key, "a boolean", |value| match value {
            Scalar::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// The float under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not a float.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.scalar(key, "a number (f32 or f64)", |value| match value {
            Scalar::Float(number) => Some(number),
            _ => None,
        })
    }

    /// The integer under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not an integer, [`GgufProblem::KeyValue`] if it is negative or
    /// beyond 2³²−1, which no size or token id of a model reaches.
    pub fn unsigned(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let integer = self.scalar(key, "an integer", |value| match value {
            Scalar::Integer(integer) => Some(integer),
            _ => None,
        })?;
        integer
            .map(|integer| {
                u32::try_from(integer)
                    .map_err(|_| self.bad_value(key, integer, "expected a number from 0 to 4294967295"))
            })
            .transpose()
    }

    /// The array of strings under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not an array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        self.array(key, "an array of strings", |value| match value {
            Scalar::String(text) => Some(text),
            _ => None,
        })
    }

    /// The array of booleans under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not an array of booleans.
    pub fn booleans(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.array(key, "an array of booleans", |value| match value {
            Scalar::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// The array of integers under `key`.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not an array of integers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i128>>, GgufError> {
        self.array(key, "an array of integers", |value| match value {
            Scalar::Integer(integer) => Some(integer),
            _ => None,
        })
    }

    /// The array of numbers under `key`, be they integers or floats.
    ///
    /// # Errors
    /// [`GgufProblem::KeyType`] if the value is not an array of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        self.array(key, "an array of numbers", |value| match value {
            // Those in the arrays of a model are small.
            Scalar::Integer(integer) => Some(integer as f64),
            Scalar::Float(number) => Some(number),
            _ => None,
        })
    }

    /// An error about this file.
    pub(super) fn error(&self, problem: GgufProblem) -> GgufError {
        GgufError::new(self.path, problem)
    }

    /// The error for a value that has the right type but cannot be used.
    pub(super) fn bad_value(&self, key: &str, found: impl fmt::Display, expected: impl Into<String>) -> GgufError {
        self.error(GgufProblem::KeyValue { key: key.to_owned(), expected: expected.into(), found: found.to_string() })
    }

    fn bad_type(&self, key: &str, entry: &Entry, expected: &'static str) -> GgufError {
        self.error(GgufProblem::KeyType { key: key.to_owned(), expected, found: entry.describe() })
    }

    fn scalar<T>(
        &self,
        key: &str,
        expected: &'static str,
        pick: impl Fn(Scalar<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(entry) = self.entries.get(key) else {
            return Ok(None);
        };
        if entry.kind == ValueKind::Array {
            return Err(self.bad_type(key, entry, expected));
        }
        let mut cursor = Cursor::new(self.bytes, entry.position);
        let value =
            Scalar::read(&mut cursor, entry.kind, element_name(key, 0)).map_err(|problem| self.error(problem))?;
        match pick(value) {
            Some(picked) => Ok(Some(picked)),
            None => Err(self.bad_type(key, entry, expected)),
        }
    }

    fn array<T>(
        &self,
        key: &str,
        expected: &'static str,
        pick: impl Fn(Scalar<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let Some(entry) = self.entries.get(key) else {
            return Ok(None);
        };
        let Some((element, count)) = entry.elements else {
            return Err(self.bad_type(key, entry, expected));
        };
        let mut cursor = Cursor::new(self.bytes, entry.position);
        let mut values = Vec::new();
        for index in 0..count {
            let value =
                Scalar::read(&mut cursor, element, element_name(key, index)).map_err(|problem| self.error(problem))?;
            values.push(pick(value).ok_or_else(|| self.bad_type(key, entry, expected))?);
        }
        Ok(Some(values))
    }
}
