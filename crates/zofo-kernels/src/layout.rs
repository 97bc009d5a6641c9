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

    /// The segment of every query.
    pub fn segment_of_query(&self) -> Vec<usize> {
        let mut owner = vec![usize::MAX; self.query_positions.len()];
        for (index, segment) in self.segments.iter().enumerate() {
            owner[segment.queries.clone()].fill(index);
        }
        owner
    }

    /// The same rows once more behind themselves, for a pass in which both signs of a perturbation
    /// are evaluated in lockstep ([`WeightView::Pair`](crate::WeightView::Pair)).
    pub fn doubled(&self) -> Self {
        let (queries, keys) = (self.query_positions.len(), self.key_positions.len());
        let mut twice = self.clone();
        twice.segments.extend(self.segments.iter().map(|segment| Segment {
            queries: segment.queries.start + queries..segment.queries.end + queries,
            keys: segment.keys.iter().map(|k| k.start + keys..k.end + keys).collect(),
        }));
        twice.query_positions.extend_from_slice(&self.query_positions);
        twice.key_positions.extend_from_slice(&self.key_positions);
        twice
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

    /// The same tokens once more behind themselves, like [`AttentionLayout::doubled`].
    pub fn doubled(&self) -> Self {
        let twice = |table: &[f32]| [table, table].concat().into();
        Self { cos: twice(&self.cos), sin: twice(&self.sin), ..self.clone() }
    }
}
