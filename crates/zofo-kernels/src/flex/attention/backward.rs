//! Gradients of attention, block by block.
//!
//! Probabilities are computed again rather than kept from the forward pass. With P = softmax(S), G the gradient of the output
//! and D = rowsum(P ∘ G·Vᵀ): dS = P ∘ (G·Vᵀ − D), dQ = dS·K, dK = dSᵀ·Q and dV = Pᵀ·G (Dao et al., 2022, appendix B). A soft
//! cap multiplies dS by its slope. All of them are products in the register blocks of x·W.
//!
//! The first pass goes over blocks of queries, and leaves what the second needs to know about a row of P; the second goes over
//! blocks of keys, whose gradients it adds up in the order of the queries. So every output is written by one thread in a fixed
//! order.

use super::panels::{as_lanes, as_steps, multiply};
use super::{Attention, QUERIES, Unit, visible_keys};
use crate::flex::columns::SharedColumns;
use crate::flex::gemm::{Kernel, KernelTask};
use crate::flex::simd;
use rayon::prelude::*;
use std::ops::Range;

/// Keys of a block.
const KEYS: usize = 96;

/// Gradients with respect to q, k and v.
pub(in crate::flex) struct AttentionGradients {
    pub(in crate::flex) q: Vec<f32>,
    pub(in crate::flex) k: Vec<f32>,
    pub(in crate::flex) v: Vec<f32>,
}

/// The gradients, given that of the output.
pub(super) struct Backward<'a> {
    pub(super) attention: &'a Attention<'a>,
    pub(super) grad: &'a [f32],
}

/// Keys that the same segments have, with the queries of these, for one key/value head.
struct KeyUnit {
    keys: Range<usize>,
    queries: Vec<usize>,
    kv_head: usize,
}

/// Buffers that a thread keeps from one block to the next.
#[derive(Default)]
struct Scratch {
    /// Q, G, K and V, as lanes of what is reduced over a head's elements.
    q: Vec<f32>,
    g: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// K, or Q and G, as steps of a reduction over keys, or over queries.
    k_steps: Vec<f32>,
    q_steps: Vec<f32>,
    g_steps: Vec<f32>,
    /// Scores and products G·Vᵀ of a register block's rows, each row padded to whole panels.
    scores: Vec<f32>,
    products: Vec<f32>,
    /// The derivatives of a row's scores with respect to q·k.
    slopes: Vec<f32>,
    /// P and dS, `[depth][R]`.
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Backward<'_> {
    fn grad_of(&self, query: usize, head: usize) -> &[f32] {
        let (d, heads) = (self.attention.layout.head_dim, self.attention.layout.heads);
        &self.grad[(query * heads + head) * d..][..d]
    }

