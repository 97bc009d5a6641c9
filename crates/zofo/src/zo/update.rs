//! Moving θ: one interface over the scalar rules and Adam.

use super::adam::{self, BackboneAdam};
use super::journal::{OptimizerRecord, Record};
use super::momentum::{Momentum, PastSteps};
use super::optimizer::{BackboneOptimizer, Diverged, ScalarOptimizer, ScalarRule, SkipReason, SlopeGuard, Step};
use super::space::DirectionSpace;
use super::{BackboneDirection, Perturbation};
use crate::model::Backbone;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use zofo_kernels::direction::Descent;

/// An optimizer of θ with its state.
#[derive(Clone)]
pub struct BackboneUpdater {
    rule: Rule,
    /// What past steps add to a step of `sgd` with momentum.
    past: Option<PastSteps>,
    /// μ: every step multiplies θ by 1 − η·μ.
    weight_decay: f64,
}

#[derive(Clone)]
enum Rule {
    /// One number of state; θ is streamed in place.
    Scalar(ScalarOptimizer),
    /// Two states of θ's size.
    Adam(BackboneAdam),
}

/// What an update of θ is made of: the estimate of a gradient, the mean of slope·z.
#[derive(Clone, Copy, Debug)]
pub struct StepEstimate<'a> {
    /// The number of the step: what a journal records. Steps increase; those that are skipped count.
    pub number: u64,
    /// The directions z.
    pub directions: &'a [BackboneDirection],
    /// One per direction.
    pub slopes: &'a [f64],
    /// η.
    pub learning_rate: f64,
}

/// An update of θ in the numbers that a journal has of it.
struct Update<'a> {
    number: u64,
    directions: &'a [BackboneDirection],
    /// With the scales of their directions in them.
    slopes: &'a [f32],
    coefficients: &'a [f32],
    learning_rate: f32,
}

/// What a checkpoint keeps of a [`BackboneUpdater`]. The moments of Adam, and the past directions of momentum, are rebuilt
/// from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum UpdaterState {
    /// All of it.
    Scalar(ScalarOptimizer),
    /// The guard.
    Adam(SlopeGuard),
}

/// A state was given to an optimizer of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state of the optimizer of θ belongs to another kind of optimizer")]
pub struct OtherOptimizer;

impl UpdaterState {
    /// Before the first step.
    pub fn new(kind: BackboneOptimizer) -> Self {
        match kind.scalar_rule() {
            Some(rule) => Self::Scalar(ScalarOptimizer::new(rule)),
            None => Self::Adam(SlopeGuard::default()),
        }
    }

    /// The guard with its counts.
    pub fn guard(&self) -> &SlopeGuard {
        match self {
            Self::Scalar(optimizer) => optimizer.guard(),
            Self::Adam(guard) => guard,
        }
    }

    /// Whether both are of one kind of optimizer.
    pub fn is_kind_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(own), Self::Scalar(other)) => own.rule() == other.rule(),
            (Self::Adam(_), Self::Adam(_)) => true,
            _ => false,
        }
    }
}

impl BackboneUpdater {
    /// A fresh optimizer.
    pub fn new(kind: BackboneOptimizer) -> Self {
        let rule = match kind.scalar_rule() {
            Some(rule) => Rule::Scalar(ScalarOptimizer::new(rule)),
            None => Rule::Adam(BackboneAdam::default()),
        };
        Self { rule, past: None, weight_decay: 0.0 }
    }

    /// Fresh `sgd` with momentum.
    pub fn with_momentum(momentum: Momentum) -> Self {
        let rule = Rule::Scalar(ScalarOptimizer::new(ScalarRule::Sgd));
        Self { rule, past: Some(PastSteps::new(momentum)), weight_decay: 0.0 }
    }

    /// The same optimizer with decoupled weight decay (Loshchilov and Hutter, 2019): θ ← θ − η·μ·θ before each step. What a
    /// direction does not cover does not decay.
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// θ ← Opt_θ(θ, mean of g·z); returns what was done along each direction.
    ///
    /// For Adam, slopes and rate are rounded to f32 first: those are the numbers that a journal keeps, and replay must do
    /// the same.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row; θ is as it was.
    pub fn step(&mut self, backbone: &mut Backbone, estimate: &StepEstimate<'_>) -> Result<Vec<Step>, Diverged> {
        let steps = self.propose(estimate)?;
        self.apply(backbone, estimate, &steps);
        Ok(steps)
    }

