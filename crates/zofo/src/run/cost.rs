//! What a step feeds, and how long that takes on this machine.

use super::config::{Config, MethodName};
use crate::model::Part;
use crate::train::loss::{loss_gradients, losses, mean_backbone_gradients};
use crate::train::{Batches, Method};
use crate::zo::Perturbation;
use std::time::Instant;

/// What passes cost on this machine, in seconds per token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Forward.
    forward: f64,
    /// Forward and backward to what the method trains by exact gradients; 0 if that is nothing.
    gradient: f64,
}

impl Speed {
    /// Times a pass with gradients, which also warms up, and a pass without.
    pub(super) fn measure(config: &Config, method: &Method, batches: &mut impl Batches) -> Self {
        let has_gradients = config.method.has_gradients();
        let batch = if has_gradients { batches.inner() } else { batches.outer() };
        let (backbone, blocks) = (method.backbone(), method.blocks());
        let adapter = blocks.first().map(|block| &block.values);
        let seconds_per_token = |pass: &dyn Fn()| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64() / batch.tokens() as f64
        };
        let forward = || drop(losses(backbone, &[Part { batch: &batch, adapter }], &Perturbation::None));
        let gradient = match (has_gradients, adapter) {
            (true, Some(adapter)) => seconds_per_token(&|| drop(loss_gradients(backbone, adapter, &[(1.0, &batch)]))),
            (true, None) => {
                seconds_per_token(&|| drop(mean_backbone_gradients(backbone, std::slice::from_ref(&batch))))
            }
            (false, _) => {
                forward();
                0.0
            }
        };
        Self { gradient, forward: seconds_per_token(&forward) }
    }
}

/// What a step feeds. Of two stages, a step of the second.
pub(super) struct StepCost {
    /// Forward passes over a batch.
    pub(super) forward_passes: usize,
    /// Backward passes over a batch.
    pub(super) backward_passes: usize,
    /// Directions that θ is moved along: each takes a pass over the weights and makes z once more.
    pub(super) update_directions: usize,
    /// Tokens in all passes with gradients.
    gradient_tokens: f64,
    /// Tokens in all passes without.
    forward_tokens: f64,
}

impl StepCost {
    /// With batches of so many tokens: of the inner level, B_f and B_p.
    pub(super) fn new(config: &Config, [inner, f, p]: [f64; 3]) -> Self {
        let (method, outer) = (&config.method, &config.outer);
        let (of_inner, of_outer) = (config.inner.accumulate, outer.accumulate);
        // With checkpointing, what is inside the blocks is computed once more.
        let forward = if config.inner.gradient_checkpointing { 2 } else { 1 };
        let exact = Self {
            forward_passes: forward * of_inner,
            backward_passes: of_inner,
            update_directions: 0,
            gradient_tokens: inner * of_inner as f64,
            forward_tokens: 0.0,
        };
        let (of_slopes, _) = outer.sides_of_step();
        let of_steps = if outer.conservative && method.estimates_backbone() { 3 } else { 0 };
        let evaluations = of_outer * (of_slopes + of_steps);
        let steps = if outer.momentum > 0.0 { outer.momentum_window } else { 1 };
        let estimated = |losses: usize, tokens: f64| Self {
            forward_passes: evaluations * losses,
            backward_passes: 0,
            update_directions: if method.estimates_backbone() { outer.directions.saturating_mul(steps) } else { 0 },
            gradient_tokens: 0.0,
            forward_tokens: evaluations as f64 * tokens,
        };
        match method.name {
            MethodName::ZeroShot | MethodName::Icl => {
                Self { forward_passes: 0, backward_passes: 0, gradient_tokens: 0.0, ..exact }
            }
            MethodName::FirstOrder | MethodName::Full => exact,
            MethodName::Mezo | MethodName::TwoStage => estimated(1, f),
            MethodName::Bilevel => {
                // T inner steps, a and b with their gradient in one pass, then a, b and c on every side.
                let slopes = estimated(3, f + 2.0 * p);
                let with_gradients = method.inner_steps * of_inner + 2 * of_outer;
                Self {
                    forward_passes: forward * with_gradients + slopes.forward_passes,
                    backward_passes: with_gradients,
                    gradient_tokens: inner * (method.inner_steps * of_inner) as f64 + (f + p) * of_outer as f64,
                    ..slopes
                }
            }
        }
    }

    /// Seconds.
    pub(super) fn seconds(&self, speed: Speed) -> f64 {
        self.gradient_tokens * speed.gradient + self.forward_tokens * speed.forward
    }
}
