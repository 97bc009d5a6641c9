//! Arguments that several commands take.

use crate::errors::Error;
use crate::output::{print, print_json};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use rayon::ThreadPoolBuilder;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use zofo::hf::WeightDtype;
use zofo::run::config::expand_home;

/// The model that a command works with.
#[derive(Debug, Args)]
pub struct ModelArgument {
    /// A Hugging Face model folder, a .gguf file, or a model of the Hugging Face Hub: org/name[@revision], or
    /// org/name/file.gguf[@revision].
    #[arg(id = "model", long = "model", value_name = "MODEL", value_parser = path())]
    pub name: PathBuf,
}

/// How a command computes.
#[derive(Debug, Args)]
pub struct ThreadsArgument {
    /// Threads; one per core if not given. The result does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl ThreadsArgument {
    /// As [`set_threads`].
    pub fn set(&self) -> Result<(), Error> {
        set_threads(self.threads)
    }
}

/// How a result is printed.
#[derive(Debug, Args)]
pub struct JsonArgument {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl JsonArgument {
    /// Prints `report` as JSON if that was asked for, and else as `text`.
    pub fn print(&self, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { print_json(report) } else { print(&text()) }?;
        Ok(())
    }
}

/// How weights are stored in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16: half the memory.
    Bf16,
}

impl From<Dtype> for WeightDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Parses a path, in which `~` stands for the home folder.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| match text.to_str() {
        Some(text) => with_home(text).map(PathBuf::from),
        // What is not UTF-8 is taken as it is.
        None => Ok(PathBuf::from(text)),
    })
}

/// Replaces a leading `~` by the home folder.
pub fn with_home(text: &str) -> Result<String, String> {
    let home = std::env::var("HOME").ok();
    expand_home(text, home.as_deref())
        .ok_or_else(|| "cannot expand `~`, because HOME is not set, or not UTF-8: write the whole path".to_owned())
}

/// Sets the number of threads for the whole program; without a number there is one per core. To be called before
/// anything is computed.
pub fn set_threads(threads: Option<NonZeroUsize>) -> Result<(), Error> {
    let builder = ThreadPoolBuilder::new().num_threads(threads.map_or(0, NonZeroUsize::get));
    builder.build_global().map_err(Error::Threads)?;
    tracing::debug!(threads = rayon::current_num_threads(), "thread pool started");
    Ok(())
}
