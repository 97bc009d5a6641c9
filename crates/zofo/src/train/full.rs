//! Every weight trained by exact gradients with AdamW: a yardstick, for models whose weights fit into memory four times
//! and more.

use super::loss::mean_backbone_gradients;
use super::step::finite;
use super::{Batches, StepError, StepInput, StepReport};
use crate::model::{Backbone, Batch};
use crate::peft::{AdapterOptimizer, OptimizerState};
use burn::tensor::{Tensor, TensorData};
use std::io;

/// The state of the algorithm.
pub struct Full {
    /// θ, in f32.
    pub backbone: Backbone,
    /// AdamW over the weights: two states of θ's size.
    pub optimizer: AdapterOptimizer,
    /// Batches of a step, whose gradients are averaged.
    pub accumulate: usize,
}

impl Full {
    /// θ ← AdamW(θ, ∇_θ F(θ; B)).
    pub fn step(&mut self, input: &StepInput, batches: &mut impl Batches) -> Result<StepReport, StepError> {
        let drawn: Vec<Batch> = (0..self.accumulate).map(|_| batches.inner()).collect();
        let (loss, gradients) = mean_backbone_gradients(&self.backbone, &drawn);
        let loss = finite("F(θ;B)", loss)?;
        let largest = |gradient: &Tensor<2>| gradient.clone().abs().max().into_scalar::<f32>();
        if !gradients.iter().all(|gradient| largest(gradient).is_finite()) {
            return Err(StepError::NonFiniteBlock { block: "the gradient of θ", advice: "`inner.lr`" });
        }
        let weights = self.backbone.parameters().iter().map(|parameter| parameter.value()).collect();
        self.backbone.replace_values(self.optimizer.step_tensors(weights, gradients, input.rates.shadow));
        Ok(StepReport { loss, tokens: drawn.iter().map(Batch::tokens).sum(), ..StepReport::default() })
    }

    /// Hands the number of steps and both moments of every weight to `put`.
    pub(super) fn write_moments(&self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let OptimizerState { steps, first, second } = self.optimizer.state();
        put(&(steps as u64).to_le_bytes())?;
        for moment in first.into_iter().chain(second) {
            put(moment.into_data().as_bytes())?;
        }
        Ok(())
    }

    /// The reverse of [`write_moments`](Self::write_moments).
    pub(super) fn read_moments(&mut self, reader: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes)?;
        let steps = u64::from_le_bytes(bytes) as usize;
        let mut read = || -> io::Result<Vec<Tensor<2>>> {
            let read = |parameter: &crate::model::Parameter| {
                let shape = parameter.value().dims();
                let mut values = vec![0.0f32; shape[0] * shape[1]];
                reader.read_exact(bytemuck::cast_slice_mut(&mut values))?;
                Ok(Tensor::from_data(TensorData::new(values, shape), self.backbone.device()))
            };
            self.backbone.parameters().iter().map(read).collect()
        };
        if steps > 0 {
            let (first, second) = (read()?, read()?);
            self.optimizer.restore(OptimizerState { steps, first, second });
        }
        Ok(())
    }
}
