//! Losses of a backbone with an adapter, and their gradients with respect to the adapter.

use crate::model::{Backbone, Batch, Choice, LeafGradients, Operands, Parameter, Part, checkpointed_backward};
use crate::peft::{Adapter, AdapterGradients};
use crate::task::SplitMix64;
use crate::zo::Perturbation;
use burn::tensor::{Tensor, TensorData};

/// F for every part, in nats, summed in f64: the mean negative log-likelihood over all labelled tokens or, of a batch of
/// [choices](Batch::choices), the mean of −ln softmax(s)\[right\], where s are the mean log-probabilities of the candidates'
/// tokens (MeZO's `train_as_classification`).
///
/// One pass over the weights for all parts. The outer index is the sign: one entry, or with a
/// [`Perturbation::Pair`] those of θ + ε·z and of θ − ε·z.
pub fn losses(backbone: &Backbone, parts: &[Part], perturbation: &Perturbation) -> Vec<Vec<f64>> {
    let nll = values(backbone.token_nll(parts, perturbation));
    let batches: Vec<&Batch> = parts.iter().map(|part| part.batch).collect();
    let share = nll.len() / perturbation.signs();
    nll.chunks_exact(share)
        .map(|nll| by_batch(nll, &batches).map(|(batch, nll)| reduce(batch, nll)).collect())
        .collect()
}

/// F(θ, q; B) of one batch.
pub fn loss(backbone: &Backbone, adapter: &Adapter, batch: &Batch) -> f64 {
    let part = Part { batch, adapter: Some(adapter) };
    losses(backbone, &[part], &Perturbation::None)[0][0]
}

/// Σ wᵢ·F(θ, q; Bᵢ) differentiated with respect to the adapter q: the losses F, and the gradients.
///
/// The gradient is exact: one forward and one backward pass for all batches, with θ constant. With
/// [gradient checkpointing](Backbone::with_gradient_checkpointing) there is another forward pass, and the numbers are the
/// same bits.
pub fn loss_gradients(backbone: &Backbone, adapter: &Adapter, terms: &[(f64, &Batch)]) -> (Vec<f64>, AdapterGradients) {
    differentiate(backbone, adapter, terms, |block| vec![block.clone(); terms.len()])
}

/// The losses of the batches, and the gradients of their weighted sum with respect to `adapter`. `blocks` makes the block
/// that each batch sees of what passes read of the adapter.
fn differentiate(
    backbone: &Backbone,
    adapter: &Adapter,
    terms: &[(f64, &Batch)],
    blocks: impl Fn(&Adapter) -> Vec<Adapter>,
) -> (Vec<f64>, AdapterGradients) {
    let constant = adapter.as_read();
    let tracked = constant.tracked();
    let [constants, leaves] = [&constant, &tracked].map(blocks);
    let [constants, leaves] = [&constants, &leaves].map(|blocks| parts(terms, blocks));
    let [constant, leaves] = [&constants, &leaves].map(|parts| Operands { backbone, parts });
    let (losses, gradients) = backward(constant, leaves, tracked.leaf_gradients(), terms);
    (losses, adapter.back_from_read(gradients))
}

/// The batches with their blocks.
fn parts<'a>(terms: &[(f64, &'a Batch)], blocks: &'a [Adapter]) -> Vec<Part<'a>> {
    terms.iter().zip(blocks).map(|(&(_, batch), block)| Part { batch, adapter: Some(block) }).collect()
}

/// The losses of the batches, and the gradients of their weighted sum with respect to the leaves of which `tracked` is
/// made. `constant` has the same values without a graph.
fn backward(
    constant: Operands,
    tracked: Operands,
    mut gradients: LeafGradients,
    terms: &[(f64, &Batch)],
) -> (Vec<f64>, Vec<Tensor<2>>) {
    let mut losses = Vec::new();
    let mut total = |nll| {
        let (of_terms, total) = weigh(tracked.backbone, nll, terms);
        losses = of_terms;
        total
    };
    if tracked.backbone.gradient_checkpointing() {
        checkpointed_backward(constant, tracked, total, |of_a_part| gradients.add(of_a_part));
    } else {
        let nll = tracked.backbone.token_nll(tracked.parts, &Perturbation::None);
        gradients.add(total(nll).backward());
    }
    (losses, gradients.into_tensors())
}

