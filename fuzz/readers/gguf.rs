//! A GGUF file of any content.

use std::io::Write;
use tempfile::NamedTempFile;
use zofo::hf::gguf::GgufFile;

/// Reads `data`.
pub fn read(data: &[u8]) {
    let mut file = NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(data).unwrap();
    let Ok(gguf) = GgufFile::open(file.path()) else { return };
    for tensor in gguf.tensors() {
        let mut row = vec![0.0; tensor.columns()];
        if tensor.rows() > 0 {
            gguf.dequantize(tensor, 0..1, &mut row).unwrap();
        }
    }
    if let Ok(config) = gguf.decoder_config() {
        let _ = gguf.hf_tensors(&config);
    }
    let _ = gguf.hf_tokenizer_config();
    if let Ok(tokenizer) = gguf.tokenizer() {
        let _ = tokenizer.encode("The film, 3 hours long, isn't  bad. é🙂", true);
    }
}
