//! A PEFT block trained by exact gradients, θ frozen: step 1 of the bilevel method alone.

use super::loss::mean_gradients;
use super::step::finite;
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch};

/// The state of the algorithm.
pub struct FirstOrder {
    /// θ, which stays as it is.
    pub backbone: Backbone,
    /// p, with its optimizer.
    pub adapter: Block,
    /// Batches of a step, whose gradients are averaged.
    pub accumulate: usize,
}

impl FirstOrder {
    /// p ← Opt(p, ∇_p F(θ, p; B)).
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        DescentStep::of_input(input, self.accumulate).report(&self.backbone, &mut self.adapter, batches)
    }
}

/// One step of a block by exact gradients.
pub(super) struct DescentStep {
    pub(super) accumulate: usize,
    pub(super) learning_rate: f64,
    pub(super) dropout_seed: u64,
    /// What messages call the loss.
    pub(super) what: &'static str,
    /// The key that is probably too large where numbers are not finite.
    pub(super) advice: &'static str,
}

impl DescentStep {
    /// A step of p as a method's own.
    pub(super) fn of_input(input: &StepInput, accumulate: usize) -> Self {
        let (learning_rate, dropout_seed) = (input.rates.shadow, input.dropout_seed);
        Self { accumulate, learning_rate, dropout_seed, what: "F(θ,p;B)", advice: "`inner.lr`" }
    }

    /// q ← Opt_q(q, ∇_q F(θ, q; B)) for the block q called `name`; returns F before the step, and how many tokens were fed.
    pub(super) fn take(
        &self,
        backbone: &Backbone,
        name: &'static str,
        block: &mut Block,
        batches: &mut impl Batches,
    ) -> Result<(f64, usize), StepError> {
        let drawn: Vec<Batch> = (0..self.accumulate).map(|_| batches.inner()).collect();
        let terms: Vec<_> = drawn.iter().map(|batch| vec![(1.0, batch)]).collect();
        let (losses, gradients) = mean_gradients(backbone, &block.values, &terms, self.dropout_seed);
        let loss = finite(self.what, losses[0])?;
        block.step(name, self.advice, gradients, self.learning_rate)?;
        Ok((loss, drawn.iter().map(Batch::tokens).sum()))
    }

    /// The same for p, as a report.
    pub(super) fn report(
        &self,
        backbone: &Backbone,
        block: &mut Block,
        batches: &mut impl Batches,
    ) -> Result<StepReport, StepError> {
        let (loss, tokens) = self.take(backbone, "p", block, batches)?;
        Ok(StepReport { loss, tokens, ..StepReport::default() })
    }
}
