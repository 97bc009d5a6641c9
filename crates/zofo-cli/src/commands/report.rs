//! `zofo report`.

use crate::arguments::path;
use crate::errors::Error;
use crate::progress::Messenger;
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use zofo::report::{Report, RunState, find};

/// Arguments of `zofo report`.
#[derive(Debug, Args)]
#[command(after_help = "\
The page needs no network. Runs that differ only by their seeds are shown together. Whatever is missing or damaged in a run's \
folder is said on the page.

Examples:
  zofo report runs/sweep-demo -o report.html
  zofo report runs/mezo runs/bilevel --svg charts --csv numbers.csv")]
pub struct Arguments {
    /// Folders of runs, or of sweeps.
    #[arg(required = true, value_name = "FOLDER", value_parser = path())]
    folders: Vec<PathBuf>,
    /// The page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html", value_parser = path())]
    output: PathBuf,
    /// Its heading; the folders' names if not given.
    #[arg(long)]
    title: Option<String>,
    /// Also write every chart as an SVG file into this folder.
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    svg: Option<PathBuf>,
    /// Also write all numbers, one per row, into this CSV file.
    #[arg(long, value_name = "FILE", value_parser = path())]
    csv: Option<PathBuf>,
}

/// Writes the page, and what else is asked for.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let names = arguments.folders.iter().map(|folder| folder.display().to_string());
    let title = arguments.title.clone().unwrap_or_else(|| names.collect::<Vec<_>>().join(", "));
    let report = Report::new(&title, find(&arguments.folders)?);
    let messenger = Messenger::new();
    write(&arguments.output, &report.html()?)?;
    messenger.say(&format!("{} runs on {}", report.runs.len(), arguments.output.display()));
    if let Some(folder) = &arguments.svg {
        let charts = report.charts();
        fs::create_dir_all(folder).map_err(|source| Error::Output { path: folder.clone(), source })?;
        for chart in &charts {
            write(&folder.join(format!("{}.svg", chart.name)), &chart.file()?)?;
        }
        messenger.say(&format!("{} charts in {}", charts.len(), folder.display()));
    }
    if let Some(file) = &arguments.csv {
        write(file, &report.csv()?)?;
        messenger.say(&format!("the numbers are in {}", file.display()));
    }
    let problems = report.runs.iter().filter(|run| !run.problems.is_empty() || run.state != RunState::Finished).count();
    if problems > 0 {
        messenger.say(&format!("{problems} of them are incomplete or went wrong: the page says how"));
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(|source| Error::Output { path: file.to_owned(), source })
}
