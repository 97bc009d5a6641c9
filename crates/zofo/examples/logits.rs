//! Prints the logits of a model after every token of a text, as JSON: to compare with another implementation.
//!
//!     cargo run --release -p zofo --example logits -- MODEL [ADAPTER] < text

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use burn::tensor::Device;
use std::io::Read;
use std::path::Path;
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch};
use zofo::peft::Adapter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("give a model folder or a .gguf file")?;
    let device = Device::flex();
    let files = ModelFiles::open(Path::new(&model))?;
    let backbone = Backbone::load(&files, WeightDtype::F32, &device)?;
    let adapter =
        arguments.next().map(|folder| Adapter::read(Path::new(&folder), files.config(), &device)).transpose()?;

    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let encoding = files.tokenizer()?.encode(text, true).map_err(|error| error.to_string())?;
    let ids = encoding.get_ids();
    let logits = backbone.logits(&Batch::continuation(ids, 0), adapter.as_ref());
    let width = logits.dims()[1];
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
    println!("{}", serde_json::json!({ "ids": ids, "logits": rows }));
    Ok(())
}
