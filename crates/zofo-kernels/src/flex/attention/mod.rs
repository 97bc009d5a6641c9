//! Attention over contexts on the CPU.
//!
//! Parallel over blocks of queries, or of keys for their gradients, so that every output is written by one thread in a fixed
//! order.

mod backward;
mod forward;
mod panels;

use super::columns::SharedColumns;
use super::gemm::{Kernel, KernelTask, with_kernel};
use super::simd;
use crate::isa::Isa;
use crate::layout::AttentionLayout;
use backward::{AttentionGradients, Backward};
use rayon::prelude::*;
use std::ops::Range;

/// So many register blocks of rows must share keys and values for their packing to pay.
const PACKED_BLOCKS: usize = 2;

/// Inputs of one call: q `[queries, heads · head_dim]`, k and v `[keys, kv_heads · head_dim]`.
pub(super) struct Attention<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) layout: &'a AttentionLayout,
}

/// Queries of a block. More would compute more products with keys that come after their query.
const QUERIES: usize = 32;

/// Queries of a segment and the heads that share a key/value head.
struct Unit {
    segment: usize,
    queries: Range<usize>,
    kv_head: usize,
}

/// The keys that any of these queries of a segment sees, as ranges of rows of the key/value tensor.
fn visible_keys(layout: &AttentionLayout, segment: usize, queries: Range<usize>) -> Vec<Range<usize>> {
    let positions = &layout.query_positions[queries];
    let (Some(&first), Some(&last)) = (positions.iter().min(), positions.iter().max()) else { return Vec::new() };
    let visible = layout.segments[segment].keys.iter().map(|range| {
        // Positions ascend within a range: what is visible is a run.
        let positions = &layout.key_positions[range.clone()];
        let is_left_behind =
            |&key: &u32| layout.sliding_window.is_some_and(|window| first.saturating_sub(key) as usize >= window);
        let start = positions.partition_point(is_left_behind);
        let end = positions.partition_point(|&key| key <= last);
        range.start + start..range.start + end.max(start)
    });
    visible.filter(|range| !range.is_empty()).collect()
}

impl Attention<'_> {
    fn query(&self, query: usize, head: usize) -> &[f32] {
        let d = self.layout.head_dim;
        let at = (query * self.layout.heads + head) * d;
        &self.q[at..at + d]
    }

    /// Heads that share a key/value head.
    fn group(&self) -> usize {
        self.layout.heads / self.layout.kv_heads
    }

    fn kv<'a>(&self, x: &'a [f32], key: usize, kv_head: usize) -> &'a [f32] {
        let d = self.layout.head_dim;
        let at = (key * self.layout.kv_heads + kv_head) * d;
        &x[at..at + d]
    }

    /// Fills `scores` with those of a query and the keys.
    fn scores(&self, query: usize, head: usize, keys: &[Range<usize>], scores: &mut Vec<f32>) {
        let q = self.query(query, head);
        let keys = keys.iter().cloned().flatten();
        scores.clear();
        scores.extend(keys.map(|key| simd::dot(q, self.kv(self.k, key, head / self.group()))));
        self.scale(scores);
    }

    /// Scores from products q·k: scaled and soft-capped.
    fn scale(&self, products: &mut [f32]) {
        simd::scale(products, self.layout.scale);
        if let Some(cap) = self.layout.softcap {
            simd::soft_cap(products, cap);
        }
    }

    /// The derivatives of scores with respect to q·k.
    fn slopes(&self, scores: &[f32], slopes: &mut Vec<f32>) {
        slopes.clear();
        match self.layout.softcap {
            Some(cap) => {
                slopes.extend(scores.iter().map(|&score| simd::soft_cap_slope(score, cap) * self.layout.scale));
            }
            None => slopes.resize(scores.len(), self.layout.scale),
        }
    }

    /// A query's scores of keys that it does not see become −∞.
    fn mask(&self, scores: &mut [f32], key_positions: &[u32], query_position: u32) {
        simd::mask(scores, key_positions, query_position, self.layout.sliding_window.unwrap_or(usize::MAX));
    }

    /// A key's scores of queries that do not see it become −∞.
    fn mask_queries(&self, scores: &mut [f32], query_positions: &[u32], key_position: u32) {
        simd::mask_queries(scores, query_positions, key_position, self.layout.sliding_window.unwrap_or(usize::MAX));
    }

    /// softmax(scores)·v, `[queries, heads · head_dim]`.
    pub(super) fn forward(&self) -> Vec<f32> {
        with_kernel(Isa::best(), self)
    }

    /// [`forward`](Self::forward) for some queries and the heads of one key/value head, each by itself.
    ///
    /// # Safety
    ///
    /// While it runs, nobody else may hold these rows' columns of `out`.
    unsafe fn forward_one_by_one(&self, unit: &Unit, weights: &mut Vec<f32>, out: &SharedColumns) {
        let (d, group, kv_head) = (self.layout.head_dim, self.group(), unit.kv_head);
        for query in unit.queries.clone() {
            let keys = visible_keys(self.layout, unit.segment, query..query + 1);
            for head in kv_head * group..(kv_head + 1) * group {
                self.scores(query, head, &keys, weights);
                let max = simd::max(weights);
                let sum = simd::exp_in_place(weights, max);
                // SAFETY: promised by the caller; this slice is dropped before the next is made.
                let out = unsafe { out.row_part(query, head * d, d) };
                for (key, weight) in keys.iter().cloned().flatten().zip(weights.iter()) {
                    simd::axpy(weight / sum, self.kv(self.v, key, kv_head), out);
                }
            }
        }
    }

    /// The gradients, given `grad` of the output.
    pub(super) fn backward(&self, grad: &[f32]) -> AttentionGradients {
        with_kernel(Isa::best(), &Backward { attention: self, grad })
    }

    /// Blocks of queries of one segment, for every key/value head.
    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for (index, segment) in self.layout.segments.iter().enumerate() {
            for start in segment.queries.clone().step_by(QUERIES) {
                let queries = start..segment.queries.end.min(start + QUERIES);
                let unit = |kv_head| Unit { segment: index, queries: queries.clone(), kv_head };
                units.extend((0..self.layout.kv_heads).map(unit));
            }
        }
        units
    }

    /// Row by row of a block a query and one of the heads that share a key/value head.
    fn rows(&self, queries: impl Iterator<Item = usize>, kv_head: usize) -> impl Iterator<Item = (usize, usize)> {
        let group = self.group();
        queries.flat_map(move |query| (kv_head * group..(kv_head + 1) * group).map(move |head| (query, head)))
    }
}

