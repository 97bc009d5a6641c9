//! What PyTorch wrote before version 1.6, and still does when asked to: pickles one after the other, and then the
//! storages.
//!
//! The pickles are a magic number, the version 1001, facts about the machine, the dictionary, and the keys of the
//! storages in the order in which they follow, each of them its length in values (64 bits) and the values.
//!
//! Source: `_legacy_save` in `torch/serialization.py`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::Path,
};

use super::{
    super::{error::HfError, weights::Stored},
    layout::{run_pickle, state_dict},
    pickle::Pickle,
    value::{Storage, Value},
};

/// The number 0x1950a86a20f9469cfc6c, pickled.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const VERSION: Value<'_> = Value::Int(1001);
const LENGTH_BYTES: usize = size_of::<u64>();

/// The tensors in the file `bytes`, which begins with [`MAGIC`]; `path` is for messages.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>, HfError> {
    let unexpected = |what: &str, expected: &str, found: String| HfError::Unexpected {
        path: path.to_owned(),
        what: what.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let mut position = MAGIC.len();
    let mut next = |what: &str| {
        let pickle = run_pickle(path, what, bytes, position)?;
        position += pickle.len;
        Ok::<_, HfError>(pickle)
    };

    let version = next("pickle of the version")?.root;
    if version != VERSION {
        return Err(unexpected("version of the file", "1001", format!("{version:?}")));
    }
    let machine = next("pickle of the system")?;
    let is_little_endian = entry(&machine, "little_endian");
    if is_little_endian != Some(Value::Bool(true)) {
        return Err(HfError::Unsupported {
            path: path.to_owned(),
            what: "the entry \"little_endian\"".to_owned(),
            found: is_little_endian.map_or("none".to_owned(), |value| format!("{value:?}")),
            supported: "True".to_owned(),
        });
    }
    let tensors = next("pickle of the tensors")?;
    let keys = next("pickle of the keys")?;
    let Value::List(list) = keys.root else {
        return Err(unexpected("keys of the storages", "a list", keys.root.kind().to_owned()));
    };

    let storages = tensors.heap.tensors.iter().map(|tensor| (tensor.storage.key, tensor.storage));
    let storages: HashMap<_, _> = storages.collect();
    let mut places = HashMap::new();
    for &key in &keys.heap.lists[list] {
        let storage = match key {
            Value::Text(key) => storages.get(key),
            _ => None,
        };
        let Some(storage) = storage else {
            return Err(unexpected("keys of the storages", "those of the tensors", format!("{key:?}")));
        };
        let place = place(bytes, position, storage).ok_or_else(|| {
            unexpected(
                &format!("storage \"{}\", at byte {position}", storage.key),
                &format!("its length and {} values of {:?}", storage.len, storage.dtype),
                "another length, or the end of the file (is it cut short?)".to_owned(),
            )
        })?;
        position = place.end;
        places.insert(storage.key, place);
    }
    state_dict(path, &tensors, |storage| {
        let place = places.get(storage.key).cloned();
        place.ok_or_else(|| unexpected("keys of the storages", &format!("\"{}\"", storage.key), "none".to_owned()))
    })
}

/// The value of `key` in the dictionary that `pickle` has made.
fn entry<'a>(pickle: &Pickle<'a>, key: &str) -> Option<Value<'a>> {
    let Value::Dict(dict) = pickle.root else { return None };
    let mut entries = pickle.heap.dicts[dict].iter();
    entries.find(|(name, _)| *name == Value::Text(key)).map(|&(_, value)| value)
}

/// Where the values of `storage` are, if it begins at `position` with the length that it should have.
fn place(bytes: &[u8], position: usize, storage: &Storage<'_>) -> Option<Range<usize>> {
    let (length, values) = bytes.get(position..)?.split_first_chunk::<LENGTH_BYTES>()?;
    let size = storage.len.checked_mul(storage.dtype.bitsize() / 8)?;
    let start = position + LENGTH_BYTES;
    (u64::from_le_bytes(*length) == storage.len as u64 && size <= values.len()).then(|| start..start + size)
}
