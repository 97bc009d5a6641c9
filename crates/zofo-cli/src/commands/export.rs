//! `zofo export`.

use crate::arguments::{JsonArgument, ModelArgument, ThreadsArgument, path};
use crate::errors::Error;
use crate::model;
use crate::progress::{Messenger, display};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};
use zofo::hf::gguf::WrittenType;
use zofo::hf::{ExportedGguf, GgufOptions, export_gguf};
use zofo::peft::Adapter;

/// Arguments of `zofo export`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is read back before it gets its name: it makes the same tokens, and nearly the same logits.

Examples:
  zofo export --model runs/demo/backbone --gguf demo.gguf
  zofo export --model runs/demo/backbone --adapter runs/demo/adapter --gguf demo.gguf --type q8_0")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// A PEFT folder with a LoRA block, which is merged into the weights, or one of the Hugging Face Hub:
    /// org/name[@revision].
    #[arg(long, value_parser = path())]
    adapter: Option<PathBuf>,
    /// The file to write, for llama.cpp and what builds on it.
    #[arg(long, value_name = "FILE", value_parser = path())]
    gguf: PathBuf,
    /// How matrices are stored; bf16 if the model has them so, and f16 otherwise, if not given.
    #[arg(long = "type", value_enum)]
    matrices: Option<Matrices>,
    /// The model's name in the file; that of the folder or file, if not given.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    pub(super) threads: ThreadsArgument,
    #[command(flatten)]
    report: JsonArgument,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Matrices {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, with a scale for every 32 values.
    #[value(name = "q8_0")]
    Q8,
}

impl From<Matrices> for WrittenType {
    fn from(matrices: Matrices) -> Self {
        match matrices {
            Matrices::F32 => Self::F32,
            Matrices::F16 => Self::F16,
            Matrices::Bf16 => Self::BF16,
            Matrices::Q8 => Self::Q8_0,
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    output: &'a Path,
    architecture: &'static str,
    r#type: &'static str,
    tensors: usize,
    bytes: u64,
    /// By how much logits differ from the model's, of their size.
    logit_error: f64,
    /// What the file cannot say.
    warnings: &'a [String],
}

/// Writes a model in another format.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let messenger = Messenger::new();
    let files = arguments.model.open(&messenger)?;
    let adapter = match &arguments.adapter {
        Some(name) => Some((name, model::read_adapter(name, &files, &Device::flex(), &messenger)?)),
        None => None,
    };
    let lora = match &adapter {
        None => None,
        Some((_, Adapter::Lora(lora))) => Some(lora),
        Some((name, Adapter::Prefix(_) | Adapter::Prompt(_))) => {
            return Err(Error::Usage(format!(
                "{}: its virtual tokens cannot become part of a model's weights; only a LoRA can be exported",
                name.display()
            )));
        }
    };
    let name = arguments.name.clone().unwrap_or_else(|| name_of(&arguments.model.name));
    let options = GgufOptions { matrices: arguments.matrices.map(WrittenType::from), name: &name };
    let mut display = display(&messenger);
    let exported = export_gguf(&files, lora, &arguments.gguf, &options, |done, of| {
        display.count("tensors written", done, of, "");
    });
    display.clear();
    let ExportedGguf { architecture, matrices, tensors, bytes, losses, logit_error } = exported?;
    for loss in &losses {
        messenger.say(&format!("warning: {loss}"));
    }
    let output = &arguments.gguf;
    let (warnings, r#type) = (&losses[..], matrices.as_str());
    arguments.report.print(&Report { output, architecture, r#type, tensors, bytes, logit_error, warnings }, || {
        format!(
            "{}: {tensors} tensors of a {architecture} model, matrices in {type}, {:.1} MB; read back, its logits are off by \
             {logit_error:.1e} of their size\n",
            output.display(),
            bytes as f64 / 1e6
        )
    })
}

/// What to call a model that is named so on the command line.
fn name_of(model: &Path) -> String {
    let name = model.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
    name.strip_suffix(".gguf").unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        for (model, name) in [
            ("runs/demo/backbone", "backbone"),
            ("models/tiny-llama/", "tiny-llama"),
            ("SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
            ("org/name@main", "name"),
            ("org/name/file.gguf@main", "file"),
            ("..", "model"),
        ] {
            assert_eq!(name_of(Path::new(model)), name, "{model}");
        }
    }
}
