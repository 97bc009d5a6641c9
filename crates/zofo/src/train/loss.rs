//! Losses of a backbone with an adapter, and their gradients with respect to the adapter.

use crate::model::{Backbone, Batch, Part};
use crate::peft::{Adapter, AdapterGradients};
use crate::task::SplitMix64;
use crate::zo::Perturbation;
use burn::tensor::{Tensor, TensorData};

/// F for every part: the mean negative log-likelihood over all labelled tokens, in nats, summed in f64.
///
/// One pass over the weights for all parts. The outer index is the sign: one entry, or with a
/// [`Perturbation::Pair`] those of θ + ε·z and of θ − ε·z.
pub fn losses(backbone: &Backbone, parts: &[Part], perturbation: &Perturbation) -> Vec<Vec<f64>> {
    let nll = values(backbone.token_nll(parts, perturbation));
    let counts: Vec<usize> = parts.iter().map(|part| part.batch.labels.len()).collect();
    let share = nll.len() / perturbation.signs();
    nll.chunks_exact(share).map(|nll| means(nll, &counts)).collect()
}

/// F(θ, q; B) of one batch.
pub fn loss(backbone: &Backbone, adapter: &Adapter, batch: &Batch) -> f64 {
    let part = Part { batch, adapter: Some(adapter) };
    losses(backbone, &[part], &Perturbation::None)[0][0]
}

/// Σ wᵢ·F(θ, q; Bᵢ) differentiated with respect to the adapter q: the losses F, and the gradients.
///
/// The gradient is exact: one forward and one backward pass for all batches, with θ constant.
pub fn loss_gradients(backbone: &Backbone, adapter: &Adapter, terms: &[(f64, &Batch)]) -> (Vec<f64>, AdapterGradients) {
    let tracked = adapter.tracked();
    let blocks = vec![&tracked; terms.len()];
    differentiate(backbone, &tracked, &blocks, terms)
}

/// As [`loss_gradients`], with the dropout that the adapter asks for: every batch has masks of its own, all of them from
/// `seed`. The losses are those under the masks.
pub fn loss_gradients_with_dropout(
    backbone: &Backbone,
    adapter: &Adapter,
    terms: &[(f64, &Batch)],
    seed: u64,
) -> (Vec<f64>, AdapterGradients) {
    let tracked = adapter.tracked();
    let masked = |term| tracked.with_dropout(SplitMix64::keyed(seed, "term", term).next_u64());
    let masked: Vec<Adapter> = (0..terms.len() as u64).map(masked).collect();
    differentiate(backbone, &tracked, &masked.iter().collect::<Vec<_>>(), terms)
}

/// The losses of the batches, each with its block, and their weighted sum's gradients with respect to `tracked`, of whose
/// leaves the blocks are made.
fn differentiate(
    backbone: &Backbone,
    tracked: &Adapter,
    blocks: &[&Adapter],
    terms: &[(f64, &Batch)],
) -> (Vec<f64>, AdapterGradients) {
    let part = |(&(_, batch), &block): (&(f64, _), &_)| Part { batch, adapter: Some(block) };
    let parts: Vec<Part> = terms.iter().zip(blocks).map(part).collect();
    let nll = backbone.token_nll(&parts, &Perturbation::None);

    let counts: Vec<usize> = terms.iter().map(|(_, batch)| batch.labels.len()).collect();
    let weights = terms
        .iter()
        .zip(&counts)
        .flat_map(|(&(weight, _), &count)| std::iter::repeat_n((weight / count as f64) as f32, count));
    let weights: Vec<f32> = weights.collect();
    let shape = [weights.len(), 1];
    let weights = Tensor::from_data(TensorData::new(weights, shape), backbone.device());
    let total = (nll.clone() * weights.autodiff()).sum();
    let gradients = tracked.gradients(total.backward());
    (means(&values(nll.inner()), &counts), gradients)
}

fn values(nll: Tensor<2>) -> Vec<f32> {
    nll.into_data().iter::<f32>().collect()
}

/// Means over consecutive groups of these sizes.
fn means(nll: &[f32], counts: &[usize]) -> Vec<f64> {
    let mut rest = nll;
    let mean = |&count: &usize| {
        let (group, tail) = rest.split_at(count);
        rest = tail;
        group.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64
    };
    counts.iter().map(mean).collect()
}
