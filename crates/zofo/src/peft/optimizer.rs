//! First-order optimizers of a PEFT block: Burn's, without weight decay, with PyTorch's constants.

use super::{Adapter, AdapterGradients};
use crate::run::config::Optimizer;
use burn::optim::{
    Adam, AdamConfig, AdamState, AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _, Sgd, SgdConfig,
};
use burn::tensor::Tensor;

/// ε of Adam and AdamW in PyTorch.
const EPSILON: f32 = 1e-8;

/// An optimizer and its state for the tensors of one adapter.
#[derive(Clone)]
pub enum AdapterOptimizer {
    /// Adam with decoupled weight decay 0.
    AdamW(AdamW, Vec<AdamWState<2>>),
    /// Adam.
    Adam(Adam, Vec<AdamState<2>>),
    /// Plain gradient descent.
    Sgd(Sgd),
}

/// What an optimizer keeps between steps, in the order of [`Adapter::tensors`]; empty before the first step and for SGD.
#[derive(Clone, Default)]
pub struct OptimizerState {
    /// Number of steps so far.
    pub steps: usize,
    /// First moments.
    pub first: Vec<Tensor<2>>,
    /// Second moments.
    pub second: Vec<Tensor<2>>,
}

impl AdapterOptimizer {
    /// A fresh optimizer.
    pub fn new(kind: Optimizer) -> Self {
        match kind {
            Optimizer::AdamW => {
                let config = AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(0.0);
                Self::AdamW(config.build(), Vec::new())
            }
            Optimizer::Adam => Self::Adam(AdamConfig::new().with_epsilon(EPSILON).build(), Vec::new()),
            Optimizer::Sgd => Self::Sgd(SgdConfig::new().build()),
        }
    }

    /// The adapter after one step along `gradients`.
    pub fn step(&mut self, adapter: &Adapter, gradients: AdapterGradients, learning_rate: f64) -> Adapter {
        let tensors = adapter.tensors().into_iter().map(|(_, tensor)| tensor);
        let pairs = tensors.zip(gradients);
        let stepped = match self {
            Self::AdamW(optimizer, states) => {
                let old = std::mem::take(states).into_iter().map(Some).chain(std::iter::repeat(None));
                pairs
                    .zip(old)
                    .map(|((tensor, gradient), state)| {
                        let (tensor, state) = optimizer.step(learning_rate, tensor, gradient, state);
                        states.extend(state);
                        tensor
                    })
                    .collect()
            }
            Self::Adam(optimizer, states) => {
                let old = std::mem::take(states).into_iter().map(Some).chain(std::iter::repeat(None));
                pairs
                    .zip(old)
                    .map(|((tensor, gradient), state)| {
                        let (tensor, state) = optimizer.step(learning_rate, tensor, gradient, state);
                        states.extend(state);
                        tensor
                    })
                    .collect()
            }
            Self::Sgd(optimizer) => {
                pairs.map(|(tensor, gradient)| optimizer.step(learning_rate, tensor, gradient, None).0).collect()
            }
        };
        adapter.with_tensors(stepped)
    }

    /// What has to be saved to go on later.
    pub fn state(&self) -> OptimizerState {
        let collect = |moments: Vec<&AdaptiveMomentumState<2>>| OptimizerState {
            steps: moments.first().map_or(0, |m| m.time),
            first: moments.iter().map(|m| m.moment_1.clone()).collect(),
            second: moments.iter().map(|m| m.moment_2.clone()).collect(),
        };
        match self {
            Self::AdamW(_, states) => collect(states.iter().map(|s| &s.momentum).collect()),
            Self::Adam(_, states) => collect(states.iter().map(|s| &s.momentum).collect()),
            Self::Sgd(_) => OptimizerState::default(),
        }
    }

    /// Goes on from a saved state.
    pub fn restore(&mut self, state: OptimizerState) {
        let OptimizerState { steps, first, second } = state;
        let moments =
            first.into_iter().zip(second).map(|(first, second)| AdaptiveMomentumState::new(steps, first, second));
        match self {
            Self::AdamW(_, states) => *states = moments.map(AdamWState::new).collect(),
            Self::Adam(_, states) => *states = moments.map(AdamState::new).collect(),
            Self::Sgd(_) => {}
        }
    }
}
