//! A `config.json` of any content.

use std::io::Write;
use tempfile::NamedTempFile;
use zofo::hf::read_decoder_config;

/// Weights are counted only in models whose count is no test of patience.
const MOST_LAYERS: usize = 64;

/// Reads `data`.
pub fn read(data: &[u8]) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    let Ok(config) = read_decoder_config(file.path()) else { return };
    if config.layers.len() <= MOST_LAYERS {
        let parameters = config.parameters();
        assert!(parameters.iter().all(|(name, shape)| !name.is_empty() && !shape.is_empty()));
        let _ = config.linears();
    }
    for rope in &config.ropes {
        if rope.dim <= 1 << 16 {
            let _ = rope.frequencies(config.max_positions.min(1 << 20));
        }
    }
}
