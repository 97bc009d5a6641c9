//! `zofo sweep`.

use super::Ended;
use crate::arguments::path;
use crate::errors::Error;
use crate::interrupt;
use crate::output::{print, table};
use crate::progress::{Clock, Messenger};
use clap::Args;
use serde::Serialize;
use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;
use zofo::sweep::{
    Options, Outcome, PlannedRun, RunRow, RunStatus, SweepObserver, SweepPlan, rows, run as run_sweep, write_csv,
};

/// Arguments of `zofo sweep`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every run has a folder in that of the sweep, as `zofo train` makes it, and a log in logs/. What is done is not done again, and \
what was stopped goes on: after Ctrl-C or a crash, give the same command once more. A run that fails is recorded, and the \
others go on. At the end there is a table, also in runs.csv.

Examples:
  zofo sweep examples/sweep-demo.toml --dry-run
  zofo sweep examples/sweep-demo.toml
  zofo report runs/sweep-demo -o report.html")]
pub struct Arguments {
    /// The sweep: a TOML file with a base configuration and what varies.
    #[arg(value_parser = path())]
    sweep: PathBuf,
    /// Set a key for all runs, as run.max_minutes=5; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The sweep's folder; takes the place of sweep.output.
    #[arg(short, long, value_name = "FOLDER", value_parser = path())]
    output: Option<PathBuf>,
    /// Runs at a time. They share the cores, so that times are comparable only among runs with the same number.
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Try runs once more that failed.
    #[arg(long)]
    retry_failed: bool,
    /// Print the runs, and start none.
    #[arg(long)]
    dry_run: bool,
    /// Print events as JSON Lines.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints, one per line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Planned(&'a PlannedRun),
    Started {
        run: &'a str,
        resumed: bool,
        number: usize,
        of: usize,
    },
    Ended {
        run: &'a str,
        #[serde(flatten)]
        status: &'a RunStatus,
        seconds: f64,
    },
    Done {
        interrupted: bool,
        runs: &'a [RunRow],
    },
}

impl Event<'_> {
    fn print(&self) -> Result<(), Error> {
        let mut line = serde_json::to_string(self).map_err(|error| Error::Stdout(error.into()))?;
        line.push('\n');
        print(&line).map(drop)
    }
}

/// Does the runs of a sweep.
pub fn run(arguments: &Arguments) -> Result<Ended, Error> {
    let plan = SweepPlan::load(&arguments.sweep, &arguments.set, arguments.output.as_deref())?;
    if arguments.dry_run {
        show(&plan, arguments.json)?;
        return Ok(Ended::Done);
    }
    let messenger = Messenger::new();
    let interrupted = interrupt::flag(&messenger, format!("zofo sweep {}", arguments.sweep.display()))?;
    let program = env::current_exe().map_err(|error| Error::OwnProcess(error.to_string()))?;
    let options = Options { program, jobs: arguments.jobs, retry_failed: arguments.retry_failed };
    let mut progress = Progress { messenger: messenger.clone(), json: arguments.json, failed: None };
    let outcome = run_sweep(&plan, &options, &mut progress, &interrupted)?;
    if let Some(error) = progress.failed {
        return Err(error);
    }
    let rows = rows(&plan)?;
    let csv = write_csv(&plan.file.output, &rows)?;
    if arguments.json {
        Event::Done { interrupted: outcome == Outcome::Interrupted, runs: &rows }.print()?;
    } else {
        print(&describe(&rows))?;
        messenger.say(&format!("this table is also in {}", csv.display()));
    }
    match outcome {
        Outcome::Interrupted => {
            messenger.say("interrupted, and everything is saved; the same command goes on");
            Ok(Ended::Interrupted)
        }
        Outcome::Done { failed: 0 } => Ok(Ended::Done),
        Outcome::Done { failed } => {
            Err(Error::RunsFailed { failed, of: rows.len(), logs: plan.file.output.join("logs") })
        }
    }
}

fn show(plan: &SweepPlan, json: bool) -> Result<(), Error> {
    if json {
        return plan.runs.iter().try_for_each(|run| Event::Planned(run).print());
    }
    let mut text = String::new();
    for run in &plan.runs {
        text += &format!("{}\n", run.name);
        for overlay in &run.overlays {
            text += &format!("    --set {overlay}\n");
        }
    }
    text += &format!("{} runs in {}", plan.runs.len(), plan.file.output.display());
    if plan.repeated > 0 {
        text += &format!("; {} combinations repeat others, and are left out", plan.repeated);
    }
    print(&(text + "\n")).map(drop)
}

/// Tells on stderr, or as events, what happens.
struct Progress {
    messenger: Messenger,
    json: bool,
    /// The first event that could not be printed.
    failed: Option<Error>,
}

impl Progress {
    fn event(&mut self, event: &Event<'_>) {
        if self.json
            && let Err(error) = event.print()
        {
            self.failed.get_or_insert(error);
        }
    }
}

impl SweepObserver for Progress {
    fn note(&mut self, message: &str) {
        self.messenger.say(message);
    }

    fn started(&mut self, run: &PlannedRun, resumed: bool, number: usize, of: usize) {
        let how = if resumed { " goes on" } else { "" };
        self.messenger.say(&format!("run {number} of {of}: {}{how}", run.name));
        self.event(&Event::Started { run: &run.name, resumed, number, of });
    }

    fn ended(&mut self, run: &PlannedRun, status: &RunStatus, seconds: f64) {
        let clock = Clock(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let how = match status {
            RunStatus::Finished => format!("finished after {clock}"),
            RunStatus::Failed(reason) => format!("failed after {clock}: {reason}"),
            RunStatus::Interrupted | RunStatus::Started => format!("interrupted and saved after {clock}"),
        };
        self.messenger.say(&format!("{}: {how}", run.name));
        self.event(&Event::Ended { run: &run.name, status, seconds });
    }
}

/// The table for people, and why runs failed.
fn describe(rows: &[RunRow]) -> String {
    let head =
        ["run", "state", "metric", "validation", "at step", "test", "steps", "training", "evaluation", "peak MiB"];
    let none = || "-".to_owned();
    let score = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.4}"));
    let clock = |seconds: f64| Clock(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string();
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.run.clone(),
            row.state.to_owned(),
            row.metric.map_or_else(none, |metric| metric.to_string()),
            score(row.validation),
            row.validation_step.map_or_else(none, |step| step.to_string()),
            score(row.test),
            row.steps.to_string(),
            row.training_seconds.map_or_else(none, clock),
            clock(row.evaluation_seconds),
            row.peak_rss_mib.map_or_else(none, |mib| format!("{mib:.0}")),
        ]
    }));
    let reasons = rows.iter().filter_map(|row| Some(format!("{}: {}\n", row.run, row.reason.as_ref()?)));
    table(&lines) + &reasons.collect::<String>()
}
