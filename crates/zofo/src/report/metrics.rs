//! `metrics.jsonl`, read as far as it goes: whatever the method logs, and however the file ends.

use crate::task::Metric;
use serde_json::{Map, Value};

/// What is charted of a step, if it was logged.
const QUANTITIES: [&str; 8] = ["loss", "a", "b", "c", "gap", "slope", "inner_loss", "tokens"];

/// A training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its number.
    pub step: u64,
    /// Seconds of training up to its end, without evaluation.
    pub training_seconds: Option<f64>,
    /// Seconds that it took.
    pub seconds: Option<f64>,
    /// Finite numbers that were logged, by name.
    pub values: Vec<(&'static str, f64)>,
    /// Whether it moved nothing.
    pub skipped: bool,
}

impl Step {
    /// A logged number.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// An evaluation on the validation part.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// After this step.
    pub step: u64,
    /// What the task's metric says of the weights that the run selects by.
    pub value: Option<f64>,
    /// Their loss.
    pub loss: Option<f64>,
    /// The part of a slope that is rounding.
    pub noise_floor: Option<f64>,
    /// Whether it was the best so far.
    pub best: bool,
    /// Seconds that it took.
    pub seconds: Option<f64>,
}

/// All of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metrics {
    pub(super) steps: Vec<Step>,
    pub(super) evaluations: Vec<Evaluation>,
    pub(super) metric: Option<Metric>,
    /// What is wrong with it.
    pub(super) problems: Vec<String>,
}

impl Metrics {
    /// Reads the lines of a file. `kept` is the block that the run selects by, if it says so.
    pub(super) fn parse(bytes: &[u8], kept: Option<&str>) -> Self {
        let mut metrics = Self::default();
        let mut bad = Vec::new();
        let mut odd = 0;
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Value::Object(event)) => odd += usize::from(!metrics.add(&event, kept)),
                // Only the last piece has no line feed behind it.
                _ if index + 1 == lines.len() => metrics
                    .problems
                    .push("the last line of metrics.jsonl is cut: the run was killed, or still goes on".to_owned()),
                _ => bad.push((index + 1).to_string()),
            }
        }
        if !bad.is_empty() {
            let (count, lines) = (bad.len(), bad[..bad.len().min(5)].join(", "));
            metrics.problems.push(format!("{count} lines of metrics.jsonl are no JSON objects and left out: {lines}"));
        }
        if odd > 0 {
            metrics
                .problems
                .push(format!("{odd} steps or evaluations in metrics.jsonl have no number and are left out"));
        }
        let losses = |step: &Step| step.value("loss").or(step.value("a")).is_some();
        let without = metrics.steps.iter().filter(|step| !losses(step)).count();
        if without > 0 {
            let of = metrics.steps.len();
            metrics.problems.push(format!("{without} of {of} steps have no finite loss: charts leave them out"));
        }
        metrics
    }

    /// Takes an event; false if it should have a step and has none. Events that are not charted are passed over.
    fn add(&mut self, event: &Map<String, Value>, kept: Option<&str>) -> bool {
        let kind = event.get("event").and_then(Value::as_str);
        let step = event.get("step").and_then(Value::as_u64);
        match (kind, step) {
            (Some("step"), Some(step)) => self.steps.push(Step {
                step,
                training_seconds: number(event, "training_seconds"),
                seconds: number(event, "seconds"),
                values: QUANTITIES.iter().filter_map(|&name| Some((name, number(event, name)?))).collect(),
                skipped: event.contains_key("skipped"),
            }),
            (Some("evaluation"), Some(step)) => {
                let score = selected_score(event, kept);
                let measured = score.and_then(measured);
                self.metric = self.metric.or(measured.map(|(metric, _)| metric));
                self.evaluations.push(Evaluation {
                    step,
                    value: measured.and_then(|(_, value)| value),
                    loss: score.and_then(|score| number(score, "loss")),
                    noise_floor: number(event, "noise_floor"),
                    best: event.get("best").and_then(Value::as_bool).unwrap_or(false),
                    seconds: number(event, "seconds"),
                });
            }
            (Some("step" | "evaluation"), None) => return false,
            _ => {}
        }
        true
    }
}

/// A finite number of an object. What is not finite is `null` in JSON.
pub(super) fn number(object: &Map<String, Value>, name: &str) -> Option<f64> {
    object.get(name)?.as_f64().filter(|number| number.is_finite())
}

/// The metric of a score and its value. A score is an object with the metric under its own name.
pub(super) fn measured(score: &Map<String, Value>) -> Option<(Metric, Option<f64>)> {
    let metric = |name: &String| serde_json::from_value(Value::String(name.clone())).ok();
    score.keys().find_map(|name| metric(name).map(|metric| (metric, number(score, name))))
}

/// The score of the block that the run keeps, or else of p, or else the only one there is.
fn selected_score<'a>(event: &'a Map<String, Value>, kept: Option<&str>) -> Option<&'a Map<String, Value>> {
    let score = |name: &str| event.get(name).and_then(Value::as_object);
    let any = || event.values().filter_map(Value::as_object).find(|score| score.contains_key("loss"));
    kept.and_then(score).or_else(|| score("p")).or_else(any)
}
