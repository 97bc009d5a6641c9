//! The weights of a model folder, in one safetensors file or in several with an index.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde_json::Value;

use super::{
    super::{
        error::HfError,
        json::{Keys, read_object},
    },
    SafetensorsFile, Stored,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files of PyTorch's own format, which runs code when it is read.
const PYTORCH: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Every tensor of a model folder.
#[derive(Debug)]
pub(crate) struct ShardedWeights {
    /// By name, without the folder.
    files: BTreeMap<String, SafetensorsFile>,
    /// The name of the file that has the tensor.
    file_of: BTreeMap<String, String>,
}

impl ShardedWeights {
    /// Opens the weights in `folder`. Where there is a `model.safetensors`, an index is not looked at.
    ///
    /// # Errors
    /// There are none, a file cannot be used, or files and index disagree.
    pub(crate) fn open(folder: &Path) -> Result<Self, HfError> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let names = file.tensors().keys();
            let file_of = names.map(|name| (name.clone(), SINGLE.to_owned())).collect();
            let files = BTreeMap::from([(SINGLE.to_owned(), file)]);
            return Ok(Self { files, file_of });
        }
        if index.exists() {
            return Self::open_indexed(folder, &index);
        }
        let has_pytorch = PYTORCH.iter().any(|name| folder.join(name).exists());
        Err(HfError::NoModel {
            path: folder.to_owned(),
            missing: SINGLE,
            hint: if has_pytorch {
                ", and pytorch_model.bin is not supported: save the model again with transformers"
            } else {
                ""
            },
        })
    }

    fn open_indexed(folder: &Path, index: &Path) -> Result<Self, HfError> {
        let file_of = read_index(index)?;
        let mut files = BTreeMap::new();
        for name in file_of.values() {
            if !files.contains_key(name) {
                let file = SafetensorsFile::open(&folder.join(name))?;
                files.insert(name.clone(), file);
            }
        }
        for (file_name, file) in &files {
            for tensor in file.tensors().keys() {
                let listed = file_of.get(tensor);
                if listed != Some(file_name) {
                    return Err(HfError::Unexpected {
                        path: index.to_owned(),
                        what: format!("file of tensor \"{tensor}\""),
                        expected: format!("\"{file_name}\", which has it"),
                        found: listed.map_or("none".to_owned(), |listed| format!("\"{listed}\"")),
                    });
                }
            }
        }
        let weights = Self { files, file_of };
        if let Some(absent) = weights.names().find(|name| weights.find(name).is_none()) {
            return Err(HfError::Unexpected {
                path: folder.join(&weights.file_of[absent]),
                what: format!("tensor \"{absent}\""),
                expected: format!("it here, where {INDEX} places it"),
                found: "none".to_owned(),
            });
        }
        Ok(weights)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.file_of.keys().map(String::as_str)
    }

    /// The file that has the tensor `name`, and what its header says of it.
    pub(crate) fn find(&self, name: &str) -> Option<(&SafetensorsFile, &Stored)> {
        let file = self.files.get(self.file_of.get(name)?)?;
        Some((file, file.tensors().get(name)?))
    }
}

/// The `weight_map` of an index: the file of every tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, HfError> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::super::test_model::{
        ModelFolder, TestModel, TestTensor, TestTensors, assert_says, message, safetensors_bytes,
    };
    use super::*;

    fn sharded() -> ModelFolder {
        TestModel::new().write_sharded()
    }

    fn changed_index(change: impl FnOnce(&mut Value)) -> String {
        let folder = sharded();
        let mut index = folder.read_json(INDEX);
        change(&mut index);
        folder.write_json(INDEX, &index);
        message(ShardedWeights::open(folder.root()))
    }

    #[test]
    fn finds_tensors_in_their_files() {
        for folder in [sharded(), TestModel::new().write()] {
            let weights = ShardedWeights::open(folder.root()).unwrap();
            assert_eq!(weights.names().count(), 21);
            for name in weights.names() {
                let (file, stored) = weights.find(name).unwrap();
                assert_eq!(&file.tensors()[name], stored);
            }
            assert!(weights.find("other").is_none());
        }
    }

    #[test]
    fn weights_that_are_not_there() {
        let folder = TestModel::new().write();
        fs::remove_file(folder.path(SINGLE)).unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["model.safetensors is missing", "a model folder holds"]);
        fs::write(folder.path(PYTORCH[0]), b"").unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["pytorch_model.bin is not supported"]);

        let folder = sharded();
        fs::remove_file(folder.path("two.safetensors")).unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["cannot open", "two.safetensors"]);
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        for file in [
            "../one.safetensors",
            "/one.safetensors",
            "sub/one.safetensors",
            "./one.safetensors",
            "one.safetensors/",
            "..",
            "",
            "sub\\one.safetensors",
            "C:one.safetensors",
        ] {
            let text = changed_index(|index| index["weight_map"]["lm_head.weight"] = json!(file));
            assert_says(&text, &[INDEX, "\"lm_head.weight\"", "in the same folder"]);
        }
        let text = changed_index(|index| index["weight_map"]["lm_head.weight"] = json!(3));
        assert_says(&text, &["\"lm_head.weight\"", "found 3"]);
    }

    #[test]
    fn an_index_that_lies() {
        let text = changed_index(|index| index["weight_map"]["ghost"] = json!("one.safetensors"));
        assert_says(&text, &["one.safetensors", "\"ghost\"", "found none"]);
        let text = changed_index(|index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map.remove("lm_head.weight");
        });
        assert_says(&text, &[INDEX, "\"lm_head.weight\"", "\"one.safetensors\"", "found none"]);
        let text = changed_index(|index| {
            index["weight_map"]["lm_head.weight"] = json!("two.safetensors");
        });
        assert_says(&text, &["\"lm_head.weight\"", "\"one.safetensors\"", "found \"two.safetensors\""]);
        assert_says(&changed_index(|index| *index = json!({})), &[INDEX, "\"weight_map\"", "none"]);
        let text = changed_index(|index| index["weight_map"] = json!([]));
        assert_says(&text, &[INDEX, "\"weight_map\"", "an object"]);
    }

    #[test]
    fn a_tensor_in_two_files() {
        let folder = sharded();
        let extra = TestTensors::from([("lm_head.weight".to_owned(), TestTensor::counting(&[6, 8], 0.0))]);
        fs::write(folder.path("three.safetensors"), safetensors_bytes(&extra)).unwrap();
        let mut index = folder.read_json(INDEX);
        index["weight_map"]["lm_head.weight"] = json!("three.safetensors");
        folder.write_json(INDEX, &index);
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["\"lm_head.weight\"", "\"one.safetensors\"", "\"three.safetensors\""]);
    }
}
