//! MeZO (Malladi et al., arXiv 2305.17333), Algorithm 1: θ by zeroth-order estimates alone.
//!
//! It is steps 3 and 4 of the bilevel method with G = F(θ; B), or with something else that can be evaluated.

use super::objective::Objective;
use super::step::{mean_objective, slopes, updates};
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch};
use crate::zo::estimator::Spsa;
use crate::zo::update::BackboneUpdater;
use std::time::Instant;

/// The state of the algorithm.
pub struct Mezo {
    /// θ.
    pub backbone: Backbone,
    /// A block that stays as it is, if there is one: the second stage of two.
    pub adapter: Option<Block>,
    /// Opt_θ.
    pub backbone_optimizer: BackboneUpdater,
    /// What descends: F, as a rule.
    pub objective: Objective,
    /// ε, and on which sides of θ it is evaluated.
    pub spsa: Spsa,
    /// Batches of a step, over which the objective is averaged.
    pub accumulate: usize,
}

impl Mezo {
    /// θ ← Opt_θ(θ, g·z).
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        let drawn: Vec<Batch> = (0..self.accumulate).map(|_| batches.outer()).collect();
        let adapter = self.adapter.as_ref().map(|block| &block.values);

        // 1. g = (F(θ + εz; B) − F(θ − εz; B)) / 2ε, for every direction.
        let mut tokens = 0;
        let estimates = self.spsa.slopes(&input.directions, |view| {
            let evaluated = self.objective.of(view, &self.backbone, adapter, drawn.iter());
            tokens += evaluated.tokens;
            evaluated.values
        });

        // 2. θ ← Opt_θ(θ, mean of g·z).
        let start = Instant::now();
        let (theta, rate) = (&mut self.backbone, input.rates.backbone);
        let steps = self.backbone_optimizer.step(theta, &input.directions, &slopes(&estimates), rate)?;
        Ok(StepReport {
            loss: mean_objective(&estimates),
            tokens,
            update_time: start.elapsed(),
            updates: updates(estimates, steps),
            ..StepReport::default()
        })
    }
}
