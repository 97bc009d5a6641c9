//! Attention over contexts on the CPU.
//!
//! Parallel over blocks of queries (forward), query tokens (dq) and key tokens (dk and dv), so that every output is written by
//! one thread in a fixed order.

mod block;

use super::columns::SharedColumns;
use super::gemm::{Kernel, KernelTask, with_kernel};
use super::simd;
use crate::isa::Isa;
use crate::layout::AttentionLayout;
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

/// Gradients with respect to q, k and v.
pub(super) struct AttentionGradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
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

    /// The derivative of a score with respect to q·k.
    fn slope(&self, score: f32) -> f32 {
        let slope = self.layout.softcap.map_or(1.0, |cap| simd::soft_cap_slope(score, cap));
        slope * self.layout.scale
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
    unsafe fn forward_one_by_one(
        &self,
        (segment, queries, kv_head): (usize, Range<usize>, usize),
        weights: &mut Vec<f32>,
        out: &SharedColumns,
    ) {
        let (d, group) = (self.layout.head_dim, self.group());
        for query in queries {
            let keys = visible_keys(self.layout, segment, query..query + 1);
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
    ///
    /// Probabilities are computed again rather than kept from the forward pass. With P = softmax(S) and
    /// D = rowsum(P ∘ G·Vᵀ): dS = P ∘ (G·Vᵀ − D) (Dao et al., 2022, appendix B); a soft cap multiplies dS by its slope.
    pub(super) fn backward(&self, grad: &[f32]) -> AttentionGradients {
        let (d, heads, group) = (self.layout.head_dim, self.layout.heads, self.group());
        let owner = self.layout.segment_of_query();
        let grad_of = |query: usize, head: usize| {
            let at = (query * heads + head) * d;
            &grad[at..at + d]
        };

        // log Σ exp(S) and D of every (query, head), which the second pass needs.
        let mut row_terms = vec![[0.0f32; 2]; owner.len() * heads];
        let mut dq = vec![0.0f32; self.q.len()];
        let rows = dq.par_chunks_exact_mut(heads * d).zip(row_terms.par_chunks_exact_mut(heads));
        rows.enumerate().for_each_init(
            <(Vec<f32>, Vec<f32>, Vec<f32>)>::default,
            |(weights, products, slopes), (query, (dq, terms))| {
                let keys = visible_keys(self.layout, owner[query], query..query + 1);
                for (head, (dq, term)) in dq.chunks_exact_mut(d).zip(terms).enumerate() {
                    self.scores(query, head, &keys, weights);
                    slopes.clear();
                    slopes.extend(weights.iter().map(|&score| self.slope(score)));
                    let max = simd::max(weights);
                    let sum = simd::exp_in_place(weights, max);
                    let g = grad_of(query, head);
                    products.clear();
                    for key in keys.iter().cloned().flatten() {
                        products.push(simd::dot(g, self.kv(self.v, key, head / group)));
                    }
                    let inner = simd::dot(weights, products) / sum;
                    *term = [max + sum.ln(), inner];
                    let each = weights.iter().zip(&*products).zip(&*slopes);
                    for (key, ((weight, product), slope)) in keys.iter().cloned().flatten().zip(each) {
                        let ds = weight / sum * (product - inner) * slope;
                        simd::axpy(ds, self.kv(self.k, key, head / group), dq);
                    }
                }
            },
        );

        let readers = self.readers();
        let width = self.layout.kv_heads * d;
        let (mut dk, mut dv) = (vec![0.0f32; self.k.len()], vec![0.0f32; self.v.len()]);
        let rows = dk.par_chunks_exact_mut(width).zip(dv.par_chunks_exact_mut(width));
        rows.enumerate().for_each_init(
            <(Vec<usize>, Vec<f32>, Vec<f32>)>::default,
            |(queries, weights, slopes), (key, (dk, dv))| {
                queries.clear();
                let segments = readers[key].iter().cloned().flatten();
                queries.extend(segments.filter(|&query| self.layout.visible(query, key)));
                for head in 0..heads {
                    let (k, v) = (self.kv(self.k, key, head / group), self.kv(self.v, key, head / group));
                    weights.clear();
                    weights.extend(queries.iter().map(|&query| simd::dot(self.query(query, head), k)));
                    self.scale(weights);
                    slopes.clear();
                    slopes.extend(weights.iter().map(|&score| self.slope(score)));
                    let terms = |query: usize| row_terms[query * heads + head];
                    weights.iter_mut().zip(&*queries).for_each(|(score, &query)| *score -= terms(query)[0]);
                    simd::exp_in_place(weights, 0.0);
                    let at = head / group * d..(head / group + 1) * d;
                    for ((&query, &p), slope) in queries.iter().zip(&*weights).zip(&*slopes) {
                        let (q, g, [_, inner]) = (self.query(query, head), grad_of(query, head), terms(query));
                        let ds = p * (simd::dot(g, v) - inner) * slope;
                        simd::axpy(ds, q, &mut dk[at.clone()]);
                        simd::axpy(p, g, &mut dv[at.clone()]);
                    }
                }
            },
        );
        AttentionGradients { q: dq, k: dk, v: dv }
    }

    /// For every key, the ranges of queries of the segments that have it among their keys.
    fn readers(&self) -> Vec<Vec<Range<usize>>> {
        let mut readers = vec![Vec::new(); self.layout.key_positions.len()];
        for segment in &self.layout.segments {
            for key in segment.keys.iter().cloned().flatten() {
                readers[key].push(segment.queries.clone());
            }
        }
        readers
    }
}

impl KernelTask for &Attention<'_> {
    type Output = Vec<f32>;

    fn run<const R: usize, const C: usize>(self, kernel: &Kernel<f32, R, C>) -> Vec<f32> {
        let layout = self.layout;
        let mut units = Vec::new();
        for (index, segment) in layout.segments.iter().enumerate() {
            for start in segment.queries.clone().step_by(block::QUERIES) {
                let queries = start..segment.queries.end.min(start + block::QUERIES);
                units.extend((0..layout.kv_heads).map(|kv_head| (index, queries.clone(), kv_head)));
            }
        }
        let mut out = vec![0.0f32; self.q.len()];
        let shared = SharedColumns::new(&mut out, layout.heads * layout.head_dim);
        units.into_par_iter().for_each_init(<(Vec<f32>, block::Scratch)>::default, |(weights, scratch), unit| {
            // SAFETY: segments have no query in common, and a unit has the columns of its heads.
            unsafe {
                if unit.1.len() * self.group() < PACKED_BLOCKS * R {
                    self.forward_one_by_one(unit, weights, &shared);
                } else {
                    block::forward(self, kernel, unit, scratch, &shared);
                }
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::{Direction, ParameterId};
    use crate::layout::Segment;
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Every instruction set, against queries one by one.
        #[test]
        fn blocks_of_queries_attend_like_single_ones(
            shared in 1usize..100,
            branches in prop::collection::vec(1usize..50, 0..4),
            kv_heads in 1usize..3,
            group in 1usize..4,
            head_dim in 1usize..40,
            sliding_window in prop::option::of(1usize..60),
            softcap in prop::option::of(1.0f32..5.0),
            seed: u64,
        ) {
            let (segments, positions) = tree(shared, &branches);
            let heads = kv_heads * group;
            let values = |name: &str, width: usize| {
                let mut values = vec![0.0f32; positions.len() * width];
                Direction::new(seed, ParameterId::from_name(name)).fill(0, &mut values);
                values
            };
            let [q, k, v] =
                [values("q", heads * head_dim), values("k", kv_heads * head_dim), values("v", kv_heads * head_dim)];
            let layout = AttentionLayout {
                segments,
                query_positions: positions.clone(),
                key_positions: positions.clone(),
                heads,
                kv_heads,
                head_dim,
                scale: 0.3,
                softcap,
                sliding_window,
            };
            let attention = Attention { q: &q, k: &k, v: &v, layout: &layout };
            let mut single = vec![0.0f32; q.len()];
            let out = SharedColumns::new(&mut single, heads * head_dim);
            for (index, segment) in layout.segments.iter().enumerate() {
                for kv_head in 0..kv_heads {
                    // SAFETY: nobody else writes.
                    unsafe {
                        attention.forward_one_by_one((index, segment.queries.clone(), kv_head), &mut Vec::new(), &out);
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
