//! The `zofo` program: a thin layer of arguments, progress and exit codes over the library of the same name.
//!
//! Results go to stdout and everything else to stderr. [`errors`] has the exit codes.

#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod data;
mod errors;
mod interrupt;
mod model;
mod output;
mod progress;

use clap::Parser;
use commands::{Command, Ended};
use errors::Error;
use std::io::{self, IsTerminal};
use std::panic;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Environment variable that sets what is logged.
const LOG: &str = "ZOFO_LOG";

/// Fine-tunes whole language models with Bilevel-ZOFO in the memory of inference.
#[derive(Debug, Parser)]
#[command(
    name = "zofo",
    version,
    about,
    max_term_width = 100,
    after_help = "Results go to stdout, messages to stderr. Exit codes: 0 done, 2 usage or configuration, 3 input data, \
                  4 training diverged, 5 memory or disk, 130 interrupted and saved, 1 anything else. \
                  ZOFO_LOG=debug logs more; NO_COLOR switches colours off. HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT \
                  and HF_HUB_OFFLINE mean what they mean to Hugging Face's programs."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a bug, whose message the standard hook has printed; it has no exit code of its own.
    let ended = panic::catch_unwind(|| start_logging().and_then(|()| cli.command.run()));
    match ended {
        Ok(Ok(Ended::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Ended::Interrupted)) => ExitCode::from(errors::INTERRUPTED),
        Ok(Err(error)) => errors::report(&error),
        Err(_) => ExitCode::from(errors::OTHER),
    }
}

fn start_logging() -> Result<(), Error> {
    let filter = match std::env::var(LOG) {
        Ok(text) => EnvFilter::try_new(&text)
            .map_err(|error| Error::Usage(format!("{LOG}={text}: {error}; expected a level such as `debug`")))?,
        Err(_) => EnvFilter::new("warn"),
    };
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
    Ok(())
}
