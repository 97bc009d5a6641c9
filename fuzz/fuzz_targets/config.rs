//! A `config.json` of any content.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../readers/config.rs"]
mod reader;

fuzz_target!(|data: &[u8]| reader::read(data));
