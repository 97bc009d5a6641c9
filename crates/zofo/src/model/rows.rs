//! Who sits where in one pass: the rows of the activations, the rows of the keys, and who attends to whom.

use super::batch::Batch;
use super::config::{Attention, DecoderConfig};
use super::rope::{Frequencies, Rope};
use crate::peft::Adapter;
use burn::tensor::Tensor;
use std::collections::HashMap;
use std::ops::Range;
use zofo_kernels::{AttentionLayout, RotaryAngles, Segment};

/// Rows of one pass that share an adapter.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The rows.
    pub batch: &'a Batch,
    /// The adapter that they see, if any.
    pub adapter: Option<&'a Adapter>,
}

/// The rows of all parts, one part behind the other, for one sign of a perturbation.
///
/// A part whose adapter has a prompt begins with the rows of its virtual tokens, computed once for all sequences of the
/// part: they see nobody else, so they are the same for each. A prefix has no rows, only keys and values.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub(super) spans: Vec<Span<'a>>,
    /// Position of every row in its sequence.
    pub(super) positions: Vec<u32>,
    /// For every segment, the length of the sequence that its rows belong to; of the longest among those that share rows,
    /// because queries and keys must turn alike.
    lengths: Vec<usize>,
    segments: Vec<Segment>,
    /// Positions of the rows of the key/value tensors: cached ones first, then by part its prefix and its rows.
    key_positions: Vec<u32>,
}

/// The rows of one part.
pub(super) struct Span<'a> {
    /// The part's tokens.
    pub(super) batch: &'a Batch,
    pub(super) adapter: Option<&'a Adapter>,
    /// All rows of the part.
    pub(super) rows: Range<usize>,
    /// How many of them, at the start, are a prompt's virtual tokens.
    pub(super) prompt: usize,
    /// How many keys of a prefix stand before those of the rows.
    pub(super) prefix: usize,
}

impl Span<'_> {
    /// The rows of the part's tokens.
    pub(super) fn tokens(&self) -> Range<usize> {
        self.rows.start + self.prompt..self.rows.end
    }
}

