//! Bilevel-ZOFO (Shirkavand, Yu, He, Huang, arXiv 2502.03604), Algorithm 1.
//!
//! ```text
//! minimise over θ, p   max over s    G = F(θ,p;B_f) + λ ( F(θ,p;B_p) − F(θ,s;B_p) )
//! ```

use super::loss::{loss_gradients_with_dropout, losses};
use crate::model::{Backbone, Batch, Part};
use crate::peft::{Adapter, AdapterOptimizer};
use crate::task::SplitMix64;
use crate::zo::BackboneDirection;
use crate::zo::estimator::{Estimate, Spsa};
use crate::zo::optimizer::{Diverged, Step};
use crate::zo::update::BackboneUpdater;
use burn::tensor::Tensor;
use std::time::{Duration, Instant};

/// Where the batches of a step come from.
pub trait Batches {
    /// B from D_p, for a step of s.
    fn inner(&mut self) -> Batch;
    /// B_f from D_f, for p and θ.
    fn outer(&mut self) -> Batch;
    /// B_p from D_p, for the penalty.
    fn penalty(&mut self) -> Batch;
}

/// Learning rates of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRates {
    /// Of s.
    pub shadow: f64,
    /// Of p.
    pub adapter: f64,
    /// Of θ.
    pub backbone: f64,
}

/// The state of the algorithm.
pub struct Bilevel {
    /// θ.
    pub backbone: Backbone,
    /// p, the block that is kept.
    pub adapter: Adapter,
    /// s, the inner minimiser.
    pub shadow: Adapter,
    /// Opt_p.
    pub adapter_optimizer: AdapterOptimizer,
    /// Opt_s.
    pub shadow_optimizer: AdapterOptimizer,
    /// Opt_θ.
    pub backbone_optimizer: BackboneUpdater,
    /// λ.
    pub penalty: f64,
    /// T.
    pub inner_steps: usize,
    /// ε.
    pub eps: f32,
}

/// What one step measured and did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// F(θ, s; B) before each of the T inner steps.
    pub inner_losses: Vec<f64>,
    /// a = F(θ, p; B_f), without dropout as b and c: at θ, from the pass that p's gradient comes from; where p has
    /// dropout, which that pass has masks of, the mean of both signs.
    pub a: f64,
    /// b = F(θ, p; B_p), as a.
    pub b: f64,
    /// c = F(θ, s; B_p), the mean of both signs.
    pub c: f64,
    /// G at θ ± ε·z and the slope g.
    pub estimate: Estimate,
    /// What happened to θ.
    pub update: Step,
    /// Tokens fed, each pass counted.
    pub tokens: usize,
    /// What moving θ took: what its replay will take.
    pub update_time: Duration,
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
    /// A step made a value of a block infinite or not a number.
    #[error("a value of {block} is not finite after its step: lower {advice}")]
    NonFiniteBlock {
        /// p or s.
        block: &'static str,
        /// The key whose value is probably too large.
        advice: &'static str,
    },
    /// Too many steps of θ in a row were skipped.
    #[error("{0}")]
    Diverged(#[from] Diverged),
}

