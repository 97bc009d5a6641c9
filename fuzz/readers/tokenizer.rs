//! A `tokenizer.json` of any content, beside the configuration of a small model.

use std::fs;
use zofo::hf::ModelFiles;

/// Any model will do.
const CONFIG: &str = include_str!("../corpus/config/seed-llama.json");

/// Reads `data`.
pub fn read(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    fs::write(folder.path().join("tokenizer.json"), data).unwrap();
    let files = ModelFiles::with_random_weights(folder.path(), 0).unwrap();
    let Ok(tokenizer) = files.tokenizer() else { return };
    for text in ["The film, 3 hours long, isn't  bad. é🙂\0", ""] {
        if let Ok(encoding) = tokenizer.encode(text, true) {
            let _ = tokenizer.decode(encoding.get_ids(), false);
        }
    }
}
