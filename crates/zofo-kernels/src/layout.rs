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
    /// A query at position i sees keys at positions > i − window.
    pub sliding_window: Option<usize>,
}

impl AttentionLayout {
    /// The scale of the scores, 1/√head_dim.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

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

/// Cosine and sine of the rotary angle of every token, `[tokens, head_dim / 2]` row-major.
#[derive(Clone, Debug)]
pub struct RotaryAngles {
    /// cos(position · frequency).
    pub cos: Arc<[f32]>,
    /// sin(position · frequency).
    pub sin: Arc<[f32]>,
    /// head_dim / 2.
    pub half: usize,
}

impl RotaryAngles {
    /// The opposite rotation, which is also the gradient of the rotation.
    pub fn inverse(&self) -> Self {
        Self { cos: self.cos.clone(), sin: self.sin.iter().map(|s| -s).collect(), half: self.half }
    }
}
