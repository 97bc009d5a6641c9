//! The numbers of all runs, one per row.

use super::error::ReportError;
use super::group::Group;
use super::panel::Panel;
use super::run::Run;

const HEAD: [&str; 8] = ["task", "group", "run", "event", "step", "training_seconds", "quantity", "value"];

/// Every number that a chart or a table is made of: `event` is `step`, `evaluation`, `test` or `run`.
pub(super) fn csv(panels: &[Panel], runs: &[Run]) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEAD)?;
    for (panel, group) in panels.iter().flat_map(|panel| panel.groups.iter().map(move |group| (panel, group))) {
        for &run in &group.runs {
            write_run(&mut writer, panel, group, &runs[run])?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write_run(writer: &mut csv::Writer<Vec<u8>>, panel: &Panel, group: &Group, run: &Run) -> Result<(), ReportError> {
    let metric = panel.metric.map_or("score", crate::task::Metric::as_str);
    let mut row = |event: &str, step: Option<u64>, seconds: Option<f64>, quantity: &str, value: Option<f64>| {
        let Some(value) = value else { return Ok(()) };
        let [step, seconds] = [step.map(|step| step.to_string()), seconds.map(|seconds| seconds.to_string())];
        let [step, seconds] = [step, seconds].map(Option::unwrap_or_default);
        let value = value.to_string();
        writer.write_record([&panel.task, &group.label, &run.name, event, &step, &seconds, quantity, &value])
    };
    for step in &run.steps {
        for &(name, value) in &step.values {
            row("step", Some(step.step), step.training_seconds, name, Some(value))?;
        }
        row("step", Some(step.step), step.training_seconds, "seconds", step.seconds)?;
    }
    for at in &run.evaluations {
        let seconds = run.seconds_at(at.step);
        row("evaluation", Some(at.step), seconds, metric, at.value)?;
        row("evaluation", Some(at.step), seconds, "loss", at.loss)?;
        row("evaluation", Some(at.step), seconds, "noise_floor", at.noise_floor)?;
        row("evaluation", Some(at.step), seconds, "seconds", at.seconds)?;
    }
    for (event, score) in [("test", &run.test), ("untouched", &run.untouched)] {
        let score = score.as_ref();
        row(event, run.kept_step, run.training_seconds, metric, score.and_then(|score| score.value))?;
        row(event, run.kept_step, run.training_seconds, "loss", score.and_then(|score| score.loss))?;
    }
    row("run", Some(run.step_count), run.training_seconds, "peak_rss_mib", run.peak_mib())?;
    Ok(())
}
