//! A GGUF file of any content.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../readers/gguf.rs"]
mod reader;

fuzz_target!(|data: &[u8]| reader::read(data));