impl Unit {
    fn rows(&self, attention: &Attention) -> Vec<(usize, usize)> {
        attention.rows(self.queries.clone(), self.kv_head).collect()
    }
}

impl KernelTask for &Attention<'_> {
    type Output = Vec<f32>;

    fn run<const R: usize, const C: usize>(self, kernel: &Kernel<f32, R, C>) -> Vec<f32> {
        let layout = self.layout;
        let mut out = vec![0.0f32; self.q.len()];
        let shared = SharedColumns::new(&mut out, layout.heads * layout.head_dim);
        self.units().into_par_iter().for_each_init(
            <(Vec<f32>, forward::Scratch)>::default,
            |(weights, scratch), unit| {
                // SAFETY: segments have no query in common, and a unit has the columns of its heads.
                unsafe {
                    if unit.queries.len() * self.group() < PACKED_BLOCKS * R {
                        self.forward_one_by_one(&unit, weights, &shared);
                    } else {
                        forward::forward(self, kernel, &unit, scratch, &shared);
                    }
                }
            },
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::{Direction, ParameterId};
    use crate::layout::Segment;
    use proptest::prelude::*;

    prop_compose! {
        /// Layouts of a row and up to three that go on from what it begins with, with all that a model may ask for.
        pub(super) fn layouts()(
            shared in 1usize..130,
            branches in prop::collection::vec(1usize..50, 0..4),
            kv_heads in 1usize..3,
            group in 1usize..4,
            head_dim in 1usize..40,
            sliding_window in prop::option::of(1usize..60),
            softcap in prop::option::of(1.0f32..5.0),
        ) -> AttentionLayout {
            let (segments, positions) = tree(shared, &branches);
            AttentionLayout {
                segments,
                query_positions: positions.clone(),
                key_positions: positions,
                heads: kv_heads * group,
                kv_heads,
                head_dim,
                scale: 0.3,
                softcap,
                sliding_window,
            }
        }
    }

    /// A row, and rows that go on from what it begins with.
    fn tree(shared: usize, branches: &[usize]) -> (Vec<Segment>, Vec<u32>) {
        let beginning = 0..shared;
        let mut segments = vec![Segment { queries: beginning.clone(), keys: vec![beginning.clone()] }];
        let mut positions: Vec<u32> = (0..shared as u32).collect();
        for &length in branches {
            let own = positions.len()..positions.len() + length;
            positions.extend((shared..shared + length).map(|position| position as u32));
            segments.push(Segment { queries: own.clone(), keys: vec![beginning.clone(), own] });
        }
        (segments, positions)
    }

    /// Normals for so many heads of every position.
    pub(super) fn normals(layout: &AttentionLayout, heads: usize, seed: u64, name: &str) -> Vec<f32> {
        let mut values = vec![0.0f32; layout.query_positions.len() * heads * layout.head_dim];
        Direction::new(seed, ParameterId::from_name(name)).fill(0, &mut values);
        values
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Every instruction set, against queries one by one.
        #[test]
        fn blocks_of_queries_attend_like_single_ones(layout in layouts(), seed: u64) {
            let values = |name, heads| normals(&layout, heads, seed, name);
            let [q, k, v] = [values("q", layout.heads), values("k", layout.kv_heads), values("v", layout.kv_heads)];
            let attention = Attention { q: &q, k: &k, v: &v, layout: &layout };
            let mut single = vec![0.0f32; q.len()];
            let out = SharedColumns::new(&mut single, layout.heads * layout.head_dim);
            for (index, segment) in layout.segments.iter().enumerate() {
                for kv_head in 0..layout.kv_heads {
                    // SAFETY: nobody else writes.
                    unsafe {
                        let unit = Unit { segment: index, queries: segment.queries.clone(), kv_head };
                        attention.forward_one_by_one(&unit, &mut Vec::new(), &out);
                    }
                }
            }
            for isa in Isa::available() {
                let fast = with_kernel(isa, &attention);
                for (fast, single) in fast.iter().zip(&single) {
                    prop_assert!((fast - single).abs() < 2e-5, "{isa:?}: {fast} for {single}");
                }
            }
        }
    }
}
