//! What the runs of a sweep came to, as one row each.

use super::error::SweepError;
use super::log::SweepLog;
use super::plan::SweepPlan;
use crate::hf::atomic::write_file_atomically;
use crate::report::{Run, runs_in};
use crate::task::Metric;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A run of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// Its name.
    pub run: String,
    /// How far it is: `finished`, `diverged`, `failed`, `unfinished`, or `not started`.
    pub state: &'static str,
    /// The metric of its task.
    pub metric: Option<Metric>,
    /// The value on the validation part, of the step that it keeps.
    pub validation: Option<f64>,
    /// That step.
    pub validation_step: Option<u64>,
    /// The value on the held-out examples, which choose nothing.
    pub test: Option<f64>,
    /// The loss on them, nats per token.
    pub test_loss: Option<f64>,
    /// How many they are.
    pub test_examples: Option<u64>,
    /// Steps.
    pub steps: u64,
    /// Seconds of training, without evaluation.
    pub training_seconds: Option<f64>,
    /// Seconds of evaluation on the validation part.
    pub evaluation_seconds: f64,
    /// Seconds of its processes, with loading and the final evaluation.
    pub total_seconds: f64,
    /// The most memory that it had resident, MiB.
    pub peak_rss_mib: Option<f64>,
    /// Why it failed or diverged.
    pub reason: Option<String>,
}

/// The rows of a sweep's runs, in their order.
///
/// # Errors
///
/// A folder that cannot be read.
pub fn rows(plan: &SweepPlan) -> Result<Vec<RunRow>, SweepError> {
    let found = runs_in(&plan.file.output)?;
    let log = SweepLog::read(&plan.file.output)?;
    let row = |run: &super::PlannedRun| {
        let seconds = log.get(&run.name).map_or(0.0, |entry| entry.seconds);
        match found.iter().find(|found| found.name == run.name) {
            Some(found) => RunRow::of(found, seconds),
            None => RunRow { state: "not started", ..RunRow::of(&Run::read(&run.folder, &run.name), seconds) },
        }
    };
    Ok(plan.runs.iter().map(row).collect())
}

impl RunRow {
    fn of(run: &Run, total_seconds: f64) -> Self {
        let (selected, test) = (run.selected(), run.test.as_ref());
        Self {
            run: run.name.clone(),
            state: run.state.as_str(),
            metric: run.metric,
            validation: selected.and_then(|at| at.value),
            validation_step: selected.map(|at| at.step),
            test: test.and_then(|score| score.value),
            test_loss: test.and_then(|score| score.loss),
            test_examples: test.and_then(|score| score.examples),
            steps: run.step_count,
            training_seconds: run.training_seconds,
            evaluation_seconds: run.evaluation_seconds(),
            total_seconds,
            peak_rss_mib: run.peak_mib(),
            reason: run.state.reason().map(str::to_owned),
        }
    }
}

/// Writes the rows to `runs.csv` in a sweep's folder; returns its path.
///
/// # Errors
///
/// A file that cannot be written.
pub fn write_csv(folder: &Path, rows: &[RunRow]) -> Result<PathBuf, SweepError> {
    let path = folder.join("runs.csv");
    let failed = |source| SweepError::Csv { path: path.clone(), source };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
    write_file_atomically(&path, |file| file.write_all(&bytes))?;
    Ok(path)
}
