//! Classification by the likelihood of each candidate's tokens.

use super::normalization::Normalization;
use super::packing::{common_beginning, fed_tokens, pack, pack_sharing};
use crate::model::{Backbone, Batch, Part};
use crate::peft::Adapter;
use crate::task::{EncodedCandidate, EncodedExample};
use crate::zo::Perturbation;
use std::collections::HashMap;
use std::convert::Infallible;

/// Tokens that are evaluated at once, about: their activations should fit the caches. The result does not depend on it beyond
/// rounding.
const TOKENS_PER_BATCH: usize = 512;

/// The scores of one example.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The score of each candidate, in nats or a part of them: see [`Normalization`].
    pub scores: Vec<f64>,
    /// Log-probability of each of the answer tokens, by candidate.
    pub token_logprobs: Vec<Vec<f32>>,
    /// The candidate with the highest score; of equal ones the first.
    pub prediction: usize,
    /// The right candidates; any of them is a correct prediction, the first is the one that training uses.
    pub golds: Vec<usize>,
}

/// The result over a set of examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// One entry per example, in their order.
    pub examples: Vec<Scored>,
    /// Tokens that were fed; what several candidates begin with counts once per pass, and what all do once.
    pub tokens: usize,
}

impl Evaluation {
    /// Share of examples whose prediction is right.
    pub fn accuracy(&self) -> f64 {
        let right = self.examples.iter().filter(|example| example.is_right());
        right.count() as f64 / self.examples.len() as f64
    }

    /// Mean negative log-likelihood over all tokens of the right answers, in nats.
    pub fn loss(&self) -> f64 {
        let examples = self.examples.iter().map(Scored::gold_nll);
        let (sum, count) = examples.fold((0.0, 0), |(sum, count), (nll, tokens)| (sum + nll, count + tokens));
        sum / count as f64
    }
}

/// Scores every candidate of every example with θ and an adapter, by the mean log-probability of its tokens. What
/// candidates begin with is computed once, be they of one example or of many that ride in one pass. `progress` is told how many examples are
/// done.
pub fn evaluate(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
    progress: impl FnMut(usize),
) -> Evaluation {
    evaluate_by(backbone, adapter, examples, &Normalization::Mean, progress)
}

/// As [`evaluate`], with scores of another kind.
pub fn evaluate_by(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
    normalization: &Normalization,
    mut progress: impl FnMut(usize),
) -> Evaluation {
    let Ok(evaluation) = try_evaluate(backbone, adapter, examples, normalization, |done| {
        progress(done);
        Ok::<(), Infallible>(())
    });
    evaluation
}

/// As [`evaluate_by`], until `progress` fails.
///
/// # Errors
///
/// That of `progress`.
pub fn try_evaluate<E>(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
    normalization: &Normalization,
    progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let (logprobs, mut tokens) = token_logprobs(backbone, adapter, examples, progress)?;
    let nulls = match normalization {
        Normalization::Null(nulls) => {
            let (sums, fed) = sums_of_distinct(backbone, adapter, nulls);
            tokens += fed;
            sums
        }
        Normalization::Mean | Normalization::Sum | Normalization::Bytes(_) => Vec::new(),
    };
    let scored = logprobs.into_iter().zip(examples).enumerate().map(|(index, (logprobs, example))| {
        let score = |(candidate, tokens): (usize, &Vec<f32>)| match normalization {
            Normalization::Mean => sum(tokens) / tokens.len() as f64,
            Normalization::Sum => sum(tokens),
            Normalization::Bytes(bytes) => sum(tokens) / bytes[index][candidate] as f64,
            Normalization::Null(_) => sum(tokens) - nulls[index][candidate],
        };
        Scored::new(logprobs.iter().enumerate().map(score).collect(), logprobs, example.golds.clone())
    });
    Ok(Evaluation { examples: scored.collect(), tokens })
}

/// As [`evaluate`], of a few examples in one pass: once per sign of a perturbation.
pub fn evaluate_under(
    perturbation: &Perturbation,
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[&EncodedExample],
) -> Vec<Evaluation> {
    let (batch, ranges) = Batch::candidates(examples.iter().copied());
    let nll = backbone.token_nll(&[Part { batch: &batch, adapter }], perturbation);
    let nll: Vec<f32> = nll.into_data().iter::<f32>().collect();
    let of_sign = |nll: &[f32]| {
        let scored = examples.iter().zip(&ranges).map(|(example, ranges)| {
            let logprobs = ranges.iter().map(|range| nll[range.clone()].iter().map(|x| -x).collect());
            let logprobs: Vec<Vec<f32>> = logprobs.collect();
            let scores = logprobs.iter().map(|tokens| sum(tokens) / tokens.len() as f64).collect();
            Scored::new(scores, logprobs, example.golds.clone())
        });
        Evaluation { examples: scored.collect(), tokens: batch.tokens() }
    };
    nll.chunks_exact(batch.labels.len()).map(of_sign).collect()
}

