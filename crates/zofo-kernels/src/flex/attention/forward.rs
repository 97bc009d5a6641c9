//! Attention of many queries at once.
//!
//! The queries of a block, each with all heads that share a key/value head, are the rows of two matrix products: S = Q·Kᵀ
//! and O = softmax(S)·V. Both run in the register blocks of x·W, on panels that are packed for the block.

use super::panels::{as_lanes, as_steps, multiply};
use super::{Attention, Unit, visible_keys};
use crate::flex::columns::SharedColumns;
use crate::flex::gemm::Kernel;
use crate::flex::simd;

/// Buffers that a thread keeps from one block to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Q and K, as lanes of what is reduced over a head's elements.
    q: Vec<f32>,
    k: Vec<f32>,
    /// V, as steps of a reduction over keys.
    v: Vec<f32>,
    /// softmax(S), `[keys][R]`.
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
    unit: &Unit,
    scratch: &mut Scratch,
    out: &SharedColumns,
) {
    let (layout, d) = (attention.layout, attention.layout.head_dim);
    let keys: Vec<usize> = visible_keys(layout, unit.segment, unit.queries.clone()).into_iter().flatten().collect();
    let positions: Vec<u32> = keys.iter().map(|&key| layout.key_positions[key]).collect();
    as_lanes::<C>(keys.iter().map(|&key| attention.kv(attention.k, key, unit.kv_head)), d, &mut scratch.k);
    as_steps::<C>(keys.iter().map(|&key| attention.kv(attention.v, key, unit.kv_head)), d, &mut scratch.v);

    let (keys, width) = (keys.len(), keys.len().next_multiple_of(C));
    for rows in unit.rows(attention).chunks(R) {
        as_lanes::<R>(rows.iter().map(|&(query, head)| attention.query(query, head)), d, &mut scratch.q);
        multiply(kernel, &scratch.q, &scratch.k, d, &mut scratch.scores);
        scratch.p.clear();
        scratch.p.resize(R * keys, 0.0);
        let mut sums = [1.0f32; R];
        for (lane, (&(query, _), scores)) in rows.iter().zip(scratch.scores.chunks_exact_mut(width)).enumerate() {
            let scores = &mut scores[..keys];
            attention.scale(scores);
            attention.mask(scores, &positions, layout.query_positions[query]);
            sums[lane] = simd::exp_in_place(scores, simd::max(scores));
            for (slot, value) in scratch.p[lane..].iter_mut().step_by(R).zip(scores) {
                *slot = *value;
            }
        }
        for (j, panel) in scratch.v.chunks_exact(C * keys).enumerate() {
            let products = (kernel.0)(&scratch.p, panel);
            for ((&(query, head), products), sum) in rows.iter().zip(&products).zip(sums) {
                // SAFETY: promised by the caller; this slice is dropped before the next is made.
                let out = unsafe { out.row_part(query, head * d + j * C, C.min(d - j * C)) };
                for (out, product) in out.iter_mut().zip(products) {
                    *out = product / sum;
                }
            }
        }
    }
}
