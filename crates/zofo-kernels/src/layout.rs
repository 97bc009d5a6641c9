//! Ragged batches: who attends to whom, and where every token stands.

use std::ops::Range;
use std::sync::Arc;

/// The queries of one row and the keys that they may see.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Rows of the query tensor.
    pub queries: Range<usize>,
    /// Ranges of the key/value tensor, in order of position: the contexts first, the row's own
    /// tokens last. A key is visible if its position is not after the query's.
    pub keys: Vec<Range<usize>>,
}

/// Attention over contexts for a ragged batch (`[tokens, heads · head_dim]` queries).
///
/// A row attends to its own tokens and to any number of earlier ranges of the packed key/value
/// tensor. A prompt that several candidates share, a key/value cache and learned prefixes are all
/// the same thing: a range.
#[derive(Clone, Debug)]
pub struct AttentionLayout {
    /// Rows of the batch. Their query ranges are disjoint and cover all queries.
    pub segments: Vec<Segment>,
    /// Position of every query.
    pub query_positions: Vec<u32>,
    /// Position of every row of the key/value tensor.
    pub key_positions: Vec<u32>,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads (divides `heads`).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores q·k: 1/√head_dim in most families.
    pub scale: f32,
    /// Bounds the scaled scores to ±c before masking: s ← c·tanh(s/c) (Gemma 2's
    /// `attn_logit_softcapping`).
    pub softcap: Option<f32>,
    /// A query at position i sees keys at positions > i − window.
    pub sliding_window: Option<usize>,
}

impl AttentionLayout {
    /// Whether the key in row `key` of the key/value tensor is visible from row `query`.
    #[inline]
    pub fn visible(&self, query: usize, key: usize) -> bool {
        let (q, k) = (self.query_positions[query], self.key_positions[key]);
        k <= q && self.sliding_window.is_none_or(|window| ((q - k) as usize) < window)
    }

    /// The same rows `times` times behind each other, for a pass in which that many different weights are evaluated in
    /// lockstep, as the two of a [`WeightView::Pair`](crate::WeightView::Pair).
    pub fn repeated(&self, times: usize) -> Self {
        let (queries, keys) = (self.query_positions.len(), self.key_positions.len());
        let moved = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
        let copy = |copy: usize| {
            self.segments.iter().map(move |segment| Segment {
                queries: moved(&segment.queries, copy * queries),
                keys: segment.keys.iter().map(|range| moved(range, copy * keys)).collect(),
            })
        };
        Self {
            segments: (0..times).flat_map(copy).collect(),
            query_positions: self.query_positions.repeat(times),
            key_positions: self.key_positions.repeat(times),
            ..self.clone()
        }
    }
}

/// The rotation of every token's heads: cosines and sines `[tokens, half]` row-major.
///
/// The first 2·half elements of a head are rotated, in pairs (i, i + half); the rest pass unchanged.
#[derive(Clone, Debug)]
pub struct RotaryAngles {
    /// cos(position · frequency), possibly times a factor (the attention factor of YaRN and LongRoPE).
    pub cos: Arc<[f32]>,
    /// sin(position · frequency), times the same factor.
    pub sin: Arc<[f32]>,
    /// Number of pairs that are rotated: head_dim / 2, less where only a part of a head is rotary.
    pub half: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl RotaryAngles {
    /// The transposed map, which is the gradient: the opposite rotation, with the same factor.
    pub fn inverse(&self) -> Self {
        Self { sin: self.sin.iter().map(|s| -s).collect(), ..self.clone() }
    }

    /// The same tokens `times` times behind each other, like [`AttentionLayout::repeated`].
    pub fn repeated(&self, times: usize) -> Self {
        Self { cos: self.cos.repeat(times).into(), sin: self.sin.repeat(times).into(), ..self.clone() }
    }
}
