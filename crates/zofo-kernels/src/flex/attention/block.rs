//! Attention of many queries at once.
//!
//! The queries of a block, each with all heads that share a key/value head, are the rows of two matrix products: S = Q·Kᵀ
//! and O = softmax(S)·V. Both run in the register blocks of x·W, on panels that are packed for the block.

use super::Attention;
use crate::flex::columns::SharedColumns;
use crate::flex::gemm::Kernel;
use crate::flex::simd;
use std::ops::Range;

/// Queries of a block. More would compute more products with keys that come after their query.
pub(super) const QUERIES: usize = 32;

/// Buffers that a thread keeps from one block to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rows and positions of the keys that any query of the block sees.
    keys: Vec<usize>,
    positions: Vec<u32>,
    /// Kᵀ and V: `[panel][depth][C]`, padded with zeros.
    k: Vec<f32>,
    v: Vec<f32>,
    /// Rows of Q and of softmax(S): `[depth][R]`, padded with zeros.
    q: Vec<f32>,
    p: Vec<f32>,
    /// `[R][keys]`, padded to whole panels.
    scores: Vec<f32>,
}

/// Writes softmax(scores)·v of the block's queries for the heads of one key/value head.
///
/// # Safety
///
/// While it runs, nobody else may hold these rows' columns of `out`.
pub(super) unsafe fn forward<const R: usize, const C: usize>(
    attention: &Attention,
    kernel: &Kernel<f32, R, C>,
    (segment, queries, kv_head): (usize, Range<usize>, usize),
    scratch: &mut Scratch,
    out: &SharedColumns,
) {
    let layout = attention.layout;
    let (d, group) = (layout.head_dim, layout.heads / layout.kv_heads);
    scratch.keys.clear();
    scratch.keys.extend(super::visible_keys(layout, segment, queries.clone()).into_iter().flatten());
    scratch.positions.clear();
    scratch.positions.extend(scratch.keys.iter().map(|&key| layout.key_positions[key]));
    scratch.pack_keys::<C>(attention, kv_head);
    scratch.pack_values::<C>(attention, kv_head);

    let keys = scratch.keys.len();
    let width = keys.next_multiple_of(C);
    // Row by row a query and one of its heads.
    let rows: Vec<(usize, usize)> =
        queries.flat_map(|query| (kv_head * group..(kv_head + 1) * group).map(move |head| (query, head))).collect();
    for rows in rows.chunks(R) {
        scratch.q.clear();
        scratch.q.resize(R * d, 0.0);
        for (lane, &(query, head)) in rows.iter().enumerate() {
            for (slot, value) in scratch.q[lane..].iter_mut().step_by(R).zip(attention.query(query, head)) {
                *slot = *value;
            }
        }
        scratch.scores.resize(R * width, 0.0);
        for (j, panel) in scratch.k.chunks_exact(C * d).enumerate() {
            let products = kernel.0(&scratch.q, panel);
            for (scores, products) in scratch.scores.chunks_exact_mut(width).zip(&products).take(rows.len()) {
                scores[j * C..(j + 1) * C].copy_from_slice(products);
            }
        }
        scratch.p.clear();
        scratch.p.resize(R * keys, 0.0);
        let mut sums = [1.0f32; R];
        for (lane, (&(query, _), scores)) in rows.iter().zip(scratch.scores.chunks_exact_mut(width)).enumerate() {
            let scores = &mut scores[..keys];
            attention.scale(scores);
            let (position, window) = (layout.query_positions[query], layout.sliding_window);
            simd::mask(scores, &scratch.positions, position, window.unwrap_or(usize::MAX));
            sums[lane] = simd::exp_in_place(scores, simd::max(scores));
            for (slot, value) in scratch.p[lane..].iter_mut().step_by(R).zip(scores) {
                *slot = *value;
            }
        }
        for (j, panel) in scratch.v.chunks_exact(C * keys).enumerate() {
            let products = kernel.0(&scratch.p, panel);
            let count = C.min(d - j * C);
            for ((&(query, head), products), sum) in rows.iter().zip(&products).zip(sums) {
                // SAFETY: promised by the caller; this slice is dropped before the next is made.
                let out = unsafe { out.row_part(query, head * d + j * C, count) };
                for (out, product) in out.iter_mut().zip(products) {
                    *out = product / sum;
                }
            }
        }
    }
}

impl Scratch {
    fn pack_keys<const C: usize>(&mut self, attention: &Attention, kv_head: usize) {
        let d = attention.layout.head_dim;
        self.k.clear();
        self.k.resize(self.keys.len().next_multiple_of(C) * d, 0.0);
        for (keys, panel) in self.keys.chunks(C).zip(self.k.chunks_exact_mut(C * d)) {
            for (lane, &key) in keys.iter().enumerate() {
                let values = attention.kv(attention.k, key, kv_head);
                for (slot, value) in panel[lane..].iter_mut().step_by(C).zip(values) {
                    *slot = *value;
                }
            }
        }
    }

    fn pack_values<const C: usize>(&mut self, attention: &Attention, kv_head: usize) {
        let keys = self.keys.len();
        self.v.clear();
        self.v.resize(attention.layout.head_dim.next_multiple_of(C) * keys, 0.0);
        for (row, &key) in self.keys.iter().enumerate() {
            let values = attention.kv(attention.v, key, kv_head);
            for (values, panel) in values.chunks(C).zip(self.v.chunks_exact_mut(C * keys)) {
                panel[row * C..row * C + values.len()].copy_from_slice(values);
            }
        }
    }
}