impl<'a> Rows<'a> {
    /// The rows of `parts`, which follow cached tokens at the positions `past`.
    pub(super) fn new(parts: &[Part<'a>], past: &[u32]) -> Self {
        let mut rows = Self { key_positions: past.to_vec(), ..Self::default() };
        for part in parts {
            rows.push(part, past.len());
        }
        rows
    }

    fn push(&mut self, part: &Part<'a>, past: usize) {
        // What a cache holds begins with the virtual tokens.
        let adapter = part.adapter.filter(|_| past == 0);
        let prompt = adapter.and_then(Adapter::prompt).map_or(0, |prompt| prompt.dims()[0]);
        let prefix = adapter.map_or(0, Adapter::virtual_tokens) - prompt;
        let n = prompt + prefix;

        let (first_row, first_key) = (self.positions.len(), self.key_positions.len());
        let context = first_key..first_key + n;
        let mut lengths = sequence_lengths(part.batch, n);
        if prompt > 0 {
            // All see its rows.
            let longest = lengths.iter().copied().max().unwrap_or(n);
            lengths = vec![longest; lengths.len() + 1];
            let own = context.start + prefix..context.end;
            self.segments.push(Segment { queries: first_row..first_row + prompt, keys: vec![own] });
        }
        self.lengths.extend(lengths);
        let shift = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
        let whole = 0..past;
        self.segments.extend(part.batch.segments.iter().enumerate().map(|(index, segment)| {
            let cached = part.batch.cached.get(index).map_or(std::slice::from_ref(&whole), Vec::as_slice);
            let contexts = cached.iter().chain([&context]).filter(|range| !range.is_empty()).cloned();
            Segment {
                queries: shift(&segment.queries, first_row + prompt),
                keys: contexts.chain(segment.keys.iter().map(|keys| shift(keys, context.end))).collect(),
            }
        }));

        let tokens = part.batch.positions.iter().map(|position| position + n as u32);
        self.key_positions.extend((0..n as u32).chain(tokens.clone()));
        self.positions.extend((0..prompt as u32).chain(tokens));
        let rows = first_row..self.positions.len();
        self.spans.push(Span { batch: part.batch, adapter: part.adapter, rows, prompt, prefix });
    }

    /// Positions of the keys behind the first `past`: those that a cache does not hold yet.
    pub(super) fn new_key_positions(&self, past: usize) -> &[u32] {
        &self.key_positions[past..]
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The rows from which labels are predicted, in the order of the parts.
    pub(super) fn labelled(&self) -> Vec<usize> {
        let of_span = |span: &Span| {
            let first = span.tokens().start;
            span.batch.labels.iter().map(move |label| first + label.row).collect::<Vec<_>>()
        };
        self.spans.iter().flat_map(of_span).collect()
    }

    /// The layout of a block's attention.
    pub(super) fn attention(&self, config: &DecoderConfig, attention: &Attention) -> AttentionLayout {
        AttentionLayout {
            segments: self.segments.clone(),
            query_positions: self.positions.clone(),
            key_positions: self.key_positions.clone(),
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            sliding_window: attention.sliding_window,
            scale: attention.scale,
            softcap: attention.softcap,
        }
    }

    /// The rotation of every row's heads.
    pub(super) fn angles(&self, rope: &Rope, head_dim: usize) -> RotaryAngles {
        let half = rope.dim / 2;
        let mut by_length: HashMap<usize, Frequencies> = HashMap::new();
        let (mut cos, mut sin) = (vec![0.0f32; self.len() * half], vec![0.0f32; self.len() * half]);
        for (segment, &length) in self.segments.iter().zip(&self.lengths) {
            let frequencies = by_length.entry(length).or_insert_with(|| rope.frequencies(length));
            for row in segment.queries.clone() {
                let position = self.positions[row] as f32;
                for (pair, frequency) in frequencies.per_pair.iter().enumerate() {
                    let angle = position * frequency;
                    cos[row * half + pair] = angle.cos() * frequencies.attention_factor;
                    sin[row * half + pair] = angle.sin() * frequencies.attention_factor;
                }
            }
        }
        RotaryAngles { cos: cos.into(), sin: sin.into(), half, head_dim }
    }

    /// Keys (or values) of all rows and `signs` signs with what prefixes put before them: `of_prefix` gives a prefix's.
    pub(super) fn with_prefixes(
        &self,
        x: Tensor<2>,
        signs: usize,
        of_prefix: impl Fn(&Adapter) -> Option<Tensor<2>>,
    ) -> Tensor<2> {
        if self.spans.iter().all(|span| span.prefix == 0) {
            return x;
        }
        let mut pieces = Vec::with_capacity(signs * self.spans.len() * 2);
        for sign in 0..signs {
            for span in &self.spans {
                pieces.extend(span.adapter.filter(|_| span.prefix > 0).and_then(&of_prefix));
                let rows = span.rows.start + sign * self.len()..span.rows.end + sign * self.len();
                pieces.push(x.clone().slice([rows]));
            }
        }
        Tensor::cat(pieces, 0)
    }
}

/// The length of the sequence of every segment of `batch`, behind `virtual_tokens`: one more than the last position of the
/// segment, or of one that has keys in common with it.
fn sequence_lengths(batch: &Batch, virtual_tokens: usize) -> Vec<usize> {
    let mut of_key = vec![0usize; batch.tokens()];
    for Segment { queries, keys } in &batch.segments {
        let last = batch.positions[queries.clone()].last();
        let length = last.map_or(0, |&last| last as usize + 1) + virtual_tokens;
        for key in keys.iter().cloned().flatten() {
            of_key[key] = of_key[key].max(length);
        }
    }
    let longest = |segment: &Segment| segment.keys.iter().cloned().flatten().map(|key| of_key[key]).max();
    batch.segments.iter().map(|segment| longest(segment).unwrap_or(virtual_tokens)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{EncodedCandidate, EncodedExample};

    #[test]
    fn sequences_that_share_rows_have_the_length_of_the_longest() {
        let candidate = |length: u32| EncodedCandidate::new((0..length).collect(), 1);
        let example = |lengths: &[u32]| EncodedExample {
            candidates: lengths.iter().map(|&length| candidate(length)).collect(),
            golds: vec![0],
            line: 1,
        };
        // The last token of a candidate is not fed. Shared rows first, then those of each candidate that has any.
        let (batch, _) = Batch::candidates(&[example(&[3, 9, 6]), example(&[4, 5])]);
        assert_eq!(sequence_lengths(&batch, 0), [8, 8, 8, 4, 4]);
        assert_eq!(sequence_lengths(&batch, 3), [11, 11, 11, 7, 7]);
        let apart = Batch::answers(&[candidate(7), candidate(3)]);
        assert_eq!(sequence_lengths(&apart, 0), [6, 2]);
    }
}
