//! What a run tells about itself while it runs.

use super::finish::Summary;
use super::plan::Plan;
use crate::hf::hub::HubProgress;
use crate::task::Metric;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// How good one adapter is on one set of examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The task's measure.
    pub metric: Metric,
    /// What it gives.
    pub value: f64,
    /// Mean negative log-likelihood per token of the right answers, nats.
    pub loss: f64,
}

/// An object with the measure under its own name, such as `accuracy`, and `loss`.
impl Serialize for Score {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.metric.as_str(), &self.value)?;
        map.serialize_entry("loss", &self.loss)?;
        map.end()
    }
}

/// One step, as `metrics.jsonl` keeps it.
#[derive(Clone, Debug, Serialize)]
pub struct StepRecord {
    /// Steps so far.
    pub step: u64,
    /// F on the batch of the step, before it.
    pub loss: f64,
    /// Of the bilevel method.
    #[serde(flatten)]
    pub bilevel: Option<BilevelRecord>,
    /// Of methods that estimate slopes, one per direction.
    #[serde(flatten)]
    pub estimate: Option<EstimateRecord>,
    /// Learning rates of s, p and θ.
    pub learning_rates: [f64; 3],
    /// Tokens fed in this step, each pass counted.
    pub tokens: usize,
    /// Seconds of this step.
    pub seconds: f64,
    /// Seconds of training so far, without evaluation.
    pub training_seconds: f64,
}

/// What the bilevel method measures besides.
#[derive(Clone, Debug, Serialize)]
pub struct BilevelRecord {
    /// a = F(θ,p;B_f), like b and c without dropout; at which θ, [`OuterLosses`](crate::train::OuterLosses) says.
    pub a: f64,
    /// b = F(θ,p;B_p).
    pub b: f64,
    /// c = F(θ,s;B_p).
    pub c: f64,
    /// b − c.
    pub gap: f64,
    /// F(θ,s;B) before the last inner step, under its dropout.
    pub inner_loss: f64,
    /// The mean cosine of the angle between one update of s and the next, if there are two: near 1 while s goes one way,
    /// below 0 while it goes back and forth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_cosine: Option<f64>,
}

/// What an estimate along the first direction of a step gave.
#[derive(Clone, Debug, Serialize)]
pub struct EstimateRecord {
    /// The objective at θ + ε·z.
    pub objective_plus: f64,
    /// The objective at θ − ε·z; of one side, at θ.
    pub objective_minus: f64,
    /// g.
    pub slope: f64,
    /// The slopes of all directions, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slopes: Vec<f64>,
    /// What z was multiplied with to move θ; absent if the step was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficient: Option<f32>,
    /// Why θ was not moved, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// One evaluation on the validation part.
#[derive(Clone, Debug, Serialize)]
pub struct EvaluationRecord {
    /// After this many steps.
    pub step: u64,
    /// With p, if the method has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<Score>,
    /// With s, if the method has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s: Option<Score>,
    /// Of θ alone, if the method has no block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Score>,
    /// Rounding error of one loss, δ, if slopes are estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_noise: Option<f64>,
    /// The part of a slope that is rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<f64>,
    /// Whether this is the best so far.
    pub best: bool,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Receives a run's progress. Every method may do nothing.
pub trait Observer {
    /// A part of the model came from the hub.
    fn downloading(&mut self, _progress: HubProgress<'_>) {}
    /// Before anything is trained.
    fn plan(&mut self, _plan: &Plan) {}
    /// Something worth a line.
    fn note(&mut self, _message: &str) {}
    /// An inner step of the warm start: done, of how many, loss before it.
    fn warm_start(&mut self, _done: usize, _of: usize, _loss: f64) {}
    /// An outer step. `fraction` is the share of the run that is done, by steps or by time.
    fn step(&mut self, _record: &StepRecord, _fraction: f64) {}
    /// Part of an evaluation: what is evaluated, done, of how many.
    fn evaluating(&mut self, _what: &str, _done: usize, _of: usize) {}
    /// An evaluation on the validation part.
    fn evaluated(&mut self, _record: &EvaluationRecord) {}
    /// The end.
    fn summary(&mut self, _summary: &Summary) {}
}

/// For runs that nobody watches.
impl Observer for () {}