    /// What [`step`](Self::step) would do along each direction, without what momentum adds; θ is not touched.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row.
    pub fn propose(&mut self, estimate: &StepEstimate<'_>) -> Result<Vec<Step>, Diverged> {
        match &mut self.rule {
            Rule::Scalar(optimizer) => {
                let mut steps = optimizer.step_mean(estimate.slopes, estimate.learning_rate)?;
                for (direction, step) in estimate.directions.iter().zip(&mut steps) {
                    if let Step::Apply { coefficient } = step {
                        *coefficient *= direction.scale();
                    }
                }
                Ok(steps)
            }
            Rule::Adam(adam) => adam.propose(&scaled(estimate), estimate.learning_rate as f32),
        }
    }

    /// Does what was proposed.
    pub fn apply(&mut self, backbone: &mut Backbone, estimate: &StepEstimate<'_>, steps: &[Step]) {
        let coefficients: Vec<f32> = steps.iter().filter_map(|step| step.coefficient()).collect();
        let (slopes, learning_rate) = (scaled(estimate), estimate.learning_rate as f32);
        let StepEstimate { number, directions, .. } = *estimate;
        let update = Update { number, directions, slopes: &slopes, coefficients: &coefficients, learning_rate };
        self.carry_out(backbone, &update);
    }

    /// Repeats the recorded update of one step, with the same bits. `space` is that of the journal.
    pub fn replay(&mut self, backbone: &mut Backbone, space: &Arc<DirectionSpace>, records: &[Record]) {
        let Some(&Record { step: number, learning_rate, .. }) = records.first() else { return };
        let (directions, slopes) = recorded(space, records);
        let coefficients: Vec<f32> = records.iter().map(|record| record.coefficient).collect();
        let (directions, slopes, coefficients) = (&directions[..], &slopes[..], &coefficients[..]);
        self.carry_out(backbone, &Update { number, directions, slopes, coefficients, learning_rate });
    }

    /// Notes recorded updates that θ has had, of whole steps: those before a snapshot of it.
    pub fn remember(&mut self, space: &Arc<DirectionSpace>, records: &[Record]) {
        let Some(past) = &mut self.past else { return };
        for step in records.chunk_by(|left, right| left.step == right.step) {
            let (directions, slopes) = recorded(space, step);
            past.push(step[0].step, &directions, &slopes);
        }
    }

    /// The update, in training and in replay: the same numbers in the same order. A skipped step has no coefficients.
    fn carry_out(&mut self, backbone: &mut Backbone, update: &Update<'_>) {
        let &Update { number, directions, slopes, coefficients, learning_rate } = update;
        if coefficients.is_empty() {
            return;
        }
        let keep = (1.0 - f64::from(learning_rate) * self.weight_decay) as f32;
        match &mut self.rule {
            Rule::Scalar(_) => {
                for (place, (direction, &coefficient)) in directions.iter().zip(coefficients).enumerate() {
                    let keep = if place == 0 { keep } else { 1.0 };
                    backbone.descend(direction, Descent { keep, ..coefficient.into() });
                }
            }
            Rule::Adam(adam) => adam.apply(backbone, directions, slopes, learning_rate, keep),
        }
        if let Some(past) = &mut self.past {
            past.descend(backbone, number, learning_rate);
            past.push(number, directions, slopes);
        }
    }

    /// Of a proposed step θ − c·z the best of three by the objective: it, the opposite step θ + c·z, or none. This is the
    /// conservative variant of Zhang et al. (arXiv 2402.11592). The `objective` is evaluated on both sides and at θ.
    pub fn conserve<V: AsRef<[f64]>>(
        step: Step,
        direction: &BackboneDirection,
        mut objective: impl FnMut(&Perturbation) -> V,
    ) -> Step {
        let Step::Apply { coefficient } = step else { return step };
        let view = Perturbation::Pair { direction: direction.clone(), eps: coefficient / direction.scale() };
        let (both, center) = (objective(&view), objective(&Perturbation::None));
        let ([opposite, proposed], here) = ([both.as_ref()[0], both.as_ref()[1]], center.as_ref()[0]);
        if proposed < here && proposed <= opposite {
            step
        } else if opposite < here {
            Step::Apply { coefficient: -coefficient }
        } else {
            Step::Skip(SkipReason::NoBetter)
        }
    }

