//! Beam search: the likeliest answers that a few sequences at a time can find.

use super::answers::{AnswerEnd, TOKENS_PER_BATCH, beginning, finished};
use super::decoding::{Author, Context, Decoding};
use super::generate::{GenerationError, check_finite};
use super::packing::pack;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use tokenizers::Tokenizer;

/// An answer that a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its text, without special tokens, and without white space at both ends.
    pub text: String,
    /// Its tokens, with what ends it.
    pub tokens: Vec<u32>,
    /// The mean of their log-probabilities, by which it was chosen.
    pub score: f64,
}

/// The best answer to each prompt that a search with so many `beams` finds, in the order of the prompts.
///
/// This is what transformers' `generate(num_beams=beams, length_penalty=1.0, early_stopping=False)` gives: at every step
/// the likeliest continuations of all beams are looked at; those that end are kept by the mean log-probability of their
/// tokens, as many as there are beams; the best others go on; and the search ends when as many ended as there are beams and
/// the mean of the best that goes on is not above that of the worst of them. `progress` is told how many prompts are done,
/// and says whether to go on.
///
/// # Errors
/// [`GenerationError`].
pub fn beam_search(
    author: Author,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    end: AnswerEnd,
    beams: NonZeroUsize,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Hypothesis>, GenerationError> {
    let beginning = beginning(author.backbone, prompts);
    let begun = Decoding::new(author, beginning);
    let new = end.max_new_tokens * beams.get();
    let sizes: Vec<usize> = prompts.iter().map(|prompt| prompt.len() - beginning.len() + new).collect();
    let mut found =
        vec![Hypothesis { text: String::new(), tokens: Vec::new(), score: f64::NEG_INFINITY }; prompts.len()];
    let mut done = 0;
    for group in pack(&sizes, TOKENS_PER_BATCH) {
        let mut decoding = begun.fresh();
        let (contexts, mut logits) = decoding.start(group.iter().map(|&index| &prompts[index][beginning.len()..]));
        let search = |(&index, context)| (index, Search::new(context, beams.get()));
        let mut searches: Vec<(usize, Search)> = group.iter().zip(contexts).map(search).collect();
        while !searches.is_empty() {
            let mut row = 0;
            let mut open = Vec::new();
            for (index, mut search) in std::mem::take(&mut searches) {
                let first = row;
                row += search.running.len();
                match search.advance(|beam| logits.row(first + beam), end, tokenizer)? {
                    Some(best) => {
                        found[index] = best;
                        done += 1;
                    }
                    None => open.push((index, search)),
                }
            }
            if progress(done).is_break() {
                return Err(GenerationError::Stopped);
            }
            searches = open;
            logits = decoding.step(searches.iter_mut().flat_map(|(_, search)| search.fed()));
        }
    }
    Ok(found)
}

/// A sequence that goes on.
struct Beam {
    context: Context,
    new: Vec<u32>,
    /// The sum of its tokens' log-probabilities.
    sum: f64,
}

/// A beam and the token that continues it.
struct Continuation {
    beam: usize,
    token: u32,
    sum: f64,
}

/// The search for the answer to one prompt.
struct Search {
    width: usize,
    /// The likeliest first. At the start there is one, for all would be alike.
    running: Vec<Beam>,
    /// Those that ended, the best first; at most as many as the width.
    ended: Vec<Hypothesis>,
}

impl Search {
    fn new(context: Context, width: usize) -> Self {
        Self { width, running: vec![Beam { context, new: Vec::new(), sum: 0.0 }], ended: Vec::new() }
    }

    /// The beams with their last tokens.
    fn fed(&mut self) -> impl Iterator<Item = (&mut Context, u32)> {
        self.running.iter_mut().filter_map(|beam| Some((&mut beam.context, *beam.new.last()?)))
    }

    /// Takes the `logits` after each beam, and makes all of them a token longer. The best answer, if the search is over.
    fn advance<'l>(
        &mut self,
        logits: impl Fn(usize) -> &'l [f32],
        end: AnswerEnd,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Hypothesis>, GenerationError> {
        // So many that enough are left to go on if every beam ends in every way.
        let looked_at = self.width * (1 + end.tokens.len()).max(2);
        let mut best: Vec<Continuation> = Vec::new();
        for (beam, Beam { sum, .. }) in self.running.iter().enumerate() {
            best.extend(continuations(logits(beam), beam, *sum, looked_at)?);
        }
        best.sort_by(|one, other| other.sum.total_cmp(&one.sum));
        best.truncate(looked_at);
        let mut running = Vec::with_capacity(self.width);
        for (place, Continuation { beam, token, sum }) in best.into_iter().enumerate() {
            let beam = &self.running[beam];
            let new = [&beam.new[..], &[token]].concat();
            match finished(&new, end, tokenizer)? {
                // Those behind are looked at only to have enough that go on.
                Some(text) if place < self.width => {
                    let score = sum / new.len() as f64;
                    let better = self.ended.partition_point(|ended| ended.score >= score);
                    self.ended.insert(better, Hypothesis { text, tokens: new, score });
                    self.ended.truncate(self.width);
                }
                None if running.len() < self.width => running.push(Beam { context: beam.context.clone(), new, sum }),
                _ => {}
            }
        }
        self.running = running;
        Ok(if self.can_improve() { None } else { self.ended.drain(..).next() })
    }

    /// Whether one that goes on could still be among the best. That it keeps its mean is an estimate.
    fn can_improve(&self) -> bool {
        let Some(best) = self.running.first() else {
            return false;
        };
        match self.ended.last() {
            Some(worst) if self.ended.len() == self.width => best.sum / best.new.len() as f64 > worst.score,
            _ => true,
        }
    }
}

/// The `count` likeliest continuations of a beam, the likeliest first, of equal ones that with the smaller token.
fn continuations(
    logits: &[f32],
    beam: usize,
    sum: f64,
    count: usize,
) -> Result<impl Iterator<Item = Continuation>, GenerationError> {
    check_finite(logits)?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let normalizer = f64::from(max) + total.ln();
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let likelier =
        |one: &u32, other: &u32| logits[*other as usize].total_cmp(&logits[*one as usize]).then(one.cmp(other));
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, likelier);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(likelier);
    let sums: Vec<f64> = tokens.iter().map(|&token| sum + f64::from(logits[token as usize]) - normalizer).collect();
    Ok(tokens.into_iter().zip(sums).map(move |(token, sum)| Continuation { beam, token, sum }))
}
