//! The index of weights in several files: `{"weight_map": {"name": "file", …}, …}`.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde_json::Value;

use super::super::{
    error::HfError,
    json::{Keys, read_object},
};

/// The `weight_map` of an index: the file of every tensor.
///
/// # Errors
/// The file is not an index, or names a file that is not in its own folder.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, HfError> {
    let object = read_object(path)?;
    let index = Keys::new(path, &object);
    let map = index.required("weight_map", |index, key| match index.get(key) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(index.unexpected(key, "an object")),
    })?;
    let entry = |(name, file): (&String, &Value)| match file.as_str() {
        Some(file) if is_plain_name(file) => Ok((name.clone(), file.to_owned())),
        _ => Err(HfError::Unexpected {
            path: path.to_owned(),
            what: format!("file of tensor \"{name}\""),
            expected: "the name of a file in the same folder".to_owned(),
            found: file.to_string(),
        }),
    };
    map.iter().map(entry).collect()
}

/// Whether `name` is a file of the folder itself, on any system: an index must not make anyone read other places.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(first)) if first == name)
        && components.next().is_none()
        && !name.contains(['/', '\\', ':', '\0'])
}