/// The losses of the batches whose negative log-likelihoods are `nll`, and what has the gradient of their weighted sum.
fn weigh(backbone: &Backbone, nll: Tensor<2>, terms: &[(f64, &Batch)]) -> (Vec<f64>, Tensor<1>) {
    // By the chain rule: with ∂F/∂nll as constants, the sum of their products with the likelihoods has F's gradient.
    let known = values(nll.clone().inner());
    let batches: Vec<&Batch> = terms.iter().map(|&(_, batch)| batch).collect();
    let of_terms = by_batch(&known, &batches).zip(terms);
    let weights: Vec<f32> = of_terms
        .flat_map(|((batch, nll), (weight, _))| slopes(batch, nll).into_iter().map(move |s| (weight * s) as f32))
        .collect();
    let shape = [weights.len(), 1];
    let weights = Tensor::from_data(TensorData::new(weights, shape), backbone.device());
    let losses = by_batch(&known, &batches).map(|(batch, nll)| reduce(batch, nll)).collect();
    (losses, (nll * weights.autodiff()).sum())
}

/// As [`losses`], each the mean over several sets of parts, which take a pass each.
pub fn mean_losses<'a, P: AsRef<[Part<'a>]>>(
    backbone: &Backbone,
    sets: impl Iterator<Item = P>,
    perturbation: &Perturbation,
) -> Vec<Vec<f64>> {
    let mut sum: Vec<Vec<f64>> = Vec::new();
    let mut count = 0.0;
    for parts in sets {
        let losses = losses(backbone, parts.as_ref(), perturbation);
        count += 1.0;
        if sum.is_empty() {
            sum = losses;
        } else {
            sum.iter_mut().flatten().zip(losses.into_iter().flatten()).for_each(|(sum, loss)| *sum += loss);
        }
    }
    sum.iter_mut().flatten().for_each(|sum| *sum /= count);
    sum
}

/// As [`loss_gradients`], the mean over several sets of terms, which take a pass each, with the dropout that the adapter
/// asks for: every batch has masks of its own, all of them from `seed`. The losses are those under the masks.
pub fn mean_gradients(
    backbone: &Backbone,
    adapter: &Adapter,
    sets: &[Vec<(f64, &Batch)>],
    seed: u64,
) -> (Vec<f64>, AdapterGradients) {
    let mut seeds = (0..).map(|term| SplitMix64::keyed(seed, "term", term).next_u64());
    mean(sets.iter().map(|terms| {
        let seeds: Vec<u64> = seeds.by_ref().take(terms.len()).collect();
        differentiate(backbone, adapter, terms, |block| seeds.iter().map(|&seed| block.with_dropout(seed)).collect())
    }))
}

/// The mean of F(θ; B) over several batches, which take a pass each, and its gradient with respect to every weight of θ,
/// in the order of [`Backbone::parameters`].
pub fn mean_backbone_gradients(backbone: &Backbone, batches: &[Batch]) -> (f64, Vec<Tensor<2>>) {
    let (losses, gradients) = mean(batches.iter().map(|batch| {
        let tracked = backbone.tracked();
        let parts = [Part { batch, adapter: None }];
        let leaves = tracked.parameters().iter().map(Parameter::value).collect();
        let [constant, tracked] = [backbone, &tracked].map(|backbone| Operands { backbone, parts: &parts });
        backward(constant, tracked, LeafGradients::new(leaves), &[(1.0, batch)])
    }));
    (losses[0], gradients)
}

/// The mean of losses, and of gradients.
fn mean(sets: impl Iterator<Item = (Vec<f64>, Vec<Tensor<2>>)>) -> (Vec<f64>, Vec<Tensor<2>>) {
    let mut sum: Option<(Vec<f64>, Vec<Tensor<2>>)> = None;
    let mut count = 0usize;
    for (losses, gradients) in sets {
        count += 1;
        sum = Some(match sum {
            None => (losses, gradients),
            Some((mut sum_of_losses, sum)) => {
                sum_of_losses.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
                (sum_of_losses, sum.into_iter().zip(gradients).map(|(sum, gradient)| sum + gradient).collect())
            }
        });
    }
    let (mut losses, mut gradients) = sum.unwrap_or_default();
    if count > 1 {
        losses.iter_mut().for_each(|loss| *loss /= count as f64);
        gradients = gradients.into_iter().map(|gradient| gradient / count as f64).collect();
    }
    (losses, gradients)
}

