//! MeZO (Malladi et al., arXiv 2305.17333), Algorithm 1: θ by zeroth-order estimates alone.
//!
//! It is steps 3 and 4 of the bilevel method with G = F(θ; B), or with something else that can be evaluated.

use super::objective::Objective;
use super::step::{mean_objective, slopes, updates};
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch};
use crate::zo::Perturbation;
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
    /// Whether a step is only made if it lowers the objective on its batch: [`BackboneUpdater::conserve`].
    pub conservative: bool,
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
        let mut objective = |view: &Perturbation| {
            let evaluated = self.objective.of(view, &self.backbone, adapter, drawn.iter());
            tokens += evaluated.tokens;
            evaluated.values
        };
        let estimates = self.spsa.scaled(input.eps_share).slopes(&input.directions, &mut objective);

        // 2. θ ← Opt_θ(θ, mean of g·z).
        let slopes = slopes(&estimates);
        let estimate = input.estimate(&slopes);
        let mut steps = self.backbone_optimizer.propose(&estimate)?;
        if self.conservative {
            steps[0] = BackboneUpdater::conserve(steps[0], &input.directions[0], &mut objective);
        }
        let start = Instant::now();
        self.backbone_optimizer.apply(&mut self.backbone, &estimate, &steps);
        Ok(StepReport {
            loss: mean_objective(&estimates),
            tokens,
            update_time: start.elapsed(),
            updates: updates(estimates, steps),
            ..StepReport::default()
        })
    }
}
