//! A model in several files: the first byte's share of the input is the index, the rest the file that it should name.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../readers/safetensors_index.rs"]
mod reader;

fuzz_target!(|data: &[u8]| reader::read(data));
