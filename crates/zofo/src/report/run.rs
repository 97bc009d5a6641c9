//! One run, as its folder tells it.

use super::format::toml_text;
use super::metrics::{Evaluation, Metrics, Step, measured, number};
use crate::run::Environment;
use crate::run::folder::{CONFIG, ENVIRONMENT, METRICS, SUMMARY};
use crate::task::Metric;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// Its results are written.
    Finished,
    /// Training could not go on; why.
    Diverged(String),
    /// It did not come to its end; why, if that is known.
    Failed(String),
    /// It has no results: it still goes on, or was stopped.
    Unfinished,
}

impl RunState {
    /// A word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Diverged(_) => "diverged",
            Self::Failed(_) => "failed",
            Self::Unfinished => "unfinished",
        }
    }

    /// What kept it from its end.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Diverged(reason) | Self::Failed(reason) => Some(reason),
            Self::Finished | Self::Unfinished => None,
        }
    }
}

/// A score on the examples that select nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct TestScore {
    /// Which weights.
    pub name: String,
    /// What the metric says.
    pub value: Option<f64>,
    /// Mean negative log-likelihood per token, nats.
    pub loss: Option<f64>,
    /// How many examples.
    pub examples: Option<u64>,
}

/// What a run's folder tells. All of it may be missing; [`problems`](Self::problems) says what is.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// What the report calls it.
    pub name: String,
    /// The configuration: `section.key` to value.
    pub settings: BTreeMap<String, String>,
    /// How far it is.
    pub state: RunState,
    /// The metric that it is judged by.
    pub metric: Option<Metric>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// Its evaluations on the validation part, in order.
    pub evaluations: Vec<Evaluation>,
    /// The score of what it kept on the held-out examples.
    pub test: Option<TestScore>,
    /// That of the untouched model.
    pub untouched: Option<TestScore>,
    /// The step that it kept.
    pub kept_step: Option<u64>,
    /// Steps that it took.
    pub step_count: u64,
    /// Seconds of training, without evaluation.
    pub training_seconds: Option<f64>,
    /// What says that its memory ran out, if anything does: the reason for which it failed, or a line of its log.
    pub out_of_memory: Option<String>,
    /// What computed it.
    pub environment: Option<Environment>,
    /// What is wrong with its files, for people.
    pub problems: Vec<String>,
}

