//! A `pytorch_model.bin` of any content, beside the configuration of a small model.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../readers/pytorch.rs"]
mod reader;

fuzz_target!(|data: &[u8]| reader::read(data));
