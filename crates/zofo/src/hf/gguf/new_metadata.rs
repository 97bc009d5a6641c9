//! Keys and values of a GGUF file that is to be written.

use super::metadata::{Metadata, ValueKind};

/// Keys and values in the order in which they were set first.
#[derive(Clone, Debug, Default)]
pub struct NewMetadata {
    entries: Vec<NewEntry>,
}

/// A key with its value as it will stand in the file.
#[derive(Clone, Debug)]
struct NewEntry {
    key: String,
    kind: ValueKind,
    value: Vec<u8>,
}

impl NewMetadata {
    /// No keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives `key` a value, in the type that the value has in Rust.
    pub fn set<T: MetadataElement>(&mut self, key: &str, value: T) {
        let mut bytes = Vec::new();
        value.append_to(&mut bytes);
        self.insert(key, T::KIND, bytes);
    }

    /// Gives `key` an array.
    pub fn set_array<T: MetadataElement>(&mut self, key: &str, values: &[T]) {
        let mut bytes = Vec::new();
        bytes.extend(T::KIND.id().to_le_bytes());
        bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            value.append_to(&mut bytes);
        }
        self.insert(key, ValueKind::Array, bytes);
    }

    /// Takes over all keys of a file that begin with `prefix`, as they are.
    pub fn copy(&mut self, from: &Metadata<'_>, prefix: &str) {
        for (key, kind, value) in from.stored(prefix) {
            self.insert(key, kind, value.to_owned());
        }
    }

    fn insert(&mut self, key: &str, kind: ValueKind, value: Vec<u8>) {
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => (entry.kind, entry.value) = (kind, value),
            None => self.entries.push(NewEntry { key: key.to_owned(), kind, value }),
        }
    }

    /// Appends all keys and values as the header of a file has them.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        for entry in &self.entries {
            entry.key.as_str().append_to(bytes);
            bytes.extend(entry.kind.id().to_le_bytes());
            bytes.extend_from_slice(&entry.value);
        }
    }
}

/// A Rust type that metadata can hold, alone or in an array.
pub trait MetadataElement: sealed::Sealed {
    /// Its name in the format.
    const KIND: ValueKind;

    /// Appends the value as the file has it.
    fn append_to(&self, bytes: &mut Vec<u8>);
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($number:ty => $kind:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $number {}

            impl MetadataElement for $number {
                const KIND: ValueKind = ValueKind::$kind;

                fn append_to(&self, bytes: &mut Vec<u8>) {
                    bytes.extend(self.to_le_bytes());
                }
            }
        )*
    };
}

numbers! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32, f64 => F64,
}

impl sealed::Sealed for bool {}

impl MetadataElement for bool {
    const KIND: ValueKind = ValueKind::Bool;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.push((*self).into());
    }
}

impl sealed::Sealed for &str {}

impl MetadataElement for &str {
    const KIND: ValueKind = ValueKind::String;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.len() as u64).to_le_bytes());
        bytes.extend(self.as_bytes());
    }
}

impl sealed::Sealed for String {}

impl MetadataElement for String {
    const KIND: ValueKind = ValueKind::String;

    fn append_to(&self, bytes: &mut Vec<u8>) {
        self.as_str().append_to(bytes);
    }
}
