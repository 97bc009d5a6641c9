//! Many sequences that grow by a token each with every pass over the weights.

use crate::model::{Backbone, Batch, KeyValueCache};
use crate::peft::Adapter;
use crate::zo::Perturbation;
use burn::tensor::Tensor;
use std::ops::Range;

/// What writes text: θ, or what a perturbation of one sign makes of it, with an adapter.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    /// θ.
    pub backbone: &'a Backbone,
    /// A block with it.
    pub adapter: Option<&'a Adapter>,
    /// Under which θ is read.
    pub perturbation: &'a Perturbation,
}

impl<'a> Author<'a> {
    /// θ with an adapter.
    pub fn new(backbone: &'a Backbone, adapter: Option<&'a Adapter>) -> Self {
        Self { backbone, adapter, perturbation: &Perturbation::None }
    }

    fn next_logits(&self, ids: &[u32], cache: &mut KeyValueCache) -> Tensor<2> {
        self.backbone.next_logits_under(self.perturbation, ids, self.adapter, cache)
    }

    fn extend(&self, batch: &Batch, cache: &mut KeyValueCache, last: &[usize]) -> Tensor<2> {
        self.backbone.extend(self.perturbation, batch, self.adapter, cache, last)
    }
}

/// Who writes, and the keys and values of the sequences that are continued.
pub(super) struct Decoding<'a> {
    author: Author<'a>,
    cache: KeyValueCache,
}

/// What a sequence attends to. Copies of it share what they have in common.
#[derive(Clone)]
pub(super) enum Context {
    /// Keys and values among those of all sequences.
    Shared {
        /// Where they are, in order of position.
        keys: Vec<Range<usize>>,
        /// The position of the next token.
        position: usize,
    },
    /// Keys and values of its own.
    Own(KeyValueCache),
}

/// Logits of several sequences.
pub(super) struct Logits {
    values: Vec<f32>,
    vocabulary: usize,
}

impl Logits {
    fn new(rows: &[Tensor<2>]) -> Self {
        let vocabulary = rows.first().map_or(1, |row| row.dims()[1]);
        Self {
            values: rows.iter().flat_map(|row| row.clone().into_data().iter::<f32>().collect::<Vec<_>>()).collect(),
            vocabulary,
        }
    }

    /// Those of a sequence.
    pub(super) fn row(&self, sequence: usize) -> &[f32] {
        &self.values[sequence * self.vocabulary..][..self.vocabulary]
    }
}

impl<'a> Decoding<'a> {
    /// What `beginning` gives, with which all sequences begin. It may be empty.
    pub(super) fn new(author: Author<'a>, beginning: &[u32]) -> Self {
        let cache = if beginning.is_empty() {
            KeyValueCache::default()
        } else {
            author.backbone.prefill(author.perturbation, beginning, author.adapter)
        };
        Self { author, cache }
    }

    /// The same beginning for other sequences.
    pub(super) fn fresh(&self) -> Self {
        Self { cache: self.cache.clone(), ..*self }
    }

    /// Feeds `prompts`, which follow the beginning; gives the context of each, and its logits after the last token.
    pub(super) fn start<'p>(&mut self, prompts: impl Iterator<Item = &'p [u32]>) -> (Vec<Context>, Logits) {
        if self.author.backbone.config().keys_depend_on_length() {
            // Keys of a short sequence are not those of a long one, so that sequences cannot share them.
            let start = |prompt| {
                let mut cache = self.cache.clone();
                let logits = self.author.next_logits(prompt, &mut cache);
                (Context::Own(cache), logits)
            };
            let (contexts, rows): (_, Vec<_>) = prompts.map(start).unzip();
            return (contexts, Logits::new(&rows));
        }
        let past = self.cache.len();
        let mut batch = Batch::default();
        let rows: Vec<Range<usize>> =
            prompts.map(|ids| batch.push_continuation(ids, past, std::iter::once(0..past).collect())).collect();
        let last: Vec<usize> = rows.iter().map(|own| own.end - 1).collect();
        let logits = self.author.extend(&batch, &mut self.cache, &last);
        // Without a beginning, the virtual tokens of the adapter came first.
        let shared = self.cache.len() - batch.tokens();
        let context = |own: Range<usize>| {
            let keys = [0..shared, shared + own.start..shared + own.end];
            Context::Shared {
                keys: keys.into_iter().filter(|keys| !keys.is_empty()).collect(),
                position: shared + own.len(),
            }
        };
        (rows.into_iter().map(context).collect(), Logits::new(&[logits]))
    }

    /// Feeds one token to each of some sequences; gives their logits after it.
    pub(super) fn step<'c>(&mut self, sequences: impl Iterator<Item = (&'c mut Context, u32)>) -> Logits {
        let mut batch = Batch::default();
        let mut alone = Vec::new();
        let past = self.cache.len();
        for (context, token) in sequences {
            match context {
                Context::Shared { keys, position } => {
                    let own = batch.push_continuation(&[token], *position, keys.clone());
                    let key = past + own.start;
                    match keys.last_mut() {
                        Some(keys) if keys.end == key => keys.end += 1,
                        _ => keys.push(key..key + 1),
                    }
                    *position += 1;
                }
                Context::Own(cache) => alone.push(self.author.next_logits(&[token], cache)),
            }
        }
        if batch.tokens() > 0 {
            let all: Vec<usize> = (0..batch.tokens()).collect();
            alone.push(self.author.extend(&batch, &mut self.cache, &all));
        }
        Logits::new(&alone)
    }
}
