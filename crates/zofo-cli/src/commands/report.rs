//! `zofo report`.

use crate::arguments::path;
use crate::errors::Error;
use crate::output::{print, print_json};
use crate::progress::Messenger;
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use zofo::report::{Chart, Diagnosis, Fonts, Panel, Report, ReportError, RunState, find};

/// Arguments of `zofo report`.
#[derive(Debug, Args)]
#[command(after_help = "\
The page needs no network. Runs that differ only by their seeds are shown together. Whatever is missing or damaged in a run's \
folder is said on the page. What runs show to have gone wrong is on the page, and printed: the task and the group, the sign with \
its numbers, and what to do.

Examples:
  zofo report runs/sweep-demo -o report.html
  zofo report runs/mezo runs/bilevel --svg charts --png charts --csv numbers.csv")]
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
    /// Also write every chart as a PNG file into this folder, in light colours, with a font of the system.
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    png: Option<PathBuf>,
    /// Also write all numbers, one per row, into this CSV file.
    #[arg(long, value_name = "FILE", value_parser = path())]
    csv: Option<PathBuf>,
    /// Print the diagnoses as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes the page, and what else is asked for.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let names = arguments.folders.iter().map(|folder| folder.display().to_string());
    let title = arguments.title.clone().unwrap_or_else(|| names.collect::<Vec<_>>().join(", "));
    let report = Report::new(&title, find(&arguments.folders)?);
    let messenger = Messenger::new();
    // Without a font nothing is written.
    let fonts = arguments.png.as_ref().map(|_| Fonts::of_system()).transpose()?;
    write(&arguments.output, report.html()?.as_bytes())?;
    messenger.say(&format!("{} runs on {}", report.runs.len(), arguments.output.display()));
    if let Some(folder) = &arguments.svg {
        let count = write_charts(&report, folder, "svg", |chart| Ok(chart.file()?.into_bytes()))?;
        messenger.say(&format!("{count} charts in {}", folder.display()));
    }
    if let (Some(folder), Some(fonts)) = (&arguments.png, &fonts) {
        let count = write_charts(&report, folder, "png", |chart| chart.png(fonts))?;
        messenger.say(&format!("{count} charts in {}", folder.display()));
    }
    if let Some(file) = &arguments.csv {
        write(file, report.csv()?.as_bytes())?;
        messenger.say(&format!("the numbers are in {}", file.display()));
    }
    let problems = report.runs.iter().filter(|run| !run.problems.is_empty() || run.state != RunState::Finished).count();
    if problems > 0 {
        messenger.say(&format!("{problems} of them are incomplete or went wrong: the page says how"));
    }
    print_diagnoses(&report, arguments)
}

/// One line for each, or all as JSON.
fn print_diagnoses(report: &Report, arguments: &Arguments) -> Result<(), Error> {
    let all = || report.panels.iter().flat_map(|panel| panel.diagnoses.iter().map(move |diagnosis| (panel, diagnosis)));
    if arguments.json {
        let value = |(panel, diagnosis): (&Panel, &Diagnosis)| {
            let Diagnosis { group, sign, evidence, advice } = diagnosis;
            let group = &panel.groups[*group].label;
            json!({ "task": panel.task, "group": group, "sign": sign, "evidence": evidence, "advice": advice })
        };
        let page = arguments.output.display().to_string();
        let diagnoses: Vec<Value> = all().map(value).collect();
        print_json(&json!({ "page": page, "runs": report.runs.len(), "diagnoses": diagnoses }))?;
    } else {
        let line = |(panel, diagnosis): (&Panel, &Diagnosis)| {
            let Diagnosis { group, sign, evidence, advice } = diagnosis;
            let group = &panel.groups[*group].label;
            format!("{}: {group}: {}: {evidence}. What to do: {advice}\n", panel.task, sign.as_str())
        };
        print(&all().map(line).collect::<String>())?;
    }
    Ok(())
}

/// Writes every chart into a file of its own; returns how many there are.
fn write_charts(
    report: &Report,
    folder: &Path,
    extension: &str,
    draw: impl Fn(&Chart) -> Result<Vec<u8>, ReportError>,
) -> Result<usize, Error> {
    let charts = report.charts();
    fs::create_dir_all(folder).map_err(|source| Error::Output { path: folder.to_owned(), source })?;
    for chart in &charts {
        write(&folder.join(format!("{}.{extension}", chart.name)), &draw(chart)?)?;
    }
    Ok(charts.len())
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(file, bytes).map_err(|source| Error::Output { path: file.to_owned(), source })
}
