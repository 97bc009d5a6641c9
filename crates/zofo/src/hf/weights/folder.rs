//! The weights of a model folder, in one file or in several with an index.

use std::{collections::BTreeMap, path::Path};

use super::{
    super::{error::HfError, pytorch, safetensors},
    WeightFile,
    index::read_index,
};

/// A format that a folder's weights can be in.
struct Format {
    /// The file with all of them.
    single: &'static str,
    /// The list of several.
    index: &'static str,
    open: fn(&Path) -> Result<WeightFile, HfError>,
}

/// The first that a folder has is read. Folders with both hold the same weights twice, and what transformers writes
/// today is the former.
const FORMATS: [Format; 2] = [
    Format { single: "model.safetensors", index: "model.safetensors.index.json", open: safetensors::open },
    Format { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", open: pytorch::open },
];

/// Every tensor of a model folder.
#[derive(Debug)]
pub(crate) struct ShardedWeights {
    /// By name, without the folder.
    files: BTreeMap<String, WeightFile>,
    /// The name of the file that has the tensor.
    file_of: BTreeMap<String, String>,
}

impl ShardedWeights {
    /// Opens the weights in `folder`. Where there is a file with all of them, an index is not looked at.
    ///
    /// # Errors
    /// There are none, a file cannot be used, or files and index disagree.
    pub(crate) fn open(folder: &Path) -> Result<Self, HfError> {
        for format in &FORMATS {
            let single = folder.join(format.single);
            let index = folder.join(format.index);
            if single.exists() {
                let file = (format.open)(&single)?;
                let names = file.names().into_iter();
                let file_of = names.map(|name| (name.to_owned(), format.single.to_owned())).collect();
                let files = BTreeMap::from([(format.single.to_owned(), file)]);
                return Ok(Self { files, file_of });
            }
            if index.exists() {
                return Self::open_indexed(folder, &index, format);
            }
        }
        Err(HfError::NoModel { path: folder.to_owned(), missing: FORMATS[0].single, hint: "" })
    }

    fn open_indexed(folder: &Path, index: &Path, format: &Format) -> Result<Self, HfError> {
        let file_of = read_index(index)?;
        let mut files = BTreeMap::new();
        for name in file_of.values() {
            if !files.contains_key(name) {
                let file = (format.open)(&folder.join(name))?;
                files.insert(name.clone(), file);
            }
        }
        for (file_name, file) in &files {
            for tensor in file.names() {
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
                expected: format!("it here, where {} places it", format.index),
                found: "none".to_owned(),
            });
        }
        Ok(weights)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.file_of.keys().map(String::as_str)
    }

    /// The file that has the tensor `name`, and the tensor's shape.
    pub(crate) fn find(&self, name: &str) -> Option<(&WeightFile, &[usize])> {
        let file = self.files.get(self.file_of.get(name)?)?;
        Some((file, file.shape(name)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::super::{
        dtype::WeightDtype,
        test_model::{ModelFolder, TestModel, TestTensor, TestTensors, assert_says, message, safetensors_bytes},
    };
    use super::*;

    const INDEX: &str = FORMATS[0].index;

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
        let test = TestModel::new();
        let folders = [test.write(), test.write_sharded(), test.write_pytorch(), test.write_pytorch_sharded()];
        for folder in folders {
            let weights = ShardedWeights::open(folder.root()).unwrap();
            assert_eq!(weights.names().count(), 21);
            for name in weights.names() {
                let (file, shape) = weights.find(name).unwrap();
                assert_eq!(shape, test.tensors[name].shape);
                assert_eq!(file.load(name, WeightDtype::F32).unwrap()[..], test.tensors[name].bytes[..]);
            }
            assert!(weights.find("other").is_none());
        }
    }

    #[test]
    fn weights_that_are_not_there() {
        let folder = TestModel::new().write();
        fs::remove_file(folder.path("model.safetensors")).unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["model.safetensors is missing", "a model folder holds", "pytorch_model.bin"]);

        let folder = sharded();
        fs::remove_file(folder.path("two.safetensors")).unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["cannot open", "two.safetensors"]);
    }

    #[test]
    fn safetensors_files_come_first() {
        let folder = sharded();
        fs::write(folder.path("pytorch_model.bin"), b"").unwrap();
        assert_eq!(ShardedWeights::open(folder.root()).unwrap().names().count(), 21);
        fs::remove_file(folder.path(INDEX)).unwrap();
        let text = message(ShardedWeights::open(folder.root()));
        assert_says(&text, &["pytorch_model.bin", "as torch.save writes it"]);
    }

    #[test]
    fn a_pytorch_index_is_checked_as_well() {
        const INDEX: &str = FORMATS[1].index;
        let folder = TestModel::new().write_pytorch_sharded();
        let mut index = folder.read_json(INDEX);
        index["weight_map"]["ghost"] = json!("one.bin");
        folder.write_json(INDEX, &index);
        assert_says(&message(ShardedWeights::open(folder.root())), &["one.bin", "\"ghost\"", INDEX, "found none"]);
        index["weight_map"]["ghost"] = json!("../one.bin");
        folder.write_json(INDEX, &index);
        assert_says(&message(ShardedWeights::open(folder.root())), &[INDEX, "\"ghost\"", "in the same folder"]);
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
