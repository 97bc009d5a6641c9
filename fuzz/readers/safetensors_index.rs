//! A model in several files: the first byte's share of the input is the index, the rest the file that it should name.

use std::fs;
use zofo::hf::{ModelFiles, WeightDtype};

/// The model of the seeds.
const CONFIG: &str = include_str!("../corpus/config/seed-llama.json");

/// Reads `data`.
pub fn read(data: &[u8]) {
    let Some((&share, rest)) = data.split_first() else { return };
    let (index, shard) = rest.split_at(rest.len() * usize::from(share) / 255);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    fs::write(folder.path().join("model-00001-of-00001.safetensors"), shard).unwrap();
    let Ok(files) = ModelFiles::open(folder.path()) else { return };
    for (name, _) in files.parameters() {
        files.load(name, WeightDtype::F32).unwrap();
    }
}
