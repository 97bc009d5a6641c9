//! `zofo plan`.

use super::train::load;
use crate::arguments::{JsonArgument, on_threads, path};
use crate::errors::Error;
use crate::progress::{Messenger, TrainingProgress};
use clap::Args;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use zofo::run::config::Config;
use zofo::run::{Plan, Probe};

/// Arguments of `zofo plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
It opens the model and the data, and times a forward pass; nothing is written but the cache of a model of the hub.
With --probe it also estimates slopes of the loss along some directions, and proposes outer.lr and outer.eps.

Examples:
  zofo plan examples/sst2-bilevel.toml --set outer.batch_size=16
  zofo plan examples/sst2-mezo.toml --probe 16")]
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
    /// Estimate slopes along so many directions, at least 2, as the first step would; a warm start and inner steps, if the
    /// method has them, are done first.
    #[arg(long, value_name = "DIRECTIONS", value_parser = clap::value_parser!(u32).range(2..))]
    probe: Option<u32>,
    #[command(flatten)]
    report: JsonArgument,
}

/// A plan, with what a probe found.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    plan: Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Probe>,
}

/// Prints the plan of a run.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let config = load(&arguments.config, &arguments.set, arguments.threads)?;
    on_threads(config.run.threads.and_then(NonZeroUsize::new), || plan(&config, arguments))
}

fn plan(config: &Config, arguments: &Arguments) -> Result<(), Error> {
    let mut progress = TrainingProgress::new(&Messenger::new());
    let plan = zofo::run::plan(config, &mut progress);
    let probe = |directions| zofo::run::probe(config, directions as usize, &mut progress);
    let probe = plan.as_ref().ok().and(arguments.probe).map(probe).transpose();
    progress.finish();
    let report = Report { plan: plan?, probe: probe? };
    arguments.report.print(&report, || match &report.probe {
        Some(probe) => format!("{}\n{probe}\n", report.plan),
        None => format!("{}\n", report.plan),
    })
}