impl Bilevel {
    /// One outer step, θ along ±`direction`.
    ///
    /// Where p and s have dropout, their gradients, and the losses of the inner steps that come with them, are those
    /// under masks from `dropout_seed`. The slope of θ is without, and so are a, b and c, which can therefore be
    /// compared. That is the custom: `model.train()` for gradients, and `model.eval()` for the forward passes of MeZO's
    /// code (`zo_forward` in Malladi et al.'s repository), where masks would only add noise to a difference.
    pub fn step(
        &mut self,
        direction: BackboneDirection,
        batches: &mut impl Batches,
        rates: LearningRates,
        dropout_seed: u64,
    ) -> Result<StepReport, StepError> {
        // 1. T times: s ← Opt_s(s, ∇_s F(θ, s; B)), B from D_p.
        let mut tokens = 0;
        let mut inner_losses = Vec::with_capacity(self.inner_steps);
        for t in 0..self.inner_steps {
            let batch = batches.inner();
            tokens += batch.tokens();
            let seed = SplitMix64::keyed(dropout_seed, "s", t as u64).next_u64();
            inner_losses.push(self.inner_step(&batch, rates.shadow, seed)?);
        }

        // 2. ∇_p [ F(θ, p; B_f) + λ F(θ, p; B_p) ]; the term in s does not depend on p.
        let (b_f, b_p) = (batches.outer(), batches.penalty());
        let terms = [(1.0, &b_f), (self.penalty, &b_p)];
        let seed = SplitMix64::keyed(dropout_seed, "p", 0).next_u64();
        let (ab, gradients) = loss_gradients_with_dropout(&self.backbone, &self.adapter, &terms, seed);
        let [mut a, mut b] = [finite("a = F(θ,p;B_f)", ab[0])?, finite("b = F(θ,p;B_p)", ab[1])?];

        // 3. g = (G(θ + εz) − G(θ − εz)) / 2ε at (θ_k, p_k, s_{k+1}).
        let mut means = [0.0; 3];
        let estimate = Spsa { eps: self.eps }.slope(direction.clone(), |view| {
            let parts = self.objective_parts(&b_f, &b_p);
            let both = losses(&self.backbone, &parts, view);
            means = [0, 1, 2].map(|term| (both[0][term] + both[1][term]) / 2.0);
            [0, 1].map(|sign| self.objective(&both[sign]))
        });

        let c = means[2];
        if self.adapter.has_dropout() {
            [a, b] = [means[0], means[1]];
        }

        // 4. p ← Opt_p(p, its gradient);  θ ← Opt_θ(θ, g·z).
        let adapter = self.adapter_optimizer.step(&self.adapter, gradients, rates.adapter);
        self.adapter = finite_block("p", "`outer.adapter_lr`", adapter)?;
        let slope = estimate.slope;
        let start = Instant::now();
        let update = self.backbone_optimizer.step(&mut self.backbone, &direction, slope, rates.backbone)?;

        let (f, p) = (b_f.tokens(), b_p.tokens());
        tokens += (f + p) + 2 * (f + 2 * p);
        let update_time = start.elapsed();
        Ok(StepReport { inner_losses, a, b, c, estimate, update, tokens, update_time })
    }

    /// s ← Opt_s(s, ∇_s F(θ, s; B)), with masks from `dropout_seed` if s has dropout; returns F before the step.
    pub fn inner_step(&mut self, batch: &Batch, learning_rate: f64, dropout_seed: u64) -> Result<f64, StepError> {
        let terms = [(1.0, batch)];
        let (losses, gradients) = loss_gradients_with_dropout(&self.backbone, &self.shadow, &terms, dropout_seed);
        let loss = finite("F(θ,s;B) of an inner step", losses[0])?;
        let shadow = self.shadow_optimizer.step(&self.shadow, gradients, learning_rate);
        self.shadow = finite_block("s", "`inner.lr`", shadow)?;
        Ok(loss)
    }

    /// The rows of a, b and c: one pass over the weights serves all three.
    pub fn objective_parts<'a>(&'a self, b_f: &'a Batch, b_p: &'a Batch) -> [Part<'a>; 3] {
        let (p, s) = (Some(&self.adapter), Some(&self.shadow));
        [Part { batch: b_f, adapter: p }, Part { batch: b_p, adapter: p }, Part { batch: b_p, adapter: s }]
    }

    /// G = a + λ(b − c).
    pub fn objective(&self, losses: &[f64]) -> f64 {
        losses[0] + self.penalty * (losses[1] - losses[2])
    }
}

/// `value`, if it is finite. `what` names the loss.
pub(crate) fn finite(what: &'static str, value: f64) -> Result<f64, StepError> {
    let advice = "`inner.lr`, `outer.adapter_lr` or `outer.lr`";
    if value.is_finite() { Ok(value) } else { Err(StepError::NonFiniteLoss { what, value, advice }) }
}

/// A block that was just stepped, if all its values are finite. A gradient can overflow where the loss does not.
fn finite_block(block: &'static str, advice: &'static str, stepped: Adapter) -> Result<Adapter, StepError> {
    let finite = |(_, tensor): (String, Tensor<2>)| tensor.into_data().iter::<f32>().all(f32::is_finite);
    if stepped.tensors().into_iter().all(finite) {
        Ok(stepped)
    } else {
        Err(StepError::NonFiniteBlock { block, advice })
    }
}
