//! Text generation with a key/value cache.

use crate::model::{Backbone, KeyValueCache};
use crate::peft::Adapter;
use crate::task::SplitMix64;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The likeliest.
    Greedy,
    /// At random, from softmax(logits / temperature) cut to the likeliest tokens that together reach `top_p`.
    Nucleus {
        /// Above 0; 1 leaves the model's probabilities as they are.
        temperature: f64,
        /// Above 0, at most 1; 1 cuts nothing (Holtzman et al., 2020).
        top_p: f64,
        /// The same seed gives the same text.
        seed: u64,
    },
}

impl Sampling {
    /// The seed of what is drawn; any where nothing is.
    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Greedy => 0,
            Self::Nucleus { seed, .. } => seed,
        }
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation<'a> {
    /// Tokens of the prompt; at least one.
    pub prompt: &'a [u32],
    /// At most this many new tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the text, and are not part of it.
    pub stop: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Why no text was generated.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum GenerationError {
    /// There is no likeliest token.
    #[error(
        "the model's logit of token {token} is {logit}: the weights of the model or the adapter are damaged, or too large \
         for the arithmetic"
    )]
    NotFinite {
        /// The first such token.
        token: usize,
        /// What was computed for it.
        logit: f32,
    },
    /// Whoever watched its progress did not want it to go on.
    #[error("the generation of text was stopped")]
    Stopped,
    /// The tokenizer cannot decode what was generated.
    #[error("the tokenizer failed on generated tokens: {0}")]
    Decode(String),
}

/// Generates tokens after a prompt. Every new token is also handed to `on_token` as soon as it is known; when that
/// returns false, generation ends.
///
/// # Errors
/// [`GenerationError::NotFinite`].
pub fn generate(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    request: &Generation,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<Vec<u32>, GenerationError> {
    let mut cache = KeyValueCache::default();
    let mut random = SplitMix64::keyed(request.sampling.seed(), "generate", 0);
    let mut new = Vec::new();
    let mut next = request.prompt.to_vec();
    while new.len() < request.max_new_tokens {
        let logits = backbone.next_logits(&next, adapter, &mut cache);
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let token = choose(&logits, request.sampling, &mut random)?;
        if request.stop.contains(&token) {
            break;
        }
        new.push(token);
        if !on_token(token) {
            break;
        }
        next = vec![token];
    }
    Ok(new)
}

/// Refuses logits that are no numbers.
pub(super) fn check_finite(logits: &[f32]) -> Result<(), GenerationError> {
    match logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()) {
        Some((token, &logit)) => Err(GenerationError::NotFinite { token, logit }),
        None => Ok(()),
    }
}

/// The place of the largest, of equal ones the first.
fn argmax(logits: &[f32]) -> Result<usize, GenerationError> {
    check_finite(logits)?;
    let best = |best: usize, (i, x): (usize, &f32)| if *x > logits[best] { i } else { best };
    Ok(logits.iter().enumerate().fold(0, best))
}

/// The next token.
pub(super) fn choose(logits: &[f32], sampling: Sampling, random: &mut SplitMix64) -> Result<u32, GenerationError> {
    let greedy = argmax(logits)?;
    let Sampling::Nucleus { temperature, top_p, .. } = sampling else {
        return Ok(greedy as u32);
    };
    let max = f64::from(logits[greedy]);
    let weight = |x: &f32| ((f64::from(*x) - max) / temperature).exp();
    let mut weights: Vec<(usize, f64)> = logits.iter().map(weight).enumerate().collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut kept = 0.0;
    let nucleus = weights.iter().position(|(_, weight)| {
        kept += weight;
        kept >= top_p * total
    });
    weights.truncate(nucleus.map_or(weights.len(), |last| last + 1));
    let mut left = random.next_unit() * kept;
    for (token, weight) in &weights {
        left -= weight;
        if left < 0.0 {
            return Ok(*token as u32);
        }
    }
    Ok(weights.last().map_or(greedy, |(token, _)| *token) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut random = SplitMix64::keyed(0, "test", 0);
        assert_eq!(choose(&[0.0, 2.0, 2.0, 1.0], Sampling::Greedy, &mut random), Ok(1));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let mut random = SplitMix64::keyed(0, "test", 0);
        let nucleus = Sampling::Nucleus { temperature: 1.0, top_p: 0.9, seed: 0 };
        for sampling in [Sampling::Greedy, nucleus] {
            let error = choose(&[0.0, 1.0, f32::NAN], sampling, &mut random).unwrap_err();
            assert!(matches!(error, GenerationError::NotFinite { token: 2, .. }), "{error}");
            let error = choose(&[0.0, f32::INFINITY, 1.0], sampling, &mut random);
            assert_eq!(error, Err(GenerationError::NotFinite { token: 1, logit: f32::INFINITY }));
        }
    }

    #[test]
    fn samples_follow_the_probabilities_and_stay_in_the_nucleus() {
        // Probabilities 0.6, 0.3, 0.1.
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        let mut random = SplitMix64::keyed(1, "test", 0);
        let mut draw = |top_p| {
            let sampling = Sampling::Nucleus { temperature: 1.0, top_p, seed: 1 };
            let mut counts = [0u32; 3];
            for _ in 0..30_000 {
                counts[choose(&logits, sampling, &mut random).unwrap() as usize] += 1;
            }
            counts.map(|count| f64::from(count) / 30_000.0)
        };
        for (share, expected) in draw(1.0).into_iter().zip([0.6, 0.3, 0.1]) {
            assert!((share - expected).abs() < 0.015, "{share} for {expected}");
        }
        let cut = draw(0.85);
        assert_eq!(cut[2], 0.0);
        assert!((cut[0] - 2.0 / 3.0).abs() < 0.015);
    }
}
