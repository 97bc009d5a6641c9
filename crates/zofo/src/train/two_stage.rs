//! Two stages: a PEFT block by exact gradients first, then θ by zeroth-order estimates with the block frozen.
//!
//! The bilevel method's paper compares with it: there the block does not follow θ.

use super::first_order::DescentStep;
use super::mezo::Mezo;
use super::{Batches, StepError, StepInput, StepReport};
use std::time::Duration;

/// When the first stage ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FirstStage {
    /// After this many steps.
    Steps(u64),
    /// After this much training.
    Time(Duration),
}

impl FirstStage {
    /// Whether the step of this input belongs to it.
    pub fn has(self, input: &StepInput) -> bool {
        match self {
            Self::Steps(steps) => input.done < steps,
            Self::Time(limit) => input.trained < limit,
        }
    }
}

/// The state of the algorithm.
pub struct TwoStage {
    /// θ and the second stage. Its block is what the first stage trains.
    pub mezo: Mezo,
    /// The first stage.
    pub first: FirstStage,
    /// Batches of a step of the first stage, whose gradients are averaged.
    pub accumulate: usize,
}

impl TwoStage {
    /// A step of the stage that has come.
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        match &mut self.mezo.adapter {
            // 1. p ← Opt_p(p, ∇_p F(θ, p; B)).
            Some(block) if self.first.has(input) => {
                DescentStep::of_input(input, self.accumulate).report(&self.mezo.backbone, block, batches)
            }
            // 2. θ ← Opt_θ(θ, g·z), with F(θ, p; B).
            _ => self.mezo.step(input, batches),
        }
    }
}