/// Sums in f64, by example and candidate, and the number of tokens that were fed. Examples that are alike, as null prompts
/// mostly are, are computed once.
fn sums_of_distinct(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
) -> (Vec<Vec<f64>>, usize) {
    let mut known: HashMap<&[EncodedCandidate], usize> = HashMap::new();
    let mut distinct = Vec::new();
    let places: Vec<usize> = examples
        .iter()
        .map(|example| {
            *known.entry(&example.candidates).or_insert_with(|| {
                distinct.push(example.clone());
                distinct.len() - 1
            })
        })
        .collect();
    let Ok((logprobs, tokens)) = token_logprobs(backbone, adapter, &distinct, |_| Ok::<(), Infallible>(()));
    let sums: Vec<Vec<f64>> = logprobs.iter().map(|candidates| candidates.iter().map(|c| sum(c)).collect()).collect();
    (places.into_iter().map(|place| sums[place].clone()).collect(), tokens)
}

/// By example, candidate and token of the answer.
type TokenLogprobs = Vec<Vec<Vec<f32>>>;

/// Log-probabilities of the answer tokens, and the number of tokens that were fed.
fn token_logprobs<E>(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<(TokenLogprobs, usize), E> {
    // Rows that see one key must then turn by one angle, which the longest of their sequences decides.
    let apart = backbone.config().keys_depend_on_length();
    let beginning = if apart { &[] } else { common_beginning(examples) };
    let cache = (!beginning.is_empty()).then(|| backbone.prefill(&Perturbation::None, beginning, adapter));
    let skipped = beginning.len();
    let virtual_tokens = cache.as_ref().map_or(0, |cache| cache.len() - skipped);
    let groups = if apart {
        let sizes: Vec<usize> = examples.iter().map(|example| fed_tokens(example, 0)).collect();
        pack(&sizes, TOKENS_PER_BATCH)
    } else {
        pack_sharing(examples, skipped, TOKENS_PER_BATCH)
    };

    let mut logprobs = vec![Vec::new(); examples.len()];
    let (mut tokens, mut done) = (skipped, 0);
    for group in groups {
        let of_group: Vec<&EncodedExample> = group.iter().map(|&index| &examples[index]).collect();
        let mut batch = Batch::default();
        let ranges: Vec<_> = of_group
            .chunks(if apart { 1 } else { of_group.len() })
            .flat_map(|examples| batch.push_candidates(examples, skipped, virtual_tokens))
            .collect();
        tokens += batch.tokens();
        let part = Part { batch: &batch, adapter };
        let nll = match &cache {
            Some(cache) => backbone.token_nll_after(cache, part),
            None => backbone.token_nll(&[part], &Perturbation::None),
        };
        let nll: Vec<f32> = nll.into_data().iter::<f32>().collect();
        for (&index, ranges) in group.iter().zip(ranges) {
            logprobs[index] = ranges.into_iter().map(|range| nll[range].iter().map(|x| -x).collect()).collect();
        }
        done += group.len();
        progress(done)?;
    }
    Ok((logprobs, tokens))
}

fn sum(tokens: &[f32]) -> f64 {
    tokens.iter().map(|&x| f64::from(x)).sum()
}

impl Scored {
    fn new(scores: Vec<f64>, token_logprobs: Vec<Vec<f32>>, golds: Vec<usize>) -> Self {
        let mut prediction = 0;
        for (candidate, score) in scores.iter().enumerate() {
            if *score > scores[prediction] {
                prediction = candidate;
            }
        }
        Self { scores, token_logprobs, prediction, golds }
    }

    /// Whether the prediction is one of the right candidates.
    pub fn is_right(&self) -> bool {
        self.golds.contains(&self.prediction)
    }

    /// The negative log-likelihood of the right answer, in nats, and the number of its tokens.
    pub fn gold_nll(&self) -> (f64, usize) {
        let tokens = &self.token_logprobs[self.golds[0]];
        (-sum(tokens), tokens.len())
    }

    /// The probability of the prediction: softmax over the candidates' scores.
    pub fn confidence(&self) -> f64 {
        let best = self.scores[self.prediction];
        1.0 / self.scores.iter().map(|score| (score - best).exp()).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(scores: &[f64], golds: &[usize]) -> Scored {
        let tokens = scores.iter().map(|&score| vec![score as f32]).collect();
        Scored::new(scores.to_vec(), tokens, golds.to_vec())
    }

    #[test]
    fn the_highest_score_wins_and_ties_go_to_the_first() {
        let right = scored(&[-2.0, -1.5, -1.5], &[1]);
        assert_eq!(right.prediction, 1);
        let wrong = Scored::new(vec![-1.0, -4.0], vec![vec![-1.0], vec![-3.0, -5.0]], vec![1]);
        let evaluation = Evaluation { examples: vec![right, wrong], tokens: 0 };
        assert_eq!(evaluation.accuracy(), 0.5);
        // The right answers' three tokens, not the mean of two means.
        assert_eq!(evaluation.loss(), (1.5 + 3.0 + 5.0) / 3.0);
    }

    #[test]
    fn any_of_several_right_answers_counts_and_the_first_has_the_loss() {
        let evaluation = Evaluation { examples: vec![scored(&[-2.0, -1.0, -3.0], &[2, 1])], tokens: 0 };
        assert_eq!((evaluation.accuracy(), evaluation.loss()), (1.0, 3.0));
    }

    #[test]
    fn confidence_is_a_softmax() {
        let third = 1.0f64.exp();
        let expected = third / (third + 2.0);
        assert!((scored(&[0.0, 1.0, 0.0], &[0]).confidence() - expected).abs() < 1e-15);
        assert_eq!(scored(&[-800.0, -2000.0], &[0]).confidence(), 1.0);
    }
}
