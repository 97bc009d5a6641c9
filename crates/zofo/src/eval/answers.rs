//! Answers of generation tasks: many prompts at once, each until it says that it is done.

use super::decoding::{Author, Context, Decoding};
use super::generate::{GenerationError, Sampling, choose};
use super::packing::{common_beginning_of_prompts, pack};
use crate::model::Backbone;
use crate::task::SplitMix64;
use std::ops::ControlFlow;
use tokenizers::Tokenizer;

/// Tokens of prompts and answers that are evaluated at once, about. Bounds activations and keys and values.
pub(super) const TOKENS_PER_BATCH: usize = 2048;

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

/// An answer that is being written.
struct Open {
    /// Of its prompt.
    index: usize,
    context: Context,
    new: Vec<u32>,
    random: SplitMix64,
}

/// One answer per prompt, in their order, whose tokens are chosen by `sampling`: of greedy ones the likeliest, of equal
/// ones the first; drawn ones depend on the seed and the place of the prompt alone. Every step is one pass over the weights
/// for all prompts of a batch, and what all prompts begin with is computed once. `progress` is told how many answers are
/// done, and says whether to go on.
///
/// # Errors
/// [`GenerationError`].
pub fn generate_answers(
    author: Author,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    end: AnswerEnd,
    sampling: Sampling,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Answer>, GenerationError> {
    let beginning = beginning(author.backbone, prompts);
    let begun = Decoding::new(author, beginning);
    let sizes: Vec<usize> = prompts.iter().map(|prompt| prompt.len() - beginning.len() + end.max_new_tokens).collect();
    let mut answers = vec![Answer { text: String::new(), tokens: 0 }; prompts.len()];
    let mut done = 0;
    for group in pack(&sizes, TOKENS_PER_BATCH) {
        let mut decoding = begun.fresh();
        let (contexts, mut logits) = decoding.start(group.iter().map(|&index| &prompts[index][beginning.len()..]));
        let open = |(&index, context): (&usize, _)| Open {
            index,
            context,
            new: Vec::new(),
            random: SplitMix64::keyed(sampling.seed(), "generate", index as u64),
        };
        let mut open: Vec<Open> = group.iter().zip(contexts).map(open).collect();
        while !open.is_empty() {
            // Those that are done leave; the others take their token along.
            let mut left = Vec::new();
            for (sequence, mut answer) in std::mem::take(&mut open).into_iter().enumerate() {
                answer.new.push(choose(logits.row(sequence), sampling, &mut answer.random)?);
                match finished(&answer.new, end, tokenizer)? {
                    Some(text) => {
                        answers[answer.index] = Answer { text, tokens: answer.new.len() };
                        done += 1;
                    }
                    None => left.push(answer),
                }
            }
            if progress(done).is_break() {
                return Err(GenerationError::Stopped);
            }
            open = left;
            logits = decoding.step(open.iter_mut().map(|answer| {
                let last = answer.new[answer.new.len() - 1];
                (&mut answer.context, last)
            }));
        }
    }
    Ok(answers)
}

/// What all prompts begin with, if it is worth while to compute it once and the model can.
pub(super) fn beginning<'p>(backbone: &Backbone, prompts: &'p [Vec<u32>]) -> &'p [u32] {
    if backbone.config().keys_depend_on_length() { &[] } else { common_beginning_of_prompts(prompts) }
}

/// The text of an answer, if its last token ends it.
pub(super) fn finished(new: &[u32], end: AnswerEnd, tokenizer: &Tokenizer) -> Result<Option<String>, GenerationError> {
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
