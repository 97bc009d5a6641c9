//! A PEFT block with what trains it.

use super::step::StepError;
use crate::peft::{Adapter, AdapterGradients, AdapterOptimizer, OptimizerKind};
use burn::tensor::Tensor;

/// A PEFT block and its optimizer.
#[derive(Clone)]
pub struct Block {
    /// Its tensors.
    pub values: Adapter,
    /// What steps them.
    pub optimizer: AdapterOptimizer,
}

impl Block {
    /// A block before its first step.
    pub fn new(values: Adapter, optimizer: OptimizerKind) -> Self {
        Self { values, optimizer: AdapterOptimizer::new(optimizer) }
    }

    /// One step along `gradients`.
    ///
    /// # Errors
    ///
    /// [`StepError::NonFiniteBlock`], with `name` and `advice` in it, if a value would not be finite; the block then is as
    /// it was.
    pub fn step(
        &mut self,
        name: &'static str,
        advice: &'static str,
        gradients: AdapterGradients,
        learning_rate: f64,
    ) -> Result<(), StepError> {
        self.replace(name, advice, |values, optimizer| optimizer.step(values, gradients, learning_rate))
    }

    /// The block with other values, if all of them are finite. A gradient can overflow where the loss does not.
    pub(super) fn replace(
        &mut self,
        name: &'static str,
        advice: &'static str,
        step: impl FnOnce(&Adapter, &mut AdapterOptimizer) -> Adapter,
    ) -> Result<(), StepError> {
        let stepped = step(&self.values, &mut self.optimizer);
        let finite = |(_, tensor): (String, Tensor<2>)| tensor.into_data().iter::<f32>().all(f32::is_finite);
        if !stepped.tensors().into_iter().all(finite) {
            return Err(StepError::NonFiniteBlock { block: name, advice });
        }
        self.values = stepped;
        Ok(())
    }
}
