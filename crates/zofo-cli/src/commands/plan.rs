//! `zofo plan`.

use super::train::load;
use crate::arguments::{JsonArgument, path, set_threads};
use crate::errors::Error;
use crate::progress::{Messenger, TrainingProgress};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `zofo plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
It opens the model and the data, and times a forward pass; nothing is written but the cache of a model of the hub.

Example:
  zofo plan examples/sst2-bilevel.toml --set outer.batch_size=16")]
pub struct Arguments {
    /// The configuration: a TOML file.
    #[arg(value_parser = path())]
    config: PathBuf,
    /// Override a key of the configuration, as inner.lr=1e-3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Threads; takes the place of run.threads.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    report: JsonArgument,
}

/// Prints the plan of a run.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let config = load(&arguments.config, &arguments.set, arguments.threads)?;
    set_threads(config.run.threads.and_then(NonZeroUsize::new))?;
    let mut progress = TrainingProgress::new(&Messenger::new());
    let plan = zofo::run::plan(&config, &mut progress);
    progress.finish();
    let plan = plan?;
    arguments.report.print(&plan, || format!("{plan}\n"))
}