    /// dQ of the unit's queries, and log Σ exp(S) and D of every one of its rows.
    ///
    /// # Safety
    ///
    /// While it runs, nobody else may hold the unit's rows and heads of `dq` and `terms`.
    unsafe fn queries<const R: usize, const C: usize>(
        &self,
        kernel: &Kernel<f32, R, C>,
        unit: Unit,
        scratch: &mut Scratch,
        [dq, terms]: [&SharedColumns; 2],
    ) {
        let attention = self.attention;
        let (layout, d) = (attention.layout, attention.layout.head_dim);
        let rows = unit.rows(attention);
        let keys: Vec<usize> = visible_keys(layout, unit.segment, unit.queries.clone()).into_iter().flatten().collect();
        let positions: Vec<u32> = keys.iter().map(|&key| layout.key_positions[key]).collect();
        let k = keys.iter().map(|&key| attention.kv(attention.k, key, unit.kv_head));
        let v = keys.iter().map(|&key| attention.kv(attention.v, key, unit.kv_head));
        as_lanes::<C>(k.clone(), d, &mut scratch.k);
        as_lanes::<C>(v, d, &mut scratch.v);
        as_steps::<C>(k, d, &mut scratch.k_steps);

        let (keys, width) = (keys.len(), keys.len().next_multiple_of(C));
        for rows in rows.chunks(R) {
            as_lanes::<R>(rows.iter().map(|&(query, head)| attention.query(query, head)), d, &mut scratch.q);
            as_lanes::<R>(rows.iter().map(|&(query, head)| self.grad_of(query, head)), d, &mut scratch.g);
            multiply(kernel, &scratch.q, &scratch.k, d, &mut scratch.scores);
            multiply(kernel, &scratch.g, &scratch.v, d, &mut scratch.products);
            scratch.ds.clear();
            scratch.ds.resize(R * keys, 0.0);
            for (lane, &(query, head)) in rows.iter().enumerate() {
                let p = &mut scratch.scores[lane * width..][..keys];
                let products = &scratch.products[lane * width..][..keys];
                attention.scale(p);
                attention.slopes(p, &mut scratch.slopes);
                attention.mask(p, &positions, layout.query_positions[query]);
                let max = simd::max(p);
                let sum = simd::exp_in_place(p, max);
                let inner = simd::dot(p, products) / sum;
                // SAFETY: promised by the caller; this slice is dropped before the next is made.
                unsafe { terms.row_part(query, 2 * head, 2) }.copy_from_slice(&[max + sum.ln(), inner]);
                let each = p.iter().zip(products).zip(&scratch.slopes);
                for (slot, ((p, product), slope)) in scratch.ds[lane..].iter_mut().step_by(R).zip(each) {
                    *slot = p / sum * (product - inner) * slope;
                }
            }
            for (j, panel) in scratch.k_steps.chunks_exact(C * keys).enumerate() {
                for (&(query, head), values) in rows.iter().zip(&(kernel.0)(&scratch.ds, panel)) {
                    // SAFETY: promised by the caller; a part of a head is written once.
                    unsafe { dq.write(query, head * d + j * C, values, C.min(d - j * C)) };
                }
            }
        }
    }

    /// Adds dK and dV of the unit's keys.
    ///
    /// # Safety
    ///
    /// While it runs, nobody else may hold the unit's rows and head of `dk` and `dv`.
    unsafe fn keys<const R: usize, const C: usize>(
        &self,
        kernel: &Kernel<f32, R, C>,
        unit: &KeyUnit,
        terms: &[f32],
        scratch: &mut Scratch,
        [dk, dv]: [&SharedColumns; 2],
    ) {
        let attention = self.attention;
        let (layout, d) = (attention.layout, attention.layout.head_dim);
        let keys: Vec<usize> = unit.keys.clone().collect();
        as_lanes::<R>(keys.iter().map(|&key| attention.kv(attention.k, key, unit.kv_head)), d, &mut scratch.k);
        as_lanes::<R>(keys.iter().map(|&key| attention.kv(attention.v, key, unit.kv_head)), d, &mut scratch.v);
        for queries in unit.queries.chunks(QUERIES) {
            let rows: Vec<(usize, usize)> = attention.rows(queries.iter().copied(), unit.kv_head).collect();
            let positions: Vec<u32> = rows.iter().map(|&(query, _)| layout.query_positions[query]).collect();
            let term =
                |which: usize| rows.iter().map(move |&(query, head)| terms[2 * (query * layout.heads + head) + which]);
            let (logs, inners): (Vec<f32>, Vec<f32>) = (term(0).collect(), term(1).collect());
            let q = rows.iter().map(|&(query, head)| attention.query(query, head));
            let g = rows.iter().map(|&(query, head)| self.grad_of(query, head));
            as_lanes::<C>(q.clone(), d, &mut scratch.q);
            as_lanes::<C>(g.clone(), d, &mut scratch.g);
            as_steps::<C>(q, d, &mut scratch.q_steps);
            as_steps::<C>(g, d, &mut scratch.g_steps);

            let (count, width) = (rows.len(), rows.len().next_multiple_of(C));
            for (block, keys) in keys.chunks(R).enumerate() {
                let panel = block * R * d..(block + 1) * R * d;
                multiply(kernel, &scratch.k[panel.clone()], &scratch.q, d, &mut scratch.scores);
                multiply(kernel, &scratch.v[panel], &scratch.g, d, &mut scratch.products);
                for values in [&mut scratch.p, &mut scratch.ds] {
                    values.clear();
                    values.resize(R * count, 0.0);
                }
                for (lane, &key) in keys.iter().enumerate() {
                    let p = &mut scratch.scores[lane * width..][..count];
                    let products = &scratch.products[lane * width..][..count];
                    attention.scale(p);
                    attention.slopes(p, &mut scratch.slopes);
                    p.iter_mut().zip(&logs).for_each(|(score, log)| *score -= log);
                    attention.mask_queries(p, &positions, layout.key_positions[key]);
                    simd::exp_in_place(p, 0.0);
                    let slots = scratch.p[lane..].iter_mut().step_by(R).zip(scratch.ds[lane..].iter_mut().step_by(R));
                    let each = p.iter().zip(products).zip(&inners).zip(&scratch.slopes);
                    for ((p_slot, ds_slot), (((p, product), inner), slope)) in slots.zip(each) {
                        *p_slot = *p;
                        *ds_slot = p * (product - inner) * slope;
                    }
                }
                for (x, steps, out) in [(&scratch.ds, &scratch.q_steps, dk), (&scratch.p, &scratch.g_steps, dv)] {
                    for (j, panel) in steps.chunks_exact(C * count).enumerate() {
                        for (&key, values) in keys.iter().zip(&(kernel.0)(x, panel)) {
                            // SAFETY: promised by the caller; this slice is dropped before the next is made.
                            let out = unsafe { out.row_part(key, unit.kv_head * d + j * C, C.min(d - j * C)) };
                            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
                        }
                    }
                }
            }
        }
    }

