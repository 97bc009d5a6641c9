//! Attention over contexts on the CPU.
//!
//! Parallel over query tokens (forward and dq) and over key tokens (dk and dv), so that every output row is written by one
//! thread in a fixed order.

use super::simd;
use crate::layout::AttentionLayout;
use rayon::prelude::*;
use std::ops::Range;

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

/// The keys that one query sees, as ranges of rows of the key/value tensor.
fn visible_keys(layout: &AttentionLayout, segment: usize, query: usize) -> Vec<Range<usize>> {
    let visible = |&key: &usize| layout.visible(query, key);
    let runs = layout.segments[segment].keys.iter().flat_map(|range| {
        // Positions ascend within a range: what is visible is a run.
        let start = range.clone().find(visible).unwrap_or(range.end);
        let end = (start..range.end).find(|key| !visible(key)).unwrap_or(range.end);
        (start < end).then_some(start..end)
    });
    runs.collect()
}

impl Attention<'_> {
    fn query(&self, query: usize, head: usize) -> &[f32] {
        let d = self.layout.head_dim;
        let at = (query * self.layout.heads + head) * d;
        &self.q[at..at + d]
    }

    fn kv<'a>(&self, x: &'a [f32], key: usize, head: usize) -> &'a [f32] {
        let (d, group) = (self.layout.head_dim, self.layout.heads / self.layout.kv_heads);
        let at = (key * self.layout.kv_heads + head / group) * d;
        &x[at..at + d]
    }

    /// Fills `scores` with those of a query and the keys.
    fn scores(&self, query: usize, head: usize, keys: &[Range<usize>], scores: &mut Vec<f32>) {
        let q = self.query(query, head);
        let keys = keys.iter().cloned().flatten();
        self.finish_scores(keys.map(|key| simd::dot(q, self.kv(self.k, key, head))), scores);
    }

    /// Fills `scores` with `products` q·k, scaled and soft-capped.
    fn finish_scores(&self, products: impl Iterator<Item = f32>, scores: &mut Vec<f32>) {
        scores.clear();
        scores.extend(products.map(|product| product * self.layout.scale));
        if let Some(cap) = self.layout.softcap {
            simd::soft_cap(scores, cap);
        }
    }

    /// The derivative of a score with respect to q·k.
    fn slope(&self, score: f32) -> f32 {
        let slope = self.layout.softcap.map_or(1.0, |cap| simd::soft_cap_slope(score, cap));
        slope * self.layout.scale
    }

    /// softmax(scores)·v, `[queries, heads · head_dim]`.
    pub(super) fn forward(&self) -> Vec<f32> {
        let d = self.layout.head_dim;
        let owner = self.layout.segment_of_query();
        let mut out = vec![0.0f32; self.q.len()];
        let rows = out.par_chunks_exact_mut(self.layout.heads * d).enumerate();
        rows.for_each_init(Vec::new, |weights, (query, out)| {
            let keys = visible_keys(self.layout, owner[query], query);
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                self.scores(query, head, &keys, weights);
                let max = simd::max(weights);
                let sum = simd::exp_in_place(weights, max);
                for (key, weight) in keys.iter().cloned().flatten().zip(weights.iter()) {
                    simd::axpy(weight / sum, self.kv(self.v, key, head), out);
                }
            }
        });
        out
    }

    /// The gradients, given `grad` of the output.
    ///
    /// Probabilities are computed again rather than kept from the forward pass. With P = softmax(S) and
    /// D = rowsum(P ∘ G·Vᵀ): dS = P ∘ (G·Vᵀ − D) (Dao et al., 2022, appendix B); a soft cap multiplies dS by its slope.
    pub(super) fn backward(&self, grad: &[f32]) -> AttentionGradients {
        let (d, heads) = (self.layout.head_dim, self.layout.heads);
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
                let keys = visible_keys(self.layout, owner[query], query);
                for (head, (dq, term)) in dq.chunks_exact_mut(d).zip(terms).enumerate() {
                    self.scores(query, head, &keys, weights);
                    slopes.clear();
                    slopes.extend(weights.iter().map(|&score| self.slope(score)));
                    let max = simd::max(weights);
                    let sum = simd::exp_in_place(weights, max);
                    let g = grad_of(query, head);
                    products.clear();
                    for key in keys.iter().cloned().flatten() {
                        products.push(simd::dot(g, self.kv(self.v, key, head)));
                    }
                    let inner = simd::dot(weights, products) / sum;
                    *term = [max + sum.ln(), inner];
                    let each = weights.iter().zip(&*products).zip(&*slopes);
                    for (key, ((weight, product), slope)) in keys.iter().cloned().flatten().zip(each) {
                        let ds = weight / sum * (product - inner) * slope;
                        simd::axpy(ds, self.kv(self.k, key, head), dq);
                    }
                }
            },
        );

        let readers = self.readers();
        let width = self.layout.kv_heads * d;
        let group = heads / self.layout.kv_heads;
        let (mut dk, mut dv) = (vec![0.0f32; self.k.len()], vec![0.0f32; self.v.len()]);
        let rows = dk.par_chunks_exact_mut(width).zip(dv.par_chunks_exact_mut(width));
        rows.enumerate().for_each_init(
            <(Vec<usize>, Vec<f32>, Vec<f32>)>::default,
            |(queries, weights, slopes), (key, (dk, dv))| {
                queries.clear();
                let segments = readers[key].iter().cloned().flatten();
                queries.extend(segments.filter(|&query| self.layout.visible(query, key)));
                for head in 0..heads {
                    let (k, v) = (self.kv(self.k, key, head), self.kv(self.v, key, head));
                    let pairs = queries.iter().map(|&query| simd::dot(self.query(query, head), k));
                    self.finish_scores(pairs, weights);
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
