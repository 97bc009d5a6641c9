//! Answers of generation tasks: many prompts at once, greedily, each until it says that it is done.

use super::generate::{Generation, GenerationError, Sampling, generate, likeliest};
use super::packing::{common_beginning_of_prompts, pack};
use crate::model::{Backbone, Batch, KeyValueCache};
use crate::peft::Adapter;
use std::ops::Range;
use tokenizers::Tokenizer;

/// Tokens of prompts and answers that are evaluated at once, about. Bounds activations and keys and values.
const TOKENS_PER_BATCH: usize = 2048;

/// Where an answer ends.
#[derive(Clone, Copy, Debug)]
pub struct AnswerEnd<'a> {
    /// Tokens that end it, and are not part of it.
    pub tokens: &'a [u32],
    /// Texts that end it, and are not part of it.
    pub texts: &'a [String],
    /// Tokens after which it ends at the latest.
    pub max_new_tokens: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text, without special tokens, and without white space at both ends.
    pub text: String,
    /// Tokens that were generated, with what ends the answer.
    pub tokens: usize,
}

/// One answer per prompt, in their order: always the likeliest next token, of equal ones the first. Every step is one pass
/// over the weights for all prompts of a batch, and what all prompts begin with is computed once. `progress` is told how
/// many answers are done.
///
/// # Errors
/// Those of [`generate`], and [`GenerationError::Decode`].
pub fn generate_answers(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    end: AnswerEnd,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Answer>, GenerationError> {
    if backbone.config().keys_depend_on_length() {
        return one_by_one(backbone, adapter, tokenizer, prompts, end, progress);
    }
    let beginning = common_beginning_of_prompts(prompts);
    let cache = if beginning.is_empty() { KeyValueCache::default() } else { backbone.prefill(beginning, adapter) };
    let sizes: Vec<usize> = prompts.iter().map(|prompt| prompt.len() - beginning.len() + end.max_new_tokens).collect();
    let mut answers = vec![Answer { text: String::new(), tokens: 0 }; prompts.len()];
    let mut done = 0;
    for group in pack(&sizes, TOKENS_PER_BATCH) {
        let rows = group.iter().map(|&index| (index, &prompts[index][beginning.len()..]));
        let mut decoding = Decoding { backbone, adapter, cache: cache.clone(), sequences: Vec::new() };
        let mut next = decoding.start(rows)?;
        loop {
            // Those that are done leave; the others take their token along.
            let mut open = Vec::new();
            for (mut sequence, token) in std::mem::take(&mut decoding.sequences).into_iter().zip(next) {
                sequence.new.push(token);
                match finished(&sequence.new, end, tokenizer)? {
                    Some(text) => {
                        answers[sequence.index] = Answer { text, tokens: sequence.new.len() };
                        done += 1;
                    }
                    None => open.push(sequence),
                }
            }
            progress(done);
            if open.is_empty() {
                break;
            }
            decoding.sequences = open;
            next = decoding.step()?;
        }
    }
    Ok(answers)
}

/// The same where keys of a short sequence are not those of a long one: sequences that grow together would need several
/// versions of what they share.
fn one_by_one(
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    end: AnswerEnd,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Answer>, GenerationError> {
    let mut answers = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let (mut new, mut answer) = (Vec::new(), Ok(None));
        let request = Generation { prompt, max_new_tokens: end.max_new_tokens, stop: &[], sampling: Sampling::Greedy };
        generate(backbone, adapter, &request, |token| {
            new.push(token);
            answer = finished(&new, end, tokenizer);
            matches!(answer, Ok(None))
        })?;
        answers.push(Answer { text: answer?.unwrap_or_default(), tokens: new.len() });
        progress(answers.len());
    }
    Ok(answers)
}

/// The text of an answer, if its last token ends it.
fn finished(new: &[u32], end: AnswerEnd, tokenizer: &Tokenizer) -> Result<Option<String>, GenerationError> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, true).map_err(|error| GenerationError::Decode(error.to_string()));
    let trimmed = |text: &str| Some(text.trim().to_owned());
    if let Some((last, before)) = new.split_last()
        && end.tokens.contains(last)
    {
        return Ok(trimmed(&decode(before)?));
    }
    let text = decode(new)?;
    let stop = end.texts.iter().filter_map(|stop| text.find(stop.as_str())).min();
    Ok(match stop {
        Some(stop) => trimmed(&text[..stop]),
        None if new.len() >= end.max_new_tokens => trimmed(&text),
        None => None,
    })
}

/// Sequences that grow by a token each with every pass.
struct Decoding<'a> {
    backbone: &'a Backbone,
    adapter: Option<&'a Adapter>,
    /// Keys and values of all sequences.
    cache: KeyValueCache,
    sequences: Vec<Sequence>,
}

struct Sequence {
    index: usize,
    /// Its keys in the cache, in order of position.
    keys: Vec<Range<usize>>,
    /// Position of its next token.
    position: usize,
    new: Vec<u32>,
}

impl Decoding<'_> {
    /// Feeds the prompts, which follow what the cache holds; gives the likeliest next token of each.
    fn start<'p>(&mut self, prompts: impl Iterator<Item = (usize, &'p [u32])>) -> Result<Vec<u32>, GenerationError> {
        let past = self.cache.len();
        let mut batch = Batch::default();
        let mut rows = Vec::new();
        for (index, ids) in prompts {
            rows.push((index, batch.push_continuation(ids, past, std::iter::once(0..past).collect())));
        }
        let last: Vec<usize> = rows.iter().map(|(_, own)| own.end - 1).collect();
        let logits = self.backbone.extend(&batch, self.adapter, &mut self.cache, &last);
        // Without a common beginning, the virtual tokens of the adapter came first.
        let context = self.cache.len() - batch.tokens();
        self.sequences = rows
            .into_iter()
            .map(|(index, own)| Sequence {
                index,
                keys: [0..context, context + own.start..context + own.end]
                    .into_iter()
                    .filter(|k| !k.is_empty())
                    .collect(),
                position: context + own.len(),
                new: Vec::new(),
            })
            .collect();
        likeliest(logits)
    }

    /// Feeds every sequence's last token; gives the likeliest next ones.
    fn step(&mut self) -> Result<Vec<u32>, GenerationError> {
        let mut batch = Batch::default();
        for sequence in &mut self.sequences {
            let own = batch.push_continuation(
                &sequence.new[sequence.new.len() - 1..],
                sequence.position,
                sequence.keys.clone(),
            );
            let key = self.cache.len() + own.start;
            match sequence.keys.last_mut() {
                Some(keys) if keys.end == key => keys.end += 1,
                _ => sequence.keys.push(key..key + 1),
            }
            sequence.position += 1;
        }
        let all: Vec<usize> = (0..batch.tokens()).collect();
        likeliest(self.backbone.extend(&batch, self.adapter, &mut self.cache, &all))
    }
}
