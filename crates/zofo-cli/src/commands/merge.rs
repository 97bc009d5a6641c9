//! `zofo merge`.

use crate::arguments::{Dtype, JsonArgument, ModelArgument, ThreadsArgument, path};
use crate::errors::Error;
use crate::model;
use crate::progress::{Messenger, display};
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use std::fs;
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
    #[command(flatten)]
    model: ModelArgument,
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
    #[command(flatten)]
    pub(super) threads: ThreadsArgument,
    #[command(flatten)]
    report: JsonArgument,
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
    let messenger = Messenger::new();
    let files = arguments.model.open(&messenger)?;
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
    arguments.report.print(&Report { merged, weights, dtype, output }, || {
        format!("{}: the adapter is in {merged} of {weights} weights, stored as {dtype}\n", output.display())
    })
}