    /// The slope that a journal records: with the scale of the direction in it. Replay makes the moments of Adam of it, and
    /// what momentum adds.
    pub fn recorded_slope(direction: &BackboneDirection, slope: f64) -> f32 {
        slope as f32 * direction.scale()
    }

    /// The guard with its counts.
    pub fn guard(&self) -> &SlopeGuard {
        match &self.rule {
            Rule::Scalar(optimizer) => optimizer.guard(),
            Rule::Adam(adam) => adam.guard(),
        }
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> UpdaterState {
        match &self.rule {
            Rule::Scalar(optimizer) => UpdaterState::Scalar(*optimizer),
            Rule::Adam(adam) => UpdaterState::Adam(*adam.guard()),
        }
    }

    /// Goes on from a checkpoint whose updates have been replayed.
    ///
    /// # Errors
    ///
    /// [`OtherOptimizer`] if the state belongs to an optimizer of another kind; nothing is changed.
    pub fn restore(&mut self, state: UpdaterState) -> Result<(), OtherOptimizer> {
        match (&mut self.rule, state) {
            (Rule::Scalar(optimizer), UpdaterState::Scalar(saved)) => *optimizer = saved,
            (Rule::Adam(adam), UpdaterState::Adam(guard)) => adam.restore_guard(guard),
            _ => return Err(OtherOptimizer),
        }
        Ok(())
    }

    /// Hands what Adam keeps per weight to `put`, in the order of the backbone's parameters. The scalar rules keep nothing.
    pub(crate) fn write_moments(
        &self,
        backbone: &Backbone,
        put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.rule {
            Rule::Scalar(_) => Ok(()),
            Rule::Adam(adam) => adam.write_moments(backbone, put),
        }
    }

    /// The reverse of [`write_moments`](Self::write_moments).
    pub(crate) fn read_moments(&mut self, backbone: &Backbone, reader: &mut dyn io::Read) -> io::Result<()> {
        match &mut self.rule {
            Rule::Scalar(_) => Ok(()),
            Rule::Adam(adam) => adam.read_moments(backbone, reader),
        }
    }

    /// Whether replay alone is too slow to rebuild the state from the start of every run.
    pub(crate) fn has_moments(&self) -> bool {
        matches!(self.rule, Rule::Adam(_))
    }

    /// Name and constants for a journal.
    pub fn record(kind: BackboneOptimizer) -> OptimizerRecord {
        let constants = kind.scalar_rule().map_or(adam::CONSTANTS, |rule| rule.constants());
        OptimizerRecord::new(kind.name(), constants)
    }
}

/// Slopes with the scales of their directions in them, as a journal has them.
fn scaled(estimate: &StepEstimate<'_>) -> Vec<f32> {
    let pairs = estimate.directions.iter().zip(estimate.slopes);
    pairs.map(|(direction, slope)| BackboneUpdater::recorded_slope(direction, *slope)).collect()
}

/// The directions of records, and the slopes along them.
fn recorded(space: &Arc<DirectionSpace>, records: &[Record]) -> (Vec<BackboneDirection>, Vec<f32>) {
    records.iter().map(|record| (space.recorded(record.seed), record.slope)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conservative_step_is_the_best_of_three() {
        // Along the direction the objective is a parabola; the proposed step goes to −0.5.
        let proposed = Step::Apply { coefficient: 0.5 };
        let conserved = |minimum: f64| {
            BackboneUpdater::conserve(proposed, &BackboneDirection::Seeded(1), |view| match view {
                Perturbation::Pair { eps, .. } => {
                    [f64::from(*eps), -f64::from(*eps)].map(|place| (place - minimum).powi(2)).to_vec()
                }
                _ => vec![minimum.powi(2)],
            })
        };
        assert_eq!(conserved(-0.4), proposed);
        assert_eq!(conserved(0.4), Step::Apply { coefficient: -0.5 });
        for none_is_better in [-0.1, 0.1, f64::NAN] {
            assert_eq!(conserved(none_is_better), Step::Skip(SkipReason::NoBetter));
        }
    }
}
