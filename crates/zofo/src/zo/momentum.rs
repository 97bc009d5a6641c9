//! Momentum of θ with no buffer of θ's size: past directions are made again from their seeds.
//!
//! SGD with momentum has m ← β·m + g·z and θ ← θ − η·m (Polyak, 1964, as PyTorch's `SGD` has it: the rate of the present
//! step counts for all of m). After some steps little is left of an old g·z in m, so m is the sum over the last W steps,
//! Σ βʲ·g·z with j = 0 … W − 1 steps ago, and θ moves along one direction after the other. A step that was skipped counts: its
//! gradient is 0, and θ stays.

use super::BackboneDirection;
use super::optimizer::power;
use crate::model::Backbone;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::num::NonZeroU32;
use zofo_kernels::direction::Descent;

/// β and W.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Momentum {
    /// β: what is left of a gradient a step later. At least 0 and below 1. In JSON a string, since parsers of numbers may
    /// lose the last bit.
    #[serde(with = "super::journal::decimal")]
    pub decay: f64,
    /// W: the steps that count, with the present one.
    pub window: NonZeroU32,
}

/// What past steps moved θ along, as far as they still count.
#[derive(Clone, Debug)]
pub(super) struct PastSteps {
    momentum: Momentum,
    /// The last one first.
    steps: VecDeque<PastStep>,
}

/// The estimates of one step.
#[derive(Clone, Debug)]
struct PastStep {
    number: u64,
    /// z, with its slope per unit of what the generator gives.
    estimates: Vec<(BackboneDirection, f32)>,
}

impl PastSteps {
    pub(super) fn new(momentum: Momentum) -> Self {
        Self { momentum, steps: VecDeque::new() }
    }

    /// θ ← θ − η·Σ βʲ·g·z over the steps before step `number`, the last one first, each with the mean over its directions.
    ///
    /// A coefficient is computed in f64 from numbers that a journal has, so that replay gives the same.
    pub(super) fn descend(&self, backbone: &mut Backbone, number: u64, learning_rate: f32) {
        for past in &self.steps {
            let Some(turn) = self.turn(past, number) else { continue };
            let share = power(self.momentum.decay, u64::from(turn)) / past.estimates.len() as f64;
            for (direction, slope) in &past.estimates {
                let coefficient = (f64::from(learning_rate) * (share * f64::from(*slope))) as f32;
                backbone.descend(direction, Descent { keep: 1.0, coefficient, turn });
            }
        }
    }

    /// Notes the estimates of step `number`, and forgets what the next step does not need.
    pub(super) fn push(&mut self, number: u64, directions: &[BackboneDirection], slopes: &[f32]) {
        let estimates = directions.iter().cloned().zip(slopes.iter().copied()).collect();
        self.steps.push_front(PastStep { number, estimates });
        while self.steps.back().is_some_and(|past| self.turn(past, number.saturating_add(1)).is_none()) {
            self.steps.pop_back();
        }
    }

    /// How many steps `past` lies before step `number`, unless it is too far back.
    fn turn(&self, past: &PastStep, number: u64) -> Option<u32> {
        let turn = u32::try_from(number.saturating_sub(past.number)).ok()?;
        Some(turn).filter(|&turn| turn < self.momentum.window.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps that count in step `number`, with their turns.
    fn counted(past: &PastSteps, number: u64) -> Vec<(u64, u32)> {
        past.steps.iter().filter_map(|step| Some((step.number, past.turn(step, number)?))).collect()
    }

    #[test]
    fn what_lies_before_the_window_is_forgotten() {
        let window = NonZeroU32::new(3).unwrap();
        let mut past = PastSteps::new(Momentum { decay: 0.9, window });
        for number in [1, 2, 3] {
            past.push(number, &[BackboneDirection::Seeded(number)], &[1.0]);
        }
        assert_eq!(counted(&past, 4), [(3, 1), (2, 2)]);
        assert_eq!(past.steps.len(), 2);
        // A skipped step takes its place in the window.
        assert_eq!(counted(&past, 5), [(3, 2)]);
        past.push(5, &[BackboneDirection::Seeded(5)], &[1.0]);
        assert_eq!(counted(&past, 6), [(5, 1)]);
        assert_eq!(past.steps.len(), 1);
        // Of one step alone nothing is kept.
        let mut none = PastSteps::new(Momentum { decay: 0.9, window: NonZeroU32::MIN });
        none.push(1, &[BackboneDirection::Seeded(1)], &[1.0]);
        assert!(none.steps.is_empty());
    }
}