    /// Blocks of keys that the same segments have, for every key/value head.
    fn key_units(&self) -> Vec<KeyUnit> {
        let layout = self.attention.layout;
        let mut readers: Vec<Vec<Range<usize>>> = vec![Vec::new(); layout.key_positions.len()];
        for segment in &layout.segments {
            for key in segment.keys.iter().cloned().flatten() {
                readers[key].push(segment.queries.clone());
            }
        }
        let mut units = Vec::new();
        let mut start = 0;
        for same in readers.chunk_by(|a, b| a == b) {
            let end = start + same.len();
            for first in (start..end).step_by(KEYS) {
                let keys = first..end.min(first + KEYS);
                let positions = &layout.key_positions[keys.clone()];
                let (Some(&first_seen), Some(&last_seen)) = (positions.iter().min(), positions.iter().max()) else {
                    continue;
                };
                // Whoever sees a key of the block is among them.
                let may_see = |&query: &usize| {
                    let position = layout.query_positions[query];
                    let distance = position.saturating_sub(last_seen) as usize;
                    position >= first_seen && layout.sliding_window.is_none_or(|window| distance < window)
                };
                let queries: Vec<usize> = same[0].iter().cloned().flatten().filter(may_see).collect();
                if !queries.is_empty() {
                    let unit = |kv_head| KeyUnit { keys: keys.clone(), queries: queries.clone(), kv_head };
                    units.extend((0..layout.kv_heads).map(unit));
                }
            }
            start = end;
        }
        units
    }
}

