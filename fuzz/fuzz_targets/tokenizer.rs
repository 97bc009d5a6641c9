//! A `tokenizer.json` of any content, beside the configuration of a small model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::{panic, process, sync::Once};

#[path = "../readers/tokenizer.rs"]
mod reader;

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
    reader::read(data);
});
