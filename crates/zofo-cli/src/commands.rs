//! One module per command: its arguments, and what it does with the library.

mod bench;
mod eval;
mod export;
mod generate;
mod journal;
mod merge;
mod plan;
mod replay;
mod report;
mod sweep;
mod tasks;
mod train;

use crate::arguments::on_threads;
use crate::errors::Error;
use clap::Subcommand;

/// What the user wants.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a model.
    Train(train::Arguments),
    /// Do many runs: every combination of some settings.
    Sweep(sweep::Arguments),
    /// Compare runs, on one page.
    Report(report::Arguments),
    /// Show what a training run would do and need, without starting it.
    Plan(plan::Arguments),
    /// Measure a model's accuracy on tasks.
    Eval(eval::Arguments),
    /// Write a model as a GGUF file.
    Export(export::Arguments),
    /// Generate text after a prompt.
    Generate(generate::Arguments),
    /// Merge a LoRA adapter into its model.
    Merge(merge::Arguments),
    /// Rebuild a trained backbone from its base model and its journal.
    Replay(replay::Arguments),
    /// Show what is in a journal.
    Journal(journal::Arguments),
    /// List tasks, or show one.
    Tasks(tasks::Arguments),
    /// Measure what a model costs on this machine.
    Bench(bench::Arguments),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Done,
    /// It was interrupted, and all is saved.
    Interrupted,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Whatever [`Error`] says.
    pub fn run(self) -> Result<Ended, Error> {
        match self {
            Self::Train(arguments) => return train::run(&arguments),
            Self::Sweep(arguments) => return sweep::run(&arguments),
            Self::Report(arguments) => report::run(&arguments),
            Self::Plan(arguments) => plan::run(&arguments),
            Self::Eval(arguments) => on_threads(arguments.threads, || eval::run(&arguments)),
            Self::Export(arguments) => arguments.threads.run(|| export::run(&arguments)),
            Self::Generate(arguments) => arguments.threads.run(|| generate::run(&arguments)),
            Self::Merge(arguments) => arguments.threads.run(|| merge::run(&arguments)),
            Self::Replay(arguments) => arguments.threads.run(|| replay::run(&arguments)),
            Self::Journal(arguments) => journal::run(&arguments),
            Self::Tasks(arguments) => tasks::run(&arguments),
            Self::Bench(arguments) => on_threads(arguments.threads, || bench::run(&arguments)),
        }?;
        Ok(Ended::Done)
    }
}
