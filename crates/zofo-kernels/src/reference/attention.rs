//! Attention over contexts.

use super::{columns, rows, soft_cap_slope, soft_capped};
use crate::layout::AttentionLayout;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Slice, TensorData};
use std::ops::Range;

/// One row of the batch and one query head: the parts of its attention.
struct HeadAttention<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// softmax of the scores, `[queries, keys]`.
    probabilities: FloatTensor<B>,
    /// With a soft cap, the derivative of every score with respect to the one before the cap.
    slopes: Option<FloatTensor<B>>,
}

fn head_attention<B: Backend>(
    (q, k, v): (&FloatTensor<B>, &FloatTensor<B>, &FloatTensor<B>),
    layout: &AttentionLayout,
    segment: usize,
    head: usize,
) -> HeadAttention<B> {
    let segment = &layout.segments[segment];
    let d = layout.head_dim;
    let kv = head / (layout.heads / layout.kv_heads);
    let keys: Vec<usize> = segment.keys.iter().cloned().flatten().collect();
    let gather = |x: &FloatTensor<B>| {
        let parts = segment.keys.iter().map(|range| rows::<B>(x.clone(), range.clone()));
        columns::<B>(B::float_cat(parts.collect(), 0), kv * d..(kv + 1) * d)
    };
    let q = columns::<B>(rows::<B>(q.clone(), segment.queries.clone()), head * d..(head + 1) * d);
    let (k, v) = (gather(k), gather(v));

    let scores = B::float_matmul(q.clone(), B::float_transpose(k.clone()));
    let scores = B::float_mul_scalar(scores, layout.scale.into());
    let (scores, slopes) = match layout.softcap {
        Some(cap) => {
            let capped = soft_capped::<B>(scores, cap);
            (capped.clone(), Some(soft_cap_slope::<B>(capped, cap)))
        }
        None => (scores, None),
    };
    let hidden: Vec<bool> =
        segment.queries.clone().flat_map(|query| keys.iter().map(move |&key| !layout.visible(query, key))).collect();
    let mask = TensorData::new(hidden, [segment.queries.len(), keys.len()]);
    let mask = B::bool_from_data(mask, &q.device());
    let scores = B::float_mask_fill(scores, mask, f32::NEG_INFINITY.into());
    let shifted = B::float_sub(scores.clone(), B::float_max_dim(scores, 1));
    let exp = B::float_exp(shifted);
    let probabilities = B::float_div(exp.clone(), B::float_sum_dim(exp, 1));
    HeadAttention { q, k, v, probabilities, slopes }
}

/// See [`DecoderOps::attend`](crate::DecoderOps::attend).
pub fn attend<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    layout: &AttentionLayout,
) -> FloatTensor<B> {
    let out = (0..layout.segments.len()).map(|segment| {
        let heads = (0..layout.heads).map(|head| {
            let part = head_attention::<B>((&q, &k, &v), layout, segment, head);
            B::float_matmul(part.probabilities, part.v)
        });
        B::float_cat(heads.collect(), 1)
    });
    // Segments need not be in the order of their queries; the result is.
    let mut order: Vec<usize> = (0..layout.segments.len()).collect();
    order.sort_by_key(|&segment| layout.segments[segment].queries.start);
    let parts: Vec<_> = out.collect();
    B::float_cat(order.into_iter().map(|segment| parts[segment].clone()).collect(), 0)
}

/// See [`DecoderOps::attend_backward`](crate::DecoderOps::attend_backward).
pub fn attend_backward<B: Backend>(
    grad: FloatTensor<B>,
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    layout: &AttentionLayout,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let device = q.device();
    let zeros = |x: &FloatTensor<B>| B::float_zeros(x.shape(), &device, FloatDType::F32);
    let (mut dq, mut dk, mut dv) = (zeros(&q), zeros(&k), zeros(&v));
    let d = layout.head_dim;
    let add = |total: FloatTensor<B>, at: [Range<usize>; 2], part: FloatTensor<B>| {
        let at = at.map(Slice::from);
        let sum = B::float_add(B::float_slice(total.clone(), &at), part);
        B::float_slice_assign(total, &at, sum)
    };
    for (index, segment) in layout.segments.iter().enumerate() {
        for head in 0..layout.heads {
            let kv = head / (layout.heads / layout.kv_heads);
            let part = head_attention::<B>((&q, &k, &v), layout, index, head);
            let HeadAttention { q, k, v, probabilities: p, slopes } = part;
            let own = [segment.queries.clone(), head * d..(head + 1) * d];
            let g = B::float_slice(grad.clone(), &own.clone().map(Slice::from));
            // dS = P ∘ (G·Vᵀ − rowsum(P ∘ G·Vᵀ)), through the cap and the scale
            let gv = B::float_matmul(g.clone(), B::float_transpose(v));
            let mean = B::float_sum_dim(B::float_mul(p.clone(), gv.clone()), 1);
            let ds = B::float_mul(p.clone(), B::float_sub(gv, mean));
            let ds = match slopes {
                Some(slopes) => B::float_mul(ds, slopes),
                None => ds,
            };
            let ds = B::float_mul_scalar(ds, layout.scale.into());
            dq = add(dq, own, B::float_matmul(ds.clone(), k));
            let part_k = B::float_matmul(B::float_transpose(ds), q);
            let part_v = B::float_matmul(B::float_transpose(p), g);
            let mut taken = 0;
            for range in &segment.keys {
                let at = [range.clone(), kv * d..(kv + 1) * d];
                let part = taken..taken + range.len();
                dk = add(dk, at.clone(), rows::<B>(part_k.clone(), part.clone()));
                dv = add(dv, at, rows::<B>(part_v.clone(), part));
                taken += range.len();
            }
        }
    }
    (dq, dk, dv)
}