impl Run {
    /// Reads a run's folder. Nothing that is missing or damaged is an error.
    pub fn read(folder: &Path, name: &str) -> Self {
        let mut problems = Vec::new();
        let settings = read_settings(&folder.join(CONFIG), &mut problems);
        let kept = settings.get("method.keep").map(String::as_str);
        let metrics = match fs::read(folder.join(METRICS)) {
            Ok(bytes) => Metrics::parse(&bytes, kept),
            Err(error) if error.kind() == ErrorKind::NotFound => Metrics::default(),
            Err(error) => Metrics { problems: vec![format!("metrics.jsonl: {error}")], ..Metrics::default() },
        };
        problems.extend(metrics.problems);
        if metrics.steps.is_empty() && metrics.evaluations.is_empty() {
            problems.push("no step and no evaluation was logged".to_owned());
        }
        let last = metrics.steps.last();
        let mut run = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            settings,
            state: RunState::Unfinished,
            metric: metrics.metric,
            test: None,
            untouched: None,
            kept_step: None,
            out_of_memory: None,
            step_count: last.map_or(0, |step| step.step),
            training_seconds: last.and_then(|step| step.training_seconds),
            steps: metrics.steps,
            evaluations: metrics.evaluations,
            environment: Environment::read(&folder.join(ENVIRONMENT)),
            problems,
        };
        match fs::read(folder.join(SUMMARY)).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(Value::Object(summary))) => run.take_summary(&summary),
            Ok(_) => run.problems.push("summary.json is damaged: its figures are missing here".to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => run.problems.push(format!("summary.json: {error}")),
        }
        run
    }

    /// A run that a sweep says to have failed, perhaps before it had a folder. `log` is what its process wrote.
    pub fn failed(folder: &Path, name: &str, settings: BTreeMap<String, String>, reason: &str, log: &str) -> Self {
        let mut run = Self::read(folder, name);
        if !folder.exists() {
            run.problems.clear();
        }
        if run.settings.is_empty() {
            run.settings = settings;
        }
        // What its own folder says counts more: it may have been finished by hand since.
        if run.state == RunState::Unfinished {
            run.state = RunState::Failed(reason.to_owned());
            run.out_of_memory = memory_failure(reason, log);
        }
        run
    }

    fn take_summary(&mut self, summary: &Map<String, Value>) {
        let diverged = summary.get("diverged").and_then(Value::as_str);
        self.state = diverged.map_or(RunState::Finished, |reason| RunState::Diverged(reason.to_owned()));
        self.kept_step = summary.get("kept_step").and_then(Value::as_u64);
        self.step_count = summary.get("steps").and_then(Value::as_u64).unwrap_or(self.step_count);
        self.training_seconds = number(summary, "training_seconds").or(self.training_seconds);
        let scores = summary.get("scores").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let scores: Vec<&Map<String, Value>> = scores.iter().filter_map(Value::as_object).collect();
        self.metric = self.metric.or_else(|| scores.iter().find_map(|score| measured(score)).map(|(metric, _)| metric));
        let read = |score: &Map<String, Value>| TestScore {
            name: score.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            value: measured(score).and_then(|(_, value)| value),
            loss: number(score, "loss"),
            examples: score.get("examples").and_then(Value::as_u64),
        };
        let scores: Vec<TestScore> = scores.into_iter().map(read).collect();
        // The first is the untouched model; what was kept comes last, but for s, which may stand behind it unkept.
        let of_shadow = |score: &TestScore| score.name.ends_with(", s)");
        let keeps_shadow = summary.get("kept_adapter").and_then(Value::as_str) == Some("s");
        self.test = scores.iter().rfind(|score| keeps_shadow || !of_shadow(score)).cloned();
        self.untouched = scores.into_iter().next();
    }

    /// A setting.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// The evaluation by which the run selected what it keeps.
    pub fn selected(&self) -> Option<&Evaluation> {
        match self.kept_step {
            Some(step) => self.evaluations.iter().rfind(|evaluation| evaluation.step == step),
            None => self.evaluations.iter().rfind(|evaluation| evaluation.best),
        }
    }

    /// Seconds of training before the evaluation after a step. Before the first step it is what a warm start took.
    pub fn seconds_at(&self, step: u64) -> Option<f64> {
        let after = self.steps.partition_point(|known| known.step <= step);
        match (after.checked_sub(1), self.steps.first()) {
            (Some(index), _) => self.steps[index].training_seconds,
            (None, Some(first)) => Some((first.training_seconds? - first.seconds?).max(0.0)),
            (None, None) => self.training_seconds,
        }
    }

    /// Seconds of all evaluations on the validation part.
    pub fn evaluation_seconds(&self) -> f64 {
        self.evaluations.iter().filter_map(|evaluation| evaluation.seconds).sum()
    }

    /// The median time of a step, seconds: the first ones are slower.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let mut seconds: Vec<f64> = self.steps.iter().filter_map(|step| step.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }

    /// The most memory that it had resident, MiB.
    pub fn peak_mib(&self) -> Option<f64> {
        self.environment.as_ref()?.peak_rss_mib
    }
}

/// What says that memory ran out. The allocator writes it into the log before it aborts the process; a system that has
/// none left kills without a word, and SIGKILL is all there is to see.
fn memory_failure(reason: &str, log: &str) -> Option<String> {
    const SIGNS: [&str; 4] = ["out of memory", "cannot allocate memory", "memory allocation of", "sigkill"];
    /// Above them are earlier tries, which may have ended otherwise.
    const LAST_LINES: usize = 5;
    let tells = |line: &&str| SIGNS.iter().any(|sign| line.to_lowercase().contains(sign));
    let last = log.lines().rev().take(LAST_LINES);
    [reason].into_iter().chain(last).find(tells).map(|line| line.trim().to_owned())
}

/// The keys of a configuration with their values, whatever keys there are: a report also reads runs of other versions.
fn read_settings(path: &Path, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let table: toml::Table = match fs::read_to_string(path).map(|text| text.parse()) {
        Ok(Ok(table)) => table,
        Ok(Err(_)) => {
            problems.push("config.toml is damaged: the run cannot be compared by its settings".to_owned());
            return BTreeMap::new();
        }
        Err(error) => {
            problems.push(format!("config.toml: {error}"));
            return BTreeMap::new();
        }
    };
    let sections = table.into_iter().filter_map(|(section, value)| match value {
        toml::Value::Table(keys) => Some((section, keys)),
        _ => None,
    });
    sections
        .flat_map(|(section, keys)| {
            keys.into_iter().map(move |(key, value)| (format!("{section}.{key}"), toml_text(&value)))
        })
        .collect()
}
