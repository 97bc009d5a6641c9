//! Leaves of an autodiff graph, and what backward passes leave at them.

use burn::tensor::{Gradients, Tensor};

/// A tensor as a leaf of a new autodiff graph.
pub(crate) fn leaf(tensor: Tensor<2>) -> Tensor<2> {
    tensor.autodiff().require_grad()
}

/// The gradient with respect to a leaf, taken out of those of a pass: 0 if the loss does not depend on it.
pub(crate) fn take_gradient(leaf: &Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
    leaf.grad_remove(gradients).unwrap_or_else(|| zeros(leaf))
}

/// Gradients with respect to leaves, summed over several backward passes.
pub(crate) struct LeafGradients {
    leaves: Vec<Tensor<2>>,
    /// None where no pass has come to the leaf.
    sums: Vec<Option<Tensor<2>>>,
}

impl LeafGradients {
    /// Those of no pass yet.
    pub(crate) fn new(leaves: Vec<Tensor<2>>) -> Self {
        let sums = leaves.iter().map(|_| None).collect();
        Self { leaves, sums }
    }

    /// Adds those of a pass.
    pub(crate) fn add(&mut self, mut gradients: Gradients) {
        for (leaf, sum) in self.leaves.iter().zip(&mut self.sums) {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else { continue };
            *sum = Some(match sum.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }

    /// The sums, in the order of the leaves: 0 where no loss depends on one.
    pub(crate) fn into_tensors(self) -> Vec<Tensor<2>> {
        self.leaves.iter().zip(self.sums).map(|(leaf, sum)| sum.unwrap_or_else(|| zeros(leaf))).collect()
    }
}

fn zeros(leaf: &Tensor<2>) -> Tensor<2> {
    Tensor::zeros(leaf.shape(), &leaf.device().inner())
}
