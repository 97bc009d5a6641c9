//! Arguments that several commands take.

use crate::errors::Error;
use crate::output::{print, print_json};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use rayon::ThreadPoolBuilder;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use zofo::eval::Sampling;
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

/// Bytes of a thread's stack, as the main thread has on Linux: commands run on one of the pool.
const STACK: usize = 8 << 20;

/// How a command computes.
#[derive(Debug, Args)]
pub struct ThreadsArgument {
    /// Threads; one per core if not given. The result does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl ThreadsArgument {
    /// [`on_threads`] with as many as were asked for.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        on_threads(self.threads, work)
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

/// How the tokens of a text are chosen: the likeliest, if nothing is asked for.
#[derive(Debug, Args)]
pub struct Decoding {
    /// 0 takes the likeliest token; above, tokens are drawn, from probabilities that are flatter the higher it is.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0, value_parser = top_p)]
    top_p: f64,
    /// The same seed draws the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Search for the likeliest text with so many sequences at a time.
    #[arg(long, value_name = "SEQUENCES", conflicts_with_all = ["temperature", "top_p", "seed"])]
    pub beams: Option<NonZeroUsize>,
}

impl Decoding {
    /// How one token at a time is chosen.
    pub fn sampling(&self) -> Sampling {
        let Self { temperature, top_p, seed, .. } = *self;
        if temperature == 0.0 { Sampling::Greedy } else { Sampling::Nucleus { temperature, top_p, seed } }
    }
}

/// [`Decoding`], as reports tell it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum DecodingReport {
    /// The likeliest token.
    Greedy,
    /// Drawn from the likeliest tokens.
    Nucleus { temperature: f64, top_p: f64, seed: u64 },
    /// Beam search.
    Beams { beams: NonZeroUsize },
}

impl From<&Decoding> for DecodingReport {
    fn from(decoding: &Decoding) -> Self {
        match (decoding.beams, decoding.sampling()) {
            (Some(beams), _) => Self::Beams { beams },
            (None, Sampling::Greedy) => Self::Greedy,
            (None, Sampling::Nucleus { temperature, top_p, seed }) => Self::Nucleus { temperature, top_p, seed },
        }
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("expected a number from 0".to_owned()) }
}

fn top_p(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("expected a number above 0, at most 1".to_owned()) }
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

/// Does `work` as one of so many threads, which are all that the program computes with; without a number there is one per
/// core. To be called once, before anything is computed.
///
/// Work that is divided from inside the pool costs no change of threads: whoever divides it takes the first part.
pub fn on_threads<T: Send>(
    threads: Option<NonZeroUsize>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let builder = ThreadPoolBuilder::new().num_threads(threads.map_or(0, NonZeroUsize::get)).stack_size(STACK);
    builder.build_global().map_err(Error::Threads)?;
    tracing::debug!(threads = rayon::current_num_threads(), "thread pool started");
    rayon::scope(|_| work())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(temperature("0"), Ok(0.0));
        assert!(temperature("-0.1").is_err() && temperature("NaN").is_err() && temperature("inf").is_err());
        assert_eq!(top_p("1"), Ok(1.0));
        assert!(top_p("0").is_err() && top_p("1.01").is_err() && top_p("NaN").is_err());
    }
}
