//! A `pytorch_model.bin` of any content, beside the configuration of a small model.

use std::fs;
use zofo::hf::{ModelFiles, WeightDtype};

/// The model of the seed.
const CONFIG: &str = include_str!("../corpus/config/seed-llama.json");

/// Reads `data`.
pub fn read(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    fs::write(folder.path().join("pytorch_model.bin"), data).unwrap();
    let Ok(files) = ModelFiles::open(folder.path()) else { return };
    for (name, _) in files.parameters() {
        files.load(name, WeightDtype::F32).unwrap();
    }
}
