//! Bilevel-ZOFO (Shirkavand, Yu, He, Huang, arXiv 2502.03604), Algorithm 1.
//!
//! ```text
//! minimise over θ, p   max over s    G = F(θ,p;B_f) + λ ( F(θ,p;B_p) − F(θ,s;B_p) )
//! ```

use super::first_order::DescentStep;
use super::loss::{mean_gradients, mean_losses};
use super::objective::Objective;
use super::step::{OuterLosses, finite, slopes, updates};
use super::turns::Turns;
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch, Part};
use crate::task::SplitMix64;
use crate::zo::Perturbation;
use crate::zo::estimator::Spsa;
use crate::zo::update::BackboneUpdater;
use std::time::Instant;

/// What an evaluation under a view gave, by sign.
struct Signs {
    /// a, b and c.
    losses: Vec<Vec<f64>>,
    /// G.
    objectives: Vec<f64>,
    /// Tokens that were fed.
    tokens: usize,
}

/// The state of the algorithm.
pub struct Bilevel {
    /// θ.
    pub backbone: Backbone,
    /// p, the block that is kept, with Opt_p.
    pub adapter: Block,
    /// s, the inner minimiser, with Opt_s.
    pub shadow: Block,
    /// Opt_θ.
    pub backbone_optimizer: BackboneUpdater,
    /// What takes the place of F(θ,p;B_f) in the slope of θ, where it is not the loss.
    pub objective: Objective,
    /// ε, and on which sides of θ losses are taken.
    pub spsa: Spsa,
    /// Whether a step of θ is only made if it lowers G on its batches: [`BackboneUpdater::conserve`].
    pub conservative: bool,
    /// λ.
    pub penalty: f64,
    /// Whether G is divided by 1 + λ.
    pub penalty_normalized: bool,
    /// T.
    pub inner_steps: usize,
    /// Batches of an inner step, whose gradients are averaged.
    pub inner_accumulate: usize,
    /// Pairs (B_f, B_p) of an outer step, over which G is averaged.
    pub outer_accumulate: usize,
}

impl Bilevel {
    /// One outer step.
    ///
    /// Where p and s have dropout, their gradients, and the losses of the inner steps that come with them, are those
    /// under masks from the input's seed. The slope of θ is without, and so are a, b and c, which can therefore be
    /// compared. That is the custom: `model.train()` for gradients, and `model.eval()` for the forward passes of MeZO's
    /// code (`zo_forward` in Malladi et al.'s repository), where masks would only add noise to a difference.
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        let mut report = StepReport::default();
        let mut turns = Turns::default();
        // 1. T times: s ← Opt_s(s, ∇_s F(θ, s; B)), B from D_p.
        for t in 0..self.inner_steps {
            let seed = SplitMix64::keyed(input.dropout_seed, "s", t as u64).next_u64();
            let before = self.shadow.values.clone();
            let (loss, tokens) = self.inner_step(batches, input.rates.shadow, seed)?;
            turns.push(&before, &self.shadow.values);
            report.inner_losses.push(loss);
            report.tokens += tokens;
        }
        report.inner_cosine = turns.mean();

        // 2. ∇_p [ F(θ, p; B_f) + λ F(θ, p; B_p) ]; the term in s does not depend on p.
        let drawn: Vec<[Batch; 2]> = (0..self.outer_accumulate).map(|_| [batches.outer(), batches.penalty()]).collect();
        let [of_f, of_p] = self.weights(input.penalty_share);
        let terms: Vec<_> = drawn.iter().map(|[b_f, b_p]| vec![(of_f, b_f), (of_p, b_p)]).collect();
        let seed = SplitMix64::keyed(input.dropout_seed, "p", 0).next_u64();
        let (ab, gradients) = mean_gradients(&self.backbone, &self.adapter.values, &terms, seed);
        let [mut a, mut b] = [finite("a = F(θ,p;B_f)", ab[0])?, finite("b = F(θ,p;B_p)", ab[1])?];

