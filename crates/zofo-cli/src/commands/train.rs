//! `zofo train`.

use super::Ended;
use crate::arguments::{JsonArgument, on_threads, path};
use crate::errors::Error;
use crate::interrupt;
use crate::output::table;
use crate::progress::{Clock, Messenger, TrainingProgress};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zofo::run::config::{Config, Keep};
use zofo::run::{FinalScore, Outcome, RunError, Score, Start, Summary, train};

/// Arguments of `zofo train`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-C finishes the step, saves, and ends with exit code 130; `--resume` then goes on as if nothing had happened.

Examples:
  zofo train examples/demo.toml
  zofo train examples/sst2-bilevel.toml --set data.dir=my-data --set outer.lr=2e-6
  zofo train --resume runs/sst2-bilevel
  zofo train --resume runs/sst2-bilevel --set run.max_steps=20000")]
pub struct Arguments {
    /// The configuration: a TOML file.
    #[arg(value_parser = path(), required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Override a key of the configuration, as inner.lr=1e-3; may be repeated. With --resume: limits and places only.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on with the run in this folder; one that is finished stays as it is.
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    resume: Option<PathBuf>,
    /// Threads; takes the place of run.threads. The result does not depend on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// End as by Ctrl-C when standard input ends: `zofo sweep` holds the other end.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
    #[command(flatten)]
    report: JsonArgument,
}

/// Trains, or goes on training.
pub fn run(arguments: &Arguments) -> Result<Ended, Error> {
    match (&arguments.config, &arguments.resume) {
        (Some(file), _) => {
            let config = load(file, &arguments.set, arguments.threads)?;
            let threads = config.run.threads.and_then(NonZeroUsize::new);
            let (folder, keep) = (config.run.output.clone(), config.run.keep);
            on_threads(threads, || train_in(&folder, keep, Start::New(Box::new(config)), arguments))
        }
        (None, Some(folder)) => {
            // How many threads there are has to be known before anything is computed. If the folder has no
            // configuration that can be read, the library says so.
            let stored = Config::load(&folder.join("config.toml"), &arguments.set).ok().map(|config| config.run);
            let threads = stored.as_ref().and_then(|run| run.threads.and_then(NonZeroUsize::new));
            let keep = stored.map_or(Keep::Best, |run| run.keep);
            let start = Start::Resume { folder, overlays: &arguments.set };
            on_threads(arguments.threads.or(threads), || train_in(folder, keep, start, arguments))
        }
        (None, None) => Err(Error::Usage("give a configuration, or `--resume` and the folder of a run".to_owned())),
    }
}

/// Reads a configuration with what the command line says on top.
pub(super) fn load(file: &Path, set: &[String], threads: Option<NonZeroUsize>) -> Result<Config, Error> {
    let mut overlays = set.to_vec();
    overlays.extend(threads.map(|threads| format!("run.threads={threads}")));
    Ok(Config::load(file, &overlays).map_err(RunError::from)?)
}

fn train_in(folder: &Path, keep: Keep, start: Start, arguments: &Arguments) -> Result<Ended, Error> {
    let messenger = Messenger::new();
    let interrupted = interrupt::flag(&messenger, format!("zofo train --resume {}", folder.display()))?;
    if arguments.end_with_stdin {
        interrupt::at_end_of_stdin(&interrupted);
    }
    let mut progress = TrainingProgress::new(&messenger);
    let outcome = train(start, &mut progress, &interrupted);
    let summary = progress.finish();
    match outcome? {
        Outcome::Interrupted => {
            messenger.say(&format!(
                "interrupted, and everything is saved; to go on: zofo train --resume {}",
                folder.display()
            ));
            return Ok(Ended::Interrupted);
        }
        Outcome::AlreadyFinished => {
            messenger.say(&format!("the run in {} is finished: there is nothing to do", folder.display()))
        }
        Outcome::Finished => {}
    }
    if let Some(summary) = summary {
        arguments.report.print(&summary, || describe(&summary, keep))?;
    }
    Ok(Ended::Done)
}

/// The summary for people.
fn describe(summary: &Summary, keep: Keep) -> String {
    let metric = summary.scores.first().map_or("", |score| score.score.metric.as_str());
    let mut rows = vec![["", metric, "loss", "examples"].map(str::to_owned).to_vec()];
    rows.extend(summary.scores.iter().map(|FinalScore { name, score, examples }| {
        let Score { value, loss, .. } = score;
        vec![(*name).to_owned(), format!("{value:.4}"), format!("{loss:.4}"), examples.to_string()]
    }));
    let why = match keep {
        Keep::Best => "the best on the validation part",
        Keep::Last => "the last",
    };
    let skipped = match summary.skipped_steps {
        0 => String::new(),
        skipped => format!(", {skipped} of them without moving θ"),
    };
    let mut text = table(&rows) + "\n";
    if !summary.method.trains() {
        text += &format!("metrics   {}\n", summary.metrics.display());
        return text;
    }
    let adapter = summary.kept_adapter.map_or_else(String::new, |kept| format!("; adapter {kept}"));
    text += &format!(
        "kept      step {} of {}{skipped}: {why}{adapter}\n\
         training  {} without evaluation\n",
        summary.kept_step,
        summary.steps,
        Clock(Duration::try_from_secs_f64(summary.training_seconds).unwrap_or_default()),
    );
    let places = [
        ("adapter", summary.adapter.as_deref()),
        ("backbone", summary.backbone.as_deref()),
        ("journal", Some(summary.journal.as_path())),
        ("metrics", Some(summary.metrics.as_path())),
    ];
    for (name, place) in places {
        if let Some(place) = place {
            text += &format!("{name:<9} {}\n", place.display());
        }
    }
    text
}
