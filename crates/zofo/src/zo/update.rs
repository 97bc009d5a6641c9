//! Moving θ: one interface over the scalar rules and Adam.

use super::adam::{self, BackboneAdam};
use super::journal::{OptimizerRecord, Record};
use super::optimizer::{BackboneOptimizer, Diverged, ScalarOptimizer, SkipReason, SlopeGuard, Step};
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

/// What a checkpoint keeps of a [`BackboneUpdater`]. The moments of Adam are rebuilt by replay.
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
        Self { rule, weight_decay: 0.0 }
    }

    /// The same optimizer with decoupled weight decay (Loshchilov and Hutter, 2019): θ ← θ − η·μ·θ before each step. What a
    /// direction does not cover does not decay.
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// θ ← Opt_θ(θ, mean of g·z) over some `directions` and the slopes along them; returns what was done along each.
    ///
    /// For Adam, slopes and rate are rounded to f32 first: those are the numbers that a journal keeps, and replay must do
    /// the same.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row; θ is as it was.
    pub fn step(
        &mut self,
        backbone: &mut Backbone,
        directions: &[BackboneDirection],
        slopes: &[f64],
        learning_rate: f64,
    ) -> Result<Vec<Step>, Diverged> {
        let steps = self.propose(directions, slopes, learning_rate)?;
        self.apply(backbone, directions, slopes, &steps, learning_rate);
        Ok(steps)
    }

    /// What [`step`](Self::step) would do along each direction; θ is not touched.
    ///
    /// # Errors
    ///
    /// [`Diverged`] at the twentieth skipped step in a row.
    pub fn propose(
        &mut self,
        directions: &[BackboneDirection],
        slopes: &[f64],
        learning_rate: f64,
    ) -> Result<Vec<Step>, Diverged> {
        match &mut self.rule {
            Rule::Scalar(optimizer) => {
                let mut steps = optimizer.step_mean(slopes, learning_rate)?;
                for (direction, step) in directions.iter().zip(&mut steps) {
                    if let Step::Apply { coefficient } = step {
                        *coefficient *= direction.scale();
                    }
                }
                Ok(steps)
            }
            Rule::Adam(adam) => adam.propose(&scaled(directions, slopes), learning_rate as f32),
        }
    }

    /// Does what was proposed.
    pub fn apply(
        &mut self,
        backbone: &mut Backbone,
        directions: &[BackboneDirection],
        slopes: &[f64],
        steps: &[Step],
        learning_rate: f64,
    ) {
        let keep = self.keep(learning_rate as f32);
        let coefficients = || steps.iter().filter_map(|step| step.coefficient());
        match &mut self.rule {
            Rule::Scalar(_) => {
                for (place, (direction, coefficient)) in directions.iter().zip(coefficients()).enumerate() {
                    let keep = if place == 0 { keep } else { 1.0 };
                    backbone.descend(direction, Descent { keep, coefficient });
                }
            }
            Rule::Adam(adam) => {
                if coefficients().next().is_some() {
                    adam.apply(backbone, directions, &scaled(directions, slopes), learning_rate as f32, keep);
                }
            }
        }
    }

    /// Repeats the recorded update of one step, with the same bits. `space` is that of the journal.
    pub fn replay(&mut self, backbone: &mut Backbone, space: &Arc<DirectionSpace>, records: &[Record]) {
        let Some(first) = records.first() else { return };
        let keep = self.keep(first.learning_rate);
        let directions: Vec<_> = records.iter().map(|record| space.recorded(record.seed)).collect();
        match &mut self.rule {
            Rule::Scalar(_) => {
                for (place, (direction, record)) in directions.iter().zip(records).enumerate() {
                    let keep = if place == 0 { keep } else { 1.0 };
                    backbone.descend(direction, Descent { keep, coefficient: record.coefficient });
                }
            }
            Rule::Adam(adam) => {
                let slopes: Vec<f32> = records.iter().map(|record| record.slope).collect();
                adam.apply(backbone, &directions, &slopes, first.learning_rate, keep);
            }
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

    /// The slope that a journal records: with the scale of the direction in it, for Adam, which replay makes its moments of.
    pub fn recorded_slope(direction: &BackboneDirection, slope: f64) -> f32 {
        slope as f32 * direction.scale()
    }

    /// What weight decay leaves of a weight, from the learning rate that a journal records.
    fn keep(&self, learning_rate: f32) -> f32 {
        (1.0 - f64::from(learning_rate) * self.weight_decay) as f32
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

/// Slopes with the scales of their directions in them, as Adam makes its moments of.
fn scaled(directions: &[BackboneDirection], slopes: &[f64]) -> Vec<f32> {
    directions.iter().zip(slopes).map(|(direction, slope)| BackboneUpdater::recorded_slope(direction, *slope)).collect()
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
