//! What `zofo eval` prints.

use super::Score;
use crate::arguments::DecodingReport;
use crate::output::table;
use serde::Serialize;
use zofo::eval::{CALIBRATION_ERROR, Evaluation, Measure, Measures, count_classes};
use zofo::task::{Metric, TemplateName};

/// All of it.
#[derive(Serialize)]
pub struct Report {
    pub tasks: Vec<TaskReport>,
}

/// The result of one task.
#[derive(Serialize)]
pub struct TaskReport {
    pub task: String,
    pub template: TemplateName,
    pub examples: usize,
    /// Demonstrations before every prompt.
    pub shots: usize,
    /// By what candidates were compared, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// How answers were written, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoding: Option<DecodingReport>,
    /// The task's own measure.
    pub metric: Metric,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// All measures, with their 95 % intervals.
    pub measures: Measures,
    /// Mean negative log-likelihood per token of the right answers, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_class: Vec<ClassReport>,
    pub seconds: f64,
    pub examples_per_second: f64,
    /// Tokens fed; a prompt counts once for all its candidates.
    pub tokens: usize,
    /// Examples that were cut to fit the model's context.
    pub truncated: usize,
    /// Demonstrations that were cut with them, in whole or in part.
    pub demonstrations_cut: usize,
}

/// How one class fared.
#[derive(Serialize)]
pub struct ClassReport {
    class: String,
    precision: f64,
    recall: f64,
    f1: f64,
    /// Examples of this class.
    support: usize,
    /// Examples that were predicted to be of it.
    predicted: usize,
}

/// How every class fared; nothing if examples do not share their candidates.
pub fn per_class(classes: &[String], evaluation: &Evaluation) -> Vec<ClassReport> {
    if classes.is_empty() {
        return Vec::new();
    }
    let report = |(class, counts): (&String, zofo::task::metric::ClassCounts)| ClassReport {
        class: class.clone(),
        precision: counts.precision(),
        recall: counts.recall(),
        f1: counts.f1(),
        support: counts.gold,
        predicted: counts.predicted,
    };
    classes.iter().zip(count_classes(evaluation, classes.len())).map(report).collect()
}

/// The table for people; with `per_class` one more for every task whose examples share their candidates.
pub fn describe(report: &Report, per_class: bool) -> String {
    let head = [
        "task",
        "template",
        "examples",
        "metric",
        "value",
        "95 %",
        "accuracy",
        "95 %",
        "calibration error",
        "loss",
        "seconds",
        "examples/s",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.tasks.iter().map(|task| {
        let measure = |name: &str| task.measures.get(name);
        let value = |name| measure(name).map_or("-".to_owned(), |measure| format!("{:.4}", measure.value));
        let (metric, accuracy) = (task.metric.as_str(), Metric::Accuracy.as_str());
        vec![
            task.task.clone(),
            task.template.to_string(),
            task.examples.to_string(),
            metric.to_owned(),
            value(metric),
            interval(measure(metric)),
            value(accuracy),
            interval(measure(accuracy)),
            value(CALIBRATION_ERROR),
            task.loss.map_or("-".to_owned(), |loss| format!("{loss:.4}")),
            format!("{:.1}", task.seconds),
            format!("{:.1}", task.examples_per_second),
        ]
    }));
    let mut text = table(&rows);
    for task in report.tasks.iter().filter(|task| per_class && !task.per_class.is_empty()) {
        let head = [task.task.as_str(), "precision", "recall", "f1", "support", "predicted"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(task.per_class.iter().map(|class| {
            let ClassReport { class, precision, recall, f1, support, predicted } = class;
            let shares = [precision, recall, f1].map(|share| format!("{share:.4}"));
            let counts = [support, predicted].map(usize::to_string);
            [vec![class.clone()], shares.to_vec(), counts.to_vec()].concat()
        }));
        text.push('\n');
        text += &table(&rows);
    }
    text
}

fn interval(measure: Option<&Measure>) -> String {
    measure.map_or("-".to_owned(), |measure| format!("{:.3}–{:.3}", measure.low, measure.high))
}
