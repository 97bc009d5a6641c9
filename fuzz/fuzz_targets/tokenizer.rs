//! A `tokenizer.json` of any content, beside the configuration of a small model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::{fs, panic, process, sync::Once};
use zofo::hf::ModelFiles;

/// Any model will do.
const CONFIG: &str = include_str!("../corpus/config/seed-llama.json");

/// libFuzzer takes every panic for a crash, also one that is caught. The tokenizers library panics at files that it does
/// not expect, and the reader makes errors of that; what nobody catches ends the program all the same.
static HOOK: Once = Once::new();

fuzz_target!(|data: &[u8]| {
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|place| place.file().contains("/tokenizers-")) {
                report(panic);
                process::abort();
            }
        }));
    });
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
});
