//! Gradient checkpointing: back-propagation that keeps the residual stream before every block alone, and computes what is
//! inside a block again when its turn comes (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv
//! 1604.06174).
//!
//! The operations are those of a pass that keeps everything, in the same order, so the gradients are the same bits. It
//! costs one more forward pass. Burn's own checkpointing would not do: it computes element-wise operations again, and what
//! a pass keeps is mostly the inputs of products, norms and attention.

use super::{Cache, Pass};
use crate::model::leaves::{leaf, take_gradient};
use crate::model::rows::{Part, Rows};
use crate::model::{Backbone, DecoderConfig};
use crate::zo::Perturbation;
use burn::tensor::{Gradients, Tensor};

/// What a pass is computed of.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    /// θ.
    pub(crate) backbone: &'a Backbone,
    /// The batches with their blocks.
    pub(crate) parts: &'a [Part<'a>],
}

/// Back-propagates what `loss` makes of the negative log-likelihoods of all labels, `[labels, 1]`, and hands the gradients
/// with respect to the leaves of which `tracked` is made to `collect`: once for every block, and once for the head.
/// `constant` has the same values without a graph.
pub(crate) fn checkpointed_backward(
    constant: Operands,
    tracked: Operands,
    loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
    mut collect: impl FnMut(Gradients),
) {
    let view = Perturbation::None;
    let mut inputs = Vec::new();
    let rows = Rows::new(constant.parts, &[]);
    let last = constant.backbone.stream(&rows, &view, Cache::Absent, |stream| inputs.push(stream.clone()));

    let rows = Rows::new(tracked.parts, &[]);
    let pass = Pass::new(tracked.backbone, &rows, &view);
    // By the chain rule: with the gradient of an output as a constant, the sum of their products has the gradient of the loss.
    let product = |output: Tensor<2>, gradient: Tensor<2>| (output * gradient.autodiff()).sum();
    let mut backward = |loss: Tensor<1>, input: &Tensor<2>| {
        let mut gradients = loss.backward();
        let of_input = take_gradient(input, &mut gradients);
        collect(gradients);
        of_input
    };

    let last = leaf(last);
    let mut gradient = backward(loss(tracked.backbone.nll_of_stream(&rows, last.clone(), &view)), &last);
    let config = tracked.backbone.config();
    let block = |index: usize, input| pass.block(index, &config.layers[index], input, &mut Cache::Absent);
    let lowest = lowest_block(config, tracked.parts);
    for index in (lowest + 1..config.layers.len()).rev() {
        let input = leaf(inputs.remove(index));
        gradient = backward(product(block(index, input.clone()), gradient), &input);
    }
    // Below it nothing is trained but, where there is no block below, what the embedding is made of.
    let input = if lowest == 0 { pass.embed() } else { inputs.remove(lowest).autodiff() };
    collect(product(block(lowest, input), gradient).backward());
}

/// The first block that gradients go through: one that a LoRA block adds something to. Whatever else is trained begins at
/// the bottom.
fn lowest_block(config: &DecoderConfig, parts: &[Part]) -> usize {
    let is_adapted = |weight: &str| parts.iter().any(|part| part.adapter.is_some_and(|adapter| adapter.adapts(weight)));
    config.layers.iter().position(|layer| layer.linears().iter().any(|linear| is_adapted(&linear.weight))).unwrap_or(0)
}
