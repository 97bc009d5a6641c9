//! First-order optimizers of a PEFT block: Burn's, without weight decay, with PyTorch's constants.

use super::{Adapter, AdapterGradients};
use burn::optim::{
    Adam, AdamConfig, AdamState, AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer, Sgd, SgdConfig,
};
use burn::tensor::Tensor;
use serde::Serialize;
use std::fmt;

/// ε of Adam and AdamW in PyTorch.
const EPSILON: f32 = 1e-8;

/// The optimizers of a PEFT block, by the names they have in configurations. None decays weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, of which there is none: the usual choice for LoRA.
    AdamW,
    /// Adam.
    Adam,
    /// Plain gradient descent.
    Sgd,
}

impl OptimizerKind {
    /// The name in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdamW => "adamw",
            Self::Adam => "adam",
            Self::Sgd => "sgd",
        }
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An optimizer and its state for the tensors of one adapter, or of a backbone.
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
    pub fn new(kind: OptimizerKind) -> Self {
        match kind {
            OptimizerKind::AdamW => {
                let config = AdamWConfig::new().with_epsilon(EPSILON).with_weight_decay(0.0);
                Self::AdamW(config.build(), Vec::new())
            }
            OptimizerKind::Adam => Self::Adam(AdamConfig::new().with_epsilon(EPSILON).build(), Vec::new()),
            OptimizerKind::Sgd => Self::Sgd(SgdConfig::new().build()),
        }
    }

    /// The adapter after one step along `gradients`.
    pub fn step(&mut self, adapter: &Adapter, gradients: AdapterGradients, learning_rate: f64) -> Adapter {
        let tensors = adapter.tensors().into_iter().map(|(_, tensor)| tensor).collect();
        adapter.with_tensors(self.step_tensors(tensors, gradients, learning_rate))
    }

    /// Tensors after one step along `gradients`; they are the same ones in every step, in the same order.
    pub fn step_tensors(
        &mut self,
        tensors: Vec<Tensor<2>>,
        gradients: Vec<Tensor<2>>,
        learning_rate: f64,
    ) -> Vec<Tensor<2>> {
        let pairs = tensors.into_iter().zip(gradients);
        match self {
            Self::AdamW(optimizer, states) => advance(optimizer, states, pairs, learning_rate),
            Self::Adam(optimizer, states) => advance(optimizer, states, pairs, learning_rate),
            Self::Sgd(optimizer) => {
                pairs.map(|(tensor, gradient)| optimizer.step(learning_rate, tensor, gradient, None).0).collect()
            }
        }
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

/// The tensors after one step, each with its gradient and its state; there are no states before the first step.
fn advance<O: Optimizer>(
    optimizer: &O,
    states: &mut Vec<O::State<2>>,
    pairs: impl Iterator<Item = (Tensor<2>, Tensor<2>)>,
    learning_rate: f64,
) -> Vec<Tensor<2>> {
    let old = std::mem::take(states).into_iter().map(Some).chain(std::iter::repeat(None));
    let step = |((tensor, gradient), state)| {
        let (tensor, state) = optimizer.step(learning_rate, tensor, gradient, state);
        states.extend(state);
        tensor
    };
    pairs.zip(old).map(step).collect()
}
