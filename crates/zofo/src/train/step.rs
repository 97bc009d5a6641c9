//! What goes into a step of a method, and what comes out of it.

use crate::model::Batch;
use crate::zo::BackboneDirection;
use crate::zo::estimator::Estimate;
use crate::zo::optimizer::{Diverged, Step};
use crate::zo::update::StepEstimate;
use std::time::Duration;

/// Where the batches of a step come from.
pub trait Batches {
    /// B of the inner level, from D_p, or from all training data if the method has one level: for exact gradients.
    fn inner(&mut self) -> Batch;
    /// B_f of the outer level, from D_f, or from all training data: for zeroth-order estimates (and p).
    fn outer(&mut self) -> Batch;
    /// B_p from D_p, for the penalty.
    fn penalty(&mut self) -> Batch;
}

/// Learning rates of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LearningRates {
    /// Of s, and of all that is trained by exact gradients alone.
    pub shadow: f64,
    /// Of p.
    pub adapter: f64,
    /// Of what zeroth-order estimates move: θ, or the block of MeZO on a block.
    pub backbone: f64,
}

/// What a step is given besides its batches.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// Steps before this one.
    pub done: u64,
    /// Time spent on them.
    pub trained: Duration,
    /// The directions z along which slopes are estimated.
    pub directions: Vec<BackboneDirection>,
    /// Learning rates.
    pub rates: LearningRates,
    /// The share of λ that counts in this step.
    pub penalty_share: f64,
    /// The share of ε that this step takes.
    pub eps_share: f32,
    /// Where the masks of dropout come from.
    pub dropout_seed: u64,
}

impl StepInput {
    /// A first step along these directions, with all of λ and of ε.
    pub fn new(directions: Vec<BackboneDirection>, rates: LearningRates) -> Self {
        Self {
            done: 0,
            trained: Duration::ZERO,
            directions,
            rates,
            penalty_share: 1.0,
            eps_share: 1.0,
            dropout_seed: 0,
        }
    }

    /// What θ is moved by, given the slopes along the directions.
    pub(super) fn estimate<'a>(&'a self, slopes: &'a [f64]) -> StepEstimate<'a> {
        let (number, directions, learning_rate) = (self.done + 1, &self.directions, self.rates.backbone);
        StepEstimate { number, directions, slopes, learning_rate }
    }
}

/// What one step measured and did. A method leaves empty what it has none of.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// F on the batch of the step. Bilevel: a. MeZO: the mean over both sides.
    pub loss: f64,
    /// Of the bilevel method: F(θ, s; B) before each of the T inner steps.
    pub inner_losses: Vec<f64>,
    /// Of the bilevel method: the mean cosine of the angle between one update of s and the next.
    pub inner_cosine: Option<f64>,
    /// Of the bilevel method: the parts of G.
    pub outer: Option<OuterLosses>,
    /// One per direction.
    pub updates: Vec<DirectionUpdate>,
    /// Tokens fed, each pass counted.
    pub tokens: usize,
    /// What moving θ took: what its replay will take.
    pub update_time: Duration,
}

/// The parts of G = a + λ(b − c).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OuterLosses {
    /// a = F(θ, p; B_f), without dropout as b and c: at θ, from the pass that p's gradient comes from; where p has
    /// dropout, which that pass has masks of, the mean over all perturbed evaluations.
    pub a: f64,
    /// b = F(θ, p; B_p), as a.
    pub b: f64,
    /// c = F(θ, s; B_p), the mean over all perturbed evaluations.
    pub c: f64,
}

/// A slope, and what it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DirectionUpdate {
    /// The objective on both sides, and g.
    pub estimate: Estimate,
    /// What happened along the direction.
    pub step: Step,
}

/// Why a step could not be taken. θ, p and s are as the last complete update left them; the moments of the optimizer
/// that failed may hold its last gradient.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// A loss is infinite or not a number.
    #[error("the loss {what} is {value}: lower {advice}")]
    NonFiniteLoss {
        /// Which loss.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The key whose value is probably too large.
        advice: &'static str,
    },
    /// A step would have made a value infinite or not a number.
    #[error("a value of {block} is not finite after its step: lower {advice}")]
    NonFiniteBlock {
        /// p, s, or the gradient of θ.
        block: &'static str,
        /// The key whose value is probably too large.
        advice: &'static str,
    },
    /// Too many steps of θ in a row were skipped.
    #[error("{0}")]
    Diverged(#[from] Diverged),
}

/// `value`, if it is finite. `what` names the loss.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64, StepError> {
    let advice = "`inner.lr`, `outer.adapter_lr` or `outer.lr`";
    if value.is_finite() { Ok(value) } else { Err(StepError::NonFiniteLoss { what, value, advice }) }
}

/// Pairs every estimate with what happened along its direction.
pub(super) fn updates(estimates: Vec<Estimate>, steps: Vec<Step>) -> Vec<DirectionUpdate> {
    estimates.into_iter().zip(steps).map(|(estimate, step)| DirectionUpdate { estimate, step }).collect()
}

/// The mean of an objective over both sides of all estimates.
pub(super) fn mean_objective(estimates: &[Estimate]) -> f64 {
    estimates.iter().map(|estimate| (estimate.plus + estimate.minus) / 2.0).sum::<f64>() / estimates.len() as f64
}

/// The slopes of estimates.
pub(super) fn slopes(estimates: &[Estimate]) -> Vec<f64> {
    estimates.iter().map(|estimate| estimate.slope).collect()
}
