//! `zofo merge`.

use crate::arguments::{Dtype, path, set_threads};
use crate::errors::Error;
use crate::model;
use crate::output::{print, print_json};
use crate::progress::{Messenger, display};
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use zofo::hf::WeightDtype;
use zofo::peft::merge;

/// Arguments of `zofo merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
The result is a plain model: it needs no adapter any more.

Example:
  zofo merge --model runs/demo/backbone --adapter runs/demo/adapter -o merged")]
pub struct Arguments {
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision], or
    /// org/name/file.gguf[@revision].
    #[arg(long, value_parser = path())]
    model: PathBuf,
    /// A PEFT folder with a LoRA block, or one of the Hugging Face Hub: org/name[@revision].
    #[arg(long, value_parser = path())]
    adapter: PathBuf,
    /// The folder to write; it may exist if there is nothing in it but a model.
    #[arg(short, long, value_name = "FOLDER", value_parser = path())]
    output: PathBuf,
    /// How the result is stored; without it as the model is: bf16 where that has its matrices so, else f32, which holds
    /// every value of f16 and of quantised GGUF files. The sum is computed in 32 bits.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Threads; one per core if not given. The result does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Weights that the block was added to.
    merged: usize,
    /// All weights of the model.
    weights: usize,
    dtype: WeightDtype,
    output: &'a PathBuf,
}

/// Merges a block into a model.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    set_threads(arguments.threads)?;
    let messenger = Messenger::new();
    let files = model::open(&arguments.model, &messenger)?;
    let output = &arguments.output;
    // Its weights are mapped while the output is written.
    if let (Ok(source), Ok(target)) = (fs::canonicalize(files.source_path()), fs::canonicalize(output))
        && source == target
    {
        return Err(Error::Usage(format!("{} is the model itself: choose another output folder", output.display())));
    }
    let adapter = model::read_adapter(&arguments.adapter, &files, &Device::flex(), &messenger)?;
    let dtype = match arguments.dtype {
        Some(dtype) => dtype.into(),
        None => files.usual_dtype()?,
    };
    let mut display = display(&messenger);
    let ended = merge(&files, &adapter, dtype, output, |done, of| {
        display.count("weights written", done, of, "");
    });
    display.clear();
    ended?;
    let weights = files.parameters().len();
    let merged = files.parameters().filter(|(name, _)| adapter.adapts(name)).count();
    if arguments.json {
        print_json(&Report { merged, weights, dtype, output })
    } else {
        print(&format!("{}: the adapter is in {merged} of {weights} weights, stored as {dtype}\n", output.display()))
    }?;
    Ok(())
}