        // 3. g = (G(θ + εz) − G(θ − εz)) / 2ε at (θ_k, p_k, s_{k+1}).
        let mut perturbed = Vec::new();
        let estimates = self.spsa.scaled(input.eps_share).slopes(&input.directions, |view| {
            let signs = self.evaluate(view, &drawn, input.penalty_share);
            perturbed.extend(signs.losses);
            report.tokens += signs.tokens;
            signs.objectives
        });
        let slopes = slopes(&estimates);
        let estimate = input.estimate(&slopes);
        let mut steps = self.backbone_optimizer.propose(&estimate)?;
        if self.conservative {
            steps[0] = BackboneUpdater::conserve(steps[0], &input.directions[0], |view| {
                let signs = self.evaluate(view, &drawn, input.penalty_share);
                report.tokens += signs.tokens;
                signs.objectives
            });
        }

        let mean = |term: usize| perturbed.iter().map(|abc| abc[term]).sum::<f64>() / perturbed.len() as f64;
        let c = mean(2);
        if self.adapter.values.has_dropout() {
            [a, b] = [mean(0), mean(1)];
        }

        // 4. p ← Opt_p(p, its gradient);  θ ← Opt_θ(θ, g·z).
        self.adapter.step("p", "`outer.adapter_lr`", gradients, input.rates.adapter)?;
        let start = Instant::now();
        self.backbone_optimizer.apply(&mut self.backbone, &estimate, &steps);
        report.update_time = start.elapsed();

        report.tokens += drawn.iter().flatten().map(Batch::tokens).sum::<usize>();
        (report.loss, report.outer) = (a, Some(OuterLosses { a, b, c }));
        report.updates = updates(estimates, steps);
        Ok(report)
    }

    /// s ← Opt_s(s, ∇_s F(θ, s; B)), with masks from `dropout_seed` if s has dropout; returns F before the step, and how
    /// many tokens B has.
    pub fn inner_step(
        &mut self,
        batches: &mut impl Batches,
        learning_rate: f64,
        dropout_seed: u64,
    ) -> Result<(f64, usize), StepError> {
        let (what, advice) = ("F(θ,s;B) of an inner step", "`inner.lr`");
        let step = DescentStep { accumulate: self.inner_accumulate, learning_rate, dropout_seed, what, advice };
        step.take(&self.backbone, "s", &mut self.shadow, batches)
    }

    /// p ← s.
    pub fn copy_shadow(&mut self) {
        self.adapter.values = self.shadow.values.clone();
    }

    /// The terms of G, and G, at every sign of a view.
    fn evaluate(&self, view: &Perturbation, drawn: &[[Batch; 2]], penalty_share: f64) -> Signs {
        let parts = drawn.iter().map(|[b_f, b_p]| self.objective_parts(b_f, b_p));
        let losses = mean_losses(&self.backbone, parts, view);
        let tokens: usize = drawn.iter().map(|[b_f, b_p]| b_f.tokens() + 2 * b_p.tokens()).sum();
        let mut signs = Signs { objectives: Vec::new(), tokens: view.signs() * tokens, losses };
        let mut terms = signs.losses.clone();
        if let Objective::Measure(_) = self.objective {
            let b_f = drawn.iter().map(|[b_f, _]| b_f);
            let upper = self.objective.of(view, &self.backbone, Some(&self.adapter.values), b_f);
            signs.tokens += upper.tokens;
            terms.iter_mut().zip(upper.values).for_each(|(terms, value)| terms[0] = value);
        }
        signs.objectives = terms.iter().map(|terms| self.penalized(terms, penalty_share)).collect();
        signs
    }

    /// The rows of a, b and c: one pass over the weights serves all three.
    pub fn objective_parts<'a>(&'a self, b_f: &'a Batch, b_p: &'a Batch) -> [Part<'a>; 3] {
        let (p, s) = (Some(&self.adapter.values), Some(&self.shadow.values));
        [Part { batch: b_f, adapter: p }, Part { batch: b_p, adapter: p }, Part { batch: b_p, adapter: s }]
    }

    /// G = a + λ(b − c), or that over 1 + λ, with this share of λ.
    pub fn penalized(&self, losses: &[f64], penalty_share: f64) -> f64 {
        let [of_f, of_p] = self.weights(penalty_share);
        of_f * losses[0] + of_p * (losses[1] - losses[2])
    }

    /// What a, and what b − c are multiplied with.
    fn weights(&self, penalty_share: f64) -> [f64; 2] {
        let penalty = self.penalty * penalty_share;
        if self.penalty_normalized { [1.0 / (1.0 + penalty), penalty / (1.0 + penalty)] } else { [1.0, penalty] }
    }
}
