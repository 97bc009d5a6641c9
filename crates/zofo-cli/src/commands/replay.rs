//! `zofo replay`.

use crate::arguments::{JsonArgument, ThreadsArgument, path};
use crate::errors::Error;
use crate::model;
use crate::progress::{Messenger, display};
use clap::Args;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;
use zofo::run::{Replayed, replay};

/// Arguments of `zofo replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
The journal and the base model are all it takes; the result is the trained backbone, bit by bit.

Examples:
  zofo replay --base model.gguf --journal runs/demo/journal.zofo -o rebuilt
  zofo replay --base model.gguf --journal runs/demo/journal.zofo --until 20 -o step-20")]
pub struct Arguments {
    /// The model that the run started from, as model.path in the run's config.toml: a Hugging Face model folder, a .gguf
    /// file, or a model of the Hugging Face Hub at a commit.
    #[arg(long, value_parser = path())]
    base: PathBuf,
    /// The run's journal.zofo.
    #[arg(long, value_parser = path())]
    journal: PathBuf,
    /// The last step to apply; all, if not given.
    #[arg(long, value_name = "STEP")]
    until: Option<u64>,
    /// The folder to write; it may exist if there is nothing in it but a model.
    #[arg(short, long, value_name = "FOLDER", value_parser = path())]
    output: PathBuf,
    #[command(flatten)]
    pub(super) threads: ThreadsArgument,
    #[command(flatten)]
    report: JsonArgument,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Updates that were applied.
    updates: usize,
    /// The step of the last of them.
    last_step: u64,
    /// Bytes of an unfinished record at the journal's end.
    ignored_bytes: usize,
    output: &'a PathBuf,
}

/// Rebuilds a backbone.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let Arguments { base, journal, until, output, .. } = arguments;
    let messenger = Messenger::new();
    let base = &model::locate(base, &messenger)?;
    // The output may be a model folder, but the base is needed for every other replay.
    if let (Ok(base), Ok(output)) = (fs::canonicalize(base), fs::canonicalize(output))
        && base == output
    {
        return Err(Error::Usage(format!("{} is the base model: choose another output folder", output.display())));
    }
    let mut display = display(&messenger);
    let replayed = replay(base, journal, *until, output, |done, of| display.count("updates replayed", done, of, ""));
    display.clear();
    let Replayed { updates, last_step, ignored_bytes } = replayed?;
    if ignored_bytes > 0 {
        messenger.say(&format!(
            "{}: the last {ignored_bytes} bytes are an unfinished record and were ignored",
            journal.display()
        ));
    }
    if let Some(until) = until.filter(|&until| until > last_step) {
        messenger.say(&format!("step {until} was asked for; the last update up to there is that of step {last_step}"));
    }
    arguments.report.print(&Report { updates, last_step, ignored_bytes, output }, || {
        format!("{}: {updates} updates, up to step {last_step}\n", output.display())
    })
}
