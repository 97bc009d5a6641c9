//! MeZO on a PEFT block: z covers the block's tensors, θ is frozen.
//!
//! Blocks are small, so both sides of the block are made as copies, and ride on one pass over θ. An element of z depends
//! on the seed, the tensor's name in PEFT's files and the element's index, as it does for θ.

use super::objective::Objective;
use super::step::{mean_objective, slopes, updates};
use super::{Batches, Block, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch};
use crate::peft::Adapter;
use crate::zo::estimator::Spsa;
use crate::zo::optimizer::Step;
use crate::zo::update::UpdaterState;
use crate::zo::{BackboneDirection, Perturbation};
use burn::tensor::{Tensor, TensorData};
use zofo_kernels::direction::ParameterId;

/// The state of the algorithm.
pub struct MezoPeft {
    /// θ, which stays as it is.
    pub backbone: Backbone,
    /// p. Its own optimizer, which is Adam's, is used by `adam` alone.
    pub adapter: Block,
    /// What makes steps of slopes.
    pub rule: UpdaterState,
    /// What descends: F, as a rule.
    pub objective: Objective,
    /// ε, and on which sides of p it is evaluated.
    pub spsa: Spsa,
    /// Batches of a step, over which the objective is averaged.
    pub accumulate: usize,
}

impl MezoPeft {
    /// p ← Opt_p(p, g·z).
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        let drawn: Vec<Batch> = (0..self.accumulate).map(|_| batches.outer()).collect();

        // 1. g = (F(θ, p + εz; B) − F(θ, p − εz; B)) / 2ε, for every direction.
        let mut tokens = 0;
        let estimates = self.spsa.scaled(input.eps_share).slopes(&input.directions, |view| {
            let sides = sides(&self.adapter.values, view);
            let evaluated = self.objective.of_blocks(&self.backbone, &sides, &drawn);
            tokens += evaluated.tokens;
            evaluated.values
        });

        // 2. p ← Opt_p(p, mean of g·z).
        let slopes = slopes(&estimates);
        let steps = self.descend(&input.directions, &slopes, input.rates.backbone)?;
        Ok(StepReport {
            loss: mean_objective(&estimates),
            tokens,
            updates: updates(estimates, steps),
            ..StepReport::default()
        })
    }

    fn descend(
        &mut self,
        directions: &[BackboneDirection],
        slopes: &[f64],
        learning_rate: f64,
    ) -> Result<Vec<Step>, StepError> {
        let (block, name, advice) = (&mut self.adapter, "p", "`outer.lr`");
        match &mut self.rule {
            // p ← p − coefficient·z, direction by direction.
            UpdaterState::Scalar(rule) => {
                let steps = rule.step_mean(slopes, learning_rate)?;
                let coefficients: Vec<f32> = steps.iter().filter_map(|step| step.coefficient()).collect();
                block.replace(name, advice, |p, _| {
                    changed(p, |name, values| subtract(name, values, directions, &coefficients))
                })?;
                Ok(steps)
            }
            // The gradient is the mean of g·z.
            UpdaterState::Adam(guard) => {
                if let Some(reason) = guard.admit(slopes)? {
                    return Ok(vec![Step::Skip(reason); slopes.len()]);
                }
                let shares: Vec<f32> = slopes.iter().map(|slope| (-slope / slopes.len() as f64) as f32).collect();
                let gradient = changed(&block.values, |name, values| {
                    values.fill(0.0);
                    subtract(name, values, directions, &shares);
                });
                let gradient = gradient.tensors().into_iter().map(|(_, tensor)| tensor).collect();
                block.step(name, advice, gradient, learning_rate)?;
                Ok(vec![Step::Apply { coefficient: learning_rate as f32 }; slopes.len()])
            }
        }
    }
}

/// The block on every side that `view` has.
fn sides(block: &Adapter, view: &Perturbation) -> Vec<Adapter> {
    let side = |sign: usize| changed(block, |name, values| values.copy_from_slice(&view.sides_of(name, values)[sign]));
    (0..view.signs()).map(side).collect()
}

/// values ← values − Σ coefficient·z.
fn subtract(name: &str, values: &mut [f32], directions: &[BackboneDirection], coefficients: &[f32]) {
    for (direction, coefficient) in directions.iter().zip(coefficients) {
        direction.of(name, ParameterId::from_name(name)).update_f32(0, values, *coefficient);
    }
}

/// The block with other values.
fn changed(block: &Adapter, change: impl Fn(&str, &mut [f32])) -> Adapter {
    let change = |(name, tensor): (String, Tensor<2>)| {
        let (shape, device) = (tensor.dims(), tensor.device());
        let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        change(&name, &mut values);
        Tensor::from_data(TensorData::new(values, shape), &device)
    };
    block.with_tensors(block.tensors().into_iter().map(change).collect())
}