fn values(nll: Tensor<2>) -> Vec<f32> {
    nll.into_data().iter::<f32>().collect()
}

/// The negative log-likelihoods of each batch's labels.
fn by_batch<'a>(nll: &'a [f32], batches: &'a [&'a Batch]) -> impl Iterator<Item = (&'a Batch, &'a [f32])> {
    batches.iter().scan(nll, |rest, batch| {
        let (own, tail) = rest.split_at(batch.labels.len());
        *rest = tail;
        Some((*batch, own))
    })
}

/// F of a batch.
fn reduce(batch: &Batch, nll: &[f32]) -> f64 {
    if batch.choices.is_empty() {
        return mean_of(nll);
    }
    let losses = batch.choices.iter().map(|choice| {
        let scores = scores(choice, nll);
        log_sum_exp(&scores) - scores[choice.gold]
    });
    losses.sum::<f64>() / batch.choices.len() as f64
}

/// ∂F/∂nll of every label of a batch. 1/n for a mean. For a choice with probabilities p, of n examples: of a candidate
/// c of m tokens, ([c is right] − p\[c\]) / (m·n).
fn slopes(batch: &Batch, nll: &[f32]) -> Vec<f64> {
    if batch.choices.is_empty() {
        return vec![1.0 / nll.len() as f64; nll.len()];
    }
    let mut slopes = vec![0.0; nll.len()];
    for choice in &batch.choices {
        let scores = scores(choice, nll);
        let log_sum = log_sum_exp(&scores);
        for (candidate, (range, score)) in choice.candidates.iter().zip(&scores).enumerate() {
            let right = f64::from(u8::from(candidate == choice.gold));
            let slope = (right - (score - log_sum).exp()) / (range.len() * batch.choices.len()) as f64;
            slopes[range.clone()].fill(slope);
        }
    }
    slopes
}

/// The mean log-probability of every candidate's tokens.
fn scores(choice: &Choice, nll: &[f32]) -> Vec<f64> {
    choice.candidates.iter().map(|range| -mean_of(&nll[range.clone()])).collect()
}

fn log_sum_exp(scores: &[f64]) -> f64 {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln()
}

fn mean_of(nll: &[f32]) -> f64 {
    nll.iter().map(|&x| f64::from(x)).sum::<f64>() / nll.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Label;

    /// Two examples: candidates of one and two tokens, and of one token each.
    fn batch() -> Batch {
        let choices =
            vec![Choice { candidates: vec![0..1, 1..3], gold: 1 }, Choice { candidates: vec![3..4, 4..5], gold: 0 }];
        Batch { labels: vec![Label { row: 0, target: 0 }; 5], choices, ..Batch::default() }
    }

    #[test]
    fn a_choice_has_the_loss_of_a_softmax_over_means() {
        // Scores −2 and −1; −3 and −3.
        let nll = [2.0, 0.5, 1.5, 3.0, 3.0];
        let expected = (f64::ln(1.0 + f64::exp(-1.0)) + f64::ln(2.0)) / 2.0;
        assert!((reduce(&batch(), &nll) - expected).abs() < 1e-12);
        let without = Batch { choices: Vec::new(), ..batch() };
        assert_eq!(reduce(&without, &nll), 2.0);
        assert_eq!(slopes(&without, &nll), [0.2; 5]);
    }

    #[test]
    fn slopes_are_those_of_the_loss() {
        let nll = [2.0, 0.5, 1.5, 3.0, 2.0];
        for (place, slope) in slopes(&batch(), &nll).into_iter().enumerate() {
            let moved = |by: f32| {
                let mut nll = nll;
                nll[place] += by;
                reduce(&batch(), &nll)
            };
            let step = 0.0625;
            let measured = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            assert!((slope - measured).abs() < 1e-4, "{place}: {slope}, measured {measured}");
        }
    }
}
