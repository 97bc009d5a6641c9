//! Classification by the likelihood of each candidate's tokens.

use crate::model::{Backbone, Batch, Part};
use crate::peft::Adapter;
use crate::task::EncodedExample;
use crate::zo::Perturbation;

/// Tokens that are evaluated at once, about. Bounds the activations; the result does not depend on it beyond rounding.
const TOKENS_PER_BATCH: usize = 2048;

/// The scores of one example.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Mean log-probability (nats) of each candidate's answer tokens.
    pub scores: Vec<f64>,
    /// Log-probability of each of the tokens, by candidate.
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
    /// Tokens that were fed; a prompt counts once for all its candidates.
    pub tokens: usize,
}

impl Evaluation {
    /// Share of examples whose prediction is right.
    pub fn accuracy(&self) -> f64 {
        let right = self.examples.iter().filter(|example| example.golds.contains(&example.prediction));
        right.count() as f64 / self.examples.len() as f64
    }

    /// Mean negative log-likelihood over all tokens of the right answers, in nats.
    pub fn loss(&self) -> f64 {
        let gold = self.examples.iter().flat_map(|example| &example.token_logprobs[example.golds[0]]);
        let (sum, count) = gold.fold((0.0, 0usize), |(sum, count), &x| (sum - f64::from(x), count + 1));
        sum / count as f64
    }
}

/// Scores every candidate of every example with θ and an adapter. Prompts are computed once for all their candidates, and
/// many examples ride in one pass. `progress` is told how many examples are done.
pub fn evaluate(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    examples: &[EncodedExample],
    mut progress: impl FnMut(usize),
) -> Evaluation {
    let mut evaluation = Evaluation { examples: Vec::with_capacity(examples.len()), tokens: 0 };
    let mut rest = examples;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch_size(rest));
        rest = later;
        let (batch, ranges) = Batch::candidates(now);
        evaluation.tokens += batch.tokens();
        let nll = backbone.token_nll(&[Part { batch: &batch, adapter }], &Perturbation::None);
        let nll: Vec<f32> = nll.into_data().iter::<f32>().collect();
        for (example, ranges) in now.iter().zip(ranges) {
            let logprobs = ranges.into_iter().map(|range| nll[range].iter().map(|x| -x).collect());
            evaluation.examples.push(Scored::new(logprobs.collect(), example.golds.clone()));
        }
        progress(evaluation.examples.len());
    }
    evaluation
}

/// How many of the first examples fit in one batch; at least one.
fn batch_size(examples: &[EncodedExample]) -> usize {
    let mut tokens = 0;
    let fits = examples.iter().take_while(|example| {
        let shared = example.shared_prefix_len();
        let answers = example.candidates.iter().map(|c| c.ids.len() - shared);
        tokens += shared + answers.sum::<usize>();
        tokens <= TOKENS_PER_BATCH
    });
    fits.count().max(1)
}

impl Scored {
    fn new(token_logprobs: Vec<Vec<f32>>, golds: Vec<usize>) -> Self {
        let mean = |tokens: &Vec<f32>| tokens.iter().map(|&x| f64::from(x)).sum::<f64>() / tokens.len() as f64;
        let scores: Vec<f64> = token_logprobs.iter().map(mean).collect();
        let mut prediction = 0;
        for (candidate, score) in scores.iter().enumerate() {
            if *score > scores[prediction] {
                prediction = candidate;
            }
        }
        Self { scores, token_logprobs, prediction, golds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_mean_wins_and_ties_go_to_the_first() {
        let scored = Scored::new(vec![vec![-2.0], vec![-1.0, -2.0], vec![-1.5]], vec![1]);
        assert_eq!(scored.scores, [-2.0, -1.5, -1.5]);
        assert_eq!(scored.prediction, 1);
        let wrong = Scored::new(vec![vec![-1.0], vec![-3.0, -5.0]], vec![1]);
        let evaluation = Evaluation { examples: vec![scored, wrong], tokens: 0 };
        assert_eq!(evaluation.accuracy(), 0.5);
        // The right answers' four tokens, not the mean of two means.
        assert_eq!(evaluation.loss(), (1.0 + 2.0 + 3.0 + 5.0) / 4.0);
    }

    #[test]
    fn any_of_several_right_answers_counts_and_the_first_has_the_loss() {
        let scored = Scored::new(vec![vec![-2.0], vec![-1.0], vec![-3.0]], vec![2, 1]);
        let evaluation = Evaluation { examples: vec![scored], tokens: 0 };
        assert_eq!((evaluation.accuracy(), evaluation.loss()), (1.0, 3.0));
    }
}