impl KernelTask for &Backward<'_> {
    type Output = AttentionGradients;

    fn run<const R: usize, const C: usize>(self, kernel: &Kernel<f32, R, C>) -> AttentionGradients {
        let Attention { q, k, v, layout } = *self.attention;
        let [q_width, k_width] = [layout.heads, layout.kv_heads].map(|heads| heads * layout.head_dim);
        let mut dq = vec![0.0f32; q.len()];
        let mut terms = vec![0.0f32; 2 * layout.query_positions.len() * layout.heads];
        let (columns, of_terms) =
            (SharedColumns::new(&mut dq, q_width), SharedColumns::new(&mut terms, 2 * layout.heads));
        self.attention.units().into_par_iter().for_each_init(Scratch::default, |scratch, unit| {
            // SAFETY: segments have no query in common, and a unit has the columns of its heads.
            unsafe { self.queries(kernel, unit, scratch, [&columns, &of_terms]) };
        });
        let (mut dk, mut dv) = (vec![0.0f32; k.len()], vec![0.0f32; v.len()]);
        let (of_k, of_v) = (SharedColumns::new(&mut dk, k_width), SharedColumns::new(&mut dv, k_width));
        self.key_units().into_par_iter().for_each_init(Scratch::default, |scratch, unit| {
            // SAFETY: units have no key in common, or else no head.
            unsafe { self.keys(kernel, &unit, &terms, scratch, [&of_k, &of_v]) };
        });
        AttentionGradients { q: dq, k: dk, v: dv }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{layouts, normals};
    use super::*;
    use crate::flex::gemm::with_kernel;
    use crate::isa::Isa;
    use proptest::prelude::*;

    /// The gradients by their definition, pair by pair and in f64.
    fn defined(attention: &Attention, grad: &[f32]) -> [Vec<f64>; 3] {
        let layout = attention.layout;
        let (d, group) = (layout.head_dim, attention.group());
        let [mut dq, mut dk, mut dv] = [attention.q, attention.k, attention.v].map(|x| vec![0.0f64; x.len()]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let scale = f64::from(layout.scale);
        for segment in &layout.segments {
            for (query, head) in
                segment.queries.clone().flat_map(|query| (0..layout.heads).map(move |head| (query, head)))
            {
                let keys = segment.keys.iter().cloned().flatten().filter(|&key| layout.visible(query, key));
                let keys: Vec<usize> = keys.collect();
                let at = (query * layout.heads + head) * d;
                let (q, g) = (&attention.q[at..at + d], &grad[at..at + d]);
                // (exp(score), its derivative by q·k, g·v)
                let terms: Vec<[f64; 3]> = keys
                    .iter()
                    .map(|&key| {
                        let product = scale * dot(q, attention.kv(attention.k, key, head / group));
                        let (score, slope) = match layout.softcap.map(f64::from) {
                            Some(cap) => (cap * (product / cap).tanh(), 1.0 - (product / cap).tanh().powi(2)),
                            None => (product, 1.0),
                        };
                        [score.exp(), slope * scale, dot(g, attention.kv(attention.v, key, head / group))]
                    })
                    .collect();
                let sum: f64 = terms.iter().map(|[exp, ..]| exp).sum();
                let inner = terms.iter().map(|[exp, _, product]| exp / sum * product).sum::<f64>();
                for (&key, [exp, slope, product]) in keys.iter().zip(&terms) {
                    let (p, of_key) = (exp / sum, (key * layout.kv_heads + head / group) * d);
                    let ds = p * (product - inner) * slope;
                    for i in 0..d {
                        dq[at + i] += ds * f64::from(attention.k[of_key + i]);
                        dk[of_key + i] += ds * f64::from(q[i]);
                        dv[of_key + i] += p * f64::from(g[i]);
                    }
                }
            }
        }
        [dq, dk, dv]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every instruction set.
        #[test]
        fn gradients_are_those_of_the_definition(layout in layouts(), seed: u64) {
            let values = |name, heads| normals(&layout, heads, seed, name);
            let [q, grad] = ["q", "grad"].map(|name| values(name, layout.heads));
            let [k, v] = ["k", "v"].map(|name| values(name, layout.kv_heads));
            let attention = Attention { q: &q, k: &k, v: &v, layout: &layout };
            let exact = defined(&attention, &grad);
            for isa in Isa::available() {
                let AttentionGradients { q, k, v } = with_kernel(isa, &Backward { attention: &attention, grad: &grad });
                for (fast, exact) in [q, k, v].iter().zip(&exact) {
                    for (fast, exact) in fast.iter().zip(exact) {
                        let error = (f64::from(*fast) - exact).abs();
                        prop_assert!(error < 2e-4 * (1.0 + exact.abs()), "{isa:?}: {fast} for {exact}");
                    }
                }
            }
        }
    }
}
